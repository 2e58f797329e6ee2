"""PostgreSQL, Redis, two Celery workers, a code server, a daemon and a webserver, beside a sandbox.

Everything is a process of its own in a folder of its own, started here and ended here. A test has little to know:
a worker can be killed and started otherwise; a *hold* keeps a sync in one of its phases; the sandbox's records and
Dagster's event log say what happened.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from dagster_peaka.sandbox import PeakaSandbox
from flights.commands.processes import Child, Processes
from tests.example.machine import descendants, free_port
from tests.graphql import GraphQL, until
from tests.materializing import sqlite_tables

ROOT = Path(__file__).parents[2]
LOCATION = "tests.production.location"
FOR_EVER = 3600.0
TRIGGER = "incrementalUpdateCache"
CANCEL = "cancelIncrementalCache"

DAGSTER_YAML = """\
storage:
  postgres:
    postgres_url: {database}
run_coordinator:
  module: dagster
  class: QueuedRunCoordinator
  config: {{dequeue_interval_seconds: 1}}
telemetry:
  enabled: false
"""

# Read by the Celery app of dagster-celery. A worker that is lost loses its step, unless its settings say otherwise.
CELERY_CONFIG = """\
import os

broker_url = result_backend = os.environ["PRODUCTION_BROKER"]
worker_prefetch_multiplier = 1
task_acks_late = task_reject_on_worker_lost = bool(os.environ.get("PRODUCTION_REDELIVERS"))
"""

# A machine whose clock is wrong: libfaketime would break Python's waiting, too.
SITECUSTOMIZE = """\
import os
import time

_true, _ahead = time.time, float(os.environ.get("PRODUCTION_CLOCK_AHEAD", "0"))
time.time = lambda: _true() + _ahead
"""


def servers() -> tuple[Path, str]:
    """Where PostgreSQL's commands are, and Redis: a test that needs them is skipped where they are not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    redis = shutil.which("redis-server")
    if not folders or redis is None:
        pytest.skip("PostgreSQL and Redis are not installed: apt-get install postgresql redis-server")
    return folders[-1], redis


class Deployment:
    """Everything up, in an empty folder."""

    def __init__(self, folder: Path, sandbox: PeakaSandbox, processes: Processes) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.home = folder / "home"
        self._processes = processes
        self._postgres_bin, self._redis = servers()
        self._ports = {name: free_port() for name in ("postgres", "redis", "code", "webserver")}
        self._workers: dict[str, Child] = {}
        self._children: list[Child] = []
        broker = f"redis://127.0.0.1:{self._ports['redis']}/0"
        self.environment = {
            "DAGSTER_HOME": str(self.home),
            "PEAKA_API_KEY": sandbox.api_key,
            "PEAKA_PROJECT_ID": sandbox.project_id,
            "PEAKA_BASE_URL": sandbox.base_url,
            "PRODUCTION_BROKER": broker,
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }

    # Starting

    def start(self) -> None:
        """Start everything, and wait until the webserver has loaded the code location."""
        database = f"postgresql+psycopg2://postgres@127.0.0.1:{self._ports['postgres']}/postgres"
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text(DAGSTER_YAML.format(database=database))
        (self.folder / "dagster_celery_config.py").write_text(CELERY_CONFIG)
        (self.folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
        self._run(
            "redis", self._redis, "--port", str(self._ports["redis"]), "--bind", "127.0.0.1", "--save", ""
        )
        self._create_database()
        self.start_postgres()
        with self.instance():
            pass  # makes the tables, before many processes want to
        for name in ("one", "two"):
            self.start_worker(name)
        self.serve(LOCATION, self._ports["code"])
        self.restart_dagster({"main": self._ports["code"]})

    def restart_dagster(self, locations: dict[str, int]) -> None:
        """Start the daemon and the webserver for these code servers."""
        servers = [
            f"  - grpc_server: {{host: 127.0.0.1, port: {port}, location_name: {name}}}\n"
            for name, port in locations.items()
        ]
        workspace = self.folder / f"workspace-{len(servers)}.yaml"
        workspace.write_text("load_from:\n" + "".join(servers))
        port = self._ports["webserver"] = free_port()
        daemon = (_command("dagster-daemon"), "run", "-w", str(workspace))
        webserver = (_command("dagster-webserver"), "-w", str(workspace), "-h", "127.0.0.1", "-p", str(port))
        self._dagster = [  # neither needs the key
            self._run("daemon", *daemon, PEAKA_API_KEY=""),
            self._run("webserver", *webserver, PEAKA_API_KEY=""),
        ]
        self._processes.wait_until(self._dagster[1], lambda: _listens(port), seconds=240)

    def stop_dagster(self) -> None:
        """End the daemon and the webserver."""
        for child in self._dagster:
            kill(child)

    @property
    def port(self) -> int:
        """Where the code server of the tests' own location listens."""
        return self._ports["code"]

    def ui(self, location: str = "main") -> GraphQL:
        """The webserver's API, for one code location."""
        return GraphQL(self._ports["webserver"], location)

    def serve(self, module: str, port: int, *arguments: str, **environment: str) -> Child:
        """A code server for a module, on a port."""
        command = (_command("dagster"), "api", "grpc", "-m", module, "-h", "127.0.0.1", "-p", str(port))
        child = self._run(
            f"code-{port}", *command, "--inject-env-vars-from-instance", *arguments, **environment
        )
        self._processes.wait_until(child, lambda: _listens(port), seconds=240)
        return child

    def start_postgres(self) -> None:
        """Start PostgreSQL, or start it again, on the data that is there."""
        data, port = self._data, str(self._ports["postgres"])
        settings = (
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "max_connections=300",
        )
        options = [word for setting in settings for word in ("-c", setting)]
        server = str(self._postgres_bin / "postgres")
        self._postgres = self._run("postgres", *as_postgres(server, "-D", str(data), "-p", port, *options))
        ready = [str(self._postgres_bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port]
        self._processes.wait_until(
            self._postgres, lambda: subprocess.run(ready, check=False).returncode == 0, seconds=60
        )

    def stop_postgres(self) -> None:
        """Stop PostgreSQL, as a restart of its service does: sessions are broken off."""
        self._postgres.process.send_signal(signal.SIGINT)
        self._postgres.process.wait(60)

    def wait_for_database(self, run_id: str) -> None:
        """Wait until the webserver reads again: each of its storages learns of broken sessions by failing once."""
        readings = (
            lambda: self.ui().run(run_id),
            lambda: self.recorded("any"),
            lambda: self.ui().ticks("polling"),
        )

        def reads(reading: Callable[[], object]) -> bool:
            with contextlib.suppress(AssertionError):
                reading()
                return True
            return False

        for reading in readings:
            until(lambda reading=reading: reads(reading), what="answer of the webserver after a restart")

    def _create_database(self) -> None:
        self._data = self.folder / "postgres"
        self._data.mkdir(mode=0o700)
        if os.getuid() == 0:  # which PostgreSQL refuses to be run by
            shutil.chown(self._data, "postgres", "postgres")
        initdb = str(self._postgres_bin / "initdb")
        subprocess.run(
            as_postgres(initdb, "-D", str(self._data), "-U", "postgres", "-A", "trust", "--no-sync"),
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def _run(self, name: str, *command: str, **environment: str) -> Child:
        log = self.folder / f"{len(self._children):02}-{name}.log"
        child = self._processes.start(
            name, command, environment={**self.environment, **environment}, folder=ROOT, log=log
        )
        self._children.append(child)
        return child

    def stop(self) -> None:
        """Kill everything at once, which the database and the workers would otherwise do at their leisure."""
        for child in self._children:
            kill(child)

    # Workers

    def start_worker(self, name: str, **environment: str) -> None:
        """Start a Celery worker with eight slots, for the queue of its name and for the common one."""
        child = self._run(
            f"worker-{name}",
            *(_command("celery"), "-A", "dagster_celery.app", "worker", "--concurrency", "8"),
            *("-Q", f"dagster,{name}", "-n", f"{name}-{len(self._children)}@here", "--loglevel", "INFO"),
            **environment,
        )
        assert child.log is not None
        log = child.log
        self._processes.wait_until(child, lambda: " ready." in log.read_text(), seconds=240)
        self._workers[name] = child

    def end_worker(self, name: str, number: signal.Signals, **environment: str) -> None:
        """Send a signal to all processes of a worker, as systemd and a lost machine do, and start another."""
        kill(self._workers.pop(name), number)
        self.start_worker(name, **environment)

    def kill_slots(self, name: str) -> None:
        """SIGKILL the processes in which a worker runs its steps; the worker's own lives on."""
        for pid in descendants(self._workers[name].process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # What happened

    @contextmanager
    def instance(self) -> Generator[dg.DagsterInstance]:
        """The instance, for a moment."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            yield instance

    def operations(self, table: str) -> list[str]:
        """The requests that have come for a table's cache, by their operations, in order."""
        cache = self.sandbox.caches[f"ops.public.{table}"]
        return [str(request.operation) for request in self.sandbox.requests if f"/{cache}" in request.path]

    def executions(self, table: str) -> list[str]:
        """The executions of a table's cache that were triggered by its API, oldest first."""
        found = self.sandbox.executions(f"ops.public.{table}")
        return [execution.id for execution in found if execution.origin == "api"]

    def recorded(self, *key: str) -> list[tuple[str, str | None]]:
        """The executions that an asset has materializations of, newest first, each with the run that recorded it."""
        return [
            (event.metadata["peaka/execution_id"], event.run_id) for event in self.ui().materializations(*key)
        ]

    def wait_for_step(self, run_id: str) -> None:
        """Wait until the step of a run has ended: with Celery, a run may be CANCELED before."""

        def over() -> bool:
            with self.instance() as instance:
                kinds = [
                    entry.dagster_event_type for entry in instance.all_logs(run_id) if entry.is_dagster_event
                ]
            return any(
                kind in (dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE) for kind in kinds
            )

        until(over, what=f"end of the step of run {run_id}")


@contextmanager
def deployed(tables: list[str]) -> Generator[Deployment]:
    """A deployment, with a cache of each table in the sandbox, until the block ends."""
    servers()
    folder = Path(tempfile.mkdtemp(prefix="peaka-production-"))
    folder.chmod(0o755)  # for PostgreSQL's user
    source = sqlite_tables(folder / "ops.db", tables)
    try:
        with (
            PeakaSandbox({"ops": {"public": source}}, caches=["ops.public.*"]) as sandbox,
            Processes() as processes,
        ):
            sandbox.wait_idle()
            sandbox.clear_requests()
            deployment = Deployment(folder, sandbox, processes)
            try:
                deployment.start()
                yield deployment
            finally:
                deployment.stop()
    finally:
        if not os.environ.get("PRODUCTION_KEEP"):
            shutil.rmtree(folder, ignore_errors=True)


def kill(child: Child, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process and all that it started; what still runs after some seconds is killed."""
    group = child.process.pid
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    child.process.wait()


def as_postgres(*command: str) -> list[str]:
    """The command, as PostgreSQL's own user where this process is root's."""
    if os.getuid() != 0:
        return list(command)
    return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", *command]


def _command(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


PHASES = ("poll", "posted", "identify", "follow")
"""Where a sync can stand when something happens to its worker; :mod:`dagster_peaka.sync.machine` tells what each is."""


def re_executed(deployment: Deployment, run_id: str, hold: Hold) -> str:
    """The re-execution of a run that has ended; the sync that the run had begun ends once the new one has polled."""
    ui = deployment.ui()
    hold.let_go()
    before = deployment.operations(hold.table).count("getCacheStatus")
    again = ui.re_execute(run_id, "FROM_FAILURE")
    until(
        lambda: (
            deployment.operations(hold.table).count("getCacheStatus") > before
            and deployment.executions(hold.table)
        ),
        what=f"poll of the re-execution {again}",
    )
    hold.release()
    assert ui.ended(again).status == "SUCCESS"
    return again


class Hold:
    """Keeps the next sync of a table in a phase, and its execution from ending, until it lets go."""

    def __init__(self, deployment: Deployment, table: str, phase: str) -> None:
        self._deployment = deployment
        self.table = table
        self._phase = phase
        self._sandbox = deployment.sandbox
        self._sandbox.plan(f"ops.public.{table}", hold=True)
        cache = self._sandbox.caches[f"ops.public.{table}"]
        slow = {"poll": "getCacheStatus", "posted": TRIGGER, "identify": "getCacheExecutionHistory"}.get(
            phase
        )
        self._fault = (
            self._sandbox.fault(slow, cache, times=None, status=None, delay=FOR_EVER) if slow else None
        )

    def wait(self) -> None:
        """Wait until the sync stands in the phase."""
        until(self._stands, what=f"{self.table} in phase {self._phase}")

    def _stands(self) -> bool:
        if self._fault is not None:
            return self._fault.hits > 0
        asked = self._deployment.operations(self.table)
        known = asked.index("getCacheExecutionHistory") if "getCacheExecutionHistory" in asked else len(asked)
        return asked[known:].count("getCacheStatus") >= 3

    def let_go(self) -> None:
        """Let requests be answered again; the execution goes on until it is released."""
        if self._fault is not None:
            self._fault.remove()

    def release(self) -> None:
        """Let the execution end, too."""
        self.let_go()
        self._sandbox.release(f"ops.public.{self.table}")
