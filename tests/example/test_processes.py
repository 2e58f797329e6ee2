"""The supervision of processes that `make demo` and `make dev` share."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flights.commands import processes
from flights.commands.processes import ProcessError, Processes
from tests.example.machine import runs, soon

# Starts a process of its own, says so, and stays; "deaf" ignores interrupts, as does what it starts.
PARENT = """
import signal, subprocess, sys, time
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(grandchild.pid, flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def said(log: Path) -> bool:
    """Whether a child has printed its first line."""
    return "\n" in log.read_text()


@pytest.mark.parametrize("hearing", ["good", "deaf"])
def test_children_and_their_children_end_with_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hearing: str
) -> None:
    """A child is interrupted, and killed if it does not heed that; what it started never stays behind."""
    monkeypatch.setattr(processes, "STOP_SECONDS", 2.0)
    log = tmp_path / "parent.log"
    with Processes() as running:
        child = running.start("the parent", [sys.executable, "-c", PARENT, hearing], log=log)
        running.wait_until(child, lambda: said(log), seconds=300)
        grandchild = int(log.read_text())
        assert runs(child.process.pid)
        assert runs(grandchild)
    assert not runs(child.process.pid)
    assert soon(lambda: not runs(grandchild))
    assert ("interrupted" in log.read_text()) == (hearing == "good")


def test_a_child_that_ends_by_itself_is_named(tmp_path: Path) -> None:
    """The error says which process ended, how, and where its last words are."""
    log = tmp_path / "short.log"
    with Processes() as running:
        child = running.start("the server", [sys.executable, "-c", "raise SystemExit(3)"], log=log)
        with pytest.raises(
            ProcessError, match=r"the server ended with code 3; its last words are in .*short\.log"
        ):
            running.wait_until(child, lambda: False, seconds=300)
        with pytest.raises(ProcessError, match="the server ended with code 3"):
            running.wait()


def test_a_command_that_does_not_exist_is_named() -> None:
    """A program that is not installed is an error of this module, not of the operating system."""
    with (
        Processes() as running,
        pytest.raises(ProcessError, match=r"the server cannot be started: .*no-such"),
    ):
        running.start("the server", ["/no-such-program"])


# A command as `make dev` is one: it prints the id of a grandchild and waits.
COMMAND = f"""
import sys
from pathlib import Path
from flights.commands.processes import Processes, heed_interrupts
heed_interrupts()
log = Path(sys.argv[1])
try:
    with Processes() as running:
        child = running.start("the parent", [sys.executable, "-c", {PARENT!r}, "good"], log=log)
        running.wait_until(child, lambda: "\\n" in log.read_text(), seconds=300)
        print(log.read_text(), end="", flush=True)
        running.wait()
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def test_an_interrupt_reaches_a_command_that_a_shell_started_deaf(tmp_path: Path) -> None:
    """Started with SIGINT ignored, as shells start background jobs, a command still stops what it started."""
    log = tmp_path / "parent.log"
    command = subprocess.Popen(
        ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-c", COMMAND, str(log)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert command.stdout
    grandchild = int(command.stdout.readline())
    os.kill(command.pid, signal.SIGINT)
    assert command.stdout.read() == "stopped\n"
    assert command.wait(300) == 0
    assert soon(lambda: not runs(grandchild))
    assert "interrupted" in log.read_text()


def test_a_command_ends_with_what_started_it(tmp_path: Path) -> None:
    """When make, or a shell, is killed outright, its command does not go on without it."""
    shell = subprocess.Popen(
        ["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", COMMAND, str(tmp_path / "parent.log")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shell.stdout
    grandchild = int(shell.stdout.readline())
    shell.kill()
    assert shell.stdout.read() == "stopped\n"
    shell.wait(300)
    assert soon(lambda: not runs(grandchild))
