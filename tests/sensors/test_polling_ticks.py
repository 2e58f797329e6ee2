"""What a tick of the polling sensor says of itself: its reason, its log, and its failure where an outage lasts."""

import logging
from collections.abc import Iterator

import dagster as dg
import pytest

from dagster_peaka import build_peaka_cache_asset
from dagster_peaka.errors import PeakaConnectionError
from dagster_peaka.sandbox import PeakaSandbox
from dagster_peaka.sensors.polling import build_peaka_polling_sensor
from tests.materializing import peaka_for, run_of
from tests.sensors.polling import Watch, recorded, sync_by_others
from tests.sensors.upstream import Clock

T, U = "ops.public.t", "ops.public.u"
KEY_T = dg.AssetKey(["ops", "public", "t"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def watch(sandbox: PeakaSandbox, instance: dg.DagsterInstance) -> Watch:
    """A sensor for two caches, one with the last-sync check, before its first tick."""
    assets = [
        build_peaka_cache_asset(table=T, checks={"last_sync_succeeded": True}),
        build_peaka_cache_asset(table=U),
    ]
    return Watch(build_peaka_polling_sensor(assets), peaka_for(sandbox, outage_tolerance=300.0), instance)


def info_of(watch: Watch) -> list[str]:
    """The lines of the last tick that are no warnings."""
    return [line for level, line in watch.logged if level == logging.INFO]


# What it did


def test_the_reason_carries_the_counts(watch: Watch, sandbox: PeakaSandbox) -> None:
    """Of what was recorded, of the caches that were polled, and of what is still to come; the log has it, too."""
    watch.tick()
    assert watch.skipped == (
        "The first tick records nothing, but what ends from now on is recorded. Polled 2 caches, read 0 histories."
    )
    watch.tick()
    assert watch.skipped == "Recorded nothing. Polled 2 caches, read 0 histories."
    sync_by_others(sandbox, [T, U])
    sandbox.plan(T, times=1, hold=True)
    sandbox.start_execution(T)
    watch.tick()
    assert watch.skipped == (
        "Recorded 2 materializations and 1 check evaluation of 2 caches. Polled 2 caches, read 2 histories; 1 "
        "execution unfinished."
    )
    assert info_of(watch)[-1] == watch.skipped


def test_the_reason_counts_what_is_left_and_what_only_the_log_tells(
    watch: Watch, sandbox: PeakaSandbox
) -> None:
    """A history that could not be read, and a failure of an asset without the check."""
    watch.tick()
    sandbox.plan(U, times=1, fail={"message": "source is locked"})
    sync_by_others(sandbox, [T, U])
    sandbox.fault("getCacheExecutionHistory", T, times=None, status=503)
    watch.tick()
    assert watch.skipped == (
        "Recorded nothing. Polled 2 caches, read 1 history; 1 cache left to the next tick; 1 failure in the log only."
    )


def test_the_log_names_what_was_recorded(watch: Watch, sandbox: PeakaSandbox) -> None:
    """Each execution with its cache, its end and whose it is; a failed one where the check records it."""
    watch.tick()
    (of_t,) = sync_by_others(sandbox, [T])
    sandbox.plan(T, times=1, fail={"message": "source is locked"})
    (failed,) = sync_by_others(sandbox, [T], "full_refresh")
    run = run_of(build_peaka_cache_asset(table=U, wait=False), watch.peaka, instance=watch.instance)
    sandbox.wait_idle()
    watch.tick()
    line = info_of(watch)[0]
    assert line.startswith("Recorded ")
    assert f"{T}: incremental update {of_t} COMPLETED (external)" in line
    assert f"{T}: full refresh {failed} FAILED (external)" in line
    of_u = sandbox.executions(U)[-1].id
    assert f"{U}: incremental update {of_u} COMPLETED (triggered by run {run.run_id})" in line


# An outage


def test_a_short_outage_skips_ticks_and_a_long_one_fails_them(
    watch: Watch, sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster alerts on failed ticks. Nothing is lost: the cursor stays as the last good tick has left it."""
    clock = Clock(monkeypatch)
    watch.tick()
    cursor = watch.cursor
    sandbox.stop()
    clock.advance(200)
    assert watch.tick() == []
    assert "of 300 s (outage_tolerance)" in (watch.skipped or "")
    assert "Could not connect to Peaka" in (watch.skipped or "")
    clock.advance(200)
    with pytest.raises(
        PeakaConnectionError, match=r"since .* UTC.*outage_tolerance.*Could not connect to Peaka"
    ):
        watch.tick()
    assert watch.cursor == cursor
    sandbox.start()
    started = sync_by_others(sandbox, [T])
    watch.tick()
    assert recorded(watch.instance, KEY_T) == started
    sandbox.stop()
    assert watch.tick() == []


def test_an_outage_that_a_paused_sensor_did_not_see_is_not_counted(
    watch: Watch, sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sensor that was off for a day has not failed to poll for a day when it is switched on."""
    clock = Clock(monkeypatch)
    watch.tick()
    sandbox.stop()
    clock.advance(86_400)
    watch.started_at = clock.now()
    assert watch.tick() == []
    clock.advance(400)
    with pytest.raises(PeakaConnectionError, match="outage_tolerance"):
        watch.tick()


def test_an_outage_since_the_sensor_was_switched_on_fails_its_ticks(
    watch: Watch, sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cursor the time since then counts."""
    clock = Clock(monkeypatch)
    watch.started_at = clock.now()
    sandbox.stop()
    assert watch.tick() == []
    clock.advance(400)
    with pytest.raises(PeakaConnectionError, match="outage_tolerance"):
        watch.tick()
