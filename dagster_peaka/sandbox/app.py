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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from dagster_peaka.sandbox import bodies
from dagster_peaka.sandbox.behaviour import MODES, Behaviour, Fault, Mode
from dagster_peaka.sandbox.caches import Cache
from dagster_peaka.sandbox.errors import ApiError, bad_request, not_found, server_error
from dagster_peaka.sandbox.executions import AlreadyCached, Engine
from dagster_peaka.sandbox.requests import RequestLog
from dagster_peaka.sandbox.sources import Table, TableName
from dagster_peaka.sandbox.store import StoreFailed
from dagster_peaka.sandbox.waiting import set_within
from dagster_peaka.sandbox.wire import Json, Wire

PREFIX = "/api/v1"
CACHE = "/cache/{cacheId}"
TABLES = "/catalogs/{catalogId}/schemas/{schemaName}/tables"
IN_SCHEMA = "/catalog/{catalogId}/schema/{schemaName}"
BUILT_IN = {"1": ("peaka", "internal"), "2": ("peaka", "query")}
"""The catalogs that every project has, says Peaka's document; here they are empty."""


TRIGGERS = ("incrementalUpdateCache", "fullRefreshCache")


@dataclass
class Call:
    """A request on its way to an operation."""

    request: Request
    number: int
    arrived_at: float
    parameters: dict[str, str]

    @property
    def query(self) -> dict[str, str]:
        """The query string's parameters; of one given twice the last counts."""
        return dict(self.request.query_params)

    async def json(self) -> Any:
        """The parsed body. Raises `ApiError`."""
        body = bytearray()
        async for chunk in self.request.stream():
            body += chunk
            if len(body) > bodies.LARGEST_BODY:
                raise ApiError(
                    413, f"The body has more than {bodies.LARGEST_BODY} bytes.", "PAYLOAD_TOO_LARGE"
                )
        return bodies.parse_json(self.request.headers.get("content-type", ""), bytes(body))


Operation = Callable[[Call], Awaitable[Response]]
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

    def __init__(self, engine: Engine, wire: Wire, behaviour: Behaviour) -> None:
        self._engine = engine
        self._wire = wire
        self._behaviour = behaviour
        self._queries = ThreadPoolExecutor(2, "peaka-sandbox-query")

    def close(self) -> None:
        """End the threads of queries."""
        self._queries.shutdown()

    def routes(self) -> list[Route]:
        """One route an operation."""
        trigger, cancel = self._trigger, self._cancel
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
            (
                "POST",
                f"{CACHE}/cancelFullRefreshUpdate",
                "cancelFullRefreshCache",
                partial(cancel, "FULL_REFRESH"),
            ),
            (
                "POST",
                f"{CACHE}/cancelIncrementalUpdate",
                "cancelIncrementalCache",
                partial(cancel, "INCREMENTAL"),
            ),
            ("GET", f"{CACHE}/executionHistory", "getCacheExecutionHistory", self.history),
            ("POST", f"{CACHE}/fullRefreshUpdate", "fullRefreshCache", partial(trigger, "FULL_REFRESH")),
            ("POST", f"{CACHE}/incrementalUpdate", "incrementalUpdateCache", partial(trigger, "INCREMENTAL")),
            ("GET", f"{CACHE}/status", "getCacheStatus", self.status),
            ("GET", "/catalog/{catalogId}/cache/status", "getCacheStatusByCatalog", self.statuses),
            ("GET", f"{IN_SCHEMA}/cache/status", "getCacheStatusBySchema", self.statuses),
        ]
        info = Route(f"{PREFIX}/info", self.info, methods=["GET"], name="getInfo")
        return [info, *routes_of(operations)]

    # Catalogs

    async def info(self, call: Call) -> Response:  # noqa: ARG002 - an operation like the others
        """Whose key it is. Peaka's own tools ask for it; its document does not name it."""
        if self._behaviour.info == "missing":
            raise not_found("There is no such path in Peaka's API.")
        return answer(self._wire.info())

    async def list_catalogs(self, _: Call) -> Response:
        """All catalogs of the project."""
        built_in = [self._wire.catalog(name, kind, number, None) for number, (name, kind) in BUILT_IN.items()]
        connected = [
            self._wire.catalog(name, "sqlite", number, str(uuid.uuid5(uuid.NAMESPACE_OID, name)))
            for name, number in self._engine.sources.ids.items()
        ]
        return answer(built_in + connected)

    async def list_schemas(self, call: Call) -> Response:
        """The schemas of a catalog."""
        catalog = self._catalog(call)
        if catalog is None:
            return answer([])
        return answer(
            [self._wire.schema(catalog, schema) for schema in self._engine.sources.schemas(catalog)]
        )

    async def list_tables(self, call: Call) -> Response:
        """The tables and views of a schema."""
        catalog, schema = self._schema(call)
        tables = await self._engine.in_thread(self._engine.sources.tables, catalog, schema)
        names = [TableName(catalog, schema, table.name) for table in tables]
        is_cached = self._engine.is_cached
        return answer([self._wire.table(n, t, is_cached(n)) for n, t in zip(names, tables, strict=True)])

    async def list_columns(self, call: Call) -> Response:
        """The columns of a table."""
        _, table = await self._table(call)
        return answer([self._wire.column(column) for column in table.columns])

    async def is_cached(self, call: Call) -> Response:
        """Whether a table is cached, and how it could be."""
        name, table = await self._table(call)
        return answer(self._wire.caching(table, self._engine.is_cached(name)))

    async def execute_query(self, call: Call) -> Response:
        """The result of a query."""
        from dagster_peaka.sandbox import (
            queries,
        )  # SQL's grammar takes its time to load: with the first query

        form = call.query.get("format", "CELL_TYPED")
        if form not in queries.FORMATS:
            raise bad_request(f"format must be one of {', '.join(queries.FORMATS)}.")
        request = queries.requested(
            bodies.as_object(await call.json()), self._behaviour, self._engine.saved_sql
        )
        # Of arrays nobody has told.
        texts = self._behaviour.query_values == "text" and form != "COMPACT"
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._queries, queries.run, self._engine, *request, texts)
        return answer(await loop.run_in_executor(self._queries, queries.shaped, result, form))

    # Caches

    async def create_cache(self, call: Call) -> Response:
        """A new cache; its first sync starts at once."""
        return answer(await self._create(bodies.as_object(await call.json()), call))

    async def create_batch(self, call: Call) -> Response:
        """Many new caches, each of which may fail on its own."""
        requests: Any = await call.json()
        if not isinstance(requests, list):
            raise bad_request("The body must be an array of cache requests.")
        results: list[Json] = []
        for request in cast("list[Any]", requests):
            try:
                cache = await self._create(bodies.as_object(request, "Each cache request"), call)
                results.append({"success": True, "cache": cache})
            except ApiError as error:
                results.append({"success": False, "error": str(error)})
        return answer(results)

    async def settings(self, call: Call) -> Response:
        """A cache's table and schedules."""
        return answer(self._wire.cache(self._cache(call)))

    async def update(self, call: Call) -> Response:
        """Other schedules for a cache."""
        cache = self._cache(call)
        body = bodies.as_object(await call.json())
        kept: set[Mode] = set()
        if self._behaviour.bad_schedule == "ignore":
            wanted, kept = bodies.readable_schedules(body)
        else:
            wanted = bodies.schedules(body)
        if self._behaviour.schedule_update == "replace":
            for mode in set(MODES) - kept:
                wanted.setdefault(mode, None)
        self._engine.reschedule(self._cache(call), wanted)
        return answer(self._wire.cache(cache))

    async def delete(self, call: Call) -> Response:
        """A cache gone for good."""
        await self._engine.delete(self._cache(call))
        return Response()

    # Executions

    async def status(self, call: Call) -> Response:
        """A cache's last executions."""
        cache = self._cache(call)
        without_logs = bodies.flag_parameter(call.query.get("excludeLogs"), "excludeLogs")
        return answer(self._wire.status(cache, not without_logs))

    async def statuses(self, call: Call) -> Response:
        """The statuses of all caches of the project, of one catalog, or of one of its schemas."""
        caches, behaviour = list(self._engine.caches.values()), self._behaviour
        if "schemaName" in call.parameters:
            within, answers = self._schema(call), behaviour.schema_statuses
            caches = [cache for cache in caches if cache.name[:2] == within]
        elif "catalogId" in call.parameters:
            catalog, answers = self._catalog(call), behaviour.catalog_statuses
            caches = [cache for cache in caches if cache.name.catalog == catalog]
        else:
            answers = behaviour.project_statuses
        if answers == "fail":
            raise server_error("The statuses of these caches cannot be listed.")
        return answer([self._wire.status(cache) for cache in caches])

    async def history(self, call: Call) -> Response:
        """A page of a cache's executions, newest first."""
        cache = self._cache(call)
        limit = bodies.number_parameter(call.query.get("limit"), "limit", 10, 1)
        offset = bodies.number_parameter(call.query.get("offset"), "offset", 0, 0)
        return answer(self._wire.history(cache, limit, offset))

    # What operations have in common

    async def _trigger(self, mode: Mode, call: Call) -> Response:
        """An execution asked for."""
        missing = call.parameters["cacheId"] not in self._engine.caches
        if missing and self._behaviour.missing_cache_trigger == "400":
            raise bad_request("Cache settings not found")
        self._engine.trigger(self._cache(call), mode, "api", call.number)
        if self._behaviour.trigger_answer == "object":
            return answer(self._wire.triggered(mode))
        return Response("" if self._behaviour.trigger_answer == "empty" else "OK", media_type="text/plain")

    async def _cancel(self, mode: Mode, call: Call) -> Response:
        """The running execution asked to stop."""
        cache = self._cache(call)
        if not self._engine.cancel(cache, mode):
            raise not_found(f"No {mode} execution of cache {cache.id} is running.")
        return Response()

    async def _create(self, body: Json, call: Call) -> Json:
        catalog_id = bodies.identifier(body, "catalogId", self._behaviour.ids_as_numbers)
        schema, table = bodies.text(body, "schemaName"), bodies.text(body, "tableName")
        schedules = bodies.schedules(body)
        catalog = self._engine.sources.names.get(catalog_id)
        if catalog is None:
            raise bad_request(f"catalogId: there is no catalog {ascii(catalog_id)[:100]} in this project.")
        if schema not in self._engine.sources.schemas(catalog):
            raise bad_request(f"schemaName: the catalog {catalog} has no schema {ascii(schema)[:100]}.")
        name = TableName(catalog, schema, table)
        if self._engine.being_deleted(name):
            raise server_error(f"The cache of {name} is being deleted.")
        if name in self._engine.left_behind:
            raise server_error(f"The cache of {name} cannot be created.")
        try:
            return self._wire.cache(await self._engine.create(name, schedules, call.number))
        except AlreadyCached as error:
            if self._behaviour.create_at_once == "both" and call.arrived_at <= error.cache.created_at:
                return self._wire.cache(error.cache)
            if self._behaviour.create_existing == "refuse":
                raise
            if error.cache.in_first_sync:
                raise server_error(f"The cache of {name} cannot be created.") from None
            return self._wire.cache(error.cache)

    def _cache(self, call: Call) -> Cache:
        cache = self._engine.caches.get(call.parameters["cacheId"])
        if cache is None:
            raise not_found(f"There is no cache {ascii(call.parameters['cacheId'])[:100]} in this project.")
        return cache

    def _catalog(self, call: Call) -> str | None:
        """A catalog's name by its id, None for a built-in one."""
        number = call.parameters["catalogId"]
        if number in BUILT_IN:
            return None
        if number not in self._engine.sources.names:
            raise not_found(f"There is no catalog {ascii(number)[:100]} in this project.")
        return self._engine.sources.names[number]

    def _schema(self, call: Call) -> tuple[str, str]:
        catalog, schema = self._catalog(call), call.parameters["schemaName"]
        if catalog is None or schema not in self._engine.sources.schemas(catalog):
            raise not_found(
                f"The catalog {call.parameters['catalogId']} has no schema {ascii(schema)[:100]}."
            )
        return catalog, schema

    async def _table(self, call: Call) -> tuple[TableName, Table]:
        name = TableName(*self._schema(call), call.parameters["tableName"])
        table = await self._engine.in_thread(self._engine.sources.table, name)
        if table is None:
            raise not_found(f"There is no table {ascii(str(name))[:200]}.")
        return name, table


class Front:
    """The ASGI application. `written` returns once what was changed will outlive this process, `drop` ends a
    connection, given its client's address, without an answer.

    `faults` may be added to at any time.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        written: Callable[[], Awaitable[None]],
        log: RequestLog,
        behaviour: Behaviour,
        *,
        project_id: str,
        api_key: str,
        cache_named: Callable[[str], str | None],
        drop: Callable[[tuple[str, int]], None],
    ) -> None:
        self.faults: list[Fault] = []
        self.away = asyncio.Event()
        """Set while the server is away: no answer is waited for any longer."""
        self._routes, self._written = routes, written
        self._log = log
        self._behaviour = behaviour
        self._project_id = project_id
        self._authorization = f"Bearer {api_key}".encode()
        self._cache_named = cache_named
        self._drop = drop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        # Routes are matched with names still percent-encoded: a slash in a table's name is no separator.
        scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        route, parameters, refusal = self._match(scope)
        record = self._log.open(
            scope["method"],
            scope["path"],
            scope["query_string"].decode("latin-1"),
            route.name if route else None,
        )
        fault = self._fault(record.operation, parameters.get("cacheId"))
        if fault is None:
            response = refusal or await self._respond(
                Call(Request(scope, receive), record.number, record.started_at, parameters), route
            )
        elif fault.refuse:
            response = None
        elif fault.status is not None and not fault.lose_reply:
            response = self._faulty(fault, fault.status)
        else:
            response = refusal or await self._respond(
                Call(Request(scope, receive), record.number, record.started_at, parameters), route
            )
            response = None if fault.lose_reply else response
        if response is not None and self._behaviour.date_header:
            response.headers["Date"] = formatdate(time.time() + self._behaviour.clock_offset, usegmt=True)
        delay = fault.delay if fault is not None else 0.0
        if record.operation in TRIGGERS and response is not None and response.status_code == 200:
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

    def _match(self, scope: Scope) -> tuple[Route | None, dict[str, str], Response | None]:
        """The operation that a request means with its path's parameters, or the answer that it means none."""
        allowed: list[str] = []
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.NONE:
                continue
            if match is Match.PARTIAL:
                allowed += route.methods or ()
                continue
            try:
                raw: dict[str, str] = found["path_params"]
                parameters = {name: unquote_to_bytes(value).decode("utf-8") for name, value in raw.items()}
            except UnicodeDecodeError:
                return route, {}, self._refused(bad_request("The path holds what is no UTF-8."))
            return route, parameters, None
        if allowed:
            methods = ", ".join(sorted(set(allowed)))
            refused = ApiError(
                405, f"{scope['method']} is not allowed here, only {methods}.", "METHOD_NOT_ALLOWED"
            )
            return None, {}, self._refused(refused, {"Allow": methods})
        nowhere = not_found("There is no such path in Peaka's API, or the sandbox does not offer it.")
        return None, {}, self._refused(nowhere)

    async def _respond(self, call: Call, route: Route | None) -> Response:
        assert route is not None, "a request without a route was refused before"
        try:
            key = call.request.headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(key, self._authorization):
                raise ApiError(401, "The API key is missing or wrong.", "UNAUTHORIZED")
            if call.parameters.get("projectId", self._project_id) != self._project_id:
                raise not_found(f"There is no project {ascii(call.parameters['projectId'])[:100]}.")
            operation: Operation = route.endpoint
            found = await operation(call)
            if call.request.method != "GET" and route.name != "executeQuery":
                await self._written()
            return found
        except StoreFailed as error:
            return self._refused(server_error(str(error)))
        except ApiError as error:
            return self._refused(error)
        except ClientDisconnect:
            return Response(status_code=400)
        except sqlite3.Error as error:
            return self._refused(bad_request(f"The source cannot be read: {error}."))

    def _fault(self, operation: str | None, cache: str | None) -> Fault | None:
        self.faults = [fault for fault in self.faults if not fault.spent]
        for fault in self.faults:
            if fault.operation not in (None, operation):
                continue
            if fault.cache is not None and (cache is None or self._cache_named(fault.cache) != cache):
                continue
            fault.hits += 1
            return fault
        return None

    def _refused(self, error: ApiError, headers: dict[str, str] | None = None) -> Response:
        return answer(error.body(self._behaviour.error_body), error.status, headers)

    def _faulty(self, fault: Fault, status: int) -> Response:
        if isinstance(fault.body, (str, bytes)):
            return Response(fault.body, status, fault.headers, "text/plain")
        if fault.body is None:
            return self._refused(
                ApiError(status, "The sandbox was told to answer so.", "FAULT"), fault.headers
            )
        return answer(fault.body, status, fault.headers)
