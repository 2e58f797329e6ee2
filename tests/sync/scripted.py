"""A client whose answers are scripted, on a clock that only moves when the runner waits."""

import heapq
import itertools
import queue
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from typing import Any

from dagster_peaka.api import CacheExecution, CacheStatus, SyncMode
from dagster_peaka.api.calls import Answer, Call

NOON = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
Script = Callable[[Call[Any], float], tuple[float, Any]]
"""What a call is answered: after how many seconds, and with which value or exception."""


class Stuck(AssertionError):
    """The runner waits for an answer, and none is under way."""


class Scripted:
    """The client, the clock and the queue of events of a runner, in one."""

    def __init__(self, script: Script) -> None:
        self.now = 0.0
        self.calls: list[Call[Any]] = []
        self._script = script
        self._answers: list[tuple[float, int, Future[Any], Any]] = []
        self._number = itertools.count()
        self._events: list[Any] = []

    def clock(self) -> float:
        """Seconds since the beginning."""
        return self.now

    def start(self, call: Call[Any]) -> Future[Any]:
        """Begin a call; it is answered when the clock gets there."""
        self.calls.append(call)
        delay, value = self._script(call, self.now)
        future: Future[Any] = Future()
        heapq.heappush(self._answers, (self.now + delay, next(self._number), future, value))
        return future

    def put(self, event: Any) -> None:
        """Take an event, as the runner's queue does."""
        self._events.append(event)

    def empty(self) -> bool:
        """True when no event waits."""
        return not self._events

    def get(self, timeout: float | None = None) -> Any:
        """The next event, moving the clock to it."""
        until = None if timeout is None else self.now + timeout
        while not self._events:
            if self._answers and (until is None or self._answers[0][0] <= until):
                at, _, future, value = heapq.heappop(self._answers)
                self.now = max(self.now, at)
                if isinstance(value, BaseException):
                    future.set_exception(value)
                elif value is not Future:
                    future.set_result(Answer(value, NOON + timedelta(seconds=int(self.now))))
                else:
                    future.cancel()
            elif until is None:
                raise Stuck(f"at {self.now:.1f} s the runner waits for ever")
            else:
                self.now = until
                raise queue.Empty
        return self._events.pop(0)


def execution(name: str, created: float, status: str = "COMPLETED") -> CacheExecution:
    """An execution created so many seconds after noon."""
    return CacheExecution(
        id=name, status=status, mode=SyncMode.INCREMENTAL, created_at=NOON + timedelta(seconds=created)
    )


def status(cache: str, newest: CacheExecution) -> CacheStatus:
    """The status of a cache whose newest execution is this one."""
    return CacheStatus(id=cache, last_incremental=newest)
