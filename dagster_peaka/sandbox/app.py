"""The HTTP side: Peaka's operations as routes, and one front that records, misbehaves, authorizes and answers.

Every route is named after its operationId in Peaka's OpenAPI document. A request goes through `Front.__call__`:
record -> fault -> key -> project -> operation -> Date -> send, or the connection dropped.
"""

import asyncio
import hmac
import json
import sqlite3
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import partial
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from dagster_peaka.sandbox import bodies
from dagster_peaka.sandbox.behaviour import MODES, Fault, Mode
from dagster_peaka.sandbox.caches import Cache, set_within
from dagster_peaka.sandbox.errors import ApiError, bad_request, not_found, server_error
from dagster_peaka.sandbox.executions import Engine
from dagster_peaka.sandbox.sources import Table, TableName, catalog_id
from dagster_peaka.sandbox.store import StoreFailed
from dagster_peaka.sandbox.wire import Json, Wire

PREFIX = "/api/v1"
CACHE = "/cache/{cacheId}"
TABLES = "/catalogs/{catalogId}/schemas/{schemaName}/tables"
IN_SCHEMA = "/catalog/{catalogId}/schema/{schemaName}"
BUILT_IN = {"1": ("peaka", "internal"), "2": ("peaka", "query")}
"""The catalogs that every project has, says Peaka's document; here they are empty."""
TRIGGERS = ("incrementalUpdateCache", "fullRefreshCache")
Operation = Callable[[Request], Awaitable[Response]]
Row = tuple[str, str, str, Operation]
"""An operation's method, path in the project and operationId, and what answers it."""


def routes_of(operations: Sequence[Row]) -> list[Route]:
    """One route an operation."""
    project = f"{PREFIX}/data/projects/{{projectId}}"
    return [Route(project + path, act, methods=[method], name=name) for method, path, name, act in operations]


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer, in ASCII: a lone surrogate that a request brought must not break it."""
    return Response(json.dumps(body), status, headers, "application/json")


class Operations:
    """Peaka's operations on an engine. Each returns its 200, or raises `ApiError`."""

    def __init__(self, engine: Engine, wire: Wire) -> None:
        self._engine = engine
        self._wire = wire
        self._behaviour = engine.behaviour

    def routes(self) -> list[Route]:
        trigger, cancel = self._trigger, self._cancel
        delta, full = MODES
        operations: list[Row] = [
            ("GET", "/catalogs", "listCatalogs", self.list_catalogs),
            ("GET", "/catalogs/{catalogId}/schemas", "listSchemas", self.list_schemas),
            ("GET", TABLES, "listTables_1", self.list_tables),
            ("GET", f"{TABLES}/{{tableName}}/columns", "listColumns_1", self.list_columns),
            ("GET", f"{TABLES}/{{tableName}}/isCached", "isCached", self.is_cached),
            ("POST", "/queries/execute", "executeQuery", self.execute_query),
            ("POST", "/cache", "createCache", self.create_cache),
            ("POST", "/cache/batch", "createBatchCache", self.create_batch),
            ("GET", "/cache/status", "getCacheStatusByProject", self.statuses),
            ("GET", CACHE, "getCacheSettings", self.settings),
            ("PUT", CACHE, "updateCacheSettings", self.update),
            ("DELETE", CACHE, "deleteCache", self.delete),
            ("POST", f"{CACHE}/cancelFullRefreshUpdate", "cancelFullRefreshCache", partial(cancel, full)),
            ("POST", f"{CACHE}/cancelIncrementalUpdate", "cancelIncrementalCache", partial(cancel, delta)),
            ("GET", f"{CACHE}/executionHistory", "getCacheExecutionHistory", self.history),
            ("POST", f"{CACHE}/fullRefreshUpdate", "fullRefreshCache", partial(trigger, full)),
            ("POST", f"{CACHE}/incrementalUpdate", "incrementalUpdateCache", partial(trigger, delta)),
            ("GET", f"{CACHE}/status", "getCacheStatus", self.status),
            ("GET", "/catalog/{catalogId}/cache/status", "getCacheStatusByCatalog", self.statuses),
            ("GET", f"{IN_SCHEMA}/cache/status", "getCacheStatusBySchema", self.statuses),
        ]
        info = Route(f"{PREFIX}/info", self.info, methods=["GET"], name="getInfo")
        return [info, *routes_of(operations)]

    async def info(self, request: Request) -> Response:  # noqa: ARG002 - an operation like the others
        """Whose key it is. Peaka's own tools ask for it; its document does not name it."""
        if self._behaviour.info == "missing":
            raise not_found("There is no such path in Peaka's API.")
        return answer(self._wire.info())

    async def list_catalogs(self, _: Request) -> Response:
        built_in = [self._wire.catalog(name, kind, number, None) for number, (name, kind) in BUILT_IN.items()]
        connected = [
            self._wire.catalog(name, "sqlite", catalog_id(name), str(uuid.uuid5(uuid.NAMESPACE_OID, name)))
            for name in self._engine.sources.catalogs
        ]
        return answer(built_in + connected)

    async def list_schemas(self, request: Request) -> Response:
        catalog = self._catalog(request) or ""  # a built-in one has no schemas
        schemas = self._engine.sources.schemas(catalog)
        return answer([self._wire.schema(catalog, schema) for schema in schemas])

    async def list_tables(self, request: Request) -> Response:
        catalog, schema = self._schema(request)
        tables = await self._engine.in_thread(self._engine.sources.tables, catalog, schema)
        names = [TableName(catalog, schema, table.name) for table in tables]
        is_cached = self._engine.is_cached
        return answer([self._wire.table(n, t, is_cached(n)) for n, t in zip(names, tables, strict=True)])

    async def list_columns(self, request: Request) -> Response:
        _, table = await self._table(request)
        return answer([self._wire.column(column) for column in table.columns])

    async def is_cached(self, request: Request) -> Response:
        name, table = await self._table(request)
        return answer(self._wire.caching(table, self._engine.is_cached(name)))

    async def execute_query(self, request: Request) -> Response:
        from dagster_peaka.sandbox import queries  # late: SQL's grammar takes its time to load

        form = request.query_params.get("format", "CELL_TYPED")
        if form not in queries.FORMATS:
            raise bad_request(f"format must be one of {', '.join(queries.FORMATS)}.")
        wanted = queries.requested(await bodies.object_of(request), self._engine)
        # Of arrays nobody has told.
        texts = self._behaviour.query_values == "text" and form != "COMPACT"
        result = await self._engine.in_thread(queries.run, self._engine, *wanted, texts)
        return answer(await self._engine.in_thread(queries.shaped, result, form))

    async def create_cache(self, request: Request) -> Response:
        return answer(await self._create(await bodies.object_of(request), request))

    async def create_batch(self, request: Request) -> Response:
        asked: Any = await bodies.json_of(request)
        if not isinstance(asked, list):
            raise bad_request("The body must be an array of cache requests.")
        results: list[Json] = []
        for body in cast("list[Any]", asked):
            try:
                cache = await self._create(bodies.as_object(body, "Each cache request"), request)
                results.append({"success": True, "cache": cache})
            except ApiError as error:
                results.append({"success": False, "error": str(error)})
        return answer(results)

    async def settings(self, request: Request) -> Response:
        return answer(self._wire.cache(self._cache(request)))

    async def update(self, request: Request) -> Response:
        cache = self._cache(request)
        body = await bodies.object_of(request)
        wanted, kept = bodies.schedules(body, lenient=self._behaviour.bad_schedule == "ignore")
        if self._behaviour.schedule_update == "replace":
            for mode in set(MODES) - kept:
                wanted.setdefault(mode, None)
        self._engine.reschedule(self._cache(request), wanted)
        return answer(self._wire.cache(cache))

    async def delete(self, request: Request) -> Response:
        await self._engine.delete(self._cache(request))
        return Response()

    async def status(self, request: Request) -> Response:
        cache = self._cache(request)
        without_logs = bodies.flag_parameter(request.query_params.get("excludeLogs", "false"), "excludeLogs")
        return answer(self._wire.status(cache, not without_logs))

    async def statuses(self, request: Request) -> Response:
        caches, behaviour = list(self._engine.caches.values()), self._behaviour
        if "schemaName" in request.path_params:
            within, answers = self._schema(request), behaviour.schema_statuses
            caches = [cache for cache in caches if cache.name[:2] == within]
        elif "catalogId" in request.path_params:
            catalog, answers = self._catalog(request), behaviour.catalog_statuses
            caches = [cache for cache in caches if cache.name.catalog == catalog]
        else:
            answers = behaviour.project_statuses
        if answers == "fail":
            raise server_error("The statuses of these caches cannot be listed.")
        return answer([self._wire.status(cache) for cache in caches])

    async def history(self, request: Request) -> Response:
        cache = self._cache(request)
        limit = bodies.number_parameter(request.query_params.get("limit", "10"), "limit", 1)
        offset = bodies.number_parameter(request.query_params.get("offset", "0"), "offset", 0)
        return answer(self._wire.history(cache, limit, offset))

    async def _trigger(self, mode: Mode, request: Request) -> Response:
        missing = request.path_params["cacheId"] not in self._engine.caches
        if missing and self._behaviour.missing_cache_trigger == "400":
            raise bad_request("Cache settings not found")
        self._engine.trigger(self._cache(request), mode, "api", request["record"].number)
        if self._behaviour.trigger_answer == "object":
            return answer(self._wire.triggered(mode))
        return Response("" if self._behaviour.trigger_answer == "empty" else "OK", media_type="text/plain")

    async def _cancel(self, mode: Mode, request: Request) -> Response:
        cache = self._cache(request)
        if not self._engine.cancel(cache, mode):
            raise not_found(f"No {mode} execution of cache {cache.id} is running.")
        return Response()

    async def _create(self, body: Json, request: Request) -> Json:
        number = body.get("catalogId")
        if not self._behaviour.ids_as_numbers or type(number) is not int:
            number = bodies.text(body, "catalogId")
        schema, table = bodies.text(body, "schemaName"), bodies.text(body, "tableName")
        schedules, _ = bodies.schedules(body)
        catalog = self._engine.sources.named(str(number))
        if catalog is None:
            raise bad_request(f"catalogId: there is no catalog {ascii(str(number))[:100]} in this project.")
        if schema not in self._engine.sources.schemas(catalog):
            raise bad_request(f"schemaName: the catalog {catalog} has no schema {ascii(schema)[:100]}.")
        name = TableName(catalog, schema, table)
        if self._engine.being_deleted(name):
            raise server_error(f"The cache of {name} is being deleted.")
        if name in self._engine.left_behind:
            raise server_error(f"The cache of {name} cannot be created.")
        try:
            return self._wire.cache(await self._engine.create(name, schedules, request["record"].number))
        except ApiError as error:
            if error.status != 409:
                raise
            cache = self._engine.by_table[name]
            at_once = request["record"].started_at <= cache.created_at
            if at_once and self._behaviour.create_at_once == "both":
                return self._wire.cache(cache)
            if self._behaviour.create_existing == "refuse":
                raise
            if cache.in_first_sync:
                raise server_error(f"The cache of {name} cannot be created.") from None
            return self._wire.cache(cache)

    def _cache(self, request: Request) -> Cache:
        cache_id = request.path_params["cacheId"]
        if cache_id not in self._engine.caches:
            raise not_found(f"There is no cache {ascii(cache_id)[:100]} in this project.")
        return self._engine.caches[cache_id]

    def _catalog(self, request: Request) -> str | None:
        """A catalog's name by its id, None for a built-in one."""
        number = request.path_params["catalogId"]
        if number in BUILT_IN:
            return None
        catalog = self._engine.sources.named(number)
        if catalog is None:
            raise not_found(f"There is no catalog {ascii(number)[:100]} in this project.")
        return catalog

    def _schema(self, request: Request) -> tuple[str, str]:
        catalog, schema = self._catalog(request), request.path_params["schemaName"]
        if catalog is None or schema not in self._engine.sources.schemas(catalog):
            number = request.path_params["catalogId"]
            raise not_found(f"The catalog {number} has no schema {ascii(schema)[:100]}.")
        return catalog, schema

    async def _table(self, request: Request) -> tuple[TableName, Table]:
        name = TableName(*self._schema(request), request.path_params["tableName"])
        table = await self._engine.in_thread(self._engine.sources.table, name)
        if table is None:
            raise not_found(f"There is no table {ascii(str(name))[:200]}.")
        return name, table


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


class Front:
    """The ASGI application. `drop` ends a connection, given its client's address, without an answer.

    `faults` may be added to at any time.
    """

    def __init__(
        self,
        engine: Engine,
        routes: Sequence[Route],
        log: RequestLog,
        *,
        project_id: str,
        api_key: str,
        drop: Callable[[tuple[str, int]], None],
    ) -> None:
        self.faults: list[Fault] = []
        self.away = asyncio.Event()
        """Set while the server is away: no answer is waited for any longer."""
        self._engine, self._routes, self._log = engine, routes, log
        self._behaviour = engine.behaviour
        self._project_id = project_id
        self._authorization = f"Bearer {api_key}".encode()
        self._drop = drop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        # Routes are matched with names still percent-encoded: a slash in a table's name is no separator.
        path = scope["raw_path"].decode("latin-1")
        scope = {**scope, "path": path, "path_params": {}}
        name, operation = self._match(scope)
        record = self._log.open(scope["method"], path, scope["query_string"].decode("latin-1"), name)
        fault = self._fault(name, scope["path_params"].get("cacheId"))
        if fault is not None and not fault.takes_effect:
            response = self._faulty(fault)
        else:
            response = await self._respond(Request({**scope, "record": record}, receive), operation)
        if fault is not None and (fault.refuse or fault.lose_reply):
            response = None
        if response is not None and self._behaviour.date_header:
            response.headers["Date"] = formatdate(time.time() + self._behaviour.clock_offset, usegmt=True)
        delay = fault.delay if fault is not None else 0.0
        if name in TRIGGERS and response is not None and response.status_code == 200:
            delay += self._behaviour.trigger_seconds
        if delay and await set_within(self.away, delay):
            response = None
        self._log.close(record, response.status_code if response is not None else 0)
        if response is not None:
            await response(scope, receive, send)
            return
        self._drop(scope["client"])
        while (await receive())["type"] != "http.disconnect":
            pass

    def _match(self, scope: Scope) -> tuple[str | None, Operation | ApiError]:
        """The operation that a request means, by its name, or why it can mean none. The parameters go into `scope`."""
        allowed: set[str] = set()
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.PARTIAL:
                allowed |= route.methods or set()
            if match is not Match.FULL:
                continue
            try:
                for name, value in found["path_params"].items():
                    scope["path_params"][name] = unquote_to_bytes(value).decode("utf-8")
            except UnicodeDecodeError:
                return route.name, bad_request("The path holds what is no UTF-8.")
            return route.name, route.endpoint
        if not allowed:
            return None, not_found("There is no such path in Peaka's API, or the sandbox does not offer it.")
        methods = ", ".join(sorted(allowed))
        said = f"{scope['method']} is not allowed here, only {methods}."
        refusal = ApiError(405, said, "METHOD_NOT_ALLOWED")
        refusal.headers = {"Allow": methods}
        return None, refusal

    async def _respond(self, request: Request, operation: Operation | ApiError) -> Response:
        try:
            if isinstance(operation, ApiError):
                raise operation
            key = request.headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(key, self._authorization):
                raise ApiError(401, "The API key is missing or wrong.", "UNAUTHORIZED")
            project = request.path_params.get("projectId", self._project_id)
            if project != self._project_id:
                raise not_found(f"There is no project {ascii(project)[:100]}.")
            found = await operation(request)
            if request.method != "GET" and request["record"].operation != "executeQuery":
                await self._engine.written()
            return found
        except StoreFailed as error:
            return self._refused(server_error(str(error)))
        except ApiError as error:
            return self._refused(error)
        except ClientDisconnect:
            return Response(status_code=400)
        except sqlite3.Error as error:
            return self._refused(bad_request(f"The source cannot be read: {error}."))

    def _fault(self, operation: str | None, cache_id: str | None) -> Fault | None:
        self.faults = [fault for fault in self.faults if not fault.spent]
        for fault in self.faults:
            cache = self._engine.named(fault.cache) if fault.cache is not None else None
            if fault.operation not in (None, operation) or (fault.cache is not None and cache is None):
                continue
            if cache is None or cache.id == cache_id:
                fault.hits += 1
                return fault
        return None

    def _refused(self, error: ApiError) -> Response:
        return answer(error.body(self._behaviour.error_body), error.status, error.headers)

    def _faulty(self, fault: Fault) -> Response:
        status = fault.status or 503
        if isinstance(fault.body, (str, bytes)):
            return Response(fault.body, status, fault.headers, "text/plain")
        told = ApiError(status, "The sandbox was told to answer so.", "FAULT")
        body = told.body(self._behaviour.error_body) if fault.body is None else fault.body
        return answer(body, status, fault.headers)
