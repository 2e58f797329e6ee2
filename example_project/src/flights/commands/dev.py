"""`make dev`: the example in Dagster's UI, with the daemon, beside a Peaka; Ctrl-C ends all of it."""

import argparse
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

from flights.commands.processes import ProcessError, Processes, heed_interrupts
from flights.commands.surroundings import CommandError, State, peaka
from flights.database import DatabaseError

PROJECT = Path(__file__).parents[3]
PEAKA_PORT = 8765
"""Where the sandbox listens each time, so that what was exported to a shell stays right; unless something else does."""


def main() -> int:
    """Serve until Ctrl-C, and return the exit code."""
    heed_interrupts()
    parser = argparse.ArgumentParser(prog="make dev", description=__doc__)
    parser.add_argument(
        "--state", type=Path, default=Path(".demo"), help="folder for everything that is kept"
    )
    parser.add_argument("--port", type=int, default=3000, help="port of Dagster's UI")
    arguments = parser.parse_args()
    try:
        with State(arguments.state).held() as state, Processes() as processes:
            _serve(processes, state, arguments.port)
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0
    except (CommandError, DatabaseError, ProcessError) as error:
        print(f"make dev: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(processes: Processes, state: State, port: int) -> None:
    if _busy(port):
        raise CommandError(
            f"Port {port} is in use: stop what listens there, or use another: make PORT=3001 dev."
        )
    environment, description = peaka(processes, state, 0 if _busy(PEAKA_PORT) else PEAKA_PORT)
    print(description, flush=True)
    if environment:
        print(
            "For a shell of your own:\n",
            *(f"  export {name}={value}\n" for name, value in environment.items()),
        )
    dagster = processes.start(
        "Dagster",
        [
            *(str(Path(sys.executable).with_name("dg")), "dev"),
            *("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
        ],
        environment={**environment, **state.environment()},
        folder=PROJECT,
    )
    url = f"http://127.0.0.1:{port}"
    processes.wait_until(dagster, lambda: _answers(f"{url}/server_info"), seconds=120)
    print(f"Dagster's UI: {url} (Ctrl-C ends it, and everything that was started with it)", flush=True)
    processes.wait()


def _busy(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(main())
