"""Two sensors over one asset: each upstream materialization leads to one run, each execution to one materialization."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import build_peaka_cache_asset, build_peaka_polling_sensor
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import acting_when, is_followed, peaka_for, run_of
from tests.sensors.polling import Watch, completed, recorded, sync_by_others
from tests.sensors.upstream import Daemon, cache, land

T = "ops.public.t"
KEY_T = dg.AssetKey(["ops", "public", "t"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance that keeps its events and runs in SQLite, in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


# Two upstream sensors


def two_upstream_sensors(
    instance: dg.DagsterInstance,
    first: Sequence[dg.AssetsDefinition],
    second: Sequence[dg.AssetsDefinition],
    **options: Any,
) -> tuple[Daemon, Daemon]:
    """Sensors of one code location, which have had their first tick; the options are the second one's."""
    daemons = Daemon(instance, first, name="landed"), Daemon(instance, second, name="loaded", **options)
    assets = list(dict.fromkeys([*first, *second]))
    definitions = dg.Definitions(
        assets=assets, sensors=[daemon.sensor for daemon in daemons], resources={"peaka": daemons[0].peaka}
    )
    for daemon in daemons:
        daemon.definitions = definitions
        daemon.tick()
    return daemons


def test_an_asset_of_two_upstream_sensors_is_requested_once(instance: dg.DagsterInstance) -> None:
    """However their ticks follow each other, and whether or not the requested run has ended."""
    t = cache("t", "a")
    landed, loaded = two_upstream_sensors(instance, [t], [t])
    for first, second, status in [
        (landed, loaded, dg.DagsterRunStatus.STARTED),
        (loaded, landed, dg.DagsterRunStatus.STARTED),
        (loaded, landed, dg.DagsterRunStatus.SUCCESS),
    ]:
        land(instance, "a")
        runs = [run for _ in range(3) for daemon in (first, second) for run in daemon.launch(status)]
        assert len(runs) == 1


def test_what_only_one_of_two_upstream_sensors_has_is_requested_by_it(instance: dg.DagsterInstance) -> None:
    """An asset that both have keeps neither from requesting its own."""
    t, u, v = cache("t", "a"), cache("u", "a"), cache("v", "a")
    landed, loaded = two_upstream_sensors(instance, [t, u], [u, v])
    for _ in range(2):
        land(instance, "a")
        assert (loaded.requested(), landed.requested()) == (["v"], ["t", "u"])
        assert (loaded.requested(), landed.requested()) == ([], [])


def test_a_step_that_cannot_be_divided_is_left_whole_to_the_first_sensor(
    instance: dg.DagsterInstance,
) -> None:
    """One shared asset is enough, because the step syncs all of its caches."""

    @dg.multi_asset(specs=[dg.AssetSpec("t", deps=["a"]), dg.AssetSpec("u", deps=["b"])])
    def both(): ...

    landed, loaded = two_upstream_sensors(instance, [both], [both])
    land(instance, "b")
    assert (loaded.requested(), landed.requested()) == ([], ["t", "u"])


def test_the_second_upstream_sensor_says_who_requests_the_asset(
    instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of its ticks warns: it names both sensors, the asset, and what to do."""
    t = cache("t", "a")
    landed, loaded = two_upstream_sensors(instance, [t], [t])
    land(instance, "a")
    capsys.readouterr()
    said = loaded.tick().skip_message
    assert "t has new materializations of a, and is left to sensor landed." in said
    warned = capsys.readouterr().err
    assert "Sensors landed and loaded both request t" in warned
    assert "give each asset to one upstream sensor" in warned
    landed.tick()
    assert "both request" not in capsys.readouterr().err


def test_an_asset_goes_on_with_the_sensor_that_is_left(instance: dg.DagsterInstance) -> None:
    """When the first sensor is gone, the second one requests what is new, and what it had left to the first."""
    t = cache("t", "a")
    landed, loaded = two_upstream_sensors(instance, [t], [t])
    land(instance, "a")
    assert (loaded.requested(), landed.requested()) == ([], ["t"])
    loaded.redefine([t], name="loaded")
    assert loaded.requested() == ["t"]
    assert loaded.requested() == []
    land(instance, "a")
    assert loaded.requested() == ["t"]


# Two polling sensors


def two_polling_sensors(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, *, one_location: bool
) -> tuple[Watch, Watch]:
    """Two polling sensors over one asset, which have had their first tick."""
    asset = build_peaka_cache_asset(table=T, checks={"last_sync_succeeded": True})
    peaka = peaka_for(sandbox)
    first, second = (
        Watch(build_peaka_polling_sensor([asset], name=name), peaka, instance) for name in ("one", "other")
    )
    if one_location:
        sensors = [first.sensor, second.sensor]
        first.definitions = second.definitions = dg.Definitions(
            assets=[asset], sensors=sensors, resources={"peaka": peaka}
        )
    assert (first.tick(), second.tick()) == ([], [])
    return first, second


@pytest.fixture(params=[True, False], ids=["in one code location", "in two"])
def watches(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, request: pytest.FixtureRequest
) -> tuple[Watch, Watch]:
    """Two polling sensors over one asset, of one code location or of two."""
    return two_polling_sensors(sandbox, instance, one_location=request.param)


def test_what_others_synced_is_recorded_once_by_two_polling_sensors(
    watches: tuple[Watch, Watch], sandbox: PeakaSandbox
) -> None:
    """The second one finds the execution in the event log, in whichever order they tick."""
    first, second = watches
    started: list[str] = []
    for turn in [(first, second), (second, first), (first, first, second)]:
        started += sync_by_others(sandbox, [T])
        for watch in (*turn, first):
            watch.tick()
    assert recorded(first.instance, KEY_T) == started


def test_what_a_run_records_is_left_to_it_by_two_polling_sensors(
    watches: tuple[Watch, Watch], sandbox: PeakaSandbox
) -> None:
    """While the run is in flight and after its end, neither of them records what it records."""
    first, second = watches
    asset = build_peaka_cache_asset(table=T, checks={"last_sync_succeeded": True})
    before = completed(sandbox, T)
    sandbox.plan(T, times=1, hold=True)
    sandbox.clear_requests()

    def tick_both() -> None:
        assert (first.tick(), second.tick()) == ([], [])
        sandbox.release(T)

    with acting_when(lambda: is_followed(sandbox), tick_both):
        assert run_of(asset, first.peaka, instance=first.instance).success
    for watch in (second, first, second):
        watch.tick()
    assert recorded(first.instance, KEY_T) == completed(sandbox, T)[len(before) :]


def test_what_nobody_waits_for_is_recorded_once_by_two_polling_sensors(
    watches: tuple[Watch, Watch], sandbox: PeakaSandbox
) -> None:
    """A step with `wait=False` leaves its execution to polling sensors: the first that sees its end records it."""
    first, second = watches
    before = completed(sandbox, T)
    asset = build_peaka_cache_asset(table=T, wait=False)
    run = run_of(asset, first.peaka, instance=first.instance)
    assert run.success
    sandbox.wait_idle()
    (event,) = [
        event for watch in (second, first, second) for event in watch.tick() if hasattr(event, "tags")
    ]
    assert event.metadata["peaka/run_id"].value == run.run_id
    assert recorded(first.instance, KEY_T) == completed(sandbox, T)[len(before) :]


def overlapping_ticks(first: Watch, second: Watch) -> None:
    """A tick of the first sensor whose events are stored after a whole tick of the second one, and two more."""
    read = first.tick(dies_after=0)
    second.tick()
    for event in read:
        first.instance.report_runless_asset_event(event)
    first.tick()
    second.tick()


def test_ticks_that_overlap_record_an_execution_once(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """In one code location, whichever of the two is first."""
    first, second = two_polling_sensors(sandbox, instance, one_location=True)
    started = sync_by_others(sandbox, [T])
    overlapping_ticks(first, second)
    started += sync_by_others(sandbox, [T])
    overlapping_ticks(second, first)
    assert recorded(instance, KEY_T) == started


def test_ticks_that_overlap_in_two_code_locations_record_one_version(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """These sensors do not know of each other: an execution may be recorded twice."""
    first, second = two_polling_sensors(sandbox, instance, one_location=False)
    (execution,) = sync_by_others(sandbox, [T])
    overlapping_ticks(first, second)
    records = instance.fetch_materializations(KEY_T, limit=10).records
    assert recorded(instance, KEY_T) == [execution, execution]
    events = [record.asset_materialization for record in records]
    assert {event.tags["dagster/data_version"] for event in events if event and event.tags} == {execution}


def test_an_asset_goes_on_with_the_polling_sensor_that_is_left(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """When the first sensor is gone, the second one records what is new, and what it had left to the first."""
    first, second = two_polling_sensors(sandbox, instance, one_location=True)
    started = sync_by_others(sandbox, [T])
    assert second.tick() == []
    first.tick()
    started += sync_by_others(sandbox, [T])
    assert second.tick() == []
    second.definitions = None
    second.tick()
    started += sync_by_others(sandbox, [T])
    second.tick()
    assert recorded(instance, KEY_T) == started


def test_the_second_polling_sensor_says_who_records_the_asset(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """Each of its ticks warns: it names both sensors, the asset, and what to do."""
    first, second = two_polling_sensors(sandbox, instance, one_location=True)
    (line,) = second.warnings
    assert "Sensors one and other both poll" in line
    assert "give each asset to one polling sensor: ops/public/t" in line
    assert first.warnings == []
