"""Asks Peaka's SQL for the rows and the fingerprints of cached tables after their syncs, one query a table."""

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Call
from dagster_peaka.api.client import PeakaClient
from dagster_peaka.caches.declared import CHECKSUM, DeclaredCache, RowCount
from dagster_peaka.caches.names import SyncTarget, TableName, few, table_of
from dagster_peaka.errors import PeakaApiError, PeakaError, PeakaResponseError, sentence
from dagster_peaka.steps.fingerprints import Measurement, hashable, measurement, statement

PATIENCE = 30.0
"""Seconds that one table may take, with whatever has to be asked before its query."""

AT_ONCE = 4
"""Tables that are asked at once at most, once a first answer has shown that asking works."""

FAILURES_IN_A_ROW = 2
"""After so many, no table is asked any more: a fleet must not wait for the same outage once a cache."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Place:
    """A cached table: its name, and its catalog's id, by which its columns are listed."""

    table: TableName
    catalog_id: str | None


class Measurer:
    """Asks for the rows and fingerprints of the caches of one step or tick, as their assets declare.

    What cannot be had is a warning and no failure: the sync that went before has succeeded.

    Args:
        patience: seconds that one table may take.
    """

    def __init__(self, client: PeakaClient, log: logging.Logger, patience: float = PATIENCE) -> None:
        self._client = client
        self._log = log
        self._patience = patience
        self._failures = 0
        self._catalogs: Mapping[str, str] | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._proven = False
        self._turn = threading.Lock()

    def start(self, target: SyncTarget, declared: DeclaredCache) -> Future[Measurement]:
        """Begin to ask about a cached table, beside others; never an exception."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="peaka-rows")
        return self._threads.submit(self.measure, target, declared)

    def close(self) -> None:
        """Begin to ask no more."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def measure(self, target: SyncTarget, declared: DeclaredCache) -> Measurement:
        """What the cached table holds now, as far as ``declared`` asks for it and Peaka answers."""
        if not is_measured(declared):
            return Measurement()
        with nullcontext() if self._proven else self._turn:
            return self._tried(target, declared)

    def _tried(self, target: SyncTarget, declared: DeclaredCache) -> Measurement:
        if self._failures >= FAILURES_IN_A_ROW:
            return Measurement()
        try:
            measured = self._asked(target, declared, time.monotonic() + self._patience)
        except PeakaError as error:
            self._failures += 1
            enough = self._failures >= FAILURES_IN_A_ROW
            self._log.warning(
                "%s: synced, but %s. %s%s",
                target,
                _not_had(declared),
                sentence(str(error)),
                " No more tables are asked in this step." if enough else "",
            )
            return Measurement()
        self._failures = 0
        self._proven = True
        return measured

    def _asked(self, target: SyncTarget, declared: DeclaredCache, deadline: float) -> Measurement:
        table = table_of(target)
        place = _Place(table, target.catalog_id) if table else self._look_up(target, deadline)
        columns = declared.columns
        if declared.fingerprint == CHECKSUM and columns:
            try:
                return self._queried(target, place, declared, columns, deadline)
            except PeakaApiError as error:
                if not error.permanent:
                    raise
            # The snapshot's columns are perhaps no longer those of the table.
        if declared.fingerprint == CHECKSUM:
            columns = self._list_columns(target, place, deadline)
        return self._queried(target, place, declared, columns or {}, deadline)

    def _queried(
        self,
        target: SyncTarget,
        place: _Place,
        declared: DeclaredCache,
        columns: Mapping[str, str],
        deadline: float,
    ) -> Measurement:
        rows = declared.row_count is RowCount.QUERY
        text = statement(place.table, declared.fingerprint, columns, rows=rows)
        result = self._ask(calls.execute_query(text, timeout=max(1, round(self._patience))), deadline)
        if declared.fingerprint == CHECKSUM and len(hashable(columns)) < len(columns):
            left_out = [f"{name} ({columns[name]})" for name in columns if name not in hashable(columns)]
            self._log.warning(
                "%s: values of these types have no hash, so changes in them do not change the fingerprint: %s.",
                target,
                few(left_out),
            )
        return measurement(declared.fingerprint, result)

    def _list_columns(self, target: SyncTarget, place: _Place, deadline: float) -> dict[str, str]:
        catalog_id = place.catalog_id
        if catalog_id is None:
            catalog_id = self._look_up(target, deadline).catalog_id or ""
        listed = self._ask(calls.list_columns(catalog_id, *place.table[1:]), deadline)
        return {column.name: column.data_type for column in listed}

    def _look_up(self, target: SyncTarget, deadline: float) -> _Place:
        """The table of a cache that the definition names by id only."""
        cache = self._ask(calls.get_cache(target.cache_id), deadline)
        with self._lock:  # others ask at the same time, and one answer serves all
            if self._catalogs is None:
                catalogs = self._ask(calls.list_catalogs(), deadline)
                self._catalogs = {catalog.id: catalog.name for catalog in catalogs}
        catalog = self._catalogs.get(cache.catalog_id or "")
        if not (catalog and cache.schema_name and cache.table_name):
            raise PeakaResponseError("Peaka does not say which table it copies.")
        return _Place(TableName(catalog, cache.schema_name, cache.table_name), cache.catalog_id)

    def _ask(self, call: Call[T], deadline: float) -> T:
        ((_, answer),) = self._client.collect([(None, call)], timeout=deadline - time.monotonic())
        if isinstance(answer, PeakaError):
            raise answer
        return answer.value


def is_measured(declared: DeclaredCache) -> bool:
    """Whether anything is to be asked about a cache's table."""
    return declared.row_count is RowCount.QUERY or declared.fingerprint is not None


def _not_had(declared: DeclaredCache) -> str:
    if declared.fingerprint is None:
        return "its rows could not be counted"
    return "its fingerprint could not be had, so its data version is the execution's id"
