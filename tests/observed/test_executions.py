"""Executions as the status shows them: late, beside each other, for long, or never picked up."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dagster_peaka import CacheExecution, PeakaSyncError, build_peaka_cache_asset
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import TRIGGERS, log_of, peaka_for
from tests.observed.conftest import TABLE, asked


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


def test_a_job_that_nobody_picks_up_is_named_once(
    sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning after five minutes of the same readings; the failure at the deadline says it again."""
    monkeypatch.setattr("dagster_peaka.sync.log.HANGING", 0.3)
    monkeypatch.setattr("dagster_peaka.records.failures.HANGING", 0.3)
    sandbox.behaviour.never_picked_up = True
    lines = log_of(build_peaka_cache_asset(table=TABLE, key="t"), peaka_for(sandbox, poll_timeout=1.5))

    warnings = [text for level, text in lines if level == "WARNING"]
    assert len(warnings) == 1
    assert "perhaps nobody picks it up" in warnings[0]
    assert sandbox.executions(TABLE)[-1].id in warnings[0]
