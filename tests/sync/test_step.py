"""Guarantees 6 and 7: one bad cache harms no other, and what a step costs; what it leaves behind when it is closed."""

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaResource
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import acting_when, triggers
from tests.sync.steps import wait_until

MANY = 40


@pytest.fixture
def many(tmp_path: Path) -> Iterator[PeakaSandbox]:
    """A sandbox with forty caches, idle."""
    path = tmp_path / "many.db"
    with closing(sqlite3.connect(path)) as database, database:
        for number in range(MANY):
            database.execute(f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY)")
    with PeakaSandbox({"ops": {"public": path}}, caches=["ops.public.*"]) as sandbox:
        sandbox.wait_idle()
        sandbox.clear_requests()
        yield sandbox


def peaka(sandbox: PeakaSandbox, **settings: Any) -> PeakaResource:
    """The resource for a sandbox."""
    return PeakaResource(
        api_key=sandbox.api_key, project_id=sandbox.project_id, base_url=sandbox.base_url, **settings
    )


def specs(tables: list[str]) -> list[dg.AssetSpec]:
    """An asset for each table."""
    return [dg.AssetSpec(table.split("."), metadata={"peaka/table": table}) for table in tables]


def test_a_step_asks_for_all_its_caches_at_once(many: PeakaSandbox) -> None:
    """Forty caches: a trigger for each, and listings that tell of all of them; one is asked alone when few are left."""
    for number in range(MANY):
        many.plan(f"ops.public.t{number}", hold=True)

    def listings() -> int:
        return [record.operation for record in many.requests].count("getCacheStatusByCatalog")

    def release() -> None:
        before = listings()
        wait_until(lambda: listings() >= before + 2, "two polls")
        for number in range(MANY):
            many.release(f"ops.public.t{number}")

    @dg.multi_asset(
        specs=specs([f"ops.public.t{number}" for number in range(MANY)]), required_resource_keys={"peaka"}
    )
    def fleet(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from context.resources.peaka.sync_and_poll(context)

    with acting_when(lambda: triggers(many) == MANY, release):
        assert dg.materialize([fleet], resources={"peaka": peaka(many)}).success
    operations = Counter(record.operation for record in many.requests)
    assert operations["incrementalUpdateCache"] == operations["getCacheExecutionHistory"] == MANY
    assert operations["listTables_1"] == 1
    asked_alone = {record.path for record in many.requests if record.operation == "getCacheStatus"}
    assert len(asked_alone) < MANY / 2
    assert set(operations) - {"getCacheStatus"} == {
        "listCatalogs",
        "listTables_1",
        "getCacheStatusByCatalog",
        "incrementalUpdateCache",
        "getCacheExecutionHistory",
    }


def test_no_thread_outlives_the_step(sandbox: PeakaSandbox) -> None:
    """After a step, whether it succeeded or failed, the threads are those of before."""
    before = set(threading.enumerate())

    @dg.multi_asset(specs=specs(["ops.public.t", "ops.public.none"]), required_resource_keys={"peaka"})
    def fleet(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from context.resources.peaka.sync_and_poll(context)

    result = dg.materialize([fleet], resources={"peaka": peaka(sandbox)}, raise_on_error=False)
    assert not result.success
    assert [thread for thread in set(threading.enumerate()) - before if "peaka" in thread.name] == []


@pytest.mark.parametrize("terminated", [True, False])
def test_a_step_that_is_closed_cancels_only_when_its_run_is_terminated(
    sandbox: PeakaSandbox, terminated: bool
) -> None:
    """While a result is recorded the body gets GeneratorExit, for a termination and for Dagster's own errors alike."""
    sandbox.plan("ops.public.u", hold=True)

    @dg.multi_asset(specs=specs(["ops.public.t", "ops.public.u"]), required_resource_keys={"peaka"})
    def fleet(context: dg.AssetExecutionContext) -> Iterator[Any]:
        results = context.resources.peaka.sync_and_poll(context)
        yield next(results)
        run = context.instance.get_run_by_id(context.run.run_id)
        assert run is not None
        if terminated:
            context.instance.report_run_canceling(run)
        results.close()
        raise dg.Failure("closed by the test")

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [fleet], instance=instance, resources={"peaka": peaka(sandbox)}, raise_on_error=False
        )
    assert len(result.asset_materializations_for_node("fleet")) == 1
    cancels = sum(record.operation == "cancelIncrementalCache" for record in sandbox.requests)
    assert cancels == (1 if terminated else 0)
    if terminated:
        sandbox.wait_idle()
    expected = "CANCELLED" if terminated else "RUNNING"
    assert sandbox.executions("ops.public.u")[-1].status == expected


def test_a_step_retry_repeats_only_what_failed(sandbox: PeakaSandbox) -> None:
    """A retry of the step neither syncs nor emits again what the run has recorded; what is downstream runs."""
    sandbox.plan("ops.public.u", fail={"message": "source is locked"})
    both = [spec.replace_attributes(skippable=True) for spec in specs(["ops.public.t", "ops.public.u"])]

    @dg.multi_asset(specs=both, required_resource_keys={"peaka"}, retry_policy=dg.RetryPolicy(max_retries=1))
    def fleet(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from context.resources.peaka.sync_and_poll(context)

    @dg.asset(deps=[dg.AssetKey(["ops", "public", "t"])])
    def report() -> None:
        pass

    result = dg.materialize([fleet, report], resources={"peaka": peaka(sandbox)})
    assert result.success
    emitted = [
        event.asset_key.to_user_string()
        for event in result.all_events
        if event.is_step_materialization and event.asset_key is not None
    ]
    assert sorted(emitted) == ["ops/public/t", "ops/public/u", "report"]
    triggers = Counter(
        record.path for record in sandbox.requests if record.operation == "incrementalUpdateCache"
    )
    assert sorted(triggers.values()) == [1, 2]


def test_two_assets_of_a_step_that_mean_one_cache_are_refused(sandbox: PeakaSandbox) -> None:
    """Nothing is triggered, and the failure names both assets and the cache."""
    cache_id = sandbox.caches["ops.public.t"]
    both = [
        dg.AssetSpec("by_table", metadata={"peaka/table": "ops.public.t"}),
        dg.AssetSpec("by_id", metadata={"peaka/cache_id": cache_id}),
    ]

    @dg.multi_asset(specs=both, required_resource_keys={"peaka"})
    def fleet(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from context.resources.peaka.sync_and_poll(context)

    result = dg.materialize([fleet], resources={"peaka": peaka(sandbox)}, raise_on_error=False)
    failure = result.failure_data_for_node("fleet")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert f"by_table and by_id of one step mean the same Peaka cache {cache_id}" in str(
        failure.user_failure_data.description
    )
    assert not [record for record in sandbox.requests if record.operation == "incrementalUpdateCache"]


def test_an_incremental_updates_cached_rows_are_no_row_count(sandbox: PeakaSandbox) -> None:
    """`numberOfCachedRecords` is no total in any mode: it is shown as what it is."""

    @dg.multi_asset(specs=specs(["ops.public.t"]), required_resource_keys={"peaka"})
    def one(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from context.resources.peaka.sync_and_poll(context)

    result = dg.materialize([one], resources={"peaka": peaka(sandbox)})
    (materialization,) = result.asset_materializations_for_node("one")
    assert "peaka/rows_processed" in materialization.metadata
    assert "dagster/row_count" not in materialization.metadata
