"""What the package's tests share: a small operational database, and a local Peaka that copies it."""

import gc
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from dagster_peaka.sandbox import PeakaSandbox
from tests.migrations import read_once

# How long an example takes says how busy the machine is, and nothing about the package.
settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Spare the collector what lasts as long as the tests: Dagster's modules, and the tests themselves."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _migrations_read_once() -> Iterator[None]:
    """An instance in memory, of which hundreds of tests make one, takes a quarter of the time then."""
    with read_once():
        yield


@pytest.fixture
def ops_database(tmp_path: Path) -> Path:
    """A SQLite file with the tables `t` (three rows) and `u` (two), which a test may write to."""
    path = tmp_path / "ops.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
        database.execute("CREATE TABLE u (id INTEGER PRIMARY KEY, v TEXT)")
        database.executemany("INSERT INTO t VALUES (?, ?)", [(1, "a"), (2, "b"), (3, "c")])
        database.executemany("INSERT INTO u VALUES (?, ?)", [(1, "x"), (2, "y")])
    return path


@pytest.fixture(scope="module")
def close_later() -> Iterator[Callable[[PeakaSandbox], None]]:
    """Closes sandboxes beside the next tests of a file: uvicorn takes a fifth of a second, in which nothing happens."""
    with ThreadPoolExecutor(4, "closing") as threads:
        closed: list[Future[None]] = []
        yield lambda sandbox: closed.append(threads.submit(sandbox.close))
        for each in closed:
            each.result()


@pytest.fixture
def sandbox(ops_database: Path, close_later: Callable[[PeakaSandbox], None]) -> Iterator[PeakaSandbox]:
    """A local Peaka with the caches `ops.public.t` and `ops.public.u`; nothing runs, no request is recorded."""
    sandbox = PeakaSandbox({"ops": {"public": ops_database}}, caches=["ops.public.*"])
    try:
        sandbox.start()
        sandbox.wait_idle()
        sandbox.clear_requests()
        yield sandbox
    finally:
        close_later(sandbox)
