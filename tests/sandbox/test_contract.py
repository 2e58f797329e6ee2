"""Peaka's OpenAPI document as the judge of the sandbox: generated requests for each operation, and long stories.

A success has to fit the document's schema of the 200. The document's 4xx schemas repeat the success's and are not to
be trusted, so of an error only its kind is judged.

The profile `documented` is judged strictly. The profile `observed` may differ in what `INSTEAD` lists, and in nothing
else; a difference that is listed has to occur.
"""

import itertools
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error, response_schema_conformance
from schemathesis.core.failures import FailureGroup

from dagster_peaka.sandbox import Behaviour, PeakaSandbox, Profile
from dagster_peaka.sandbox.behaviour import PROFILES
from tests.examples import EXAMPLES
from tests.sandbox.conftest import Api

DOCUMENT = Path(__file__).parents[3] / "shared" / "peaka-openapi.json"
pytestmark = pytest.mark.skipif(
    not DOCUMENT.exists(),
    reason="Peaka's OpenAPI document is not beside the checkout, at ../shared/peaka-openapi.json",
)

OPERATIONS = [
    "listCatalogs",
    "listSchemas",
    "listTables_1",
    "listColumns_1",
    "isCached",
    "executeQuery",
    "createCache",
    "createBatchCache",
    "getCacheStatusByProject",
    "getCacheSettings",
    "updateCacheSettings",
    "deleteCache",
    "cancelFullRefreshCache",
    "cancelIncrementalCache",
    "getCacheExecutionHistory",
    "fullRefreshCache",
    "incrementalUpdateCache",
    "getCacheStatus",
    "getCacheStatusByCatalog",
    "getCacheStatusBySchema",
    "listQueries",
    "createQuery",
    "readQuery",
    "updateQuery",
    "deleteQuery",
    "listMaterializedQueryStatuses",
    "readMaterializedQueryStatus",
    "refreshMaterializedQuery",
    "cancelMaterializedQuery",
]
NULLABLE = ("executeQuery", "listMaterializedQueryStatuses", "readMaterializedQueryStatus")
"""Operations in whose answers the document has nulls: values of rows, and times of what was never refreshed."""
INSTEAD: dict[tuple[str, int], set[int]] = {
    ("getCacheStatusBySchema", 200): {500},
    ("incrementalUpdateCache", 404): {400},
    ("fullRefreshCache", 404): {400},
    ("cancelFullRefreshCache", 200): {500, 200},  # before the record shows, and afterwards
    ("createCache", 409): {500, 200},  # during its first sync, and afterwards
    ("updateCacheSettings", 400): {200},  # of a malformed schedule; what is no object stays a 400
    ("executeQuery", 404): {400},
    ("readQuery", 404): {400},
}
"""What the live service was seen to answer instead of the document's status, by operation."""
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture]
TABLES = [f"t{number}" for number in range(8)]
"""The tables of the source that can be cached in both modes."""
QUERIES: list[dict[str, Any]] = [
    {"statement": 'SELECT count(*) AS n FROM "ops"."public"."t0"'},
    {
        "statement": "SELECT id, text FROM ops.public.t1 WHERE text IS NOT NULL ORDER BY id LIMIT 3",
        "timeout": 5,
    },
    {"statement": "SELECT 1 AS one, 'x' AS letter, NULL AS nothing"},
    {"statement": "SELECT id FROM ops.public.t2 WHERE text = ?", "bindings": ["text 1"]},
    {"qualifiedName": "ops.public.t3"},
    {"qualifiedName": "ops.public.seen"},
]
SAVED: list[dict[str, Any]] = [
    {"inputQuery": "SELECT 1 AS one"},
    {"inputQuery": "SELECT id FROM ops.public.t1", "queryType": "MATERIALIZED"},
    {
        "inputQuery": "SELECT id FROM ops.public.t1",
        "queryType": "MATERIALIZED",
        "schedule": {"type": "interval", "repeatDuration": "PT6H"},
    },
    {
        "inputQuery": "SELECT id FROM ops.public.t1",
        "queryType": "MATERIALIZED",
        "schedule": {"type": "cron", "cronExpression": "0 0 * * *", "timezone": "UTC"},
    },
]
DURATIONS = st.sampled_from(["PT6H", "P1D", "PT15M", "P1W", "P2DT3H", "PT24H"])
SCHEDULES = st.one_of(
    st.just({"type": "NONE"}), st.builds(lambda text: {"type": "BASIC", "expression": text}, DURATIONS)
)
SETTINGS = st.fixed_dictionaries(
    {}, optional={"incrementalCacheSchedule": SCHEDULES, "fullRefreshCacheSchedule": SCHEDULES}
)
REQUEST = st.tuples(st.integers(0, 10**6), SETTINGS)
QUERY_PARAMETERS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "getCacheExecutionHistory": st.fixed_dictionaries(
        {}, optional={"limit": st.integers(1, 50), "offset": st.integers(0, 20)}
    ),
    "getCacheStatus": st.sampled_from([{}, {"excludeLogs": "true"}, {"excludeLogs": "false"}]),
    "executeQuery": st.sampled_from(
        [{}, {"format": "CELL_TYPED"}, {"format": "SIMPLE"}, {"format": "COMPACT"}]
    ),
}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with a few small tables and a view."""
    path = tmp_path_factory.mktemp("contract") / "ops.db"
    connection = sqlite3.connect(path)
    for table in TABLES:
        connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, text TEXT DEFAULT 'x', day DATE)")
        connection.executemany(
            f"INSERT INTO {table} VALUES (?, ?, '2013-01-01')",
            [(n, f"text {n}" if n % 3 else None) for n in range(9)],
        )
    connection.execute("CREATE VIEW seen AS SELECT text FROM t0")
    connection.commit()
    connection.close()
    return path


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> Profile:
    """Both profiles, one after the other."""
    return request.param


@pytest.fixture
def sandbox(data: Path, profile: Profile) -> Iterator[PeakaSandbox]:
    """A sandbox with half of the tables cached."""
    with PeakaSandbox(
        {"ops": {"public": data}, "empty": {}},
        [f"ops.public.{t}" for t in TABLES[:4]],
        project_id="mtKDhe1U",
        profile=profile,
    ) as sandbox:
        sandbox.wait_idle()
        yield sandbox


def allowed(profile: Profile, operation: str, documented: int) -> set[int]:
    """The statuses that a profile may answer where the document has this one."""
    instead = INSTEAD.get((operation, documented)) if profile == "observed" else None
    return instead or {documented}


def schema() -> Any:
    """The document, as the generator of requests reads it."""
    return schemathesis.openapi.from_path(DOCUMENT)


PICK = st.integers(0, 10**6)
"""What is drawn must not depend on what exists by then, so that a run can be repeated: numbers that pick."""


class Seeds:
    """Puts what exists into a generated request, so that it can succeed."""

    def __init__(self, sandbox: PeakaSandbox) -> None:
        self.sandbox = sandbox
        catalogs = {catalog["name"]: catalog["id"] for catalog in Api(sandbox).get("catalogs")}
        self.place = {"catalogId": catalogs["ops"], "schemaName": "public"}
        self.queries: list[str] = []

    def arrange(self, operation: str) -> None:
        """Bring about what the operation needs in order to succeed."""
        names = list(self.sandbox.caches)
        if operation in ("createCache", "createBatchCache"):
            for name in names[2:]:
                self.sandbox.delete_cache(name)
        elif operation == "deleteCache" and len(names) < 2:
            for table in TABLES[:4]:
                if f"ops.public.{table}" not in names:
                    self.sandbox.create_cache(f"ops.public.{table}")
        elif "Quer" in operation:
            self.arrange_queries()
        elif operation.startswith("cancel"):
            for name in names:
                self.sandbox.plan(name, duration=30)
                self.sandbox.start_execution(
                    name, "incremental" if "Incremental" in operation else "full_refresh"
                )

    def arrange_queries(self) -> None:
        """Have three saved queries, two of them materialized, and one of these refreshed."""
        names = {query["name"]: query["id"] for query in Api(self.sandbox).get("queries")}
        for name, query_id in names.items():
            if name not in ("first", "second", "plain"):
                self.sandbox.queries.delete(query_id)
        if "first" not in names:
            names["first"] = self.sandbox.queries.create("first", QUERIES[0]["statement"])
            self.sandbox.queries.refresh("first")
        if "second" not in names:
            every = {"type": "interval", "repeatDuration": "PT6H"}
            names["second"] = self.sandbox.queries.create("second", "SELECT 1 AS one", schedule=every)
        if "plain" not in names:
            names["plain"] = self.sandbox.queries.create("plain", "SELECT 2 AS two", materialized=False)
        self.queries = [names["first"], names["second"]]

    def fill(self, case: Any, operation: str, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        """Fill a case's path, query and body with what exists."""
        caches = sorted(self.sandbox.caches.values())
        known = {
            **self.place,
            "projectId": self.sandbox.project_id,
            "tableName": picked([*TABLES, "seen"], draw(PICK)),
            "cacheId": picked(caches, draw(PICK)),
            "queryId": picked(self.queries, draw(PICK)),
        }
        for name in list(case.path_parameters or {}):
            case.path_parameters[name] = known[name]
        if operation in QUERY_PARAMETERS:
            case.query = draw(QUERY_PARAMETERS[operation])
        if operation == "executeQuery":
            case.body = draw(st.sampled_from(QUERIES))
        elif operation == "updateCacheSettings":
            case.body = draw(SETTINGS)
        elif operation in ("createQuery", "updateQuery"):
            case.body = {**draw(st.sampled_from(SAVED)), "displayName": f"query {draw(PICK)}"}
        elif operation == "createCache":
            case.body = self.request(*draw(REQUEST))
        elif operation == "createBatchCache":
            case.body = [self.request(*drawn) for drawn in draw(st.lists(REQUEST, max_size=4))]

    def request(self, pick: int, schedules: dict[str, Any]) -> dict[str, Any]:
        """The body of a request for a cache, of a table that has none yet."""
        free = [table for table in TABLES if f"ops.public.{table}" not in self.sandbox.caches]
        return {**self.place, "tableName": picked(free or TABLES, pick), **schedules}


def picked(choices: list[str], number: int) -> str:
    """The choice that a number stands for."""
    return choices[number % len(choices)] if choices else "none"


def holds_null(value: Any) -> bool:
    """Whether a null is anywhere in a JSON value."""
    if isinstance(value, dict):
        return any(holds_null(inner) for inner in value.values())
    if isinstance(value, list):
        return any(holds_null(inner) for inner in value)
    return value is None


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_every_answer_to_generated_requests_fits_the_document(
    sandbox: PeakaSandbox, profile: Profile, operation_id: str
) -> None:
    """No server error and no success that breaks its schema, with a third or more of the requests succeeding."""
    operation = schema().find_operation_by_id(operation_id)
    key = {"Authorization": f"Bearer {sandbox.api_key}"}
    answered: Counter[int] = Counter()
    failing = set[int]().union(*(allowed(profile, operation_id, status) for status in (200, 404, 409)))
    failing = {status for status in failing if status >= 500}
    seeds = Seeds(sandbox)
    cases = st.one_of(
        operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
        operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
    )

    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        suppress_health_check=SLOW,
    )
    @given(case=cases, seeded=st.sampled_from([True, True, True, False]), data=st.data())
    def run(case: Any, seeded: bool, data: st.DataObject) -> None:
        seeds.arrange(operation_id)
        if seeded:
            seeds.fill(case, operation_id, data.draw)
        response = case.call(base_url=sandbox.base_url, headers=key)
        answered[response.status_code] += 1
        if response.status_code not in failing:
            case.validate_response(response, checks=[not_a_server_error])
        if response.status_code == 200:
            case.validate_response(response, checks=[response_schema_conformance])
            if response.content and operation_id not in NULLABLE:
                assert not holds_null(response.json())

    run()
    assert answered.total() >= EXAMPLES * 0.9, answered
    succeeded = sum(answered[status] for status in allowed(profile, operation_id, 200))
    assert succeeded * 5 >= answered.total(), answered  # generated: mostly a third and more


def deviations(sandbox: PeakaSandbox) -> Iterator[tuple[str, int]]:
    """Requests whose answers differ by profile, in any order: the operations, and what they are answered."""
    api = Api(sandbox)
    place = {**Seeds(sandbox).place, "tableName": "t7"}
    unknown = "cache/00000000-0000-0000-0000-000000000000"
    catalog = str(api.client.base_url.join(f"catalog/{place['catalogId']}/"))
    bad = {"incrementalCacheSchedule": {"type": "BASIC", "expression": "daily"}}

    def of(operation: str, method: str, path: str, body: Any = None) -> tuple[str, int]:
        return operation, api(method, path, json=body).status_code

    yield of("getCacheStatusBySchema", "GET", f"{catalog}schema/public/cache/status")
    yield of("incrementalUpdateCache", "POST", f"{unknown}/incrementalUpdate")
    yield of("fullRefreshCache", "POST", f"{unknown}/fullRefreshUpdate")
    yield of("executeQuery", "POST", "queries/execute", {"id": "7"})
    yield of("readQuery", "GET", "queries/7")
    sandbox.plan("ops.public.t7", hold=True, times=2)
    url = f"cache/{api('POST', 'cache', json=place).json()['id']}"
    yield of("createCache", "POST", "cache", place)
    sandbox.release("ops.public.t7")
    sandbox.wait_idle()
    yield of("createCache", "POST", "cache", place)
    yield of("updateCacheSettings", "PUT", url, bad)
    sandbox.behaviour.full_refresh_gap *= 1_000  # longer than any machine takes for two requests
    assert api("POST", f"{url}/fullRefreshUpdate").status_code == 200
    yield of("cancelFullRefreshCache", "POST", f"{url}/cancelFullRefreshUpdate")
    sandbox.behaviour.full_refresh_gap = 0
    sandbox.behaviour.cancel_in_gap = "cancel"  # for an execution that shows, both are the same
    api("POST", f"{url}/cancelFullRefreshUpdate")
    sandbox.wait_idle()
    sandbox.behaviour = Behaviour(full_refresh_gap=0)
    sandbox.plan("ops.public.t7", hold=True)  # or it may be over before its cancel
    assert api("POST", f"{url}/fullRefreshUpdate").status_code == 200
    yield of("cancelFullRefreshCache", "POST", f"{url}/cancelFullRefreshUpdate")


def test_the_profiles_differ_in_what_is_listed(data: Path) -> None:
    """Each difference that is listed occurs, and the same requests are answered as documented otherwise."""
    found: dict[Profile, list[tuple[str, int]]] = {}
    for profile in PROFILES:
        with PeakaSandbox({"ops": {"public": data}}, profile=profile) as sandbox:
            found[profile] = list(deviations(sandbox))
    seen: dict[tuple[str, int], set[int]] = {}
    for documented, (_, observed) in zip(found["documented"], found["observed"], strict=True):
        seen.setdefault(documented, set()).add(observed)
    assert seen == INSTEAD


@pytest.mark.parametrize(
    ("behaviour", "operation_id"),
    [
        (Behaviour(ids_as_numbers=True), "getCacheStatusByProject"),
        (Behaviour(timestamps="null"), "getCacheStatusByProject"),
        (Behaviour(ids_as_numbers=True), "listCatalogs"),
    ],
)
def test_the_judge_notices_an_answer_that_breaks_the_document(
    data: Path, behaviour: Behaviour, operation_id: str
) -> None:
    """A sandbox that was told to break the document is found out, so silence means that nothing breaks it."""
    sources = {"ops": {"public": data}}
    with PeakaSandbox(sources, ["ops.public.t0"], profile="documented", behaviour=behaviour) as sandbox:
        sandbox.wait_idle()
        case = (
            schema()
            .find_operation_by_id(operation_id)
            .Case(path_parameters={"projectId": sandbox.project_id})
        )
        response = case.call(
            base_url=sandbox.base_url, headers={"Authorization": f"Bearer {sandbox.api_key}"}
        )
        assert response.status_code == 200
        with pytest.raises(FailureGroup):
            case.validate_response(response, checks=[response_schema_conformance])


MODES = {"INCREMENTAL": "incremental", "FULL_REFRESH": "full_refresh"}
TRIGGERS = {"INCREMENTAL": "incrementalUpdate", "FULL_REFRESH": "fullRefreshUpdate"}
CANCELS = {"INCREMENTAL": "cancelIncrementalUpdate", "FULL_REFRESH": "cancelFullRefreshUpdate"}
LAST = {"INCREMENTAL": "lastIncrementalCacheExecution", "FULL_REFRESH": "lastFullRefreshCacheExecution"}
ENDS = ("COMPLETED", "FAILED", "CANCELLED")


class Story(RuleBasedStateMachine):
    """Caches made, synced, cancelled, looked at and deleted in any order, judged by the document and the truth."""

    tables = st.sampled_from(["a", "b", "c"])
    modes = st.sampled_from(list(MODES))
    document: dict[str, Any]
    profile: Profile = "documented"

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        path = Path(self.folder.name) / "ops.db"
        self.source = sqlite3.connect(path, isolation_level=None)
        for table in "abc":
            self.source.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, value TEXT)")
            self.source.execute(f"INSERT INTO {table} VALUES (1, 'one'), (2, 'two')")
        # What is answered before a record shows has tests of its own; here the truth is to be seen at once.
        seen_at_once = Behaviour(full_refresh_gap=0)
        self.sandbox = PeakaSandbox({"ops": {"public": path}}, profile=self.profile, behaviour=seen_at_once)
        self.sandbox.start()
        self.api = Api(self.sandbox)
        self.catalog = next(c["id"] for c in self.api.get("catalogs") if c["name"] == "ops")
        self.cached: dict[str, str] = {}
        self.ended: dict[str, Any] = {}

    def teardown(self) -> None:
        """End it."""
        self.api.client.close()
        self.sandbox.close()
        self.source.close()
        self.folder.cleanup()

    def judged(self, value: Any, name: str) -> Any:
        """The value, which fits a schema of the document and holds no null."""
        jsonschema.validate(
            value, {"$ref": f"#/components/schemas/{name}", "components": self.document["components"]}
        )
        assert not holds_null(value)
        return value

    def allowed(self, operation: str, documented: int) -> set[int]:
        """The statuses that may be answered where the document has this one."""
        return allowed(self.profile, operation, documented)

    def cache(self, table: str) -> str:
        """The path of a table's cache, known or not."""
        return f"cache/{self.cached.get(table, '00000000-0000-0000-0000-000000000000')}"

    def truth(self, table: str) -> list[Any]:
        """What really happened to a table's cache."""
        return self.sandbox.executions(self.cached[table])

    @rule(table=tables, schedules=SETTINGS)
    def create(self, table: str, schedules: dict[str, Any]) -> None:
        """A new cache has the schedules that it was given and starts its first sync; a second one is refused."""
        body = {"catalogId": self.catalog, "schemaName": "public", "tableName": table, **schedules}
        response = self.api("POST", "cache", json=body)
        if table in self.cached:
            assert response.status_code in self.allowed("createCache", 409), response.text
            if response.status_code == 200:
                assert response.json() == self.api.get(self.cache(table))
            return
        assert response.status_code == 200, response.text
        cache = self.judged(response.json(), "Cache")
        asked = {name: schedule for name, schedule in schedules.items() if schedule["type"] != "NONE"}
        assert {name: cache[name] for name in cache if name.endswith("Schedule")} == asked
        self.cached[table] = cache["id"]
        (first,) = self.truth(table)
        wanted = "FULL_REFRESH" if "fullRefreshCacheSchedule" in asked else "INCREMENTAL"
        assert (first.origin, first.mode) == ("creation", wanted)

    @rule(
        table=tables,
        mode=modes,
        plan=st.sampled_from([{}, {"hold": True}, {"fail": {"code": 7}}, {"duration": 0.05}]),
    )
    def trigger(self, table: str, mode: str, plan: dict[str, Any]) -> None:
        """A trigger starts one execution of its mode, and the truth knows by which request."""
        known = table in self.cached
        before = len(self.truth(table)) if known else 0
        if known:
            self.sandbox.plan(self.cached[table], **plan)
        response = self.api("POST", f"{self.cache(table)}/{TRIGGERS[mode]}")
        operation = "fullRefreshCache" if mode == "FULL_REFRESH" else "incrementalUpdateCache"
        assert response.status_code in self.allowed(operation, 200 if known else 404), response.text
        if known:
            assert all(isinstance(value, dict) for value in response.json().values())
            newest = self.truth(table)[before]
            number = self.sandbox.requests[-1].number
            assert (newest.origin, newest.mode, newest.request_number) == ("api", mode, number)

    @rule(table=tables, mode=modes)
    def cancel(self, table: str, mode: str) -> None:
        """A cancel finds something to cancel or not."""
        response = self.api("POST", f"{self.cache(table)}/{CANCELS[mode]}")
        assert response.status_code in ((200, 404) if table in self.cached else (404,))

    @rule(table=tables)
    def release(self, table: str) -> None:
        """What is held goes on."""
        if table in self.cached:
            self.sandbox.release(self.cached[table])

    @rule(table=tables, schedules=SETTINGS)
    def reschedule(self, table: str, schedules: dict[str, Any]) -> None:
        """An update sets the schedules that it names, and its answer is what the cache then is."""
        response = self.api("PUT", self.cache(table), json=schedules)
        assert response.status_code == (200 if table in self.cached else 404)
        if response.status_code == 200:
            assert self.judged(response.json(), "Cache") == self.api.get(self.cache(table))
            for name, schedule in schedules.items():
                assert response.json().get(name, {"type": "NONE"}) == schedule

    @rule(table=tables, key=st.integers(1, 4), value=st.none() | st.text(max_size=3))
    def edit(self, table: str, key: int, value: str | None) -> None:
        """The source changes."""
        if value is None:
            self.source.execute(f"DELETE FROM {table} WHERE id = ?", (key,))
        else:
            self.source.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (key, value))

    @rule(table=tables)
    def delete(self, table: str) -> None:
        """What is deleted is gone for every operation."""
        response = self.api("DELETE", self.cache(table))
        assert response.status_code == (200 if table in self.cached else 404)
        if table in self.cached:
            gone = self.cache(table)
            del self.cached[table]
            for path in ("", "/status", "/executionHistory"):
                assert self.api("GET", gone + path).status_code == 404

    @rule(table=tables, without_logs=st.booleans())
    def look(self, table: str, without_logs: bool) -> None:
        """Status and history agree with each other and with the truth; what has ended does not change."""
        if table not in self.cached:
            assert self.api("GET", f"{self.cache(table)}/status").status_code == 404
            return
        history = self.api.get(f"{self.cache(table)}/executionHistory?limit=1000")
        status = self.judged(
            self.api.get(f"{self.cache(table)}/status?excludeLogs={str(without_logs).lower()}"), "CacheStatus"
        )
        truth = {execution.id: execution for execution in self.truth(table)}
        assert ("cacheActionLogs" in status) is not without_logs
        assert [execution["id"] for execution in history] == list(truth)[::-1]
        for execution in history:
            self.judged(execution, "CacheExecutionInfo")
            known = self.ended.get(execution["id"], execution)
            assert known == execution
            assert execution["executionMode"] == truth[execution["id"]].mode
            assert ("finishedAt" in execution) is (execution["status"] in ENDS)
            if "finishedAt" in execution:
                assert execution["createdAt"] <= execution["updatedAt"] <= execution["finishedAt"]
                self.ended[execution["id"]] = execution
        for mode, field in LAST.items():
            newest = next((e["id"] for e in history if e["executionMode"] == mode), None)
            assert status.get(field, {}).get("id") == newest
        unfinished = [
            status[field] for field in LAST.values() if field in status and "finishedAt" not in status[field]
        ]
        assert status["status"] == "RUNNING" or not unfinished

    @rule()
    def listings(self) -> None:
        """The listings of project, catalog and schema have the same caches."""
        catalog = self.api.client.base_url.copy_with(
            path=f"/api/v1/data/projects/sandbox/catalog/{self.catalog}/"
        )
        found = [
            self.api.get("cache/status"),
            self.api.get(str(catalog.join("cache/status"))),
        ]
        response = self.api("GET", str(catalog.join("schema/public/cache/status")))
        assert response.status_code in self.allowed("getCacheStatusBySchema", 200)
        if response.status_code == 200:
            found.append(response.json())
        for listing in found:
            assert {status["id"] for status in listing} == set(self.cached.values())
            for status in listing:
                self.judged(status, "CacheStatus")

    @rule(table=tables)
    def settle(self, table: str) -> None:
        """After a last incremental that completes, the copy is what the source is."""
        if table not in self.cached:
            return
        self.finish(table)
        self.sandbox.start_execution(self.cached[table])
        if self.finish(table).status == "COMPLETED":  # an older plan may have let it fail
            there = self.source.execute(f"SELECT id, value FROM {table} ORDER BY id").fetchall()
            copied = self.api.query(f"SELECT id, value FROM ops.public.{table} ORDER BY id")
            assert [tuple(row) for row in copied] == there

    def finish(self, table: str) -> Any:
        """Let all of a cache's executions end. Returns the last."""
        while any(execution.finished_at is None for execution in self.truth(table)):
            self.sandbox.release(self.cached[table])
            time.sleep(0.002)
        return self.truth(table)[-1]

    @invariant()
    def one_at_a_time(self) -> None:
        """Of a cache and mode one execution runs, and they start in the order in which they were asked for."""
        for table, mode in itertools.product(self.cached, MODES):
            started = [e.started_at for e in self.truth(table) if e.mode == mode and e.started_at is not None]
            running = [e for e in self.truth(table) if e.mode == mode and e.started_at and not e.finished_at]
            assert len(running) <= 1
            assert started == sorted(started)


class SeenStory(Story):
    """The same of the live service as people saw it."""

    profile: Profile = "observed"


@pytest.mark.parametrize("story", [Story, SeenStory])
def test_any_story_of_caches_holds_together(story: type[Story]) -> None:
    """Whatever is done in whatever order: answers fit the document, agree with each other and with the truth."""
    Story.document = json.loads(DOCUMENT.read_text())
    run_state_machine_as_test(
        story,
        settings=settings(
            max_examples=max(5, EXAMPLES // 4),
            stateful_step_count=30,
            database=None,
            derandomize=True,
            suppress_health_check=SLOW,
        ),
    )
