"""Peaka's own schedule of a query that Dagster refreshes: said, switched off, or left alone."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import build_peaka_query_asset, build_peaka_query_assets
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import failure_of, log_of, peaka_for, run_of

EVERY_SIX_HOURS = {"type": "interval", "repeatDuration": "PT6H"}
SQL = "SELECT id FROM shop.public.orders"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[PeakaSandbox]:
    """A local Peaka that refreshes the query `report` by itself, every six hours."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    with PeakaSandbox({"shop": {"public": path}}, caches=["shop.public.orders"]) as sandbox:
        sandbox.wait_idle()
        sandbox.queries.create("report", SQL, schedule=EVERY_SIX_HOURS)
        sandbox.clear_requests()
        yield sandbox


def disabling(**more: Any) -> dg.AssetsDefinition:
    """The query, whose refreshes are Dagster's alone."""
    return build_peaka_query_asset(query="report", on_schedule="disable", **more)


def schedule(sandbox: PeakaSandbox) -> str:
    """What Peaka keeps; it has left everything else as it was."""
    with peaka_for(sandbox).get_client() as client:
        (query,) = client.queries.list()
    assert (query.name, query.display_name, query.sql, query.is_materialized) == (
        "report",
        "report",
        SQL,
        True,
    )
    return query.schedule.words if query.schedule else ""


def count(sandbox: PeakaSandbox, operation: str) -> int:
    """How many of these requests came."""
    return sum(request.operation == operation for request in sandbox.requests)


def disabled(result: dg.ExecuteInProcessResult) -> str | None:
    """What the only materialization says was switched off."""
    (event,) = result.get_asset_materialization_events()
    value = event.step_materialization_data.materialization.metadata.get("peaka/schedules_disabled")
    return None if value is None else str(value.value)


def test_a_refresh_switches_the_schedule_off_and_says_so(shop: PeakaSandbox) -> None:
    """In Peaka, in the materialization, and once: the next refresh finds nothing to switch off."""
    assert disabled(run_of(disabling(), peaka_for(shop))) == "PT6H"
    assert schedule(shop) == ""
    shop.clear_requests()

    assert disabled(run_of(disabling(), peaka_for(shop))) is None
    assert count(shop, "updateQuery") == 0


def test_what_was_switched_off_is_in_the_log(shop: PeakaSandbox) -> None:
    """With the reason."""
    (line,) = [text for _, text in log_of(disabling(), peaka_for(shop)) if "switched off" in text]

    assert "peaka.mtquery.report" in line
    assert "PT6H" in line


def test_a_schedule_that_peaka_keeps_is_an_error(shop: PeakaSandbox) -> None:
    """It answers 200, and goes on refreshing: nothing is triggered, and the failure says what is to be done."""
    shop.fault("updateQuery", times=1, status=200, body={"id": "7"})

    failure = failure_of(run_of(disabling(), peaka_for(shop)))

    assert "Peaka query peaka.mtquery.report" in failure.description
    assert "keeps PT6H; nothing was triggered" in failure.description
    assert count(shop, "refreshMaterializedQuery") == 0


@pytest.mark.parametrize(
    "kept", [{"type": "weekly"}, {"type": "interval"}, {"type": "CRON", "cronExpression": "0 0 * * *"}]
)
def test_a_schedule_in_words_that_nobody_knows_is_one(shop: PeakaSandbox, kept: dict[str, str]) -> None:
    """Peaka answers that it is off, and keeps something else."""
    with peaka_for(shop).get_client() as client:
        (query,) = client.queries.list()
    body = {
        "id": query.id,
        "name": "report",
        "inputQuery": SQL,
        "queryType": "MATERIALIZED",
        "schedule": kept,
    }
    shop.fault("readQuery", times=None, status=200, body=body)

    failure = failure_of(run_of(disabling(), peaka_for(shop)))

    assert "keeps " in failure.description
    assert count(shop, "refreshMaterializedQuery") == 0


def test_a_key_that_may_not_change_queries_is_an_error(shop: PeakaSandbox) -> None:
    """No later refresh would do better."""
    shop.fault("updateQuery", status=403)

    failure = failure_of(run_of(disabling(), peaka_for(shop)))

    assert "could not be switched off (on_schedule='disable'); nothing was triggered" in failure.description
    assert failure.metadata["peaka/permanent"] is True
    assert count(shop, "refreshMaterializedQuery") == 0


@pytest.mark.parametrize("fault", [{"status": 500}, {"lose_reply": True}, {"refuse": True}], ids=str)
def test_what_fails_half_way_is_tried_again_by_the_next_refresh(
    shop: PeakaSandbox, fault: dict[str, Any]
) -> None:
    """An outage is no reason to leave the query alone."""
    shop.fault("updateQuery", times=1, **fault)

    assert run_of(disabling(), peaka_for(shop)).success
    assert run_of(disabling(), peaka_for(shop)).success

    assert schedule(shop) == ""


def test_a_load_from_a_snapshot_says_which_queries_have_schedules(
    shop: PeakaSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Only where nothing was chosen."""
    project = peaka_for(shop).fetch_project(queries=True)

    with caplog.at_level(logging.WARNING):
        build_peaka_query_assets(project)
        assert "report (PT6H). A query that Dagster decides to sync as well" in caplog.text
        caplog.clear()
        for choice in ("ignore", "disable"):
            build_peaka_query_assets(project, on_schedule=choice)

    assert "schedules of its own" not in caplog.text


def test_a_step_that_learns_of_a_schedule_says_so(shop: PeakaSandbox) -> None:
    """A query that is named alone is looked up anyway."""
    warned = log_of(build_peaka_query_asset(query="report"), peaka_for(shop))
    silent = log_of(build_peaka_query_asset(query="report", on_schedule="ignore"), peaka_for(shop))

    assert [level for level, text in warned if "schedules of its own: peaka.mtquery.report" in text] == [
        "WARNING"
    ]
    assert not [text for _, text in silent if "schedules" in text]
    assert count(shop, "updateQuery") == 0
