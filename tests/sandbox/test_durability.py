"""What was accepted is done: executions and deletions outlive the process, and a store that is full says so."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dagster_peaka.sandbox import PeakaSandbox
from dagster_peaka.sandbox.store import Store
from tests.sandbox.conftest import FLIGHTS, Api

KILLS = int(os.environ.get("PEAKA_KILLS", "2"))
SUMMARY = "SELECT count(*), sum(id), sum(CAST(round(delay) AS bigint)) FROM ops.public.flights"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the sandboxes of a test keep what they know."""
    return tmp_path / "store.db"


@contextmanager
def served(folder: Path, store: Path) -> Generator[tuple[subprocess.Popen[str], httpx.Client]]:
    """The command in a process of its own, with a client of its project."""
    command = [sys.executable, "-m", "dagster_peaka.sandbox", "--source", f"ops.public={folder / 'ops.db'}"]
    command += ["--store", str(store), "--port", "0", "--profile", "documented", "--cache", FLIGHTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = next(line.split("=", 1)[1].strip() for line in process.stdout if "PEAKA_BASE_URL=" in line)
        with httpx.Client(
            base_url=f"{url}/data/projects/sandbox/",
            headers={"Authorization": "Bearer sandbox-key"},
            timeout=300,
        ) as client:
            yield process, client
        process.kill()


def _changed(source: sqlite3.Connection, chance: random.Random) -> None:
    """Thousands of rows come, change and go."""
    (last,) = source.execute("SELECT max(id) FROM flights").fetchone()
    source.execute("BEGIN")
    source.executemany(
        "INSERT INTO flights VALUES (?, 'XX', 1, NULL)", [(last + at,) for at in range(1, 12_000)]
    )
    source.execute("UPDATE flights SET delay = delay + 1 WHERE id % 7 = ?", (chance.randrange(7),))
    source.execute(
        "DELETE FROM flights WHERE id > 3 AND (id <= ? OR id % 11 = ?)", (last - 4_000, chance.randrange(11))
    )
    source.execute("COMMIT")


def test_a_process_that_is_killed_loses_no_accepted_execution(
    ops: Any, store: Path, source: sqlite3.Connection, tmp_path: Path
) -> None:
    """Kill -9 at any moment after a trigger's answer: the history knows the execution, the counts of all of them add up
    to the copy, and after the next sync the copy is the source.
    """
    chance = random.Random(13)
    accepted = 0
    for _ in range(KILLS):
        _changed(source, chance)
        with served(tmp_path, store) as (process, client):
            (status,) = client.get("cache/status").json()
            for mode in chance.sample(["incrementalUpdate", "fullRefreshUpdate"], chance.choice([1, 2])):
                accepted += client.post(f"cache/{status['id']}/{mode}").status_code == 200
            time.sleep(chance.uniform(0, 0.2))  # the moment of the kill, not an order of events
            process.send_signal(signal.SIGKILL)
            process.wait()
        with PeakaSandbox(ops, store=store, profile="documented") as sandbox:
            sandbox.wait_idle()
            truth = sandbox.executions(FLIGHTS)
            assert sum(execution.origin == "api" for execution in truth) == accepted
            assert {execution.status for execution in truth} == {"COMPLETED"}
            _check_counts(truth, source)
            sandbox.start_execution(FLIGHTS)
            sandbox.wait_idle()
            expected = source.execute(
                "SELECT count(*), sum(id), sum(CAST(round(delay) AS INTEGER)) FROM flights"
            )
            assert Api(sandbox).query(SUMMARY) == [list(expected.fetchone())]


def _check_counts(truth: list[Any], source: sqlite3.Connection) -> None:
    """Every row of the copy was inserted once: by the last full refresh, or after it."""
    rows = 0
    for execution in truth:
        if execution.mode == "FULL_REFRESH":
            assert execution.inserted == execution.cached
            rows = execution.cached
        elif truth.index(execution) == 0 or not _overlap(execution, truth):
            rows += execution.inserted - execution.deleted
            assert execution.cached == rows
        else:
            rows = execution.cached
    assert rows == source.execute("SELECT count(*) FROM flights").fetchone()[0]


def _overlap(execution: Any, truth: list[Any]) -> bool:
    """Whether a full refresh ran beside it, so that what both copied cannot be told apart."""
    others = [one for one in truth if one.mode == "FULL_REFRESH"]
    return any(
        one.started_at < execution.finished_at and execution.started_at < one.finished_at for one in others
    )


def test_an_execution_is_in_the_store_before_its_trigger_is_answered(ops: Any, store: Path) -> None:
    """Whoever opens the file when the answer is there finds it."""
    with PeakaSandbox(ops, [FLIGHTS], store=store, profile="documented") as sandbox:
        sandbox.wait_idle()
        sandbox.plan(FLIGHTS, hold=True, times=None)
        api = Api(sandbox)
        for number in range(1, 6):
            assert api.trigger().status_code == 200
            with sqlite3.connect(store) as connection:
                assert connection.execute("SELECT count(*) FROM peaka_execution").fetchone() == (number + 1,)


def test_a_cancel_outlives_a_process_that_is_killed(
    ops: Any, store: Path, source: sqlite3.Connection, tmp_path: Path
) -> None:
    """A cancel that was answered 200 stays one: the execution does not run on."""
    _changed(source, random.Random(1))
    with served(tmp_path, store) as (process, client):
        (status,) = client.get("cache/status").json()
        client.post(f"cache/{status['id']}/fullRefreshUpdate")
        answer = client.post(f"cache/{status['id']}/cancelFullRefreshUpdate")
        process.send_signal(signal.SIGKILL)
        process.wait()
    with PeakaSandbox(ops, store=store) as sandbox:
        sandbox.wait_idle()
        if answer.status_code == 200:
            (cancelled,) = (one for one in sandbox.executions() if one.origin == "api")
            assert cancelled.status == "CANCELLED"


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Stores that have no room for another page once `full["now"]` is set."""
    state = {"now": False}
    connect = Store.connect

    def limited(store: Store) -> sqlite3.Connection:
        connection = connect(store)
        if state["now"]:
            connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the pages that there are
        return connection

    monkeypatch.setattr(Store, "connect", limited)
    return state


def test_a_full_store_blames_itself_and_accepts_nothing(
    ops: Any, store: Path, full: dict[str, bool], source: sqlite3.Connection
) -> None:
    """A copying without room fails with words about the store; a trigger that cannot be kept is not answered 200."""
    with PeakaSandbox(ops, [FLIGHTS], store=store, profile="documented") as sandbox:
        sandbox.wait_idle()
        _changed(source, random.Random(2))
        api = Api(sandbox)
        full["now"] = True
        sandbox.create_cache("ops.public.airlines")
        sandbox.start_execution("ops.public.airlines", "full_refresh")
        sandbox.wait_idle()
        answers = [api.trigger() for _ in range(60)]
        sandbox.wait_idle()
        failed = [answer for answer in answers if answer.status_code != 200]
        assert failed
        assert "store" in failed[0].json()["message"]
        assert "--store" in failed[0].json()["message"]
        ended = [one for one in sandbox.executions() if one.status == "FAILED"]
        assert ended
        assert all("store" in str(one.error) and "Reading" not in str(one.error) for one in ended)
        full["now"] = False


def test_a_deletion_that_cannot_be_stored_is_refused_and_undone(
    ops: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is answered 500 with words about the store, and the cache is there, now and after a restart."""
    with PeakaSandbox(ops, [FLIGHTS], store=store, profile="documented") as sandbox:
        sandbox.wait_idle()
        url = f"cache/{sandbox.caches[FLIGHTS]}"
        with monkeypatch.context() as patch:
            connect = Store.connect

            def frozen(store: Store) -> sqlite3.Connection:
                connection = connect(store)
                connection.execute("PRAGMA query_only = ON")  # "attempt to write a readonly database"
                return connection

            patch.setattr(Store, "connect", frozen)
            refused = Api(sandbox)("DELETE", url)
        assert (refused.status_code, "store" in refused.json()["message"]) == (500, True)
        assert FLIGHTS in sandbox.caches
        assert Api(sandbox)("DELETE", url).status_code == 200
        with sqlite3.connect(store) as connection:
            assert connection.execute("SELECT count(*) FROM peaka_cache").fetchone() == (0,)
    with PeakaSandbox(ops, store=store) as sandbox:
        assert (sandbox.caches, sandbox.executions()) == ({}, [])


def test_copies_of_forgotten_caches_are_swept(ops: Any, store: Path) -> None:
    """A process that was killed after a deletion's answer leaves a copy behind: the next one drops it."""
    with PeakaSandbox(ops, [FLIGHTS], store=store) as sandbox:
        sandbox.wait_idle()
    with sqlite3.connect(store) as connection:
        connection.execute("DELETE FROM peaka_cache")
        connection.execute("DELETE FROM peaka_execution")
    with PeakaSandbox(ops, store=store) as sandbox:
        assert sandbox.caches == {}
    with sqlite3.connect(store) as connection:
        left = connection.execute("SELECT name FROM sqlite_master WHERE name GLOB 'copy_*'").fetchall()
        assert (left, connection.execute("SELECT count(*) FROM peaka_copy").fetchone()) == ([], (0,))
