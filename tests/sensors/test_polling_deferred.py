"""What a step triggers without waiting for it (`wait=False`), as the polling sensor records it over HTTP."""

import time
from collections.abc import Iterator

import dagster as dg
import pytest

from dagster_peaka import build_peaka_cache_asset
from dagster_peaka.sandbox import PeakaSandbox
from dagster_peaka.sensors.event_log import PAGE
from dagster_peaka.sensors.polling import build_peaka_polling_sensor
from tests.materializing import peaka_for, run_of
from tests.sensors.polling import Watch, completed, sync_by_others, values

T = "ops.public.t"
KEY_T = dg.AssetKey(["ops", "public", "t"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def deferred(sandbox: PeakaSandbox, instance: dg.DagsterInstance) -> tuple[dg.AssetsDefinition, Watch]:
    """The cache of `t` as an asset whose step does not wait, and a sensor that has had its first tick."""
    asset = build_peaka_cache_asset(table=T, wait=False)
    watch = Watch(build_peaka_polling_sensor([asset]), peaka_for(sandbox), instance)
    watch.tick()
    return asset, watch


def test_the_end_of_what_a_run_did_not_wait_for_names_that_run(
    deferred: tuple[dg.AssetsDefinition, Watch], sandbox: PeakaSandbox
) -> None:
    """The materialization comes with the sensor, and so does the check; later syncs of others name no run."""
    asset, watch = deferred
    sandbox.plan(T, times=1, hold=True)
    run = run_of(asset, watch.peaka, instance=watch.instance)
    assert run.success
    assert watch.tick() == []
    sandbox.release(T)
    sandbox.wait_idle()
    (stranger,) = sync_by_others(sandbox, [T])
    ours, ours_passed, other, other_passed = watch.tick()
    ended = sandbox.executions(T)[-2].id
    assert (values(ours)["peaka/execution_id"], values(other)["peaka/execution_id"]) == (ended, stranger)
    assert (values(ours)["peaka/origin"], values(other)["peaka/origin"]) == ("triggered", "external")
    assert values(ours)["peaka/run_id"] == values(ours_passed)["peaka/run_id"] == run.run_id
    assert "peaka/run_id" not in {**values(other), **values(other_passed)}
    assert (ours_passed.passed, other_passed.passed) == (True, True)
    assert watch.tick() == []


def test_runs_that_do_not_wait_are_named_in_their_order(
    deferred: tuple[dg.AssetsDefinition, Watch], sandbox: PeakaSandbox
) -> None:
    """Of several triggers at once, each has an execution of its own, also when the sensor sees them one by one."""
    asset, watch = deferred
    sandbox.plan(T, times=3, hold=True)
    runs = [run_of(asset, watch.peaka, instance=watch.instance).run_id for _ in range(3)]
    named: list[str] = []
    for number in range(3):
        execution = [each for each in sandbox.executions(T) if each.origin == "api"][number]
        while execution.id not in completed(sandbox, T):
            sandbox.release(T)
            time.sleep(0.02)
        named.extend(values(event)["peaka/run_id"] for event in watch.tick()[::2])
    assert named == runs


def test_a_run_is_named_however_many_syncs_of_others_came_since(
    deferred: tuple[dg.AssetsDefinition, Watch], sandbox: PeakaSandbox
) -> None:
    """A full refresh that took so long that its baseline is pages away is still that run's, and no other one is."""
    asset, watch = deferred
    sync_by_others(sandbox, [T], "full_refresh")
    sandbox.plan(T, mode="full_refresh", times=1, hold=True)
    run = run_of(asset, watch.peaka, instance=watch.instance, config={"mode": "full_refresh"})
    long = sandbox.executions(T)[-1].id
    for _ in range(30):
        execution = sandbox.start_execution(T)
        while execution not in completed(sandbox, T):
            time.sleep(0.01)
    watch.tick()
    sandbox.release(T)
    sandbox.wait_idle()
    (later,) = sync_by_others(sandbox, [T], "full_refresh")
    named = {values(event)["peaka/execution_id"]: values(event).get("peaka/run_id") for event in watch.tick()}
    assert named == {long: run.run_id, later: None}


def test_a_failure_that_no_run_waited_for_fails_the_check(
    deferred: tuple[dg.AssetsDefinition, Watch], sandbox: PeakaSandbox
) -> None:
    """The factory declares the check with wait=False; the evaluation names the run and Peaka's reason."""
    asset, watch = deferred
    sandbox.plan(T, times=1, duration=0.3, fail={"message": "source is locked"})
    run = run_of(asset, watch.peaka, instance=watch.instance)
    assert run.success
    sandbox.wait_idle()
    (event,) = watch.tick()
    assert isinstance(event, dg.AssetCheckEvaluation)
    assert not event.passed
    assert values(event)["peaka/run_id"] == run.run_id
    assert all(part in (event.description or "") for part in (run.run_id, "source is locked"))


def test_a_run_is_named_however_many_observations_came_since(
    deferred: tuple[dg.AssetsDefinition, Watch], sandbox: PeakaSandbox
) -> None:
    """The record of its trigger is pages away among the asset's observations, which others write as well."""
    asset, watch = deferred
    run = run_of(asset, watch.peaka, instance=watch.instance)
    for number in range(2 * PAGE + 50):
        observed = dg.AssetObservation(KEY_T, metadata={"number": number})
        watch.instance.report_runless_asset_event(observed)
    sandbox.wait_idle()
    materialized, passed = watch.tick()
    assert values(materialized)["peaka/run_id"] == values(passed)["peaka/run_id"] == run.run_id
