"""Runs steps in processes of their own, for tests that interrupt or kill them."""

import contextlib
import json
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
from tests.example.machine import runs

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0
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


class Nursery:
    """`tests.sync.nursery` in a process of its own: it has imported Dagster and forks a child for each run."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.sync.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fork(self, environment: dict[str, str], output: Path) -> int:
        """Start a run; the id of its process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps({'environment': environment, 'output': str(output)})}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@dataclass
class Started:
    """A run in a process of its own, and the file with what it has printed."""

    pid: int
    file: Path

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.file.read_text() if self.file.exists() else ""

    def wait_until_said(self, *words: str) -> None:
        """Wait until all these words are in its log."""

        def said() -> bool:
            going_on = runs(self.pid)
            if all(each in self.output for each in words):
                return True
            assert going_on, f"it ended without {words}: {self.output[-3000:]}"
            return False

        wait_until(said, f"{words} in its log")


@dataclass
class Steps:
    """Starts processes that run the job of `tests.sync.steps_to_kill` against a sandbox, on one instance."""

    sandbox: PeakaSandbox
    home: Path
    nursery: Nursery
    running: list[Started] = field(default_factory=list[Started])
    started: int = 0

    def start(self, **settings: str) -> Started:
        """Start a run; ``settings`` are those of the module, in capitals."""
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(self.home),
            "PEAKA_API_KEY": self.sandbox.api_key,
            "PEAKA_PROJECT_ID": self.sandbox.project_id,
            "PEAKA_BASE_URL": self.sandbox.base_url,
            **settings,
        }
        self.started += 1
        output = self.home / f"output-{self.started}.txt"
        started = Started(self.nursery.fork(environment, output), output)
        self.running.append(started)
        return started

    def end(self, started: Started) -> Ended:
        """Wait for the end of a run."""
        wait_until(lambda: not runs(started.pid), "the end of the run")
        self.running.remove(started)
        return Ended(started.output)

    def run(self, **settings: str) -> Ended:
        """Start a run and wait for its end."""
        return self.end(self.start(**settings))

    def terminate(self, started: Started) -> None:
        """Terminate a run as Dagster's UI and run launcher do."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            instance.report_run_canceling(instance.get_runs(limit=1)[0])
        os.kill(started.pid, signal.SIGINT)

    def interrupt(self, started: Started) -> Ended:
        """Terminate a run, and wait for its end."""
        self.terminate(started)
        return self.end(started)

    def evict(self, started: Started) -> Ended:
        """Interrupt a run that nobody has terminated, as an evicted pod and Ctrl-C do, and wait for its end."""
        os.kill(started.pid, signal.SIGINT)
        return self.end(started)

    def terminate_unheard(self, started: Started) -> Ended:
        """Terminate a run whose step is not interrupted, as with Celery, and wait for its end."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            instance.report_run_canceling(instance.get_runs(limit=1)[0])
        return self.end(started)

    def status(self) -> dg.DagsterRunStatus:
        """The status of the newest run."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            return instance.get_runs(limit=1)[0].status

    def kill(self, started: Started) -> None:
        """SIGKILL the run's process and every step's: what a lost machine looks like."""
        _kill(started.pid, *_descendants(started.pid))
        self.end(started)

    def kill_step(self, started: Started) -> None:
        """SIGKILL the processes of the run's steps, and leave the run's own."""
        _kill(*_descendants(started.pid))

    def close(self) -> None:
        """End what a failed test has left."""
        for started in list(self.running):
            self.kill(started)

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


def _kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """The processes below ``pid``, from /proc."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [*_descendants(int(child)), int(child)]
    return found
