"""The operational database: five tables, and an empty one, in one SQLite file, the kind of source that Peaka caches.

Landing a table (or a part of it) again leaves rows alone that have not changed, so that what Peaka finds
afterwards is exactly what really changed.
"""

import os
import sqlite3
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PATH = Path(".demo") / "operational.db"

# Columns as in the data set's files. Each primary key is unique in the whole data set:
# - flights: no flight number leaves one airport twice on one day; without the airport 24 rows collide.
# - weather: by the UTC hour. The local hour is not unique, since clocks were set back on November 3rd.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS airlines (
    carrier TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS airports (
    faa TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    lat REAL NOT NULL,
    lon REAL NOT NULL,
    alt INTEGER NOT NULL,
    tz INTEGER NOT NULL,
    dst TEXT NOT NULL,
    tzone TEXT
);
CREATE TABLE IF NOT EXISTS planes (
    tailnum TEXT NOT NULL PRIMARY KEY,
    year INTEGER,
    type TEXT NOT NULL,
    manufacturer TEXT NOT NULL,
    model TEXT NOT NULL,
    engines INTEGER NOT NULL,
    seats INTEGER NOT NULL,
    speed INTEGER,
    engine TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS weather (
    origin TEXT NOT NULL,
    year INTEGER NOT NULL,
    month INTEGER NOT NULL,
    day INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    temp REAL,
    dewp REAL,
    humid REAL,
    wind_dir INTEGER,
    wind_speed REAL,
    wind_gust REAL,
    precip REAL NOT NULL,
    pressure REAL,
    visib REAL NOT NULL,
    time_hour TIMESTAMP NOT NULL,
    PRIMARY KEY (origin, time_hour)
);
CREATE TABLE IF NOT EXISTS flights (
    year INTEGER NOT NULL,
    month INTEGER NOT NULL,
    day INTEGER NOT NULL,
    dep_time INTEGER,
    sched_dep_time INTEGER NOT NULL,
    dep_delay INTEGER,
    arr_time INTEGER,
    sched_arr_time INTEGER NOT NULL,
    arr_delay INTEGER,
    carrier TEXT NOT NULL,
    flight INTEGER NOT NULL,
    tailnum TEXT,
    origin TEXT NOT NULL,
    dest TEXT NOT NULL,
    air_time INTEGER,
    distance INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    minute INTEGER NOT NULL,
    time_hour TIMESTAMP NOT NULL,
    PRIMARY KEY (year, month, day, carrier, flight, origin)
);
CREATE TABLE IF NOT EXISTS gates (
    faa TEXT NOT NULL,
    gate TEXT NOT NULL,
    PRIMARY KEY (faa, gate)
);
"""
BROKEN_TABLE = "gates"
"""The table that nothing lands and whose cache fails on purpose."""

TABLES = ("airlines", "airports", "planes", "weather", "flights")


class DatabaseError(Exception):
    """The operational database cannot be used."""


@dataclass(frozen=True)
class Landing:
    """What landing did to a table: rows inserted, updated and deleted, and how many the table holds now."""

    inserted: int
    updated: int
    deleted: int
    total: int


def database_path() -> Path:
    """Where the operational database is: the environment's FLIGHTS_DATABASE, or `.demo/operational.db`."""
    return Path(os.environ.get("FLIGHTS_DATABASE") or DEFAULT_PATH)


def create_tables(path: Path) -> None:
    """Create the database and its empty tables where they do not exist yet.

    Raises DatabaseError where the file cannot be created or is no SQLite database.
    """
    with _connected(path) as connection:
        connection.executescript(_SCHEMA)


def land(
    path: Path,
    table: str,
    rows: Iterable[Mapping[str, str | None]],
    *,
    scope: Mapping[str, int] | None = None,
) -> Landing:
    """Make the table, or its part with the values in `scope`, hold exactly these rows, in one transaction.

    Rows are matched by primary key: new ones are inserted, changed ones updated, missing ones deleted, and
    equal ones are not touched.

        land(path, "flights", rows, scope={"year": 2013, "month": 1, "day": 1})

    Raises DatabaseError where the file is no usable database.
    """
    create_tables(path)
    with _connected(path) as connection, connection:
        columns, key = _columns(connection, table)
        connection.execute(f"CREATE TEMP TABLE landing AS SELECT * FROM main.{table} WHERE false")
        connection.executemany(
            f"INSERT INTO landing VALUES ({', '.join('?' * len(columns))})",
            ([_value(name, row[name]) for name in columns] for row in rows),
        )
        return _merge(connection, table, columns, key, scope or {})


def _merge(
    connection: sqlite3.Connection, table: str, columns: list[str], key: list[str], scope: Mapping[str, int]
) -> Landing:
    keys = ", ".join(key)
    part = " AND ".join(f"{name} = :{name}" for name in scope) or "true"
    others = [name for name in columns if name not in key]
    before = _count(connection, table)
    deleted = connection.execute(
        f"DELETE FROM main.{table} WHERE {part} AND ({keys}) NOT IN (SELECT {keys} FROM landing)", dict(scope)
    ).rowcount
    written = connection.execute(
        f"INSERT INTO main.{table} SELECT * FROM landing WHERE true ON CONFLICT ({keys}) DO UPDATE SET "
        + ", ".join(f"{name} = excluded.{name}" for name in others)
        + f" WHERE ({', '.join(others)}) IS NOT ({', '.join(f'excluded.{name}' for name in others)})"
    ).rowcount
    total = _count(connection, table)
    inserted = total - before + deleted
    return Landing(inserted=inserted, updated=written - inserted, deleted=deleted, total=total)


def _columns(connection: sqlite3.Connection, table: str) -> tuple[list[str], list[str]]:
    info = connection.execute(f"PRAGMA main.table_info({table})").fetchall()
    return [row[1] for row in info], [row[1] for row in sorted(info, key=lambda row: row[5]) if row[5]]


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM main.{table}").fetchone()[0])


def _value(column: str, text: str | None) -> str | None:
    # The files write UTC as 2013-01-01T10:00:00Z. Numbers stay text: SQLite converts them by the column.
    if column == "time_hour" and text is not None:
        return text.replace("T", " ").removesuffix("Z")
    return text


@contextmanager
def _connected(path: Path) -> Generator[sqlite3.Connection]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            yield connection
    except (OSError, sqlite3.DatabaseError) as error:
        raise DatabaseError(
            f"The operational database {path} cannot be used ({error}): "
            "move that file away, or name another one in FLIGHTS_DATABASE."
        ) from error
