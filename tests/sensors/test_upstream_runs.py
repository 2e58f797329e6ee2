"""The upstream sensor beside the runs that it has requested: whatever becomes of them, it requests no others."""

from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from tests.sensors.polling import queries
from tests.sensors.upstream import Clock, Daemon, cache, land

UNFINISHED = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
UNSUCCESSFUL = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
TICKS_OF_AN_HOUR = 120


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance that keeps its events and runs in SQLite, in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def runs_of_an_hour(daemon: Daemon, clock: Clock, status: dg.DagsterRunStatus) -> int:
    """How many runs an hour of ticks leads to, when each of them gets no further than this status."""
    runs = 0
    for _ in range(TICKS_OF_AN_HOUR):
        runs += len(daemon.launch(status))
        clock.advance(30)
    return runs


@pytest.mark.parametrize("status", [*UNFINISHED, *UNSUCCESSFUL], ids=lambda status: status.value)
def test_one_upstream_materialization_is_one_run_whatever_becomes_of_it(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, status: dg.DagsterRunStatus
) -> None:
    """In an hour in which the run does not start, hangs, or has failed at once, no other one is requested."""
    clock = Clock(monkeypatch)
    daemon = Daemon(instance, [cache("t", "a"), cache("u", "b")])
    daemon.tick()
    land(instance, "a")
    assert runs_of_an_hour(daemon, clock, status) == 1


def test_no_cache_of_many_is_asked_for_again(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty caches whose upstreams land one after another, on a cluster that starts nothing: one request for each."""
    clock = Clock(monkeypatch)
    daemon = Daemon(instance, [cache(f"t{number}", f"a{number}") for number in range(40)])
    daemon.tick()
    asked: list[str] = []
    for number in range(TICKS_OF_AN_HOUR):
        if number < 40:
            land(instance, f"a{number}")
        for run_id in daemon.launch(dg.DagsterRunStatus.STARTING):
            run = instance.get_run_by_id(run_id)
            assert run is not None
            asked.extend(key.to_user_string() for key in run.asset_selection or ())
        clock.advance(30)
    assert sorted(asked) == sorted(f"t{number}" for number in range(40))


def reloaded(daemon: Daemon, clock: Clock) -> None:
    """Definitions that are loaded anew, under the same cursor."""
    daemon.redefine([cache("t", "a"), cache("u", "b")])


def switched_off_and_on(daemon: Daemon, clock: Clock) -> None:
    """A sensor that is stopped and started."""
    daemon.started_at = clock.now()


@pytest.mark.parametrize("change", [reloaded, switched_off_and_on])
def test_a_sensor_that_has_changed_does_not_ask_again(
    change: Callable[[Daemon, Clock], None], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again, it knows that the run was requested."""
    clock = Clock(monkeypatch)
    daemon = Daemon(instance, [cache("t", "a")])
    daemon.tick()
    land(instance, "a")
    assert len(daemon.launch(dg.DagsterRunStatus.STARTING)) == 1
    for _ in range(12):
        clock.advance(301)
        change(daemon, clock)
        assert daemon.launch(dg.DagsterRunStatus.STARTING) == []


def test_a_tick_that_died_before_its_run_was_launched_is_repeated(instance: dg.DagsterInstance) -> None:
    """The daemon stores the cursor only when it has the run: the next tick requests the same one, by the same key."""
    daemon = Daemon(instance, [cache("t", "a")])
    daemon.tick()
    land(instance, "a")
    died = [daemon.evaluate().run_requests[0].run_key for _ in range(3)]
    (run_id,) = daemon.launch(dg.DagsterRunStatus.STARTING)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert {run.tags["dagster/run_key"]} == set(died)
    assert daemon.launch(dg.DagsterRunStatus.STARTING) == []


def test_a_tick_that_died_after_its_run_was_launched_leads_to_no_other_one(
    instance: dg.DagsterInstance,
) -> None:
    """The daemon finds the run of the repeated request, by its key, and creates none."""
    daemon = Daemon(instance, [cache("t", "a")])
    daemon.tick()
    land(instance, "a")
    before = daemon.cursor
    assert len(daemon.launch(dg.DagsterRunStatus.STARTING)) == 1
    daemon.cursor = before
    assert daemon.launch(dg.DagsterRunStatus.STARTING) == []


@pytest.mark.parametrize("status", [*UNFINISHED, *UNSUCCESSFUL], ids=lambda status: status.value)
def test_a_new_upstream_materialization_asks_anew(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, status: dg.DagsterRunStatus
) -> None:
    """A run that is lost, or has failed, holds nothing back: what lands after it leads to a run of its own."""
    clock = Clock(monkeypatch)
    daemon = Daemon(instance, [cache("t", "a")])
    daemon.tick()
    for _ in range(2):
        land(instance, "a")
        assert len(daemon.launch(status)) == 1
        clock.advance(301)


def test_a_tick_does_not_read_runs(instance: dg.DagsterInstance) -> None:
    """What does not know the runs cannot go by their status: also that of a queued one, which no test can make up."""
    daemon = Daemon(instance, [cache("t", "a")])
    daemon.tick()
    land(instance, "a")
    with queries() as asked:
        assert daemon.requested() == ["t"]
        assert daemon.requested() == []
    assert asked
    assert not [statement for statement in asked if "FROM runs" in statement]
