"""Workers that die, and runs that are terminated, in each phase of a sync; what comes of the last is in the smoke."""

import signal

import pytest

from tests.graphql import until
from tests.production.deployment import CANCEL, TRIGGER, Deployment, Hold, re_executed

pytestmark = pytest.mark.timeout(900)  # a dozen processes start first

PHASES = ("poll", "posted", "identify")


@pytest.mark.parametrize(("number", "phase"), list(enumerate(PHASES, 2)))
def test_a_worker_that_is_killed_starts_nothing_twice(
    deployment: Deployment, number: int, phase: str
) -> None:
    """Its run stays STARTED, since nobody tells; terminated and executed again, it ends with one trigger in all."""
    table, ui = f"one_{number}", deployment.ui()
    hold = Hold(deployment, table, phase)
    run = ui.launch(("ops", "public", table))
    hold.wait()
    deployment.end_worker("one", signal.SIGKILL)
    assert ui.run(run).status == "STARTED"
    ui.terminate(run, force=True)

    again = re_executed(deployment, run, hold)

    assert deployment.operations(table).count(TRIGGER) == 1
    assert deployment.operations(table).count(CANCEL) == 0
    assert deployment.recorded("ops", "public", table) == [(deployment.executions(table)[0], again)]


@pytest.mark.parametrize(("number", "phase"), list(enumerate(PHASES, 5)))
def test_a_run_that_is_terminated_frees_its_slot(deployment: Deployment, number: int, phase: str) -> None:
    """Its step ends while Peaka does not answer. What is not known to be its own is not cancelled."""
    table, ui = f"one_{number}", deployment.ui()
    hold = Hold(deployment, table, phase)
    run = ui.launch(("ops", "public", table))
    hold.wait()

    ui.terminate(run)

    assert ui.ended(run).status == "CANCELED"
    deployment.wait_for_step(run)
    assert deployment.operations(table).count(CANCEL) == 0
    hold.release()
    assert deployment.recorded("ops", "public", table) == []


def test_a_worker_that_is_told_to_stop_cancels_nothing(deployment: Deployment) -> None:
    """SIGTERM to a worker is no termination of the run: the execution goes on, and the re-execution adopts it."""
    table, ui = "one_8", deployment.ui()
    hold = Hold(deployment, table, "follow")
    run = ui.launch(("ops", "public", table))
    hold.wait()

    deployment.end_worker("one", signal.SIGTERM)

    assert deployment.operations(table).count(CANCEL) == 0
    assert ui.ended(run).status == "FAILURE"  # Celery tells that the slot is lost
    again = re_executed(deployment, run, hold)
    assert deployment.operations(table).count(TRIGGER) == 1
    assert deployment.recorded("ops", "public", table) == [(deployment.executions(table)[0], again)]


def test_a_step_that_is_delivered_again_follows_what_it_had_triggered(deployment: Deployment) -> None:
    """Where Celery's settings have a lost step delivered again, the same run adopts its own execution."""
    table, ui = "two_0", deployment.ui()
    deployment.end_worker("two", signal.SIGKILL, PRODUCTION_REDELIVERS="1")
    hold = Hold(deployment, table, "follow")
    run = ui.launch(("ops", "public", table))
    hold.wait()
    before = deployment.operations(table).count("getCacheStatus")

    deployment.kill_slots("two")

    until(
        lambda: deployment.operations(table).count("getCacheStatus") > before + 3,
        what="poll of the second delivery",
    )
    hold.release()
    assert ui.ended(run).status == "SUCCESS"
    assert deployment.operations(table).count(TRIGGER) == 1
    assert deployment.recorded("ops", "public", table) == [(deployment.executions(table)[0], run)]
    deployment.end_worker("two", signal.SIGKILL)
