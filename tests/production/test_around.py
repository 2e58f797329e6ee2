"""What is around the workers: a database that restarts, clocks that disagree, a sensor for what nobody awaits."""

import signal

import pytest

from tests.graphql import until
from tests.production.deployment import CANCEL, TRIGGER, Deployment, Hold, re_executed

pytestmark = pytest.mark.timeout(900)  # a dozen processes start first


def test_a_restart_of_the_database_costs_no_second_trigger(deployment: Deployment) -> None:
    """A step goes on across the restart of PostgreSQL, and what it records is recorded once."""
    table, ui = "two_1", deployment.ui()
    hold = Hold(deployment, table, "follow")
    run = ui.launch(("ops", "public", table))
    hold.wait()
    before = deployment.operations(table).count("getCacheStatus")

    deployment.stop_postgres()
    until(
        lambda: deployment.operations(table).count("getCacheStatus") > before + 5,
        what="poll without a database",
    )
    deployment.start_postgres()
    hold.release()
    deployment.wait_for_database(run)

    assert ui.ended(run).status == "SUCCESS"
    assert deployment.operations(table).count(TRIGGER) == 1
    assert deployment.recorded("ops", "public", table) == [(deployment.executions(table)[0], run)]


@pytest.mark.parametrize(
    ("ahead", "killed", "terminated"), [("120", "two_2", "two_3"), ("-120", "two_4", "two_5")]
)
def test_a_worker_whose_clock_is_two_minutes_off(
    deployment: Deployment, ahead: str, killed: str, terminated: str
) -> None:
    """What it has triggered is adopted by one whose clock is right, and cancelled when the run is terminated."""
    ui = deployment.ui()
    deployment.end_worker("two", signal.SIGKILL, PRODUCTION_CLOCK_AHEAD=ahead)
    ui.switch_on("polling")
    holds = {table: Hold(deployment, table, "follow") for table in (killed, terminated)}
    runs = {table: ui.launch(("ops", "public", table)) for table in holds}
    for hold in holds.values():
        hold.wait()

    ui.terminate(runs[terminated])
    deployment.wait_for_step(runs[terminated])
    assert deployment.operations(terminated).count(CANCEL) == 1

    deployment.end_worker("two", signal.SIGKILL)
    ui.terminate(runs[killed], force=True)
    again = re_executed(deployment, runs[killed], holds[killed])
    ui.wait_for_ticks("polling")
    ui.switch_off("polling")
    assert deployment.operations(killed).count(TRIGGER) == 1
    assert deployment.recorded("ops", "public", killed) == [(deployment.executions(killed)[0], again)]


def test_what_no_step_waits_for_is_recorded_by_the_sensor(deployment: Deployment) -> None:
    """With wait=False the run ends, and its slot is free, while the execution still runs."""
    ui, key = deployment.ui(), ("ops", "public", "left")
    ui.switch_on("polling")
    deployment.sandbox.plan("ops.public.left", hold=True)

    run = ui.launch(key)

    assert ui.ended(run).status == "SUCCESS"
    assert deployment.recorded(*key) == []
    deployment.sandbox.release("ops.public.left")
    until(lambda: deployment.recorded(*key), what="materialization by the sensor")
    ui.wait_for_ticks("polling")
    ui.switch_off("polling")
    assert [execution for execution, _ in deployment.recorded(*key)] == deployment.executions("left")
