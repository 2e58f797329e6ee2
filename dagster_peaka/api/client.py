"""PeakaClient: Peaka's API in Python, one method an endpoint. Needs no Dagster around it."""

from __future__ import annotations

import concurrent.futures
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from types import TracebackType
from typing import Protocol, TypeVar

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Answer, Call
from dagster_peaka.api.models import (
    CacheCreation,
    CacheExecution,
    CacheRequest,
    CacheSchedule,
    CacheSettings,
    CacheStatus,
    Catalog,
    Column,
    QueryResult,
    Schema,
    SyncMode,
    Table,
)
from dagster_peaka.errors import PeakaConfigError, PeakaConnectionError, PeakaError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

AT_ONCE = 256
"""Calls of one collection begun and not yet answered; how many are on their way, the client limits."""

ZONES = {
    "us": "https://partner.peaka.studio/api/v1",
    "eu": "https://partner.eu.peaka.studio/api/v1",
}
"""The base URLs of Peaka's zones, as its OpenAPI document lists them."""


FEW = 3
"""Up to so many waiting caches are looked at one by one; more are read by one listing."""


class Client(Protocol):
    """What the runner needs of :class:`dagster_peaka.PeakaClient`."""

    def start(self, call: Call[T]) -> Future[Answer[T]]:
        """Begin to send ``call``."""
        ...


class PeakaClient:
    """Peaka's API for one project.

    A context manager, safe to share between threads; requests go over one connection pool. Reads are retried on
    connection errors, timeouts, 429, 502, 503 and 504 with exponential backoff and full jitter, honouring
    ``Retry-After`` up to 30 seconds. Anything that changes something is sent again only when it surely was not taken
    (connection refused, connect timeout, 429); if its answer is lost, :class:`PeakaUnknownOutcomeError` leaves the
    decision to the caller.

    Args:
        api_key: a Partner key (every project) or a Project key (its own project).
        project_id: the project whose caches are meant.
        base_url: ``https`` address of the API; ``http`` is accepted for loopback only. Default: the US zone.
        request_timeout: seconds for one attempt at a request, from connecting to the last byte.
        request_max_retries: repetitions of a request at most.
        max_concurrent_requests: requests under way at once at most.

    Raises:
        PeakaConfigError: for an argument that cannot work. Methods raise what :mod:`dagster_peaka.errors` draws.

    Example:
        .. code-block:: python

            from dagster_peaka import PeakaClient

            with PeakaClient(api_key, project_id, base_url) as client:
                for status in client.list_cache_statuses():
                    print(status.schema_name, status.table_name, status.last_incremental)
    """

    def __init__(
        self,
        api_key: str,
        project_id: str,
        base_url: str = ZONES["us"],
        *,
        request_timeout: float = 30.0,
        request_max_retries: int = 4,
        max_concurrent_requests: int = 16,
    ) -> None:
        project_id = (project_id or "").strip()
        if not project_id:
            raise PeakaConfigError("project_id is empty: set it to the id in the project's address in Peaka.")
        if not (math.isfinite(request_timeout) and request_timeout > 0):
            raise PeakaConfigError("request_timeout must be a number of seconds above 0.")
        if request_max_retries < 0:
            raise PeakaConfigError("request_max_retries must be 0 or more.")
        if max_concurrent_requests < 1:
            raise PeakaConfigError("max_concurrent_requests must be 1 or more.")
        # Not before it is needed: httpx takes longer to import than all of this package, and a code location that
        # only loads its definitions sends nothing.
        from dagster_peaka.api.connection import Connection

        self._connection = Connection(
            api_key,
            project_id,
            base_url,
            request_timeout=request_timeout,
            request_max_retries=request_max_retries,
            max_concurrent_requests=max_concurrent_requests,
        )
        self._project_id = project_id

    @property
    def project_id(self) -> str:
        """The project that every request names."""
        return self._project_id

    def __repr__(self) -> str:
        return f"<PeakaClient for project {self._project_id!r}>"

    def __enter__(self) -> PeakaClient:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop requests under way and close the connections. The client cannot be used afterwards."""
        self._connection.close()

    def start(self, call: Call[T]) -> Future[Answer[T]]:
        """Begin to send a call of :mod:`dagster_peaka.api.calls` without waiting for its answer."""
        return self._connection.start(call)

    def collect(
        self,
        wanted: Iterable[tuple[K, Call[T]]],
        *,
        timeout: float | None = None,
        still: Callable[[K], bool] = lambda _: True,
    ) -> Iterator[tuple[K, Answer[T] | PeakaError]]:
        """Send many calls side by side; yield each key with its answer, or why there is none, in the calls' order.

        Args:
            wanted: the calls, each with a key; taken as places become free.
            timeout: seconds for all of them; what has not been answered then yields a
                :class:`PeakaConnectionError`.
            still: asked before a call is sent and again before its answer is waited for; where it says no, the call
                is dropped and nothing is yielded.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        begun = ((key, self._begun(call)) for key, call in wanted if still(key))
        waiting: deque[tuple[K, Future[Answer[T]]]] = deque()
        try:
            waiting.extend(islice(begun, AT_ONCE))
            while waiting:
                key, future = waiting.popleft()
                if still(key):
                    yield key, _outcome(future, deadline)
                future.cancel()
                waiting.extend(islice(begun, 1))
        finally:
            for _, future in waiting:
                future.cancel()

    def _begun(self, call: Call[T]) -> Future[Answer[T]]:
        try:
            return self.start(call)
        except PeakaError as error:  # an id or a name that no request can carry
            failed: Future[Answer[T]] = Future()
            failed.set_exception(error)
            return failed

    def _answer(self, call: Call[T]) -> T:
        return self._connection.answer(call).value

    # Caches

    def list_cache_statuses(
        self, catalog_id: str | None = None, schema_name: str | None = None
    ) -> list[CacheStatus]:
        """The status of every cache of the project, of one catalog, or of one schema of it: one request."""
        return self._answer(calls.list_cache_statuses(catalog_id, schema_name))

    def get_cache_status(self, cache_id: str, *, exclude_logs: bool = True) -> CacheStatus:
        """The status of one cache: its newest execution of each mode. ``exclude_logs`` keeps the answer small."""
        return self._answer(calls.get_cache_status(cache_id, exclude_logs))

    def get_cache(self, cache_id: str) -> CacheSettings:
        """What a cache copies, and its two schedules."""
        return self._answer(calls.get_cache(cache_id))

    def get_execution_history(
        self, cache_id: str, *, limit: int = 10, offset: int = 0
    ) -> list[CacheExecution]:
        """Executions of both modes, newest first; Peaka keeps them for 14 days."""
        return self._answer(calls.get_execution_history(cache_id, limit, offset))

    def trigger_incremental_update(self, cache_id: str) -> None:
        """Ask for an incremental update. Peaka's answer names no execution: look at the status to find it."""
        self._answer(calls.trigger(cache_id, SyncMode.INCREMENTAL))

    def trigger_full_refresh(self, cache_id: str) -> None:
        """Ask for a full refresh. Peaka's answer names no execution: look at the status to find it."""
        self._answer(calls.trigger(cache_id, SyncMode.FULL_REFRESH))

    def cancel_incremental_update(self, cache_id: str) -> None:
        """Ask Peaka to stop the incremental update that runs, whoever started it. It keeps the rows it had synced.

        Returns before anything has stopped.

        Raises:
            PeakaNotFoundError: when no incremental update runs.
        """
        self._answer(calls.cancel(cache_id, SyncMode.INCREMENTAL))

    def cancel_full_refresh(self, cache_id: str) -> None:
        """Ask Peaka to stop the full refresh that runs, whoever started it. The data from before it stays.

        Returns before anything has stopped.

        Raises:
            PeakaNotFoundError: when no full refresh runs.
        """
        self._answer(calls.cancel(cache_id, SyncMode.FULL_REFRESH))

    def create_cache(
        self,
        catalog_id: str,
        schema_name: str,
        table_name: str,
        *,
        incremental_schedule: str | None = None,
        full_refresh_schedule: str | None = None,
    ) -> CacheSettings:
        """Cache a table. Its first sync starts at once.

        Schedules are ISO-8601 durations (``PT6H``: every six hours); None means that Peaka starts no sync by itself.

        Raises:
            PeakaApiError: 409 when the table is cached already; 400 with ``error_code`` ``TABLE_NOT_CACHEABLE``.
        """
        request = CacheRequest(
            catalog_id=catalog_id,
            schema_name=schema_name,
            table_name=table_name,
            incremental_schedule=incremental_schedule,
            full_refresh_schedule=full_refresh_schedule,
        )
        return self._answer(calls.create_cache(request))

    def create_caches(self, requests: Sequence[CacheRequest]) -> list[CacheCreation]:
        """Cache several tables in one request; each may succeed or fail by itself. Results come in the same order."""
        return self._answer(calls.create_caches(requests))

    def update_cache(
        self, cache_id: str, *, incremental_schedule: str | None, full_refresh_schedule: str | None
    ) -> CacheSettings:
        """Set both schedules of a cache; None means never.

        Peaka's documents disagree on whether a schedule that is not sent stays, so both are always sent.
        """
        return self._answer(
            calls.update_cache(
                cache_id,
                CacheSchedule.every(incremental_schedule),
                CacheSchedule.every(full_refresh_schedule),
            )
        )

    def delete_cache(self, cache_id: str) -> None:
        """Delete a cache with its data and history, for good. What runs is cancelled."""
        self._answer(calls.delete_cache(cache_id))

    # Catalogs and queries

    def list_catalogs(self) -> list[Catalog]:
        """The data sources of the project."""
        return self._answer(calls.list_catalogs())

    def list_schemas(self, catalog_id: str) -> list[Schema]:
        """The schemas of a catalog."""
        return self._answer(calls.list_schemas(catalog_id))

    def list_tables(self, catalog_id: str, schema_name: str) -> list[Table]:
        """The tables of a schema, with the modes in which each can be cached."""
        return self._answer(calls.list_tables(catalog_id, schema_name))

    def list_columns(self, catalog_id: str, schema_name: str, table_name: str) -> list[Column]:
        """The columns of a table, with Trino's names of their types."""
        return self._answer(calls.list_columns(catalog_id, schema_name, table_name))

    def execute_query(
        self, statement: str, *, bindings: Sequence[str] = (), timeout: int | None = None
    ) -> QueryResult:
        """Run one SQL statement in Trino's dialect; tables are written ``"catalog"."schema"."table"``.

        Args:
            bindings: values for the statement's ``?`` marks, in order.
            timeout: seconds that Peaka may take; the client waits so much longer than ``request_timeout``.

        Raises:
            PeakaUnknownOutcomeError: when the answer was lost. A statement may write, so it is not sent again.

        Example:
            .. code-block:: python

                result = client.execute_query('SELECT count(*) AS n FROM "shop"."public"."orders"')
                print(result.rows[0]["n"])
        """
        return self._answer(calls.execute_query(statement, bindings, timeout))


def _outcome(future: Future[Answer[T]], deadline: float | None) -> Answer[T] | PeakaError:
    try:
        return future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except concurrent.futures.TimeoutError:
        return PeakaConnectionError("Peaka has not answered in the time that there was.")
    except PeakaError as error:
        return error
