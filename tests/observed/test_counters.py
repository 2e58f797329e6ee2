"""Counters are shown as Peaka reported them, and nothing is concluded from them."""

import sqlite3
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from dagster_peaka import build_peaka_cache_asset, build_peaka_polling_sensor
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import peaka_for, run_of
from tests.observed.conftest import TABLE
from tests.sensors.polling import Watch

COUNTERS = ("inserted", "updated", "deleted", "processed")


@pytest.mark.parametrize(
    ("change", "observed", "documented"),
    [
        ("INSERT INTO t VALUES (4, 'd')", (1, 2, 0, 3), (1, 0, 0, 4)),
        ("UPDATE t SET v = 'z' WHERE id = 1", (0, 2, 0, 2), (0, 1, 0, 3)),
        ("DELETE FROM t WHERE id = 1", (0, 2, 0, 2), (0, 0, 1, 2)),
    ],
)
def test_counters_are_shown_as_reported_and_nothing_else(
    ops_database: Path,
    peaka: PeakaSandbox,
    change: str,
    observed: tuple[int, ...],
    documented: tuple[int, ...],
) -> None:
    """Seen: 2 updates too many, no deletion ever, no total. Each sync is a new version, whatever they say."""
    asset = build_peaka_cache_asset(table=TABLE, key="t")
    before = run_of(asset, peaka_for(peaka))
    with closing(sqlite3.connect(ops_database)) as database, database:
        database.execute(change)
    after = run_of(asset, peaka_for(peaka))

    first, second = (result.asset_materializations_for_node("t")[0] for result in (before, after))
    shown = tuple(second.metadata[f"peaka/rows_{counter}"].value for counter in COUNTERS)
    assert shown == (observed if peaka.profile == "observed" else documented)
    assert "dagster/row_count" not in second.metadata
    assert (
        (first.tags or {})["dagster/data_version"]
        != (second.tags or {})["dagster/data_version"]
        == peaka.executions(TABLE)[-1].id
    )


def test_a_first_sync_s_counters_are_no_total_either(peaka: PeakaSandbox) -> None:
    """Seen: 40 % of its rows are updates besides, and both together are what it calls cached."""
    backfill = build_peaka_polling_sensor([build_peaka_cache_asset(table=TABLE, key="t")], backfill=True)
    with dg.DagsterInstance.ephemeral() as instance:
        (event,) = Watch(backfill, peaka_for(peaka), instance).tick()

    shown = tuple(event.metadata[f"peaka/rows_{counter}"].value for counter in COUNTERS)
    assert shown == ((3, 1, 0, 4) if peaka.profile == "observed" else (3, 0, 0, 3))
    assert "dagster/row_count" not in event.metadata


def test_a_deletion_without_any_counter_is_a_new_version(sandbox: PeakaSandbox, ops_database: Path) -> None:
    """0/0/0 was seen too, and the fingerprint sees the deletion all the same."""
    sandbox.behaviour.silent_deletions = True
    asset = build_peaka_cache_asset(table=TABLE, key="t", fingerprint="checksum")
    versions: list[str] = []
    for statement in ("SELECT 1", "DELETE FROM t WHERE id = 1"):
        with closing(sqlite3.connect(ops_database)) as database, database:
            database.execute(statement)
        (event,) = run_of(asset, peaka_for(sandbox)).asset_materializations_for_node("t")
        versions.append((event.tags or {})["dagster/data_version"])

    assert versions[0] != versions[1]
    assert event.metadata["peaka/rows_deleted"].value == 0
    assert event.metadata["dagster/row_count"].value == 2
