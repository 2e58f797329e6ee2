"""`make dev`, started as a user does: the UI's own requests work, and an interrupt leaves nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.example.machine import descendants, free_port, runs, soon, taken

REPOSITORY = Path(__file__).parents[2]

# What the Materialize button of Dagster's UI sends.
LAUNCH = """
mutation LaunchPipelineExecution($executionParams: ExecutionParams!) {
  launchPipelineExecution(executionParams: $executionParams) {
    __typename
    ... on LaunchRunSuccess { run { id } }
    ... on PythonError { message stack }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
REPOSITORIES = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
RUN = "query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
MATERIALIZATION = """
query Materialization($key: AssetKeyInput!) {
  assetOrError(assetKey: $key) {
    ... on Asset {
      assetMaterializations(limit: 1) {
        runId
        metadataEntries {
          label
          ... on IntMetadataEntry { intValue }
          ... on TextMetadataEntry { text }
        }
      }
    }
  }
}
"""


class Dev:
    """`make dev` while it runs, and the GraphQL API that its UI uses."""

    def __init__(self, process: subprocess.Popen[str], port: int, output: Path) -> None:
        self.process = process
        self.port = port
        self.output = output

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a GraphQL query's answer."""
        body = {"query": query, "variables": variables}
        answer = httpx.post(f"http://127.0.0.1:{self.port}/graphql", json=body, timeout=60).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def materialize(self, *key: str, partition: str | None = None) -> str:
        """Press Materialize for an asset, wait for the run's end, and return its id."""
        (repository,) = self.ask(REPOSITORIES)["repositoriesOrError"]["nodes"]
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        parameters = {
            "mode": "default",
            "executionMetadata": {"tags": tags},
            "runConfigData": "{}",
            "selector": {
                "repositoryLocationName": repository["location"]["name"],
                "repositoryName": repository["name"],
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [{"path": list(key)}],
                "assetCheckSelection": [],
            },
        }
        launched = self.ask(LAUNCH, executionParams=parameters)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run = launched["run"]["id"]
        deadline = time.monotonic() + 120
        while (status := self.ask(RUN, id=run)["runOrError"]["status"]) not in ("SUCCESS", "FAILURE"):
            assert time.monotonic() < deadline, f"the run is still {status}"
            time.sleep(0.5)
        assert status == "SUCCESS", self.output.read_text()
        return run

    def metadata(self, *key: str) -> tuple[str, dict[str, Any]]:
        """The run that materialized an asset last, and the materialization's metadata."""
        asset = self.ask(MATERIALIZATION, key={"path": list(key)})["assetOrError"]
        (event,) = asset["assetMaterializations"]
        return event["runId"], {
            entry["label"]: entry.get("intValue", entry.get("text")) for entry in event["metadataEntries"]
        }


@pytest.fixture
def dev(tmp_path: Path, environment: dict[str, str]) -> Iterator[Dev]:
    """`make dev` in the background of a shell that is not interactive, which makes it deaf to interrupts."""
    port = free_port()
    output = tmp_path / "output.txt"
    set_up = f"--assume-old={sys.prefix}/.example"  # the tests run in an environment that is set up
    command = ["make", set_up, f"VENV={sys.prefix}", f"STATE={tmp_path}", f"PORT={port}", "dev"]
    with output.open("w") as file:
        process = subprocess.Popen(
            ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
            cwd=REPOSITORY,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        assert soon(lambda: "Dagster's UI" in output.read_text() or process.poll() is not None, seconds=120)
        assert process.poll() is None, output.read_text()
        yield Dev(process, port, output)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def test_a_cache_materialized_in_the_ui_shows_what_its_execution_did(dev: Dev) -> None:
    """Landing a day, then its cache, succeeds; the metadata counts the day; an interrupt ends everything."""
    dev.materialize("operational", "flights", partition="2013-01-02")
    run = dev.materialize("ops", "public", "flights")

    told_by, metadata = dev.metadata("ops", "public", "flights")
    assert told_by == run
    assert metadata["peaka/mode"] == "incremental"
    assert [metadata[f"peaka/rows_{what}"] for what in ("inserted", "updated", "deleted")] == [943, 0, 0]
    assert metadata["peaka/execution_id"]
    assert metadata["dagster/table_name"] == "ops.public.flights"

    (sandbox,) = re.findall(r"http://127\.0\.0\.1:(\d+)/api/v1", dev.output.read_text())
    started = descendants(dev.process.pid)
    assert len(started) >= 5  # the command, the sandbox, Dagster, its webserver, its daemon
    os.killpg(dev.process.pid, signal.SIGINT)  # as a terminal sends Ctrl-C
    assert dev.process.wait(60) == 0, dev.output.read_text()
    assert "Stopped." in dev.output.read_text()
    assert soon(lambda: not any(map(runs, started)))
    assert not taken(dev.port)
    assert not taken(int(sandbox))


def test_a_busy_port_is_named(tmp_path: Path, environment: dict[str, str]) -> None:
    """Where something listens on the port already, the message names it, and how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "flights.commands.dev", "--port", str(port), "--state", str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert re.fullmatch(rf"make dev: Port {port} is in use: .*make PORT=\d+ dev\.\n", done.stderr)
