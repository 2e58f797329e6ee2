"""Copying rows from a source into the store: the true delta by primary key, or the whole table aside and swapped in.

Both are generators. Each step takes a bounded range of rows: it reads them in a short read transaction of the source
into a temporary table, then applies them in a short write transaction of the store, and yields. Between two steps
nothing is locked, others may write to source and store, and the caller may stop: what was applied stays. Everything
happens inside SQLite, so values keep their types and memory stays flat.

A row that moves to another key while a long copying walks past is seen by the next one, as in any sync by ranges.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from dagster_peaka.sandbox.sources import Table, affinity, describe, is_locked, quoted, read_only
from dagster_peaka.sandbox.store import Counts, Store, StoreFailed, aside_name, copy_name

T = TypeVar("T")
Key = tuple[Any, ...]
Steps = Generator[Counts, None, T]

STEP_ROWS = 5_000
_LOCK_WAIT_MS = 50
PATIENCE = 60.0
"""Seconds for which a source may stay locked by its writer before the copying gives up."""


class CopyError(Exception):
    """The copying cannot go on. The message says why and what to do."""


@dataclass
class Job:
    """What to copy: a source's table into a cache's copy, on behalf of an execution.

    `found` is the table as it was when the copying began; with its first step, or its swap, the copy looks like that.
    """

    source: Path
    table: str
    cache_id: str
    execution_id: str
    found: Table | None = None


def shape_of(table: Table) -> dict[str, Any]:
    """What a copy remembers of its source: columns with their declared types, and the key with its collations."""
    return {
        "columns": [[column.name, column.declared] for column in table.columns],
        "key": [list(part) for part in table.key],
    }


class Copier:
    """A connection to the store, used by one execution at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._db = store.connect()
        # Short, because it holds a thread: a source that is locked longer is tried again between the steps of others.
        self._db.execute(f"PRAGMA busy_timeout = {_LOCK_WAIT_MS}")
        self._attached: tuple[Path, int, int] | None = None
        self.interrupt: Callable[[], None] = self._db.interrupt
        """Ends a statement that runs right now, from any thread."""

    def close(self) -> None:
        """Give the connection back."""
        self._db.close()

    def incremental(self, job: Job, counts: Counts) -> Steps[None]:
        """Bring the copy up to its source. Yields the counts, which go on from those given, after every step.

        Raises `CopyError`, also where the source has no key or other columns than the copy.
        """
        yield from _explained(job, self._delta(job, counts))

    def full_refresh(self, job: Job) -> Steps[None]:
        """Build the copy's successor aside, leaving the copy as it is until `swap`. Yields the counts so far.

        Raises `CopyError`.
        """
        yield from _explained(job, self._rebuild(job))

    def swap(self, job: Job) -> None:
        """Put what `full_refresh` built in the copy's place, at once."""
        self._detach()
        old, new = quoted(copy_name(job.cache_id)), quoted(aside_name(job.cache_id))
        with self._store.transaction(self._db):
            self._db.execute(f"DROP TABLE IF EXISTS {old}")
            self._db.execute(f"ALTER TABLE {new} RENAME TO {old}")
            self._remember_shape(job)
        self._store.changed(job.cache_id)

    def discard(self, job: Job) -> None:
        """Forget what `full_refresh` built."""
        self._detach()
        with self._store.transaction(self._db):
            self._db.execute(f"DROP TABLE IF EXISTS {quoted(aside_name(job.cache_id))}")

    def _delta(self, job: Job, counts: Counts) -> Steps[None]:
        table = yield from self._patiently(counts, self._look, job)
        if not table.key:
            raise CopyError(f"{job.table} has no primary key, so there is no delta: run a full refresh.")
        source, copy = f"src.{quoted(job.table)}", quoted(copy_name(job.cache_id))
        if table.key_may_be_null and (yield from self._patiently(counts, self._null_keys, source, table)):
            raise CopyError(
                f"{job.table} has rows whose primary key is NULL, and no delta: run a full refresh."
            )
        counts = yield from self._patiently(counts, self._prepare_copy, job, table, copy, counts)
        delta = _Delta(table, copy)
        low: Key | None = None
        while True:
            there = yield from self._patiently(counts, self._bound, source, delta.walk(table.collates), low)
            here = yield from self._patiently(counts, self._bound, copy, delta.walk(False), low)
            high = self._lower(table, there, here)
            walk = delta.walk(table.collates)
            yield from self._patiently(counts, self._stage, source, table, walk, low, high)
            counts = yield from self._patiently(counts, self._merge, job, delta, low, high, counts)
            yield counts
            if high is None:
                return
            low = high

    def _rebuild(self, job: Job) -> Steps[None]:
        counts = Counts()
        table = yield from self._patiently(counts, self._look, job)
        source, aside = f"src.{quoted(job.table)}", quoted(aside_name(job.cache_id))
        yield from self._patiently(counts, self._prepare_aside, table, aside)
        nulls = table.key_may_be_null and (yield from self._patiently(counts, self._null_keys, source, table))
        if table.key and not nulls:  # rather than by rowid: a row that is replaced meanwhile gets a new one
            walk = _Delta(table, aside).walk(table.collates)
        elif table.rowid:
            walk = [table.rowid]
        else:  # a view has no order of its own that steps could follow: read it once, and walk what was read
            yield from self._patiently(counts, self._spool, source, table)
            source, walk = "temp.spool", ["rowid"]
        low: Key | None = None
        while True:
            high = yield from self._patiently(counts, self._bound, source, walk, low)
            yield from self._patiently(counts, self._stage, source, table, walk, low, high)
            counts = yield from self._patiently(counts, self._append, job, table, aside, counts)
            yield counts
            if high is None:
                return
            low = high

    def _patiently(self, counts: Counts, do: Callable[..., T], *values: Any) -> Steps[T]:
        """What `do` returns, tried again while the source's writer locks it. While a source is attached, SQLite may
        want to look into it for any statement.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return do(*values)
            except sqlite3.OperationalError as error:
                if not is_locked(error):
                    raise
                if time.monotonic() > deadline:
                    raise CopyError(
                        f"The source stayed locked by its writer for {PATIENCE:.0f} s: {error}."
                    ) from None
            yield counts

    def _look(self, job: Job) -> Table:
        """Attach the source's file and describe the table; a file put in another's place is opened anew."""
        try:
            stat = job.source.stat()
        except OSError as error:
            raise CopyError(f"The source {job.source} cannot be read: {error.strerror}.") from None
        wanted = (job.source, stat.st_dev, stat.st_ino)
        if self._attached != wanted:
            self._detach()
            self._db.execute("ATTACH ? AS src", (read_only(job.source),))
            self._attached = wanted
        table = describe(self._db, job.table, "src")
        if table is None:
            raise CopyError(f"The source {job.source} has no table {job.table} any more.")
        if not table.modes:
            raise CopyError(f"{job.table} in {job.source} cannot be cached: it is virtual or cannot be read.")
        self._db.execute("DROP TABLE IF EXISTS temp.stage")
        self._db.execute("DROP TABLE IF EXISTS temp.spool")
        self._db.execute(f"CREATE TABLE temp.stage ({_definitions(table)})")
        job.found = table
        return table

    def _detach(self) -> None:
        if self._attached is not None:
            self._db.execute("DETACH src")
            self._attached = None

    def _null_keys(self, source: str, table: Table) -> bool:
        found = self._db.execute(f"SELECT 1 FROM {source} WHERE {_any_null(table)} LIMIT 1").fetchall()
        return bool(found)

    def _prepare_copy(self, job: Job, table: Table, copy: str, counts: Counts) -> Counts:
        saved = self._db.execute(
            "SELECT shape FROM peaka_copy WHERE cache_id = ?", (job.cache_id,)
        ).fetchone()
        if saved is None:
            with self._store.transaction(self._db):
                self._db.execute(f"CREATE TABLE {copy} ({_definitions(table)})")
                self._remember_shape(job)
        elif (difference := _difference(json.loads(saved[0]), shape_of(table))) is not None:
            raise CopyError(f"The source table {job.table} changed ({difference}): run a full refresh.")
        (rows,) = self._db.execute(f"SELECT count(*) FROM {copy}").fetchone()
        return replace(counts, cached=rows)

    def _prepare_aside(self, table: Table, aside: str) -> None:
        with self._store.transaction(self._db):
            self._db.execute(f"DROP TABLE IF EXISTS {aside}")
            self._db.execute(f"CREATE TABLE {aside} ({_definitions(table)})")

    def _merge(self, job: Job, delta: "_Delta", low: Key | None, high: Key | None, counts: Counts) -> Counts:
        """Make a range of the copy what `temp.stage` is."""
        with self._store.transaction(self._db):
            deleted = self._apply(delta.delete(low, high)) + (
                self._apply(delta.delete_nulls()) if low is None else 0
            )
            updated = self._apply(delta.outdate(low, high))
            inserted = self._apply(delta.insert()) - updated
            counts = Counts(
                counts.inserted + inserted,
                counts.updated + updated,
                counts.deleted + deleted,
                counts.cached + inserted - deleted,
            )
            self._remember_counts(job, counts)
        if inserted or updated or deleted:
            self._store.changed(job.cache_id)
        return counts

    def _append(self, job: Job, table: Table, aside: str, counts: Counts) -> Counts:
        """Add `temp.stage` to what is built aside."""
        names = _names(table)
        with self._store.transaction(self._db):
            copied = self._apply((f"INSERT INTO {aside} ({names}) SELECT {names} FROM temp.stage", ()))
            counts = replace(counts, inserted=counts.inserted + copied, cached=counts.cached + copied)
            self._remember_counts(job, counts)
        return counts

    def _bound(self, relation: str, walk: Sequence[str], low: Key | None) -> Key | None:
        """The place at which a step that begins after `low` ends, None for the last step."""
        after, values = _between(walk, low, None)
        return self._key(
            f"SELECT {', '.join(walk)} FROM {relation} {after} ORDER BY {', '.join(walk)}"
            f" LIMIT 1 OFFSET {STEP_ROWS - 1}",
            values,
        )

    def _key(self, statement: str, values: Sequence[Any]) -> Key | None:
        """A row of key values, whose texts may be no UTF-8."""
        self._db.text_factory = _Text
        try:
            return self._db.execute(statement, values).fetchone()
        finally:
            self._db.text_factory = str

    def _lower(self, table: Table, one: Key | None, other: Key | None) -> Key | None:
        if one is None or other is None:
            return other if one is None else one
        order = ", ".join(f"{i} COLLATE {quoted(collation)}" for i, (_, collation) in enumerate(table.key, 1))
        both = f"SELECT {_marks(one)} UNION ALL SELECT {_marks(other)}"
        return self._key(f"SELECT * FROM ({both}) ORDER BY {order} LIMIT 1", (*one, *other))

    def _stage(
        self, source: str, table: Table, walk: Sequence[str], low: Key | None, high: Key | None
    ) -> None:
        within, values = _between(walk, low, high)
        names = _names(table)
        self._db.execute("DELETE FROM temp.stage")
        self._db.execute(f"INSERT INTO temp.stage ({names}) SELECT {names} FROM {source} {within}", values)

    def _spool(self, source: str, table: Table) -> None:
        self._db.execute(f"CREATE TABLE temp.spool AS SELECT {_names(table)} FROM {source}")

    def _apply(self, statement: tuple[str, Sequence[Any]]) -> int:
        return self._db.execute(*statement).rowcount

    def _remember_counts(self, job: Job, counts: Counts) -> None:
        self._db.execute(
            "UPDATE peaka_execution SET inserted = ?, updated = ?, deleted = ?, cached = ? WHERE id = ?",
            (*vars(counts).values(), job.execution_id),
        )

    def _remember_shape(self, job: Job) -> None:
        assert job.found is not None, "swapped before it was built"
        self._db.execute(
            "INSERT OR REPLACE INTO peaka_copy VALUES (?, ?)", (job.cache_id, json.dumps(shape_of(job.found)))
        )


def _explained(job: Job, steps: Steps[None]) -> Steps[None]:
    """The same steps; what fails says whether it was the source or the store. Raises `CopyError`."""
    try:
        yield from steps
    except StoreFailed as error:
        raise CopyError(str(error)) from None
    except sqlite3.Error as error:
        if "disk is full" in str(error):  # while rows of the source are put aside: SQLite's temporary file
            raise CopyError(
                f"The disk has no room for the temporary files of copying {job.table}: {error}."
            ) from None
        raise CopyError(f"Reading {job.table} from {job.source} failed: {error}.") from None


class _Delta:
    """The statements that make a range of a copy, from after `low` up to `high`, equal to `temp.stage`."""

    def __init__(self, table: Table, copy: str) -> None:
        self._key, self._copy, self._nulls = table.key, copy, _any_null(table)
        self._names = [quoted(column.name) for column in table.columns]
        self._same_key = " AND ".join(f"stage.{k} = {copy}.{k}" for k in self.walk(False))

    def walk(self, collate: bool) -> list[str]:
        """The key's columns to order and compare by. A column's own collation may differ from its key's, and then
        has to be named; where it need not be, SQLite finds a range of a key of several columns by its index.
        """
        return [f"{quoted(name)} COLLATE {quoted(c)}" if collate else quoted(name) for name, c in self._key]

    def delete(self, low: Key | None, high: Key | None) -> tuple[str, Key]:
        """Deletes what the source no longer has."""
        within, values = self._range(low, high)
        gone = f"NOT EXISTS (SELECT 1 FROM temp.stage WHERE {self._same_key})"
        return f"DELETE FROM {self._copy} {within} AND {gone}", values

    def delete_nulls(self) -> tuple[str, Key]:
        """Deletes what a full refresh has copied without a key: the source has no such rows any more."""
        return f"DELETE FROM {self._copy} WHERE {self._nulls}", ()

    def outdate(self, low: Key | None, high: Key | None) -> tuple[str, Key]:
        """Deletes what the source has changed, for `insert` to add it anew: an UPDATE has not room for all columns.
        Without its range it would walk the whole copy.
        """
        within, values = self._range(low, high)
        # Binary, whatever the collation: 'a' for 'A' is a change. And 1 IS 1.0, hence the types.
        changed = _any_of(
            [
                f"stage.{n} IS NOT {self._copy}.{n} COLLATE BINARY OR typeof(stage.{n}) <> typeof({self._copy}.{n})"
                for n in self._names
            ]
        )
        found = f"SELECT 1 FROM temp.stage WHERE {self._same_key} AND {changed}"
        return f"DELETE FROM {self._copy} {within} AND EXISTS ({found})", values

    def insert(self) -> tuple[str, Key]:
        """Adds what the source has got, or has changed."""
        names = ", ".join(self._names)
        known = f"SELECT 1 FROM {self._copy} WHERE {self._same_key}"
        return (
            f"INSERT INTO {self._copy} ({names}) SELECT {names} FROM temp.stage WHERE NOT EXISTS ({known})",
            (),
        )

    def _range(self, low: Key | None, high: Key | None) -> tuple[str, Key]:
        within, values = _between([f"{self._copy}.{k}" for k in self.walk(False)], low, high)
        return within or "WHERE TRUE", values


class _Text(bytes):
    """A text as it is stored, whether UTF-8 or not."""


def _marks(values: Sequence[Any]) -> str:
    """A ? for each value. What was a text is one again, without the affinity that a CAST alone would have."""
    return ", ".join("+CAST(? AS TEXT)" if isinstance(value, _Text) else "?" for value in values)


def _any_of(conditions: Sequence[str]) -> str:
    """The conditions joined by OR, in a tree: SQLite reads no expression that is a thousand levels deep."""
    if len(conditions) == 1:
        return f"({conditions[0]})"
    half = len(conditions) // 2
    return f"({_any_of(conditions[:half])} OR {_any_of(conditions[half:])})"


def _names(table: Table) -> str:
    return ", ".join(quoted(column.name) for column in table.columns)


def _any_null(table: Table) -> str:
    return " OR ".join(f"{quoted(name)} IS NULL" for name, _ in table.key)


def _between(walk: Sequence[str], low: Key | None, high: Key | None) -> tuple[str, Key]:
    """The condition that a row lies after `low` and not after `high`, with its values."""
    columns = ", ".join(walk)
    bounds = [(">", low), ("<=", high)]
    # SQLite: a row value; of one column it would be no row value
    form = "({}) {} ({})" if len(walk) > 1 else "{} {} {}"
    conditions = [form.format(columns, sign, _marks(bound)) for sign, bound in bounds if bound is not None]
    values = tuple(value for _, bound in bounds if bound is not None for value in bound)
    return (f"WHERE {' AND '.join(conditions)}" if conditions else "", values)


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
