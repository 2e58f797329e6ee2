"""Copying rows from a source into the store: the true delta by primary key, or the whole table aside and swapped in.

Each step takes a bounded range of rows: it reads them in a short read transaction of the source into a temporary table,
then applies them in a short write transaction of the store. Between two steps nothing is locked, others may write to
source and store, and the caller may stop: what was applied stays. Everything happens inside SQLite, so values keep
their types and memory stays flat.

A row that moves to another key while a long copying walks past is seen by the next one, as in any sync by ranges.
"""

import json
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dagster_peaka.sandbox.caches import Cache, Execution
from dagster_peaka.sandbox.sources import Table, affinity, describe, is_locked, quoted, read_only
from dagster_peaka.sandbox.store import Counts, Store, StoreFailed, aside_name, copy_name, remember_shape

Key = tuple[Any, ...]

STEP_ROWS = 5_000
_LOCK_WAIT_MS = 50
PATIENCE = 60.0
"""Seconds for which a source may stay locked by its writer before the copying gives up."""


class CopyError(Exception):
    """The copying cannot go on. The message says why and what to do."""


def shape_of(table: Table) -> dict[str, Any]:
    """What a copy remembers of its source: columns with their declared types, and the key with its collations."""
    return {
        "columns": [[column.name, column.declared] for column in table.columns],
        "key": [list(part) for part in table.key],
    }


class Connection:
    """A connection to the store, and the source that is attached to it: its path, device and inode."""

    def __init__(self, store: Store) -> None:
        self.db = store.connect()
        # Short, because it holds a thread: a source that is locked longer is tried again between the steps of others.
        self.db.execute(f"PRAGMA busy_timeout = {_LOCK_WAIT_MS}")
        self._attached: tuple[Path, int, int] | None = None

    def attach(self, source: Path) -> None:
        """Attach a source's file as `src`; one put in another's place is opened anew."""
        stat = source.stat()
        wanted = (source, stat.st_dev, stat.st_ino)
        if self._attached == wanted:
            return
        if self._attached is not None:
            self.db.execute("DETACH src")
            self._attached = None
        self.db.execute("ATTACH ? AS src", (read_only(source),))
        self._attached = wanted


class Copier(ABC):
    """The copying of one execution. `counts` are its rows so far, `table` is the source as its first step found it."""

    def __init__(
        self, store: Store, connection: Connection, source: Path, cache: Cache, execution: Execution
    ) -> None:
        self.counts = execution.counts
        self.table: Table | None = None
        self._store, self._connection, self._db = store, connection, connection.db
        self._file, self._name = source, cache.name.table
        self._cache_id, self._execution_id = cache.id, execution.id
        self._source = f"src.{quoted(self._name)}"
        self._low: Key | None = None
        self._high: Key | None = None
        self._deadline = time.monotonic() + PATIENCE

    def step(self) -> bool:
        """Copy the next rows, or try what the source's lock has kept from being done. False where there are no more.

        Raises `CopyError`, which blames the source or the store.
        """
        try:
            more = self._step()
        except StoreFailed as error:
            raise CopyError(str(error)) from None
        except (sqlite3.Error, OSError) as error:
            # While a source is attached, SQLite may want to look into it for any statement.
            if not is_locked(error):
                raise CopyError(self._reason(error)) from None
            if time.monotonic() > self._deadline:
                raise CopyError(f"The source stayed locked for {PATIENCE:.0f} s: {error}.") from None
            return True
        self._deadline = time.monotonic() + PATIENCE
        return more

    def _reason(self, error: Exception) -> str:
        if "disk is full" in str(error):  # while rows of the source are put aside: SQLite's temporary file
            return f"The disk has no room for the temporary files of copying {self._name}: {error}."
        return f"Reading {self._name} from {self._file} failed: {error}."

    def _step(self) -> bool:
        if self.table is None:
            table = self._look()
            self._prepare(table)
            self.table = table
        self._high = self._end()
        within, values = _between(self._walk, self._low, self._high)
        names = _names(self.table)
        self._db.execute("DELETE FROM temp.stage")
        self._rows(f"INSERT INTO temp.stage ({names}) SELECT {names} FROM {self._source} {within}", values)
        with self._store.transaction(self._db):
            counts = self._apply()
            self._db.execute(
                "UPDATE peaka_execution SET inserted = ?, updated = ?, deleted = ?, cached = ? WHERE id = ?",
                (*vars(counts).values(), self._execution_id),
            )
        self.counts, self._low = counts, self._high
        return self._high is not None

    def _look(self) -> Table:
        self._connection.attach(self._file)
        table = describe(self._db, self._name, "src")
        if table is None:
            raise CopyError(f"The source {self._file} has no table {self._name} any more.")
        if not table.modes:
            where = f"{self._name} in {self._file}"
            raise CopyError(f"{where} cannot be cached: it is virtual or cannot be read.")
        self._db.execute("DROP TABLE IF EXISTS temp.stage")
        self._db.execute("DROP TABLE IF EXISTS temp.spool")
        self._db.execute(f"CREATE TABLE temp.stage ({_definitions(table)})")
        self._walk = self._key = [quoted(part) for part, _ in table.key]
        # A column's own collation may differ from its key's, and then has to be named; where it need not be, SQLite
        # finds a range of a key of several columns by its index.
        if table.collates:
            self._walk = [f"{quoted(part)} COLLATE {quoted(collation)}" for part, collation in table.key]
        self._nulls = " OR ".join(f"{part} IS NULL" for part in self._key)
        return table

    @abstractmethod
    def _prepare(self, table: Table) -> None:
        """Make what the rows go to."""

    def _end(self) -> Key | None:
        """The place at which the step that begins after `_low` ends, None for the last step."""
        return self._bound(self._source, self._walk)

    @abstractmethod
    def _apply(self) -> Counts:
        """Let what is in `temp.stage` count, in a transaction; the counts with it."""

    def _has_null_keys(self, table: Table) -> bool:
        if not table.key_may_be_null:
            return False
        found = self._db.execute(f"SELECT 1 FROM {self._source} WHERE {self._nulls} LIMIT 1").fetchall()
        return bool(found)

    def _bound(self, relation: str, walk: Sequence[str]) -> Key | None:
        after, values = _between(walk, self._low, None)
        columns = ", ".join(walk)
        rest = f"SELECT {columns} FROM {relation} {after} ORDER BY {columns}"
        return self._one(f"{rest} LIMIT 1 OFFSET {STEP_ROWS - 1}", values)

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> int:
        return self._db.execute(statement, values).rowcount

    def _one(self, statement: str, values: Sequence[Any]) -> Key | None:
        """A row of key values, whose texts may be no UTF-8."""
        self._db.text_factory = _Text
        try:
            return self._db.execute(statement, values).fetchone()
        finally:
            self._db.text_factory = str


class Rebuild(Copier):
    """Builds the copy's successor aside, leaving the copy as it is until `Store.swap`."""

    def _prepare(self, table: Table) -> None:
        self._aside = quoted(aside_name(self._cache_id))
        with self._store.transaction(self._db):
            self._db.execute(f"DROP TABLE IF EXISTS {self._aside}")
            self._db.execute(f"CREATE TABLE {self._aside} ({_definitions(table)})")
        self.counts = Counts()
        if table.key and not self._has_null_keys(table):
            return  # rather than by rowid: a row that is replaced meanwhile gets a new one
        self._walk = [table.rowid or "rowid"]
        if (
            not table.rowid
        ):  # a view has no order of its own that steps could follow: read it once, and walk that
            self._db.execute(f"CREATE TABLE temp.spool AS SELECT {_names(table)} FROM {self._source}")
            self._source = "temp.spool"

    def _apply(self) -> Counts:
        assert self.table is not None
        names = _names(self.table)
        copied = self._rows(f"INSERT INTO {self._aside} ({names}) SELECT {names} FROM temp.stage")
        return Counts(inserted=self.counts.inserted + copied, cached=self.counts.cached + copied)


class Delta(Copier):
    """Makes the copy, range by range, equal to its source; the copy is made where there is none."""

    def _prepare(self, table: Table) -> None:
        if not table.key:
            raise CopyError(f"{self._name} has no primary key, so there is no delta: run a full refresh.")
        if self._has_null_keys(table):
            raise CopyError(f"{self._name} has rows whose primary key is NULL: run a full refresh.")
        self._copy = quoted(copy_name(self._cache_id))
        saved = self._db.execute(
            "SELECT shape FROM peaka_copy WHERE cache_id = ?", (self._cache_id,)
        ).fetchone()
        if saved is None:
            with self._store.transaction(self._db):
                self._db.execute(f"CREATE TABLE {self._copy} ({_definitions(table)})")
                remember_shape(self._db, self._cache_id, shape_of(table))
        elif (difference := _difference(json.loads(saved[0]), shape_of(table))) is not None:
            raise CopyError(f"The source table {self._name} changed ({difference}): run a full refresh.")
        (rows,) = self._db.execute(f"SELECT count(*) FROM {self._copy}").fetchone()
        self.counts = replace(self.counts, cached=rows)

    def _step(self) -> bool:
        before = self.counts
        more = super()._step()
        # How many rows there are already is found by the first step, and changes none.
        if self.counts != replace(before, cached=self.counts.cached):
            self._store.changed(self._cache_id)
        return more

    def _end(self) -> Key | None:
        there, here = self._bound(self._source, self._walk), self._bound(self._copy, self._key)
        if there is None or here is None:
            return there or here
        return self._lower(there, here)

    def _lower(self, one: Key, other: Key) -> Key | None:
        assert self.table is not None
        order = ", ".join(f"{at} COLLATE {quoted(c)}" for at, (_, c) in enumerate(self.table.key, 1))
        both = f"SELECT {_marks(one)} UNION ALL SELECT {_marks(other)}"
        return self._one(f"SELECT * FROM ({both}) ORDER BY {order} LIMIT 1", (*one, *other))

    def _apply(self) -> Counts:
        assert self.table is not None
        copy, names, counts = self._copy, _names(self.table), self.counts
        within, values = _between([f"{copy}.{part}" for part in self._key], self._low, self._high)
        same_key = " AND ".join(f"stage.{part} = {copy}.{part}" for part in self._key)
        staged = f"SELECT 1 FROM temp.stage WHERE {same_key}"
        # Binary, whatever the collation: 'a' for 'A' is a change. And 1 IS 1.0, hence the types.
        columns = [quoted(column.name) for column in self.table.columns]
        new, old = ([f"{of}.{column}" for column in columns] for of in ("stage", copy))
        values_differ = f"({', '.join(new)}) IS NOT ({', '.join(f'{cell} COLLATE BINARY' for cell in old)})"
        types_differ = f"({_types(new)}) <> ({_types(old)})"
        changed = f"({values_differ} OR {types_differ})"
        deleted = self._rows(f"DELETE FROM {copy} {within} AND NOT EXISTS ({staged})", values)
        if (
            self._low is None
        ):  # what a full refresh has copied without a key: the source has no such rows any more
            deleted += self._rows(f"DELETE FROM {copy} WHERE {self._nulls}")
        # To be inserted anew: an UPDATE has not room for all columns. Without its range it would walk the whole copy.
        updated = self._rows(f"DELETE FROM {copy} {within} AND EXISTS ({staged} AND {changed})", values)
        missing = f"NOT EXISTS (SELECT 1 FROM {copy} WHERE {same_key})"
        inserted = self._rows(f"INSERT INTO {copy} ({names}) SELECT {names} FROM temp.stage WHERE {missing}")
        return Counts(
            counts.inserted + inserted - updated,
            counts.updated + updated,
            counts.deleted + deleted,
            counts.cached + inserted - updated - deleted,
        )


class _Text(bytes):
    """A text as it is stored, whether UTF-8 or not."""


def _marks(values: Sequence[Any]) -> str:
    """A ? for each value. What was a text is one again, without the affinity that a CAST alone would have."""
    return ", ".join("+CAST(? AS TEXT)" if isinstance(value, _Text) else "?" for value in values)


def _types(cells: Sequence[str]) -> str:
    return ", ".join(f"typeof({cell})" for cell in cells)


def _names(table: Table) -> str:
    return ", ".join(quoted(column.name) for column in table.columns)


def _between(walk: Sequence[str], low: Key | None, high: Key | None) -> tuple[str, Key]:
    """The condition that a row lies after `low` and not after `high`, with its values."""
    columns = ", ".join(walk)
    bounds = [(">", low), ("<=", high)]
    conditions = [f"({columns}) {sign} ({_marks(bound)})" for sign, bound in bounds if bound is not None]
    values = tuple(value for _, bound in bounds if bound is not None for value in bound)
    return f"WHERE {' AND '.join(['TRUE', *conditions])}", values


def _definitions(table: Table) -> str:
    """The columns of a copy: the affinities of the source, so that no value changes its type, and its key."""
    collations = dict(table.key)
    parts: list[str] = []
    for column in table.columns:
        declared = "BLOB" if table.strict and column.declared.upper() == "ANY" else affinity(column.declared)
        if table.key_is_rowid and column.name in collations:
            parts.append(f"{quoted(column.name)} INTEGER PRIMARY KEY")
        elif column.name in collations:
            parts.append(f"{quoted(column.name)} {declared} COLLATE {quoted(collations[column.name])}")
        else:
            parts.append(f"{quoted(column.name)} {declared}")
    if table.key and not table.key_is_rowid:
        parts.append(f"PRIMARY KEY ({', '.join(quoted(name) for name, _ in table.key)})")
    return ", ".join(parts)


def _difference(saved: dict[str, Any], now: dict[str, Any]) -> str | None:
    """In which respect a source no longer looks like its copy, in words."""
    before, after = dict(saved["columns"]), dict(now["columns"])
    changes = {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "of another type": [name for name in after if name in before and before[name] != after[name]],
    }
    said = [f"columns {word}: {', '.join(names)}" for word, names in changes.items() if names]
    if not said and saved["key"] != now["key"]:
        said = ["another primary key"]
    if not said and list(before) != list(after):
        said = ["columns in another order"]
    return "; ".join(said) or None
