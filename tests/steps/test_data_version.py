"""Data versions over real HTTP: an execution's id, or a fingerprint of the rows that changes exactly when they do."""

import itertools
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaConfigError, PeakaProject, build_peaka_cache_asset, build_peaka_cache_assets
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import peaka_for, run_of

TABLE = "ops.public.t"


@dataclass
class Synced:
    """The cache's asset, materialized again and again on one instance, and the source that it copies."""

    sandbox: PeakaSandbox
    source: Path
    instance: dg.DagsterInstance
    asset: dg.AssetsDefinition

    def sync(self, **config: Any) -> str:
        """Materialize the asset; returns its data version."""
        materialization = self.materialize(**config)
        assert materialization.tags is not None
        return materialization.tags["dagster/data_version"]

    def materialize(self, **config: Any) -> dg.AssetMaterialization:
        """Materialize the asset."""
        result = run_of(self.asset, peaka_for(self.sandbox), config=config, instance=self.instance)
        assert result.success
        (materialization,) = result.asset_materializations_for_node(self.asset.op.name)
        return materialization

    def change(self, statement: str) -> None:
        """Change the source."""
        with closing(sqlite3.connect(self.source)) as database, database:
            database.execute(statement)

    def rows(self) -> list[tuple[Any, ...]]:
        """The rows of the source, in an order that does not depend on theirs."""
        with closing(sqlite3.connect(self.source)) as database:
            return sorted(database.execute("SELECT * FROM t").fetchall(), key=repr)

    def operations(self) -> list[str | None]:
        """What has been asked beside the sync's own requests since this was last called."""
        names = [request.operation for request in self.sandbox.requests]
        self.sandbox.clear_requests()
        return [
            name
            for name in names
            if name in ("executeQuery", "listTableColumns", "getColumns", "listColumns")
        ]


@pytest.fixture
def syncing(sandbox: PeakaSandbox, ops_database: Path) -> Iterator[Callable[..., Synced]]:
    """Makes the cache's asset, on an instance of its own."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield lambda **settings: Synced(
            sandbox, ops_database, instance, build_peaka_cache_asset(table=TABLE, **settings)
        )


def warnings(synced: Synced) -> list[str]:
    """The warnings of the newest run."""
    run_id = synced.instance.get_runs(limit=1)[0].run_id
    return [
        entry.user_message
        for entry in synced.instance.all_logs(run_id)
        if entry.dagster_event is None and int(entry.level) == 30
    ]


# Without a fingerprint


@pytest.mark.parametrize("mode", ["incremental", "full_refresh"])
@pytest.mark.parametrize("changes", [True, False])
def test_each_execution_has_its_own_version(syncing: Any, mode: str, changes: bool) -> None:
    """Whatever the counters say: Peaka reports 0/0/0 and 0/2/0 also where rows were deleted."""
    synced = syncing()
    before = synced.sync(mode=mode)
    if changes:
        synced.change("DELETE FROM t WHERE id = 1")

    assert synced.sync(mode=mode) == synced.sandbox.executions(TABLE)[-1].id != before


def test_nothing_is_asked_for_a_version(syncing: Any) -> None:
    """Without a fingerprint no query is sent, and the versions before are not looked at."""
    synced = syncing()
    synced.operations()
    synced.sync()

    assert synced.operations() == []


# With one


def test_rows_that_do_not_change_keep_the_checksum(syncing: Any) -> None:
    """Update after update and a full refresh; each materialization names its own execution."""
    synced = syncing(fingerprint="checksum")
    versions = [synced.sync(), synced.sync(), synced.sync(mode="full_refresh"), synced.sync()]

    assert len(set(versions)) == 1
    metadata = synced.materialize().metadata
    assert metadata["peaka/execution_id"].value == synced.sandbox.executions(TABLE)[-1].id
    assert metadata["dagster/row_count"].value == 3


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM t WHERE id = 1",
        "DELETE FROM t",
        "INSERT INTO t VALUES (9, NULL)",
        "UPDATE t SET v = NULL WHERE id = 2",
        "UPDATE t SET v = '' WHERE id = 2",
        "UPDATE t SET v = CASE id WHEN 1 THEN (SELECT v FROM t WHERE id = 2) ELSE 'a' END WHERE id IN (1, 2)",
    ],
)
def test_any_change_of_rows_changes_the_checksum(syncing: Any, statement: str) -> None:
    """Deletions, NULLs, empty strings, and values that swap their rows."""
    synced = syncing(fingerprint="checksum")
    before = synced.sync()
    synced.change(statement)
    after = synced.sync()

    assert before.startswith("3:")
    assert ":" in after
    assert after != before


@pytest.mark.parametrize("seed", range(3))
def test_versions_differ_exactly_when_rows_do(syncing: Any, seed: int) -> None:
    """Generated changes, some without effect and some that bring an earlier state back."""
    synced = syncing(fingerprint="checksum")
    dice = random.Random(seed)
    seen = [(synced.rows(), synced.sync())]
    for _ in range(8):
        number, value = dice.randint(1, 4), dice.choice(["'a'", "'b'", "NULL"])
        synced.change(
            dice.choice(
                [
                    f"INSERT OR REPLACE INTO t VALUES ({number}, {value})",
                    f"DELETE FROM t WHERE id = {number}",
                    f"UPDATE t SET v = {value} WHERE id = {number}",
                    "UPDATE t SET v = v",
                ]
            )
        )
        seen.append((synced.rows(), synced.sync()))
    for (rows, version), (others, other) in itertools.combinations(seen, 2):
        assert (rows == others) == (version == other)


def test_a_select_list_is_the_version(syncing: Any) -> None:
    """It changes with what it selects and with nothing else, and no row count comes with it."""
    synced = syncing(fingerprint="max(id), count(v) AS named -- and no more")
    before = synced.materialize()
    synced.change("UPDATE t SET v = 'other' WHERE id = 1")
    same = synced.sync()
    synced.change("INSERT INTO t VALUES (9, 'z')")

    assert same == (before.tags or {})["dagster/data_version"] != synced.sync()
    assert "dagster/row_count" not in before.metadata


@pytest.mark.parametrize("fingerprint", ["checksum", "max(id)"])
def test_one_query_answers_fingerprint_and_row_count(syncing: Any, fingerprint: str) -> None:
    """The copy is scanned once."""
    synced = syncing(fingerprint=fingerprint, row_count="query")
    synced.operations()
    metadata = synced.materialize().metadata

    assert metadata["dagster/row_count"].value == 3
    assert synced.operations().count("executeQuery") == 1


def test_columns_come_from_the_snapshot(sandbox: PeakaSandbox, ops_database: Path) -> None:
    """No listing is asked for; where the snapshot's columns are no longer those of the table, one is."""
    project = peaka_for(sandbox).fetch_project(selector=TABLE)
    assert isinstance(project, PeakaProject)
    (asset,) = build_peaka_cache_assets(project, fingerprint="checksum")
    with dg.DagsterInstance.ephemeral() as instance:
        synced = Synced(sandbox, ops_database, instance, asset)
        synced.operations()
        first = synced.sync()
        assert synced.operations() == ["executeQuery"]
        synced.change("ALTER TABLE t RENAME COLUMN v TO w")
        sandbox.start_execution(TABLE, mode="full_refresh")
        sandbox.wait_idle()
        second = synced.sync()

    assert first.startswith("3:")
    assert second.startswith("3:")
    assert synced.operations().count("executeQuery") == 2


@pytest.mark.parametrize(
    "body", [{"columns": ["x"], "data": []}, {"columns": ["x"], "data": [{"x": 1}, {"x": 2}]}]
)
def test_a_fingerprint_that_cannot_be_had_is_a_change(syncing: Any, body: dict[str, Any]) -> None:
    """The sync has succeeded: a warning says why, and the execution's id is the version."""
    synced = syncing(fingerprint="checksum")
    synced.sandbox.fault("executeQuery", times=None, status=200, body=body)

    assert synced.sync() == synced.sandbox.executions(TABLE)[-1].id
    (warning,) = warnings(synced)
    assert "its fingerprint could not be had, so its data version is the execution's id" in warning


def test_two_values_of_one_name_are_refused(syncing: Any) -> None:
    """One would hide the other, and with it a change."""
    synced = syncing(fingerprint="max(id) AS x, min(id) AS x")

    assert synced.sync() == synced.sandbox.executions(TABLE)[-1].id
    assert "give them names by AS" in warnings(synced)[0]


@pytest.mark.parametrize("fingerprint", ["", "  ", "SELECT max(id) FROM t", "max(id); DROP TABLE t"])
def test_what_is_no_select_list_is_refused_at_once(fingerprint: str) -> None:
    """In words that show what one looks like."""
    with pytest.raises(
        PeakaConfigError, match=r"select list of aggregates, such as 'count\(\*\), max\(updated_at\)'"
    ):
        build_peaka_cache_asset(table=TABLE, fingerprint=fingerprint)


def test_each_materialization_repeats_what_the_definition_says_of_the_table(syncing: Any) -> None:
    """Its columns and its name, which Dagster shows beside the rows."""
    synced = syncing()
    columns = dg.TableSchema(columns=[dg.TableColumn("id", "bigint"), dg.TableColumn("v", "varchar")])
    synced.asset = build_peaka_cache_asset(
        cache_id=synced.sandbox.caches[TABLE],
        key="t",
        metadata={"dagster/column_schema": columns, "dagster/table_name": TABLE, "team": "shop"},
    )

    metadata = synced.materialize().metadata

    assert metadata["dagster/column_schema"].value == columns
    assert metadata["dagster/table_name"].value == TABLE
    assert "team" not in metadata


def test_what_is_downstream_fires_only_for_changes(syncing: Any) -> None:
    """Dagster's own evaluation after an update without changes, and one that only deleted.

    `eager()` asks whether there was a materialization, not what it changed, and fires each time.
    """
    synced = syncing(fingerprint="checksum")
    changed = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())

    @dg.asset(deps=[synced.asset], automation_condition=changed)
    def on_change() -> None:
        pass

    @dg.asset(deps=[synced.asset], automation_condition=dg.AutomationCondition.eager())
    def on_any() -> None:
        pass

    defs = dg.Definitions(
        assets=[synced.asset, on_change, on_any], resources={"peaka": peaka_for(synced.sandbox)}
    )
    synced.sync()
    dg.materialize([on_change, on_any], instance=synced.instance)
    result = dg.evaluate_automation_conditions(defs, synced.instance)

    def fired() -> set[str]:
        nonlocal result
        result = dg.evaluate_automation_conditions(defs, synced.instance, cursor=result.cursor)
        requested = [each for each in (on_change, on_any) if result.get_num_requested(each.key)]
        if requested:
            dg.materialize(requested, instance=synced.instance)
            result = dg.evaluate_automation_conditions(defs, synced.instance, cursor=result.cursor)
            assert result.total_requested == 0
        return {each.key.to_user_string() for each in requested}

    synced.sync()
    assert fired() == {"on_any"}
    synced.change("DELETE FROM t WHERE id = 1")
    synced.sync()
    assert fired() == {"on_change", "on_any"}
