"""Data versions over real HTTP: a sync that changed nothing leaves them as they were, and nothing downstream fires."""

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaResource, build_peaka_cache_asset
from dagster_peaka.sandbox import ExecutionRecord, PeakaSandbox
from tests.materializing import acting_when, is_followed, peaka_for, run_of, triggers

TABLE = "ops.public.t"
HISTORY = "getCacheExecutionHistory"


@dataclass
class Synced:
    """The cache's asset, materialized again and again on one instance, and the source that it copies."""

    sandbox: PeakaSandbox
    source: Path
    instance: dg.DagsterInstance
    asset: dg.AssetsDefinition

    def sync(self, peaka: PeakaResource | None = None, **config: Any) -> str:
        """Materialize the asset; returns its data version."""
        materialization = self.materialize(peaka, **config)
        assert materialization.tags is not None
        return materialization.tags["dagster/data_version"]

    def materialize(self, peaka: PeakaResource | None = None, **config: Any) -> dg.AssetMaterialization:
        """Materialize the asset."""
        result = run_of(self.asset, peaka or peaka_for(self.sandbox), config=config, instance=self.instance)
        assert result.success
        (materialization,) = result.asset_materializations_for_node(self.asset.op.name)
        return materialization

    def insert(self) -> None:
        """A new row in the source."""
        with closing(sqlite3.connect(self.source)) as database, database:
            database.execute("INSERT INTO t (v) VALUES ('new')")

    def by_a_stranger(self, mode: Any = "incremental") -> ExecutionRecord:
        """Somebody else syncs the cache; returns how that ended."""
        self.sandbox.start_execution(TABLE, mode=mode)
        self.sandbox.wait_idle()
        return self.sandbox.executions(TABLE)[-1]

    def cancelled_half_way(self, mode: Any = "incremental") -> ExecutionRecord:
        """A stranger's execution that has written what it met when it is cancelled."""
        self.sandbox.plan(TABLE, hold=True)
        self.sandbox.start_execution(TABLE, mode=mode)
        while not self.sandbox.executions(TABLE)[-1].cached:
            time.sleep(0.01)
        self.sandbox.cancel(TABLE, mode)
        self.sandbox.wait_idle()
        return self.sandbox.executions(TABLE)[-1]

    def operations(self) -> Counter[str | None]:
        """What Peaka has been asked since this was last called."""
        names = Counter(request.operation for request in self.sandbox.requests)
        self.sandbox.clear_requests()
        return names


@pytest.fixture
def synced(sandbox: PeakaSandbox, ops_database: Path) -> Iterator[Synced]:
    """The cache's asset, on an instance of its own."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Synced(sandbox, ops_database, instance, build_peaka_cache_asset(table=TABLE))


def test_a_sync_that_changed_nothing_keeps_the_version(synced: Synced) -> None:
    """The first sync's version stays as long as no row changes, and each materialization names its own execution."""
    versions = [synced.sync() for _ in range(3)]

    assert versions == [synced.sandbox.executions(TABLE)[1].id] * 3
    event = synced.instance.get_latest_materialization_event(synced.asset.key)
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    newest = synced.sandbox.executions(TABLE)[-1].id
    assert metadata["peaka/execution_id"].value == newest
    assert metadata["peaka/known_executions"].value == {"incremental": newest, "full_refresh": None}


def test_a_sync_that_changed_rows_has_a_new_version(synced: Synced) -> None:
    """The version is then the execution's id."""
    before = synced.sync()
    synced.insert()

    assert synced.sync() == synced.sandbox.executions(TABLE)[-1].id != before


def test_a_full_refresh_has_a_new_version(synced: Synced) -> None:
    """It writes every row anew, whatever it reports; an update without changes after it keeps its version."""
    before = synced.sync()
    refreshed = synced.sync(mode="full_refresh")

    assert refreshed == synced.sandbox.executions(TABLE)[-1].id != before
    assert synced.sync() == refreshed


def test_counts_that_are_not_reported_are_a_change(synced: Synced) -> None:
    """Without counts nobody knows."""
    synced.sandbox.behaviour.drop_progress = True

    assert synced.sync() != synced.sync()


@pytest.mark.parametrize("mode", ["incremental", "full_refresh"])
@pytest.mark.parametrize("changes", [True, False])
def test_a_strangers_sync_in_between_is_a_change(synced: Synced, mode: Any, changes: bool) -> None:
    """Ours then finds nothing left to change, but Dagster has not seen the other; the next one keeps the version."""
    before = synced.sync()
    if changes:
        synced.insert()
    assert synced.by_a_stranger(mode).status == "COMPLETED"

    after = synced.sync()

    assert after == synced.sandbox.executions(TABLE)[-1].id != before
    assert synced.sandbox.executions(TABLE)[-1].inserted == 0
    assert synced.sync() == after


def test_a_strangers_sync_that_was_cancelled_half_way_is_a_change(synced: Synced) -> None:
    """A cancelled incremental update keeps the rows that it had written."""
    before = synced.sync()
    synced.insert()
    cancelled = synced.cancelled_half_way()
    assert (cancelled.status, cancelled.inserted) == ("CANCELLED", 1)

    assert synced.sync() != before
    assert synced.sandbox.executions(TABLE)[-1].inserted == 0


def test_a_failed_sync_of_ours_in_between_is_a_change(synced: Synced) -> None:
    """What failed may have written rows before; it left no materialization."""
    before = synced.sync()
    synced.sandbox.plan(TABLE, fail={"message": "source is locked"})
    assert not run_of(synced.asset, peaka_for(synced.sandbox), instance=synced.instance).success

    assert synced.sync() != before


@pytest.mark.parametrize("mode", ["incremental", "full_refresh"])
def test_a_stranger_that_runs_at_our_look_is_a_change(synced: Synced, mode: Any) -> None:
    """Also for the sync after that: what the first one covers is not surely known."""
    synced.sandbox.behaviour.other_mode = "queue"
    before = synced.sync()
    synced.sandbox.plan(TABLE, hold=True)
    synced.sandbox.start_execution(TABLE, mode=mode)
    synced.sandbox.clear_requests()
    with acting_when(lambda: triggers(synced.sandbox) > 0, lambda: synced.sandbox.release(TABLE)):
        first = synced.materialize()
    second = synced.materialize()

    assert "peaka/known_executions" not in first.metadata
    versions = [each.tags["dagster/data_version"] for each in (first, second) if each.tags]
    assert len({before, *versions}) == 3
    assert synced.sync() == versions[1]


def test_the_other_mode_beside_ours_is_a_change(synced: Synced) -> None:
    """A full refresh that began after our look shows at the last one."""
    before = synced.sync()
    synced.sandbox.plan(TABLE, mode="incremental", hold=True)
    synced.sandbox.clear_requests()

    def refresh() -> None:
        synced.sandbox.start_execution(TABLE, mode="full_refresh")
        while synced.sandbox.executions(TABLE)[-1].finished_at is None:
            time.sleep(0.01)
        synced.sandbox.release(TABLE)

    with acting_when(lambda: is_followed(synced.sandbox), refresh):
        after = synced.sync()

    assert synced.sandbox.executions(TABLE)[-1].mode == "FULL_REFRESH"
    assert after != before


def test_an_attached_execution_is_a_change(synced: Synced) -> None:
    """What was read before our look is not ours to vouch for."""
    before = synced.sync()
    synced.sandbox.plan(TABLE, hold=True)
    synced.sandbox.start_execution(TABLE)
    synced.sandbox.clear_requests()

    with acting_when(lambda: is_followed(synced.sandbox), lambda: synced.sandbox.release(TABLE)):
        after = synced.sync(on_running="attach")

    assert after != before


@pytest.mark.parametrize(
    "opened",
    [
        {"timestamps": "null"},
        {"timestamps": "absent"},
        {"timestamps": "no_fraction"},
        {"date_header": False},
        {"visible_after": 0.7},
        {"hide_queued": True},
        {"mode_spelling": "absent", "timestamps": "null"},
        {"clock_offset": 7200.0},
    ],
    ids=str,
)
def test_a_quiet_sync_keeps_the_version_under_every_reading(synced: Synced, opened: dict[str, Any]) -> None:
    """Where dates do not tell whether ours was alone, the history does; a stranger's sync shows there as well."""
    for name, value in opened.items():
        setattr(synced.sandbox.behaviour, name, value)
    before = synced.sync()
    assert synced.sync() == before

    synced.cancelled_half_way()
    time.sleep(synced.sandbox.behaviour.visible_after)

    assert synced.sync() != before


def test_a_stranger_that_showed_only_after_our_look_is_a_change(synced: Synced) -> None:
    """It has been replaced in the status by ours when it could be seen, but the history lists it."""
    before = synced.sync()
    synced.insert()
    synced.sandbox.behaviour.visible_after = 1.0
    assert synced.by_a_stranger().inserted == 1

    assert synced.sync() != before
    assert synced.sandbox.executions(TABLE)[-1].inserted == 0


def test_a_history_that_fails_is_a_change_and_no_failure(synced: Synced) -> None:
    """The sync has succeeded already: one failing answer ends the question."""
    synced.sandbox.behaviour.date_header = False
    before = synced.sync()
    fault = synced.sandbox.fault(HISTORY, status=500, times=None)

    after = synced.sync()

    assert fault.hits == 1
    assert after == synced.sandbox.executions(TABLE)[-1].id != before


def test_a_quiet_sync_costs_no_request_more(synced: Synced) -> None:
    """Where Peaka dates its executions, no history is asked for: the requests are those of a sync with changes."""
    synced.sync()
    synced.operations()
    before = synced.sync()
    quiet = synced.operations()
    synced.insert()
    assert synced.sync() != before
    busy = synced.operations()

    assert HISTORY not in quiet
    assert {name: quiet[name] for name in quiet if name != "getCacheStatus"} == {
        name: busy[name] for name in busy if name != "getCacheStatus"
    }


@pytest.mark.parametrize(
    "left", ["nothing", "another cache", "no version", "no known executions", "broken known executions"]
)
def test_a_last_materialization_that_says_too_little_is_followed_by_a_new_version(
    synced: Synced, left: str
) -> None:
    """Reported by hand, of another cache, or damaged: only what is surely known keeps a version."""
    complete = synced.materialize()
    metadata, tags = dict(complete.metadata), {"dagster/data_version": "v1"}
    if left == "nothing":
        metadata, tags = {}, {}
    elif left == "another cache":
        metadata["peaka/cache_id"] = dg.MetadataValue.text("other")
    elif left == "no version":
        tags = {}
    elif left == "no known executions":
        del metadata["peaka/known_executions"]
    else:
        metadata["peaka/known_executions"] = dg.MetadataValue.json({"incremental": [1]})
    synced.instance.report_runless_asset_event(
        dg.AssetMaterialization(synced.asset.key, metadata=metadata, tags=tags)
    )

    assert synced.sync() == synced.sandbox.executions(TABLE)[-1].id


def test_a_last_materialization_that_cannot_be_read_costs_no_success(
    synced: Synced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster's storage fails at that moment: the sync is recorded, with a new version."""
    before = synced.sync()

    def fails(*_: object, **__: object) -> None:
        raise OSError("no connection to the event log")

    monkeypatch.setattr(synced.instance, "fetch_materializations", fails)

    assert synced.sync() == synced.sandbox.executions(TABLE)[-1].id != before


def test_each_materialization_repeats_what_the_definition_says_of_the_table(synced: Synced) -> None:
    """Its columns and its name, which Dagster shows beside the rows."""
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


def test_a_materialization_that_a_sensor_reported_is_as_good(synced: Synced) -> None:
    """What counts is what it says of the cache, not who recorded it."""
    complete = synced.materialize()
    synced.instance.report_runless_asset_event(
        dg.AssetMaterialization(
            synced.asset.key, metadata=complete.metadata, tags={"dagster/data_version": "v1"}
        )
    )

    assert synced.sync() == "v1"


def test_what_is_downstream_fires_only_for_changes(synced: Synced) -> None:
    """Dagster's own evaluation after an update without changes, one with, and one behind a stranger's cancelled one.

    `eager()` asks whether there was a materialization, not what it changed, and fires each time.
    """
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
    synced.insert()
    synced.sync()
    assert fired() == {"on_change", "on_any"}
    synced.insert()
    assert synced.cancelled_half_way().status == "CANCELLED"
    synced.sync()
    assert synced.sandbox.executions(TABLE)[-1].inserted == 0
    assert fired() == {"on_change", "on_any"}
