"""The polling sensor over HTTP: what others synced becomes materializations, each once, and what failed is said."""

import sqlite3
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaConfigError, build_peaka_cache_asset
from dagster_peaka.caches.declared import polled_assets
from dagster_peaka.errors import PeakaAuthenticationError
from dagster_peaka.sandbox import PeakaSandbox
from dagster_peaka.sensors import tick as tick_module
from dagster_peaka.sensors.polling import build_peaka_polling_sensor
from tests.graphql import until
from tests.materializing import acting_when, clock_of_syncs, is_followed, peaka_for, run_of, triggers
from tests.sandbox.conftest import Api
from tests.sensors.polling import Watch, completed, recorded, requests_of, sync_by_others, values

T, U = "ops.public.t", "ops.public.u"
KEY_T, KEY_U = dg.AssetKey(["ops", "public", "t"]), dg.AssetKey(["ops", "public", "u"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def assets() -> list[dg.AssetsDefinition]:
    """The two caches as assets; only that of `t` declares the last-sync check."""
    return [
        build_peaka_cache_asset(table=T, checks={"last_sync_succeeded": True}),
        build_peaka_cache_asset(table=U),
    ]


@pytest.fixture
def watch(sandbox: PeakaSandbox, instance: dg.DagsterInstance, assets: list[dg.AssetsDefinition]) -> Watch:
    """A sensor for both caches that has had its first tick."""
    watch = Watch(build_peaka_polling_sensor(assets), peaka_for(sandbox), instance)
    assert watch.tick() == []
    sandbox.clear_requests()
    return watch


def test_the_first_tick_reports_nothing(watch: Watch, sandbox: PeakaSandbox) -> None:
    """What had completed before the sensor began is not reported, neither by its first tick nor by the next."""
    assert completed(sandbox, T)
    assert watch.tick() == []
    assert "Recorded nothing" in (watch.skipped or "")
    assert recorded(watch.instance, KEY_T) == []


def test_what_others_synced_is_recorded_as_a_run_of_ours_records_it(
    watch: Watch, sandbox: PeakaSandbox, assets: list[dg.AssetsDefinition]
) -> None:
    """The materialization carries the same metadata as a run's, and says that it came from outside."""
    run = run_of(assets[1], watch.peaka, instance=watch.instance)
    (ours,) = run.asset_materializations_for_node(assets[1].op.name)
    watch.tick()
    sync_by_others(sandbox, [U])
    (event,) = watch.tick()
    assert event.asset_key == KEY_U
    assert values(event).keys() == ours.metadata.keys()
    assert values(event)["peaka/origin"] == "external"
    assert values(event)["peaka/execution_id"] == sandbox.executions(U)[-1].id
    assert values(event)["dagster/table_name"] == U


def test_several_syncs_between_two_ticks_are_all_recorded(watch: Watch, sandbox: PeakaSandbox) -> None:
    """Each becomes a materialization, in the order of the ends, whatever their modes and number."""
    started = [
        execution
        for number in range(30)
        for execution in sync_by_others(sandbox, [T], "full_refresh" if number % 7 == 0 else "incremental")
    ]
    watch.tick()
    assert recorded(watch.instance, KEY_T) == started
    assert watch.tick() == []


def test_a_sync_that_the_first_tick_saw_running_is_recorded_at_its_end(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, assets: list[dg.AssetsDefinition]
) -> None:
    """It ended after the first tick; a shorter one of the other mode that had overtaken it did not."""
    sandbox.behaviour.full_refresh_gap = 0.0
    sandbox.plan(T, mode="full_refresh", times=1, hold=True)
    long = sandbox.start_execution(T, "full_refresh")
    short = sandbox.start_execution(T, "incremental")
    until(
        lambda: {each.id: each.status for each in sandbox.executions(T)}[short] == "COMPLETED", what="its end"
    )
    watch = Watch(build_peaka_polling_sensor(assets), peaka_for(sandbox), instance)
    watch.tick()
    assert watch.tick() == []
    assert "1 execution unfinished" in (watch.skipped or "")
    sandbox.release(T)
    sandbox.wait_idle()
    watch.tick()
    assert recorded(instance, KEY_T) == [long]


def test_an_older_sync_that_ends_later_is_not_lost(watch: Watch, sandbox: PeakaSandbox) -> None:
    """A full refresh that many incremental updates overtake is recorded when it ends, and each of them before."""
    sandbox.plan(T, mode="full_refresh", times=1, hold=True)
    long = sandbox.start_execution(T, "full_refresh")
    short: list[str] = []
    for _ in range(27):
        execution = sandbox.start_execution(T, "incremental")
        while execution not in completed(sandbox, T):
            time.sleep(0.01)
        short.append(execution)
        if len(short) % 9 == 0:
            watch.tick()
    assert recorded(watch.instance, KEY_T) == short
    sandbox.release(T)
    sandbox.wait_idle()
    watch.tick()
    assert recorded(watch.instance, KEY_T) == [*short, long]


def test_what_a_run_records_is_left_to_it(
    watch: Watch, sandbox: PeakaSandbox, assets: list[dg.AssetsDefinition]
) -> None:
    """Neither a run in flight, nor one whose execution has completed, nor one that has just ended is doubled."""
    sandbox.plan(T, times=1, hold=True)
    seen: list[Any] = []
    reasons: list[str | None] = []

    def tick() -> None:
        seen.extend(watch.tick())
        with unseen_by_runs(sandbox):
            sandbox.release(T)
            sandbox.wait_idle()
            seen.extend(watch.tick())
            reasons.append(watch.skipped)

    with acting_when(lambda: is_followed(sandbox), tick):
        run_of(assets[0], watch.peaka, instance=watch.instance)
    seen.extend(watch.tick())
    assert seen == []
    assert "1 execution unfinished" in str(reasons)
    assert recorded(watch.instance, KEY_T) == [sandbox.executions(T)[-1].id]


def test_what_a_run_has_attached_to_is_left_to_it(
    watch: Watch, sandbox: PeakaSandbox, assets: list[dg.AssetsDefinition]
) -> None:
    """A stranger's execution that a run follows is recorded by that run, although it has written down no trigger."""
    (first,) = sync_by_others(sandbox, [U])
    watch.tick()
    sandbox.plan(U, times=1, hold=True)
    stranger = sandbox.start_execution(U)

    seen: list[Any] = []

    def tick() -> None:
        with unseen_by_runs(sandbox):
            sandbox.release(U)
            sandbox.wait_idle()
            seen.extend(watch.tick())

    def is_attached() -> bool:
        return [request.operation for request in sandbox.requests].count("getCacheStatus") >= 2

    with acting_when(is_attached, tick):
        run_of(assets[1], watch.peaka, instance=watch.instance, config={"on_running": "attach"})
    assert recorded(watch.instance, KEY_U) == [first, stranger]
    assert seen == []
    assert watch.tick() == []


def test_a_stranger_beside_a_run_of_ours_is_recorded_at_once(
    watch: Watch, sandbox: PeakaSandbox, assets: list[dg.AssetsDefinition]
) -> None:
    """A run keeps back the one execution that it follows, and no other one."""
    sandbox.plan(T, times=1, hold=True)
    others: list[str] = []
    seen: list[Any] = []

    def tick() -> None:
        with unseen_by_runs(sandbox):
            sandbox.release(T)
            sandbox.wait_idle()
            others.extend(sync_by_others(sandbox, [T]))
            seen.extend(watch.tick())

    with acting_when(lambda: is_followed(sandbox), tick):
        run_of(assets[0], watch.peaka, instance=watch.instance)
    assert {event.metadata["peaka/execution_id"].value for event in seen} == set(others)
    watch.tick()
    ours = next(each.id for each in sandbox.executions(T) if each.origin == "api")
    assert recorded(watch.instance, KEY_T) == [*others, ours]


def test_a_history_that_lags_behind_the_status_of_a_run_s_execution_breaks_no_tick(
    watch: Watch, sandbox: PeakaSandbox, assets: list[dg.AssetsDefinition]
) -> None:
    """The status shows its end; the history shows neither it nor what was there before its trigger. The run records."""
    old = Api(sandbox).history(T)
    seen: list[Any] = []
    before = sync_by_others(sandbox, [T])
    watch.tick()
    sandbox.plan(T, times=1, hold=True)

    def tick() -> None:
        lag = sandbox.fault("getCacheExecutionHistory", T, times=None, status=200, body=old)
        try:
            with unseen_by_runs(sandbox):
                sandbox.release(T)
                sandbox.wait_idle()
                seen.extend(watch.tick())
        finally:
            lag.remove()

    with acting_when(lambda: is_followed(sandbox), tick):
        assert run_of(assets[0], watch.peaka, instance=watch.instance).success
    seen.extend(watch.tick())
    assert seen == []
    assert recorded(watch.instance, KEY_T) == [*before, sandbox.executions(T)[-1].id]


@contextmanager
def unseen_by_runs(sandbox: PeakaSandbox) -> Generator[None, None, None]:
    """Inside the block runs cannot read the status that they wait for; the sensor reads another."""
    fault = sandbox.fault("getCacheStatus", times=None, status=503)
    try:
        yield
    finally:
        fault.remove()


def test_what_a_run_gave_up_on_is_recorded_by_the_sensor(
    watch: Watch, sandbox: PeakaSandbox, assets: list[dg.AssetsDefinition]
) -> None:
    """A run that ends without recording its execution leaves it to the sensor."""
    sandbox.plan(T, times=1, hold=True)
    with (
        clock_of_syncs() as clock,
        acting_when(lambda: triggers(sandbox) > 0, lambda: setattr(clock, "ahead", 900)),
    ):
        assert not run_of(assets[0], peaka_for(sandbox, poll_timeout=900), instance=watch.instance).success
    assert watch.tick() == []
    sandbox.release(T)
    sandbox.wait_idle()
    watch.tick()
    assert recorded(watch.instance, KEY_T) == [sandbox.executions(T)[-1].id]


@pytest.mark.parametrize("stored", range(4))
def test_a_tick_that_dies_half_way_neither_loses_nor_doubles(
    watch: Watch, sandbox: PeakaSandbox, stored: int
) -> None:
    """Events are stored before the cursor: the next tick reports exactly what is missing."""
    started = [*sync_by_others(sandbox, [U]), *sync_by_others(sandbox, [U]), *sync_by_others(sandbox, [U])]
    watch.tick(dies_after=stored)
    assert recorded(watch.instance, KEY_U) == started[:stored]
    watch.tick()
    assert recorded(watch.instance, KEY_U) == started


def test_a_tick_whose_events_are_dropped_is_made_good(watch: Watch, sandbox: PeakaSandbox) -> None:
    """Committing a previewed tick in Dagster's UI keeps the cursor and drops the events: the next tick reports them."""
    (synced,) = sync_by_others(sandbox, [T])
    watch.tick(drops_events=True)
    assert recorded(watch.instance, KEY_T) == []
    watch.tick()
    assert recorded(watch.instance, KEY_T) == [synced]
    watch.tick()
    sandbox.clear_requests()
    assert watch.tick() == []
    assert requests_of(sandbox) == {"getCacheStatusByProject": 1}


@pytest.mark.parametrize("damage", ["", "9", "1AAAA", "no cursor of ours", '{"looked_at": 1}'])
def test_a_damaged_cursor_begins_anew_with_a_warning(
    watch: Watch, sandbox: PeakaSandbox, damage: str
) -> None:
    """It reports nothing by itself, and then again what ends; an empty one is none."""
    sync_by_others(sandbox, [T, U])
    watch.cursor = damage
    assert watch.tick() == []
    assert any("begins anew" in line for line in watch.warnings) == bool(damage)
    started = sync_by_others(sandbox, [T])
    watch.tick()
    assert recorded(watch.instance, KEY_T) == started


def test_any_damage_to_a_cursor_is_noticed(watch: Watch) -> None:
    """A cursor that lacks a character or has another one is not believed."""
    whole = watch.cursor
    assert whole is not None
    for place in range(0, len(whole), 5):
        for damaged in (
            whole[:place],
            whole[:place] + ("b" if whole[place] == "a" else "a") + whole[place + 1 :],
        ):
            watch.cursor = damaged
            watch.tick()
            assert any("begins anew" in line for line in watch.warnings) == bool(damaged)


def test_a_backfill_brings_what_dagster_does_not_hold(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, assets: list[dg.AssetsDefinition]
) -> None:
    """A first tick with backfill reports the completed executions of the history, but for what a run has recorded."""
    before = completed(sandbox, T)
    run_of(assets[0], peaka_for(sandbox), instance=instance)
    ours = sandbox.executions(T)[-1].id
    sandbox.plan(T, times=1, fail={"message": "locked"})
    sync_by_others(sandbox, [T])
    after = [execution for _ in range(30) for execution in sync_by_others(sandbox, [T])]
    watch = Watch(build_peaka_polling_sensor(assets, backfill=True), peaka_for(sandbox), instance)
    watch.tick()
    assert recorded(instance, KEY_T) == [ours, *before, *after]
    assert recorded(instance, KEY_U) == completed(sandbox, U)
    assert watch.tick() == []


def test_a_backfill_of_many_ticks_repeats_nothing(
    sandbox: PeakaSandbox,
    instance: dg.DagsterInstance,
    assets: list[dg.AssetsDefinition],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a run has recorded days ago is not reported again, although the tick that reaches it is not the first."""
    run_of(assets[0], peaka_for(sandbox), instance=instance)
    sync_by_others(sandbox, [T])
    expected = sorted(completed(sandbox, T))
    monkeypatch.setattr(tick_module, "REPORTED_AT_MOST", 1)
    moment = time.time
    monkeypatch.setattr(time, "time", lambda: moment() + 86_400)
    watch = Watch(build_peaka_polling_sensor(assets, backfill=True), peaka_for(sandbox), instance)
    for _ in range(6):
        watch.tick()
    assert sorted(recorded(instance, KEY_T)) == expected
    assert recorded(instance, KEY_U) == completed(sandbox, U)


def test_one_cache_that_cannot_be_read_does_not_stop_the_others(watch: Watch, sandbox: PeakaSandbox) -> None:
    """It is named in a warning and is read again by the next tick."""
    started = sync_by_others(sandbox, [T, U])
    fault = sandbox.fault("getCacheExecutionHistory", T, times=None, status=503)
    watch.tick()
    assert recorded(watch.instance, KEY_U) == started[1:]
    assert any(T in line and "503" in line for line in watch.warnings)
    assert watch.tick() == []
    fault.remove()
    watch.tick()
    assert recorded(watch.instance, KEY_T) == started[:1]


def test_a_failure_is_an_evaluation_where_the_check_is_declared(watch: Watch, sandbox: PeakaSandbox) -> None:
    """Failed and cancelled executions fail the check with Peaka's reason; the next that completes passes it."""
    sandbox.plan(T, times=1, fail={"message": "source is locked"})
    sync_by_others(sandbox, [T])
    (failed,) = watch.tick()
    assert (failed.asset_key, failed.check_name, failed.passed) == (KEY_T, "last_sync_succeeded", False)
    assert failed.severity is dg.AssetCheckSeverity.ERROR
    assert "source is locked" in failed.description
    assert watch.warnings == []
    sandbox.plan(T, times=1, hold=True)
    sandbox.start_execution(T)
    sandbox.cancel(T, "incremental")
    sandbox.wait_idle()
    (cancelled,) = watch.tick()
    assert "CANCELLED" in cancelled.description
    (execution,) = sync_by_others(sandbox, [T])
    materialized, passed = watch.tick()
    assert recorded(watch.instance, KEY_T) == [execution]
    assert isinstance(materialized, dg.AssetMaterialization)
    assert (passed.passed, values(passed)["peaka/execution_id"]) == (True, execution)


def test_a_failure_is_a_warning_where_no_check_is_declared(watch: Watch, sandbox: PeakaSandbox) -> None:
    """The tick names the cache, the execution and Peaka's reason, once."""
    sandbox.plan(U, times=1, fail={"message": "source is locked"})
    (execution,) = sync_by_others(sandbox, [U])
    assert watch.tick() == []
    (line,) = watch.warnings
    assert all(part in line for part in (U, execution, "FAILED", "source is locked"))
    watch.tick()
    assert watch.warnings == []


def test_a_failure_that_its_run_has_told_is_not_told_again(
    watch: Watch, sandbox: PeakaSandbox, assets: list[dg.AssetsDefinition]
) -> None:
    """The check was evaluated by the run itself."""
    sandbox.plan(T, times=1, fail={"message": "source is locked"})
    assert not run_of(assets[0], watch.peaka, instance=watch.instance).success
    assert watch.tick() == []


def test_the_last_word_of_the_check_is_that_of_the_last_sync(
    watch: Watch, sandbox: PeakaSandbox, assets: list[dg.AssetsDefinition]
) -> None:
    """A failure of others that a run of ours has overtaken does not outlast that run's success."""
    sandbox.plan(T, times=1, fail={"message": "source is locked"})
    sync_by_others(sandbox, [T])
    assert run_of(assets[0], watch.peaka, instance=watch.instance).success
    assert [event.passed for event in watch.tick()] == [False, True]


def test_an_unknown_status_is_no_success(watch: Watch, sandbox: PeakaSandbox) -> None:
    """It is polled again until it has been at its end for start_timeout; then it counts as failed."""
    sandbox.plan(T, times=1, status="TIMED_OUT")
    sync_by_others(sandbox, [T])
    watch.peaka = peaka_for(sandbox, start_timeout=60.0)
    assert watch.tick() == []
    watch.peaka = peaka_for(sandbox, start_timeout=0.001)
    time.sleep(1.1)  # Peaka's clock is told in whole seconds
    (event,) = watch.tick()
    assert not event.passed
    assert "TIMED_OUT" in event.description


def test_each_execution_s_version_is_its_id(watch: Watch, sandbox: PeakaSandbox) -> None:
    """The same as in a run, whatever the counters say."""
    ids = [sync_by_others(sandbox, [U])[0] for _ in range(2)]
    events = [event for event in watch.tick() if isinstance(event, dg.AssetMaterialization)]
    assert [(event.tags or {})["dagster/data_version"] for event in events] == ids


@pytest.mark.parametrize("fingerprint", ["checksum", "count(*), max(id)"])
def test_a_run_and_the_sensor_give_unchanged_rows_the_same_fingerprint(
    sandbox: PeakaSandbox, ops_database: Path, instance: dg.DagsterInstance, fingerprint: str
) -> None:
    """Whoever records the syncs; of two executions the newest one has it, and the other one its id."""
    asset = build_peaka_cache_asset(table=U, key="u", fingerprint=fingerprint)
    watch = Watch(build_peaka_polling_sensor([asset]), peaka_for(sandbox), instance)
    watch.tick()

    def versions() -> list[str]:
        records = instance.fetch_materializations(asset.key, limit=100, ascending=True).records
        found = [record.asset_materialization for record in records]
        return [str((event.tags or {})["dagster/data_version"]) for event in found if event is not None]

    run_of(asset, watch.peaka, instance=instance)
    watch.tick()
    sync_by_others(sandbox, [U])
    watch.tick()
    (first, _) = [sync_by_others(sandbox, [U])[0] for _ in range(2)]
    watch.tick()
    by_run, once, of_two, newest = versions()
    assert by_run == once == newest != of_two == first
    with closing(sqlite3.connect(ops_database)) as database, database:
        database.execute("INSERT INTO u VALUES (9, 'z')")
    sync_by_others(sandbox, [U])
    (event,) = watch.tick()
    assert versions()[-1] != by_run
    if fingerprint == "checksum":
        assert event.metadata["dagster/row_count"].value == 3


def test_a_fingerprint_that_cannot_be_had_in_a_tick_is_a_change(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """The execution is recorded all the same, with its id as the version."""
    asset = build_peaka_cache_asset(table=U, key="u", fingerprint="checksum")
    watch = Watch(build_peaka_polling_sensor([asset]), peaka_for(sandbox), instance)
    watch.tick()
    sandbox.fault("executeQuery", times=None, status=400)
    (execution,) = sync_by_others(sandbox, [U])
    (event,) = watch.tick()
    assert (event.tags or {})["dagster/data_version"] == execution


def test_rows_are_not_counted_while_the_other_mode_s_execution_runs(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """A first sync that still runs hides all rows: the full refresh beside it is recorded without them."""
    asset = build_peaka_cache_asset(table=U, key="u", row_count="query", fingerprint="checksum")
    watch = Watch(build_peaka_polling_sensor([asset]), peaka_for(sandbox), instance)
    watch.tick()
    sandbox.plan(U, mode="incremental", hold=True)
    sandbox.start_execution(U, "incremental")
    execution = sandbox.start_execution(U, "full_refresh")
    ended = ("COMPLETED", "FAILED")
    until(
        lambda: {each.id: each.status for each in sandbox.executions(U)}[execution] in ended, what="its end"
    )
    events = watch.tick()
    sandbox.release(U)
    (event,) = [each for each in events if values(each)["peaka/execution_id"] == execution]
    assert "dagster/row_count" not in event.metadata
    assert (event.tags or {})["dagster/data_version"] == execution
    assert any("still runs" in warning for warning in watch.warnings)


def test_while_peaka_is_away_a_tick_says_so_and_nothing_is_lost(watch: Watch, sandbox: PeakaSandbox) -> None:
    """The cursor stays; what ended meanwhile is reported afterwards."""
    cursor = watch.cursor
    sandbox.stop()
    assert watch.tick() == []
    assert "Could not connect to Peaka" in (watch.skipped or "")
    assert watch.cursor == cursor
    sandbox.start()
    started = sync_by_others(sandbox, [T])
    watch.tick()
    assert recorded(watch.instance, KEY_T) == started


def test_a_refused_key_fails_the_tick(watch: Watch, sandbox: PeakaSandbox) -> None:
    """What no repetition mends is a failed tick with the reason, not a skipped one."""
    watch.peaka = peaka_for(sandbox, api_key="another")
    with pytest.raises(PeakaAuthenticationError, match="api_key"):
        watch.tick()


def test_tables_are_looked_up_once(
    watch: Watch, sandbox: PeakaSandbox, assets: list[dg.AssetsDefinition]
) -> None:
    """The cursor remembers which cache a table has: a tick makes one request, in a new process too."""
    watch.sensor = build_peaka_polling_sensor(assets)
    watch.tick()
    assert requests_of(sandbox) == {"getCacheStatusByProject": 1}


def test_a_missing_cache_is_named_and_found_when_it_comes(watch: Watch, sandbox: PeakaSandbox) -> None:
    """A cache that is deleted is a warning; one that is created in its place is polled from its first sync on."""
    sandbox.delete_cache(T)
    started = sync_by_others(sandbox, [U])
    watch.tick()
    assert recorded(watch.instance, KEY_U) == started
    assert any(T in line for line in watch.warnings)
    sandbox.create_cache(T)
    sandbox.wait_idle()
    watch.tick()
    assert recorded(watch.instance, KEY_T) == completed(sandbox, T)[-1:]
    assert watch.warnings == []


def test_a_sensor_that_was_off_for_too_long_says_so(
    watch: Watch, sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peaka forgets executions after 14 days: the caches that moved meanwhile are named, and the rest is reported."""
    sync_by_others(sandbox, [T])
    moment = time.time
    monkeypatch.setattr(time, "time", lambda: moment() + 15 * 86_400)
    started = sync_by_others(sandbox, [T])
    watch.tick()
    assert recorded(watch.instance, KEY_T) == started
    (line,) = [line for line in watch.warnings if "14 days" in line]
    assert T in line
    assert U not in line
    sync_by_others(sandbox, [T])
    watch.tick()
    assert watch.warnings == []


def test_a_sensor_names_what_it_polls(assets: list[dg.AssetsDefinition]) -> None:
    """Steps recognize it by its metadata; it is stopped by default."""
    sensor = build_peaka_polling_sensor(assets)
    assert polled_assets(sensor) == {"ops/public/t", "ops/public/u"}
    assert (sensor.name, sensor.minimum_interval_seconds) == ("peaka_polling_sensor", 30)
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    assert polled_assets(build_peaka_polling_sensor(assets[0])) == {"ops/public/t"}


def test_what_cannot_be_polled_is_refused() -> None:
    """No assets, two assets of one cache, and an asset that names no cache."""

    @dg.asset
    def other() -> None: ...

    with pytest.raises(PeakaConfigError, match="no asset"):
        build_peaka_polling_sensor([])
    twice = [build_peaka_cache_asset(table=T), build_peaka_cache_asset(table=T, key="again")]
    with pytest.raises(PeakaConfigError, match=r"ops/public/t and again .*same Peaka cache"):
        build_peaka_polling_sensor(twice)
    with pytest.raises(PeakaConfigError, match="other names no Peaka cache"):
        build_peaka_polling_sensor([other])
