"""Each endpoint as a value: what to send and how to read the answer. Pure: no connection, no waiting.

A :class:`Call` is sent by :mod:`dagster_peaka.api.connection`. Paths, parameters and shapes are those of Peaka's
OpenAPI document; what its answers may look like is in :mod:`dagster_peaka.api.models`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

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
from dagster_peaka.api.query_models import QueryStatus, SavedQuery
from dagster_peaka.errors import PeakaConfigError, PeakaResponseError

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request: ``segments`` are the path's parts below the project, still unencoded.

    ``parse`` turns the decoded JSON into the result; ``needs_json`` is False where the answer's body says nothing:
    ``parse`` then gets it as text, whatever it is.
    ``changes`` is True for what must not be sent twice by accident. ``subject`` names the object for error
    messages. ``takes`` is the seconds that Peaka was given for it, over and above what any request may take.
    ``exact`` has numbers with a fraction parsed as Decimal. ``resent`` is False where only the caller may send it
    again. ``fresh`` is True where an answer from a cache in between is no answer. ``most`` is how many bytes its
    answer may have, decoded. ``in_project`` is False for what lies beside the projects.
    """

    method: str
    segments: tuple[str, ...]
    parse: Callable[[Any], T]
    subject: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Any = None
    changes: bool = False
    needs_json: bool = True
    takes: float = 0.0
    exact: bool = False
    resent: bool = True
    fresh: bool = False
    most: int = 64 * 2**20
    in_project: bool = True

    def path(self, project_id: str) -> str:
        """The path below ``base_url``, percent-encoded.

        Raises:
            PeakaConfigError: for an empty part, ``.`` or ``..``, which no encoding keeps inside its place.
        """
        below = "".join(f"/{_encoded(part, self.subject)}" for part in self.segments)
        return f"/data/projects/{_encoded(project_id, 'the project id')}{below}" if self.in_project else below


LISTING_BYTES = 256 * 2**20
"""Bytes that a listing may have: unlike a single status, it cannot be asked for without logs."""


@dataclass(frozen=True)
class Answer(Generic[T]):
    """A call's result, and Peaka's clock (the ``Date`` header, whole seconds) when it was given, if it said so."""

    value: T
    server_time: datetime | None


def _encoded(part: str, subject: str) -> str:
    if part in ("", ".", ".."):
        raise PeakaConfigError(
            f"{part!r} cannot be part of a request's path ({subject}): check that id or name."
        )
    try:
        return quote(part, safe="")
    except UnicodeEncodeError:
        raise PeakaConfigError(f"{part!r} is not valid Unicode: check that id or name.") from None


def _kind(data: Any) -> str:
    kinds = {
        dict: "an object",
        list: "an array",
        str: "a text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return next((words for kind, words in kinds.items() if isinstance(data, kind)), "null")


def _one(model: type[M]) -> Callable[[Any], M]:
    def parse(data: Any) -> M:
        if not isinstance(data, dict):
            raise PeakaResponseError(f"it should be a JSON object ({model.__name__}) and is {_kind(data)}")
        try:
            return model.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
        where = ".".join(str(part) for part in (model.__name__, *first["loc"]))
        raise PeakaResponseError(f"its {where} is unusable ({first['msg']})")

    return parse


def _each(model: type[M]) -> Callable[[Any], list[M]]:
    """A parser of arrays whose places matter: one bad entry makes the whole answer unreadable."""
    parse_one = _one(model)
    return lambda data: [parse_one(entry) for entry in _entries(model, data)]


def _many(model: type[M]) -> Callable[[Any], list[M]]:
    """A parser of arrays that leaves out what it cannot read: one bad entry does not hide the others."""
    parse_one = _one(model)

    def parse(data: Any) -> list[M]:
        readable: list[M] = []
        for entry in _entries(model, data):
            with suppress(PeakaResponseError):
                readable.append(parse_one(entry))
        return readable

    return parse


def _entries(model: type[BaseModel], data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise PeakaResponseError(f"it should be a JSON array of {model.__name__} and is {_kind(data)}")
    return cast("list[Any]", data)


def _nothing(_: Any) -> None:
    return None


def get_key_info() -> Call[KeyInfo]:
    return Call("GET", ("info",), _one(KeyInfo), "the key", in_project=False)


def list_cache_statuses(
    catalog_id: str | None = None, schema_name: str | None = None
) -> Call[list[CacheStatus]]:
    if schema_name is not None and catalog_id is None:
        raise PeakaConfigError(
            "schema_name needs catalog_id: a schema's caches are listed within its catalog."
        )
    if catalog_id is None:
        segments, subject = ("cache", "status"), "the project's caches"
    elif schema_name is None:
        segments, subject = ("catalog", catalog_id, "cache", "status"), f"catalog {catalog_id}"
    else:
        segments = ("catalog", catalog_id, "schema", schema_name, "cache", "status")
        subject = f"schema {schema_name} of catalog {catalog_id}"
    return Call("GET", segments, _many(CacheStatus), subject, most=LISTING_BYTES, fresh=True)


def _of_cache(
    method: str, cache_id: str, rest: tuple[str, ...], parse: Callable[[Any], T], **more: Any
) -> Call[T]:
    if not rest and cache_id == "status":
        raise PeakaConfigError(
            "'status' is the path of all caches' statuses and no cache's id: check that id."
        )
    return Call(method, ("cache", cache_id, *rest), parse, f"cache {cache_id}", **more)


def get_cache_status(cache_id: str, exclude_logs: bool = True) -> Call[CacheStatus]:
    query = {"excludeLogs": "true"} if exclude_logs else {}
    return _of_cache("GET", cache_id, ("status",), _one(CacheStatus), query=query, fresh=True)


def get_cache(cache_id: str) -> Call[CacheSettings]:
    return _of_cache("GET", cache_id, (), _one(CacheSettings))


def get_execution_history(cache_id: str, limit: int = 10, offset: int = 0) -> Call[list[CacheExecution]]:
    query = {"limit": str(limit), "offset": str(offset)}
    return _of_cache("GET", cache_id, ("executionHistory",), _many(CacheExecution), query=query, fresh=True)


_TRIGGER_PATHS = {SyncMode.INCREMENTAL: "incrementalUpdate", SyncMode.FULL_REFRESH: "fullRefreshUpdate"}
_CANCEL_PATHS = {
    SyncMode.INCREMENTAL: "cancelIncrementalUpdate",
    SyncMode.FULL_REFRESH: "cancelFullRefreshUpdate",
}


def trigger(cache_id: str, mode: SyncMode, resent: bool = True) -> Call[None]:
    rest = (_TRIGGER_PATHS[mode],)
    return _of_cache("POST", cache_id, rest, _nothing, changes=True, needs_json=False, resent=resent)


def cancel(cache_id: str, mode: SyncMode) -> Call[None]:
    return _of_cache("POST", cache_id, (_CANCEL_PATHS[mode],), _nothing, changes=True, needs_json=False)


def create_cache(request: CacheRequest) -> Call[CacheSettings]:
    subject = f"the cache of {request.schema_name}.{request.table_name} in catalog {request.catalog_id}"
    return Call("POST", ("cache",), _one(CacheSettings), subject, body=request.as_json(), changes=True)


def create_caches(requests: Sequence[CacheRequest]) -> Call[list[CacheCreation]]:
    body = [request.as_json() for request in requests]
    return Call(
        "POST", ("cache", "batch"), _each(CacheCreation), f"{len(body)} caches", body=body, changes=True
    )


def update_cache(
    cache_id: str, incremental_schedule: CacheSchedule, full_refresh_schedule: CacheSchedule
) -> Call[CacheSettings]:
    body = {
        "incrementalCacheSchedule": incremental_schedule.as_json(),
        "fullRefreshCacheSchedule": full_refresh_schedule.as_json(),
    }
    return _of_cache("PUT", cache_id, (), _one(CacheSettings), body=body, changes=True)


def delete_cache(cache_id: str) -> Call[None]:
    return _of_cache("DELETE", cache_id, (), _nothing, changes=True, needs_json=False)


def list_catalogs() -> Call[list[Catalog]]:
    return Call("GET", ("catalogs",), _many(Catalog), "the project's catalogs")


def list_schemas(catalog_id: str) -> Call[list[Schema]]:
    return Call("GET", ("catalogs", catalog_id, "schemas"), _many(Schema), f"catalog {catalog_id}")


def list_tables(catalog_id: str, schema_name: str) -> Call[list[Table]]:
    segments = ("catalogs", catalog_id, "schemas", schema_name, "tables")
    return Call("GET", segments, _many(Table), f"schema {schema_name} of catalog {catalog_id}")


def list_columns(catalog_id: str, schema_name: str, table_name: str) -> Call[list[Column]]:
    segments = ("catalogs", catalog_id, "schemas", schema_name, "tables", table_name, "columns")
    return Call("GET", segments, _many(Column), f"table {schema_name}.{table_name} of catalog {catalog_id}")


def list_queries() -> Call[list[SavedQuery]]:
    return Call("GET", ("queries",), _many(SavedQuery), "the project's queries")


def get_query(query_id: str) -> Call[SavedQuery]:
    return Call("GET", ("queries", query_id), _one(SavedQuery), f"query {query_id}")


def unschedule_query(query: SavedQuery) -> Call[SavedQuery]:
    # All of it: what is left out stays, says Peaka's document, and also that a query is PLAIN by default.
    body = {
        "displayName": query.display_name or query.name,
        "inputQuery": query.sql,
        "queryType": query.query_type,
        "schedule": {"type": "none"},
        **({} if query.path is None else {"path": query.path}),
    }
    return Call("PUT", ("queries", query.id), _one(SavedQuery), f"query {query.id}", body=body, changes=True)


def list_query_statuses() -> Call[list[QueryStatus]]:
    segments = ("materialized-queries", "status")
    return Call("GET", segments, _many(QueryStatus), "the project's materialized queries", fresh=True)


def get_query_status(query_id: str) -> Call[QueryStatus]:
    segments = ("materialized-queries", query_id, "status")
    return Call("GET", segments, _one(QueryStatus), f"query {query_id}", fresh=True)


def refresh_query(query_id: str, resent: bool = True) -> Call[None]:
    segments = ("materialized-queries", query_id, "refresh")
    return Call(
        "POST", segments, _nothing, f"query {query_id}", changes=True, needs_json=False, resent=resent
    )


def cancel_query(query_id: str) -> Call[None]:
    segments = ("materialized-queries", query_id, "cancel")
    return Call("POST", segments, _nothing, f"query {query_id}", changes=True, needs_json=False)


def execute_query(
    statement: str, bindings: Sequence[str] = (), timeout: int | None = None
) -> Call[QueryResult]:
    body: dict[str, Any] = {"statement": statement}
    if bindings:
        body["bindings"] = list(bindings)
    if timeout is not None:
        body["timeout"] = timeout
    # Not marked as changing anything: Peaka was seen to refuse statements that write, so every query is a read.
    return Call(
        "POST",
        ("queries", "execute"),
        _one(QueryResult),
        "the query",
        {"format": "CELL_TYPED"},  # the one form that tells types
        body,
        takes=timeout or 0,
        exact=True,
    )
