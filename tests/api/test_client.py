"""PeakaClient against a local Peaka: what each method returns and does, and which requests it takes."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import timezone
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_peaka import PeakaApiError, PeakaClient, PeakaConfigError, PeakaError, PeakaNotFoundError
from dagster_peaka.api import CacheRequest, CacheSchedule, SyncMode
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import peaka_for
from tests.raw_server import RawServer, reply


@pytest.fixture
def client(sandbox: PeakaSandbox) -> Iterator[PeakaClient]:
    """A client of the sandbox's project."""
    with PeakaClient(sandbox.api_key, sandbox.project_id, sandbox.base_url) as client:
        yield client


@pytest.fixture
def cache_id(sandbox: PeakaSandbox) -> str:
    """The id of the cache of `ops.public.t`."""
    return sandbox.caches["ops.public.t"]


def catalog_id(client: PeakaClient) -> str:
    """The id of the catalog `ops`."""
    return next(catalog.id for catalog in client.list_catalogs() if catalog.name == "ops")


def operations(sandbox: PeakaSandbox) -> list[str | None]:
    """The operations that the sandbox served, oldest first."""
    return [request.operation for request in sandbox.requests]


class TestStatus:
    """Reading what caches do."""

    def test_a_project_a_catalog_and_a_schema_are_listed_by_one_request_each(self, sandbox, client):
        """All caches of a project, a catalog or a schema come from one request, whatever their number."""
        sandbox.behaviour.schema_statuses = "list"
        catalog = catalog_id(client)
        sandbox.clear_requests()
        listings = [
            client.list_cache_statuses(),
            client.list_cache_statuses(catalog),
            client.list_cache_statuses(catalog, "public"),
        ]
        for listing in listings:
            assert {status.table_name for status in listing} == {"t", "u"}
            assert {status.id for status in listing} == set(sandbox.caches.values())
        assert operations(sandbox) == [
            "getCacheStatusByProject",
            "getCacheStatusByCatalog",
            "getCacheStatusBySchema",
        ]

    def test_a_schema_needs_its_catalog(self, client):
        """A schema's name without its catalog's id is refused before any request."""
        with pytest.raises(PeakaConfigError, match="schema_name needs catalog_id"):
            client.list_cache_statuses(schema_name="public")

    def test_a_status_shows_the_newest_execution_of_each_mode(self, sandbox, client, cache_id):
        """The status of one cache names its newest executions, with what they did and when."""
        client.trigger_full_refresh(cache_id)
        sandbox.wait_idle()
        status = client.get_cache_status(cache_id)
        truth = {record.mode: record for record in sandbox.executions("ops.public.t")}
        for mode in SyncMode:
            last = status.last(mode)
            assert last is not None
            assert last.id == truth[mode.name].id
            assert last.mode is mode
            assert last.succeeded
            assert last.created_at is not None
            assert last.created_at.tzinfo is timezone.utc
        assert (status.catalog_id, status.schema_name, status.table_name) == (
            catalog_id(client),
            "public",
            "t",
        )

    def test_logs_are_left_out_unless_asked_for(self, sandbox, client, cache_id):
        """A look asks Peaka for a light answer, unless told otherwise."""
        client.get_cache_status(cache_id)
        client.get_cache_status(cache_id, exclude_logs=False)
        assert [request.query for request in sandbox.requests] == ["excludeLogs=true", ""]

    def test_the_history_is_newest_first_and_paged(self, sandbox, client, cache_id):
        """The history shows both modes, newest first, from `offset` and at most `limit`."""
        client.trigger_full_refresh(cache_id)
        sandbox.wait_idle()
        truth = [record.id for record in reversed(sandbox.executions("ops.public.t"))]
        assert [execution.id for execution in client.get_execution_history(cache_id)] == truth
        assert [execution.id for execution in client.get_execution_history(cache_id, limit=1)] == truth[:1]
        assert [execution.id for execution in client.get_execution_history(cache_id, offset=1)] == truth[1:]

    def test_catalog_ids_are_the_same_as_numbers_or_strings(self, sandbox, client, cache_id):
        """A catalog's id keeps every digit when Peaka sends it as a number beyond 2^53."""
        before = client.get_cache_status(cache_id).catalog_id
        sandbox.behaviour.ids_as_numbers = True
        assert client.get_cache_status(cache_id).catalog_id == before
        assert catalog_id(client) == before

    def test_one_unreadable_entry_hides_no_other(self):
        """Of a listing with an entry that has no id, the others are returned."""
        body = '[{"id": "a"}, {"tableName": "no id"}, "what", null, {"id": 7}]'
        with RawServer(reply(body=body)) as server, PeakaClient("key", "p", server.base_url) as client:
            assert [status.id for status in client.list_cache_statuses()] == ["a", "7"]


class TestSyncs:
    """Starting and stopping executions."""

    @pytest.mark.parametrize("answer", ["object", "empty", "text"])
    def test_triggers_start_an_execution_whatever_their_answer(self, sandbox, client, cache_id, answer):
        """A trigger starts one execution of its mode by one request; nothing is expected of the answer's body."""
        sandbox.behaviour.trigger_answer = answer
        client.trigger_incremental_update(cache_id)
        client.trigger_full_refresh(cache_id)
        sandbox.wait_idle()
        assert operations(sandbox) == ["incrementalUpdateCache", "fullRefreshCache"]
        started = [record.mode for record in sandbox.executions("ops.public.t") if record.origin == "api"]
        assert started == ["INCREMENTAL", "FULL_REFRESH"]

    def test_an_update_copies_exactly_the_delta(self, sandbox, client, cache_id, ops_database):
        """What changed in the source is what an execution reports whose counters are exact."""
        sandbox.behaviour.updated_records = sandbox.behaviour.deleted_records = "exact"
        with closing(sqlite3.connect(ops_database)) as database, database:
            database.execute("INSERT INTO t VALUES (4, 'd')")
            database.execute("UPDATE t SET v = 'B' WHERE id = 2")
            database.execute("DELETE FROM t WHERE id = 1")
        client.trigger_incremental_update(cache_id)
        sandbox.wait_idle()
        last = client.get_cache_status(cache_id).last_incremental
        assert last is not None
        assert (last.progress.inserted, last.progress.updated, last.progress.deleted) == (1, 1, 1)

    def test_a_failure_carries_peakas_reason(self, sandbox, client, cache_id):
        """The reason of a failed execution is Peaka's own message."""
        sandbox.plan("ops.public.t", fail={"message": "the disk is full"})
        client.trigger_incremental_update(cache_id)
        sandbox.wait_idle()
        last = client.get_cache_status(cache_id).last_incremental
        assert last is not None
        assert (last.status, last.reason) == ("FAILED", "the disk is full")

    @pytest.mark.parametrize("mode", ["incremental", "full_refresh"])
    def test_cancelling_stops_what_runs_of_that_mode(self, sandbox, client, cache_id, mode):
        """A cancel reaches the execution of its own mode, and says when there is nothing to stop."""
        cancel = client.cancel_full_refresh if mode == "full_refresh" else client.cancel_incremental_update
        sandbox.behaviour.full_refresh_gap = 0.0
        assert cancel(cache_id) is False
        sandbox.plan("ops.public.t", hold=True)
        execution = sandbox.start_execution("ops.public.t", mode)
        assert cancel(cache_id) is True
        sandbox.release("ops.public.t")
        sandbox.wait_idle()
        assert {record.id: record.status for record in sandbox.executions()}[execution] == "CANCELLED"


class TestSettings:
    """Creating, changing and deleting caches."""

    def test_a_cache_is_created_read_changed_and_deleted(self, client, cache_id):
        """Each step of a cache's life is one request and shows in the next."""
        client.delete_cache(cache_id)
        catalog = catalog_id(client)
        created = client.create_cache(catalog, "public", "t", incremental_schedule="PT6H")
        assert (created.catalog_id, created.schema_name, created.table_name) == (catalog, "public", "t")
        assert created.incremental_schedule == CacheSchedule.every("PT6H")
        updated = client.update_cache(created.id, incremental_schedule=None, full_refresh_schedule="P1D")
        assert updated == client.get_cache(created.id)
        assert updated.full_refresh_schedule == CacheSchedule.every("P1D")
        assert updated.incremental_schedule in (None, CacheSchedule.every(None))
        client.delete_cache(created.id)
        with pytest.raises(PeakaNotFoundError):
            client.get_cache(created.id)

    @pytest.mark.parametrize("reading", ["patch", "replace"])
    def test_an_update_sets_both_schedules_under_either_reading(self, sandbox, client, cache_id, reading):
        """Both schedules are always sent, so that it does not matter whether Peaka keeps those that are not."""
        sandbox.behaviour.schedule_update = reading
        client.update_cache(cache_id, incremental_schedule="PT6H", full_refresh_schedule="P2D")
        client.update_cache(cache_id, incremental_schedule="PT3H", full_refresh_schedule=None)
        found = client.get_cache(cache_id)
        assert found.incremental_schedule == CacheSchedule.every("PT3H")
        assert found.full_refresh_schedule in (None, CacheSchedule.every(None))

    def test_a_batch_tells_each_result_in_order(self, sandbox, client, cache_id):
        """Of several creations each tells for itself whether it succeeded, and why not."""
        sandbox.behaviour.create_existing = "refuse"
        client.delete_cache(cache_id)
        catalog = catalog_id(client)
        tables = ["t", "nothing", "u"]
        requests = [
            CacheRequest(catalog_id=catalog, schema_name="public", table_name=table) for table in tables
        ]
        created, unknown, cached = client.create_caches(requests)
        assert created.success
        assert created.cache is not None
        assert created.cache.table_name == "t"
        for failed in (unknown, cached):
            assert not failed.success
            assert failed.cache is None
            assert failed.error

    def test_an_error_code_is_kept(self):
        """Peaka's `errorCode` is an attribute of the error."""
        body = '{"code": 400, "message": "no", "errorCode": "TABLE_NOT_CACHEABLE"}'
        with (
            RawServer(reply(400, body)) as server,
            PeakaClient("key", "p", server.base_url) as client,
            pytest.raises(PeakaApiError) as caught,
        ):
            client.create_cache("1", "s", "t")
        assert (caught.value.error_code, caught.value.reason) == ("TABLE_NOT_CACHEABLE", "no")


class TestSourcesAndQueries:
    """Catalogs down to columns, and SQL."""

    def test_the_sources_are_listed_from_catalogs_to_columns(self, client):
        """Every level names the next."""
        catalog = catalog_id(client)
        assert "public" in [schema.schema_name for schema in client.list_schemas(catalog)]
        tables = {table.table_name: table for table in client.list_tables(catalog, "public")}
        assert set(tables) == {"t", "u"}
        assert tables["t"].is_cached
        assert tables["t"].supported_modes == frozenset(SyncMode)
        columns = client.list_columns(catalog, "public", "t")
        assert [column.name for column in columns] == ["id", "v"]
        assert all(column.data_type for column in columns)

    def test_a_query_answers_rows_by_column(self, client):
        """A query's rows are mappings of column name to value, with the columns' names in order."""
        statement = 'SELECT v, id FROM "ops"."public"."t" WHERE id > CAST(? AS bigint) ORDER BY id'
        result = client.execute_query(statement, bindings=["1"])
        assert result.columns == [("v", "varchar"), ("id", "bigint")]
        assert result.rows == [{"v": "b", "id": 2}, {"v": "c", "id": 3}]

    def test_a_wrong_statement_tells_peakas_words(self, client):
        """A statement that Peaka refuses is an error with its reason."""
        with pytest.raises(PeakaApiError) as caught:
            client.execute_query('SELECT nothing FROM "ops"."public"."t"')
        assert caught.value.status_code == 400
        assert "nothing" in caught.value.reason

    def test_an_answer_without_rows_is_no_empty_result(self):
        """A query answered by anything but rows is an error, never an empty result."""
        with (
            RawServer(reply(body='{"message": "queued"}')) as server,
            PeakaClient("key", "p", server.base_url) as client,
            pytest.raises(PeakaError, match=r"QueryResult\.data"),
        ):
            client.execute_query("SELECT 1")


ID_CALLS = {
    "cache/{}": lambda client, part: client.get_cache(part),
    "cache/{}/status": lambda client, part: client.get_cache_status(part),
    "cache/{}/executionHistory": lambda client, part: client.get_execution_history(part),
    "cache/{}/incrementalUpdate": lambda client, part: client.trigger_incremental_update(part),
    "cache/{}/cancelFullRefreshUpdate": lambda client, part: client.cancel_full_refresh(part),
    "catalog/{}/cache/status": lambda client, part: client.list_cache_statuses(part),
    "catalog/7/schema/{}/cache/status": lambda client, part: client.list_cache_statuses("7", part),
    "catalogs/{}/schemas": lambda client, part: client.list_schemas(part),
    "catalogs/7/schemas/{}/tables": lambda client, part: client.list_tables("7", part),
    "catalogs/7/schemas/s/tables/{}/columns": lambda client, part: client.list_columns("7", "s", part),
}
"""Calls by the endpoint that they mean."""

HOSTILE = [
    "../x",
    "a/b",
    "a%2Fb",
    "%2e%2e",
    "?x=1",
    "#x",
    "..\\x",
    "x;y",
    " ",
    "a b",
    "ü/☃",
    "\x00",
    "\r\nX: y",
    "...",
]


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    """A server that finds nothing."""
    with RawServer(reply(404)) as server:
        yield server


@pytest.fixture(scope="module")
def anybody(server: RawServer) -> Iterator[PeakaClient]:
    """A client of it."""
    with PeakaClient("key", "pro/ject", server.base_url) as client:
        yield client


class TestPaths:
    """An id or name stays within its own place of the path."""

    @staticmethod
    def check(server: RawServer, client: PeakaClient, endpoint: str, part: str) -> None:
        """The request of `endpoint` for `part` has as many segments as meant, and `part` in its place."""
        with suppress(PeakaNotFoundError):
            ID_CALLS[endpoint](client, part)
        path = server.requests[-1].target.partition("?")[0]
        expected = ["", "api", "v1", "data", "projects", "pro/ject"]
        assert [unquote(segment) for segment in path.split("/")] == expected + [
            part if segment == "{}" else segment for segment in endpoint.split("/")
        ]

    @pytest.mark.parametrize("part", HOSTILE)
    def test_hostile_ids_reach_only_their_endpoint(self, server, anybody, part):
        """An id with slashes, dots, marks, control characters or escapes arrives whole, at the endpoint meant."""
        for endpoint in ID_CALLS:
            self.check(server, anybody, endpoint, part)

    @settings(max_examples=50)
    @given(endpoint=st.sampled_from(sorted(ID_CALLS)), part=st.text(st.characters(codec="utf-8"), min_size=1))
    def test_any_id_reaches_only_its_endpoint(self, server, anybody, endpoint, part):
        """So does any text at all."""
        if part not in (".", "..", "status"):
            self.check(server, anybody, endpoint, part)

    @pytest.mark.parametrize("part", ["", ".", "..", "\ud800"])
    def test_what_no_encoding_protects_is_refused(self, server, anybody, part):
        """An empty part, dots and half a character are refused before any request, in words that show them."""
        before = len(server.requests)
        for call in ID_CALLS.values():
            with pytest.raises(PeakaConfigError) as caught:
                call(anybody, part)
            assert repr(part) in str(caught.value)
            str(caught.value).encode()
        assert len(server.requests) == before

    def test_an_id_that_is_an_endpoint_of_its_own_is_refused(self, client, sandbox):
        """No cache can be called `status`: the path would be that of the listing of all caches."""
        with pytest.raises(PeakaConfigError, match="'status'"):
            client.get_cache("status")
        assert not sandbox.requests

    @pytest.mark.parametrize("project", [".", ".."])
    def test_a_project_that_is_dots_is_refused(self, sandbox, project):
        """So is a project id of dots, with its name in the message."""
        with (
            PeakaClient("key", project, sandbox.base_url) as client,
            pytest.raises(PeakaConfigError, match="project id"),
        ):
            client.list_catalogs()
        assert not sandbox.requests

    @pytest.mark.parametrize("part", HOSTILE)
    def test_peaka_finds_no_such_cache(self, client, sandbox, cache_id, part):
        """Against a router, too: an id with another endpoint's path in it is an unknown cache."""
        for hostile in (part, f"{cache_id}/{part}", f"{cache_id}/status", f"../cache/{cache_id}"):
            with pytest.raises(PeakaNotFoundError, match="Check the id"):
                client.get_cache(hostile)
            with pytest.raises(PeakaNotFoundError):
                client.trigger_incremental_update(hostile)
        assert set(operations(sandbox)) == {"getCacheSettings", "incrementalUpdateCache"}

    def test_what_cannot_be_written_is_refused(self, anybody):
        """A request that HTTP or JSON cannot hold is a mistake in its arguments, told before it is sent."""
        for attempt in (
            lambda: anybody.get_cache("x" * 100_000),
            lambda: anybody.execute_query("SELECT ?", bindings=[object()]),
        ):
            with pytest.raises(PeakaConfigError) as caught:
                attempt()
            assert len(str(caught.value)) < 1000


class TestArguments:
    """What a client is made with."""

    @pytest.mark.parametrize(
        ("argument", "value", "words"),
        [
            ("api_key", "", "api_key is empty"),
            ("api_key", " ", "api_key is empty"),
            ("api_key", None, "api_key is empty"),
            ("api_key", "two words", "api_key holds characters"),
            ("api_key", "line\nbreak", "api_key holds characters"),
            ("api_key", "schlüssel", "api_key holds characters"),
            ("project_id", "", "project_id is empty"),
            ("project_id", None, "project_id is empty"),
            ("request_timeout", 0, "request_timeout"),
            ("request_timeout", float("nan"), "request_timeout"),
            ("request_timeout", float("inf"), "request_timeout"),
            ("request_max_retries", -1, "request_max_retries"),
            ("max_concurrent_requests", 0, "max_concurrent_requests"),
        ],
    )
    def test_what_cannot_work_is_refused_by_name(self, argument, value, words):
        """Each argument that cannot work is named in the message, and no key is in it."""
        arguments: dict[str, Any] = {"api_key": "some-key", "project_id": "p", argument: value}
        with pytest.raises(PeakaConfigError, match=words) as caught:
            PeakaClient(**arguments)
        assert (
            not value or argument != "api_key" or str(value).strip() not in str(caught.value) or value == " "
        )

    def test_blanks_around_key_and_project_are_no_part_of_them(self, sandbox):
        """A key or project id pasted with a line end works."""
        with PeakaClient(f" {sandbox.api_key}\n", f"{sandbox.project_id}\n", sandbox.base_url) as client:
            assert client.project_id == sandbox.project_id
            assert client.list_catalogs()

    def test_the_repr_names_the_project_only(self, client, sandbox):
        """A client's repr names its project and never the key."""
        assert repr(client) == "<PeakaClient for project 'sandbox'>"
        assert sandbox.api_key not in repr(vars(client))


class TestThreads:
    """A client shared between threads, and its end."""

    def test_threads_get_their_own_answers(self, sandbox, client):
        """Many threads using one client each get the answer to their own question."""
        ids = list(sandbox.caches.items()) * 40

        def ask(entry: tuple[str, str]) -> bool:
            name, cache = entry
            status = client.get_cache_status(cache)
            return status.id == cache and name.endswith(f".{status.table_name}")

        with ThreadPoolExecutor(16) as threads:
            assert all(threads.map(ask, ids))

    def test_no_more_requests_at_once_than_allowed(self, sandbox):
        """However many threads ask, no more requests are under way than `max_concurrent_requests`."""
        sandbox.fault(times=None, status=None, delay=0.02)
        with (
            PeakaClient(
                sandbox.api_key, sandbox.project_id, sandbox.base_url, max_concurrent_requests=3
            ) as client,
            ThreadPoolExecutor(12) as threads,
        ):
            list(threads.map(lambda _: client.list_catalogs(), range(24)))
        spans = [(request.started_at, request.started_at + request.seconds) for request in sandbox.requests]
        assert max(sum(start <= at < end for start, end in spans) for at, _ in spans) <= 3

    def test_nothing_is_left_after_close(self, sandbox):
        """Closing ends the client's threads, those that look up host names included; closing twice is fine."""
        before = set(threading.enumerate())
        address = sandbox.base_url.replace("127.0.0.1", "localhost")
        client = PeakaClient(sandbox.api_key, sandbox.project_id, address)
        assert set(threading.enumerate()) <= before
        client.list_catalogs()
        started = set(threading.enumerate()) - before
        assert started
        client.close()
        client.close()
        for thread in started:
            thread.join()
        assert set(threading.enumerate()) <= before

    def test_a_closed_client_says_so(self, sandbox, client):
        """A call after close is a clear error, not a request and not a hang."""
        client.list_catalogs()
        client.close()
        sandbox.clear_requests()
        with pytest.raises(RuntimeError, match="closed"):
            client.list_catalogs()
        assert not sandbox.requests

    def test_a_client_that_was_never_used_can_be_closed(self):
        """Closing before the first request is fine."""
        PeakaClient("key", "p", "http://127.0.0.1:1/api/v1").close()


IMPORT = """
import sys, threading
import dagster
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith("socket.") else None)
threads = threading.active_count()
import dagster_peaka
assert threading.active_count() == threads, threading.enumerate()
assert not {event for event in seen if event != "socket.__new__"}, seen
"""


def test_importing_touches_no_network_and_starts_no_thread():
    """`import dagster_peaka` opens no connection, asks no resolver and starts no thread."""
    subprocess.run([sys.executable, "-c", IMPORT], check=True, timeout=600)


# Saved queries


def test_queries_are_listed_refreshed_and_cancelled(sandbox: PeakaSandbox) -> None:
    """One method an endpoint; a refresh shows by a later start."""
    sandbox.queries.create("Report", "SELECT count(*) AS n FROM ops.public.t")
    with peaka_for(sandbox).get_client() as client:
        (query,) = client.queries.list()
        assert (query.name, query.display_name, query.is_materialized) == ("report", "Report", True)
        assert client.queries.get(query.id) == query
        fresh = client.queries.get_status(query.id)
        assert (fresh.status, fresh.started_at, fresh.updated_at) == ("COMPLETED", None, None)

        client.queries.refresh(query.id)
        sandbox.queries.wait_idle()
        (status,) = client.queries.list_statuses()
        assert status.status == "COMPLETED"
        assert status.started_at is not None
        assert status.updated_at is not None

        sandbox.queries.plan("report", hold=True)
        client.queries.refresh(query.id)
        client.queries.cancel(query.id)
        sandbox.queries.wait_idle()
        assert sandbox.queries.refreshes("report")[-1].status == "CANCELED"
