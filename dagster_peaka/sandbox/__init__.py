"""A local Peaka over HTTP, to develop and test against: real data, and every way in which Peaka may behave.

It is not Peaka. It plays what people saw of the live service, or with `profile="documented"` what Peaka's document
promises, or with a file what a doctor's report tells of an account. It needs the extra `sandbox` and shares no code
with the rest of the package.

    with PeakaSandbox({"ops": {"public": "ops.db"}}, caches=["ops.public.*"]) as sandbox:
        ...

The same from the command line: `python -m dagster_peaka.sandbox --help`. The rooms, from the ground up:

    behaviour    readings, profiles, faults, plans           errors, bodies   what a request may bring
    sources      catalogs: SQLite files of others            store      the sandbox's own file
    copying, syncing   delta and full refresh                caches     what there is, and when it syncs
    executions   their life, in queues                       wire       Peaka's JSON
    sql, queries   SQL on DuckDB                             app        operations over HTTP, and their record
    serving, server, __main__    PeakaSandbox, the command   profiles   a profile from a doctor's report
    scripts      executions as a test writes them down
    saved_queries, query_operations   saved queries, their refreshes and snapshots

pytest brings it to a test as the fixtures `peaka_sandbox` and `peaka_script`, from `dagster_peaka_pytest`.
"""

from typing import TYPE_CHECKING

from dagster_peaka.sandbox.behaviour import Behaviour, Profile

if TYPE_CHECKING:
    from dagster_peaka.sandbox.app import RequestRecord
    from dagster_peaka.sandbox.caches import ExecutionRecord
    from dagster_peaka.sandbox.saved_queries import RefreshRecord
    from dagster_peaka.sandbox.scripts import PeakaScript, ScriptedExecution
    from dagster_peaka.sandbox.server import PeakaSandbox
    from dagster_peaka.sandbox.sources import SandboxError

__all__ = [
    "Behaviour",
    "ExecutionRecord",
    "PeakaSandbox",
    "PeakaScript",
    "Profile",
    "RefreshRecord",
    "RequestRecord",
    "SandboxError",
    "ScriptedExecution",
]

_ROOMS = {
    "PeakaSandbox": "server",
    "ExecutionRecord": "caches",
    "RequestRecord": "app",
    "RefreshRecord": "saved_queries",
    "SandboxError": "sources",
    "PeakaScript": "scripts",
    "ScriptedExecution": "scripts",
}
_EXTRA = ("starlette", "uvicorn", "sqlglot", "duckdb", "numpy")


def __getattr__(name: str) -> object:
    # Late, so that `python -m dagster_peaka.sandbox` can say which extra is missing.
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise ImportError("Peaka's sandbox needs its extra: pip install 'dagster-peaka[sandbox]'") from None
