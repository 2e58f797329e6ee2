"""Counters are shown as Peaka reported them, and nothing is concluded from them."""

import sqlite3
from contextlib import closing
from pathlib import Path

from dagster_peaka import build_peaka_cache_asset
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import peaka_for, run_of
from tests.observed.conftest import TABLE


def test_counters_are_shown_as_reported_and_nothing_else(ops_database: Path, peaka: PeakaSandbox) -> None:
    """A deletion reports 0 deleted rows in the observed Peaka: shown, left out of no total, and a new version."""
    before = run_of(build_peaka_cache_asset(table=TABLE, key="t"), peaka_for(peaka))
    with closing(sqlite3.connect(ops_database)) as database, database:
        database.execute("DELETE FROM t WHERE id = 1")
    after = run_of(build_peaka_cache_asset(table=TABLE, key="t"), peaka_for(peaka))

    first, second = (result.asset_materializations_for_node("t")[0] for result in (before, after))
    shown = peaka.executions(TABLE)[-1]
    deleted = 0 if peaka.profile == "observed" else 1
    assert second.metadata["peaka/rows_deleted"].value == deleted
    assert "dagster/row_count" not in second.metadata
    assert (
        (first.tags or {})["dagster/data_version"] != (second.tags or {})["dagster/data_version"] == shown.id
    )


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
