"""`--sync`: the one update that the doctor may trigger, after asking, and what it tells of it."""

import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dagster_peaka.sandbox import Behaviour, PeakaSandbox, RequestRecord
from tests.doctor.conftest import Doctor

TABLE = "ops.public.t"


def triggers(peaka: PeakaSandbox) -> list[str]:
    """The requests that have changed something, or asked for it."""
    posts = [request.operation or "?" for request in peaka.requests if request.method != "GET"]
    return [operation for operation in posts if operation != "executeQuery"]


def test_one_update_is_triggered_and_told(sandbox: PeakaSandbox, doctor: Doctor) -> None:
    """Its answer, its visibility, its counters beside the rows, its end; and nothing else is changed."""
    source = sandbox.database("ops.public")
    source.execute("INSERT INTO t VALUES (4, 'd')")

    ran = doctor(sandbox, "--sync", TABLE, "--yes")

    assert ran.code == 0, ran.out
    assert triggers(sandbox) == ["incrementalUpdateCache"]
    wanted = {"sync": "COMPLETED", "trigger_answer": "object", "rows_before": 3, "rows_after": 4}
    assert {name: ran.readings[name] for name in wanted} == wanted
    assert ran.readings["counters"]["inserted"] == 1
    assert {"trigger_seconds", "visible_after", "history_after", "execution_seconds"} <= set(ran.readings)


@pytest.mark.parametrize(("answer", "triggered"), [("y\n", True), ("n\n", False), ("", False)])
def test_it_asks_first(
    sandbox: PeakaSandbox, doctor: Doctor, monkeypatch: pytest.MonkeyPatch, answer: str, triggered: bool
) -> None:
    """Without `--yes`, and where nobody can be asked, nothing is triggered."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))

    ran = doctor(sandbox, "--sync", TABLE)

    assert ran.code == 0
    assert f"Trigger one incremental update of {TABLE} now?" in ran.out
    assert triggers(sandbox) == ["incrementalUpdateCache"] * triggered
    assert ran.readings["sync"] == ("COMPLETED" if triggered else "not triggered")


def test_one_that_fails(sandbox: PeakaSandbox, doctor: Doctor) -> None:
    """Peaka's own reason stands beside it."""
    sandbox.plan(TABLE, fail="the disk is full")

    ran = doctor(sandbox, "--sync", TABLE, "--yes")

    assert ran.code == 1
    assert ran.readings["sync"] == "FAILED"
    assert "the disk is full" in ran.out
    assert "It ended as FAILED." in ran.first


def test_one_that_runs_already(sandbox: PeakaSandbox, doctor: Doctor) -> None:
    """Which of two would be ours could not be told, so none is triggered."""
    sandbox.plan(TABLE, hold=True)
    sandbox.start_execution(TABLE)

    ran = doctor(sandbox, "--sync", TABLE, "--yes")

    assert ran.readings["sync"] == "running already"
    assert triggers(sandbox) == []


def test_one_that_nobody_picks_up(sandbox: PeakaSandbox, doctor: Doctor, tmp_path: Path) -> None:
    """It is told from one that only takes long, and the report's sandbox does the same."""
    sandbox.plan(TABLE, never_picked_up=True)

    ran = doctor(sandbox, "--sync", TABLE, "--yes", "--sync-timeout", "3")

    assert ran.code == 1
    assert "stuck_timeout" in ran.first
    (tmp_path / "sent-in").write_text(ran.report)
    assert PeakaSandbox({}, profile=tmp_path / "sent-in").behaviour.never_picked_up


def test_one_that_takes_longer_than_the_doctor(sandbox: PeakaSandbox, doctor: Doctor) -> None:
    """It goes on, and which times to raise is told."""
    sandbox.plan(TABLE, hold=True)

    ran = doctor(sandbox, "--sync", TABLE, "--yes", "--sync-timeout", "3")

    assert ran.code == 0
    assert ran.readings["sync"] == "RUNNING"
    assert ran.readings["never_picked_up"] is False
    assert "--sync-timeout" in ran.first


def test_one_that_never_shows(sandbox: PeakaSandbox, doctor: Doctor) -> None:
    """The setting that bounds a step's wait is named."""
    sandbox.behaviour.visible_after = 600

    ran = doctor(sandbox, "--sync", TABLE, "--yes", "--sync-timeout", "3")

    assert ran.code == 1
    assert ran.readings["sync"] == "not seen"
    assert "start_timeout" in ran.first


def test_one_whose_answer_is_lost(sandbox: PeakaSandbox, doctor: Doctor) -> None:
    """It is looked for all the same, and not repeated."""
    sandbox.fault("incrementalUpdateCache", lose_reply=True)

    ran = doctor(sandbox, "--sync", TABLE, "--yes")

    assert triggers(sandbox) == ["incrementalUpdateCache"]
    assert (ran.readings["trigger_answer"], ran.readings["sync"]) == ("lost", "COMPLETED")


def test_one_that_peaka_refuses(sandbox: PeakaSandbox, doctor: Doctor) -> None:
    """Its words are the line."""
    sandbox.fault("incrementalUpdateCache", status=403, body={"message": "the plan has no caches"})

    ran = doctor(sandbox, "--sync", TABLE, "--yes")

    assert ran.code == 1
    assert "Peaka refused the trigger." in ran.first
    assert "the plan has no caches" in ran.first


@pytest.mark.parametrize("forever", [False, True])
def test_others_beside_it_are_told(ops_database: Path, doctor: Doctor, forever: bool) -> None:
    """Where somebody else has started one in the meantime. It takes our place in the status, not in the history."""
    triggered = threading.Event()

    def watch(request: RequestRecord) -> None:
        if request.operation == "incrementalUpdateCache":
            triggered.set()

    with PeakaSandbox({"ops": {"public": ops_database}}, caches=[TABLE], on_request=watch) as peaka:
        peaka.wait_idle()
        peaka.plan(TABLE, hold=True)
        peaka.plan(TABLE, duration=3600.0 if forever else 0.0)

        def interfere() -> None:
            triggered.wait()
            peaka.start_execution(TABLE)
            peaka.release(TABLE)

        with ThreadPoolExecutor(1) as threads:
            threads.submit(interfere)
            ran = doctor(peaka, "--sync", TABLE, "--yes", "--sync-timeout", "20")

    assert ran.readings["sync"] == "COMPLETED"
    assert ran.readings["others"] == 1


@pytest.mark.parametrize("profile", ["documented", "observed"])
def test_a_table_without_a_key_has_no_incremental_update(
    ops_database: Path, doctor: Doctor, profile: str
) -> None:
    """So nothing is triggered, and the mode to set is told."""
    behaviour = Behaviour.documented() if profile == "documented" else Behaviour.observed()
    with PeakaSandbox({"ops": {"public": ops_database}}, behaviour=behaviour) as peaka:
        peaka.database("ops.public").execute("CREATE TABLE keyless (v TEXT)")
        peaka.create_cache("ops.public.keyless")
        peaka.wait_idle()
        peaka.clear_requests()

        ran = doctor(peaka, "--sync", "ops.public.keyless", "--yes")

        assert ran.code == 1
        assert triggers(peaka) == []
        assert "mode='full_refresh'" in ran.out


def test_a_table_without_a_cache_is_not_synced(sandbox: PeakaSandbox, doctor: Doctor) -> None:
    """It is told before anything is triggered."""
    sandbox.database("ops.public").execute("CREATE TABLE w (id INTEGER PRIMARY KEY)")

    ran = doctor(sandbox, "--sync", "ops.public.w", "--yes")

    assert ran.code == 1
    assert triggers(sandbox) == []
    assert "Create the cache in Peaka." in ran.first
