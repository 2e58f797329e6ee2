"""The polling sensor of many caches: what a tick costs, how much it reports at once, and that none is starved."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaCache, build_peaka_cache_assets
from dagster_peaka.sandbox import PeakaSandbox
from dagster_peaka.sensors import tick as tick_module
from dagster_peaka.sensors.polling import build_peaka_polling_sensor
from tests.materializing import peaka_for, sqlite_tables
from tests.sensors.polling import Watch, completed, queries, recorded, requests_of, sync_by_others

CACHES = [f"ops.public.t{number}" for number in range(int(os.environ.get("PEAKA_CACHES", "160")))]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeakaSandbox]:
    """A local Peaka with all of these caches."""
    source = sqlite_tables(
        tmp_path_factory.mktemp("fleet") / "ops.db", (name.rsplit(".", 1)[1] for name in CACHES)
    )
    with PeakaSandbox({"ops": {"public": source}}, caches=["ops.public.*"]) as sandbox:
        sandbox.wait_idle(timeout=600)
        yield sandbox


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def watch_of(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, names: Sequence[str], *, backfill: bool = False
) -> Watch:
    """A sensor for these caches, one step of all, that has had its first tick."""
    caches = [
        PeakaCache(
            id=sandbox.caches[name],
            catalog_id="1",
            catalog_name=parts[0],
            schema_name=parts[1],
            table_name=parts[2],
        )
        for name in names
        for parts in [name.split(".")]
    ]
    assets = build_peaka_cache_assets(caches, step_per="project")
    sensor = build_peaka_polling_sensor(assets, backfill=backfill)
    watch = Watch(sensor, peaka_for(sandbox), instance)
    watch.tick()
    sandbox.clear_requests()
    return watch


def reported(events: Sequence[Any]) -> list[str]:
    """The executions that a tick reported."""
    return [str(event.metadata["peaka/execution_id"].value) for event in events]


def test_a_tick_with_nothing_new_costs_one_request(fleet: PeakaSandbox, instance: dg.DagsterInstance) -> None:
    """One request and as many database queries as for ten caches; the cursor is small."""
    asked: list[int] = []
    for names in (CACHES[:10], CACHES):
        watch = watch_of(fleet, instance, names)
        with queries() as statements:
            assert watch.tick() == []
        assert requests_of(fleet) == {"getCacheStatusByProject": 1}
        assert len(watch.cursor or "") <= 32 * len(names) + 160
        asked.append(len(statements))
    assert asked[0] == asked[1]


def test_only_caches_that_moved_cost_more(fleet: PeakaSandbox, instance: dg.DagsterInstance) -> None:
    """Fifty that moved cost fifty requests more, and are all reported."""
    watch = watch_of(fleet, instance, CACHES)
    started = sync_by_others(fleet, CACHES[100:150])
    events = watch.tick()
    assert sorted(reported(events)) == sorted(started)
    assert requests_of(fleet) == {"getCacheStatusByProject": 1, "getCacheExecutionHistory": 50}


def test_what_is_too_much_for_one_tick_waits_for_the_next(
    fleet: PeakaSandbox, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick reports a bounded number of executions; the next one goes on where it ended, and all are reported once."""
    watch = watch_of(fleet, instance, CACHES)
    started = [*sync_by_others(fleet, CACHES[:40]), *sync_by_others(fleet, CACHES[20:60])]
    monkeypatch.setattr(tick_module, "REPORTED_AT_MOST", 30)
    first, second, third = watch.tick(), watch.tick(), watch.tick()
    assert (len(first), len(second), len(third)) == (30, 30, 20)
    assert sorted(reported([*first, *second, *third])) == sorted(started)
    assert watch.tick() == []


def test_a_backfill_goes_on_where_the_tick_before_has_ended(
    fleet: PeakaSandbox, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A history of more executions than fit a tick is reported by several, and then what is new."""
    names = CACHES[-3:]
    for _ in range(4):
        sync_by_others(fleet, names)
        sync_by_others(fleet, names, "full_refresh")
    monkeypatch.setattr(tick_module, "REPORTED_AT_MOST", 5)
    watch = watch_of(fleet, instance, names, backfill=True)
    for _ in range(10):
        watch.tick()
    (new,) = sync_by_others(fleet, names[:1])
    assert reported(watch.tick()) == [new]
    for name in names:
        assert sorted(recorded(instance, dg.AssetKey(name.split(".")))) == sorted(completed(fleet, name))


def test_time_that_runs_out_starves_no_cache(
    fleet: PeakaSandbox, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where some histories take too long, the next tick begins with what was left."""
    watch = watch_of(fleet, instance, CACHES[:100])
    started = sync_by_others(fleet, CACHES[:100])
    monkeypatch.setattr(tick_module, "READING_BUDGET", 1.5)
    slow = fleet.fault("getCacheExecutionHistory", times=None, status=None, delay=0.4)
    seen: list[str] = []
    ticks = 0
    while len(seen) < len(started) and ticks < 30:
        events = reported(watch.tick())
        seen.extend(events)
        ticks += 1
    slow.remove()
    assert sorted(seen) == sorted(started)
    assert ticks > 1
