"""Follows one or many syncs to their ends: does what each state machine asks for, as cheaply as it can.

One loop serves any number of syncs. Triggers and histories go out side by side; the status is read one by one for up
to :data:`FEW` waiting caches and by one listing above that, so the number of polls depends on time and not on the
number of caches. The loop runs in the caller's thread, where an interrupt reaches it at once.
"""

from __future__ import annotations

import logging
import math
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Answer, Call
from dagster_peaka.api.client import FEW, NOT_LISTED
from dagster_peaka.api.models import CacheExecution, CacheStatus
from dagster_peaka.api.session import Client
from dagster_peaka.errors import (
    PeakaApiError,
    PeakaAuthenticationError,
    PeakaConfigError,
    PeakaConnectionError,
    PeakaError,
    PeakaNotFoundError,
    PeakaPermissionError,
    PeakaRateLimitError,
    PeakaResponseError,
    PeakaServerError,
    PeakaUnknownOutcomeError,
    sentence,
)
from dagster_peaka.sync.history import History
from dagster_peaka.sync.jobs import Note, Run, SyncJob
from dagster_peaka.sync.log import Progress
from dagster_peaka.sync.machine import Reading, State, Sync, Task
from dagster_peaka.sync.outcome import Origin, Posted, Result
from dagster_peaka.sync.stopping import HISTORY_PAGE, SIDE_BY_SIDE, STOP_BUDGET, Stop, error_of, uninterrupted

T = TypeVar("T")

RUN_STATUS_INTERVAL = 5.0
"""Seconds between two readings of the run's own status."""


@dataclass(frozen=True)
class _Event:
    """An answer that has come: ``handle`` says what to do with it."""

    future: Future[Any]
    handle: Callable[[Future[Any]], None]


class Runner:
    """Does syncs and tells how each ended.

    Args:
        client: sends the requests.
        jobs: the syncs; each cache at most once.
        log: where changes of state go.
        write_down: called with what has to be on record before POSTs go out, and with those that were not taken.
        after_result: called with each job and its result; the job is yielded when the future that it may answer is
            done. The syncs of the others go on meanwhile.
        check_run: called every :data:`RUN_STATUS_INTERVAL` seconds; raises what ends the run. Some of Dagster's
            executors never interrupt a step, and only the run's status tells that it was terminated.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        client: Client,
        jobs: Iterable[SyncJob],
        *,
        log: logging.Logger,
        write_down: Callable[[Sequence[Note]], None] | None = None,
        after_result: Callable[[SyncJob, Result], Future[Any] | None] | None = None,
        check_run: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._clock = clock
        self._log = log
        self._write_down = write_down
        self._notes: list[Note] = []
        self._alone = 0
        """Requests under way that are about one cache only."""
        self._after_result = after_result
        self._check_run = check_run
        now = clock()
        jobs = list(jobs)
        shared = len(jobs) > FEW
        self._runs = [
            Run(
                job,
                Sync(
                    job.mode,
                    job.rules.polled_together() if shared else job.rules,
                    now,
                    job.earlier,
                    job.earlier_age,
                    job.adopts_completed,
                ),
            )
            for job in jobs
        ]
        self._progress = Progress(log, [run.sync for run in self._runs], clock)
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._out: set[Future[Any]] = set()
        self._listing = False
        self._narrow = self._listed = True
        """Whether a catalog's listing, and whether any listing, is to be had."""
        self._touched: dict[Run, None] = {}
        self._ready: deque[Run] = deque()
        self._next_sweep = now
        self._next_check = math.inf if check_run is None else now + RUN_STATUS_INTERVAL

    def run(self) -> Iterator[tuple[SyncJob, Result]]:
        """Yield each job with its result as soon as that is known, until all are done.

        While the caller records one result, requests that are due go out and answers come in all the same.
        """
        unfinished = dict.fromkeys(self._runs)
        while unfinished:
            self._advance(unfinished)
            if self._ready:
                run = self._ready.popleft()
                del unfinished[run]
                assert run.sync.result is not None
                yield run.job, run.sync.result

    def _advance(self, unfinished: Iterable[Run]) -> None:
        """Do what is due, and take in what has come; wait for that unless there is a result to give."""
        touched, self._touched = self._touched, {}
        for run in touched:
            if run.sync.result is not None and not run.answered and not self._goes_on(run):
                run.answered = True
                self._ready.append(run)
            elif run.sync.state is State.FOLLOW and run.sync.origin is not Origin.TRIGGERED:
                self._note(run)
        self._flush()
        self._next_sweep = min([self._next_sweep, *(run.sync.due for run in touched if _is_due_once(run))])
        if self._clock() >= self._next_sweep:
            self._start_what_is_due(unfinished)
            self._next_sweep = min(
                (run.sync.due for run in unfinished if self._acts_alone(run)), default=math.inf
            )
        if self._check_run is not None and self._clock() >= self._next_check:
            self._check_run()
            self._next_check = self._clock() + RUN_STATUS_INTERVAL
        if not self._touched:
            self._take_in(wait=not self._ready)

    def _goes_on(self, run: Run) -> bool:
        """True while something is done about the result before it is yielded."""
        if run.sync.result is None or self._after_result is None:
            return False
        if run.after is None:
            run.after = self._after_result(run.job, run.sync.result) or _nothing()

            def handle(_: Future[Any]) -> None:
                self._touched[run] = None

            self._out.add(run.after)
            run.after.add_done_callback(lambda done: self._events.put(_Event(done, handle)))
        return not run.after.done()

    # What is due

    def _acts_alone(self, run: Run) -> bool:
        """True when nothing is under way that would move this sync on."""
        if run.sync.task is Task.POLL and self._listing:
            return False
        return _is_due_once(run) and self._alone < SIDE_BY_SIDE

    def _start_what_is_due(self, runs: Iterable[Run]) -> None:
        """Send what is due: triggers first, as many as go out at once, the others when these are answered."""
        now = self._clock()
        waiting = [run for run in runs if run.sync.task is Task.POLL and not run.busy]
        idle = [run for run in runs if not run.busy and run.sync.due <= now]
        self._trigger([run for run in idle if run.sync.task is Task.TRIGGER])
        for run in idle:
            if run.sync.task is Task.HISTORY and self._alone < SIDE_BY_SIDE:
                run.history = History()
                self._read_history(run)
        due = [run for run in waiting if run.sync.due <= now]
        if len(waiting) <= FEW:
            for run in due:
                self._poll_one(run)
        elif due and not self._listing:
            self._poll_many(waiting if self._listed else due)

    def _take_in(self, *, wait: bool) -> None:
        """Take in all answers that have come; ``wait`` for the first, but no longer than until something is due."""
        until = min(self._next_sweep, self._next_check) if wait else 0.0
        timeout = None if until == math.inf else max(0.0, until - self._clock())
        try:
            self._handle(self._events.get(timeout=timeout))
            while not self._events.empty():
                self._handle(self._events.get())
        except queue.Empty:
            pass

    def _handle(self, event: _Event) -> None:
        if event.future not in self._out:
            return  # dropped by stop()
        self._out.discard(event.future)
        event.handle(
            _failed(PeakaUnknownOutcomeError("The request was dropped."))
            if event.future.cancelled()
            else event.future
        )

    def _send_for(self, run: Run, call: Call[T], handle: Callable[[Future[Answer[T]]], None]) -> None:
        """Send what is about one cache only."""
        run.busy = True
        self._alone += 1

        def answered(future: Future[Answer[T]]) -> None:
            run.busy = False
            self._alone -= 1
            if (
                self._alone <= SIDE_BY_SIDE // 2
            ):  # others may have waited for a place; a sweep costs a poll of each
                self._next_sweep = min(self._next_sweep, self._clock())
            handle(future)

        self._send(call, answered)

    def _send(self, call: Call[T], handle: Callable[[Future[Answer[T]]], None]) -> None:
        try:
            future = self._client.start(call)
        except PeakaError as error:
            future = cast("Future[Answer[T]]", _failed(error))
        self._out.add(future)
        future.add_done_callback(lambda done: self._events.put(_Event(done, handle)))

    def _drop_requests(self) -> None:
        for future in self._out:
            future.cancel()
        self._out.clear()

    # Polls

    def _poll_one(self, run: Run) -> None:
        def handle(future: Future[Answer[CacheStatus]]) -> None:
            error = error_of(future)
            if error is None:
                answer = future.result()
                self._polled(run, answer.value, answer)
            elif isinstance(error, PeakaNotFoundError):
                run.sync.gone()
                self._report(run)
            else:
                self._unreadable(run, error)

        self._send_for(run, calls.get_cache_status(run.job.target.cache_id), handle)

    def _poll_many(self, runs: Sequence[Run]) -> None:
        if not self._listed:
            for run in runs:
                self._poll_one(run)
            return
        self._listing = True
        scope = _scope(runs) if self._narrow else None

        def handle(future: Future[Answer[list[CacheStatus]]]) -> None:
            self._listing = False
            # Syncs that came due meanwhile were left out of the next sweep's time.
            self._next_sweep = min(self._next_sweep, self._clock())
            error = error_of(future)
            if isinstance(error, PeakaServerError):
                return self._widen(scope, error, [run for run in runs if _polls(run)])
            if isinstance(error, NOT_LISTED):
                # The listing is not to be had this time, but its caches may be.
                for run in filter(_polls, runs):
                    self._poll_one(run)
                return
            if error is not None:
                for run in runs:
                    self._unreadable(run, error)
                return
            answer = future.result()
            statuses = {status.id: status for status in answer.value}
            for run in runs:
                status = statuses.get(run.job.target.cache_id)
                if status is not None:
                    self._polled(run, status, answer)
                elif run.sync.task is Task.POLL and not run.busy:
                    # Not listed is no proof of anything: the cache itself is asked.
                    self._poll_one(run)
            if any(run.sync.result is not None for run in runs):
                # What was triggered together ends together: the step should not wait while ends are to be had.
                for run in filter(_polls, runs):
                    if run.sync.state is State.FOLLOW:
                        soon = self._clock() + run.sync.rules.poll_interval / 2
                        run.sync.due = min(run.sync.due, soon)
            self._progress.polled_many()

        self._send(calls.list_cache_statuses(scope), handle)

    def _widen(self, scope: str | None, error: PeakaError, runs: Sequence[Run]) -> None:
        """A listing is not to be had, but its caches may be: from now on the next wider one is read, or each cache."""
        if scope is not None:
            self._narrow = False
            then = "the project's listing is read"
        else:
            self._listed = False
            then = "each cache's own status is read"
        self._log.warning("%s From here on %s instead.", sentence(str(error)), then)
        self._poll_many(runs)

    def _polled(self, run: Run, status: CacheStatus, answer: Answer[Any]) -> None:
        run.reading = Reading.of(status, run.job.mode, answer.server_time)
        run.sync.polled(run.reading, self._clock())
        self._report(run)

    def _unreadable(self, run: Run, error: PeakaError) -> None:
        run.sync.unreadable(str(error), self._clock(), permanent=error.permanent)
        self._report(run)

    def _report(self, run: Run) -> None:
        self._touched[run] = None
        self._progress.polled(run.job.target, run.sync, run.reading)

    # Histories

    def _read_history(self, run: Run) -> None:
        """Read page by page, whatever a page holds, until it suffices or nothing more comes."""

        def handle(future: Future[Answer[list[CacheExecution]]]) -> None:
            error = error_of(future)
            if isinstance(error, PeakaNotFoundError):
                run.sync.gone()
            elif error is not None:
                return self._unreadable(run, error)
            else:
                run.history.add(future.result().value)
                if not (run.history.whole or run.sync.history_suffices(run.history.entries)):
                    return self._read_history(run)
                run.sync.history_read(run.history.entries, self._clock())
            self._report(run)

        call = calls.get_execution_history(run.job.target.cache_id, HISTORY_PAGE, run.history.offset)
        self._send_for(run, call, handle)

    # Triggers

    def _trigger(self, runs: Sequence[Run]) -> None:
        """Write all of them down at once, an event costs milliseconds, and send as many as have a place."""
        for run in runs:
            self._note(run)
        self._flush()
        for run in runs[: max(0, SIDE_BY_SIDE - self._alone)]:
            if run.sync.posting(self._clock()):
                self._post(run)
            self._report(run)

    def _post(self, run: Run) -> None:
        def handle(future: Future[Answer[None]]) -> None:
            self._posted(run, future)

        # Repeated by the machine, after a poll, and not by the connection.
        self._send_for(run, calls.trigger(run.job.target.cache_id, run.job.mode, resent=False), handle)

    def _posted(self, run: Run, future: Future[Answer[None]]) -> None:
        error = error_of(future)
        now = self._clock()
        if error is None:
            run.sync.posted(Posted.ACCEPTED, now, server_time=future.result().server_time)
        else:
            answer = _posted(error)
            run.sync.posted(answer, now, reason=str(error))
            self._progress.not_accepted(run.job.target, run.sync, answer, str(error))
            if answer is not Posted.UNKNOWN and run.sync.triggers <= 1:
                self._note(run, answer)
        self._report(run)

    # What is written down

    def _note(self, run: Run, answer: Posted | None = None) -> None:
        """Have it written down what others need to know, where that is not on record yet."""
        record = run.sync.record
        if answer is not None:
            run.noted = None
        elif run.noted == record:
            return
        else:
            run.noted = record
        self._notes.append(Note(run.job, record, run.sync.origin, answer, run.sync.triggers > 0))

    def _flush(self) -> None:
        notes, self._notes = self._notes, []
        if notes and self._write_down is not None:
            self._write_down(notes)

    # The end before the end

    def stop(self, *, cancel: bool, terminated: Callable[[], bool]) -> None:
        """Leave the syncs where they are; with ``cancel``, cancel those whose own execution is the one that runs.

        Where the run was not ``terminated`` but interrupted otherwise, nothing is cancelled: a re-execution follows
        what was triggered.

        Takes at most :data:`STOP_BUDGET` seconds, in which no other interrupt is heard. Everything that may still run
        or start is named in the log. Raises nothing of its own, so that the interrupt that ends the step goes on.
        """
        with uninterrupted():
            self._stop(cancel=cancel, terminated=terminated)

    def _stop(self, *, cancel: bool, terminated: Callable[[], bool]) -> None:
        live = [
            run
            for run in self._runs
            if run.sync.result is None
            and (run.sync.triggers or run.sync.execution or run.sync.state is State.IDENTIFY)
        ]
        left = dict.fromkeys(live, "the run was interrupted, not terminated")
        try:
            if live and terminated():
                left = dict.fromkeys(live, "cancel_on_termination is off")
                if cancel:
                    deadline = time.monotonic() + STOP_BUDGET
                    self._settle_triggers(live, deadline)
                    self._drop_requests()
                    stop = Stop(self._client, self._clock, deadline, listed=self._listed)
                    reached, left = stop.cancel(live)
                    self._progress.cancelled([(run.job.target, run.sync) for run in reached])
        except Exception:
            self._log.exception("Stopping failed half way: what was to be cancelled in Peaka may go on.")
        self._drop_requests()
        self._progress.left(
            [(run.job.target, run.sync, why) for run, why in left.items() if not run.sync.result]
        )

    def _settle_triggers(self, runs: Sequence[Run], deadline: float) -> None:
        """Give triggers under way a moment to be answered; after that their outcome is unknown."""
        until = min(deadline, time.monotonic() + 1.0)
        while any(run.sync.state is State.POSTED for run in runs) and (left := until - time.monotonic()) > 0:
            try:
                self._handle(self._events.get(timeout=left))
            except queue.Empty:
                break
        for run in runs:
            if run.sync.state is State.POSTED:
                run.sync.posted(Posted.UNKNOWN, self._clock())


def _is_due_once(run: Run) -> bool:
    return not run.busy and run.sync.task not in (Task.WAIT, Task.NOTHING)


def _nothing() -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(None)
    return future


def _failed(error: PeakaError) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def _posted(error: PeakaError) -> Posted:
    """What an error says about whether the POST was taken."""
    if isinstance(error, (PeakaConnectionError, PeakaRateLimitError)):
        return Posted.NOT_TAKEN
    if isinstance(error, PeakaNotFoundError):
        return Posted.NOT_FOUND
    if isinstance(
        error, (PeakaAuthenticationError, PeakaConfigError, PeakaPermissionError, PeakaResponseError)
    ):
        return Posted.NOT_ALLOWED
    if isinstance(error, PeakaApiError):
        return Posted.REFUSED_FOR_GOOD if error.status_code in (400, 405, 422) else Posted.REFUSED
    return Posted.UNKNOWN


def _polls(run: Run) -> bool:
    """Whether a sync waits for a reading of its cache's status."""
    return run.sync.task is Task.POLL and not run.busy


def _scope(runs: Sequence[Run]) -> str | None:
    """The catalog whose listing covers all of these; None for the project's.

    A schema's listing is never read: the live service was seen to answer it with 500, every time.
    """
    catalogs = {run.job.target.catalog_id for run in runs}
    return next(iter(catalogs)) if len(catalogs) == 1 else None
