"""A store file: what a sandbox knew when it ended, however it ended, the next one knows."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from dagster_peaka.sandbox import PeakaSandbox, SandboxError, copying
from tests.sandbox.conftest import FLIGHTS, Api

DAY = 86_400


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the sandboxes of a test keep what they know."""
    return tmp_path / "store.db"


def test_caches_history_schedules_and_copies_survive(
    ops: Any, store: Path, source: sqlite3.Connection
) -> None:
    """The API says the same after a restart, a cache asked for again is not made twice, and a delta goes on."""
    with PeakaSandbox(ops, [FLIGHTS], store=store) as sandbox:
        sandbox.wait_idle()
        notes = sandbox.create_cache("ops.public.notes", full_refresh_schedule="P1D")
        for table in ("late", "airlines"):
            sandbox.create_cache(f"ops.public.{table}")
        Api(sandbox)("PUT", f"cache/{sandbox.caches[FLIGHTS]}", json={})
        sandbox.plan(FLIGHTS, fail={"code": 7})
        sandbox.start_execution(FLIGHTS)
        sandbox.wait_idle()
        api = Api(sandbox)
        caches, truth = sandbox.caches, sandbox.executions()
        said = (api.get("cache/status"), api.history(), api.get(f"cache/{notes}"))
    source.execute("DELETE FROM flights WHERE id = 1")
    with PeakaSandbox(ops, [FLIGHTS], store=store) as sandbox:
        api = Api(sandbox)
        assert (list(sandbox.caches.items()), sandbox.executions()) == (list(caches.items()), truth)
        assert (api.get("cache/status"), api.history(), api.get(f"cache/{notes}")) == said
        assert api.query("SELECT count(*) FROM ops.public.flights") == [[3]]
        api.trigger()
        sandbox.wait_idle()
        last = sandbox.executions(FLIGHTS)[-1]
        assert (last.status, last.inserted, last.updated, last.deleted) == ("COMPLETED", 0, 0, 1)


def test_what_ran_or_waited_goes_on_under_its_id(ops: Any, store: Path) -> None:
    """Executions are durable: those that were running come to their end, those that were queued follow."""
    with PeakaSandbox(ops, [FLIGHTS], store=store) as sandbox:
        sandbox.wait_idle()
        sandbox.plan(FLIGHTS, hold=True, times=None)
        asked = [sandbox.start_execution(FLIGHTS), sandbox.start_execution(FLIGHTS)]
        asked.append(sandbox.start_execution(FLIGHTS, "full_refresh"))
    with PeakaSandbox(ops, store=store) as sandbox:
        before = {execution.id: execution.status for execution in sandbox.executions(FLIGHTS)[1:]}
        assert before == {asked[0]: "RUNNING", asked[1]: "QUEUED", asked[2]: "RUNNING"}
        while any(execution.finished_at is None for execution in sandbox.executions()):
            sandbox.release(FLIGHTS)
        ended = sandbox.executions(FLIGHTS)[1:]
        assert [(execution.id, execution.status) for execution in ended] == [
            (one, "COMPLETED") for one in asked
        ]


def test_a_copying_that_was_cut_off_counts_each_row_once(
    ops: Any, store: Path, source: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An incremental that a restart interrupted ends with the counts of a single one."""
    monkeypatch.setattr(copying, "STEP_ROWS", 200)
    source.executescript(
        "WITH RECURSIVE n(i) AS (SELECT 4 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
        "INSERT INTO flights SELECT i, 'XX', i, NULL FROM n"
    )
    with PeakaSandbox(ops, [FLIGHTS], store=store) as sandbox:
        while not sandbox.executions()[0].inserted:
            pass
    cut = sandbox.executions()[0]
    assert (cut.status, cut.finished_at) == ("RUNNING", None)
    assert 0 < cut.inserted < 100_000
    with PeakaSandbox(ops, store=store) as sandbox:
        sandbox.wait_idle()
        (whole,) = sandbox.executions()
        assert (whole.id, whole.status, whole.inserted, whole.cached) == (
            cut.id,
            "COMPLETED",
            100_000,
            100_000,
        )


def test_nothing_that_was_acknowledged_is_lost_on_sigterm(ops: Any, store: Path, tmp_path: Path) -> None:
    """A trigger that was answered is in the history of the next sandbox, even if SIGTERM came right after it."""
    command = [sys.executable, "-m", "dagster_peaka.sandbox", "--source", f"ops.public={tmp_path / 'ops.db'}"]
    command += ["--cache", FLIGHTS, "--store", str(store), "--port", "0", "--execution-seconds", "30"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = next(line.split("=", 1)[1].strip() for line in process.stdout if "PEAKA_BASE_URL=" in line)
        client = httpx.Client(
            base_url=f"{url}/data/projects/sandbox/",
            headers={"Authorization": "Bearer sandbox-key"},
            timeout=300,
        )
        (status,) = client.get("cache/status").json()
        for _ in range(20):
            assert client.post(f"cache/{status['id']}/incrementalUpdate").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 0
    with PeakaSandbox(ops, store=store) as sandbox:
        found = sandbox.executions(FLIGHTS)
        assert [execution.origin for execution in found] == ["creation", *["api"] * 20]


def test_executions_leave_the_history_14_days_after_their_end(ops: Any, store: Path) -> None:
    """The history ends 14 days ago; the status still knows the last execution of each mode."""
    with PeakaSandbox(ops, [FLIGHTS], store=store) as sandbox:
        sandbox.wait_idle()
        sandbox.start_execution(FLIGHTS)
        sandbox.wait_idle()
    age(store, {1: 15 * DAY, 2: 13 * DAY})
    with PeakaSandbox(ops, store=store) as sandbox:
        old, newer = sandbox.executions(FLIGHTS)
        assert [execution["id"] for execution in Api(sandbox).history()] == [newer.id]
    age(store, {2: 2 * DAY})
    with PeakaSandbox(ops, store=store) as sandbox:
        api = Api(sandbox)
        assert api.history() == []
        assert api.status()["lastIncrementalCacheExecution"]["id"] == newer.id
        api.trigger()
        sandbox.wait_idle()
        assert old.id not in {execution.id for execution in sandbox.executions()}


def age(store: Path, seconds: dict[int, int]) -> None:
    """Let executions, by their number, have happened earlier."""
    with closing(sqlite3.connect(store)) as connection:
        for sequence, shift in seconds.items():
            for moment in ("created_at", "started_at", "updated_at", "finished_at", "visible_at"):
                path = f"$.{moment}"
                connection.execute(
                    "UPDATE peaka_execution SET body = json_set(body, ?, json_extract(body, ?) - ?) WHERE sequence = ?",
                    (path, path, shift, sequence),
                )
        connection.commit()


def test_a_schedule_goes_on_after_a_restart(ops: Any, store: Path) -> None:
    """What a cache was scheduled for still fires when the sandbox is back."""
    with PeakaSandbox(ops, store=store) as sandbox:
        sandbox.create_cache(FLIGHTS, incremental_schedule="PT0.5S")
        sandbox.wait_idle()
    with PeakaSandbox(ops, store=store) as sandbox:
        before = len(sandbox.executions(FLIGHTS))
        deadline = time.monotonic() + 300
        while len(sandbox.executions(FLIGHTS)) == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert sandbox.executions(FLIGHTS)[-1].origin == "schedule"


def test_a_file_that_is_no_store_is_left_alone(ops: Any, tmp_path: Path) -> None:
    """Another database, or no database at all, is refused as a store in one sentence, and not touched."""
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE precious (x)")
    (tmp_path / "text").write_text("not a database, but long enough to be read as one" * 20)
    for name in ("other.db", "text", "missing/store.db"):
        with (
            pytest.raises(SandboxError, match=f"^store .*{name}: "),
            PeakaSandbox(ops, store=tmp_path / name),
        ):
            pass
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("precious",)]


def test_a_store_serves_one_sandbox_at_a_time(ops: Any, store: Path) -> None:
    """A second sandbox on the same store is refused while the first is open."""
    with (
        PeakaSandbox(ops, store=store),
        pytest.raises(SandboxError, match="another sandbox"),
        PeakaSandbox(ops, store=store),
    ):
        pass
    with PeakaSandbox(ops, store=store) as again:
        assert again.caches == {}


def test_a_script_that_does_not_close_it_ends_all_the_same(tmp_path: Path) -> None:
    """What the script says at its end is its error, and nothing of the sandbox is left on the disk."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    code = (
        "from dagster_peaka.sandbox import PeakaSandbox\n"
        "sandbox = PeakaSandbox({})\n"
        "sandbox.start()\n"
        "sandbox.database('shop.public').execute('CREATE TABLE orders (id INTEGER PRIMARY KEY)')\n"
        "sandbox.create_cache('shop.public.orders')\n"
        "sandbox.wait_idle()\n"
        "raise SystemExit('no luck')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(folder)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=600,
        check=False,
    )
    assert (ended.returncode, ended.stderr.strip()) == (1, "no luck")
    assert list(folder.iterdir()) == []
