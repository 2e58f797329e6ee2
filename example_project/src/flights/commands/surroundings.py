"""What both commands need around Dagster: a folder for all state, and a Peaka to talk to.

That is the sandbox, a local stand-in that reads the operational database, started here and ended with the command. With
PEAKA_DEMO_ACCOUNT=1 it is your account (or whatever server PEAKA_BASE_URL names): a key that is exported for something
else does not suffice, because the commands trigger syncs.
"""

import fcntl
import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from flights.commands.processes import Processes
from flights.database import BROKEN_TABLE, create_tables
from flights.peaka_names import QUERY, cache_key
from flights.punctuality import statement

_DAGSTER_YAML = """\
# Written by the example's commands: no usage statistics, no pop-ups.
telemetry:
  enabled: false
nux:
  enabled: false
"""


class CommandError(Exception):
    """A command cannot go on; its message is all that the user sees."""


class State:
    """The folder that holds everything the commands keep: `make clean` removes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.operational = Path(
            os.environ.get("FLIGHTS_DATABASE") or self.folder / "operational.db"
        ).resolve()
        self.sandbox_store = self.folder / "sandbox.db"
        self.dagster_home = self.folder / "dagster"

    @contextmanager
    def held(self) -> Generator["State"]:
        """Create what is missing, and keep other commands off this folder meanwhile.

        Raises CommandError where another command uses it, DatabaseError where the database is unusable.
        """
        try:
            self.dagster_home.mkdir(parents=True, exist_ok=True)
            (self.dagster_home / "dagster.yaml").write_text(_DAGSTER_YAML, encoding="utf-8")
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise CommandError(
                f"The folder {self.folder} cannot be used ({error}): name another as STATE."
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CommandError(
                    f"Another `make demo` or `make dev` is using {self.folder}: wait for it, stop it, "
                    "or name another folder, for instance make STATE=/tmp/other demo."
                ) from None
            create_tables(self.operational)
            yield self

    def environment(self) -> dict[str, str]:
        """The environment variables that point Dagster and this project at the folder."""
        return {
            "DAGSTER_HOME": str(self.dagster_home),
            "FLIGHTS_DATABASE": str(self.operational),
            "MPLCONFIGDIR": str(self.folder / "matplotlib"),  # its font cache, else in the home folder
        }


def peaka(processes: Processes, state: State, port: int = 0) -> tuple[dict[str, str], str]:
    """The environment variables that name a Peaka, and a line that says which it is.

    Starts the sandbox where the environment does not ask for an account: on this port, 0 for a free one.

    Raises CommandError where a setting is missing or cannot work, ProcessError where the sandbox does not start.
    """
    _check_schema()
    if os.environ.get("PEAKA_DEMO_ACCOUNT") != "1":
        return _start_sandbox(processes, state, port)
    for name in ("PEAKA_API_KEY", "PEAKA_PROJECT_ID"):
        if not os.environ.get(name):
            raise CommandError(
                f"PEAKA_DEMO_ACCOUNT=1 asks for your account, and {name} is not set: set it, or unset "
                "PEAKA_DEMO_ACCOUNT to use the sandbox."
            )
    _check_connection()
    where = os.environ.get("PEAKA_BASE_URL") or f"zone {os.environ.get('PEAKA_ZONE') or 'us'}"
    return {}, f"Peaka: your account ({where}), project {os.environ['PEAKA_PROJECT_ID']}."


def _check_schema() -> None:
    try:
        cache_key("flights")
    except ValueError as error:
        raise CommandError(str(error)) from None


def _check_connection() -> None:
    # Imported here: it takes seconds, and without an account there is nothing to check.
    from pydantic import ValidationError

    from flights.defs.resources import peaka_resource

    try:
        peaka_resource()
    except ValidationError as error:
        words = [str(detail["msg"]).removeprefix("Value error, ") for detail in error.errors()]
        raise CommandError(" ".join(words)) from None


def _start_sandbox(processes: Processes, state: State, port: int) -> tuple[dict[str, str], str]:
    log = state.folder / "sandbox.log"
    key = "sandbox-key"
    catalog = ".".join(cache_key("*")[:2])
    command = [
        *(sys.executable, "-m", "dagster_peaka.sandbox"),
        *("--source", f"{catalog}={state.operational}"),
        *("--cache", f"{catalog}.*"),
        *("--query", f"{QUERY}={statement()}"),
        *("--fail", f"{catalog}.{BROKEN_TABLE}=the source refuses every connection"),
        *("--store", str(state.sandbox_store)),
        *("--port", str(port)),
    ]
    sandbox = processes.start(
        "the sandbox", command, log=log, environment={"PEAKA_SANDBOX_API_KEY": key, "PYTHONUNBUFFERED": "1"}
    )

    def address() -> dict[str, str]:
        said = log.read_text(encoding="utf-8")
        return dict(re.findall(r"\b(PEAKA_BASE_URL|PEAKA_PROJECT_ID)=(\S+)", said))

    processes.wait_until(sandbox, lambda: len(address()) == 2, seconds=60)
    environment = {**address(), "PEAKA_API_KEY": key, "FLIGHTS_BROKEN": BROKEN_TABLE}
    description = f"Peaka: the sandbox, a local stand-in at {environment['PEAKA_BASE_URL']}."
    if os.environ.get("PEAKA_API_KEY"):
        description += " Your account, whose key is set, is used with PEAKA_DEMO_ACCOUNT=1 only."
    return environment, description
