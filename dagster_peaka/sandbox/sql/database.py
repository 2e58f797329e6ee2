"""The database in memory that computes: tables read from SQLite files, each version of them once, and statements.

There is one for the process, as copies are shared between statements. Each statement has a session: it takes the
tables that it needs, all of one file's from one state of it, and gives them back. Tables that nobody uses go when
newer ones are read, or when there are too many values.
"""

from __future__ import annotations

import csv
import re
import sqlite3
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import duckdb
import numpy  # noqa: F401  # pyright: ignore[reportUnusedImport] - DuckDB calls functions by it: missed at once, if it is missing

from dagster_peaka.sandbox.sources import TableName, quoted, read_only
from dagster_peaka.sandbox.sql import formats, udfs
from dagster_peaka.sandbox.sql.casts import CLOCK, DAY
from dagster_peaka.sandbox.sql.catalogue import MACROS
from dagster_peaka.sandbox.sql.kinds import (
    DATE,
    DOUBLE,
    UNKNOWN,
    VARCHAR,
    SqlError,
    Type,
    parse_type,
    text_literal,
)
from dagster_peaka.sandbox.sql.scope import Field, Place

LARGEST_RESULT = 20_000_000
"""Values and characters of a result, which is held in memory."""
MOST_VALUES = 60_000_000
"""Values of tables that are kept for the next statement."""
MEMORY = "2GB"
"""What DuckDB may take: more is an error of the statement."""

_LOCK_PATIENCE = 5.0  # seconds to wait for a writer of a source file
_LONGEST_LINE = 1 << 26  # bytes of a row on its way from SQLite
_MOST_WATCHED = 64

assert formats, "its functions are registered by its import"


@dataclass
class _Table:
    """A table that was read: its name in DuckDB, and of each column an error's text or where bad values are noted."""

    name: str
    values: int
    kinds: tuple[Type, ...]
    problems: tuple[str, ...]
    flawed: frozenset[int]
    uses: int = 0


class Database:
    """DuckDB, with the functions of the generated SQL and the tables that were read so far."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._tables: OrderedDict[tuple[object, ...], _Table] = OrderedDict()
        self._watched: OrderedDict[str, tuple[tuple[int, int], sqlite3.Connection]] = OrderedDict()
        self._numbers = 0
        # One thread: sums of doubles come in one order, and rows in that of their file.
        self.connection = duckdb.connect(
            config={
                "threads": 1,
                "memory_limit": MEMORY,
                "temp_directory": "",
                "autoinstall_known_extensions": False,
            }
        )
        self.connection.execute("SET TimeZone = 'UTC'")
        for line in MACROS.strip().splitlines():
            self.connection.execute(f"CREATE MACRO {line}")
        for name, (arguments, result, function) in udfs.UDFS.items():
            create: Any = getattr(self.connection, "create_function")  # noqa: B009 - its types are not complete
            kinds = [duckdb.sqltype(kind) for kind in arguments]
            create(name, function, kinds, duckdb.sqltype(result), null_handling="special")

    @contextmanager
    def session(self) -> Generator[Session]:
        """What one statement reads."""
        session = Session(self)
        try:
            yield session
        finally:
            session.close()

    def take(self, place: Place, files: dict[str, sqlite3.Connection]) -> _Table:
        """A table as it is now, to be given back."""
        with self._lock:
            key = (place.path, place.table, place.most_rows, place.columns)
            version = place.version or (self._version(place.path) if place.rows is None else place.rows)
            table = self._tables.get((*key, version))
            if table is None:
                for old in [
                    known for known, one in self._tables.items() if known[:2] == key[:2] and not one.uses
                ]:
                    self._drop(old)
                table = self._tables[(*key, version)] = self._read(place, files)
            self._tables.move_to_end((*key, version))
            table.uses += 1
            for old in [known for known, one in self._tables.items() if not one.uses]:
                if sum(one.values for one in self._tables.values()) > MOST_VALUES:
                    self._drop(old)
            return table

    def give_back(self, tables: Sequence[_Table]) -> None:
        """Let go of tables."""
        with self._lock:
            for table in tables:
                table.uses -= 1

    def _drop(self, key: tuple[object, ...]) -> None:
        self.connection.execute(f"DROP TABLE {self._tables.pop(key).name}")

    def _version(self, path: str) -> object:
        """What changes whenever a file does: SQLite tells it to a connection that stays open."""
        try:
            found = Path(path).stat()
        except OSError as error:
            raise SqlError(f"The source file {path} cannot be opened: {error.strerror}") from None
        same = (found.st_dev, found.st_ino)
        known = self._watched.get(path)
        if known is None or known[0] != same:
            known = self._watched[path] = (same, connect(path))
        self._watched.move_to_end(path)
        while len(self._watched) > _MOST_WATCHED:
            self._watched.popitem(last=False)[1][1].close()
        return (*same, id(known[1]), known[1].execute("PRAGMA data_version").fetchone()[0])

    def _read(self, place: Place, files: dict[str, sqlite3.Connection]) -> _Table:
        kinds: list[Type] = []
        problems: list[str] = []
        for name, declared in place.columns:
            try:
                kinds.append(parse_type(declared))
                problems.append("")
            except SqlError as error:
                kinds.append(UNKNOWN)
                problems.append(f"Column '{name}': {error}")
        self._numbers += 1
        name, raw = f"t{self._numbers}", f"raw{self._numbers}"
        used = [index for index, problem in enumerate(problems) if not problem]
        with tempfile.NamedTemporaryFile("w", suffix=".csv", newline="", encoding="utf-8") as file:
            _write(place, [(index, kinds[index]) for index in used], files, file)
            file.flush()
            marker = ["'n': 'VARCHAR'"] if not used else []
            listed = ", ".join([*marker, *(f"'r{index}': 'VARCHAR'" for index in used)])
            longest = min(max(file.tell(), 1 << 16), _LONGEST_LINE)  # no more room than there may be need for
            options = "header=false, auto_detect=false, delim=',', quote='\"', escape='\"', new_line='\\r\\n'"
            options += f", max_line_size={longest}, buffer_size={2 * longest}"
            read = f"read_csv({text_literal(file.name)}, {options}, columns={{{listed}}})"
            self.connection.execute(f"CREATE TABLE {raw} AS SELECT * FROM {read}")
        try:
            typed = {index: _typed(f"r{index}", kinds[index]) for index in used}
            bad = {index: f"(r{index} IS NOT NULL AND ({sql}) IS NULL)" for index, sql in typed.items()}
            (rows,) = self.connection.execute(f"SELECT count(*) FROM {raw}").fetchone() or (0,)
            flawed = frozenset(self._flawed(raw, bad))
            columns = [f"{sql} AS c{index}" for index, sql in typed.items()]
            columns += [
                f"CASE WHEN {bad[index]} THEN ltrim(r{index}, '!') END AS b{index}" for index in flawed
            ]
            self.connection.execute(f"CREATE TABLE {name} AS SELECT {', '.join(columns or ['n'])} FROM {raw}")
        finally:
            self.connection.execute(f"DROP TABLE {raw}")
        return _Table(name, rows * max(1, len(columns)), tuple(kinds), tuple(problems), flawed)

    def _flawed(self, raw: str, tests: Mapping[int, str]) -> list[int]:
        """The columns whose test is true of some row. Halved until they are few: DuckDB takes long for many at once."""
        if not tests:
            return []
        some = f"SELECT 1 FROM {raw} WHERE {' OR '.join(tests.values())} LIMIT 1"
        if self.connection.execute(some).fetchone() is None:
            return []
        if len(tests) == 1:
            return list(tests)
        listed = list(tests.items())
        half = len(listed) // 2
        return self._flawed(raw, dict(listed[:half])) + self._flawed(raw, dict(listed[half:]))


class Session:
    """The tables that one statement reads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._taken: dict[Place, _Table] = {}
        self._files: dict[str, sqlite3.Connection] = {}

    def load(self, place: Place, ref: TableName, alias: str) -> tuple[str, list[Field]]:
        """The SQL that reads a table under an alias, and its columns."""
        under = tuple(part.lower() for part in ref)
        if place not in self._taken:
            try:
                self._taken[place] = self._database.take(place, self._files)
            except sqlite3.Error as error:
                raise _unreadable(place.path, error) from None
            except duckdb.Error as error:
                said = str(error).partition("\n")[0][:200]
                raise SqlError(f"The rows of {ref} cannot be taken over by this sandbox: {said}") from None
        table = self._taken[place]
        fields: list[Field] = []
        for index, ((name, _), kind) in enumerate(zip(place.columns, table.kinds, strict=True)):
            sql = f"{alias}.c{index}"
            if index in table.flawed:
                said = text_literal(f"Column {name} is {kind}, but a row of its source holds ")
                sql = f"CASE WHEN {alias}.b{index} IS NULL THEN {sql} ELSE error({said} || {alias}.b{index}) END"
            fields.append(Field(name, sql, kind, under, ref, table.problems[index]))
        return f"{table.name} AS {alias}", fields

    def execute(
        self,
        sql: str,
        bindings: Sequence[str],
        kinds: Sequence[Type],
        columns: Mapping[str, str],
        deadline: float,
        max_rows: int | None,
    ) -> list[tuple[Any, ...]]:
        """The rows of a generated statement, whose columns have these types."""
        for connection in self._files.values():  # what it needs is read: writers need not wait
            connection.close()
        cursor = self._database.connection.cursor()
        timer = threading.Timer(max(0.0, deadline - time.monotonic()), cursor.interrupt)
        timer.start()
        try:
            cursor.execute(sql, list(bindings))
            _check_types(cursor, kinds)
            return _fetched(cursor, max_rows)
        except (duckdb.Error, UnicodeError, OverflowError, MemoryError, RuntimeError) as error:
            if time.monotonic() >= deadline:
                raise SqlError("Query exceeded its time limit") from None
            raise explained(error, columns) from None
        finally:
            timer.cancel()
            cursor.close()

    def close(self) -> None:
        """Give everything back."""
        self._database.give_back(list(self._taken.values()))
        for connection in self._files.values():
            connection.close()


# --- From SQLite


def connect(path: str) -> sqlite3.Connection:
    """A file, opened for reading only, by whatever thread."""
    return sqlite3.connect(
        read_only(Path(path)), uri=True, isolation_level=None, timeout=_LOCK_PATIENCE, check_same_thread=False
    )


def _unreadable(path: str, error: sqlite3.Error) -> SqlError:
    text = str(error)
    if "locked" in text or "busy" in text:
        return SqlError(
            f"A source file has been locked for {_LOCK_PATIENCE:g} seconds by another process; try again"
        )
    return SqlError(f"The source file {path} cannot be read: {text}")


def _write(
    place: Place, columns: Sequence[tuple[int, Type]], files: dict[str, sqlite3.Connection], file: Any
) -> None:
    """A table's rows as lines of texts: texts behind an x, a bad value as ! and its description."""
    lines = csv.writer(file)
    if place.rows is not None:
        of_text = {index for index, kind in columns if kind == VARCHAR}
        for row in place.rows:
            lines.writerow(
                [f"x{cell}" if at in of_text and cell is not None else cell for at, cell in enumerate(row)]
            )
        return
    if place.path not in files:
        files[place.path] = connect(place.path)
        files[place.path].execute("BEGIN")
        files[place.path].text_factory = _text
    names = ", ".join(f"s.{quoted(place.columns[index][0])} AS c{index}" for index, _ in columns)
    listed = ", ".join(_cell(f"c{index}", kind) for index, kind in columns) or "'1'"
    limit = "" if place.most_rows is None else f" LIMIT {place.most_rows}"
    sql = f"SELECT {listed} FROM (SELECT {names or '1'} FROM {quoted(place.table)} AS s){limit}"
    lines.writerows(files[place.path].execute(sql))


def _text(stored: bytes) -> str:
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return f"!a text that is no UTF-8: {stored[1:60]!r}"


_CLASSES = {
    "boolean": "'integer'",
    "double": "'integer', 'real'",
    "decimal": "'integer', 'real', 'text'",
    "varbinary": "'blob'",
}
"""SQLite's storage classes of a type's values; integers have their own, any other type has texts."""


def _cell(sql: str, kind: Type) -> str:
    """SQLite's SQL for a column's text. SQLite lets any value into any column; a text in a bigint must not be 0."""
    classes = "'integer'" if kind.is_integer else _CLASSES.get(kind.name, "'text'")
    shown = {"varchar": f"'x' || {sql}", "json": f"'x' || {sql}", "varbinary": f"'x' || hex({sql})"}.get(
        kind.name, sql
    )
    said = f"WHEN 'blob' THEN 'a BLOB of ' || length({sql}) || ' bytes' WHEN 'text' THEN quote(substr({sql}, 1, 100))"
    bad = f"'!' || (CASE typeof({sql}) {said} ELSE {sql} END)"
    return f"CASE WHEN {sql} IS NULL THEN NULL WHEN typeof({sql}) IN ({classes}) THEN {shown} ELSE {bad} END"


_MOMENT = rf"{DAY}([ T]{CLOCK}(Z|[+-]00:?00)?)?"


def _typed(raw: str, kind: Type) -> str:
    """DuckDB's SQL for what `_cell` wrote; NULL for what is not of the type."""
    if kind == VARCHAR or kind.name == "json":
        return f"CASE WHEN starts_with({raw}, 'x') THEN substr({raw}, 2) END"
    if kind.name == "varbinary":
        return f"CASE WHEN starts_with({raw}, 'x') THEN unhex(substr({raw}, 2)) END"
    if kind == DATE:
        return f"CASE WHEN regexp_full_match({raw}, '{DAY}') THEN t_day({raw}) END"
    if kind.is_timestamp:
        bare = f"regexp_replace(replace({raw}, 'T', ' '), '(Z|[+-]00:?00)$', '')"
        moment = f"t_moment({bare}, {10 ** (6 - kind.precision)})"
        return f"CASE WHEN regexp_full_match({raw}, '{_MOMENT}') THEN {moment} END"
    if kind == DOUBLE:
        return f"CASE WHEN isfinite(TRY_CAST({raw} AS DOUBLE)) THEN TRY_CAST({raw} AS DOUBLE) END"
    if kind.name == "decimal":
        number = f"TRY_CAST({raw} AS {kind.stored})"
        return f"CASE WHEN TRY_CAST({raw} AS DECIMAL(38,18)) = {number} THEN {number} END"
    return f"TRY_CAST({raw} AS {kind.stored})"


# --- Results and errors


def _fetched(cursor: duckdb.DuckDBPyConnection, max_rows: int | None) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    size = 0
    while block := cursor.fetchmany(1000 if max_rows is None else min(1000, max_rows - len(rows))):
        rows += block
        size += sum(_size(cell) for row in block for cell in row)
        if size > LARGEST_RESULT:
            raise SqlError(
                f"The result is larger than this sandbox's {LARGEST_RESULT:,} values and characters; use LIMIT"
            )
        if max_rows is not None and len(rows) >= max_rows:
            break
    return rows


def _size(cell: Any) -> int:
    return len(cast("Sized", cell)) if isinstance(cell, (str, bytes, list, dict)) else 1


def _check_types(cursor: duckdb.DuckDBPyConnection, kinds: Sequence[Type]) -> None:
    """What DuckDB computed must be what Trino has: a last guard against a function with a wrong line."""
    for (_, found, *_), kind in zip(cursor.description or (), kinds, strict=True):
        if str(found).replace('"', "") != kind.stored.replace('"', "") and UNKNOWN not in kind.parts:
            raise SqlError(
                f"The sandbox would compute a {found} where Trino has {kind}, so it does not answer this"
            )


_SAID: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"occurred while executing the UDF: SqlError: (.*)", lambda m: m[1]),
    (
        r"Invalid Input Error: More than one row returned",
        lambda _: "Scalar sub-query has returned multiple rows",
    ),
    (r"Out of Range Error: (Overflow .*)", lambda m: f"Numeric overflow: {m[1]}"),
    (r"Conversion Error: (.*out of range.*)", lambda m: f"Cannot cast, numeric overflow: {m[1]}"),
    (r"Conversion Error: (.*)", lambda m: f"Cannot cast: {m[1]}"),
    (r"^Out of Memory Error", lambda _: "The statement needs more memory than this sandbox has"),
    (r"^Invalid Input Error: (.*)", lambda m: m[1]),
)


def explained(error: Exception, columns: Mapping[str, str]) -> SqlError:
    """DuckDB's error as the statement's; `columns` are the names of what the statement uses, by their SQL."""
    text = str(error)
    if match := re.search(r"column \"?(?:\w+\.)?(\w+)\"? must appear in the GROUP BY clause", text):
        names = sorted({name for sql, name in columns.items() if sql.endswith(f".{match[1]}")})
        return SqlError(
            f"'{' or '.join(names)}' must be an aggregate expression or appear in GROUP BY clause"
        )
    for pattern, said in _SAID:
        if match := re.search(pattern, text):
            return SqlError(said(match))
    return SqlError(f"The sandbox's DuckDB cannot run this statement: {text.partition(chr(10))[0][:300]}")
