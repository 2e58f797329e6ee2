"""What the example's tests ask the machine: which processes run, which ports are taken."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # Linux; elsewhere an orphan is collected at once
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it ended before, or while it was read
        return not Path("/proc/self").exists()


def free_port() -> int:
    """A port of the loopback address on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def taken(port: int) -> bool:
    """Whether something listens on a port of the loopback address."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def soon(true: Callable[[], bool], *, seconds: float = 300.0) -> bool:
    """Whether something comes true within some seconds: a killed process takes a moment to go."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def descendants(pid: int) -> set[int]:
    """The ids of all processes that a process started, and those that these started."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    ahead = [pid]
    while ahead:
        born = children.get(ahead.pop(), [])
        found.update(born)
        ahead.extend(born)
    return found


def _parents() -> Iterator[tuple[int, int]]:
    if not Path("/proc/self").exists():
        listing = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid="], text=True)
        for row in listing.splitlines():
            child, parent = row.split()
            yield int(child), int(parent)
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            yield int(status.parent.name), int(status.read_text().rpartition(")")[2].split()[1])
