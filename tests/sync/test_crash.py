"""Guarantee 4: after a crash, nothing starts twice."""

import time
from collections.abc import Iterator

import dagster as dg
import pytest

from dagster_peaka import build_peaka_cache_asset, build_peaka_polling_sensor
from tests.materializing import peaka_for
from tests.sensors.polling import Watch, recorded
from tests.sync.steps import Steps, wait_until

CACHE = "ops.public.t"
ADOPTED = "an earlier attempt had triggered execution"


def crashed(steps: Steps, fail: str | None = None) -> str:
    """Kill a run in the middle of its sync; returns its id. The execution is held until released, and may then fail."""
    steps.sandbox.plan(CACHE, hold=True, fail=fail)
    process = steps.start(EXECUTOR="in_process")
    wait_until(lambda: steps.triggers() == 1 and len(steps.sandbox.executions(CACHE)) == 2, "the trigger")
    run_id = steps.last_run_id()
    steps.kill(process)
    steps.mark_failed(run_id)
    return run_id


def executions_named(steps: Steps, run_id: str) -> list[str]:
    """The executions that a run's materializations name."""
    return [str(m.metadata["peaka/execution_id"].value) for m in steps.materializations(run_id)]


def test_a_killed_step_is_adopted_by_the_re_execution(steps: Steps) -> None:
    """`kill -9` of the step's process, a re-execution from failure: one trigger, and the materialization names it."""
    steps.sandbox.plan(CACHE, hold=True)
    process = steps.start(EXECUTOR="multiprocess")
    process.wait_until_said("following execution")
    steps.kill_step(process)
    failed = steps.end(process)
    assert not failed.success
    again = steps.start(EXECUTOR="multiprocess", AGAIN=failed.run_id)
    again.wait_until_said(ADOPTED)
    steps.sandbox.release(CACHE)
    ended = steps.end(again)
    assert ended.success
    assert steps.triggers() == 1
    assert executions_named(steps, ended.run_id) == [steps.sandbox.executions(CACHE)[-1].id]
    assert "an earlier attempt" in ended.log


def test_a_completed_execution_of_a_killed_run_is_adopted(steps: Steps) -> None:
    """What a dead run triggered and Peaka completed meanwhile is the re-execution's result."""
    run_id = crashed(steps)
    steps.sandbox.release(CACHE)
    steps.sandbox.wait_idle()
    ended = steps.run(EXECUTOR="in_process", AGAIN=run_id)
    assert (ended.success, steps.triggers()) == (True, 1)
    assert executions_named(steps, ended.run_id) == [steps.sandbox.executions(CACHE)[-1].id]


def test_a_re_execution_of_a_re_execution_still_adopts(steps: Steps) -> None:
    """The record is found through every ancestor."""
    run_id = crashed(steps)
    process = steps.start(EXECUTOR="in_process", AGAIN=run_id)
    process.wait_until_said(ADOPTED)
    second = steps.last_run_id()
    steps.kill(process)
    steps.mark_failed(second)
    steps.sandbox.release(CACHE)
    ended = steps.run(EXECUTOR="in_process", AGAIN=second)
    assert (ended.success, steps.triggers()) == (True, 1)


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_an_execution_that_came_to_nothing_is_not_adopted(steps: Steps, how: str) -> None:
    """After the earlier execution FAILED or was CANCELLED, the re-execution triggers anew."""
    if how == "failed":
        run_id = crashed(steps, fail="source is locked")
        steps.sandbox.release(CACHE)
    else:
        run_id = crashed(steps)
        steps.sandbox.cancel(CACHE)
    steps.sandbox.wait_idle()
    ended = steps.run(EXECUTOR="in_process", AGAIN=run_id)
    assert (ended.success, steps.triggers()) == (True, 2)
    assert executions_named(steps, ended.run_id) == [steps.sandbox.executions(CACHE)[-1].id]


def test_an_adopted_execution_is_adopted_once(steps: Steps) -> None:
    """Once a re-execution has recorded it, re-executing that one as a whole triggers anew."""
    run_id = crashed(steps)
    steps.sandbox.release(CACHE)
    steps.sandbox.wait_idle()
    adopting = steps.run(EXECUTOR="in_process", AGAIN=run_id)
    ended = steps.run(EXECUTOR="in_process", AGAIN_ALL=adopting.run_id)
    assert (ended.success, steps.triggers()) == (True, 2)
    assert executions_named(steps, ended.run_id) != executions_named(steps, adopting.run_id)


def test_a_strangers_success_after_ours_failed_is_not_adopted(steps: Steps) -> None:
    """What an earlier attempt triggered is its own execution only: that one FAILED, so the re-execution triggers."""
    run_id = crashed(steps, fail="source is locked")
    steps.sandbox.release(CACHE)
    steps.sandbox.wait_idle()
    stranger = steps.sandbox.start_execution(CACHE)
    steps.sandbox.wait_idle()
    ended = steps.run(EXECUTOR="in_process", AGAIN=run_id)
    assert (ended.success, steps.triggers()) == (True, 2)
    assert stranger not in executions_named(steps, ended.run_id)


def test_new_rows_upstream_end_the_adoption(steps: Steps) -> None:
    """A dependency materialized after the earlier trigger needs a sync of its own."""
    run_id = crashed(steps)
    steps.sandbox.release(CACHE)
    steps.sandbox.wait_idle()
    steps.materialize_upstream()
    ended = steps.run(EXECUTOR="in_process", AGAIN=run_id)
    assert (ended.success, steps.triggers()) == (True, 2)
    assert "is not adopted, because landed has been updated since" in ended.output


def test_an_old_trigger_is_not_adopted(steps: Steps) -> None:
    """A trigger older than poll_timeout is history: the re-execution triggers anew."""
    run_id = crashed(steps)
    steps.sandbox.release(CACHE)
    steps.sandbox.wait_idle()
    ended = steps.run(EXECUTOR="in_process", AGAIN=run_id, POLL_TIMEOUT="3600", SECONDS_LATER="3601")
    assert (ended.success, steps.triggers()) == (True, 2)
    assert "is not adopted, because that is longer ago than poll_timeout" in ended.output


def test_a_run_that_has_materialized_is_not_adopted(steps: Steps) -> None:
    """An unrelated later run, and one after a success, trigger their own executions."""
    first = steps.run(EXECUTOR="in_process")
    second = steps.run(EXECUTOR="in_process")
    assert first.success
    assert second.success
    assert steps.triggers() == 2
    assert executions_named(steps, first.run_id) != executions_named(steps, second.run_id)


def test_a_trigger_that_died_on_its_way_is_sent_by_the_re_execution(steps: Steps) -> None:
    """Where the earlier attempt's trigger started nothing, start_timeout passes and the re-execution sends one."""
    lost = steps.sandbox.fault(operation="incrementalUpdateCache", refuse=True, status=None, times=None)
    process = steps.start(EXECUTOR="in_process")
    wait_until(lambda: lost.hits > 0, "the trigger that is lost")
    run_id = steps.last_run_id()
    steps.kill(process)
    steps.mark_failed(run_id)
    lost.remove()
    assert len(steps.sandbox.executions(CACHE)) == 1
    ended = steps.run(EXECUTOR="in_process", AGAIN=run_id, START_TIMEOUT="0.5")
    assert ended.success
    assert executions_named(steps, ended.run_id) == [steps.sandbox.executions(CACHE)[-1].id]
    assert len(steps.sandbox.executions(CACHE)) == 2


def test_an_attempt_whose_trigger_was_refused_leaves_nothing_to_adopt(steps: Steps) -> None:
    """Its only POST was answered 409: a stranger's execution of the same seconds is not taken for it."""
    refused = steps.sandbox.fault(operation="incrementalUpdateCache", status=409, times=1)
    process = steps.start(EXECUTOR="in_process")
    process.wait_until_said("Watching whether it started an execution all the same")
    assert refused.hits == 1
    run_id = steps.last_run_id()
    steps.kill(process)
    steps.mark_failed(run_id)
    stranger = steps.sandbox.start_execution(CACHE)
    steps.sandbox.wait_idle()
    ended = steps.run(EXECUTOR="in_process", AGAIN=run_id)
    assert ended.success
    (named,) = executions_named(steps, ended.run_id)
    assert named != stranger
    assert [each.id for each in steps.sandbox.executions(CACHE) if each.origin == "api"] == [named]


@pytest.fixture
def beside_a_dead_run(steps: Steps) -> Iterator[tuple[Watch, dg.AssetKey, str, str]]:
    """A sensor beside a run that stays STARTED; the asset, the run's id, and that of its execution, which is over."""
    asset = build_peaka_cache_asset(table=CACHE)
    with dg.DagsterInstance.from_config(str(steps.home)) as instance:
        watch = Watch(build_peaka_polling_sensor([asset]), peaka_for(steps.sandbox), instance)
        watch.tick()
        steps.sandbox.plan(CACHE, times=1, hold=True)
        process = steps.start(EXECUTOR="in_process")
        process.wait_until_said("following execution")
        ours = steps.sandbox.executions(CACHE)[-1].id
        run_id = steps.last_run_id()
        steps.kill(process)
        steps.sandbox.release(CACHE)
        steps.sandbox.wait_idle()
        yield watch, asset.key, run_id, ours


def test_a_sensor_waits_for_a_dead_run_s_own_execution_only_and_not_for_ever(
    steps: Steps,
    beside_a_dead_run: tuple[Watch, dg.AssetKey, str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others are recorded at once, its own when the run cannot be alive, with the run's id."""
    watch, key, run_id, ours = beside_a_dead_run
    strangers: list[str] = []
    for _ in range(41):
        strangers.append(steps.sandbox.start_execution(CACHE))
        steps.sandbox.wait_idle()
    watch.tick()
    assert recorded(watch.instance, key) == strangers

    moment = time.time
    monkeypatch.setattr(time, "time", lambda: moment() + 120.0)
    (event,) = watch.tick()
    assert recorded(watch.instance, key) == [*strangers, ours]
    assert (event.metadata["peaka/run_id"].value, event.metadata["peaka/origin"].value) == (
        run_id,
        "triggered",
    )


@pytest.mark.parametrize("operation", [None, "getCacheExecutionHistory"])
def test_an_outage_is_no_time_in_which_a_run_would_have_recorded(
    steps: Steps,
    beside_a_dead_run: tuple[Watch, dg.AssetKey, str, str],
    monkeypatch: pytest.MonkeyPatch,
    operation: str | None,
) -> None:
    """A run that may be alive is as blind as the sensor: after an outage its execution is left to it as long again."""
    watch, key, _, ours = beside_a_dead_run
    assert watch.tick() == []

    moment = time.time
    monkeypatch.setattr(time, "time", lambda: moment() + 60.0)
    fault = steps.sandbox.fault(operation, times=None, status=503)
    assert watch.tick() == []
    fault.remove()
    monkeypatch.setattr(time, "time", lambda: moment() + 120.0)
    assert watch.tick() == []
    monkeypatch.setattr(time, "time", lambda: moment() + 240.0)
    assert len(watch.tick()) == 1
    assert recorded(watch.instance, key) == [ours]
