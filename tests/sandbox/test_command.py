"""`python -m dagster_peaka.sandbox`: what it prints, what it refuses and how it ends."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dagster_peaka.sandbox import Behaviour
from dagster_peaka.sandbox.__main__ import main
from dagster_peaka.sandbox.behaviour import OBSERVED

KEY = "a-key-of-ones-own"


def command(*arguments: str) -> list[str]:
    """The command with arguments."""
    return [sys.executable, "-m", "dagster_peaka.sandbox", *arguments]


def environment(**more: str) -> dict[str, str]:
    """The environment without anything that the command would read."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PEAKA_")} | more


@contextmanager
def running(*arguments: str, **env: str) -> Generator[tuple[subprocess.Popen[str], str, list[str]]]:
    """The command while it runs, with its base URL and the lines that it greeted with."""
    with subprocess.Popen(
        command(*arguments, "--port", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**env),
    ) as process:
        assert process.stdout is not None
        greeting: list[str] = []
        for line in process.stdout:
            greeting.append(line)
            if "Ctrl-C" in line:
                break
        try:
            (url,) = re.findall("PEAKA_BASE_URL=(.*)", "".join(greeting))
            yield process, url, greeting
        finally:
            process.kill()


def peak_memory(process: int) -> int:
    """The most memory that a process has held so far, in bytes."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(kilobytes) * 1024


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_ends_it(
    source: sqlite3.Connection, tmp_path: Path, number: signal.Signals
) -> None:
    """It says that it is not Peaka and how to reach it, answers, writes requests down, and exits with 0."""
    log = tmp_path / "requests.jsonl"
    options = [
        "--source",
        f"ops.public={tmp_path / 'ops.db'}",
        "--cache",
        "ops.public.*",
        "--requests",
        str(log),
    ]
    with running(*options, "--project-id", "mine", "--status-case", "lower") as (process, url, greeting):
        said = "".join(greeting)
        assert "not Peaka" in said
        assert "export PEAKA_PROJECT_ID=mine" in said
        assert "export PEAKA_API_KEY=sandbox-key" in said
        assert url.startswith("http://127.0.0.1:")
        statuses = httpx.get(
            f"{url}/data/projects/mine/cache/status",
            headers={"Authorization": "Bearer sandbox-key"},
            timeout=300,
        ).json()
        assert {status["tableName"] for status in statuses} == {"flights", "airlines", "notes", "late"}
        assert {status["status"] for status in statuses} <= {"completed", "running"}
        process.send_signal(number)
        assert process.wait(timeout=300) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""
    (request,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert (request["operation"], request["status"], request["number"]) == ("getCacheStatusByProject", 200, 1)


@pytest.mark.parametrize("by_option", [True, False])
def test_a_key_that_was_given_is_never_printed(
    source: sqlite3.Connection, tmp_path: Path, by_option: bool
) -> None:
    """Neither by option nor from the environment; but it is the key that is asked for."""
    options = ["--source", f"ops.public={tmp_path / 'ops.db'}", *(["--api-key", KEY] if by_option else [])]
    with running(*options, PEAKA_SANDBOX_API_KEY="" if by_option else KEY) as (process, url, greeting):
        assert "PEAKA_API_KEY" in "".join(greeting)
        path = f"{url}/data/projects/sandbox/catalogs"
        assert (
            httpx.get(path, headers={"Authorization": "Bearer sandbox-key"}, timeout=300).status_code == 401
        )
        assert httpx.get(path, headers={"Authorization": f"Bearer {KEY}"}, timeout=300).status_code == 200
        process.terminate()
        assert process.stdout is not None
        assert KEY not in "".join(greeting) + process.stdout.read()


def test_a_profile_and_its_switches_are_options(source: sqlite3.Connection, tmp_path: Path) -> None:
    """The profile says how Peaka is played, and an option counts over it."""
    options = [
        "--source",
        f"ops.public={tmp_path / 'ops.db'}",
        "--profile",
        "observed",
        "--query-values",
        "json",
    ]
    with running(*options, "--no-status-ahead") as (process, url, _):
        with httpx.Client(
            base_url=f"{url}/data/projects/sandbox/",
            headers={"Authorization": "Bearer sandbox-key"},
            timeout=300,
        ) as client:
            assert client.post("cache/none/incrementalUpdate").json()["error"] == "WrongRequestException"
            body = {"statement": "SELECT 1 AS one"}
            assert client.post("queries/execute?format=SIMPLE", json=body).json()["data"] == [{"one": 1}]
        process.terminate()


def test_the_help_says_what_each_profile_does(capsys: pytest.CaptureFixture[str], signals: None) -> None:
    """Every switch is an option, with its value, or with those of both profiles where they differ."""
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name, value in OBSERVED.items():
        assert f"--{name.replace('_', '-')}" in said
        assert f"documented: {getattr(Behaviour(), name)}, observed: {value}" in said
    assert "40 % of the rows" in said


def one_sentence(stdout: str, stderr: str) -> str:
    """The sentence that is all that was printed."""
    assert stdout == ""
    assert "Traceback" not in stderr
    assert KEY not in stderr
    (sentence,) = stderr.splitlines()
    return sentence.removeprefix("dagster_peaka.sandbox: ")


@pytest.fixture
def signals() -> Iterator[None]:
    """The command's handlers do not outlive the test."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("options", "begins", "says"),
    [
        ([], "the following arguments are required", "--source"),
        (["--source", "ops"], "--source ops: ", "CATALOG.SCHEMA=FILE"),
        (["--source", "ops.public=nowhere.db"], "--source ops.public=nowhere.db: ", "no such file"),
        (["--source", "ops.public={text}"], "--source ops.public=", "no SQLite database"),
        (["--source", "ops.public={folder}"], "--source ops.public=", "no such file"),
        (["--source", ".public={ops}"], "--source .public=", "cannot be a catalog or schema"),
        (["--source", "{good}", "--cache", "ops.public.nope"], "--cache ops.public.nope: ", "no table"),
        (["--source", "{good}", "--cache", "nope.*"], "--cache nope.*: ", "no table"),
        (["--source", "{good}", "--cache", "flights"], "--cache flights: ", "catalog.schema.table"),
        (
            ["--source", "{good}", "--cache", "ops.public.words"],
            "--cache ops.public.words: ",
            "cannot be cached",
        ),
        (["--source", "{good}", "--host", "0.0.0.0"], "--host 0.0.0.0: ", "loopback"),
        (["--source", "{good}", "--host", "example.org"], "--host example.org: ", "loopback"),
        (["--source", "{good}", "--port", "{taken}"], "--port ", "in use"),
        (["--source", "{good}", "--port", "99999"], "--port 99999: ", "65535"),
        (["--source", "{good}", "--store", "{text}"], "--store ", "cannot be used"),
        (["--source", "{good}", "--store", "{ops}"], "--store ", "something else"),
        (["--source", "{good}", "--requests", "{folder}/no/log"], "--requests ", "cannot be written"),
        (
            ["--source", "{good}", "--other-mode", "never"],
            "argument --other-mode: invalid choice",
            "parallel",
        ),
        (
            ["--source", "{good}", "--execution-seconds", "-1"],
            "Behaviour.execution_seconds is -1.0",
            "0 or more",
        ),
    ],
)
def test_what_it_cannot_start_with_is_said_in_one_sentence(
    source: sqlite3.Connection,
    tmp_path: Path,
    signals: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    begins: str,
    says: str,
) -> None:
    """Exit code 2, the option and the file by name, no traceback, no key."""
    monkeypatch.setenv("PEAKA_SANDBOX_API_KEY", KEY)
    (tmp_path / "text").write_text("This is no database, however long it may be. " * 20)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        known: dict[str, Any] = {
            "ops": tmp_path / "ops.db",
            "good": f"ops.public={tmp_path / 'ops.db'}",
            "text": tmp_path / "text",
            "folder": tmp_path,
            "taken": taken.getsockname()[1],
        }
        with pytest.raises(SystemExit) as left:
            # Whoever has the default port, what is wrong is something else; the last --port counts.
            main(["--port", "0", *(option.format(**known) for option in options)])
    said = capsys.readouterr()
    sentence = one_sentence(said.out, said.err)
    assert left.value.code == 2
    assert sentence.startswith(begins)
    assert says in sentence


def test_as_a_process_it_says_no_more_than_that(tmp_path: Path) -> None:
    """A missing source: one sentence on the standard error, exit code 2."""
    done = subprocess.run(
        command("--source", "ops.public=nowhere.db"),
        check=False,
        capture_output=True,
        text=True,
        env=environment(PEAKA_SANDBOX_API_KEY=KEY),
    )
    assert one_sentence(done.stdout, done.stderr) == "--source ops.public=nowhere.db: there is no such file."
    assert done.returncode == 2


@pytest.mark.parametrize("name", ["uvicorn", "duckdb", "sqlglot", "numpy"])
def test_without_its_extra_it_says_which_to_install(tmp_path: Path, name: str) -> None:
    """Where a part of the extra is missing, one sentence names the extra."""
    (tmp_path / f"{name}.py").write_text(
        f"raise ModuleNotFoundError('No module named {name}', name='{name}')"
    )
    done = subprocess.run(
        command("--source", "ops=x.db"),
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        env=environment(PYTHONPATH=str(tmp_path)),
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "dagster_peaka.sandbox: Peaka's sandbox needs its extra: pip install 'dagster-peaka[sandbox]'"
    ]


def test_a_table_fails_with_the_reason_that_is_given(source: sqlite3.Connection, tmp_path: Path) -> None:
    """--fail TABLE=REASON: every execution of its cache ends FAILED and says why, and no other cache's does."""
    options = ["--source", f"ops.public={tmp_path / 'ops.db'}", "--cache", "ops.public.[fa]*"]
    options += [
        "--fail",
        "ops.public.flights=the disk = full",
        "--profile",
        "documented",
        "--execution-seconds",
        "0",
    ]
    with running(*options) as (_, url, _):
        client = httpx.Client(
            base_url=f"{url}/data/projects/sandbox/",
            headers={"Authorization": "Bearer sandbox-key"},
            timeout=300,
        )
        found: dict[str, Any] = {}
        while len(found) < 2:
            for status in client.get("cache/status").json():
                if status["status"] != "RUNNING":
                    found[status["tableName"]] = status
        assert found["airlines"]["status"] == "COMPLETED"
        assert found["flights"]["status"] == "FAILED"
        (execution,) = client.get(f"cache/{found['flights']['id']}/executionHistory").json()
        assert "the disk = full" in str(execution["error"])


def test_a_query_is_saved_once(source: sqlite3.Connection, tmp_path: Path) -> None:
    """--query NAME=SQL: materialized, without a snapshot yet; a store that has it is no obstacle."""
    options = ["--source", f"ops.public={tmp_path / 'ops.db'}", "--store", str(tmp_path / "store.db")]
    options += ["--query", "late=SELECT id FROM ops.public.flights WHERE delay >= 1"]
    for _ in range(2):
        with running(*options) as (_, url, _):
            address = f"{url}/data/projects/sandbox/queries"
            (query,) = httpx.get(address, headers={"Authorization": "Bearer sandbox-key"}, timeout=300).json()
        assert (query["name"], query["queryType"]) == ("late", "MATERIALIZED")
        assert query["inputQuery"] == "SELECT id FROM ops.public.flights WHERE delay >= 1"


def test_many_rows_fit_into_300_megabytes(tmp_path: Path) -> None:
    """Both modes copy a million rows within bounded memory, and a tenth of them in most runs of this test."""
    rows = int(os.environ.get("PEAKA_ROWS", "100000"))
    connection = sqlite3.connect(tmp_path / "big.db")
    connection.executescript(
        f"""
        CREATE TABLE big (id INTEGER PRIMARY KEY, name TEXT, amount REAL, day DATE);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
        INSERT INTO big SELECT i, 'row number ' || i, i * 0.5, '2013-01-01' FROM n;
        """
    )
    connection.close()
    options = ["--source", f"ops.public={tmp_path / 'big.db'}", "--cache", "ops.public.big"]
    with running(*options, "--profile", "documented", "--store", str(tmp_path / "store.db")) as (
        process,
        url,
        _,
    ):
        client = httpx.Client(
            base_url=f"{url}/data/projects/sandbox/cache/",
            headers={"Authorization": "Bearer sandbox-key"},
            timeout=300,
        )
        (status,) = client.get("status").json()
        for trigger, field, expected in (
            (None, "lastIncrementalCacheExecution", rows),
            ("fullRefreshUpdate", "lastFullRefreshCacheExecution", rows),
            ("incrementalUpdate", "lastIncrementalCacheExecution", 0),
        ):
            if trigger is not None:
                client.post(f"{status['id']}/{trigger}").raise_for_status()
            while "finishedAt" not in (
                last := client.get(f"{status['id']}/status?excludeLogs=true").json()[field]
            ):
                time.sleep(0.01)
            assert last["status"] == "COMPLETED"
            assert last["progress"]["numberOfInsertedRecords"] == expected
            assert last["progress"]["numberOfCachedRecords"] == rows
        assert peak_memory(process.pid) < 300 * 10**6
