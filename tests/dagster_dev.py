"""`dagster dev` as a user starts it: webserver, daemon and code locations, on a free port of this machine."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from dagster_peaka.sandbox import PeakaSandbox
from tests.example.machine import free_port
from tests.graphql import until

ROOT = Path(__file__).parents[1]

# A run starts within a second and not within five; nothing asks for attention in the UI.
DAGSTER_YAML = """\
run_coordinator:
  module: dagster
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
telemetry:
  enabled: false
nux:
  enabled: false
"""


def write_settings(home: Path) -> None:
    """Make the folder of Dagster's instance, with its settings."""
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(DAGSTER_YAML)


@contextmanager
def dagster_dev(
    home: Path, *locations: str, sandbox: PeakaSandbox, environment: Mapping[str, str]
) -> Generator[int]:
    """The port of the UI, until the block ends. `locations` are the arguments that name what is served.

    Nothing of this process's own settings of Dagster, Peaka and the example reaches it, but for `environment`.
    """
    port = free_port()
    log = home / "dagster-dev.log"
    dagster = str(Path(sys.executable).with_name("dagster"))
    # A test run in the background of a shell ignores interrupts, and would pass that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("w") as output:
        process = subprocess.Popen(
            [dagster, "dev", *locations, "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env=_environment(home, sandbox, environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    signal.signal(signal.SIGINT, before)
    try:
        until(lambda: process.poll() is not None or _answers(port), what=f"UI: see {log}")
        assert process.poll() is None, log.read_text()
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever of it still runs
        process.wait()


def _environment(home: Path, sandbox: PeakaSandbox, more: Mapping[str, str]) -> dict[str, str]:
    ours = ("PEAKA_", "FLIGHTS_", "DAGSTER_")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        "DAGSTER_HOME": str(home),
        "PEAKA_API_KEY": sandbox.api_key,
        "PEAKA_PROJECT_ID": sandbox.project_id,
        "PEAKA_BASE_URL": sandbox.base_url,
        **more,
    }


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/server_info", timeout=5).is_success
    except httpx.TransportError:
        return False
