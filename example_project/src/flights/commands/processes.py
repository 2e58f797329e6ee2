"""Processes that start together and end together: what `make demo` and `make dev` keep beside themselves.

Each child runs in a session of its own, so that Ctrl-C in a terminal reaches this process alone. It then
stops the children one by one, the last started first: an interrupt, on which a server ends its own children,
and for whatever of the child's process group still runs after that, a kill.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

STOP_SECONDS = 15.0
_POLL_SECONDS = 0.05
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ProcessError(Exception):
    """A child did not start, or ended by itself."""


@dataclass
class Child:
    """A process beside this one; `log` holds its output, or is None where it goes to the terminal."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None

    def ended(self) -> ProcessError:
        """The error that says that this child is no longer there."""
        where = f"; its last words are in {self.log}" if self.log else ""
        return ProcessError(f"{self.name} ended with code {self.process.returncode}{where}.")


class Processes:
    """Child processes, ended when the `with` block ends, however it does.

    with Processes() as processes:
        server = processes.start("the server", [sys.executable, "server.py"], log=Path("server.log"))
        processes.wait_until(server, lambda: answers(port), seconds=30)
        processes.wait()    # until Ctrl-C, or until a child ends by itself
    """

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._parent = os.getppid()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        with _interrupts_noted():  # and let be: it is being stopped
            while self._children:
                _stop(self._children.pop())

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        log: Path | None = None,
    ) -> Child:
        """Start a process, with `environment` added to this one's.

        Raises ProcessError where the command cannot be run.
        """
        output = log.open("wb") if log else None
        try:
            # An interrupt between the fork and the list would leave a child that nobody stops.
            with _interrupts_noted() as noted:
                process = subprocess.Popen(
                    command,
                    env={**os.environ, **(environment or {})},
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT if output else None,
                    start_new_session=True,
                )
                child = Child(name, process, log)
                self._children.append(child)
        except OSError as error:
            raise ProcessError(f"{name} cannot be started: {error}.") from error
        finally:
            if output:
                output.close()
        if noted:
            raise KeyboardInterrupt
        return child

    def wait_until(self, child: Child, ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait until `ready` says yes.

        Raises ProcessError where the child ends before, or the seconds have passed.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if child.process.poll() is not None:
                raise child.ended()
            if time.monotonic() > deadline:
                where = f": see {child.log}" if child.log else ""
                raise ProcessError(f"{child.name} was not ready within {seconds:.0f} seconds{where}.")
            time.sleep(_POLL_SECONDS)

    def wait(self) -> None:
        """Wait until a child ends by itself, which raises ProcessError. Ctrl-C ends the wait as anywhere.

        So does the end of the process that started this one: with it goes whoever could press Ctrl-C.
        """
        while os.getppid() == self._parent:
            for child in self._children:
                if child.process.poll() is not None:
                    raise child.ended()
            time.sleep(_POLL_SECONDS * 4)
        raise KeyboardInterrupt


def heed_interrupts() -> None:
    """Let SIGINT, SIGTERM and SIGHUP end this process as Ctrl-C does, wherever it was started.

    A shell that is not interactive starts background jobs with SIGINT ignored, and children inherit that.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in _INTERRUPTS:
        signal.signal(number, interrupt)


@contextlib.contextmanager
def _interrupts_noted() -> Generator[list[int]]:
    # By handlers and not by a signal mask: a child would inherit the mask, and never be interrupted.
    noted: list[int] = []
    before = {number: signal.signal(number, lambda number, _: noted.append(number)) for number in _INTERRUPTS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(child: Child) -> None:
    # A child leads its session and process group: their number is its own.
    if child.process.poll() is None:
        child.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()
