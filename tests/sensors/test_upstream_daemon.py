"""Upstream assets lead to syncs under Dagster's own daemon, which is killed and started in between."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaClient
from dagster_peaka.sandbox import PeakaSandbox
from tests.example.machine import free_port, taken
from tests.materializing import sqlite_tables

pytestmark = pytest.mark.timeout(600)  # seconds; half a dozen runs, each a process that imports Dagster

REPOSITORY = Path(__file__).parents[2]
LOCATION = "tests.sensors.upstream_location"
CACHES = ("by_sensor", "by_two_sensors", "by_condition", "of_some_partitions", "of_all_partitions")
SETTINGS = """
telemetry:
  enabled: false
run_queue:
  dequeue_interval_seconds: 1
  dequeue_use_threads: true
"""


@dataclass
class Deployment:
    """A code server and a daemon on an instance of their own, beside a Peaka; and what lands upstream."""

    home: Path
    source: Path
    sandbox: PeakaSandbox
    instance: dg.DagsterInstance
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])
    landings: list[float] = field(default_factory=list[float])

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a part of Dagster, which leads a process group of its own."""
        with (self.home / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                [str(Path(sys.executable).with_name(command[0])), *command[1:]],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_code_server(self) -> None:
        """Serve the definitions, and start the processes of runs."""
        port = str(self.port)
        self.start("dagster", "api", "grpc", "--module-name", LOCATION, "--host", "127.0.0.1", "--port", port)
        self.wait_until(lambda: taken(self.port), "the code server listens")

    def start_daemon(self) -> subprocess.Popen[bytes]:
        """Start the daemon, with the code server as its only code location."""
        workspace = self.home / "workspace.yaml"
        workspace.write_text(f"load_from:\n  - grpc_server: {{host: 127.0.0.1, port: {self.port}}}\n")
        return self.start("dagster-daemon", "run", "--workspace", str(workspace))

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End a process, and all that it started, without a word."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.processes.remove(process)

    def wait_until(self, true: Callable[[], object], what: str) -> None:
        """Wait for something that happens in seconds, and in minutes where the machine is busy."""
        deadline = time.monotonic() + 600
        while not true():
            output = (self.home / "output.txt").read_text()[-5000:]
            assert time.monotonic() < deadline, f"{output}\nwaited in vain until {what}"
            assert all(process.poll() is None for process in self.processes), output
            time.sleep(0.2)

    def land(self, times: int) -> None:
        """Add rows to the source, and for each of them a materialization of the upstream asset."""
        for _ in range(times):
            with closing(sqlite3.connect(self.source)) as database, database:
                database.execute("INSERT INTO by_sensor (v) VALUES ('landed')")
            self.instance.report_runless_asset_event(dg.AssetMaterialization("landed"))
            event = self.instance.get_latest_materialization_event(dg.AssetKey("landed"))
            assert event is not None
            self.landings.append(event.timestamp)

    def ticks(self, name: str = "peaka_upstream_sensor") -> list[Any]:
        """A sensor's ticks, oldest first."""
        states = [state for state in self.instance.all_instigator_state() if state.instigator_name == name]
        return [
            tick
            for state in states
            for tick in reversed(self.instance.get_ticks(state.instigator_origin_id, state.selector_id))
        ]

    def runs_of_the_sensor(self) -> list[dg.DagsterRun]:
        """The runs that the upstream sensor requested, oldest first."""
        runs = [record.dagster_run for record in self.instance.get_run_records(ascending=True)]
        return [run for run in runs if run.tags.get("dagster/sensor_name") == "peaka_upstream_sensor"]

    def run_behind(self, cache: str) -> dg.DagsterRun | None:
        """The run that materialized a cache last."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(cache))
        return self.instance.get_run_by_id(event.run_id) if event is not None else None

    def is_newer_than_its_upstream(self) -> bool:
        """Whether the cache behind the sensor has been materialized by an execution later than all that landed."""
        later = {
            execution.id
            for execution in self.sandbox.executions("ops.public.by_sensor")
            if execution.created_at > self.landings[-1]
        }
        # Not only the last one: two runs that end at the same moment may record their executions in any order.
        records = self.instance.fetch_materializations(dg.AssetKey("by_sensor"), limit=20).records
        events = [record.asset_materialization for record in records]
        return any(
            event.metadata["peaka/execution_id"].value in later for event in events if event is not None
        )


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """What is left when everything has landed, in bursts around the daemon's death, and has been caught up with."""
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text(SETTINGS)
    source = sqlite_tables(home / "ops.db", CACHES)
    with (
        pytest.MonkeyPatch.context() as environment,
        PeakaSandbox({"ops": {"public": source}}, caches=["ops.public.*"]) as sandbox,
    ):
        sandbox.wait_idle()
        environment.setenv("DAGSTER_HOME", str(home))
        environment.setenv("PEAKA_API_KEY", sandbox.api_key)
        environment.setenv("PEAKA_PROJECT_ID", sandbox.project_id)
        environment.setenv("PEAKA_BASE_URL", sandbox.base_url)
        with dg.DagsterInstance.get() as instance:
            deployment = Deployment(home, source, sandbox, instance)
            try:
                land_everything(deployment)
                yield deployment
            finally:
                for process in list(deployment.processes):
                    deployment.kill(process)


def land_everything(deployment: Deployment) -> None:
    """Materialize the upstream assets, the one before the sensor 25 times, and kill the daemon meanwhile."""
    deployment.land(1)  # before the sensor is on
    deployment.start_code_server()
    daemon = deployment.start_daemon()
    for sensor in ("peaka_upstream_sensor", "first_of_two", "second_of_two", "conditions"):
        deployment.wait_until(lambda sensor=sensor: ended(deployment.ticks(sensor)), f"{sensor} has ticked")

    deployment.land(5)
    deployment.wait_until(deployment.runs_of_the_sensor, "the sensor requests a run")
    # Shortly before or after it has stored what that tick saw. A run that it was just launching may stay "starting" for
    # ever, which is Dagster's: what this test waits for must be requested later.
    deployment.kill(daemon)
    deployment.land(5)  # while no sensor ticks
    deployment.start_daemon()
    deployment.wait_until(lambda: len(deployment.runs_of_the_sensor()) > 1, "the sensor requests another run")
    deployment.instance.report_runless_asset_event(dg.AssetMaterialization("loaded"))
    deployment.instance.report_runless_asset_event(dg.AssetMaterialization("shared"))
    deployment.instance.report_runless_asset_event(dg.AssetMaterialization("daily", partition="monday"))
    deployment.land(15)  # while that run is in flight
    deployment.wait_until(lambda: len(deployment.runs_of_the_sensor()) > 2, "the sensor requests a third run")

    deployment.wait_until(deployment.is_newer_than_its_upstream, "the cache is newer than its upstream")
    for cache in ("by_two_sensors", "by_condition", "of_some_partitions"):
        deployment.wait_until(lambda cache=cache: deployment.run_behind(cache), f"{cache} is materialized")
    for sensor in ("peaka_upstream_sensor", "second_of_two"):
        before = len(ended(deployment.ticks(sensor)))
        deployment.wait_until(
            lambda sensor=sensor, before=before: len(ended(deployment.ticks(sensor))) > before,
            f"{sensor} ticks with nothing new",
        )


def ended(ticks: Sequence[Any]) -> list[Any]:
    """The ticks that are over."""
    return [tick for tick in ticks if tick.status.value in ("SKIPPED", "SUCCESS")]


def test_the_cache_ends_newer_than_its_upstream(deployment: Deployment) -> None:
    """After the last burst a sync began, completed and copied every row that had landed."""
    assert len(deployment.landings) == 26
    assert deployment.is_newer_than_its_upstream()
    sandbox = deployment.sandbox
    with PeakaClient(sandbox.api_key, sandbox.project_id, sandbox.base_url) as client:
        (counted,) = client.execute_query('SELECT count(*) AS rows FROM "ops"."public"."by_sensor"').rows
    assert dict(counted) == {"rows": 3 + 26}


def test_a_tick_after_an_update_makes_one_run(deployment: Deployment) -> None:
    """Across the daemon's death: a run a tick at most, each for what has landed since the last one's tick began."""
    ticks = {str(tick.tick_id): tick for tick in deployment.ticks()}
    assert all(len(tick.run_ids) <= 1 for tick in ticks.values())
    runs = deployment.runs_of_the_sensor()
    assert len({run.tags["dagster/run_key"] for run in runs}) == len(runs)
    before = ticks[min(ticks, key=int)].timestamp
    for run in runs:
        assert run.asset_selection == {dg.AssetKey("by_sensor")}
        requested = deployment.instance.get_run_record_by_id(run.run_id)
        assert requested is not None
        assert any(before < landed < requested.create_timestamp.timestamp() for landed in deployment.landings)
        before = ticks[run.tags["dagster/tick"]].timestamp


def test_ticks_without_an_update_say_so(deployment: Deployment) -> None:
    """The last tick requested nothing, and says why."""
    assert "Nothing new: no upstream asset" in ended(deployment.ticks())[-1].skip_reason


def test_of_two_sensors_the_first_that_is_on_requests_their_asset(deployment: Deployment) -> None:
    """One materialization is one run, though two sensors are on; a third, before them by name, is off."""
    runs = [record.dagster_run for record in deployment.instance.get_run_records()]
    (run,) = [run for run in runs if dg.AssetKey("by_two_sensors") in (run.asset_selection or ())]
    assert run.tags["dagster/sensor_name"] == "first_of_two"
    assert "left to sensor first_of_two" in ended(deployment.ticks("second_of_two"))[-1].skip_reason


def test_eager_syncs_behind_a_new_upstream(deployment: Deployment) -> None:
    """`AutomationCondition.eager()` on a cache asset leads to its sync, by Dagster's own sensor."""
    run = deployment.run_behind("by_condition")
    assert run is not None
    assert run.tags["dagster/sensor_name"] == "conditions"


def test_eager_waits_for_every_partition_unless_told_otherwise(deployment: Deployment) -> None:
    """One partition of two: `eager()` waits for the other, `.without(~any_deps_missing())` does not."""
    run = deployment.run_behind("of_some_partitions")
    assert run is not None
    assert run.tags["dagster/sensor_name"] == "conditions"
    assert deployment.run_behind("of_all_partitions") is None
