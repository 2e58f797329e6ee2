"""A process that has imported Dagster once and forks a child for each run, so that a run costs no import.

`python -m tests.sync.nursery` reads a line of JSON for each run, `{"environment": {...}, "output": "file"}`, and
answers with the child's process id. The child's standard output and errors go to the file.
"""

import gc
import json
import os
import random
import signal
import sys

import dagster as dg

from tests.migrations import read_once
from tests.sync.steps_to_kill import main


def serve() -> None:
    """Fork a child for each line that comes, until none comes any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(
        signal.SIGCHLD, signal.SIG_IGN
    )  # nobody waits for the children, so the kernel collects them
    dg.DagsterInstance.ephemeral()  # what an instance needs is loaded before the first fork
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(order["environment"], order["output"])
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


def _run(environment: dict[str, str], output: str) -> None:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        random.seed()
        os.environ.clear()
        os.environ.update(environment)
        written = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (written, 1), (written, 2)):
            os.dup2(source, target)
        main()
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with read_once():
        serve()
