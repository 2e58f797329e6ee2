"""A process that has imported what the commands of `dg` need, and runs each command that it reads in a child.

Importing takes longer than most commands. Read and written are lines of JSON: arguments, variables and the files for
what is printed; then the exit code.
"""

import importlib
import json
import os
import sys
import traceback
from typing import Any

import dagster as dg
from dagster_dg_cli.cli import main

COMMANDS = ("check", "launch", "list", "scaffold", "utils")


def run(order: dict[str, Any]) -> int:
    """What `dg` does with these arguments, and its exit code."""
    for number, stream in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(order[stream], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(order["environment"])
    importlib.invalidate_caches()  # files may have come since this process began
    sys.argv = ["dg", *order["arguments"]]
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def serve() -> None:
    """Run commands until there are no more."""
    for module in ("dagster_peaka", *(f"dagster_dg_cli.cli.{command}" for command in COMMANDS)):
        importlib.import_module(module)
    with dg.DagsterInstance.local_temp():
        pass  # what keeps runs and events is imported only now
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = run(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
