"""Checks of cache assets: what each finds for a real cause, what it costs, and what happens where it cannot look."""

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaConfigError, PeakaResource, build_peaka_cache_asset, build_peaka_cache_assets
from dagster_peaka.checks import build_peaka_cache_checks
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import TRIGGERS, acting_when, peaka_for, run_of, sqlite_tables

TABLE = "ops.public.t"
DAY = timedelta(days=1)
NOWHERE = PeakaResource(api_key=dg.EnvVar("PEAKA_API_KEY"), project_id="p", base_url="http://127.0.0.1:9/")
STATUSES = ("getCacheStatus", "getCacheStatusBySchema", "getCacheStatusByCatalog", "getCacheStatusByProject")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that remembers the runs of one test."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def sql(database: Path, *statements: str) -> None:
    """Change the operational database that Peaka copies."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def run_checks(
    assets: dg.AssetsDefinition | Sequence[dg.AssetsDefinition],
    peaka: PeakaResource,
    instance: dg.DagsterInstance,
    *,
    only: Sequence[tuple[str, str]] = (),
    **choices: Any,
) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """How the checks of a run that syncs nothing came out, by asset and check; all of them, or `only` some."""
    assets = [assets] if isinstance(assets, dg.AssetsDefinition) else list(assets)
    checks = build_peaka_cache_checks(assets, **choices)
    selection = (
        dg.AssetSelection.checks(
            *(dg.AssetCheckKey(dg.AssetKey(asset.split("/")), check) for asset, check in only)
        )
        if only
        else dg.AssetSelection.all_asset_checks()
    )
    result = dg.materialize(
        [*assets, *checks], selection=selection, instance=instance, resources={"peaka": peaka}
    )
    return evaluations(result)


def evaluations(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """What a run recorded of each check, by asset and check."""
    return {
        (each.asset_key.to_user_string(), each.check_name): each
        for each in result.get_asset_check_evaluations()
    }


def requests(sandbox: PeakaSandbox) -> dict[str, int]:
    """How often each operation was asked for."""
    return dict(Counter(request.operation or "?" for request in sandbox.requests))


def values(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    """The value of each entry of the metadata."""
    return {name: value.value for name, value in evaluation.metadata.items()}


# Rows


@pytest.fixture
def row_check(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> Callable[..., tuple[dg.AssetCheckEvaluation, dict[str, int]]]:
    """Evaluates the check of rows of an asset `t`, and tells what that asked for."""

    def evaluate(asset: dg.AssetsDefinition, most: float) -> tuple[dg.AssetCheckEvaluation, dict[str, int]]:
        sandbox.clear_requests()
        (evaluation,) = run_checks(asset, peaka_for(sandbox), instance, max_rows_dropped=most).values()
        return evaluation, requests(sandbox)

    return evaluate


@pytest.mark.parametrize(
    "settings", [{"mode": "full_refresh", "row_count": "query"}, {"fingerprint": "checksum"}]
)
def test_recorded_totals_are_compared_without_a_request(
    sandbox: PeakaSandbox,
    ops_database: Path,
    instance: dg.DagsterInstance,
    row_check: Any,
    settings: dict[str, Any],
) -> None:
    """Of two rows one is deleted: half of them, which 50 percent allow and 49 do not."""
    asset = build_peaka_cache_asset(table="ops.public.u", key="u", **settings)
    assert run_of(asset, peaka_for(sandbox), instance=instance).success
    sql(ops_database, "DELETE FROM u WHERE id = 2")
    assert run_of(asset, peaka_for(sandbox), instance=instance).success

    found = {most: row_check(asset, most) for most in (50, 49, 0)}

    assert {most: each.passed for most, (each, _) in found.items()} == {50: True, 49: False, 0: False}
    for evaluation, asked in found.values():
        assert evaluation.severity is dg.AssetCheckSeverity.WARN
        assert "2 rows before, 1 now" in (evaluation.description or "")
        assert values(evaluation) == {
            "peaka/rows_before": 2,
            "peaka/rows_after": 1,
            "peaka/rows_dropped_percent": 50.0,
        }
        assert asked == {}


@pytest.mark.parametrize("mode", ["incremental", "full_refresh"])
def test_without_counted_totals_it_fails_and_says_what_to_set(
    sandbox: PeakaSandbox, ops_database: Path, instance: dg.DagsterInstance, row_check: Any, mode: str
) -> None:
    """No figure of Peaka's status is a total: nothing passes by one, and nothing is asked."""
    asset = build_peaka_cache_asset(table=TABLE, key="t", mode=mode)
    for _ in range(2):
        assert run_of(asset, peaka_for(sandbox), instance=instance).success

    evaluation, asked = row_check(asset, 99)

    assert not evaluation.passed
    assert "no counted total of rows" in (evaluation.description or "")
    assert "row_count='query'" in (evaluation.description or "")
    assert values(evaluation) == {}
    assert asked == {}


def test_a_total_is_compared_with_the_last_one_that_was_counted(
    sandbox: PeakaSandbox, ops_database: Path, instance: dg.DagsterInstance, row_check: Any
) -> None:
    """The materialization between the two could not be counted."""
    asset = build_peaka_cache_asset(table=TABLE, key="t", row_count="query")
    assert run_of(asset, peaka_for(sandbox), instance=instance).success
    sandbox.fault("executeQuery", times=1, status=500)
    assert run_of(asset, peaka_for(sandbox), instance=instance).success
    sql(ops_database, "DELETE FROM t WHERE id > 1")
    assert run_of(asset, peaka_for(sandbox), instance=instance).success

    evaluation, _ = row_check(asset, 60)

    assert not evaluation.passed
    assert values(evaluation)["peaka/rows_before"] == 3
    assert values(evaluation)["peaka/rows_after"] == 1


def test_what_the_first_release_recorded_after_a_full_refresh_is_no_total(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, row_check: Any
) -> None:
    """It took Peaka's own figure for one."""
    asset = build_peaka_cache_asset(table=TABLE, key="t", row_count="query")
    old = {"peaka/execution_id": "old", "peaka/mode": "full_refresh", "peaka/rows_cached": 707}
    instance.report_runless_asset_event(
        dg.AssetMaterialization(asset.key, metadata={**old, "dagster/row_count": 707})
    )
    assert run_of(asset, peaka_for(sandbox), instance=instance).success

    evaluation, _ = row_check(asset, 50)

    assert not evaluation.passed
    assert "No earlier materialization has" in (evaluation.description or "")


@pytest.mark.parametrize("times", [0, 1])
def test_the_first_materialization_passes(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, row_check: Any, times: int
) -> None:
    """There is nothing to compare it with, and the check says so; the same before the first one."""
    asset = build_peaka_cache_asset(table=TABLE, key="t", mode="full_refresh")
    for _ in range(times):
        assert run_of(asset, peaka_for(sandbox), instance=instance).success

    evaluation, asked = row_check(asset, 0)

    assert evaluation.passed
    assert evaluation.description == "There is no earlier materialization to compare with."
    assert asked == {}


def test_an_execution_that_is_recorded_twice_is_compared_with_the_one_before(
    sandbox: PeakaSandbox, ops_database: Path, instance: dg.DagsterInstance, row_check: Any
) -> None:
    """Two runs may record one execution; the second record does not hide that rows have gone."""
    asset = build_peaka_cache_asset(table=TABLE, key="t", row_count="query")
    assert run_of(asset, peaka_for(sandbox), instance=instance).success
    sql(ops_database, "DELETE FROM t WHERE id > 1")
    run = run_of(asset, peaka_for(sandbox), instance=instance)
    (again,) = run.asset_materializations_for_node(asset.op.name)
    instance.report_runless_asset_event(again)

    evaluation, _ = row_check(asset, 50)

    assert not evaluation.passed


def test_a_cache_that_was_created_anew_is_compared_with_what_the_old_one_recorded(
    sandbox: PeakaSandbox, ops_database: Path, instance: dg.DagsterInstance, row_check: Any
) -> None:
    """Both totals are in Dagster's records, whatever Peaka has forgotten."""
    asset = build_peaka_cache_asset(table=TABLE, key="t", row_count="query")
    run = run_of(asset, peaka_for(sandbox), instance=instance)
    assert run.success
    sandbox.delete_cache(TABLE)
    sql(ops_database, "DELETE FROM t WHERE id > 1")
    sandbox.create_cache(TABLE)
    sandbox.wait_idle()
    assert run_of(asset, peaka_for(sandbox), instance=instance).success

    evaluation, _ = row_check(asset, 50)

    assert not evaluation.passed
    assert values(evaluation)["peaka/rows_before"] == 3
    assert values(evaluation)["peaka/rows_after"] == 1


def test_materializations_that_say_nothing_fail_the_check(
    instance: dg.DagsterInstance, row_check: Any
) -> None:
    """Two events that somebody reported by hand: neither totals nor executions, so nothing can be said."""
    for _ in range(2):
        instance.report_runless_asset_event(dg.AssetMaterialization("t"))

    evaluation, asked = row_check(build_peaka_cache_asset(table=TABLE, key="t"), 50)

    assert not evaluation.passed
    assert asked == {}


# Columns


@pytest.fixture
def snapshot(sandbox: PeakaSandbox) -> list[dg.AssetsDefinition]:
    """The assets `ops/public/t` and `ops/public/u` of a snapshot that was taken now; no request is recorded."""
    assets = build_peaka_cache_assets(peaka_for(sandbox).fetch_project())
    sandbox.clear_requests()
    return assets


def test_the_columns_of_the_snapshot_pass_for_one_request_a_cache(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, snapshot: list[dg.AssetsDefinition]
) -> None:
    """Nothing has changed; where the tables are, the definitions know."""
    found = run_checks(snapshot, peaka_for(sandbox), instance, columns_unchanged=True)

    assert {key: each.passed for key, each in found.items()} == {
        ("ops/public/t", "columns_unchanged"): True,
        ("ops/public/u", "columns_unchanged"): True,
    }
    assert requests(sandbox) == {"listColumns_1": 2}


def test_columns_that_were_added_removed_or_changed_are_listed(
    sandbox: PeakaSandbox,
    ops_database: Path,
    instance: dg.DagsterInstance,
    snapshot: list[dg.AssetsDefinition],
) -> None:
    """The check of the changed table fails and names the columns with their types; the other one passes."""
    sql(
        ops_database,
        "CREATE TABLE new (id TEXT PRIMARY KEY, price REAL)",
        "DROP TABLE t",
        "ALTER TABLE new RENAME TO t",
    )

    found = run_checks(snapshot, peaka_for(sandbox), instance, columns_unchanged=True)

    changed = found["ops/public/t", "columns_unchanged"]
    assert not changed.passed
    assert "Added: price (double). Removed: v (varchar). Changed: id (from bigint to varchar)." in (
        changed.description or ""
    )
    read = values(changed)
    assert {column.name: column.type for column in read.pop("peaka/columns_now").columns} == {
        "id": "varchar",
        "price": "double",
    }
    assert read == {
        "peaka/columns_added": "price (double)",
        "peaka/columns_removed": "v (varchar)",
        "peaka/columns_changed": "id (from bigint to varchar)",
    }
    assert found["ops/public/u", "columns_unchanged"].passed


def test_columns_that_were_written_by_hand_are_looked_up_by_table(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """The catalogs, one listing, and its columns are asked for. A type that is not known has not changed."""
    schema = dg.TableSchema([dg.TableColumn("id", "unknown"), dg.TableColumn("w", "varchar")])
    asset = build_peaka_cache_asset(table=TABLE, key="t", metadata={"dagster/column_schema": schema})

    found = run_checks(asset, peaka_for(sandbox), instance, columns_unchanged=True)

    assert "Added: v (varchar). Removed: w (varchar). Take" in (
        found["t", "columns_unchanged"].description or ""
    )
    assert requests(sandbox) == {"listCatalogs": 1, "getCacheStatusByCatalog": 1, "listColumns_1": 1}


def test_assets_without_columns_are_refused_when_the_checks_are_made() -> None:
    """The message names them, and where columns come from."""
    assets = [build_peaka_cache_asset(cache_id=f"c{number}") for number in range(12)]

    with pytest.raises(PeakaConfigError, match=r"peaka/c9 and 2 more have none: .*fetch_project"):
        build_peaka_cache_checks(assets, columns_unchanged=True)


# Age


def test_a_copy_is_stale_when_its_newest_completed_sync_is_too_old(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """The ages are Peaka's: of the copies, not of materializations, of which there are none here."""
    asset = build_peaka_cache_asset(cache_id=sandbox.caches[TABLE], key="t")
    fresh = run_checks(asset, peaka_for(sandbox), instance, max_age=DAY)["t", "not_stale"]
    time.sleep(1.1)  # the Date header has whole seconds
    stale = run_checks(asset, peaka_for(sandbox), instance, max_age=timedelta(microseconds=1))[
        "t", "not_stale"
    ]

    (execution,) = sandbox.executions(TABLE)
    assert fresh.passed
    assert not stale.passed
    assert values(stale)["peaka/execution_id"] == execution.id
    assert values(stale)["peaka/finished_at"] == pytest.approx(execution.finished_at, abs=0.002)
    assert values(stale)["peaka/age_seconds"] > 0
    assert requests(sandbox) == {"getCacheStatus": 2}


@pytest.mark.parametrize(("date_header", "passed"), [(True, True), (False, False)])
def test_ages_are_by_peakas_clock_and_by_ours_only_where_peaka_shows_none(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, date_header: bool, passed: bool
) -> None:
    """A server whose clock is two days behind says by its Date header that the sync has just ended."""
    sandbox.behaviour.clock_offset = -2 * DAY.total_seconds()
    sandbox.behaviour.date_header = date_header
    asset = build_peaka_cache_asset(table=TABLE, key="t")

    found = run_checks(asset, peaka_for(sandbox), instance, max_age=DAY)

    assert found["t", "not_stale"].passed is passed


@pytest.mark.parametrize("state", ["RUNNING", "FAILED"])
def test_a_completed_sync_behind_an_unfinished_or_failed_one_is_found(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, state: str
) -> None:
    """The status shows the newest execution only; the history of that cache, one request more, tells the rest."""
    sandbox.plan(TABLE, hold=state == "RUNNING", fail="no disk" if state == "FAILED" else None)
    sandbox.start_execution(TABLE)
    if state == "FAILED":
        sandbox.wait_idle()
    assets = [build_peaka_cache_asset(table=f"ops.public.{table}", key=table) for table in "tu"]

    found = run_checks(assets, peaka_for(sandbox), instance, max_age=DAY)

    assert found["t", "not_stale"].passed
    assert values(found["t", "not_stale"])["peaka/execution_id"] == sandbox.executions(TABLE)[0].id
    assert requests(sandbox) == {
        "listCatalogs": 1,
        "getCacheStatusByCatalog": 1,
        "getCacheExecutionHistory": 1,
    }


def test_a_cache_without_a_completed_sync_is_stale(
    sandbox: PeakaSandbox, ops_database: Path, instance: dg.DagsterInstance
) -> None:
    """Its first sync failed: there is no copy whose age could be told."""
    sql(ops_database, "CREATE TABLE w (id INTEGER PRIMARY KEY)")
    sandbox.plan("ops.public.w", fail="no disk")
    sandbox.create_cache("ops.public.w")
    sandbox.wait_idle()
    asset = build_peaka_cache_asset(table="ops.public.w", key="w")

    found = run_checks(asset, peaka_for(sandbox), instance, max_age=DAY)

    assert not found["w", "not_stale"].passed
    assert "no completed sync" in (found["w", "not_stale"].description or "")


@pytest.mark.parametrize("timestamps", ["null", "absent"])
def test_without_times_nothing_passes(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, timestamps: Any
) -> None:
    """A completed sync that ended nobody knows when is not taken for a new one."""
    sandbox.behaviour.timestamps = timestamps
    asset = build_peaka_cache_asset(table=TABLE, key="t")

    found = run_checks(asset, peaka_for(sandbox), instance, max_age=DAY)

    assert not found["t", "not_stale"].passed


# All together


def test_one_status_request_serves_all_checks_of_a_step(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """Twelve caches in two catalogs, by id and by table: one listing, however many checks it answers."""
    names = [f"t{number}" for number in range(6)]
    sources: dict[str, Any] = {
        catalog: {"public": sqlite_tables(tmp_path / f"{catalog}.db", names)} for catalog in ("a", "b")
    }
    with PeakaSandbox(sources, caches=["*.public.*"]) as sandbox:
        sandbox.wait_idle()
        by_id = build_peaka_cache_assets(peaka_for(sandbox).fetch_project(), selector="a.public.*")
        by_table = [build_peaka_cache_asset(table=f"b.public.{name}", key=["b", name]) for name in names]
        sandbox.clear_requests()

        snapshot = run_checks(
            by_id, peaka_for(sandbox), instance, max_age=DAY, columns_unchanged=True, max_rows_dropped=5
        )
        in_one_schema = requests(sandbox)
        sandbox.clear_requests()
        both = run_checks([*by_id, *by_table], peaka_for(sandbox), instance, max_age=DAY)
        in_two_catalogs = requests(sandbox)

    assert len(snapshot) == 18
    assert len(both) == 12
    assert all(each.passed for each in (*snapshot.values(), *both.values()))
    assert in_one_schema == {"getCacheStatusByCatalog": 1, "listColumns_1": 6}
    assert in_two_catalogs == {"listCatalogs": 1, "getCacheStatusByProject": 1}


def test_only_the_selected_checks_are_evaluated(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, snapshot: list[dg.AssetsDefinition]
) -> None:
    """Nothing is recorded of the others, and nothing is asked for them."""
    found = run_checks(
        snapshot,
        peaka_for(sandbox),
        instance,
        only=[("ops/public/t", "not_stale")],
        max_age=DAY,
        columns_unchanged=True,
        max_rows_dropped=1,
    )

    assert set(found) == {("ops/public/t", "not_stale")}
    assert requests(sandbox) == {"getCacheStatus": 1}


@pytest.mark.parametrize("by", ["table", "cache_id"])
def test_a_cache_that_is_not_there_fails_its_own_checks_only(
    sandbox: PeakaSandbox, ops_database: Path, instance: dg.DagsterInstance, by: str
) -> None:
    """One of three was deleted: its check says that it could not be evaluated, and why; the others are recorded."""
    sql(ops_database, "CREATE TABLE w (id INTEGER PRIMARY KEY)")
    sandbox.create_cache("ops.public.w")
    sandbox.wait_idle()
    ids = dict(sandbox.caches)
    assets = [
        build_peaka_cache_asset(table=name, key=name[-1])
        if by == "table"
        else build_peaka_cache_asset(cache_id=cache_id, key=name[-1])
        for name, cache_id in ids.items()
    ]
    sandbox.delete_cache("ops.public.u")

    found = run_checks(assets, peaka_for(sandbox), instance, max_age=DAY)

    assert {asset: each.passed for (asset, _), each in found.items()} == {"t": True, "u": False, "w": True}
    reason = found["u", "not_stale"].description or ""
    assert reason.startswith("Could not be evaluated. ")
    assert ("ops.public.u" if by == "table" else ids["ops.public.u"]) in reason


@pytest.mark.parametrize(
    ("table", "said"),
    [("ops.publik.t", "no cache of table ops.publik.t"), ("opz.public.t", "no catalog 'opz'")],
)
def test_a_misspelt_table_fails_its_own_check_only(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, table: str, said: str
) -> None:
    """The message says what there is not, as when it is synced; the check of the other asset passes."""
    assets = [
        build_peaka_cache_asset(table=each, key=each[:3] + each[-2:]) for each in (table, "ops.public.u")
    ]

    found = run_checks(assets, peaka_for(sandbox), instance, max_age=DAY)

    assert found["ops.u", "not_stale"].passed
    (wrong,) = [each for each in found.values() if not each.passed]
    assert said in (wrong.description or "")


def test_a_table_whose_columns_cannot_be_read_fails_its_own_check_only(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, snapshot: list[dg.AssetsDefinition]
) -> None:
    """Its check says why, with Peaka's words; the other table's check passes."""
    sandbox.fault("listColumns_1", times=1, status=500, body={"message": "the source is down"})

    found = run_checks(snapshot, peaka_for(sandbox), instance, columns_unchanged=True)

    assert sorted(each.passed for each in found.values()) == [False, True]
    (failed,) = [each for each in found.values() if not each.passed]
    assert (failed.description or "").startswith("Could not be evaluated. ")
    assert "the source is down" in (failed.description or "")


def test_nothing_passes_while_peaka_is_away(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, snapshot: list[dg.AssetsDefinition]
) -> None:
    """Every check that needs Peaka fails and says that it could not be evaluated."""
    sandbox.stop()

    found = run_checks(snapshot, peaka_for(sandbox), instance, columns_unchanged=True, max_age=DAY)

    assert len(found) == 4
    assert not any(each.passed for each in found.values())
    assert all((each.description or "").startswith("Could not be evaluated. ") for each in found.values())


def test_a_retry_policy_lets_the_step_try_again_while_peaka_cannot_be_read(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """The first status is answered by an error, the second is not: one evaluation, and it passes."""
    asset = build_peaka_cache_asset(cache_id=sandbox.caches[TABLE], key="t")
    sandbox.fault("getCacheStatus", times=1, status=503)

    found = run_checks(
        asset, peaka_for(sandbox), instance, max_age=DAY, retry_policy=dg.RetryPolicy(max_retries=1)
    )

    assert [each.passed for each in found.values()] == [True]
    assert requests(sandbox) == {"getCacheStatus": 2}


def test_after_the_last_retry_the_check_fails(sandbox: PeakaSandbox, instance: dg.DagsterInstance) -> None:
    """An outage that outlasts the retries is recorded as a check that could not be evaluated."""
    asset = build_peaka_cache_asset(cache_id=sandbox.caches[TABLE], key="t")
    sandbox.fault("getCacheStatus", times=None, status=503)

    found = run_checks(
        asset, peaka_for(sandbox), instance, max_age=DAY, retry_policy=dg.RetryPolicy(max_retries=1)
    )

    assert [each.passed for each in found.values()] == [False]
    assert requests(sandbox) == {"getCacheStatus": 2}


# In a run with what comes before and after


@pytest.mark.parametrize(("blocking", "runs"), [(True, False), (False, True)])
def test_a_blocking_check_that_fails_stops_what_is_downstream(
    sandbox: PeakaSandbox,
    ops_database: Path,
    instance: dg.DagsterInstance,
    blocking: bool,
    runs: bool,
) -> None:
    """In the run of the sync, after it and before the downstream asset; by default it only warns."""
    asset = build_peaka_cache_asset(table=TABLE, key="t", mode="full_refresh")
    checks = build_peaka_cache_checks(asset, max_rows_dropped=10, blocking=blocking)

    @dg.asset(deps=[asset])
    def report() -> None:
        pass

    def run() -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [asset, report, *checks],
            resources={"peaka": peaka_for(sandbox)},
            instance=instance,
            raise_on_error=False,
        )

    assert run().success
    sql(ops_database, "DELETE FROM t WHERE id > 1")
    second = run()

    evaluation = evaluations(second)["t", "rows_not_dropped"]
    assert not evaluation.passed
    assert evaluation.blocking is blocking
    assert evaluation.severity is (dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN)
    assert bool(second.asset_materializations_for_node("report")) is runs
    assert second.success is runs


def test_checks_of_one_definition_at_a_time_do_not_wait_for_other_caches(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """Called once for each definition, the checks of one cache are evaluated although the other's sync failed."""
    assets = [build_peaka_cache_asset(table=f"ops.public.{table}", key=table) for table in "tu"]
    checks = [check for asset in assets for check in build_peaka_cache_checks(asset, max_age=DAY)]
    sandbox.plan("ops.public.u", fail="no disk")

    result = dg.materialize(
        [*assets, *checks], resources={"peaka": peaka_for(sandbox)}, instance=instance, raise_on_error=False
    )

    assert {key: each.passed for key, each in evaluations(result).items()} == {("t", "not_stale"): True}


def test_the_step_is_left_out_when_one_of_its_assets_fails_as_its_docstring_says(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """Dagster starts no step behind a failed one, so one step of checks for several assets evaluates none of them."""
    assets = [build_peaka_cache_asset(table=f"ops.public.{table}", key=table) for table in "tu"]
    sandbox.plan("ops.public.u", fail="no disk")

    result = dg.materialize(
        [*assets, *build_peaka_cache_checks(assets, max_age=DAY)],
        resources={"peaka": peaka_for(sandbox)},
        instance=instance,
        raise_on_error=False,
    )

    assert evaluations(result) == {}
    said = " ".join((build_peaka_cache_checks.__doc__ or "").split())
    assert "leaves it out when one of them failed" in said


def test_checks_look_after_the_sync_of_their_run(sandbox: PeakaSandbox, instance: dg.DagsterInstance) -> None:
    """The check's request comes when the sync has ended, and sees its execution."""
    asset = build_peaka_cache_asset(table=TABLE, key="t")
    checks = build_peaka_cache_checks([asset], max_age=DAY)
    sandbox.plan(TABLE, hold=True)

    with acting_when(lambda: len(sandbox.executions(TABLE)) == 2, lambda: sandbox.release(TABLE)):
        result = dg.materialize([asset, *checks], resources={"peaka": peaka_for(sandbox)}, instance=instance)

    ours = sandbox.executions(TABLE)[-1]
    assert values(evaluations(result)["t", "not_stale"])["peaka/execution_id"] == ours.id
    assert sum(request.operation in TRIGGERS for request in sandbox.requests) == 1


# Definitions


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({}, "set max_rows_dropped, columns_unchanged or max_age"),
        ({"max_rows_dropped": -1}, "max_rows_dropped must be a percentage"),
        ({"max_rows_dropped": 100}, "max_rows_dropped must be a percentage"),
        ({"max_rows_dropped": float("nan")}, "max_rows_dropped must be a percentage"),
        ({"max_age": timedelta(0)}, "max_age must be a datetime.timedelta above zero"),
        ({"max_age": 3600}, "max_age must be a datetime.timedelta above zero"),
        (
            {"max_age": DAY, "blocking": True, "severity": dg.AssetCheckSeverity.WARN},
            "blocks on ERROR only",
        ),
    ],
)
def test_choices_that_make_no_sense_are_refused_by_name(choices: dict[str, Any], said: str) -> None:
    """The error comes where the checks are made, and says what to write."""
    with pytest.raises(PeakaConfigError, match=said):
        build_peaka_cache_checks(build_peaka_cache_asset(cache_id="c"), **choices)


def test_an_asset_that_is_no_cache_is_refused_by_its_key() -> None:
    """The message says what is missing in its metadata."""

    @dg.asset
    def report() -> None:
        pass

    with pytest.raises(PeakaConfigError, match="report names no Peaka cache"):
        build_peaka_cache_checks([build_peaka_cache_asset(cache_id="c"), report], max_age=DAY)


def test_definitions_load_without_peaka_and_take_what_dagsters_checks_take() -> None:
    """Nothing is asked for; names are valid whatever is in the keys; the other arguments reach the step."""
    assets = [
        build_peaka_cache_asset(cache_id="a", key=["with space", "注文", "a/b"]),
        build_peaka_cache_asset(cache_id="b", key=["class", "a.b-c"]),
    ]

    (checks,) = build_peaka_cache_checks(
        assets, max_age=DAY, max_rows_dropped=1, name="morning", pool="peaka", op_tags={"team": "data"}
    )
    (other,) = build_peaka_cache_checks(assets[0], max_age=DAY * 2, resource_key="lake")
    defs = dg.Definitions(assets=assets, asset_checks=[checks], resources={"peaka": NOWHERE})

    dg.Definitions.validate_loadable(defs)
    assert checks.op.name == "morning"
    assert checks.op.pool == "peaka"
    assert checks.op.tags == {"team": "data"}
    assert {spec.name for spec in checks.check_specs} == {"rows_not_dropped", "not_stale"}
    assert len(checks.check_keys) == 4
    assert "lake" in other.required_resource_keys


def test_two_calls_for_the_same_assets_are_two_steps_of_different_names() -> None:
    """Cheap checks and dear ones may be run apart; the names stay the same with every load."""
    asset = build_peaka_cache_asset(cache_id="a", key="a")
    choices: list[Mapping[str, Any]] = [{"max_age": DAY}, {"max_rows_dropped": 1}, {"max_age": DAY * 2}]

    names = [build_peaka_cache_checks(asset, **each)[0].op.name for each in choices]

    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize(
    ("assets", "name"),
    [
        ([{"cache_id": "1", "key": ["shop", "v1.2 items"]}], "shop__v1_2_items"),
        ([{"cache_id": "1", "group_name": "g"}, {"cache_id": "2", "group_name": "g"}], "g"),
        ([{"table": "my-shop.public.a"}, {"table": "my-shop.other.b"}], "my_shop"),
        ([{"table": "shop.public.a"}, {"table": "lake.public.b"}], None),
        ([{"cache_id": "1"}, {"cache_id": "2"}], None),
        ([{"cache_id": "1", "group_name": "g"}, {"cache_id": "2", "group_name": "h"}], None),
    ],
)
def test_steps_of_checks_have_a_readable_name_where_something_names_all_their_assets(
    assets: Sequence[Mapping[str, Any]], name: str | None
) -> None:
    """The asset, or the group or the catalog; a hash tells apart what several assets of a group are given."""
    definitions = [build_peaka_cache_asset(**each) for each in assets]

    (checks,) = build_peaka_cache_checks(definitions, max_rows_dropped=1, max_age=DAY)

    common = "" if name is None else f"__{name}"
    digest = "" if len(definitions) == 1 else "__[0-9a-f]{8}"
    assert re.fullmatch(f"peaka_cache_checks{common}__not_stale__rows_not_dropped{digest}", checks.op.name)


def test_caches_of_one_group_may_be_given_the_same_check_twice() -> None:
    """Hourly ones by the hour and daily ones by the day: two steps, which load beside each other."""
    hourly, daily = (
        [build_peaka_cache_asset(table=f"shop.public.{table}", group_name="shop") for table in tables]
        for tables in (("orders", "items"), ("shops", "prices"))
    )
    checks = [
        *build_peaka_cache_checks(hourly, max_age=DAY / 24),
        *build_peaka_cache_checks(daily, max_age=DAY),
    ]
    dg.Definitions.validate_loadable(
        dg.Definitions(
            [*hourly, *daily],
            asset_checks=checks,
            resources={"peaka": PeakaResource(api_key="k", project_id="p")},
        )
    )


def test_no_assets_are_no_checks() -> None:
    """A project that has no caches yet loads."""
    assert build_peaka_cache_checks([], max_age=DAY) == []


def test_the_resource_may_have_another_key(sandbox: PeakaSandbox, instance: dg.DagsterInstance) -> None:
    """As for the assets, resource_key says which of the definitions' resources is meant."""
    asset = build_peaka_cache_asset(table=TABLE, key="t", resource_key="lake")
    checks = build_peaka_cache_checks(asset, max_age=DAY, resource_key="lake")

    result = dg.materialize([asset, *checks], resources={"lake": peaka_for(sandbox)}, instance=instance)

    assert evaluations(result)["t", "not_stale"].passed
