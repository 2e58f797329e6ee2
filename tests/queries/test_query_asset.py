"""Runs of query assets against a sandbox: order, checks, what is recorded, what is followed and what is left alone."""

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaConfigError, build_peaka_cache_asset, build_peaka_query_asset
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import acting_when, failure_of, log_of, peaka_for, run_of

ORDERS = "shop.public.orders"
ROWS = 150


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[PeakaSandbox]:
    """A local Peaka as people saw it: 150 orders behind a paged API, without a cache, and a query over them."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)")
        database.executemany("INSERT INTO orders VALUES (?, 'tea')", [(n,) for n in range(ROWS)])
    with PeakaSandbox({"shop": {"public": path}}) as sandbox:
        sandbox.behaviour.capped_reads = True
        sandbox.queries.create("report", f"SELECT id, item FROM {ORDERS}")
        yield sandbox


def report(**more: Any) -> dg.AssetsDefinition:
    """The query's asset."""
    return build_peaka_query_asset(query="report", row_count="query", **more)


def metadata_of(result: dg.ExecuteInProcessResult, key: str = "report") -> dict[str, Any]:
    """The metadata of the only materialization of the query."""
    (event,) = [
        each
        for each in result.get_asset_materialization_events()
        if each.asset_key and each.asset_key.path[-1] == key
    ]
    return {
        name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()
    }


def posted(sandbox: PeakaSandbox, operation: str = "refreshMaterializedQuery") -> int:
    """How many of these requests came."""
    return sum(request.operation == operation for request in sandbox.requests)


# Log


def test_a_refresh_is_called_a_refresh(shop: PeakaSandbox) -> None:
    """A query has no full refresh and no execution with an id: its log speaks of a refresh, and of when it began."""
    lines = [line for _, line in log_of(report(), peaka_for(shop))]

    said = [line.partition("): ")[2] for line in lines if line.startswith("peaka.mtquery.report (")]
    assert said[0].startswith("triggering a refresh (the newest so far: ")
    assert [line for line in said if re.match(r"the refresh of 20\S+ COMPLETED in \S+ s$", line)] == said[-1:]
    assert not [line for line in said if "execution 2" in line or "full refresh" in line]


# Order


def test_caches_and_query_in_one_run_give_all_rows(shop: PeakaSandbox) -> None:
    """Dagster's order is the cure: the query is refreshed after its cache, and reads it whole."""
    shop.create_cache(ORDERS)
    shop.wait_idle()
    cache = build_peaka_cache_asset(table=ORDERS)
    query = report(deps=[cache], sources=[ORDERS], sources_check="block")

    result = dg.materialize([query, cache], resources={"peaka": peaka_for(shop)})

    metadata = metadata_of(result)
    assert metadata["dagster/row_count"] == ROWS
    assert metadata["peaka/origin"] == "triggered"
    assert metadata["dagster/table_name"] == "peaka.mtquery.report"
    (refresh,) = shop.queries.refreshes("report")
    assert abs(metadata["peaka/started_at"] - (refresh.started_at or 0.0)) < 0.01
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.check_name, evaluation.passed) == ("sources_cached", True)


def test_in_the_wrong_order_the_check_says_why_before_the_refresh(shop: PeakaSandbox) -> None:
    """In the first sync of its source a refresh would keep no row: with `block`, there is none."""
    shop.plan(ORDERS, hold=True)
    shop.create_cache(ORDERS)

    result = run_of(report(sources=[ORDERS], sources_check="block"), peaka_for(shop))

    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.ERROR
    said = f"{ORDERS} is in the first sync of its cache: no row of it would be read."
    assert evaluation.description == said
    assert said in failure_of(result).description
    assert posted(shop) == 0


def test_over_an_uncached_table_the_check_warns(shop: PeakaSandbox) -> None:
    """The refresh goes on, and what it keeps is what was said of it."""
    result = run_of(report(sources=[ORDERS]), peaka_for(shop))

    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    assert "has no cache: of a table behind a paged API at most 100 rows" in (evaluation.description or "")
    assert metadata_of(result)["dagster/row_count"] == 100


def test_a_source_that_cannot_be_cached_is_no_concern(shop: PeakaSandbox) -> None:
    """Databases are such sources: they answer whole."""
    shop.database("shop.other").execute("CREATE VIRTUAL TABLE words USING fts5(word)")
    (listed,) = shop_tables(shop, "other", "words")
    if listed.is_cacheable is not False:
        pytest.skip("the sandbox lists it otherwise")

    result = run_of(report(sources=["shop.other.words"]), peaka_for(shop))

    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.passed, evaluation.description


def shop_tables(sandbox: PeakaSandbox, schema: str, name: str) -> list[Any]:
    """What Peaka lists of a table."""
    with peaka_for(sandbox).get_client() as client:
        (catalog,) = [each for each in client.list_catalogs() if each.name == "shop"]
        return [each for each in client.list_tables(catalog.id, schema) if each.table_name == name]


def test_a_cache_without_a_completed_sync_is_named(shop: PeakaSandbox) -> None:
    """Its first sync failed, so there may be nothing in it."""
    shop.plan(ORDERS, fail="the disk is full")
    shop.create_cache(ORDERS)
    shop.wait_idle()

    result = run_of(report(sources=[ORDERS], sources_check="block"), peaka_for(shop))

    assert "has a cache of which no sync has completed" in failure_of(result).description


def test_sources_that_cannot_be_looked_at_fail_the_check(shop: PeakaSandbox) -> None:
    """With the reason; without `block` the query is refreshed."""
    shop.fault("listCatalogs", times=1, status=500)

    result = run_of(report(sources=[ORDERS]), peaka_for(shop))

    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert "could not be read" in (evaluation.description or "")
    assert posted(shop) == 1


# What is recorded


def test_one_refresh_has_one_version(shop: PeakaSandbox) -> None:
    """The query with the start; another refresh has another one."""
    query = shop.queries.refreshes
    with dg.DagsterInstance.ephemeral() as instance:
        versions: list[str] = []
        for _ in range(2):
            run_of(report(), peaka_for(shop), instance=instance)
            event = instance.get_latest_materialization_event(dg.AssetKey(["peaka", "mtquery", "report"]))
            assert event is not None
            assert event.asset_materialization is not None
            versions.append((event.asset_materialization.tags or {})["dagster/data_version"])

    assert len(query("report")) == 2
    assert versions[0] != versions[1]
    assert all("@2" in version for version in versions)


def test_a_fingerprint_is_the_version_where_it_is_asked_for(shop: PeakaSandbox) -> None:
    """A refresh that changed nothing wakes nobody."""
    with dg.DagsterInstance.ephemeral() as instance:
        versions: list[str | None] = []
        for _ in range(2):
            run_of(report(fingerprint="count(*), max(id)"), peaka_for(shop), instance=instance)
            event = instance.get_latest_materialization_event(dg.AssetKey(["peaka", "mtquery", "report"]))
            assert event is not None
            assert event.asset_materialization is not None
            versions.append((event.asset_materialization.tags or {}).get("dagster/data_version"))

    assert versions == ["[100, 99]", "[100, 99]"]


# Failures


def test_a_failed_refresh_fails_the_step(shop: PeakaSandbox) -> None:
    """In the words of queries."""
    shop.queries.plan("report", fail="no room")

    result = run_of(report(), peaka_for(shop))

    description = failure_of(result).description
    assert "Peaka query peaka.mtquery.report" in description
    assert "the refresh of 2" in description
    assert "FAILED" in description
    assert "cache" not in description
    assert result.get_asset_materialization_events() == []


def test_a_cancelled_refresh_fails_the_step(shop: PeakaSandbox) -> None:
    """Whoever cancelled it."""
    shop.queries.plan("report", hold=True)
    with acting_when(lambda: is_followed(shop), lambda: shop.queries.cancel("report")):
        result = run_of(report(), peaka_for(shop))

    assert "CANCELLED" in failure_of(result).description


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_query_that_is_not_there_is_named(shop: PeakaSandbox, by: str) -> None:
    """With what it was near to; nothing is triggered."""
    asset = build_peaka_query_asset(query="reports" if by == "name" else "7", key="q")

    description = failure_of(run_of(asset, peaka_for(shop))).description

    assert "The project has no query" in description
    assert ("Near matches: report." in description) is (by == "name")
    assert posted(shop) == 0


def test_a_plain_query_is_not_refreshed(shop: PeakaSandbox) -> None:
    """There is nothing to refresh."""
    shop.queries.create("plain", "SELECT 1 AS one", materialized=False)

    assert (
        "is not materialized"
        in failure_of(run_of(build_peaka_query_asset(query="plain"), peaka_for(shop))).description
    )


def test_a_query_that_is_deleted_meanwhile_is_gone(shop: PeakaSandbox) -> None:
    """Peaka answers 400 about it, and not 404."""
    shop.queries.plan("report", hold=True)
    with acting_when(lambda: is_followed(shop), lambda: shop.queries.delete("report")):
        result = run_of(report(), peaka_for(shop))

    failure = failure_of(result)
    assert "the query was deleted while the refresh of 2" in failure.description
    assert failure.metadata["peaka/permanent"] is True


# Others, outages, crashes


def is_followed(sandbox: PeakaSandbox) -> bool:
    """Whether somebody has seen what runs.

    Of the readings since it began the first may have come just before that showed, the next two make sure of it, and
    the fourth tells that their answers were taken in.
    """
    started = [refresh.started_at for refresh in sandbox.queries.refreshes("report") if refresh.started_at]
    read = [request for request in sandbox.requests if request.operation == "readMaterializedQueryStatus"]
    return bool(started) and sum(request.started_at > started[-1] for request in read) >= 4


def test_what_runs_already_is_not_taken_for_ours(shop: PeakaSandbox) -> None:
    """It may have read before the caches were synced: another refresh is asked for, and followed."""
    shop.queries.plan("report", hold=True)
    shop.queries.refresh("report")
    while not shop.queries.refreshes("report")[0].started_at:
        time.sleep(0.01)
    with acting_when(lambda: posted(shop) == 1, lambda: shop.queries.release("report")):
        result = run_of(report(), peaka_for(shop))

    others, ours = shop.queries.refreshes("report")
    assert abs(metadata_of(result)["peaka/started_at"] - (ours.started_at or 0.0)) < 0.01
    assert (others.origin, ours.origin) == ("stranger", "api")


def test_an_outage_is_tolerated_and_nothing_is_triggered_twice(shop: PeakaSandbox) -> None:
    """Reads that fail say nothing."""
    shop.fault("readMaterializedQueryStatus", times=3, status=503)

    assert run_of(report(), peaka_for(shop)).success
    assert posted(shop) == 1


def test_a_retry_follows_what_the_first_try_triggered(shop: PeakaSandbox) -> None:
    """The first one lost sight of it; the second finds it completed, and triggers nothing."""
    shop.queries.plan("report", hold=True)
    asset = report(retry_policy=dg.RetryPolicy(max_retries=20))

    def away() -> None:
        # For many times as long as is tolerated.
        shop.fault("readMaterializedQueryStatus", times=20, status=503)
        shop.queries.release("report")

    with acting_when(lambda: is_followed(shop), away):
        result = run_of(asset, peaka_for(shop, outage_tolerance=0.2))

    assert result.success
    assert [event for event in result.all_events if event.is_step_up_for_retry]
    assert posted(shop) == 1
    assert metadata_of(result)["peaka/origin"] == "adopted"


@pytest.mark.parametrize("asked_for", [False, True])
def test_a_termination_cancels_only_where_that_is_asked_for(shop: PeakaSandbox, asked_for: bool) -> None:
    """A refresh of somebody else cannot always be told from ours, so by default none is cancelled."""
    shop.queries.plan("report", hold=True)
    with dg.DagsterInstance.ephemeral() as instance:

        def terminate() -> None:
            (run,) = instance.get_runs()
            instance.report_run_canceling(run)

        with acting_when(lambda: is_followed(shop), terminate):
            run_of(report(cancel_on_termination=asked_for), peaka_for(shop), instance=instance)

        (run,) = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.CANCELED
    assert posted(shop, "cancelMaterializedQuery") == int(asked_for)
    shop.queries.cancel("report")


# Refused at load


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"query": " "}, "query is empty"),
        ({"query": "q", "sources": ["orders"]}, "catalog.schema.table"),
        ({"query": "q", "sources": "shop.public.orders"}, "sources must be a list"),
        ({"query": "q", "sources_check": "on"}, "sources_check must be one of 'off', 'warn', 'block'"),
        ({"query": "q", "fingerprint": "checksum"}, "needs a table's columns"),
        ({"query": "q", "row_count": "yes"}, "row_count must be one of"),
    ],
)
def test_likely_mistakes_are_named(arguments: dict[str, Any], said: str) -> None:
    """The message says what to write instead."""
    with pytest.raises(PeakaConfigError, match=said):
        build_peaka_query_asset(**arguments)
