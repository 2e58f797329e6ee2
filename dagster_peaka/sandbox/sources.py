"""The catalogs: SQLite files that others write to, opened read-only, described as tables with columns and keys.

A schema that nobody has brought can be made: an empty file in a folder that the next sandbox finds again.
"""

import fnmatch
import hashlib
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote

from dagster_peaka.sandbox.behaviour import Mode


class SandboxError(ValueError):
    """The sandbox cannot start as asked. The message is one sentence that says what to change."""


class TableName(NamedTuple):
    """A table by its three names."""

    catalog: str
    schema: str
    table: str

    def __str__(self) -> str:
        return ".".join(self)

    @classmethod
    def parse(cls, text: str) -> "TableName":
        """`catalog.schema.table`; whatever follows the second dot is the table. Raises `SandboxError`."""
        parts = text.split(".", 2)
        if len(parts) != 3 or not all(parts):
            raise SandboxError(f"cache {text}: write it as catalog.schema.table.")
        return cls(*parts)


@dataclass(frozen=True)
class Column:
    """A column as its SQLite file declares it."""

    name: str
    declared: str
    not_null: bool = False
    unique: bool = False
    default: str | None = None

    @property
    def trino_type(self) -> str:
        """The type that Peaka's List Columns would show for it."""
        return trino_type(self.declared)


@dataclass(frozen=True)
class Table:
    """A table or view of a source. `key` holds the primary key's columns with their collations, in the key's order.

    `rowid` is a name under which a row's number can be read, `key_is_rowid` says that the key is that number.
    """

    name: str
    kind: Literal["table", "view", "virtual"]
    columns: tuple[Column, ...]
    key: tuple[tuple[str, str], ...] = ()
    key_is_rowid: bool = False
    key_may_be_null: bool = False
    collates: bool = False
    strict: bool = False
    rowid: str | None = None

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes in which it can be cached: a delta needs a key, and no virtual table can be cached."""
        if self.kind == "virtual" or not self.columns:
            return ()
        return ("FULL_REFRESH", "INCREMENTAL") if self.key else ("FULL_REFRESH",)


_LOCK_PATIENCE = 5
"""Seconds for which a description waits for a source that its writer locks."""
_INDEXES = 'SELECT name, "unique", origin, partial FROM pragma_index_list(?, ?)'
_EXACT = {
    "boolean": "boolean",
    "bool": "boolean",
    "date": "date",
    "datetime": "timestamp(3)",
    "timestamp": "timestamp(3)",
    "json": "json",
    "": "varchar",
    "any": "varchar",
}


def trino_type(declared: str) -> str:
    """The Trino type of a column that SQLite declares as `declared`; by SQLite's rules of affinity where in doubt."""
    bare = re.sub(r"\(.*", "", declared).strip().lower()
    if bare in _EXACT:
        return _EXACT[bare]
    return {"INT": "bigint", "TEXT": "varchar", "BLOB": "varbinary"}.get(affinity(declared), "double")


def affinity(declared: str) -> str:
    """The affinity of a declared type (https://www.sqlite.org/datatype3.html, section 3.1)."""
    upper = declared.upper()
    if "INT" in upper:
        return "INT"
    if any(word in upper for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in upper or not upper:
        return "BLOB"
    if any(word in upper for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def read_only(path: Path) -> str:
    return f"{path.resolve().as_uri()}?mode=ro"


def _rows(connection: sqlite3.Connection, sql: str, *values: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql, values).fetchall()


def is_locked(error: Exception) -> bool:
    return "locked" in str(error)


def describe(connection: sqlite3.Connection, name: str, schema: str = "main") -> Table | None:
    """What the attached database `schema` says about a table, or None where there is none of exactly that name."""
    found = _rows(
        connection,
        f"SELECT l.type, l.wr, l.strict, m.sql FROM {quoted(schema)}.sqlite_master m"
        " JOIN pragma_table_list(m.name) l ON l.name = m.name AND l.schema = ?"
        " WHERE m.name = ? AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        schema,
        name,
    )
    if not found or found[0][0] == "shadow":
        return None
    kind, without_rowid, strict, sql = found[0]
    if kind == "virtual":
        return Table(name, kind, ())
    try:
        info = _rows(connection, "SELECT * FROM pragma_table_xinfo(?, ?) WHERE hidden <> 1", name, schema)
    except sqlite3.OperationalError as error:
        if kind != "view" or is_locked(error):
            raise
        return Table(name, kind, ())  # a view of a table that is gone
    unique: set[str] = set()
    key: tuple[tuple[str, str], ...] = ()
    for index, is_unique, origin, partial in _rows(connection, _INDEXES, name, schema):
        parts = _rows(connection, "SELECT name, coll FROM pragma_index_xinfo(?, ?) WHERE key", index, schema)
        if origin == "pk":
            key = tuple((part, collation) for part, collation in parts)
        if is_unique and not partial and len(parts) == 1 and parts[0][0] is not None:
            unique.add(parts[0][0])
    numbered = [row[1] for row in info if row[5]]
    key_is_rowid = bool(numbered) and not key
    if key_is_rowid:
        key, unique = ((numbered[0], "BINARY"),), unique | {numbered[0]}
    columns = tuple(
        Column(row[1], row[2], bool(row[3]) or (bool(row[5]) and key_is_rowid), row[1] in unique, row[4])
        for row in info
    )
    taken = {column.name.lower() for column in columns}
    free = [word for word in ("rowid", "_rowid_", "oid") if word not in taken]
    required = {column.name for column in columns if column.not_null}
    return Table(
        name=name,
        kind=kind,
        columns=columns,
        key=key,
        key_is_rowid=key_is_rowid,
        key_may_be_null=not (key_is_rowid or without_rowid or strict or required.issuperset(dict(key))),
        collates="collate" in (sql or "").lower(),
        strict=bool(strict),
        rowid=free[0] if free and kind == "table" and not without_rowid else None,
    )


class Sources:
    """The catalogs with their schemas, each a SQLite file.

    Raises `SandboxError` where a name cannot be a catalog's or a file is missing or no SQLite database.
    """

    def __init__(self, sources: Mapping[str, Mapping[str, str | Path] | str | Path]) -> None:
        self._files: dict[str, dict[str, Path]] = {catalog: {} for catalog in sources}
        for catalog, schemas in sources.items():
            given = {"main": schemas} if isinstance(schemas, (str, Path)) else schemas
            for schema, file in given.items():
                self._add(catalog, schema, Path(file))

    @property
    def catalogs(self) -> list[str]:
        return list(self._files)

    def named(self, number: str) -> str | None:
        """The catalog that has an id."""
        return next((catalog for catalog in self._files if catalog_id(catalog) == number), None)

    def make(self, folder: Path, catalog: str, schema: str) -> Path:
        """A schema's file; an empty one in `folder` where there is no such schema yet. Raises `SandboxError`."""
        known = self._files.get(catalog, {}).get(schema)
        if known is not None:
            return known
        file = folder / f"{quote(catalog, safe='')}.{quote(schema, safe='')}.db"
        _check_names(f"database {catalog}.{schema}", catalog, schema)
        folder.mkdir(exist_ok=True)
        file.touch()
        self._add(catalog, schema, file)
        return file

    def take_up(self, folder: Path) -> None:
        """Bring back the schemas that were made in a folder before. Raises `SandboxError`."""
        for file in sorted(folder.glob("*.db")):
            catalog, _, schema = file.stem.partition(".")
            if schema:
                self.make(folder, unquote(catalog), unquote(schema))

    def _add(self, catalog: str, schema: str, file: Path) -> None:
        _check(catalog, schema, file)
        # A new dictionary, because threads may be walking through the old one.
        self._files = {**self._files, catalog: {**self._files.get(catalog, {}), schema: file}}

    def schemas(self, catalog: str) -> list[str]:
        return list(self._files.get(catalog, ()))

    def file(self, name: TableName) -> Path | None:
        return self._files.get(name.catalog, {}).get(name.schema)

    def table(self, name: TableName) -> Table | None:
        """A table as it is now. Raises `sqlite3.Error` where its file cannot be read."""
        file = self.file(name)
        if file is None:
            return None
        with closing(_open(file)) as connection:
            return describe(connection, name.table)

    def tables(self, catalog: str, schema: str) -> list[Table]:
        """All tables and views of a schema, by name. Raises `sqlite3.Error` where its file cannot be read."""
        with closing(_open(self._files[catalog][schema])) as connection:
            listed = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name"
            names = _rows(connection, listed)
            return [table for (name,) in names if (table := describe(connection, name)) is not None]

    def matching(self, pattern: str) -> list[tuple[TableName, Table]]:
        """The tables that can be cached and fit a shell pattern such as `ops.public.*`; or the one that is named."""
        if not any(character in pattern for character in "*?["):
            name = TableName.parse(pattern)
            table = self.table(name)
            return [] if table is None else [(name, table)]
        return [
            (name, table)
            for catalog, schemas in self._files.items()
            for schema in schemas
            for table in self.tables(catalog, schema)
            if table.modes
            and fnmatch.fnmatchcase(str(name := TableName(catalog, schema, table.name)), pattern)
        ]


def catalog_id(catalog: str) -> str:
    """An id made from the name: 18 digits, above 2^53 like Peaka's, so that no float can carry it."""
    digest = int.from_bytes(hashlib.sha256(catalog.encode()).digest()[:8], "big")
    return str(5 * 10**17 + digest % (4 * 10**17))


def _open(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(read_only(file), uri=True, isolation_level=None, timeout=_LOCK_PATIENCE)


def _check_names(where: str, catalog: str, schema: str) -> None:
    for name in (catalog, schema):
        if not name or "." in name or not name.isprintable():
            raise SandboxError(f"{where}: {name!a} cannot be a catalog or schema: a word without dots.")
    if catalog == "peaka":
        raise SandboxError(f"{where}: every project has catalogs named peaka already, choose another name.")


def _check(catalog: str, schema: str, file: Path) -> None:
    where = f"source {catalog}.{schema}={file}"
    _check_names(where, catalog, schema)
    if not file.is_file():
        raise SandboxError(f"{where}: there is no such file.")
    try:
        with closing(_open(file)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.OperationalError as error:
        raise SandboxError(f"{where}: the file cannot be opened for reading ({error}).") from None
    except sqlite3.DatabaseError:
        raise SandboxError(f"{where}: the file is no SQLite database.") from None
