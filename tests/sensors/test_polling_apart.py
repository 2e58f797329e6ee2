"""One bad cache in a polling sensor harms no other: not by what it costs, not by what is recorded of the others."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_peaka import build_peaka_cache_asset
from dagster_peaka.sandbox import PeakaSandbox
from dagster_peaka.sandbox.behaviour import Fault
from dagster_peaka.sensors import reading
from dagster_peaka.sensors.polling import build_peaka_polling_sensor
from tests.materializing import peaka_for, sqlite_tables
from tests.sensors.polling import Watch, completed, queries, recorded, requests_of, sync_by_others
from tests.sensors.upstream import Clock

T, U = "ops.public.t", "ops.public.u"
KEY_T, KEY_U = dg.AssetKey(["ops", "public", "t"]), dg.AssetKey(["ops", "public", "u"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


# A missing table with a namesake


@pytest.fixture
def namesakes(tmp_path: Path) -> Iterator[PeakaSandbox]:
    """A Peaka in which a table `public.t` of another catalog has a cache, and `ops.public.t` has none."""
    ops, old = (sqlite_tables(tmp_path / f"{name}.db", ["t", "u"]) for name in ("ops", "old"))
    caches = [U, "old.public.t"]
    with PeakaSandbox({"ops": {"public": ops}, "old": {"public": old}}, caches=caches) as sandbox:
        sandbox.wait_idle()
        yield sandbox


def watch_of(sandbox: PeakaSandbox, instance: dg.DagsterInstance, *tables: str) -> Watch:
    """A sensor for the caches of these tables."""
    assets = [build_peaka_cache_asset(table=table) for table in tables]
    return Watch(build_peaka_polling_sensor(assets), peaka_for(sandbox), instance)


def test_a_missing_table_with_a_namesake_costs_one_request_for_the_catalogs(
    namesakes: PeakaSandbox, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of the catalogs are kept from tick to tick, for an hour; the table is found when its cache comes."""
    watch = watch_of(namesakes, instance, T, U)
    for _ in range(10):
        watch.tick()
        assert any(T in line for line in watch.warnings)
    assert requests_of(namesakes)["listCatalogs"] == 1
    monkeypatch.setattr(reading, "NAMES_KEPT_FOR", -1.0)
    watch.tick()
    assert requests_of(namesakes)["listCatalogs"] == 2
    namesakes.create_cache(T)
    namesakes.wait_idle()
    watch.tick()
    assert recorded(instance, KEY_T) == completed(namesakes, T)


def test_catalogs_that_cannot_be_read_stop_only_the_tables_that_need_them(
    namesakes: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """A cache that is known goes on, and nothing of the others is lost."""
    watch = watch_of(namesakes, instance, U)
    watch.tick()
    watch.sensor = watch_of(namesakes, instance, U, "old.public.t").sensor
    started = sync_by_others(namesakes, [U, "old.public.t"])
    fault = namesakes.fault("listCatalogs", times=None, status=503)
    for _ in range(2):
        watch.tick()
        assert any("old.public.t" in line and "503" in line for line in watch.warnings)
    assert recorded(instance, KEY_U) == started[:1]
    fault.remove()
    watch.tick()
    assert recorded(instance, dg.AssetKey(["old", "public", "t"]))[-1:] == started[1:]


def test_a_first_tick_that_finds_no_cache_without_the_catalogs_is_skipped(
    namesakes: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """There is nothing to remember yet: the next tick is the first one."""
    watch = watch_of(namesakes, instance, U)
    namesakes.fault("listCatalogs", times=1, status=503)
    watch.tick()
    assert watch.cursor is None
    assert watch.tick() == []
    assert "first" in (watch.skipped or "")


# A history that cannot be read for hours


@pytest.fixture
def unreadable(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> tuple[Watch, Clock, Fault]:
    """A sensor of `t` alone, whose history cannot be read since a sync; an hour ago others have synced `u`."""
    clock = Clock(monkeypatch)
    watch = watch_of(sandbox, instance, T)
    watch.tick()
    fault = sandbox.fault("getCacheExecutionHistory", T, times=None, status=503)
    sync_by_others(sandbox, [T, U])
    watch.tick()
    clock.advance(3600)
    watch.tick()
    assert recorded(instance, KEY_T) == []
    return watch, clock, fault


def test_an_unreadable_history_brings_an_asset_that_is_added_nothing_old(
    unreadable: tuple[Watch, Clock, Fault], sandbox: PeakaSandbox
) -> None:
    """What has ended since the last tick is recorded of it, as without the other one."""
    watch, _, _ = unreadable
    watch.sensor = watch_of(sandbox, watch.instance, T, U).sensor
    watch.tick()
    assert recorded(watch.instance, KEY_U) == []
    started = sync_by_others(sandbox, [U])
    watch.tick()
    assert recorded(watch.instance, KEY_U) == started


def test_an_unreadable_history_costs_the_others_no_reading_of_runs(
    unreadable: tuple[Watch, Clock, Fault], sandbox: PeakaSandbox
) -> None:
    """Runs that have ended before a cache's last tick are not asked about it."""
    watch, _, _ = unreadable
    watch.sensor = watch_of(sandbox, watch.instance, T, U).sensor
    watch.tick()
    asked: list[int] = []
    for _ in range(3):
        sync_by_others(sandbox, [U])
        with queries() as statements:
            assert len(watch.tick()) == 1
        asked.append(len(statements))
        watch.tick()
        for _ in range(20):
            watch.instance.add_run(
                dg.DagsterRun(
                    "__ASSET_JOB", status=dg.DagsterRunStatus.SUCCESS, asset_selection=frozenset({KEY_U})
                )
            )
    assert asked[1] == asked[2]  # after 20 runs and after 40; the first one is before all records


def test_all_of_an_unreadable_history_is_recorded_when_it_can_be_read(
    unreadable: tuple[Watch, Clock, Fault], sandbox: PeakaSandbox
) -> None:
    """Of a cache that was known, and of one that was added meanwhile."""
    watch, clock, fault = unreadable
    watch.sensor = watch_of(sandbox, watch.instance, T, U).sensor
    also = sandbox.fault("getCacheExecutionHistory", U, times=None, status=503)
    added = sync_by_others(sandbox, [U])
    watch.tick()
    clock.advance(3600)
    added += sync_by_others(sandbox, [U])
    watch.tick()
    fault.remove()
    also.remove()
    watch.tick()
    assert recorded(watch.instance, KEY_T) == completed(sandbox, T)[-1:]
    assert recorded(watch.instance, KEY_U) == added
