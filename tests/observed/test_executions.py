"""Executions as the status shows them: late, beside each other, for long, or never picked up."""

import logging
import re
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from dagster_peaka import (
    PeakaClient,
    PeakaSyncError,
    build_peaka_cache_asset,
    build_peaka_polling_sensor,
)
from dagster_peaka.api import CacheExecution
from dagster_peaka.sandbox import PeakaSandbox
from tests.graphql import until
from tests.materializing import (
    TRIGGERS,
    acting_when,
    clock_of_syncs,
    failure_of,
    is_followed,
    peaka_for,
    run_of,
    triggers,
)
from tests.observed.conftest import TABLE, asked
from tests.sensors.polling import Watch


def test_the_gap_after_a_full_refresh_s_trigger_decides_nothing(ops_database: Path) -> None:
    """Old records under a RUNNING status, then the record: the sync is that execution, and one trigger is enough."""
    with PeakaSandbox({"ops": {"public": ops_database}}, caches=["ops.public.*"]) as peaka:
        peaka.wait_idle()
        peaka.start_execution(TABLE, mode="full_refresh")
        peaka.wait_idle()
        peaka.behaviour.full_refresh_gap = 0.7
        peaka.clear_requests()

        execution = peaka_for(peaka).sync(TABLE, mode="full_refresh")

        assert execution.id == peaka.executions(TABLE)[-1].id
        assert sum(request.operation in TRIGGERS for request in peaka.requests) == 1


def test_each_slot_of_the_status_is_read_by_itself(peaka: PeakaSandbox) -> None:
    """An incremental's old COMPLETED beside a full refresh that runs is no success of ours."""
    peaka.behaviour.full_refresh_gap = 0.0
    peaka.plan(TABLE, mode="full_refresh", hold=True)
    refresh = peaka.start_execution(TABLE, mode="full_refresh")
    peaka.behaviour.visible_after = (
        0.5  # of what is triggered: until then there are the old one and the refresh
    )

    execution = peaka_for(peaka).sync(TABLE)

    assert execution.id != refresh
    assert execution.id == [each.id for each in peaka.executions(TABLE) if each.mode == "INCREMENTAL"][-1]
    peaka.release(TABLE)


def test_both_modes_may_be_triggered_at_once(peaka: PeakaSandbox) -> None:
    """Both triggers are taken, and each sync stands for the execution of its own."""
    with ThreadPoolExecutor(2) as threads:
        modes = ("incremental", "full_refresh")
        syncs = [threads.submit(peaka_for(peaka).sync, TABLE, mode=mode) for mode in modes]
        executions = [sync.result() for sync in syncs]

    newest = {execution.mode: execution.id for execution in peaka.executions(TABLE)}
    assert [execution.id for execution in executions] == [newest["INCREMENTAL"], newest["FULL_REFRESH"]]
    assert sum(request.operation in TRIGGERS for request in peaka.requests) == 2


@pytest.mark.parametrize("word", ["CANCELED", "canceled", "CANCELLED"])
def test_a_cancelled_execution_is_told_in_either_spelling(word: str) -> None:
    """Materialized queries say CANCELED, caches CANCELLED: an end, not an unknown word."""
    execution = CacheExecution.model_validate({"id": "e", "status": word})

    assert execution.status == "CANCELLED"
    assert execution.ended
    assert not execution.succeeded


@pytest.mark.parametrize("word", ["CANCELED", "CANCELLED"])
def test_a_cancelled_execution_ends_a_step_and_reaches_a_sensor_in_either_spelling(
    peaka: PeakaSandbox, word: str
) -> None:
    """At once in both: the step does not wait on, and the sensor's check has failed."""
    asset = build_peaka_cache_asset(table=TABLE, key="t", checks={"last_sync_succeeded": True})
    with dg.DagsterInstance.ephemeral() as instance:
        watch = Watch(build_peaka_polling_sensor([asset]), peaka_for(peaka), instance)
        watch.tick()
        peaka.plan(TABLE, status=word)
        failure = failure_of(run_of(asset, peaka_for(peaka), instance=instance))
        peaka.plan(TABLE, status=word)
        external = peaka.start_execution(TABLE)
        peaka.wait_idle()
        (evaluation,) = watch.tick()

    ours = peaka.executions(TABLE)[-2].id
    assert (failure.metadata["peaka/execution_id"], failure.metadata["peaka/state"]) == (ours, "CANCELLED")
    assert isinstance(evaluation, dg.AssetCheckEvaluation)
    assert not evaluation.passed
    assert external in (evaluation.description or "")


@pytest.mark.parametrize("end", ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z"])
def test_an_end_before_the_creation_is_no_end(end: str) -> None:
    """A service's word for "not yet"; an unknown status with such an end goes on."""
    fields = {"id": "e", "status": "PENDING", "createdAt": "2026-07-01T12:00:00Z", "finishedAt": end}
    execution = CacheExecution.model_validate(fields)

    assert execution.finished_at is None
    assert not execution.ended
    assert execution.duration_seconds is None


def test_stuck_timeout_fails_a_job_that_nobody_picks_up(sandbox: PeakaSandbox) -> None:
    """The error names the execution and the time; nothing is cancelled."""
    sandbox.behaviour.never_picked_up = True

    with pytest.raises(
        PeakaSyncError, match="neither its progress nor its time of update has changed"
    ) as caught:
        peaka_for(sandbox, stuck_timeout=0.5).sync(TABLE)

    assert caught.value.execution_id == sandbox.executions(TABLE)[-1].id
    assert not caught.value.permanent
    assert not any("cancel" in operation for operation in asked(sandbox))


def test_a_job_that_nobody_picks_up_is_named_once(sandbox: PeakaSandbox) -> None:
    """One warning after five minutes of the same readings, the time of it in each later line of the log, and once
    more in the failure at the deadline.
    """
    sandbox.behaviour.never_picked_up = True
    asset = build_peaka_cache_asset(table=TABLE, key="t")

    def wait() -> None:
        for _ in range(10):
            clock.ahead += 50.0
            polls = asked(sandbox).count("getCacheStatus")
            until(lambda seen=polls: asked(sandbox).count("getCacheStatus") >= seen + 2, what="poll")
        clock.ahead += 3600.0

    with (
        dg.DagsterInstance.ephemeral() as instance,
        clock_of_syncs() as clock,
        acting_when(lambda: triggers(sandbox) > 0 and is_followed(sandbox), wait),
    ):
        peaka = peaka_for(sandbox, poll_timeout=3600.0, poll_max_interval=0.05)
        result = run_of(asset, peaka, instance=instance)
        lines = [
            (int(entry.level), entry.user_message)
            for entry in instance.all_logs(result.run_id)
            if entry.dagster_event is None
        ]

    name = f"execution {sandbox.executions(TABLE)[-1].id}"
    (warning,) = [text for level, text in lines if level == logging.WARNING]
    assert f"{name} is RUNNING, and neither its progress nor its time of update has changed" in warning
    assert "perhaps nobody picks it up" in warning
    standing = [text for _, text in lines if f"{name} is RUNNING after " in text]
    hanging = [int(found[1]) for text in standing if (found := re.search(r", unchanged for (\d+) s$", text))]
    assert 0 < len(hanging) < len(standing)
    assert all(seconds >= 300 for seconds in hanging)
    assert hanging == sorted(set(hanging))
    assert re.search(
        rf"{name} was last seen RUNNING, unchanged for \d+ s: perhaps nobody picks it up\.",
        failure_of(result).description,
    )
    assert not any("cancel" in operation for operation in asked(sandbox))


# Lengths, and rows that arrive meanwhile


def test_a_trigger_that_is_answered_after_seconds_is_sent_once(peaka: PeakaSandbox) -> None:
    """Seen: 2.3 s for a full refresh, whose record then takes a moment more. Its sync is that execution."""
    peaka.behaviour.trigger_seconds = 0.5

    execution = peaka_for(peaka).sync(TABLE, mode="full_refresh")

    assert execution.id == peaka.executions(TABLE)[-1].id
    assert triggers(peaka) == 1


def test_a_trigger_that_is_answered_too_late_is_not_sent_again(peaka: PeakaSandbox) -> None:
    """It took its effect long before, and the execution that it started is found without an answer."""
    peaka.behaviour.trigger_seconds = 3600.0

    execution = peaka_for(peaka, request_timeout=0.5).sync(TABLE)

    assert execution.id == peaka.executions(TABLE)[-1].id
    assert asked(peaka).count("incrementalUpdateCache") == 1


def test_a_small_table_s_long_sync_is_waited_for(peaka: PeakaSandbox) -> None:
    """Seen: 50 s for 505 rows, longer than the quiet after which a trigger is repeated. What runs is no quiet."""
    peaka.plan(TABLE, hold=True)

    def end() -> None:
        clock.ahead += 50.0
        polls = asked(peaka).count("getCacheStatus")
        until(lambda: asked(peaka).count("getCacheStatus") >= polls + 3, what="poll after 50 s")
        peaka.release(TABLE)

    with clock_of_syncs() as clock, acting_when(lambda: triggers(peaka) > 0 and is_followed(peaka), end):
        execution = peaka_for(peaka, start_timeout=20.0, poll_max_interval=0.05).sync(TABLE)

    assert execution.id == peaka.executions(TABLE)[-1].id
    assert triggers(peaka) == 1


def test_a_row_that_arrives_during_somebody_s_sync_is_in_the_next(
    client: PeakaClient, peaka: PeakaSandbox, ops_database: Path
) -> None:
    """That sync has perhaps read past it, so it is not taken for ours: ours begins after the row, and has it."""
    peaka.plan(TABLE, hold=True)
    other = peaka.start_execution(TABLE)
    until(lambda: peaka.executions(TABLE)[-1].cached == 3, what="copy of the old rows")
    with closing(sqlite3.connect(ops_database)) as source, source:
        source.execute("INSERT INTO t VALUES (4, 'd')")
    asset = build_peaka_cache_asset(table=TABLE, key="t", row_count="query", fingerprint="checksum")
    with acting_when(lambda: triggers(peaka) == 1, lambda: peaka.release(TABLE)):
        result = run_of(asset, peaka_for(peaka))

    (event,) = result.asset_materializations_for_node("t")
    ours = peaka.executions(TABLE)[-1]
    assert ours.id != other
    assert event.metadata["peaka/execution_id"].value == ours.id
    assert event.metadata["dagster/row_count"].value == 4
    assert client.execute_query(f"SELECT v FROM {TABLE} WHERE id = 4").rows == [{"v": "d"}]


def test_a_row_that_arrives_during_our_sync_is_in_that_or_the_next(
    peaka: PeakaSandbox, ops_database: Path
) -> None:
    """None is lost: by fingerprints, the sync that brings it makes a new version, whatever the counters say."""
    asset = build_peaka_cache_asset(table=TABLE, key="t", row_count="query", fingerprint="checksum")
    peaka.plan(TABLE, hold=True)

    def arrive() -> None:
        with closing(sqlite3.connect(ops_database)) as source, source:
            source.execute("INSERT INTO t VALUES (4, 'd')")
        peaka.release(TABLE)

    copied = lambda: triggers(peaka) == 1 and peaka.executions(TABLE)[-1].cached == 3  # noqa: E731
    with acting_when(copied, arrive):
        first = run_of(asset, peaka_for(peaka))
    second = run_of(asset, peaka_for(peaka))
    events = [result.asset_materializations_for_node("t")[0] for result in (first, second)]

    assert [event.metadata["dagster/row_count"].value for event in events] == [3, 4]
    versions = [(event.tags or {})["dagster/data_version"] for event in events]
    assert versions[0] != versions[1]


def test_the_first_sync_of_a_cache_is_waited_out(peaka: PeakaSandbox) -> None:
    """Queries find 0 rows until it ends; a materialization of ours, with its rows and version, comes after it."""
    peaka.delete_cache(TABLE)
    peaka.plan(TABLE, hold=True)
    first = peaka.create_cache(TABLE)
    asset = build_peaka_cache_asset(table=TABLE, key="t", row_count="query", fingerprint="checksum")

    with acting_when(lambda: triggers(peaka) == 1, lambda: peaka.release(TABLE)):
        (event,) = run_of(asset, peaka_for(peaka)).asset_materializations_for_node("t")

    ours = peaka.executions(first)[-1]
    assert (event.metadata["peaka/execution_id"].value, ours.origin) == (ours.id, "api")
    assert event.metadata["dagster/row_count"].value == 3
    assert not (event.tags or {})["dagster/data_version"].startswith("0:")


def test_a_new_cache_s_first_sync_that_shows_late_is_not_ours(sandbox: PeakaSandbox) -> None:
    """Seen: 0.7 s after the creation's answer. It had begun before our poll; ours is the one triggered after it."""
    sandbox.delete_cache(TABLE)
    sandbox.behaviour.visible_after = 4.5
    cache = sandbox.create_cache(TABLE)
    (first,) = sandbox.executions(cache)
    until(lambda: time.time() - first.created_at > 3.1, what="more than clocks, and whole seconds, may hide")

    execution = peaka_for(sandbox).sync(TABLE)

    before, ours = sandbox.executions(cache)
    assert (before.id, ours.id) == (first.id, execution.id)
