"""Fetching a project: what it costs, what it holds, and what is left out of it when something is broken."""

import json
import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import (
    PeakaAuthenticationError,
    PeakaConfigError,
    PeakaConnectionError,
    PeakaError,
    PeakaNotFoundError,
    PeakaRateLimitError,
    PeakaResource,
    PeakaResponseError,
    PeakaServerError,
)
from dagster_peaka.api.models import SyncMode
from dagster_peaka.caches.project import PeakaCache, PeakaProject
from dagster_peaka.caches.selection import PeakaCacheSelector
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import peaka_for, sqlite_tables

KEY = "pk-8d1f-recognizable-6a20"
TABLES = ["orders", "items", "a b/ü"]
SCHEMAS = [("crm", "public"), ("erp", "public"), ("shop", "archive"), ("shop", "public")]


@pytest.fixture
def files(tmp_path: Path) -> dict[tuple[str, str], Path]:
    """The sources by catalog and schema: three catalogs, one of them with two schemas, each of three tables."""
    return {
        (catalog, schema): sqlite_tables(tmp_path / f"{catalog}-{schema}.db", TABLES)
        for catalog, schema in SCHEMAS
    }


@pytest.fixture
def project(files: dict[tuple[str, str], Path]) -> Iterator[PeakaSandbox]:
    """A local Peaka that caches every table of `files`."""
    sources: dict[str, dict[str, str | Path]] = {}
    for (catalog, schema), file in files.items():
        sources.setdefault(catalog, {})[schema] = file
    with PeakaSandbox(sources, caches=["*.*.*"], api_key=KEY) as sandbox:
        sandbox.wait_idle()
        sandbox.clear_requests()
        yield sandbox


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """The warnings that are given while the test runs, as a user of Dagster's logs sees them."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())
    logger = dg.get_dagster_logger("peaka")
    logger.addHandler(handler)
    yield texts
    logger.removeHandler(handler)


def names(project: PeakaProject) -> list[str]:
    """The caches of a snapshot, by name."""
    return [cache.name for cache in project.caches]


def asked(sandbox: PeakaSandbox) -> Counter[str | None]:
    """How often each operation was asked for since the record was cleared."""
    counts = Counter(request.operation for request in sandbox.requests)
    sandbox.clear_requests()
    return counts


# What it costs, what it holds


def test_a_project_costs_two_requests_for_each_cache_and_few_more(project: PeakaSandbox) -> None:
    """N caches in S schemas take 2 + S + 2 * N requests."""
    fetched = peaka_for(project).fetch_project()
    assert len(fetched.caches) == 12
    assert asked(project) == {
        "listCatalogs": 1,
        "getCacheStatusByProject": 1,
        "listTables_1": 4,
        "listColumns_1": 12,
        "getCacheSettings": 12,
    }


def test_details_are_fetched_of_selected_caches_only(project: PeakaSandbox) -> None:
    """The selection is made by names and ids, before anything is asked about the caches themselves."""
    selector = PeakaCacheSelector(include=["shop.public.*", "erp.*.orders"], exclude="*.*.items")
    fetched = peaka_for(project).fetch_project(selector)
    assert names(fetched) == ["erp.public.orders", "shop.public.a b/ü", "shop.public.orders"]
    assert asked(project) == {
        "listCatalogs": 1,
        "getCacheStatusByProject": 1,
        "listTables_1": 2,
        "listColumns_1": 3,
        "getCacheSettings": 3,
    }


def test_a_predicate_sees_what_the_listings_tell(project: PeakaSandbox) -> None:
    """Name, ids and the catalog's type are known when a predicate is asked, details are not."""
    seen: list[PeakaCache] = []

    def is_first(cache: PeakaCache) -> bool:
        seen.append(cache)
        return cache.name == "crm.public.orders"

    (fetched,) = peaka_for(project).fetch_project(is_first).caches
    assert len(seen) == 12
    assert {cache.catalog_type for cache in seen} == {"sqlite"}
    assert {(cache.columns, cache.supported_modes) for cache in seen} == {(None, None)}
    assert fetched.id == project.caches["crm.public.orders"]


def test_a_mistaken_selector_costs_the_listings_only(project: PeakaSandbox) -> None:
    """What selects nothing is told with near matches, and no detail is fetched for it."""
    with pytest.raises(PeakaConfigError, match=r"Near matches: erp\.public\.orders"):
        peaka_for(project).fetch_project(["shop.*.*", "erp.public.ordrs"])
    assert asked(project).keys() == {"listCatalogs", "getCacheStatusByProject"}


def test_a_snapshot_holds_what_peaka_knows(project: PeakaSandbox, files: dict[tuple[str, str], Path]) -> None:
    """Columns with their types, modes and schedules, under the names that Peaka's catalogs have."""
    with closing(sqlite3.connect(files["crm", "public"])) as database, database:
        database.execute("CREATE TABLE visits (at TIMESTAMP NOT NULL, rating REAL)")
    cache_id = project.create_cache("crm.public.visits", full_refresh_schedule="PT6H")

    visits, orders = peaka_for(project).fetch_project([cache_id, "crm.public.orders"]).caches[::-1]
    assert (visits.id, visits.table) == (cache_id, ("crm", "public", "visits"))
    assert [(column.name, column.data_type, column.is_not_null) for column in visits.columns or ()] == [
        ("at", "timestamp(3)", True),
        ("rating", "double", False),
    ]
    assert (visits.incremental_schedule, visits.full_refresh_schedule) == (None, "PT6H")
    assert visits.supported_modes == {SyncMode.FULL_REFRESH}
    assert (orders.incremental_schedule, orders.full_refresh_schedule) == (None, None)
    assert orders.supported_modes == {SyncMode.FULL_REFRESH, SyncMode.INCREMENTAL}


@pytest.mark.parametrize(
    "reading", [{"ids_as_numbers": True}, {"extra_fields": True}, {"status_case": "title"}]
)
def test_a_snapshot_is_the_same_under_every_reading(project: PeakaSandbox, reading: dict[str, Any]) -> None:
    """How Peaka writes ids, what it adds and how it spells a status make no difference."""
    peaka = peaka_for(project)
    before = peaka.fetch_project().caches
    for name, value in reading.items():
        setattr(project.behaviour, name, value)
    assert peaka.fetch_project().caches == before


def test_a_snapshot_survives_in_a_file_without_the_key(project: PeakaSandbox, tmp_path: Path) -> None:
    """What was fetched is loaded again as it was, Peaka being away, and no credential is in the file."""
    fetched = peaka_for(project).fetch_project()
    path = tmp_path / "peaka-project.json"
    fetched.save(path)
    project.stop()

    assert PeakaProject.load(path) == fetched
    assert fetched.project_id == project.project_id
    assert KEY not in path.read_text(encoding="utf-8")
    assert KEY not in repr(fetched)


def test_variables_are_read_outside_of_a_run(project: PeakaSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resource whose settings are variables can fetch where definitions load."""
    monkeypatch.setenv("PEAKA_API_KEY", KEY)
    monkeypatch.setenv("PEAKA_PROJECT_ID", project.project_id)
    peaka = PeakaResource(
        api_key=dg.EnvVar("PEAKA_API_KEY"),
        project_id=dg.EnvVar("PEAKA_PROJECT_ID"),
        base_url=project.base_url,
    )
    assert len(peaka.fetch_project().caches) == 12


# What is broken


def test_a_broken_catalog_is_left_out_with_one_warning(
    project: PeakaSandbox, files: dict[tuple[str, str], Path], warned: list[str]
) -> None:
    """Where a source cannot be read, the caches of the others are there, and one warning names the catalog."""
    files["erp", "public"].write_bytes(b"no database" * 1000)
    fetched = peaka_for(project).fetch_project()

    assert [name for name in names(fetched) if name.startswith("erp")] == []
    assert len(fetched.caches) == 9
    (warning,) = warned
    assert "3 of 3 selected caches of catalog erp (" in warning
    assert "erp.public.a b/ü, erp.public.items, erp.public.orders" in warning
    assert "The source cannot be read" in warning
    assert asked(project)["listColumns_1"] == 9


def test_one_broken_schema_leaves_the_others_of_its_catalog(
    project: PeakaSandbox, files: dict[tuple[str, str], Path], warned: list[str]
) -> None:
    """Of a catalog that can be read in part, that part is there."""
    files["shop", "archive"].write_bytes(b"no database" * 1000)
    fetched = peaka_for(project).fetch_project()

    assert [name for name in names(fetched) if name.startswith("shop")] == [
        "shop.public.a b/ü",
        "shop.public.items",
        "shop.public.orders",
    ]
    (warning,) = warned
    assert "3 of 6 selected caches of catalog shop (" in warning


def test_a_broken_catalog_that_was_not_selected_is_none_of_it(
    project: PeakaSandbox, files: dict[tuple[str, str], Path], warned: list[str]
) -> None:
    """Nothing is asked of a catalog without selected caches, and nothing said."""
    files["erp", "public"].write_bytes(b"no database" * 1000)
    assert len(peaka_for(project).fetch_project("shop.*.*").caches) == 6
    assert warned == []


@pytest.mark.parametrize("status", [404, 403, 500])
def test_one_broken_cache_is_left_out_with_a_warning(
    project: PeakaSandbox, warned: list[str], status: int
) -> None:
    """A cache that was deleted in between, or that Peaka cannot tell about, costs only itself."""
    project.fault("getCacheSettings", cache="crm.public.items", times=None, status=status)
    fetched = peaka_for(project).fetch_project()

    assert len(fetched.caches) == 11
    assert "crm.public.items" not in names(fetched)
    (warning,) = warned
    assert "1 of 3 selected caches of catalog crm (" in warning
    assert ": crm.public.items. First reason: " in warning
    assert f"answered with {status}" in warning


def test_a_cache_of_a_table_that_is_gone_is_left_out(
    project: PeakaSandbox, files: dict[tuple[str, str], Path], warned: list[str]
) -> None:
    """A table dropped from its source has no columns any more: its cache is named and left out."""
    with closing(sqlite3.connect(files["crm", "public"])) as database, database:
        database.execute("DROP TABLE items")
    fetched = peaka_for(project).fetch_project()
    assert "crm.public.items" not in names(fetched)
    assert len(fetched.caches) == 11
    (warning,) = warned
    assert "crm.public.items" in warning


def test_a_deleted_cache_is_no_cache(project: PeakaSandbox, warned: list[str]) -> None:
    """What was deleted is not there, and not worth a word."""
    project.delete_cache("crm.public.items")
    assert len(peaka_for(project).fetch_project().caches) == 11
    assert warned == []


def test_nothing_but_broken_catalogs_is_an_error(
    project: PeakaSandbox, files: dict[tuple[str, str], Path], warned: list[str]
) -> None:
    """A snapshot without any of the selected caches would make all assets disappear: the first reason is raised."""
    for file in files.values():
        file.write_bytes(b"no database" * 1000)
    with pytest.raises(PeakaError, match="The source cannot be read"):
        peaka_for(project).fetch_project()
    assert len(warned) == 3


def test_a_catalog_that_only_fails_is_not_asked_for_all_its_caches(tmp_path: Path, warned: list[str]) -> None:
    """After five failures in a row the rest of a catalog is left out at once, as each may take minutes."""
    many = [f"t{number:02}" for number in range(60)]
    sources = {
        "down": sqlite_tables(tmp_path / "down.db", many),
        "up": sqlite_tables(tmp_path / "up.db", ["t"]),
    }
    with PeakaSandbox(sources, caches=["*.*.*"]) as sandbox:
        sandbox.wait_idle()
        fault = sandbox.fault("listColumns_1", times=60, status=503, delay=0.05)
        peaka = peaka_for(sandbox, max_concurrent_requests=1)
        with pytest.raises(PeakaServerError):
            peaka.fetch_project("down.*.*")
        assert 5 <= fault.hits < 30
    (warning,) = warned
    assert "60 of 60 selected caches of catalog down (" in warning


def test_failures_here_and_there_do_not_give_a_catalog_up(tmp_path: Path) -> None:
    """Neither many failures between successes nor many missing tables cost the caches that can be read."""
    tables = [f"t{number:02}" for number in range(24)]
    file = sqlite_tables(tmp_path / "ops.db", tables)
    with PeakaSandbox({"ops": {"public": file}}, caches=["ops.*.*"]) as sandbox:
        sandbox.wait_idle()
        gone, failing = tables[:8], tables[8::2]
        with closing(sqlite3.connect(file)) as database, database:
            for table in gone:
                database.execute(f"DROP TABLE {table}")
        for table in failing:
            sandbox.fault("getCacheSettings", cache=f"ops.public.{table}", times=None, status=500)
        fetched = peaka_for(sandbox).fetch_project()
    assert [cache.table_name for cache in fetched.caches] == tables[9::2]


@pytest.mark.parametrize(
    ("operation", "status", "kind"),
    [
        ("listCatalogs", 500, PeakaServerError),
        ("listCatalogs", 401, PeakaAuthenticationError),
        ("getCacheStatusByProject", 404, PeakaNotFoundError),
        ("listTables_1", 401, PeakaAuthenticationError),
        ("listColumns_1", 401, PeakaAuthenticationError),
        ("getCacheSettings", 401, PeakaAuthenticationError),
        ("listColumns_1", 429, PeakaRateLimitError),
    ],
)
def test_what_concerns_all_is_raised(
    project: PeakaSandbox, warned: list[str], operation: str, status: int, kind: type[PeakaError]
) -> None:
    """A refused key, too many requests, an unknown project or a listing that fails leave no cache out but end all."""
    project.fault(operation, times=1, status=status)
    with pytest.raises(kind):
        peaka_for(project).fetch_project()
    assert warned == []


def test_a_peaka_that_goes_away_half_way_is_an_error(project: PeakaSandbox) -> None:
    """When Peaka cannot be reached any more, what was fetched already does not pass for a snapshot."""
    project.fault("getCacheSettings", cache="shop.public.orders", times=None, refuse=True)
    with pytest.raises(PeakaConnectionError):
        peaka_for(project).fetch_project()


def test_without_peaka_there_is_no_snapshot(project: PeakaSandbox) -> None:
    """When Peaka is away from the start, the error says so."""
    project.stop()
    with pytest.raises(PeakaConnectionError, match="Could not connect to Peaka"):
        peaka_for(project).fetch_project()


def test_warnings_are_in_the_log_of_a_run(project: PeakaSandbox, files: dict[tuple[str, str], Path]) -> None:
    """A snapshot that is refreshed by an op leaves its warnings where the run's log is read."""
    files["erp", "public"].write_bytes(b"no database" * 1000)

    @dg.op
    def refresh_snapshot(peaka: PeakaResource) -> None:
        peaka.fetch_project()

    @dg.job(resource_defs={"peaka": peaka_for(project)})
    def refresh() -> None:
        refresh_snapshot()

    with dg.DagsterInstance.ephemeral() as instance:
        result = refresh.execute_in_process(instance=instance)
        said = [
            entry.user_message for entry in instance.all_logs(result.run_id) if entry.level == logging.WARNING
        ]
    assert len(said) == 1
    assert "catalog erp" in said[0]


# A Peaka that answers oddly


@contextmanager
def answering(answers: Mapping[str, Any]) -> Generator[PeakaResource, None, None]:
    """A resource whose Peaka answers these paths below the project with this JSON, and every other with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.removeprefix("/api/v1/data/projects/p/"))
            body = json.dumps({"message": "gone"} if answer is None else answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield PeakaResource(
            api_key="key", project_id="p", base_url=f"http://127.0.0.1:{server.server_port}/api/v1"
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def listed(
    cache_id: str, catalog_id: Any, schema: Any, table: Any, status: str = "COMPLETED"
) -> dict[str, Any]:
    """A cache as the listing shows it."""
    return {
        "id": cache_id,
        "status": status,
        "catalogId": catalog_id,
        "schemaName": schema,
        "tableName": table,
    }


def details(cache_id: str, catalog_id: str, schema: str, table: str) -> dict[str, Any]:
    """What must be answered for a cache's details, by path."""
    place = f"catalogs/{catalog_id}/schemas/{schema}/tables"
    return {
        place: [{"schemaName": schema, "tableName": table}],
        f"{place}/{table}/columns": [{"name": "id", "dataType": "bigint"}],
        f"cache/{cache_id}": {"id": cache_id, "incrementalCacheSchedule": {"type": "NONE"}},
    }


def test_catalogs_that_share_a_name_are_both_there(warned: list[str]) -> None:
    """Two catalogs of one name keep their caches apart by id."""
    answers = {
        "catalogs": [{"id": 1, "name": "peaka"}, {"id": "2", "name": "peaka", "catalogType": "hive"}],
        "cache/status": [listed("b", 2, "s", "t"), listed("a", "1", "s", "t")],
        **details("a", "1", "s", "t"),
        **details("b", "2", "s", "t"),
    }
    with answering(answers) as peaka:
        found = peaka.fetch_project().caches
    assert [(cache.id, cache.catalog_id, cache.name) for cache in found] == [
        ("a", "1", "peaka.s.t"),
        ("b", "2", "peaka.s.t"),
    ]
    assert warned == []


def test_what_peaka_cannot_name_is_left_out_with_a_warning(warned: list[str]) -> None:
    """Caches of an unknown or nameless catalog, or of no table, are named by id; deleted ones are not missed."""
    answers = {
        "catalogs": [{"id": "1", "name": "shop"}, {"id": "2", "name": ""}],
        "cache/status": [
            listed("a", "1", "s", "t"),
            listed("b", "9", "s", "t"),
            listed("c", "9", "s", "u"),
            listed("d", "2", "s", "t"),
            listed("e", None, "s", "t"),
            listed("f", "1", None, "t"),
            listed("g", "1", "s", ""),
            listed("h", "9", "s", "v", status="DELETED"),
            listed("a", "1", "s", "t"),
        ],
        **details("a", "1", "s", "t"),
    }
    with answering(answers) as peaka:
        (found,) = peaka.fetch_project().caches
    assert found.id == "a"
    assert (found.supported_modes, found.incremental_schedule) == (None, None)
    assert len(warned) == 3
    assert "cache b, cache c. Peaka lists caches of catalog 9" in warned[0]
    assert "cache d. Peaka lists caches of catalog 2" in warned[1]
    assert "cache e, cache f, cache g. Peaka lists caches without saying which table" in warned[2]


def test_caches_none_of_which_can_be_named_are_an_error(warned: list[str]) -> None:
    """Where no cache has a name, an empty snapshot would be wrong: the error says what to check."""
    answers = {"catalogs": [], "cache/status": [listed("a", "1", "s", "t")]}
    with (
        answering(answers) as peaka,
        pytest.raises(PeakaResponseError, match="the key may read the project's catal"),
    ):
        peaka.fetch_project()


def test_a_project_without_caches_is_empty_and_says_so(warned: list[str]) -> None:
    """An empty project is a snapshot and a warning; a selector finds nothing in it."""
    with answering({"catalogs": [], "cache/status": [listed("a", "1", "s", "t", "DELETED")]}) as peaka:
        assert peaka.fetch_project().caches == ()
        assert warned == ["Project p has no caches: the snapshot is empty."]
        with pytest.raises(PeakaConfigError, match="there are no caches"):
            peaka.fetch_project("shop.*.*")


def test_names_that_no_request_can_carry_cost_only_their_caches(warned: list[str]) -> None:
    """A table named like a step in a path, or with half a letter, is left out with a warning that can be written."""
    half = "\ud800"
    answers = {
        "catalogs": [{"id": "1", "name": "shop"}, {"id": "2", "name": f"crm{half}"}],
        "cache/status": [
            listed("a", "1", "s", "t"),
            listed("b", "1", "s", ".."),
            listed("c", "1", "s", f"t{half}"),
            listed("d", "2", "..", "t"),
        ],
        **details("a", "1", "s", "t"),
    }
    with answering(answers) as peaka:
        assert names(peaka.fetch_project()) == ["shop.s.t"]
    assert len(warned) == 2
    assert all(text.encode() for text in warned)
    assert any("2 of 3 selected caches of catalog shop" in text for text in warned)


@pytest.mark.parametrize(
    ("schedule", "shown"),
    [
        ({"type": "BASIC", "expression": "PT15M"}, "PT15M"),
        ({"type": "basic", "expression": "PT15M"}, "PT15M"),
        ({"type": "NONE", "expression": "PT15M"}, None),
        ({"type": "BASIC"}, None),
        (None, None),
        ("PT15M", None),
    ],
)
def test_a_schedule_is_what_peaka_follows(schedule: Any, shown: str | None) -> None:
    """A duration where there is one and it is followed; nothing where it is not."""
    answers = {
        "catalogs": [{"id": "1", "name": "shop"}],
        "cache/status": [listed("a", "1", "s", "t")],
        **details("a", "1", "s", "t"),
        "cache/a": {"id": "a", "fullRefreshCacheSchedule": schedule},
    }
    with answering(answers) as peaka:
        (found,) = peaka.fetch_project().caches
    assert (found.full_refresh_schedule, found.incremental_schedule) == (shown, None)
