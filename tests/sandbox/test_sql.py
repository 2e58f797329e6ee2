"""Running a statement: its files, its limits, and that nothing hostile does anything but fail."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from dagster_peaka.sandbox.sources import TableName
from dagster_peaka.sandbox.sql import Place, QueryResult, SqlError, database, run
from tests.sandbox.conftest import Api

COLUMNS = (("n", "bigint"),)


def _file(path: Path, *numbers: int) -> Place:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (n INTEGER)")
        connection.executemany("INSERT INTO t VALUES (?)", [(number,) for number in numbers])
    return Place(str(path), "t", COLUMNS)


def _ask(statement: str, **places: Place) -> QueryResult:
    return run(statement, lambda table: places.get(table.catalog))


@pytest.mark.parametrize(
    "name",
    [
        "plain.db",
        "with space.db",
        "50%20.db",
        "what?.db",
        "hash#tag.db",
        "ünï/cödé 😀.db",
        "quote's.db",
        "a&b=c;d.db",
    ],
)
def test_any_file_name_works(tmp_path: Path, name: str) -> None:
    """Characters that mean something in a URI are just characters of a path."""
    assert _ask("SELECT n FROM a.b.c", a=_file(tmp_path / name, 7)).rows == [(7,)]


def test_tables_of_several_files_join(tmp_path: Path) -> None:
    """One statement reads from several sources."""
    places = {f"c{index}": _file(tmp_path / f"{index}.db", index) for index in range(12)}
    tables = ", ".join(f"c{index}.s.t t{index}" for index in range(12))
    total = " + ".join(f"t{index}.n" for index in range(12))
    assert _ask(f"SELECT {total} FROM {tables}", **places).rows == [(66,)]


def test_odd_table_and_column_names_work(tmp_path: Path) -> None:
    """Names are quoted, whatever they hold."""
    path = tmp_path / "odd.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute('CREATE TABLE "a ""b"" é" ("select" INTEGER, "x ""y" TEXT)')
        connection.execute('INSERT INTO "a ""b"" é" VALUES (1, \'z\')')
    place = Place(str(path), 'a "b" é', (("select", "bigint"), ('x "y', "varchar")))
    result = _ask('SELECT "select", "x ""y" AS "é é" FROM a.b."c d"', a=place)
    assert (result.rows, [column.name for column in result.columns]) == ([(1, "z")], ["select", "é é"])


def test_a_column_that_the_file_lacks_is_an_error_and_no_text(tmp_path: Path) -> None:
    """SQLite takes an unknown quoted name for a text; here it is an error."""
    place = Place(_file(tmp_path / "x.db", 1).path, "t", (("gone", "varchar"),))
    with pytest.raises(SqlError, match="gone"):
        _ask("SELECT gone FROM a.b.c", a=place)


@pytest.mark.parametrize("content", [None, b"", b"not a database" * 100])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    """A missing, empty or foreign file is an error, and no file is created."""
    path = tmp_path / "x.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SqlError):
        _ask("SELECT n FROM a.b.c", a=Place(str(path), "t", COLUMNS))
    assert path.exists() == (content is not None)


def test_invalid_text_in_a_source_is_an_error(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, stored as text, fail the query and nothing else."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (s TEXT)")
        connection.execute("INSERT INTO t VALUES (CAST(x'ff' AS TEXT))")
    for column in ("s", "upper(s)"):
        with pytest.raises(SqlError):
            _ask(f"SELECT {column} FROM a.b.c", a=Place(str(path), "t", (("s", "varchar"),)))


def test_rows_are_capped(tmp_path: Path) -> None:
    """`max_rows` cuts the result."""
    place = _file(tmp_path / "x.db", 1, 2, 3)
    assert run("SELECT n FROM a.b.c ORDER BY n", lambda _: place, max_rows=2).rows == [(1,), (2,)]


def test_a_result_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """Many rows of long texts end in an error that says what to do."""
    place = _file(tmp_path / "x.db", *range(100))
    with pytest.raises(SqlError, match="LIMIT"):
        run("SELECT rpad('x', 1000000, 'y') FROM a.b.c", lambda _: place)


def test_a_query_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    """After `timeout` seconds the query fails instead of going on."""
    place = _file(tmp_path / "x.db", *range(1000))
    joined = ", ".join(f"a.b.c t{index}" for index in range(8))
    with pytest.raises(SqlError, match="time limit"):
        run(f"SELECT count(*) FROM {joined}", lambda _: place, timeout=0.2)


def test_a_file_that_is_being_written_is_read(tmp_path: Path) -> None:
    """A writer's open transaction does not stop a query, which sees what was committed."""
    place = _file(tmp_path / "x.db", 1)
    with closing(sqlite3.connect(place.path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO t VALUES (2)")
        assert _ask("SELECT count(*) FROM a.b.c", a=place).rows == [(1,)]
        writer.execute("COMMIT")
    assert _ask("SELECT count(*) FROM a.b.c", a=place).rows == [(2,)]


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[Place, threading.Timer]]:
    """A file that another connection locks against readers until a timer lets go."""
    place = _file(tmp_path / "x.db", 1)
    writer = sqlite3.connect(place.path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(0.3, lambda: writer.execute("COMMIT"))
    yield place, timer
    timer.cancel()
    writer.close()


def test_a_locked_file_is_waited_for(locked: tuple[Place, threading.Timer]) -> None:
    """A short lock of another process only delays the query."""
    place, timer = locked
    timer.start()
    assert _ask("SELECT n FROM a.b.c", a=place).rows == [(1,)]
    timer.join()


def test_a_file_that_stays_locked_is_an_error(
    locked: tuple[Place, threading.Timer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that is not let go ends in an error that says so."""
    monkeypatch.setattr("dagster_peaka.sandbox.sql.database._LOCK_PATIENCE", 0.1)
    with pytest.raises(SqlError, match="locked"):
        _ask("SELECT n FROM a.b.c", a=locked[0])


def test_nothing_is_written(tmp_path: Path) -> None:
    """The file is as it was after queries of every kind."""
    place = _file(tmp_path / "x.db", 1, 2)
    before = Path(place.path).read_bytes()
    _ask("WITH x AS (SELECT n FROM a.b.c) SELECT a.n, b.n FROM x a JOIN x b ON a.n = b.n ORDER BY 1", a=place)
    for statement in (
        "DROP TABLE t",
        "DELETE FROM a.b.c",
        "SELECT 1; DELETE FROM a.b.c",
        "PRAGMA user_version = 7",
    ):
        with pytest.raises(SqlError):
            _ask(statement, a=place)
    assert Path(place.path).read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.db"]


def test_the_name_is_asked_for_as_written_and_then_in_lower_case() -> None:
    """A table is found by its written name, or folded as Trino folds it."""
    asked: list[TableName] = []

    def resolve(table: TableName) -> Place | None:
        asked.append(table)
        return None

    with pytest.raises(SqlError, match=r"Table 'A\.b\.C' does not exist"):
        run("SELECT 1 FROM A.b.C", resolve)
    assert asked == [TableName("A", "b", "C"), TableName("a", "b", "c")]


def test_the_whole_statement_reads_one_state(tmp_path: Path) -> None:
    """A table named twice is read once, so that both see the same rows."""
    place = _file(tmp_path / "x.db", *range(100))
    assert _ask("SELECT (SELECT count(*) FROM a.b.c), count(*) FROM a.b.c", a=place).rows == [(100, 100)]


HOSTILE = {
    "parentheses": "SELECT " + "(" * 50_000 + "1" + ")" * 50_000,
    "nots": "SELECT " + "NOT " * 20_000 + "TRUE",
    "minuses": "SELECT " + "- " * 40_000 + "1",
    "cases": "SELECT " + "CASE WHEN TRUE THEN " * 4_000 + "1" + " END" * 4_000,
    "sums": "SELECT " + "1 + " * 20_000 + "1",
    "concatenations": "SELECT " + "'a' || " * 10_000 + "'a'",
    "functions": "SELECT " + "abs(" * 15_000 + "1" + ")" * 15_000,
    "subqueries": "SELECT * FROM " + "(SELECT * FROM " * 5_000 + "x" + ")" * 5_000,
    "unions": " UNION ALL ".join(["SELECT 1"] * 4_000),
    "commas": "SELECT " + ", ".join(["1"] * 30_000),
    "dots": "SELECT " + ".".join(["a"] * 30_000),
    "joins": "SELECT 1 FROM (VALUES 1) a " + "CROSS JOIN (VALUES 1) b " * 3_000,
    "comment": "SELECT /* 1",
    "comments": "SELECT " + "/*" * 40_000,
    "string": "SELECT 'abc",
    "name": 'SELECT "abc',
    "nul": "SELECT '\0'",
    "surrogate": "SELECT '\ud800'",
    "huge": "SELECT '" + "x" * 200_000 + "'",
    "doubling": "WITH a0 AS (VALUES 1)"
    + "".join(f", a{i + 1} AS (SELECT * FROM a{i} UNION ALL SELECT * FROM a{i})" for i in range(60))
    + " SELECT * FROM a60",
    "growing text": "WITH a0 (x) AS (VALUES 'xxxxxxxxxx')"
    + "".join(f", a{i + 1} AS (SELECT x || x AS x FROM a{i})" for i in range(40))
    + " SELECT x FROM a40",
    "substitution": "SELECT "
    + " || ".join(["'aaaa'"] * 100)
    + " AS x ORDER BY "
    + " || ".join(["x"] * 3_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_statements_are_errors(name: str) -> None:
    """A statement that is made to hurt is a SqlError like any other."""
    with pytest.raises(SqlError):
        run(HOSTILE[name], lambda _: None, timeout=60)


def test_long_chains_of_conditions_work() -> None:
    """Hundreds of ANDs, ORs and listed values are no nesting."""
    condition = " OR ".join(f"x = {number}" for number in range(500))
    listed = ", ".join(str(number) for number in range(5_000))
    found = run(
        f"SELECT count(*) FROM (VALUES 7, 9999) t (x) WHERE ({condition}) AND x IN ({listed})", lambda _: None
    )
    assert found.rows == [(1,)]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tables that were read from their files, in that order."""
    read: list[str] = []
    write = database._write
    monkeypatch.setattr(
        database, "_write", lambda place, *rest: (read.append(place.table), write(place, *rest))
    )
    return read


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path: Path, read: list[str]) -> None:
    """The rows of a table that nobody has written to are still there for the next statement."""
    place = _file(tmp_path / "x.db", 1, 2)
    for _ in range(3):
        assert _ask("SELECT count(*) FROM a.b.c", a=place).rows == [(2,)]
    assert read == ["t"]
    with closing(sqlite3.connect(place.path)) as writer, writer:
        writer.execute("INSERT INTO t VALUES (3)")
    for _ in range(3):
        assert _ask("SELECT count(*) FROM a.b.c", a=place).rows == [(3,)]
    assert read == ["t", "t"]


def test_a_version_is_read_once_whatever_else_its_file_gets(tmp_path: Path, read: list[str]) -> None:
    """A copy says itself when it has changed: the store's other writes do not count."""
    place = _file(tmp_path / "x.db", 1)
    for version in ("one", "one", "two"):
        with closing(sqlite3.connect(place.path)) as writer, writer:
            writer.execute("CREATE TABLE IF NOT EXISTS other (n)")
            writer.execute("INSERT INTO other VALUES (1)")
        assert _ask("SELECT sum(n) FROM a.b.c", a=replace(place, version=version)).rows == [(1,)]
    assert read == ["t", "t"]


def test_a_file_in_anothers_place_is_read_anew(tmp_path: Path) -> None:
    """What a path means is looked up for every statement."""
    place = _file(tmp_path / "x.db", 1)
    assert _ask("SELECT n FROM a.b.c", a=place).rows == [(1,)]
    Path(_file(tmp_path / "y.db", 2).path).replace(place.path)
    assert _ask("SELECT n FROM a.b.c", a=place).rows == [(2,)]


def test_a_copy_is_read_once_until_a_sync_changes_it(
    api: Api, source: sqlite3.Connection, read: list[str]
) -> None:
    """Executions that find nothing new, and whatever else the store gets, leave what was read as good as it was."""
    for rows in (3, 3, 4, 4):
        if rows == 4 and len(read) == 1:
            source.execute("INSERT INTO flights VALUES (4, 'UA', 1, NULL)")
        api.sandbox.start_execution("ops.public.flights")
        api.sandbox.wait_idle()
        assert api.query("SELECT count(*) FROM ops.public.flights") == [[rows]]
    assert len(read) == 2
