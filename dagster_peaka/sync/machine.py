"""One sync, from poll to result: a pure state machine. No I/O, no clock, no sleeping, no Dagster.

The machine is told what was read and what time it is (seconds of a monotonic clock), and answers with the next
:class:`Task` and when it is due. :mod:`dagster_peaka.sync.runner` does the tasks.

What makes it necessary: the trigger's answer names no execution, a status shows only the newest execution of each
mode, and an execution may become visible late, be queued, be coalesced with a running one, or have been replaced in
the status by a later one before anybody polled. Which one is ours is answered by the history alone
(:mod:`dagster_peaka.sync.identity`); time decides only how long something is waited for.

States::

    POLL ──► TRIGGER ──► POSTED ──► IDENTIFY ──► FOLLOW ──► DONE
      │         ▲           │          │  ▲         ▲
      │         └───────────┴──────────┘  │         │
      └───────────── on_running="attach" ─┼─────────┘
    (an earlier attempt's record) ────────┘

========  ==========================================  ===========================================================
state     event                                       what follows
========  ==========================================  ===========================================================
POLL      status read                                 the newest execution of the mode becomes the *baseline*; one
                                                      that runs already: TRIGGER, FOLLOW it, or fail (on_running)
TRIGGER   the poll is older than ``FRESH_POLL``       POLL, or IDENTIFY when something was triggered before
TRIGGER   (the runner sends the POST)                 POSTED
POSTED    accepted, refused or unknown                IDENTIFY: only what appears decides, never the answer
POSTED    surely not taken                            POLL, or IDENTIFY when something was triggered before; for
                                                      ``outage_tolerance``, then fail
POSTED    not allowed, cache not found                fail
POSTED    any other answer, without ``follow``        DONE, or fail when it was refused; nobody polls again
IDENTIFY  nothing above the baseline                  wait; after ``start_timeout`` of quiet since the POST and
                                                      since all that ran has ended: TRIGGER once more, then fail;
                                                      adopted: POLL, for a trigger of our own
IDENTIFY  something else                              read the history
IDENTIFY  history: only one that was late to show     it ran already (on_running), and is the baseline now; this
                                                      rule ends with the second trigger
IDENTIFY  history: one or more above the baseline     FOLLOW the oldest; if it came to nothing, one that COMPLETED;
                                                      adopted, and settled already: POLL, for a trigger of our own
IDENTIFY  history: lags, or cannot be read            poll, and read it again; after ``outage_tolerance`` what the
                                                      status says to be COMPLETED counts, and nothing else does
FOLLOW    ours COMPLETED                              DONE
FOLLOW    ours runs, without ``follow``               DONE
FOLLOW    ours FAILED or CANCELLED                    fail; adopted: POLL, for a trigger of our own
FOLLOW    another one newest                          read the history: ours is still there
any       unknown status                              not finished; an unknown one with an end fails after
                                                      ``start_timeout``
any       cache DELETED or 404                        fail
any       unreadable                                  tolerated for ``outage_tolerance``, then fail
any       ``poll_timeout`` since the start            fail
FOLLOW    ``stuck_timeout`` without any change        fail
========  ==========================================  ===========================================================

Capitals in the last column name the next state, and *fail* is DONE. A failure never cancels anything. Whether an
execution may be cancelled when a run is terminated is answered by :func:`dagster_peaka.sync.stopping.may_cancel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from dagster_peaka.api.fields import CANCELLED
from dagster_peaka.api.models import CacheExecution, CacheStatus, ExecutionProgress, SyncMode
from dagster_peaka.sync.identity import Record, started_by
from dagster_peaka.sync.outcome import Origin, Posted, Result, Trouble
from dagster_peaka.sync.timers import Lasting
from dagster_peaka.sync.timing import SyncRules

FRESH_POLL = 5.0
"""Seconds for which a poll counts: no trigger goes out, first or repeated, later than that after the last one."""


class State(Enum):
    """Where a sync stands; the table in the module's docstring says what each waits for."""

    POLL = "poll"
    TRIGGER = "trigger"
    POSTED = "posted"
    IDENTIFY = "identify"
    FOLLOW = "follow"
    DONE = "done"


class Task(Enum):
    """What the machine wants next."""

    POLL = "poll"
    """Read the status and tell :meth:`Sync.polled`."""
    HISTORY = "history"
    """Read the history until :meth:`Sync.history_suffices`, and tell :meth:`Sync.history_read`."""
    TRIGGER = "trigger"
    """Call :meth:`Sync.posting`; if it says so, send the POST, and tell :meth:`Sync.posted`."""
    WAIT = "wait"
    """Nothing until the POST's answer is told."""
    NOTHING = "nothing"
    """The result is there."""


@dataclass(frozen=True)
class Reading:
    """One poll of a cache's status, as far as a sync of one mode cares."""

    newest: CacheExecution | None
    """The newest execution of the sync's mode."""
    other: CacheExecution | None = None
    """The newest execution of the other mode."""
    server_time: datetime | None = None
    """Peaka's clock at the reading: the ``Date`` header."""
    deleted: bool = False

    @classmethod
    def of(cls, status: CacheStatus, mode: SyncMode, server_time: datetime | None) -> Reading:
        """What ``status``, read when Peaka's clock showed ``server_time``, means for a sync of ``mode``."""
        return cls(status.last(mode), status.last(mode.other), server_time, status.deleted)

    @property
    def running(self) -> bool:
        """True while an execution of either mode has not ended."""
        return any(execution is not None and not execution.ended for execution in (self.newest, self.other))


@dataclass
class Sync:
    """The state machine of one sync; see the module's docstring.

    Args:
        mode: the mode that is triggered and followed.
        rules: times and the choice of on_running.
        now: the monotonic time, in seconds, at which the sync begins.
        earlier: what an earlier attempt had written down about its trigger. The sync then follows what that started,
            if it runs or has completed, and begins anew otherwise.
        earlier_age: how many seconds ago that trigger was sent.
        adopts_completed: whether one that has COMPLETED counts. It syncs nothing new, and so only where the earlier
            attempt was there to record it and could not.
    """

    mode: SyncMode
    rules: SyncRules
    now: float
    earlier: Record | None = None
    earlier_age: float = 0.0
    adopts_completed: bool = True

    state: State = field(default=State.POLL, init=False)
    due: float = field(default=0.0, init=False)
    """Monotonic time at which :attr:`task` wants to be done."""
    record: Record = field(default_factory=Record, init=False)
    """What others have to know to find ours; written down before the trigger goes out."""
    execution: CacheExecution | None = field(default=None, init=False)
    """The execution that is followed, as last read; in IDENTIFY the one in question."""
    origin: Origin = field(default=Origin.TRIGGERED, init=False)
    triggers: int = field(default=0, init=False)
    """POSTs that may have been taken."""
    unreadable_reason: str = field(default="", init=False)
    """Why the last reading failed; empty when it did not."""
    unreadable_for: float = field(default=0.0, init=False)
    """Seconds for which readings had failed by then, of ``outage_tolerance``."""
    result: Result | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.due = self._anchor = self._polled_at = self._posted_at = self.now
        self._deadline = self.now + self.rules.poll_timeout
        self._history_wanted = False
        self._refusal: str | None = None
        self._history_problem = "The history does not hold what the status shows."
        self._newest: CacheExecution | None = None
        self._first_poll: datetime | None = None
        self._other_runs = False
        self._older: frozenset[str] = frozenset()
        self._modes: dict[str, SyncMode] = {}
        self._quiet = Lasting()
        """Nothing runs, and nothing has appeared."""
        self._odd = Lasting()
        """Something that the next reading may explain."""
        self.unchanged = Lasting()
        """Ours shows no sign of life: neither its progress nor ``updatedAt`` has moved."""
        self.not_taken = Lasting()
        """The last trigger surely had no effect, and is sent again."""
        self._status_away, self._history_away = Lasting(), Lasting()
        if self.earlier is not None:
            self.state, self.origin, self.record = State.IDENTIFY, Origin.ADOPTED, self.earlier
            self._posted_at = self._anchor = self.now - self.earlier_age

    # What to do

    @property
    def task(self) -> Task:
        """What the machine wants done at :attr:`due`."""
        if self.state in (State.POLL, State.IDENTIFY, State.FOLLOW):
            return Task.HISTORY if self._history_wanted else Task.POLL
        return {State.DONE: Task.NOTHING, State.POSTED: Task.WAIT, State.TRIGGER: Task.TRIGGER}[self.state]

    # What has happened

    def polled(self, reading: Reading, now: float) -> None:
        """The status was read."""
        if self.state is State.DONE:
            return
        self._status_away.over()
        self.unreadable_reason = ""
        self._polled_at = now
        self._newest = reading.newest
        self._other_runs = reading.other is not None and not reading.other.ended
        for execution, mode in ((reading.newest, self.mode), (reading.other, self.mode.other)):
            if execution is not None:
                self._modes[execution.id] = mode
        if reading.running:
            self._quiet.over()
        else:
            self._quiet.seen(now)
        if reading.deleted:
            return self.gone()
        if self.state is State.POLL:
            self._begin(reading, now)
        elif self.state is State.IDENTIFY:
            self._identify(now)
        elif self.state is State.FOLLOW:
            self._follow_newest(now)
        self._schedule(now)

    def unreadable(self, reason: str, now: float, *, permanent: bool = False) -> None:
        """Status or history could not be read. Before anything was triggered, a permanent reason fails at once."""
        if self.state is State.DONE:
            return
        if permanent and self.state is State.POLL:
            return self._end(Trouble.NOT_ALLOWED, reason)
        self.unreadable_reason = reason
        if self._history_wanted:
            self._history_wanted = False
            self._history_problem = reason
            self._history_away.seen(now)
        else:
            # Blind time is no evidence: neither of quiet, nor of a job that hangs.
            for timer in (self._quiet, self._odd, self.unchanged):
                timer.over()
            if self._status_away.seen(now) >= self.rules.outage_tolerance:
                return self._end(Trouble.UNREADABLE, reason)
        self._schedule(now)
        away = self._status_away.seconds
        self.unreadable_for = max(away, self._history_away.seconds)
        self.due = min(self.due, now + max(0.0, self.rules.outage_tolerance - away))

    def gone(self) -> None:
        """The cache is not there any more."""
        if self.state is not State.DONE:
            self._end(Trouble.GONE)

    def posting(self, now: float) -> bool:
        """Whether the POST goes out now. It does not after an old poll: then another one is due."""
        if now - self._polled_at > FRESH_POLL:
            self._poll_again(now)
            return False
        self.state = State.POSTED
        self.triggers += 1
        return True

    def posted(
        self, answer: Posted, now: float, *, server_time: datetime | None = None, reason: str = ""
    ) -> None:
        """The POST's answer, or its lack."""
        if self.state is not State.POSTED:
            return
        if answer is Posted.NOT_FOUND:
            return self.gone()
        if answer is Posted.NOT_ALLOWED:
            return self._end(Trouble.NOT_ALLOWED, reason)
        if answer is Posted.NOT_TAKEN:
            self.triggers -= 1
            if self.not_taken.seen(now) >= self.rules.outage_tolerance or now >= self._deadline:
                return self._end(Trouble.NOT_TAKEN, reason)
            return self._poll_again(now + self.rules.wait(self.not_taken.seconds))
        self.not_taken.over()
        refused = answer in (Posted.REFUSED, Posted.REFUSED_FOR_GOOD)
        if refused and (self._refusal is not None or not self.rules.follow):
            return self._end(Trouble.REFUSED, reason, lasting=answer is Posted.REFUSED_FOR_GOOD)
        accepted = answer is Posted.ACCEPTED and self.triggers == 1
        self.record = replace(self.record, answered_at=server_time if accepted else None)
        if not self.rules.follow:
            return self._end(reason=reason)
        self._refusal = reason if refused else None
        self._posted_at = self._anchor = now
        self._quiet.over()
        self.state = State.IDENTIFY
        self._schedule(now)

    def history_suffices(self, entries: Sequence[CacheExecution]) -> bool:
        """True when ``entries``, newest first, reach back far enough to find ours among them."""
        if self.state is State.FOLLOW and self.execution is not None:
            wanted = self.execution.id
        else:
            wanted = self.record.follows or self.record.baseline
        return any(entry.id == wanted for entry in entries)

    def history_read(self, entries: Sequence[CacheExecution], now: float) -> None:
        """The history, newest first, as far as it suffices or goes."""
        if self.state is State.DONE:
            return
        self.unreadable_reason = ""
        self._history_wanted = False
        if self.state is State.FOLLOW:
            self._find_again(entries, now)
        elif self.state is State.IDENTIFY:
            self._choose(entries, now)
        self._schedule(now)

    @property
    def asking(self) -> Record:
        """The record, with all modes that a status has told since."""
        return replace(self.record, modes={**self.record.modes, **self._modes})

    # POLL

    def _begin(self, reading: Reading, now: float) -> None:
        newest = reading.newest
        self._first_poll = reading.server_time
        self.record = Record(newest.id if newest else None, reading.server_time, modes=dict(self._modes))
        self.origin = Origin.TRIGGERED
        if newest is not None and not newest.ended and self.rules.on_running != "queue":
            return self._already_running(newest, now)
        self._trigger(now)

    def _already_running(self, execution: CacheExecution, now: float) -> None:
        self.execution = execution
        if self.rules.on_running == "attach":
            self.origin = Origin.ATTACHED
            return self._follow(execution, now)
        self._end(Trouble.ALREADY_RUNNING)

    def _trigger(self, now: float) -> None:
        self.state = State.TRIGGER
        self.execution = None
        self.due = now

    def _poll_again(self, due: float) -> None:
        """What is triggered has to follow a poll that is fresh, and that shows nothing new."""
        # As long as no second trigger has gone out, what is late is so by the first one's poll.
        if self.triggers < 2:
            self.record = replace(self.record, polled_at=self._first_poll)
        self.state = State.IDENTIFY if self.triggers else State.POLL
        self.execution, self.due = None, due

    # IDENTIFY

    def _identify(self, now: float) -> None:
        newest, rules = self._newest, self.rules
        if newest is not None and newest.id not in {self.record.baseline, *self._older}:
            if self._history_away.seconds < rules.outage_tolerance:
                self._history_wanted = True
            else:
                self._go_by_the_status(newest)
        elif self._quiet.seconds >= rules.start_timeout and now >= self._posted_at + rules.start_timeout:
            if self.origin is Origin.ADOPTED:
                self._poll_again(now)
            elif self.triggers < 2:
                self.record = replace(self.record, polled_at=None)
                self._trigger(now)
            else:
                self._end(Trouble.NOT_STARTED, self._refusal or "")

    def _choose(self, entries: Sequence[CacheExecution], now: float) -> None:
        """What an earlier attempt triggered is its own execution only.

        Where that has COMPLETED, one that has since is taken instead: it may be recorded already, and what is recorded
        last has to be the newest.
        """
        found = started_by(entries, self.asking, self.mode, newest=self._newest)
        self._older |= found.older
        ours = found.ours
        if ours is not None:
            if self.origin is Origin.ADOPTED:
                ours = found.candidates[0]
                if ours.succeeded and not self.adopts_completed:
                    return self._poll_again(now)
                if ours.succeeded:
                    ours = next(each for each in reversed(found.candidates) if each.succeeded)
            self._history_away.over()
            self._follow(ours, now)
        elif found.late is not None:
            # From before our poll: it may have read past what the upstream just wrote.
            self._history_away.over()
            if self.rules.on_running != "queue" and not found.late.ended:
                return self._already_running(found.late, now)
            self.record = replace(self.record, baseline=found.late.id)
            self._older |= {found.late.id}
        elif self._newest is not None and self._newest.id not in self._older:
            self._history_away.seen(now)  # it lags behind the status, and says nothing of what that shows

    def _go_by_the_status(self, newest: CacheExecution) -> None:
        """The history is not to be had: what the status shows began after our poll, but may not be ours."""
        if newest.succeeded and not self.record.was_late(newest) and self.origin is not Origin.ADOPTED:
            self.execution = newest
            self._end(unproven=True)
        elif newest.ended:
            self.execution = newest
            self._end(Trouble.UNREADABLE, self._history_problem)

    # FOLLOW

    def _follow(self, execution: CacheExecution, now: float) -> None:
        self.execution = execution  # before the state: an interrupt may come between the two
        self.state = State.FOLLOW
        if self._refusal is not None and self.origin is Origin.TRIGGERED:
            self.origin = Origin.ATTACHED  # it began after our poll, but our trigger was refused
        if self.origin is not Origin.TRIGGERED:
            self.record = replace(self.record, follows=execution.id)
        self._update(execution, now)

    def _follow_newest(self, now: float) -> None:
        newest, ours = self._newest, self.execution
        assert ours is not None
        if newest is not None and newest.id == ours.id:
            self._update(newest, now)
        elif newest is not None and self._history_away.seconds >= self.rules.outage_tolerance:
            self._go_by_the_status(newest)
        else:
            # Replaced by a later one, or gone from a status that is stale or has lost it: the history tells.
            self._history_wanted = True

    def _update(self, execution: CacheExecution, now: float) -> None:
        self.execution = execution
        if not self.rules.follow and (execution.succeeded or not execution.ended):
            return self._end()
        if execution.succeeded:
            return self._end()
        if not execution.ended:
            self._odd.over()
            self._see_whether_it_moves(execution, now)
        elif self.origin is Origin.ADOPTED:
            self._poll_again(now)
        elif execution.status in ("FAILED", CANCELLED):
            trouble = Trouble.FAILED if execution.status == "FAILED" else Trouble.CANCELLED
            self._end(trouble, execution.reason)
        else:
            self._wait_for_reason(Trouble.UNKNOWN_END, execution.reason, now)

    def _see_whether_it_moves(self, execution: CacheExecution, now: float) -> None:
        if execution.updated_at is None and execution.progress == ExecutionProgress():
            return self.unchanged.over()  # it shows nothing that could move
        self.unchanged.seen(now, (execution.id, execution.updated_at, execution.progress))
        if self.rules.stuck_timeout is not None and self.unchanged.surely >= self.rules.stuck_timeout:
            self._end(Trouble.STUCK)

    def _find_again(self, entries: Sequence[CacheExecution], now: float) -> None:
        """Another execution is the newest now; ours is further down in the history."""
        assert self.execution is not None
        for entry in entries:
            if entry.id == self.execution.id:
                return self._update(entry, now)
        found = started_by(entries, self.asking, self.mode, newest=self._newest)
        later = next((entry for entry in found.candidates if entry.succeeded), None)
        if later is not None and self.origin is Origin.TRIGGERED:
            self.execution = later
            self._end()
        else:
            self._wait_for_reason(Trouble.VANISHED, "", now)

    def _wait_for_reason(self, trouble: Trouble, reason: str, now: float) -> None:
        """Something odd is tolerated for start_timeout, in case the next reading explains it."""
        if self._odd.seen(now) < self.rules.start_timeout:
            return
        if self.origin is Origin.ADOPTED:
            return self._poll_again(now)
        self._end(trouble, reason)

    # Common

    def _schedule(self, now: float) -> None:
        """Set when the next task is due, and fail when time is up."""
        if self.state in (State.DONE, State.POSTED):
            return
        if now >= self._deadline:
            return self._end(Trouble.TIMED_OUT)
        if self._history_wanted:
            self.due = now
        elif (
            self.state in (State.IDENTIFY, State.FOLLOW)
            or self._status_away.seconds
            or self.unreadable_reason
        ):
            self.due = min(self._deadline, now + self.rules.wait(now - self._anchor))
            grace = max(self._posted_at, now - self._quiet.seconds) + self.rules.start_timeout
            if self.state is State.IDENTIFY and self._quiet.lasts and grace > now:
                self.due = min(self.due, grace)

    def _end(
        self,
        trouble: Trouble | None = None,
        reason: str = "",
        *,
        lasting: bool = False,
        unproven: bool = False,
    ) -> None:
        """The result is there: what went wrong, or that ours has COMPLETED.

        Without ``follow`` others will tell how it ends; then ``reason`` says why it is not even known whether
        something was started.
        """
        self.state = State.DONE
        deferred = trouble is None and not self.rules.follow
        self.result = Result(
            self.execution,
            self.origin,
            self.triggers,
            trouble,
            reason,
            lasting,
            self.unchanged.surely,
            unproven=unproven,
            record=self.record,
            other_runs=self._other_runs,
            deferred=deferred,
        )
