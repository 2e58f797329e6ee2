"""`make dev`, started as a user does: the UI's own requests work, and an interrupt leaves nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.example.machine import descendants, free_port, runs, soon, taken
from tests.graphql import GraphQL

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Dev:
    """`make dev` while it runs, what it has printed, and the API that its UI uses."""

    process: subprocess.Popen[str]
    port: int
    output: Path

    @property
    def ui(self) -> GraphQL:
        """The API."""
        return GraphQL(self.port)

    def materialize(self, *key: str, partition: str | None = None) -> str:
        """Press Materialize for an asset, wait for the run's end, and return its id."""
        run = self.ui.launch(key, partition=partition)
        assert self.ui.ended(run).status == "SUCCESS", self.output.read_text()
        return run


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
        assert soon(lambda: "Dagster's UI" in output.read_text() or process.poll() is not None, seconds=600)
        assert process.poll() is None, output.read_text()
        yield Dev(process, port, output)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(300)


def test_a_cache_materialized_in_the_ui_shows_what_its_execution_did(dev: Dev) -> None:
    """Landing a day, then its cache, succeeds; the metadata counts the day; an interrupt ends everything."""
    dev.materialize("operational", "flights", partition="2013-01-02")
    run = dev.materialize("ops", "public", "flights")

    (synced,) = dev.ui.materializations("ops", "public", "flights")
    assert synced.run_id == run
    metadata = synced.metadata
    assert metadata["peaka/mode"] == "incremental"
    assert [metadata[f"peaka/rows_{what}"] for what in ("inserted", "updated", "deleted")] == [943, 2, 0]
    assert metadata["peaka/execution_id"]
    assert metadata["dagster/table_name"] == "ops.public.flights"

    (sandbox,) = set(re.findall(r"http://127\.0\.0\.1:(\d+)/api/v1", dev.output.read_text()))
    started = descendants(dev.process.pid)
    assert len(started) >= 5  # the command, the sandbox, Dagster, its webserver, its daemon
    os.killpg(dev.process.pid, signal.SIGINT)  # as a terminal sends Ctrl-C
    assert dev.process.wait(300) == 0, dev.output.read_text()
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
