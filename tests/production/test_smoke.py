"""The first look at a deployment: many runs at once, a worker that dies, a run that is terminated."""

import signal

import pytest

from tests.graphql import until
from tests.production.deployment import CANCEL, TRIGGER, Deployment, Hold, re_executed

pytestmark = pytest.mark.timeout(900)  # a dozen processes start first


def test_six_runs_of_one_cache_at_once_beside_the_polling_sensor(deployment: Deployment) -> None:
    """Each has an execution of its own, which is recorded once, by the run or, where that is behind, by the sensor."""
    ui, key = deployment.ui(), ("ops", "public", "six")
    ui.switch_on("polling")
    deployment.sandbox.plan("ops.public.six", hold=True)  # the first, behind which Peaka queues the others

    runs = [ui.launch(key) for _ in range(6)]
    until(lambda: deployment.operations("six").count(TRIGGER) == 6, what="trigger of each run")
    deployment.sandbox.release("ops.public.six")

    assert {ui.ended(run).status for run in runs} == {"SUCCESS"}
    assert deployment.operations("six").count(TRIGGER) == 6
    ui.wait_for_ticks("polling")
    recorded = [execution for execution, _ in deployment.recorded(*key)]
    assert sorted(recorded) == sorted(deployment.executions("six"))
    assert len(recorded) == 6
    ui.switch_off("polling")


def test_a_killed_worker_s_sync_is_adopted(deployment: Deployment) -> None:
    """What was triggered before the worker died is followed by the re-execution, and triggered no second time."""
    ui, key = deployment.ui(), ("ops", "public", "one_0")
    hold = Hold(deployment, "one_0", "follow")
    run = ui.launch(key)
    hold.wait()
    deployment.end_worker("one", signal.SIGKILL)
    ui.terminate(run, force=True)

    again = re_executed(deployment, run, hold)

    assert deployment.operations("one_0").count(TRIGGER) == 1
    assert deployment.recorded(*key) == [(deployment.executions("one_0")[0], again)]


def test_a_terminated_run_cancels_and_frees_its_slot(deployment: Deployment) -> None:
    """Celery interrupts no step: the step notices by itself, cancels its execution, and ends."""
    ui = deployment.ui()
    hold = Hold(deployment, "one_1", "follow")
    run = ui.launch(("ops", "public", "one_1"))
    hold.wait()

    ui.terminate(run)

    assert ui.ended(run).status == "CANCELED"
    deployment.wait_for_step(run)
    assert deployment.operations("one_1").count(CANCEL) == 1
    deployment.sandbox.wait_idle(cache="ops.public.one_1")
