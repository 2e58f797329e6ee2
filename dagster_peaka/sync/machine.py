"""One sync, from look to result: a pure state machine. No I/O, no clock, no sleeping, no Dagster.

The machine is told what was read and what time it is (seconds of a monotonic clock), and answers with the next
:class:`Task` and when it is due. :mod:`dagster_peaka.sync.runner` does the tasks.

What makes it necessary: the trigger's answer names no execution, a status shows only the newest execution of each
mode, and an execution may become visible late, be queued, be coalesced with a running one, or have been replaced in
the status by a later one before anybody looked.

States::

    LOOK ──► TRIGGER ──► POSTED ──► IDENTIFY ──► FOLLOW ──► DONE
      │         ▲           │          │  ▲         ▲
      │         └───────────┴──────────┘  │         │
      └───────────── on_running="attach" ─┼─────────┘
    (an earlier attempt's record) ────────┘

========  ==========================================  ===========================================================
state     event                                       what follows
========  ==========================================  ===========================================================
LOOK      status read                                 the newest execution of the mode becomes the *baseline*; one
                                                      that runs already: TRIGGER, FOLLOW it, or fail (on_running)
TRIGGER   (the runner sends the POST)                 POSTED
POSTED    answer: accepted, refused or unknown        IDENTIFY: only what appears decides, never the answer
POSTED    answer: surely not taken                    TRIGGER again at once, for ``outage_tolerance``
POSTED    answer: not allowed, cache not found        fail
POSTED    any other answer, without ``follow``        DONE, or fail when it was refused; nobody looks again
IDENTIFY  nothing newer than the baseline             wait; after ``start_timeout`` of quiet since the POST and
                                                      since all that ran has ended: TRIGGER once more, then fail
IDENTIFY  newer, but created before the first look    it was only late to show: counts as already running. This
                                                      rule ends with the second trigger
IDENTIFY  newer, COMPLETED                            DONE: it began after the look; after an earlier attempt's
                                                      trigger the history tells whether it is that one's
IDENTIFY  newer, running, an earlier one possible     read the history; ours is the oldest new one
IDENTIFY  newer, FAILED or CANCELLED                  read the history; an earlier or later one may have COMPLETED
IDENTIFY  newer, running                              FOLLOW
FOLLOW    ours COMPLETED                              DONE
FOLLOW    ours runs, without ``follow``               DONE
FOLLOW    ours FAILED or CANCELLED                    read the history once if it is not verified yet, else fail
FOLLOW    another one newest                          read the history: ours is still there
any       unknown status                              not finished; an unknown one with an end fails after
                                                      ``start_timeout``
any       cache DELETED or 404                        fail
any       unreadable                                  tolerated for ``outage_tolerance``, then fail
any       ``poll_timeout`` since the start            fail
FOLLOW    ``stuck_timeout`` without any change        fail
========  ==========================================  ===========================================================

A failure never cancels anything. Whether an execution may be cancelled when a run is terminated is answered by
:meth:`Sync.may_cancel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from dagster_peaka.api.models import CANCELLED, CacheExecution, CacheStatus, ExecutionProgress, SyncMode

LATE_TOLERANCE = timedelta(seconds=2)
"""How far Peaka's clocks may disagree before an execution counts as created before our look."""

DATE_RESOLUTION = timedelta(seconds=1)
"""The ``Date`` header is cut to whole seconds."""

EARLIER_WINDOW = timedelta(seconds=30)
"""How long after its look an earlier attempt that died may have sent its trigger."""

HANGING = 300.0
"""Seconds without a sign of life after which an execution is said to hang: a job that nobody picks up looks so."""

FRESH_LOOK = 5.0
"""Seconds after which a trigger that was not taken is repeated only after another look."""

MAX_HISTORY = 500
"""Entries of a history that are read at most in search of the baseline."""


class State(Enum):
    """Where a sync stands; the table in the module's docstring says what each waits for."""

    LOOK = "look"
    TRIGGER = "trigger"
    POSTED = "posted"
    IDENTIFY = "identify"
    FOLLOW = "follow"
    DONE = "done"


class Task(Enum):
    """What the machine wants next."""

    LOOK = "look"
    """Read the status and tell :meth:`Sync.looked`."""
    HISTORY = "history"
    """Read the history until :meth:`Sync.history_suffices`, and tell :meth:`Sync.history_read`."""
    TRIGGER = "trigger"
    """Call :meth:`Sync.posting`, send the POST, and tell :meth:`Sync.posted`."""
    WAIT = "wait"
    """Nothing until the POST's answer is told."""
    NOTHING = "nothing"
    """The result is there."""


class Posted(Enum):
    """What is known after a POST."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """A 4xx. Perhaps only because something runs already."""
    UNKNOWN = "unknown"
    """No answer, or a 5xx: it may have been taken."""
    NOT_TAKEN = "not taken"
    """It surely had no effect: no connection, or 429."""
    REFUSED_FOR_GOOD = "refused for good"
    """A 4xx that says that the request itself is wrong, such as 400: the table may not support the mode."""
    NOT_ALLOWED = "not allowed"
    """401 or 403: repeating it cannot help."""
    NOT_FOUND = "not found"
    """404: the cache is gone."""


class Origin(Enum):
    """Why the execution that a sync follows exists."""

    TRIGGERED = "triggered"
    ATTACHED = "attached"
    """It ran before this sync looked, and on_running is "attach"."""
    ADOPTED = "adopted"
    """An earlier attempt of the same run, or the run it was re-executed from, had triggered it."""


class Trouble(Enum):
    """Why a sync failed."""

    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN_END = "unknown end"
    VANISHED = "vanished"
    GONE = "gone"
    ALREADY_RUNNING = "already running"
    REFUSED = "refused"
    NOT_ALLOWED = "not allowed"
    NOT_TAKEN = "not taken"
    NOT_STARTED = "not started"
    UNREADABLE = "unreadable"
    STUCK = "stuck"
    TIMED_OUT = "timed out"


@dataclass(frozen=True)
class SyncRules:
    """The times that a sync keeps, in seconds, and what it does about an execution that runs already."""

    poll_interval: float = 0.5
    poll_max_interval: float = 60.0
    start_timeout: float = 120.0
    poll_timeout: float = 86_400.0
    outage_tolerance: float = 300.0
    stuck_timeout: float | None = None
    on_running: str = "queue"
    follow: bool = True
    """False: a sync is over once its trigger was answered, or what it would adopt or attach to was seen to run."""

    def wait(self, elapsed: float) -> float:
        """Seconds to the next look, ``elapsed`` seconds after the trigger: a tenth of them, within the bounds."""
        return min(self.poll_max_interval, max(self.poll_interval, elapsed / 10))


@dataclass(frozen=True)
class Baseline:
    """The newest execution of the mode before the trigger (``id`` None when there was none), and when that was read.

    ``created_at`` and ``looked_at`` are by Peaka's clock; each may be unknown.
    """

    id: str | None = None
    created_at: datetime | None = None
    looked_at: datetime | None = None


@dataclass(frozen=True)
class Look:
    """One reading of a cache's status, as far as a sync of one mode cares."""

    newest: CacheExecution | None
    """The newest execution of the sync's mode."""
    other: CacheExecution | None = None
    """The newest execution of the other mode."""
    server_time: datetime | None = None
    """Peaka's clock at the reading: the ``Date`` header."""
    deleted: bool = False

    @classmethod
    def of(cls, status: CacheStatus, mode: SyncMode, server_time: datetime | None) -> Look:
        """What ``status``, read when Peaka's clock showed ``server_time``, means for a sync of ``mode``."""
        return cls(status.last(mode), status.last(mode.other), server_time, status.deleted)

    @property
    def running(self) -> bool:
        """True while an execution of either mode has not ended."""
        return any(execution is not None and not execution.ended for execution in (self.newest, self.other))


@dataclass(frozen=True)
class Result:
    """How a sync ended: ``trouble`` is None on success, and then ``execution`` is the COMPLETED one it stands for."""

    execution: CacheExecution | None
    origin: Origin
    triggers: int
    trouble: Trouble | None = None
    reason: str = ""
    """Peaka's words, or what could not be read; may be empty."""
    lasting: bool = False
    """True when Peaka refused the trigger for a reason that no repetition removes, such as the mode."""
    unchanged: float = 0.0
    """Seconds for which the execution had shown no sign of life when the sync was given up."""
    handed_over: bool = False
    """True when there is nothing more to do and the outcome is not waited for (``follow=False``)."""

    @property
    def ok(self) -> bool:
        """True when the sync stands for a COMPLETED execution."""
        return self.trouble is None and not self.handed_over


@dataclass
class Unchanged:
    """For how long a running execution has shown no sign of life: neither its progress nor ``updatedAt`` has moved.

    Told from readings alone: an outage between two of them starts the time anew. An execution that shows neither of
    the two tells nothing.
    """

    _shown: object = None
    _since: float | None = None
    _last: float = 0.0
    _readings: int = 0

    def read(self, execution: CacheExecution, now: float) -> None:
        """Take in a reading."""
        shown = (execution.id, execution.updated_at, execution.progress)
        tells = execution.updated_at is not None or execution.progress != ExecutionProgress()
        if shown != self._shown or not tells:
            self._shown, self._since, self._readings = shown, now, 0
        elif self._since is None:
            self._since = now
        self._last = now
        self._readings += 1

    def restart(self) -> None:
        """A reading has failed."""
        self._since, self._readings = None, 0

    @property
    def seconds(self) -> float:
        """The seconds from the first to the last of these readings; 0 as long as there are less than three."""
        return self._last - self._since if self._since is not None and self._readings >= 3 else 0.0


@dataclass
class Sync:
    """The state machine of one sync; see the module's docstring.

    Args:
        mode: the mode that is triggered and followed.
        rules: times and the choice of on_running.
        now: the monotonic time, in seconds, at which the sync begins.
        earlier: what an earlier attempt had written down before its trigger. The sync then follows what that
            trigger started, if it runs or has completed, and begins anew otherwise.
        earlier_age: how many seconds ago that trigger was sent.
    """

    mode: SyncMode
    rules: SyncRules
    now: float
    earlier: Baseline | None = None
    earlier_age: float = 0.0

    state: State = field(default=State.LOOK, init=False)
    due: float = field(default=0.0, init=False)
    """Monotonic time at which :attr:`task` wants to be done."""
    baseline: Baseline = field(default_factory=Baseline, init=False)
    execution: CacheExecution | None = field(default=None, init=False)
    """The execution that is followed, as last read; in IDENTIFY the one in question."""
    origin: Origin = field(default=Origin.TRIGGERED, init=False)
    triggers: int = field(default=0, init=False)
    verified: bool = field(default=False, init=False)
    """True when the history has shown that no older new execution exists."""
    unreadable_reason: str = field(default="", init=False)
    """Why the last reading failed; empty when it did not."""
    result: Result | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.due = self._began = self._anchor = self.now
        self._deadline = self.now + self.rules.poll_timeout
        self._history_wanted = False
        self._looked_at = self.now
        self._posted_at = self.now
        self._post_time: datetime | None = None
        self._window_start: datetime | None = None
        self._history_failing = False
        self._refusal: str | None = None
        self._not_taken_since: float | None = None
        self._unreadable_since: float | None = None
        self._quiet_since: float | None = None
        self._odd_since: float | None = None
        self.unchanged = Unchanged()
        self._older: set[str] = set()
        self._modes: dict[str, SyncMode] = {}
        if self.earlier is not None:
            self.state = State.IDENTIFY
            self.origin = Origin.ADOPTED
            self.baseline = self.earlier
            self._posted_at = self._anchor = self.now - self.earlier_age
            self._window_start = self.earlier.looked_at
            if self.earlier.looked_at is not None:
                self._post_time = self.earlier.looked_at + EARLIER_WINDOW

    # What to do

    @property
    def task(self) -> Task:
        """What the machine wants done at :attr:`due`."""
        if self.state is State.DONE:
            return Task.NOTHING
        if self.state is State.POSTED:
            return Task.WAIT
        if self.state is State.TRIGGER:
            return Task.TRIGGER
        return Task.HISTORY if self._history_wanted else Task.LOOK

    # What has happened

    def looked(self, look: Look, now: float) -> None:
        """The status was read."""
        if self.state is State.DONE:
            return
        if not self._history_failing:
            self._readable()
        if look.deleted:
            return self._fail(Trouble.GONE)
        self._learn_modes(look)
        if not look.running:
            self._quiet_since = now if self._quiet_since is None else self._quiet_since
        else:
            self._quiet_since = None
        if self.state is State.LOOK:
            self._begin(look, now)
        elif self.state is State.IDENTIFY:
            self._identify(look, now)
        elif self.state is State.FOLLOW:
            self._follow_newest(look, now)
        if not self._history_wanted:
            self._history_failing = False
            self._readable()
        self._schedule(now)

    def unreadable(self, reason: str, now: float, *, permanent: bool = False) -> None:
        """Status or history could not be read. Before anything was triggered, a permanent reason fails at once."""
        if self.state is State.DONE:
            return
        if permanent and self.state is State.LOOK:
            return self._fail(Trouble.NOT_ALLOWED, reason)
        if self._history_wanted:
            # A look may settle what the history does not tell; the outage counts on until one of them does.
            self._history_wanted, self._history_failing = False, True
        self.unreadable_reason = reason
        # Blind time is no evidence: neither of quiet, nor of a job that hangs.
        self._quiet_since = None
        self.unchanged.restart()
        if self._unreadable_since is None:
            self._unreadable_since = now
        if now - self._unreadable_since >= self.rules.outage_tolerance:
            return self._fail(Trouble.UNREADABLE, reason)
        self._schedule(now)
        self.due = min(self.due, self._unreadable_since + self.rules.outage_tolerance)

    def gone(self) -> None:
        """The cache was answered with 404."""
        if self.state is not State.DONE:
            self._fail(Trouble.GONE)

    def posting(self, now: float) -> None:
        """The POST goes out now."""
        self.state = State.POSTED
        self.triggers += 1
        self._posted_at = self._anchor = now
        self._post_time = None

    def posted(
        self, answer: Posted, now: float, *, server_time: datetime | None = None, reason: str = ""
    ) -> None:
        """The POST's answer, or its lack."""
        if self.state is not State.POSTED:
            return
        if answer is Posted.NOT_FOUND:
            return self._fail(Trouble.GONE)
        if answer is Posted.NOT_ALLOWED:
            return self._fail(Trouble.NOT_ALLOWED, reason)
        if answer is Posted.NOT_TAKEN:
            return self._not_taken(now, reason)
        self._not_taken_since = None
        refused = answer in (Posted.REFUSED, Posted.REFUSED_FOR_GOOD)
        if refused and (self._refusal is not None or not self.rules.follow):
            return self._fail(Trouble.REFUSED, reason, lasting=answer is Posted.REFUSED_FOR_GOOD)
        if not self.rules.follow:
            return self._hand_over(reason)
        self._refusal = reason if refused else None
        self._post_time = self._time_of_answer(server_time, now)
        self._posted_at = self._anchor = now
        self._quiet_since = None
        self.state = State.IDENTIFY
        self._schedule(now)

    def _time_of_answer(self, server_time: datetime | None, now: float) -> datetime | None:
        """Peaka's clock when the POST was over: as its answer says, else reckoned from the look's."""
        if server_time is not None or self.baseline.looked_at is None:
            return server_time
        return self.baseline.looked_at + timedelta(seconds=now - self._looked_at)

    def history_suffices(self, entries: Sequence[CacheExecution]) -> bool:
        """True when ``entries``, newest first, reach back far enough to find ours among them."""
        if len(entries) >= MAX_HISTORY:
            return True
        if self.state is State.FOLLOW and self.verified and self.execution is not None:
            return any(entry.id == self.execution.id for entry in entries)
        return any(self._is_old(entry) for entry in entries)

    def history_read(self, entries: Sequence[CacheExecution], now: float) -> None:
        """The history, newest first, as far as it suffices or goes."""
        if self.state is State.DONE:
            return
        self._history_failing = False
        self._readable()
        self._history_wanted = False
        if self.state is State.FOLLOW and (self.verified or self.origin is Origin.ATTACHED):
            self._find_again(entries, now)
        elif self.state in (State.IDENTIFY, State.FOLLOW):
            self._choose(entries, now)
        self._schedule(now)

    def may_cancel(self, look: Look, entries: Sequence[CacheExecution]) -> bool:
        """Whether what runs is surely ours, from a status and a history read just now.

        Peaka's cancel takes no id: it stops whichever runs. So ours must be the newest of its mode, be RUNNING, be
        the only one of its mode that has not ended, and have been created between our look and the POST's answer (to
        the second, which is what the ``Date`` header tells). One created later may be ours, from a queue, or a
        stranger's after a trigger that was lost or swallowed: it is left alone.
        """
        ours = self.execution
        if self.state is not State.FOLLOW or self.origin is Origin.ATTACHED or ours is None:
            return False
        if look.newest is None or look.newest.id != ours.id or look.newest.status != "RUNNING":
            return False
        if not self._created_in_window(ours):
            return False
        unfinished = [
            entry for entry in entries if not entry.ended and self._mode_of(entry) is not self.mode.other
        ]
        candidates = self._candidates(entries)
        return (
            all(entry.id == ours.id for entry in unfinished)
            and bool(candidates)
            and candidates[-1].id == ours.id
        )

    # LOOK

    def _begin(self, look: Look, now: float) -> None:
        newest = look.newest
        self._looked_at = now
        self._window_start = look.server_time
        self.baseline = (
            Baseline(newest.id, newest.created_at, look.server_time)
            if newest
            else Baseline(looked_at=look.server_time)
        )
        self.origin = Origin.TRIGGERED
        if newest is not None and not newest.ended and self.rules.on_running != "queue":
            return self._already_running(newest, now)
        self._trigger(now)

    def _already_running(self, execution: CacheExecution, now: float) -> None:
        self.execution = execution
        if self.rules.on_running == "attach":
            self.origin = Origin.ATTACHED
            return self._follow(execution, now)
        self._fail(Trouble.ALREADY_RUNNING)

    def _trigger(self, now: float) -> None:
        self.state = State.TRIGGER
        self.execution = None
        self.due = now

    def _not_taken(self, now: float, reason: str) -> None:
        self.triggers = max(0, self.triggers - 1)
        self._not_taken_since = now if self._not_taken_since is None else self._not_taken_since
        if now - self._not_taken_since >= self.rules.outage_tolerance or now >= self._deadline:
            return self._fail(Trouble.NOT_TAKEN, reason)
        self._trigger(now)
        if self.triggers == 0 and now - self._looked_at >= FRESH_LOOK:
            self.state = State.LOOK  # the trigger's window must not grow with the outage
        self.due = now + self.rules.poll_interval

    # IDENTIFY

    def _identify(self, look: Look, now: float) -> None:
        newest = look.newest
        if newest is None or self._is_old(newest):
            return self._nothing_new(look, now)
        if self._was_late(newest):
            return self._late_to_show(newest, now)
        if self._order_is_known(newest) and newest.succeeded and self.origin is not Origin.ADOPTED:
            self._done(newest)
        elif newest.ended or not self._order_is_known(newest) or self._may_hide_an_earlier(newest):
            self._ask_history(newest)
        elif self.origin is Origin.ADOPTED:
            self._ask_history(
                newest
            )  # when the dead attempt's trigger was answered is not known: its window is wide
        else:
            self._follow(newest, now)

    def _ask_history(self, newest: CacheExecution) -> None:
        self.execution = newest
        self._history_wanted = True

    def _nothing_new(self, look: Look, now: float) -> None:
        if self._quiet_since is None:
            return
        if now < max(self._posted_at, self._quiet_since) + self.rules.start_timeout:
            return
        if self.origin is Origin.ADOPTED:
            self._begin(look, now)
        elif self.triggers < 2:
            self._window_start = look.server_time
            self._trigger(now)
        else:
            self._fail(Trouble.NOT_STARTED, self._refusal or "")

    def _late_to_show(self, execution: CacheExecution, now: float) -> None:
        """An execution from before our look shows only now: it may have read past what the upstream just wrote."""
        if self.rules.on_running != "queue" and not execution.ended:
            return self._already_running(execution, now)
        if self.baseline.id is not None:
            self._older.add(self.baseline.id)
        self.baseline = Baseline(execution.id, execution.created_at, self.baseline.looked_at)

    def _was_late(self, execution: CacheExecution) -> bool:
        if self.triggers > 1 or execution.created_at is None or self.baseline.looked_at is None:
            return False
        return execution.created_at < self.baseline.looked_at - LATE_TOLERANCE

    def _is_old(self, execution: CacheExecution) -> bool:
        """True for the baseline and what is surely older, which a stale status may still show."""
        if execution.id == self.baseline.id or execution.id in self._older:
            return True
        if execution.created_at is None or self.baseline.created_at is None:
            return False
        return execution.created_at < self.baseline.created_at

    def _order_is_known(self, execution: CacheExecution) -> bool:
        """False when only the history can tell whether ``execution`` came after the baseline."""
        if self.baseline.id is None:
            return True
        return execution.created_at is not None and self.baseline.created_at is not None

    def _may_hide_an_earlier(self, execution: CacheExecution) -> bool:
        """True when a shorter execution may have come and gone between the POST and this one."""
        if self._post_time is None or execution.created_at is None:
            return True
        return execution.created_at >= self._post_time + DATE_RESOLUTION

    def _created_in_window(self, execution: CacheExecution) -> bool:
        """True when ``execution`` was created between our look and the POST's answer, to the second."""
        if self._may_hide_an_earlier(execution) or self._window_start is None:
            return False
        return execution.created_at is not None and execution.created_at >= self._window_start

    def _candidates(self, entries: Sequence[CacheExecution]) -> list[CacheExecution]:
        """The entries of our mode that are newer than the baseline and were not late to show, newest first."""
        reaches_back = any(self._is_old(entry) for entry in entries)
        candidates: dict[str, CacheExecution] = {}
        for entry in entries:
            if self._is_old(entry) and self._mode_of(entry) is not self.mode.other:
                break
            surely_newer = reaches_back or self._is_dated_newer(entry)
            if self._mode_of(entry) is self.mode and not self._was_late(entry) and surely_newer:
                candidates.setdefault(entry.id, entry)
        return list(candidates.values())

    def _is_dated_newer(self, entry: CacheExecution) -> bool:
        """Where the history does not reach back to the baseline, only dates tell, and without a baseline the status."""
        if self.baseline.id is not None:
            return self._order_is_known(entry)
        if self.execution is not None and entry.id == self.execution.id:
            return True
        if entry.created_at is None or self.baseline.looked_at is None:
            return False
        return entry.created_at >= self.baseline.looked_at - LATE_TOLERANCE

    def _choose(self, entries: Sequence[CacheExecution], now: float) -> None:
        """Ours is the oldest candidate; if it failed, the oldest that COMPLETED, which began after our look as well.

        What an earlier attempt triggered is its own execution only, whatever came after it.
        """
        candidates = self._candidates(entries)
        tentative = self.execution
        listed = {candidate.id for candidate in candidates}
        if (
            tentative is not None
            and tentative.id not in listed
            and self._counts_anyway(tentative, entries, now)
        ):
            candidates.insert(0, tentative)
        if not candidates:
            self.execution = None
            self.state = State.IDENTIFY
            return
        self.verified = True
        ours = candidates[-1]
        if ours.ended and not ours.succeeded and self.origin is not Origin.ADOPTED:
            ours = next((candidate for candidate in reversed(candidates) if candidate.succeeded), ours)
        self._follow(ours, now)

    def _counts_anyway(
        self, tentative: CacheExecution, entries: Sequence[CacheExecution], now: float
    ) -> bool:
        """Whether the execution that the status shows counts although the history does not list it as new."""
        if self._order_is_known(tentative):
            return not self._was_late(tentative) and not self._is_old(tentative)
        if any(entry.id == tentative.id for entry in entries) and any(
            self._is_old(entry) for entry in entries
        ):
            # Listed, but behind the baseline: the status that showed it was stale.
            self._older.add(tentative.id)
            return False
        # The history lags behind the status, or is as stale as it may be: believed only when that does not change.
        self._odd_since = now if self._odd_since is None else self._odd_since
        return now - self._odd_since >= self.rules.start_timeout

    # FOLLOW

    def _follow(self, execution: CacheExecution, now: float) -> None:
        self.execution = execution  # before the state: an interrupt may come between the two
        self.state = State.FOLLOW
        self._update(execution, now)

    def _follow_newest(self, look: Look, now: float) -> None:
        newest, ours = look.newest, self.execution
        if newest is not None and ours is not None and newest.id == ours.id:
            self._update(newest, now)
        else:
            # Replaced by a later one, or gone from a status that is stale or has lost it: the history tells.
            self._history_wanted = True

    def _update(self, execution: CacheExecution, now: float) -> None:
        self.execution = execution
        if not self.rules.follow and (execution.succeeded or not execution.ended):
            return self._hand_over()
        if execution.succeeded:
            return self._done(execution)
        if not execution.ended:
            self._odd_since = None
            self.unchanged.read(execution, now)
            if self.rules.stuck_timeout is not None and self.unchanged.seconds >= self.rules.stuck_timeout:
                self._fail(Trouble.STUCK)
            return
        if not self.verified and self.origin is not Origin.ATTACHED:
            self._history_wanted = True
        elif self.origin is Origin.ADOPTED:
            # The earlier attempt's execution came to nothing: this attempt triggers its own, from a fresh look.
            self.state, self.execution, self.verified = State.LOOK, None, False
            self.due = now
        elif execution.status in ("FAILED", CANCELLED):
            trouble = Trouble.FAILED if execution.status == "FAILED" else Trouble.CANCELLED
            self._fail(trouble, execution.reason)
        else:
            self._wait_for_reason(Trouble.UNKNOWN_END, execution.reason, now)

    def _find_again(self, entries: Sequence[CacheExecution], now: float) -> None:
        """Another execution is the newest now; ours is further down in the history."""
        assert self.execution is not None
        for entry in entries:
            if entry.id == self.execution.id:
                return self._update(entry, now)
        later = next((entry for entry in reversed(self._candidates(entries)) if entry.succeeded), None)
        if later is not None and self.origin is not Origin.ATTACHED:
            self._done(later)
        else:
            self._wait_for_reason(Trouble.VANISHED, "", now)

    def _wait_for_reason(self, trouble: Trouble, reason: str, now: float) -> None:
        """Something odd is tolerated for start_timeout, in case the next reading explains it."""
        self._odd_since = now if self._odd_since is None else self._odd_since
        if now - self._odd_since >= self.rules.start_timeout:
            self._fail(trouble, reason)

    def _done(self, execution: CacheExecution) -> None:
        self.execution = execution
        self.state = State.DONE
        self.result = Result(execution, self.origin, self.triggers)

    # Common

    def _readable(self) -> None:
        self._unreadable_since = None
        self.unreadable_reason = ""

    def _learn_modes(self, look: Look) -> None:
        for execution, mode in ((look.newest, self.mode), (look.other, self.mode.other)):
            if execution is not None:
                self._modes[execution.id] = mode

    def _mode_of(self, execution: CacheExecution) -> SyncMode | None:
        return execution.mode or self._modes.get(execution.id)

    def _schedule(self, now: float) -> None:
        """Set when the next task is due, and fail when time is up."""
        if self.state in (State.DONE, State.POSTED):
            return
        if now >= self._deadline:
            return self._fail(Trouble.TIMED_OUT)
        if self.state in (State.TRIGGER, State.LOOK) and self._unreadable_since is None:
            return
        if self._history_wanted and self._unreadable_since is None:
            self.due = now
            return
        self.due = min(self._deadline, now + self.rules.wait(now - self._anchor))
        if self.state is State.IDENTIFY and self._quiet_since is not None:
            grace = max(self._posted_at, self._quiet_since) + self.rules.start_timeout
            if grace > now:
                self.due = min(self.due, grace)

    def _hand_over(self, reason: str = "") -> None:
        """Others will tell how it ends; ``reason`` says why it is not even known whether something was started."""
        self.state = State.DONE
        self.result = Result(self.execution, self.origin, self.triggers, reason=reason, handed_over=True)

    def _fail(self, trouble: Trouble, reason: str = "", *, lasting: bool = False) -> None:
        self.state = State.DONE
        self.result = Result(
            self.execution, self.origin, self.triggers, trouble, reason, lasting, self.unchanged.seconds
        )
