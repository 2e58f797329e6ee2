"""What happens in Peaka when a run is terminated: what is surely ours is cancelled, and nothing else."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Answer
from dagster_peaka.api.client import FEW
from dagster_peaka.api.models import CacheExecution, CacheStatus
from dagster_peaka.api.session import Client
from dagster_peaka.errors import PeakaError, PeakaNotFoundError
from dagster_peaka.sync.identity import started_by
from dagster_peaka.sync.jobs import Run
from dagster_peaka.sync.machine import Reading, State, Sync, Task
from dagster_peaka.sync.outcome import Origin

STOP_BUDGET = 5.0
"""Seconds that stopping may take, for all syncs together."""

HISTORY_PAGE = 25
"""Entries of a history that one request asks for."""

SIDE_BY_SIDE = 32
"""Requests about one cache each that are under way at once at most."""


def may_cancel(sync: Sync, reading: Reading, entries: Sequence[CacheExecution]) -> bool:
    """Whether what runs is surely a sync's own, from a status and a history read just now.

    Peaka's cancel takes no id: it stops whichever runs. So ours must be what the status shows to run, the only
    execution above the baseline, the only one of its mode that has not ended, and have been created between our
    poll and the answer of a trigger that was accepted and not repeated.
    """
    ours = sync.execution
    if sync.state is not State.FOLLOW or sync.origin is Origin.ATTACHED or ours is None:
        return False
    if reading.newest is None or reading.newest.id != ours.id or reading.newest.ended:
        return False
    record = sync.asking
    found = started_by(entries, record, sync.mode, newest=reading.newest)
    unfinished = [
        entry
        for entry in entries
        if not entry.ended and (entry.mode or record.modes.get(entry.id)) is not sync.mode.other
    ]
    return (
        found.certain
        and [candidate.id for candidate in found.candidates] == [ours.id]
        and all(entry.id == ours.id for entry in unfinished)
        and record.is_surely_ours(ours)
    )


@contextmanager
def uninterrupted() -> Generator[None]:
    """No further interrupt ends what is done within.

    A step hears of its end more than once: Ctrl-C reaches it from the terminal and from its executor, and the run's
    status may have told it before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal is handled here
        return
    handlers = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if (handler := signal.getsignal(number)) is not None  # else another language handles it
    }
    for number in handlers:
        signal.signal(number, _unheard)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _unheard(_number: int, _frame: FrameType | None) -> None:
    """Handles a signal; unlike SIG_IGN it is not inherited by a process that is started meanwhile."""


class Stop:
    """One attempt to cancel what terminated syncs have started.

    Args:
        client: sends the requests.
        clock: the clock of the syncs' machines.
        deadline: by the monotonic clock.
        listed: whether a listing of statuses is to be had.
    """

    def __init__(self, client: Client, clock: Callable[[], float], deadline: float, *, listed: bool) -> None:
        self._client = client
        self._clock = clock
        self._deadline = deadline
        self._listed = listed

    def cancel(self, live: Sequence[Run]) -> tuple[list[Run], dict[Run, str]]:
        """Cancel what is surely ours; returns those that were reached, and what was left alone, with the reasons."""
        left = dict.fromkeys(live, "not known to be running")
        running = self._poll(live)
        left.update(dict.fromkeys(running, "not surely ours"))
        asked, reached = self._cancel_ours(running)
        left.update(asked)
        for run in reached:
            del left[run]
        return reached, left

    def _poll(self, runs: Sequence[Run]) -> list[Run]:
        """Those whose cache runs something, by one reading just now; the others' machines have been told."""
        running: list[Run] = []

        def polled(run: Run, status: CacheStatus, answer: Answer[Any]) -> None:
            run.reading = Reading.of(status, run.job.mode, answer.server_time)
            run.sync.polled(run.reading, self._clock())
            if run.sync.result is None and run.reading.newest is not None and not run.reading.newest.ended:
                running.append(run)

        unlisted = dict.fromkeys(runs)
        if len(runs) > FEW and self._listed:
            for future, _ in _answered(
                {self._client.start(calls.list_cache_statuses()): None}, self._deadline
            ):
                statuses = {status.id: status for status in future.result().value}
                for run in runs:
                    if (status := statuses.get(run.job.target.cache_id)) is not None:
                        del unlisted[run]
                        polled(run, status, future.result())
        single = {
            self._client.start(calls.get_cache_status(run.job.target.cache_id)): run for run in unlisted
        }
        for future, run in _answered(single, self._deadline):
            polled(run, future.result().value, future.result())
        return running

    def _cancel_ours(self, runs: Sequence[Run]) -> tuple[dict[Run, str], list[Run]]:
        """Cancel each as soon as its own history says that it is ours.

        Returns those asked to stop, with what is to be said where none of them answers, and those that answered.
        """
        waiting = list(reversed(runs))
        histories: dict[Future[Answer[list[CacheExecution]]], Run] = {}
        cancels: dict[Future[Answer[None]], Run] = {}
        asked: dict[Run, str] = {}
        reached: list[Run] = []
        while (waiting or histories or cancels) and (time_left := self._deadline - time.monotonic()) > 0:
            while waiting and len(histories) + len(cancels) < SIDE_BY_SIDE:
                run = waiting.pop()
                call = calls.get_execution_history(run.job.target.cache_id, HISTORY_PAGE, 0)
                histories[self._client.start(call)] = run
            pending: list[Future[Any]] = [*histories, *cancels]
            done, _ = concurrent.futures.wait(
                pending, timeout=time_left, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                error = None if future.cancelled() else error_of(future)
                failed = future.cancelled() or error is not None
                if future in cancels:
                    run = cancels.pop(future)
                    if not failed:
                        reached.append(run)
                    elif isinstance(error, PeakaNotFoundError):
                        asked[run] = "Peaka found nothing to cancel any more"
                    continue
                run = histories.pop(future)
                if not failed and self._is_ours(run, future.result().value):
                    asked[run] = "the cancel was not answered"
                    cancels[self._client.start(calls.cancel(run.job.target.cache_id, run.job.mode))] = run
        for future in (*histories, *cancels):
            future.cancel()
        return asked, reached

    def _is_ours(self, run: Run, entries: list[CacheExecution]) -> bool:
        if run.sync.task is Task.HISTORY:
            run.sync.history_read(entries, self._clock())
        return (
            run.reading is not None and run.sync.result is None and may_cancel(run.sync, run.reading, entries)
        )


R = TypeVar("R")


def _answered(wanted: dict[Future[Any], R], deadline: float) -> Iterator[tuple[Future[Any], R]]:
    """The successfully answered among ``wanted``, as they come, until the deadline; the rest is dropped."""
    try:
        timeout = max(0.0, deadline - time.monotonic())
        for future in concurrent.futures.as_completed(wanted, timeout=timeout):
            if error_of(future) is None:
                yield future, wanted[future]
    except concurrent.futures.TimeoutError:
        pass
    finally:
        for future in wanted:
            future.cancel()


def error_of(future: Future[Any]) -> PeakaError | None:
    """What a request has failed with, if it has; anything but a :class:`PeakaError` is raised."""
    error = future.exception()
    if error is None or isinstance(error, PeakaError):
        return error
    raise error
