"""Saved queries as the sandbox plays them: snapshots, what a refresh sees of its sources, and what a status shows."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagster_peaka.sandbox import Behaviour, PeakaSandbox
from tests.sandbox.conftest import FLIGHTS, Api

COUNT = 'SELECT count(*) AS n FROM "ops"."public"."flights"'


@pytest.fixture
def observed(ops: dict[str, dict[str, str | Path]]) -> Iterator[PeakaSandbox]:
    """A sandbox as people saw the live service, with nothing cached."""
    with PeakaSandbox(ops) as sandbox:
        yield sandbox


def refreshed(sandbox: PeakaSandbox, query: str) -> str:
    """How a refresh that is asked for through the API ends."""
    api = Api(sandbox)
    (query_id,) = [each["id"] for each in api.get("queries") if each["name"] == query]
    assert api("POST", f"materialized-queries/{query_id}/refresh").status_code == 200
    sandbox.queries.wait_idle()
    return sandbox.queries.refreshes(query)[-1].status


def status(sandbox: PeakaSandbox, query: str) -> dict[str, Any]:
    """What the API shows of a query."""
    (found,) = [s for s in Api(sandbox).get("materialized-queries/status") if s["queryName"] == query]
    assert found == Api(sandbox).get(f"materialized-queries/{found['queryId']}/status")
    return found


def rows(sandbox: PeakaSandbox, query: str) -> list[list[Any]]:
    """The rows of a query's snapshot."""
    return Api(sandbox).query(f'SELECT * FROM "peaka"."mtquery"."{query}"')


def test_a_refresh_keeps_what_it_has_read_until_the_next_one(
    sandbox: PeakaSandbox, source: sqlite3.Connection
) -> None:
    """A snapshot: rows that come later are not in it."""
    sandbox.queries.create("Late flights", "SELECT id, carrier, day FROM ops.public.flights WHERE delay > 0")

    assert refreshed(sandbox, "late_flights") == "COMPLETED"
    assert rows(sandbox, "late_flights") == [[1, "UA", "2013-01-01"]]

    source.execute("INSERT INTO flights VALUES (4, 'DL', 9.5, NULL)")
    sandbox.start_execution(FLIGHTS)
    sandbox.wait_idle()
    assert rows(sandbox, "late_flights") == [[1, "UA", "2013-01-01"]]
    assert refreshed(sandbox, "late_flights") == "COMPLETED"
    assert rows(sandbox, "late_flights") == [[1, "UA", "2013-01-01"], [4, "DL", None]]


def test_a_snapshot_keeps_arrays_maps_and_rows_as_json(sandbox: PeakaSandbox) -> None:
    """SQLite has no form for them; the refresh ends all the same."""
    sandbox.queries.create(
        "nested", "SELECT ARRAY[1, 2] AS a, MAP(ARRAY['x'], ARRAY[1]) AS m, ROW(1, 'y') AS r"
    )

    assert refreshed(sandbox, "nested") == "COMPLETED"
    assert rows(sandbox, "nested") == [["[1, 2]", '{"x": 1}', '[1, "y"]']]


def test_over_a_cache_in_its_first_sync_a_refresh_stores_no_row_for_good(observed: PeakaSandbox) -> None:
    """And says COMPLETED; the end of that sync changes nothing."""
    observed.queries.create("n", "SELECT id FROM ops.public.flights")
    observed.plan(FLIGHTS, hold=True)
    observed.create_cache(FLIGHTS)

    assert refreshed(observed, "n") == "COMPLETED"
    observed.release(FLIGHTS)
    observed.wait_idle()

    assert rows(observed, "n") == []
    assert refreshed(observed, "n") == "COMPLETED"
    assert len(rows(observed, "n")) == 3


def test_over_an_uncached_paged_table_a_refresh_stores_a_hundred_rows(
    observed: PeakaSandbox, source: sqlite3.Connection
) -> None:
    """Silently; over its cache it stores all of them."""
    source.executemany("INSERT INTO flights (id) VALUES (?)", [(n,) for n in range(10, 210)])
    observed.behaviour.capped_reads = True
    observed.queries.create("n", "SELECT id FROM ops.public.flights")

    assert refreshed(observed, "n") == "COMPLETED"
    assert len(rows(observed, "n")) == 100

    observed.create_cache(FLIGHTS)
    observed.wait_idle()
    assert refreshed(observed, "n") == "COMPLETED"
    assert len(rows(observed, "n")) == 203


def test_a_fresh_query_says_completed_with_both_times_null(sandbox: PeakaSandbox) -> None:
    """And cannot be read before its first refresh."""
    sandbox.queries.create("n", COUNT)

    shown = status(sandbox, "n")

    assert shown["status"] == "COMPLETED"
    assert (shown["lastExecutionStartTime"], shown["lastUpdateTime"]) == (None, None)
    answer = Api(sandbox)("POST", "queries/execute", json={"qualifiedName": "peaka.mtquery.n"})
    assert answer.status_code == 400


def test_the_old_word_stays_until_the_new_refresh_starts(sandbox: PeakaSandbox) -> None:
    """And, where the word lags, beyond: only the start has moved."""
    sandbox.queries.create("n", COUNT)
    sandbox.queries.plan("n", fail="no room")
    assert refreshed(sandbox, "n") == "FAILED"
    failed = status(sandbox, "n")

    sandbox.behaviour.query_start_gap = 3600.0
    sandbox.queries.refresh("n")
    assert status(sandbox, "n") == failed
    sandbox.queries.cancel("n")
    sandbox.queries.wait_idle()

    sandbox.behaviour = Behaviour(query_word_lag=3600.0)
    sandbox.queries.plan("n", hold=True)
    sandbox.queries.refresh("n")
    while (shown := status(sandbox, "n")) == failed:
        time.sleep(0.002)
    assert shown["lastExecutionStartTime"] > failed["lastExecutionStartTime"]
    assert {**shown, "lastExecutionStartTime": None} == {**failed, "lastExecutionStartTime": None}
    sandbox.behaviour.query_word_lag = 0.0
    assert status(sandbox, "n")["status"] == "RUNNING"
    sandbox.queries.cancel("n")
    sandbox.queries.wait_idle()
    assert status(sandbox, "n")["status"] == "CANCELED"


def test_a_failed_refresh_leaves_the_snapshot(sandbox: PeakaSandbox) -> None:
    """What is wrong with a statement shows when it is run."""
    query = sandbox.queries.create("n", COUNT)
    assert refreshed(sandbox, "n") == "COMPLETED"
    body = {
        "displayName": "n",
        "inputQuery": "SELECT nothing FROM ops.public.flights",
        "queryType": "MATERIALIZED",
    }
    assert Api(sandbox)("PUT", f"queries/{query}", json=body).status_code == 200

    assert refreshed(sandbox, "n") == "FAILED"
    assert rows(sandbox, "n") == [[3]]


def test_queries_and_snapshots_outlast_a_restart(
    ops: dict[str, dict[str, str | Path]], tmp_path: Path
) -> None:
    """With the store, and with the last refresh, by which a later one is known."""
    store = tmp_path / "store.db"
    with PeakaSandbox(ops, [FLIGHTS], store=store) as sandbox:
        sandbox.wait_idle()
        sandbox.queries.create("n", COUNT)
        assert refreshed(sandbox, "n") == "COMPLETED"
        before = status(sandbox, "n")

    with PeakaSandbox(ops, [FLIGHTS], store=store) as sandbox:
        assert status(sandbox, "n") == before
        assert rows(sandbox, "n") == [[3]]
        assert refreshed(sandbox, "n") == "COMPLETED"
        assert status(sandbox, "n")["lastExecutionStartTime"] > before["lastExecutionStartTime"]


def test_a_saved_query_is_executed_by_its_id_and_a_plain_one_is_not_refreshed(sandbox: PeakaSandbox) -> None:
    """Plain ones have no snapshot."""
    query = sandbox.queries.create("n", COUNT, materialized=False)
    api = Api(sandbox)

    assert api("POST", "queries/execute?format=COMPACT", json={"id": query}).json()["data"] == [[3]]
    for other in ({"id": int(query)}, {"queryId": query}):
        assert api("POST", "queries/execute", json=other).status_code == 400
    assert api.get("materialized-queries/status") == []
    assert api("POST", f"materialized-queries/{query}/refresh").status_code == 400
    assert api("DELETE", f"queries/{query}").status_code == 200
    assert api("GET", f"queries/{query}").status_code == 404
