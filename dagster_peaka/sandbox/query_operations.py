"""Peaka's operations on saved queries and on the refreshes of materialized ones, beside those on caches in `app`."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dagster_peaka.sandbox import bodies
from dagster_peaka.sandbox.app import Row, answer, routes_of
from dagster_peaka.sandbox.errors import bad_request, no_query
from dagster_peaka.sandbox.saved_queries import Query, SavedQueries
from dagster_peaka.sandbox.wire import Json

_TYPES = ("PLAIN", "MATERIALIZED")
_SCHEDULES = {"interval": ["repeatDuration"], "cron": ["cronExpression"], "none": []}


class QueryOperations:
    """Peaka's operations on saved queries. Each returns its 200, or raises `ApiError`."""

    def __init__(self, queries: SavedQueries) -> None:
        self._queries = queries

    def routes(self) -> list[Route]:
        query, of_all = "/queries/{queryId}", "/materialized-queries"
        operations: list[Row] = [
            ("GET", "/queries", "listQueries", self.list_queries),
            ("POST", "/queries", "createQuery", self.create),
            ("GET", query, "readQuery", self.read),
            ("PUT", query, "updateQuery", self.update),
            ("DELETE", query, "deleteQuery", self.delete),
            ("GET", f"{of_all}/status", "listMaterializedQueryStatuses", self.statuses),
            ("GET", f"{of_all}/{{queryId}}/status", "readMaterializedQueryStatus", self.status),
            ("POST", f"{of_all}/{{queryId}}/refresh", "refreshMaterializedQuery", self.refresh),
            ("POST", f"{of_all}/{{queryId}}/cancel", "cancelMaterializedQuery", self.cancel),
        ]
        return routes_of(operations)

    async def list_queries(self, _: Request) -> Response:
        return answer([_shown(query) for query in self._queries.by_id.values()])

    async def create(self, request: Request) -> Response:
        """A new query. It holds no snapshot before its first refresh."""
        name, sql, materialized, schedule = self._request(await bodies.object_of(request))
        try:
            query = self._queries.create(name, sql, materialized=materialized, schedule=schedule)
        except ValueError as error:
            raise bad_request(str(error)) from None
        return answer(_shown(query))

    async def read(self, request: Request) -> Response:
        return answer(_shown(self._query(request)))

    async def update(self, request: Request) -> Response:
        body = await bodies.object_of(request)
        query = self._query(request)
        _, sql, materialized, schedule = self._request(body)
        self._queries.change(query, sql, materialized=materialized, schedule=schedule)
        return answer(_shown(query))

    async def delete(self, request: Request) -> Response:
        self._queries.delete(self._query(request))
        return Response()

    async def statuses(self, _: Request) -> Response:
        queries = self._queries.by_id.values()
        return answer([self._queries.status(query) for query in queries if query.materialized])

    async def status(self, request: Request) -> Response:
        return answer(self._queries.status(self._materialized(request)))

    async def refresh(self, request: Request) -> Response:
        self._queries.refresh(self._materialized(request), "api")
        return Response()

    async def cancel(self, request: Request) -> Response:
        """What waits or runs asked to stop; nothing to stop is no error."""
        self._queries.cancel(self._materialized(request))
        return Response()

    def _query(self, request: Request) -> Query:
        query_id = request.path_params["queryId"]
        if query_id not in self._queries.by_id:
            raise no_query(query_id, self._queries.behaviour.missing_query)
        return self._queries.by_id[query_id]

    def _materialized(self, request: Request) -> Query:
        query = self._query(request)
        if not query.materialized:
            raise bad_request(f"Query {query.id} is not materialized.")
        return query

    def _request(self, body: Json) -> tuple[str, str, bool, Json | None]:
        """What a body says of a query: its name, its SQL, whether it is materialized, and its schedule."""
        kind = bodies.text(body, "queryType") if body.get("queryType") is not None else "PLAIN"
        if kind not in _TYPES:
            raise bad_request(f"queryType must be one of {', '.join(_TYPES)}.")
        reference = body.get("inputQueryRefId")
        if kind == "MATERIALIZED" and reference is not None:
            source = self._queries.by_id.get(bodies.text(body, "inputQueryRefId"))
            if source is None:
                raise bad_request(f"inputQueryRefId: there is no query {ascii(reference)[:100]}.")
            sql = source.sql
        else:
            sql = bodies.text(body, "inputQuery")
        return bodies.text(body, "displayName"), sql, kind == "MATERIALIZED", _schedule(body)


def _schedule(body: Json) -> Json | None:
    if body.get("schedule") is None:
        return None
    schedule = bodies.as_object(body["schedule"], "schedule")
    kind = bodies.text(schedule, "type")
    if kind not in _SCHEDULES:
        raise bad_request(f"schedule.type must be one of {', '.join(_SCHEDULES)}.")
    found = {name: bodies.text(schedule, name) for name in _SCHEDULES[kind]}
    if kind == "cron" and schedule.get("timezone") is not None:
        found["timezone"] = bodies.text(schedule, "timezone")
    return {"type": kind, **found}


def _shown(query: Query) -> Json:
    schedule = {} if query.schedule is None else {"schedule": query.schedule}
    return {
        "id": query.id,
        "displayName": query.display_name,
        "name": query.name,
        "inputQuery": query.sql,
        "queryType": "MATERIALIZED" if query.materialized else "PLAIN",
        **schedule,
    }
