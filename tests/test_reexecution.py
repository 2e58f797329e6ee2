"""Dagster's own "re-execute from asset failure", through its webserver and daemon: only what failed is repeated."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.example.machine import free_port
from tests.materializing import TRIGGERS, peaka_for, sqlite_tables

ROOT = Path(__file__).parents[1]
PATIENCE = 200.0
"""Seconds after which waiting is given up; nothing is asserted about shorter times."""

DAGSTER_YAML = """\
run_coordinator:
  module: dagster
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
telemetry:
  enabled: false
"""
REPOSITORY = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
LAUNCH = """
mutation Launch($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) { ... on LaunchRunSuccess { run { id } } ... on PythonError { message } }
}
"""
AGAIN = """
mutation Again($parameters: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $parameters) {
    ... on LaunchRunSuccess { run { id } } ... on PythonError { message }
  }
}
"""
STATUS = "query Status($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def until(value: Any, what: str) -> Any:
    """What `value` returns as soon as that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := value()):
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.2)
    return found


@contextmanager
def dagster_dev(home: Path, sandbox: PeakaSandbox) -> Generator[str, None, None]:
    """The address of the UI of `dagster dev`, as a user starts it, for the code location beside this file."""
    (home / "dagster.yaml").write_text(DAGSTER_YAML)
    port = free_port()
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "PEAKA_API_KEY": sandbox.api_key,
        "PEAKA_PROJECT_ID": sandbox.project_id,
        "PEAKA_BASE_URL": sandbox.base_url,
        "PEAKA_SNAPSHOT": str(home / "peaka_project.json"),
    }
    command = [str(Path(sys.executable).with_name("dagster")), "dev", "-m", "tests.reexecution_location"]
    with (home / "dagster-dev.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or is_up(url), "the UI")
        assert process.poll() is None, (home / "dagster-dev.log").read_text()
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def is_up(url: str) -> bool:
    """Whether the webserver answers."""
    try:
        return httpx.get(f"{url}/server_info", timeout=5).is_success
    except httpx.TransportError:
        return False


def ask(url: str, query: str, **variables: Any) -> Any:
    """The first field of the data of a query's answer."""
    answer = httpx.post(f"{url}/graphql", json={"query": query, "variables": variables}, timeout=60).json()
    assert "errors" not in answer, answer
    return next(iter(answer["data"].values()))


def ended(url: str, launched: Any) -> tuple[str, str]:
    """The id and the last status of a run that was launched."""
    run_id = launched["run"]["id"]

    def status() -> str | None:
        now = ask(url, STATUS, id=run_id)["status"]
        return now if now in ("SUCCESS", "FAILURE", "CANCELED") else None

    return run_id, until(status, f"the end of run {run_id}")


def triggered(sandbox: PeakaSandbox) -> Counter[str]:
    """How often each cache was triggered since the requests were last cleared."""
    tables = {cache_id: name.rpartition(".")[2] for name, cache_id in sandbox.caches.items()}
    posts = [request for request in sandbox.requests if request.operation in TRIGGERS]
    return Counter(tables[post.path.split("/")[-2]] for post in posts)


CATALOGS = {f"shop{number}": 84 if number < 2 else 83 for number in range(6)}
"""How many tables each catalog has: 500 in all."""

CHOSEN = [f"t{number}" for number in range(20, 60)]
BROKEN = ["t21", "t30", "t59"]


@pytest.mark.timeout(600)  # three processes start before anything happens
def test_re_execution_from_asset_failure_repeats_only_what_failed(tmp_path: Path) -> None:
    """Of 40 caches chosen from 500 three fail: the others are recorded, and the re-execution triggers the three."""
    sources = {
        catalog: {"public": sqlite_tables(tmp_path / f"{catalog}.db", [f"t{each}" for each in range(tables)])}
        for catalog, tables in CATALOGS.items()
    }
    with PeakaSandbox(sources, caches=["*.*.*"]) as sandbox:
        sandbox.wait_idle()
        project = peaka_for(sandbox).fetch_project()
        assert len(project.caches) == 500
        project.save(tmp_path / "peaka_project.json")
        sandbox.clear_requests()
        for table in BROKEN:
            sandbox.plan(f"shop3.public.{table}", fail="the source is locked")
        with dagster_dev(tmp_path, sandbox) as url:
            (repository,) = ask(url, REPOSITORY)["nodes"]
            assert sandbox.requests == []  # definitions are loaded
            selector = {
                "repositoryLocationName": repository["location"]["name"],
                "repositoryName": repository["name"],
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [{"path": ["shop3", "public", table]} for table in CHOSEN],
            }
            first, status = ended(url, ask(url, LAUNCH, parameters={"selector": selector, "mode": "default"}))
            assert status == "FAILURE"
            assert triggered(sandbox) == Counter(CHOSEN)
            sandbox.clear_requests()

            parameters = {"parentRunId": first, "strategy": "FROM_ASSET_FAILURE"}
            again, status = ended(url, ask(url, AGAIN, parameters=parameters))

            assert status == "SUCCESS"
            assert triggered(sandbox) == Counter(BROKEN)
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            keys = {table: dg.AssetKey(["shop3", "public", table]) for table in CHOSEN}
            recorded_in = {
                table: event.run_id
                for table, key in keys.items()
                if (event := instance.get_latest_materialization_event(key))
            }
            assert recorded_in == {table: again if table in BROKEN else first for table in CHOSEN}
            for key in keys.values():
                check = dg.AssetCheckKey(key, "last_sync_succeeded")
                record = instance.get_latest_asset_check_evaluation_record(check)
                assert record is not None
                assert record.status.value == "SUCCEEDED"
