"""One call at a time, within the doctor's time: its result, the raw JSON that it was read from, how long it took.

Readings are told from here, too, and what could not be read is one of them.
"""

from __future__ import annotations

import concurrent.futures
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

from dagster_peaka.api.calls import Call
from dagster_peaka.api.client import PeakaClient
from dagster_peaka.doctor.readings import Reading, take
from dagster_peaka.errors import PeakaConnectionError, PeakaError, PeakaResponseError

T = TypeVar("T")

IN_STEP = 5.0
"""Seconds by which two clocks may differ and count as agreeing: a ``Date`` has whole seconds."""


@dataclass(frozen=True)
class Seen(Generic[T]):
    """An answer: read, raw, Peaka's clock, and the seconds from sending to reading."""

    value: T
    raw: Any
    server_time: datetime | None
    seconds: float


class OutOfTime(PeakaConnectionError):
    """The doctor's own time is over."""


class Asking:
    """Sends the client's calls, tells what was found, and keeps what all answers together tell: names, speed, clock.

    Args:
        client: whose calls and rules they are.
        seconds: the time that there is for all of them.
        found: is told readings as soon as there are any.
        waiting: is told what is being waited for.
    """

    def __init__(
        self,
        client: PeakaClient,
        seconds: float,
        found: Callable[..., None],
        waiting: Callable[[str], None],
    ) -> None:
        self.client = client
        self.found = found
        self.waiting = waiting
        self.names: dict[str, str] = {}
        """Every name and id of the account that was seen, each with its kind: what a report replaces it by."""
        self._left_out = 0
        self._until = time.monotonic() + seconds
        self._seconds: list[float] = []
        self._offsets: list[float] = []
        self._dates: list[bool] = []

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self._until - time.monotonic())

    def more_time(self, seconds: float) -> None:
        """Begin a new time."""
        self._until = time.monotonic() + seconds

    def ask(self, call: Call[T]) -> Seen[T]:
        """The answer to a call.

        Raises:
            OutOfTime: where there is no time left, or the answer did not come in it.
            PeakaError: as the client raises it.
        """
        left = self.left
        if left <= 0:
            self._left_out += 1
            raise OutOfTime("The doctor's time was over before it was asked.")
        self.waiting(f"asking about {call.subject}")

        def both(raw: Any) -> tuple[T, Any]:
            return call.parse(raw), raw

        sent_at, begun = time.time(), time.monotonic()
        future = self.client.start(replace(cast("Call[Any]", call), parse=both))
        try:
            answer = future.result(left)
        except concurrent.futures.TimeoutError:
            self._left_out += 1
            raise OutOfTime(f"No answer about {call.subject} in the time that was left.") from None
        except PeakaError:
            raise
        except Exception as error:  # what nobody has thought of is a finding, too
            name = type(error).__name__
            raise PeakaResponseError(
                f"This package trips over the answer about {call.subject}: {name}."
            ) from None
        finally:
            future.cancel()
        seconds = time.monotonic() - begun
        self._seconds.append(seconds)
        self._dates.append(answer.server_time is not None)
        if answer.server_time is not None:
            self._offsets.append(answer.server_time.timestamp() + 0.5 - sent_at - seconds / 2)
        value, raw = answer.value
        return Seen(value, raw, answer.server_time, seconds)

    def take(self, name: str, value: Any, *about: str, said: str = "") -> None:
        """Tell a reading."""
        self.found(take(name, value, *about, said=said))

    @contextmanager
    def reading(self, what: str, *about: str) -> Generator[None]:
        """A block that reads ``what``: where Peaka does not answer in it, that is told, and all goes on behind it."""
        try:
            yield
        except PeakaError as error:
            self.found(unread(what, error, *about))

    def name(self, kind: str, text: object) -> str:
        """A name or an id of the account; what ends up in a report is never this."""
        self.names.setdefault(str(text), kind)
        return str(text)

    def hide(self, kind: str, *texts: str | None) -> None:
        """Names or ids that are in no reading, and may be in what Peaka says."""
        for text in filter(None, texts):
            self.name(kind, text)

    def summary(self) -> None:
        """Tell what all answers together tell."""
        if self._dates:
            self.take("date_header", all(self._dates))
        if self._offsets:
            offset = statistics.median(self._offsets)
            self.take("clock_offset", 0.0 if abs(offset) < IN_STEP else round(offset, -1) + 0.0)
        if self._seconds:
            self.take("answer_seconds", round(statistics.median(self._seconds), 2))
        if self._left_out:
            self.take("out_of_time", self._left_out)


def unread(what: str, error: PeakaError, *about: str) -> Reading:
    """The reading of what could not be asked."""
    level = "note" if isinstance(error, OutOfTime) else None
    return take("unread", what, *about, said=str(error), level=level)
