"""The polling sensor under Dagster's own daemon, which is killed and started in between."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.sensors.polling import completed, recorded, sync_by_others

pytestmark = pytest.mark.timeout(600)  # seconds; half a dozen processes that import Dagster

LOCATION = "tests.sensors.polling_location"
WATCHED, DEFERRED = dg.AssetKey("watched"), dg.AssetKey("deferred")
T, U = "ops.public.t", "ops.public.u"


@dataclass
class Deployment:
    """A daemon on an instance of its own, beside a Peaka."""

    home: Path
    instance: dg.DagsterInstance
    daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon, which serves the code location itself."""
        with (self.home / "output.txt").open("ab") as output:
            self.daemon = subprocess.Popen(
                [str(Path(sys.executable).with_name("dagster-daemon")), "run", "-m", LOCATION],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End the daemon and its code server without a word."""
        if self.daemon is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.daemon.pid, signal.SIGKILL)
            self.daemon.wait()
            self.daemon = None

    def cursor(self) -> str | None:
        """What the sensor's last tick left."""
        states = self.instance.all_instigator_state()
        return next((getattr(state.instigator_data, "cursor", None) for state in states), None)

    def wait_until(self, true: Callable[[], object], what: str) -> None:
        """Wait for something that happens in seconds, and in minutes where the machine is busy."""
        deadline = time.monotonic() + 600
        while not true():
            output = (self.home / "output.txt").read_text()[-5000:]
            assert time.monotonic() < deadline, f"{output}\nwaited in vain until {what}"
            time.sleep(0.1)


@pytest.fixture
def deployment(
    sandbox: PeakaSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    """A daemon whose sensor has had its first tick."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("PEAKA_API_KEY", sandbox.api_key)
    monkeypatch.setenv("PEAKA_PROJECT_ID", sandbox.project_id)
    monkeypatch.setenv("PEAKA_BASE_URL", sandbox.base_url)
    with dg.DagsterInstance.get() as instance:
        deployment = Deployment(home, instance)
        try:
            deployment.start()
            deployment.wait_until(deployment.cursor, "the sensor has had its first tick")
            yield deployment
        finally:
            deployment.kill()


def test_syncs_of_others_arrive_across_the_daemon_s_death(
    deployment: Deployment, sandbox: PeakaSandbox
) -> None:
    """Before, while no daemon runs, and after: each completed sync is one materialization, in its order."""
    started = [*sync_by_others(sandbox, [T]), *sync_by_others(sandbox, [T])]
    deployment.wait_until(lambda: recorded(deployment.instance, WATCHED), "a sync is recorded")
    deployment.kill()
    started += [*sync_by_others(sandbox, [T]), *sync_by_others(sandbox, [T], "full_refresh")]
    deployment.start()
    deployment.wait_until(lambda: len(recorded(deployment.instance, WATCHED)) >= 4, "all are recorded")
    cursor = deployment.cursor()
    deployment.wait_until(lambda: deployment.cursor() != cursor, "another tick")
    assert recorded(deployment.instance, WATCHED) == started


def test_a_run_ends_long_before_what_it_triggered(deployment: Deployment, sandbox: PeakaSandbox) -> None:
    """wait=False: no status is asked for after the trigger's answer; the sensor records the end, naming the run."""
    sandbox.plan(U, times=1, hold=True)
    sandbox.clear_requests()
    command = ["dagster", "asset", "materialize", "--select", "deferred", "-m", LOCATION]
    subprocess.run(
        [sys.executable, "-m", *command], check=True, capture_output=True, cwd=Path(__file__).parents[2]
    )
    (run,) = deployment.instance.get_runs()
    assert run.is_success
    assert sandbox.executions(U)[-1].status == "RUNNING"
    cache_id = sandbox.caches[U]
    own = [request.operation for request in sandbox.requests if cache_id in request.path]
    assert own[own.index("incrementalUpdateCache") :].count("getCacheStatus") == 0
    sandbox.release(U)
    sandbox.wait_idle()
    deployment.wait_until(lambda: recorded(deployment.instance, DEFERRED), "the end is recorded")
    assert recorded(deployment.instance, DEFERRED) == completed(sandbox, U)[-1:]
    event = deployment.instance.get_latest_materialization_event(DEFERRED)
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["peaka/run_id"].value == run.run_id
