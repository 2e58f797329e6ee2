"""The store: one SQLite file that holds the copies, and the caches and executions that a restart needs.

One process writes to it. `writing` is held by whoever does, for one short transaction, so that no writer has to find
out about another by waiting for SQLite's lock. Readers (queries) need nothing: the file is in WAL mode.
"""

import json
import re
import sqlite3
import threading
import uuid
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dagster_peaka.sandbox.sources import SandboxError, is_locked, quoted

_LAYOUT = 1
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TABLES = """
CREATE TABLE IF NOT EXISTS peaka_cache (number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS peaka_execution (
    id TEXT PRIMARY KEY, cache_id TEXT NOT NULL, sequence INTEGER NOT NULL, body TEXT NOT NULL,
    finished INTEGER NOT NULL, inserted INTEGER NOT NULL, updated INTEGER NOT NULL, deleted INTEGER NOT NULL,
    cached INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS peaka_copy (cache_id TEXT PRIMARY KEY, shape TEXT NOT NULL) WITHOUT ROWID;
"""
# The counts of an unfinished execution belong to the transactions that copy (see `copying`): what memory knows of them
# may be older than what the file already holds.
_SAVE_EXECUTION = """
INSERT INTO peaka_execution VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
    body = excluded.body, finished = excluded.finished,
    inserted = CASE WHEN excluded.finished THEN excluded.inserted ELSE inserted END,
    updated = CASE WHEN excluded.finished THEN excluded.updated ELSE updated END,
    deleted = CASE WHEN excluded.finished THEN excluded.deleted ELSE deleted END,
    cached = CASE WHEN excluded.finished THEN excluded.cached ELSE cached END
"""


@dataclass
class Counts:
    """The rows that an execution has handled so far, and those that the copy now holds."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    cached: int = 0


Row = tuple[Any, ...]


def remember_shape(connection: sqlite3.Connection, cache_id: str, shape: Any) -> None:
    connection.execute("INSERT OR REPLACE INTO peaka_copy VALUES (?, ?)", (cache_id, json.dumps(shape)))


def copy_name(cache_id: str) -> str:
    return f"copy_{_part_of_name(cache_id)}"


def aside_name(cache_id: str) -> str:
    return f"aside_{_part_of_name(cache_id)}"


def _part_of_name(cache_id: str) -> str:
    """An id as part of a table's name, in which SQLite ignores the case of letters: ids that somebody has chosen."""
    return cache_id.replace("-", "_") if _UUID.fullmatch(cache_id) else f"x{cache_id.encode().hex()}"


class StoreFailed(Exception):
    """The store's file cannot be written to. The message blames it, and says what to do."""


_FULL = ("disk is full", "disk i/o error", "readonly database", "unable to open", "too big")


class Store:
    """The store's file. `path=None` makes a temporary one, gone with `close()`.

    Raises `SandboxError` where the path is no store or cannot be written to.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.kept = path is not None
        if path is None:
            self._folder = TemporaryDirectory(prefix="peaka-sandbox-", ignore_cleanup_errors=True)
            path = Path(self._folder.name, "store.db")
        self.path = Path(path)
        self.sources = self.path.with_name(f"{self.path.name}-sources")
        """The folder of the databases that the sandbox has made itself."""
        self.writing = threading.Lock()
        self._token = uuid.uuid4().hex
        self._changes: Counter[str] = Counter()
        self._open: list[sqlite3.Connection] = []
        try:
            if self.kept:
                self._claim()
            self._keep = self.connect()
            self._open.append(self._keep)
            self._prepare()
        except (sqlite3.Error, SandboxError) as error:
            self.close()
            if isinstance(error, SandboxError):
                raise
            said = f"store {self.path}: it cannot be used as the sandbox's store ({error})."
            raise SandboxError(said) from None

    def _claim(self) -> None:
        """Hold a lock beside the store for as long as it is open; it goes with the process, however that ends."""
        beside = self.path.with_name(f"{self.path.name}-lock.db")
        lock = sqlite3.connect(beside, isolation_level=None, timeout=0, check_same_thread=False)
        self._open.append(lock)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if not is_locked(error):
                raise
            raise SandboxError(f"store {self.path}: another sandbox uses it, end that one first.") from None

    def _prepare(self) -> None:
        (layout,) = self._keep.execute("PRAGMA user_version").fetchone()
        (tables,) = self._keep.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if layout not in (0, _LAYOUT) or (layout == 0 and tables):
            raise SandboxError(f"store {self.path}: this is something else, name another or remove it.")
        self._keep.executescript(f"PRAGMA journal_mode = WAL; {_TABLES} PRAGMA user_version = {_LAYOUT};")
        self._sweep()

    def connect(self) -> sqlite3.Connection:
        """A connection for one user at a time, whatever the thread."""
        connection = sqlite3.connect(
            self.path.absolute().as_uri(), uri=True, isolation_level=None, timeout=10, check_same_thread=False
        )
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if self.kept else 'OFF'}")
        return connection

    @contextmanager
    def transaction(self, connection: sqlite3.Connection) -> Generator[None]:
        """One short write: all of it or nothing. Raises `StoreFailed` where the file cannot take it."""
        with self.writing:
            try:
                connection.execute("BEGIN")
                yield
                connection.execute("COMMIT")
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error) and any(words in str(error).lower() for words in _FULL):
                    raise StoreFailed(
                        f"The sandbox's own store {self.path} cannot be written to ({error}):"
                        " free some space, or start the sandbox with another --store."
                    ) from None
                raise

    @contextmanager
    def writes(self) -> Generator[sqlite3.Connection]:
        with closing(self.connect()) as connection, self.transaction(connection):
            yield connection

    def changed(self, cache_id: str) -> None:
        self._changes[cache_id] += 1

    def version(self, cache_id: str) -> str:
        """What tells a copy's rows, as they are now, from all that any copy has ever held."""
        return f"{self._token} {cache_id} {self._changes[cache_id]}"

    def load(self) -> tuple[list[str], list[Row], dict[str, str]]:
        """The bodies of caches and the rows of executions, each in the order of their creation, and the shapes of the
        copies by their caches.
        """
        select = self._keep.execute
        caches = [body for (body,) in select("SELECT body FROM peaka_cache ORDER BY number")]
        executions = select("SELECT * FROM peaka_execution ORDER BY sequence").fetchall()
        return caches, executions, dict(select("SELECT * FROM peaka_copy"))

    def save(self, caches: Iterable[Row], executions: Iterable[Row], removed: Iterable[str]) -> None:
        with self.writes() as connection:
            connection.executemany(
                "INSERT INTO peaka_cache (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                caches,
            )
            connection.executemany(_SAVE_EXECUTION, executions)
            connection.executemany("DELETE FROM peaka_execution WHERE id = ?", [(gone,) for gone in removed])

    def swap(self, cache_id: str, shape: Any) -> None:
        """Put what was built aside in the copy's place, at once."""
        copy = quoted(copy_name(cache_id))
        with self.writes() as connection:
            connection.execute(f"DROP TABLE IF EXISTS {copy}")
            connection.execute(f"ALTER TABLE {quoted(aside_name(cache_id))} RENAME TO {copy}")
            remember_shape(connection, cache_id, shape)
        self.changed(cache_id)

    def discard(self, cache_id: str) -> None:
        with self.writes() as connection:
            connection.execute(f"DROP TABLE IF EXISTS {quoted(aside_name(cache_id))}")

    def forget(self, cache_id: str) -> None:
        """Forget a cache and its executions, so that they do not come back."""
        with self.writes() as connection:
            for table, column in (("cache", "id"), ("copy", "cache_id"), ("execution", "cache_id")):
                connection.execute(f"DELETE FROM peaka_{table} WHERE {column} = ?", (cache_id,))

    def drop(self, cache_id: str) -> None:
        """Drop the copy of a cache that is forgotten, and what was built to become it."""
        with self.writes() as connection:
            for name in (copy_name(cache_id), aside_name(cache_id)):
                connection.execute(f"DROP TABLE IF EXISTS {quoted(name)}")
            connection.execute("DELETE FROM peaka_copy WHERE cache_id = ?", (cache_id,))

    def _sweep(self) -> None:
        """Drop the copies of caches that were forgotten by a process that then had no time left."""
        known = {
            name(cache_id)
            for (cache_id,) in self._keep.execute("SELECT id FROM peaka_cache")
            for name in (copy_name, aside_name)
        }
        tables = self._keep.execute(
            "SELECT name FROM sqlite_master WHERE name GLOB 'copy_*' OR name GLOB 'aside_*'"
        )
        for (name,) in tables.fetchall():
            if name not in known:
                self._keep.execute(f"DROP TABLE IF EXISTS {quoted(name)}")
        self._keep.execute("DELETE FROM peaka_copy WHERE cache_id NOT IN (SELECT id FROM peaka_cache)")

    def close(self) -> None:
        while self._open:
            self._open.pop().close()
        if not self.kept:
            self._folder.cleanup()
