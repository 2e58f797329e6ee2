"""How many rows a cached table has, asked through Peaka's SQL after a sync."""

import concurrent.futures
import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, TypeVar

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Call
from dagster_peaka.api.client import PeakaClient
from dagster_peaka.api.models import QueryResult
from dagster_peaka.caches.names import SyncTarget, TableName, table_of
from dagster_peaka.errors import PeakaConnectionError, PeakaError, PeakaResponseError, sentence

PATIENCE = 30
"""Seconds that one count may take, with whatever has to be asked before it."""

AT_ONCE = 4
"""Tables that are counted at once at most, once a first count has shown that counting works."""

FAILURES_IN_A_ROW = 2
"""After so many, no more rows are counted: a fleet must not wait for the same outage once a cache."""

T = TypeVar("T")


class RowCounter:
    """Counts the rows of the caches of one step.

    What cannot be counted is a warning and no failure: the sync that went before has succeeded.
    """

    def __init__(self, client: PeakaClient, log: logging.Logger) -> None:
        self._client = client
        self._log = log
        self._failures = 0
        self._catalogs: dict[str, str] | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._proven = False
        self._turn = threading.Lock()

    def start(self, target: SyncTarget) -> Future[int | None]:
        """Begin to count the rows of a cached table, beside those of others; never an exception."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="peaka-rows")
        return self._threads.submit(self.rows_of, target)

    def close(self) -> None:
        """Begin to count no more."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def rows_of(self, target: SyncTarget) -> int | None:
        """The rows that the cached table has now; None when they cannot be counted."""
        with nullcontext() if self._proven else self._turn:
            return self._tried(target)

    def _tried(self, target: SyncTarget) -> int | None:
        if self._failures >= FAILURES_IN_A_ROW:
            return None
        try:
            rows = self._count(target, time.monotonic() + PATIENCE)
        except PeakaError as error:
            self._failures += 1
            enough = self._failures >= FAILURES_IN_A_ROW
            then = " No more rows are counted in this step." if enough else ""
            self._log.warning(
                "%s: synced, but its rows could not be counted. %s%s", target, sentence(str(error)), then
            )
            return None
        self._failures = 0
        self._proven = True
        return rows

    def _count(self, target: SyncTarget, deadline: float) -> int:
        table = table_of(target) or self._look_up(target, deadline)
        statement = f"SELECT count(*) AS row_count FROM {'.'.join(map(_quoted, table))}"
        return _number(self._ask(calls.execute_query(statement, timeout=PATIENCE), deadline))

    def _look_up(self, target: SyncTarget, deadline: float) -> TableName:
        """The full name of a cache that the definition names by id only."""
        cache = self._ask(calls.get_cache(target.cache_id), deadline)
        with self._lock:  # others count at the same time, and one answer serves all
            if self._catalogs is None:
                catalogs = self._ask(calls.list_catalogs(), deadline)
                self._catalogs = {catalog.id: catalog.name for catalog in catalogs}
        catalog = self._catalogs.get(cache.catalog_id or "")
        if not (catalog and cache.schema_name and cache.table_name):
            raise PeakaResponseError("Peaka does not say which table it copies.")
        return TableName(catalog, cache.schema_name, cache.table_name)

    def _ask(self, call: Call[T], deadline: float) -> T:
        future = self._client.start(call)
        try:
            return future.result(timeout=max(0.0, deadline - time.monotonic())).value
        except concurrent.futures.TimeoutError:
            raise PeakaConnectionError(f"Peaka took longer than {PATIENCE} s.") from None
        finally:
            future.cancel()


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '""') + '"'


def _number(result: QueryResult) -> int:
    """The only value of the only row."""
    values: list[Any] = [value for row in result.rows for value in row.values()]
    if len(values) == 1 and str(values[0]).isascii() and str(values[0]).isdigit():
        return int(str(values[0]))
    raise PeakaResponseError(f"Peaka answered {values!r:.200} where one number of rows was asked for.")
