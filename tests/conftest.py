"""What the package's tests share: a small operational database, and a local Peaka that copies it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dagster_peaka.sandbox import PeakaSandbox


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


@pytest.fixture
def sandbox(ops_database: Path) -> Iterator[PeakaSandbox]:
    """A local Peaka with the caches `ops.public.t` and `ops.public.u`; nothing runs, no request is recorded."""
    with PeakaSandbox({"ops": {"public": ops_database}}, caches=["ops.public.*"]) as sandbox:
        sandbox.wait_idle()
        sandbox.clear_requests()
        yield sandbox
