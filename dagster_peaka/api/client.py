"""PeakaClient: Peaka's API in Python, one method an endpoint. Needs no Dagster around it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from dagster_peaka.api import calls
from dagster_peaka.api.models import (
    CacheCreation,
    CacheExecution,
    CacheRequest,
    CacheSchedule,
    CacheSettings,
    CacheStatus,
    Catalog,
    Column,
    KeyInfo,
    QueryResult,
    Schema,
    SyncMode,
    Table,
)
from dagster_peaka.api.queries import PeakaQueries
from dagster_peaka.api.session import Session
from dagster_peaka.errors import (
    PeakaApiError,
    PeakaError,
    PeakaNotFoundError,
    PeakaPermissionError,
    PeakaResponseError,
    PeakaServerError,
    PeakaUnknownOutcomeError,
)

NOT_LISTED = (PeakaNotFoundError, PeakaPermissionError, PeakaResponseError, PeakaServerError)
"""Errors after which a listing is replaced by the next wider one, and in the end by single statuses."""

FEW = 3
"""Up to so many waiting caches are polled one by one; more are read by one listing."""


class PeakaClient(Session):
    """Peaka's API for one project.

    A context manager, safe to share between threads; requests go over one connection pool. Reads, and queries are
    reads, are retried on connection errors, timeouts, 429, 502, 503 and 504 with exponential backoff and full jitter,
    honouring ``Retry-After`` up to 30 seconds. Anything that changes something is sent again only when it surely was
    not taken (connection refused, connect timeout, 429); if its answer is lost, :class:`PeakaUnknownOutcomeError`
    leaves the decision to the caller.

    Args:
        api_key: a Partner key (every project) or a Project key (its own project).
        project_id: the project whose caches are meant.
        base_url: ``https`` address of the API, in place of its zone's; ``http`` is accepted for loopback only.
        zone: the zone of the account, ``us`` or ``eu``.
        studio_url: a template of the addresses at which a person finds a cache, such as
            ``https://peaka.example/{project_id}/{cache_id}``, for :meth:`cache_url`.
        studio_query_url: likewise for materialized queries, with ``{query_id}``, for :meth:`query_url`.
        request_timeout: seconds for one attempt at a request, from connecting to the last byte.
        request_max_retries: repetitions of a request at most.
        max_concurrent_requests: requests under way at once at most.
        max_response_bytes: bytes that an answer may have, decoded; by default 64 MiB, and 256 MiB for listings of
            caches, which may carry logs.
        read_only: refuse whatever changes something, by a :class:`PeakaConfigError`, before it is sent.

    Raises:
        PeakaConfigError: for an argument that cannot work. Methods raise other kinds of :class:`PeakaError`.

    Example:
        .. code-block:: python

            from dagster_peaka import PeakaClient

            with PeakaClient(api_key, project_id, base_url) as client:
                for status in client.list_cache_statuses():
                    print(status.schema_name, status.table_name, status.last_incremental)
    """

    @cached_property
    def queries(self) -> PeakaQueries:
        """Saved queries, and the refreshes of those that are materialized."""
        return PeakaQueries(self._answer)

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
        """Ask for an incremental update. Peaka's answer names no execution: read the status to find it."""
        self._answer(calls.trigger(cache_id, SyncMode.INCREMENTAL))

    def trigger_full_refresh(self, cache_id: str) -> None:
        """Ask for a full refresh. Peaka's answer names no execution: read the status to find it."""
        self._answer(calls.trigger(cache_id, SyncMode.FULL_REFRESH))

    def cancel_incremental_update(self, cache_id: str) -> bool:
        """Ask Peaka to stop the incremental update that runs, whoever started it. It keeps the rows it had synced.

        Returns before anything has stopped: True when there was something to stop, False when nothing of that mode
        ran.
        """
        return self._cancel(cache_id, SyncMode.INCREMENTAL)

    def cancel_full_refresh(self, cache_id: str) -> bool:
        """Ask Peaka to stop the full refresh that runs, whoever started it. The data from before it stays.

        Returns before anything has stopped: True when there was something to stop, False when nothing of that mode
        ran.
        """
        return self._cancel(cache_id, SyncMode.FULL_REFRESH)

    def _cancel(self, cache_id: str, mode: SyncMode) -> bool:
        try:
            self._answer(calls.cancel(cache_id, mode))
        except PeakaNotFoundError:
            return False
        except PeakaUnknownOutcomeError as error:
            # 500 was seen where a full refresh had no record yet: the status tells whether there is something to stop.
            if error.status_code != 500 or self._may_run(cache_id, mode):
                raise
            return False
        return True

    def _may_run(self, cache_id: str, mode: SyncMode) -> bool:
        """Whether an execution of a mode runs, as far as can be told."""
        try:
            shown = self.get_cache_status(cache_id).last(mode)
        except PeakaError:
            return True
        return shown is not None and not shown.ended

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
        A table that is cached already is left as it is, whether Peaka answers 409 or, as was seen, 200: the result then
        has ``existed`` True and the schedules that the cache has. Two creations at once were both seen to be answered
        200: then both results name the same cache and say that it is new.

        Raises:
            PeakaApiError: 400 when the table cannot be cached; ``reason`` says why.
            PeakaUnknownOutcomeError: when the answer was lost, or a 5xx: Peaka answers so while the first sync of an
                existing cache runs, and the message then says so.
        """
        request = CacheRequest(
            catalog_id=catalog_id,
            schema_name=schema_name,
            table_name=table_name,
            incremental_schedule=incremental_schedule,
            full_refresh_schedule=full_refresh_schedule,
        )
        try:
            settings = self._answer(calls.create_cache(request))
        except PeakaUnknownOutcomeError as error:
            found = self._cache_of(request) if error.status_code == 500 else None
            if found is None:
                raise
            problem = PeakaUnknownOutcomeError(
                f"{error} The table has cache {found.id} by now: Peaka answers so while the first sync of a cache "
                "runs, and that sync goes on. Wait for it to end; nothing is to be repeated.",
                status_code=error.status_code,
            )
        except PeakaApiError as error:
            found = self._cache_of(request) if error.status_code == 409 else None
            if found is None:
                raise
            return self.get_cache(found.id).model_copy(update={"existed": True})
        else:
            return settings.model_copy(update={"existed": self._has_synced(settings.id)})
        raise problem

    def _has_synced(self, cache_id: str) -> bool | None:
        """Whether a sync of a cache has ended; None where that cannot be told. The first one takes seconds."""
        try:
            status = self.get_cache_status(cache_id)
        except PeakaError:
            return None
        lasts = [status.last(mode) for mode in SyncMode]
        return any(last is not None and last.ended for last in lasts)

    def _cache_of(self, request: CacheRequest) -> CacheStatus | None:
        """The cache of a table, where one is listed."""
        try:
            statuses = self.list_cache_statuses(request.catalog_id)
        except PeakaError:
            return None  # what the creation was answered is all that can be said
        for status in statuses:
            if (status.schema_name, status.table_name) == (request.schema_name, request.table_name):
                return None if status.deleted else status
        return None

    def create_caches(self, requests: Sequence[CacheRequest]) -> list[CacheCreation]:
        """Cache several tables in one request; each may succeed or fail by itself. Results come in the same order."""
        return self._answer(calls.create_caches(requests))

    def update_cache(
        self, cache_id: str, *, incremental_schedule: str | None, full_refresh_schedule: str | None
    ) -> CacheSettings:
        """Set both schedules of a cache; None means never.

        Peaka's documents disagree on whether a schedule that is not sent stays, so both are always sent. What it keeps
        is read back, because a schedule that it does not understand was seen to be answered with 200 and ignored.

        Raises:
            PeakaResponseError: when Peaka has kept the old schedule.
        """
        wanted = (CacheSchedule.every(incremental_schedule), CacheSchedule.every(full_refresh_schedule))
        settings = self._answer(calls.update_cache(cache_id, *wanted))
        kept = self.get_cache(cache_id)
        schedules = (kept.incremental_schedule, kept.full_refresh_schedule)
        for name, now, new in zip(("incremental", "full refresh"), schedules, wanted, strict=True):
            if not new.means(now):
                old = now.expression if now else None
                raise PeakaResponseError(
                    f"Peaka answered that cache {cache_id} is changed, and keeps its {name} schedule "
                    f"({old or 'never'}) instead of {new.expression or 'never'}: check that it is an ISO-8601 duration "
                    "such as 'PT6H'."
                )
        return settings

    def delete_cache(self, cache_id: str) -> None:
        """Delete a cache with its data and history, for good. What runs is cancelled."""
        self._answer(calls.delete_cache(cache_id))

    # The key, catalogs and queries

    def get_key_info(self) -> KeyInfo:
        """The project that the key belongs to. Not in Peaka's document, so it may be missing.

        Raises:
            PeakaNotFoundError: where Peaka does not offer it.
        """
        return self._answer(calls.get_key_info())

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
        """Run one SELECT in Trino's dialect; tables are written ``"catalog"."schema"."table"``.

        Peaka was seen to refuse statements that write, so a query is retried like any read, also when its answer was
        lost.

        Args:
            bindings: values for the statement's ``?`` marks, in order.
            timeout: seconds that Peaka may take; each attempt may last so much longer than ``request_timeout``.

        Raises:
            PeakaApiError: 400 for a statement that Peaka does not understand or that writes; ``reason`` says why.

        Example:
            .. code-block:: python

                result = client.execute_query('SELECT count(*) AS n FROM "shop"."public"."orders"')
                print(result.rows[0]["n"])
        """
        return self._answer(calls.execute_query(statement, bindings, timeout))
