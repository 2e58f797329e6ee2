"""Runs steps in processes of their own, for tests that interrupt or kill them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from dagster_peaka.sandbox import PeakaSandbox

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds after which a test gives up waiting; nothing is asserted about shorter times."""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for ``condition``, and fail saying ``what`` did not come."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"{what} did not come"
        time.sleep(0.02)


@dataclass
class Ended:
    """How a process with a run ended."""

    output: str

    @property
    def run_id(self) -> str:
        """The run's id."""
        found = re.findall(r"^run (\S+)$", self.output, re.MULTILINE)
        assert found, self.output[-3000:]
        return found[-1]

    @property
    def success(self) -> bool:
        """True when the run ended in success."""
        return self.output.rstrip().endswith("success")

    @property
    def log(self) -> str:
        """The INFO and WARNING lines of the step."""
        return "\n".join(
            line for line in self.output.splitlines() if " - INFO - " in line or " - WARNING - " in line
        )


@dataclass
class Steps:
    """Starts processes that run the job of `tests.sync.steps_to_kill` against a sandbox, on one instance."""

    sandbox: PeakaSandbox
    home: Path
    settings: dict[str, str] = field(default_factory=dict[str, str])
    running: list[subprocess.Popen[str]] = field(default_factory=list[subprocess.Popen[str]])

    def start(self, **settings: str) -> subprocess.Popen[str]:
        """Start a run; ``settings`` are those of the module, in capitals."""
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(self.home),
            "PEAKA_API_KEY": self.sandbox.api_key,
            "PEAKA_PROJECT_ID": self.sandbox.project_id,
            "PEAKA_BASE_URL": self.sandbox.base_url,
            **self.settings,
            **settings,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.sync.steps_to_kill"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.running.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> Ended:
        """Wait for the end of a run."""
        output, _ = process.communicate(timeout=PATIENCE)
        self.running.remove(process)
        return Ended(output)

    def run(self, **settings: str) -> Ended:
        """Start a run and wait for its end."""
        return self.end(self.start(**settings))

    def interrupt(self, process: subprocess.Popen[str]) -> Ended:
        """Terminate a run as Dagster's UI and run launcher do, and wait for its end."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            instance.report_run_canceling(instance.get_runs(limit=1)[0])
        process.send_signal(signal.SIGINT)
        return self.end(process)

    def kill(self, process: subprocess.Popen[str]) -> None:
        """SIGKILL the run's process and every step's: what a lost machine looks like."""
        children = _descendants(process.pid)
        for pid in (process.pid, *children):
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
        self.running.remove(process)

    def kill_step(self, process: subprocess.Popen[str]) -> None:
        """SIGKILL the processes of the run's steps, and leave the run's own."""
        for pid in _descendants(process.pid):
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End what a failed test has left."""
        for process in list(self.running):
            self.kill(process)

    def materializations(self, run_id: str) -> list[dg.AssetMaterialization]:
        """What a run has materialized."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            records = instance.get_records_for_run(
                run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
            ).records
            found = [record.event_log_entry.asset_materialization for record in records]
        return [materialization for materialization in found if materialization is not None]

    def last_run_id(self) -> str:
        """The newest run of the instance, whatever became of it."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            return instance.get_runs(limit=1)[0].run_id

    def mark_failed(self, run_id: str) -> None:
        """What Dagster's run monitoring does for a run whose machine is gone."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            run = instance.get_run_by_id(run_id)
            assert run is not None
            instance.report_run_failed(run)

    def materialize_upstream(self) -> None:
        """Record a new materialization of the caches' upstream."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            instance.report_runless_asset_event(dg.AssetMaterialization("landed"))

    # The sandbox's own records

    def triggers(self) -> int:
        """Triggers that the sandbox has served."""
        return sum(
            record.operation in ("incrementalUpdateCache", "fullRefreshCache")
            for record in self.sandbox.requests
        )

    def cancels(self) -> int:
        """Cancels that the sandbox has served."""
        wanted = ("cancelIncrementalCache", "cancelFullRefreshCache")
        return sum(record.operation in wanted for record in self.sandbox.requests)

    def looks(self) -> int:
        """Looks that the sandbox has served."""
        return sum((record.operation or "").startswith("getCacheStatus") for record in self.sandbox.requests)


def _descendants(pid: int) -> list[int]:
    """The processes below ``pid``, from /proc."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in (task / "children").read_text().split():
            found += [*_descendants(int(child)), int(child)]
    return found
