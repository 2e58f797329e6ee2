"""The record of the requests that were served, for tests that count."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

Sink = Callable[["RequestRecord"], None]

_KEPT = 200_000
"""Requests that are remembered, so that a sandbox may serve for weeks."""


@dataclass(frozen=True)
class RequestRecord:
    """A request: `operation` is its operationId in Peaka's OpenAPI document, None where no operation is meant.

    `status` is 0 as long as there is no answer, for ever where it was withheld. `path` and `query` are as they were
    sent, `started_at` is in epoch seconds by the true clock, `seconds` the time until the answer.
    """

    number: int
    method: str
    path: str
    query: str
    operation: str | None
    started_at: float
    seconds: float = 0.0
    status: int = 0


class RequestLog:
    """The requests since the last `clear`, the latest 200,000, in the order of their arrival. Their numbers go on."""

    def __init__(self, sink: Sink | None = None) -> None:
        self._records: dict[int, RequestRecord] = {}
        self._last = 0
        self._sink = sink

    def open(self, method: str, path: str, query: str, operation: str | None) -> RequestRecord:
        self._last += 1
        record = RequestRecord(self._last, method, path, query, operation, time.time())
        self._records[record.number] = record
        self._records.pop(record.number - _KEPT, None)
        return record

    def close(self, record: RequestRecord, status: int) -> None:
        """Note its answer, before it is sent."""
        done = replace(record, status=status, seconds=time.time() - record.started_at)
        if record.number in self._records:
            self._records[record.number] = done
        if self._sink is not None:
            self._sink(done)

    def all(self) -> list[RequestRecord]:
        return list(self._records.values())

    def clear(self) -> None:
        self._records.clear()
