"""Incremental updates and full refreshes as real copies: exact deltas, nothing torn, nothing lost."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_peaka.sandbox import PeakaSandbox, copying
from dagster_peaka.sandbox.sources import describe
from dagster_peaka.sandbox.store import copy_name
from tests.examples import EXAMPLES
from tests.sandbox.conftest import FLIGHTS, Api

Row = tuple[Any, ...]
Key = Callable[[Row], Row]
KEYS: dict[str, tuple[str, Key]] = {
    "a number that is the rowid": ("a INTEGER PRIMARY KEY, b, x, y TEXT)", lambda row: row[:1]),
    "a text": ("a TEXT PRIMARY KEY, b, x, y TEXT)", lambda row: row[:1]),
    "two columns, turned round": (
        "a TEXT NOT NULL, b INT NOT NULL, x, y TEXT, PRIMARY KEY (b, a))",
        lambda row: row[:2],
    ),
    "two columns without rowid": ("a, b, x, y TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID", lambda row: row[:2]),
    "a text in any case": ("a TEXT COLLATE NOCASE PRIMARY KEY, b, x, y)", lambda row: (row[0].lower(),)),
    "two columns, one descending": ("a INT, b INT, x, y, PRIMARY KEY (a DESC, b))", lambda row: row[:2]),
    "a collation of its own": (
        "a TEXT COLLATE NOCASE, b, x, y, PRIMARY KEY (a COLLATE BINARY))",
        lambda row: row[:1],
    ),
}
VALUES = st.one_of(
    st.none(),
    st.integers(-3, 3),
    st.sampled_from([2**62, 0.5, 1.0, -1e300, "", "é", "a\0b", "1", b"", b"\xff\x00", "A", "a"]),
    st.text(max_size=3),
)
EDITS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 6), st.integers(0, 2), VALUES, VALUES),
    st.tuples(st.just("delete"), st.integers(0, 6), st.integers(0, 2), st.none(), st.none()),
    st.tuples(st.just("empty"), st.just(0), st.just(0), st.none(), st.none()),
)


def typed(row: Row) -> tuple[tuple[type, Any], ...]:
    """A row whose equality tells 1 from 1.0 and '1'."""
    return tuple((type(value), value) for value in row)


def rows(connection: sqlite3.Connection, table: str) -> list[Row]:
    """All rows of a table, in an order of their own."""
    return sorted(connection.execute(f'SELECT * FROM "{table}"').fetchall(), key=repr)


def copy_of(store: Path, cache: str) -> list[Row]:
    """All rows of a cache's copy, as the store's file has them."""
    with closing(sqlite3.connect(store)) as connection:
        return rows(connection, copy_name(cache))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the sandbox keeps its copies."""
    return tmp_path / "store.db"


@pytest.fixture
def kept(ops: dict[str, Any], store: Path) -> Iterator[PeakaSandbox]:
    """A sandbox with a store that can be looked into."""
    with PeakaSandbox(ops, [FLIGHTS], store=store) as sandbox:
        sandbox.wait_idle()
        yield sandbox


def sync(sandbox: PeakaSandbox, cache: str, mode: Any = "incremental") -> Any:
    """The record of an execution from its start to its end."""
    sandbox.start_execution(cache, mode)
    sandbox.wait_idle()
    return sandbox.executions(cache)[-1]


@pytest.mark.parametrize(("definition", "key"), KEYS.values(), ids=KEYS)
def test_an_incremental_finds_exactly_what_changed(
    kept: PeakaSandbox,
    source: sqlite3.Connection,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    definition: str,
    key: Key,
) -> None:
    """After any edits the counts are the true difference by key, and the copy is the source, value by value."""
    monkeypatch.setattr(copying, "STEP_ROWS", 3)

    def edit(edit: tuple[str, int, int, Any, Any]) -> None:
        what, number, other, x, y = edit
        a: Any = "aAbBcCé"[number] if "a TEXT" in definition else number
        if what == "put":
            source.execute("INSERT OR REPLACE INTO edited VALUES (?, ?, ?, ?)", (a, other, x, y))
        elif what == "delete":
            source.execute("DELETE FROM edited WHERE a = ? AND b = ?", (a, other))
        else:
            source.execute("DELETE FROM edited")

    @settings(
        max_examples=max(5, EXAMPLES // 2),
        database=None,
    )
    @given(st.lists(st.lists(EDITS, max_size=12), min_size=1, max_size=4))
    def run(batches: list[list[tuple[str, int, int, Any, Any]]]) -> None:
        source.executescript(f"DROP TABLE IF EXISTS edited; CREATE TABLE edited ({definition}")
        if "ops.public.edited" in kept.caches:
            kept.delete_cache("ops.public.edited")
        cache = kept.create_cache("ops.public.edited")
        kept.wait_idle()
        before: dict[Row, Row] = {}
        for batch in batches:
            for one in batch:
                edit(one)
            done = sync(kept, cache)
            now = {key(row): row for row in rows(source, "edited")}
            changed = [k for k in now if k in before and typed(now[k]) != typed(before[k])]
            assert (done.status, done.error) == ("COMPLETED", None)
            assert (done.inserted, done.updated, done.deleted, done.cached) == (
                len(now.keys() - before.keys()),
                len(changed),
                len(before.keys() - now.keys()),
                len(now),
            )
            assert list(map(typed, copy_of(store, cache))) == list(map(typed, rows(source, "edited")))
            before = now

    run()


def test_a_first_incremental_inserts_everything(kept: PeakaSandbox) -> None:
    """A cache that was never synced gets all rows as inserts."""
    (first,) = kept.executions(FLIGHTS)
    assert (first.mode, first.inserted, first.updated, first.deleted, first.cached) == (
        "INCREMENTAL",
        3,
        0,
        0,
        3,
    )


def test_a_cancelled_incremental_keeps_what_it_had_synced(
    kept: PeakaSandbox, source: sqlite3.Connection, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progress is seen to move; what was synced before the cancel stays, and the next incremental brings the rest."""
    monkeypatch.setattr(copying, "STEP_ROWS", 500)
    source.executescript(
        "WITH RECURSIVE n(i) AS (SELECT 4 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)"
        "INSERT INTO flights SELECT i, 'XX', i, NULL FROM n"
    )
    api = Api(kept)
    api.trigger()
    seen: list[int] = []
    while len(seen) < 3:
        progress = api.status()["lastIncrementalCacheExecution"]["progress"]["numberOfInsertedRecords"]
        if progress > max(seen, default=0):
            seen.append(progress)
    assert api.trigger("cancelIncrementalUpdate").status_code == 200
    kept.wait_idle()
    last = kept.executions(FLIGHTS)[-1]
    assert last.status == "CANCELLED"
    assert seen[-1] <= last.inserted < 199_997
    assert len(copy_of(store, kept.caches[FLIGHTS])) == 3 + last.inserted == last.cached
    rest = sync(kept, FLIGHTS)
    assert (rest.status, rest.inserted) == ("COMPLETED", 199_997 - last.inserted)


def test_a_full_refresh_shows_nothing_until_its_end(
    sandbox: PeakaSandbox, api: Api, source: sqlite3.Connection
) -> None:
    """While it runs, and when it is cancelled, the old data is there; at its end all of the new at once."""
    source.executescript("DELETE FROM flights; INSERT INTO flights VALUES (9, 'DL', 0, NULL)")
    count = "SELECT count(*), min(id) FROM ops.public.flights"
    sandbox.plan(FLIGHTS, hold=True, times=2)
    api.trigger("fullRefreshUpdate")
    while not api.status()["lastFullRefreshCacheExecution"]["progress"]["numberOfCachedRecords"]:
        pass
    assert api.query(count) == [[3, 1]]
    assert api.trigger("cancelFullRefreshUpdate").status_code == 200
    sandbox.wait_idle()
    assert sandbox.executions(FLIGHTS)[-1].status == "CANCELLED"
    assert api.query(count) == [[3, 1]]
    api.trigger("fullRefreshUpdate")
    sandbox.release(FLIGHTS)
    sandbox.wait_idle()
    last = sandbox.executions(FLIGHTS)[-1]
    assert (last.status, last.inserted, last.updated, last.deleted, last.cached) == ("COMPLETED", 1, 0, 0, 1)
    assert api.query(count) == [[1, 9]]


@pytest.mark.parametrize("table", ["notes", "late"])
def test_what_has_no_key_is_refreshed(
    kept: PeakaSandbox, source: sqlite3.Connection, store: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """A table without a key, or a view, is copied whole, equal rows included; an incremental of it is a 400."""
    monkeypatch.setattr(copying, "STEP_ROWS", 2)
    cache = kept.create_cache(f"ops.public.{table}")
    kept.wait_idle()
    assert kept.executions(cache)[-1].mode == "FULL_REFRESH"
    assert copy_of(store, cache) == rows(source, table)
    refused = Api(kept).trigger("incrementalUpdate", f"ops.public.{table}")
    assert refused.status_code == 400
    assert "no primary key" in refused.json()["message"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE flights ADD COLUMN origin TEXT", "columns added: origin"),
        ("DROP VIEW late; ALTER TABLE flights DROP COLUMN delay", "columns removed: delay"),
        (
            "DROP TABLE flights; CREATE TABLE flights (id INTEGER PRIMARY KEY, carrier INT, delay REAL, day DATE)",
            "columns of another type: carrier",
        ),
        (
            "DROP TABLE flights; CREATE TABLE flights (id INT, carrier TEXT PRIMARY KEY, delay REAL, day DATE)",
            "columns of another type: id",
        ),
    ],
)
def test_an_incremental_of_a_table_that_changed_fails_and_a_full_refresh_mends_it(
    kept: PeakaSandbox, source: sqlite3.Connection, store: Path, change: str, said: str
) -> None:
    """Other columns than the copy's are an error that says which and what to do; the copy stays as it was."""
    before = copy_of(store, kept.caches[FLIGHTS])
    source.executescript(change)
    failed = sync(kept, FLIGHTS)
    assert failed.status == "FAILED"
    assert said in failed.error["message"]
    assert "full refresh" in failed.error["message"]
    assert copy_of(store, kept.caches[FLIGHTS]) == before
    assert sync(kept, FLIGHTS, "full_refresh").status == "COMPLETED"
    assert copy_of(store, kept.caches[FLIGHTS]) == rows(source, "flights")
    assert sync(kept, FLIGHTS).status == "COMPLETED"


def test_rows_without_a_key_have_no_delta(
    kept: PeakaSandbox, source: sqlite3.Connection, store: Path
) -> None:
    """NULL in a primary key, which SQLite allows, fails an incremental; a full refresh copies it."""
    cache = kept.create_cache("ops.public.airlines")
    kept.wait_idle()
    source.execute("INSERT INTO airlines VALUES (NULL, 'nobody')")
    failed = sync(kept, cache)
    assert failed.status == "FAILED"
    assert "primary key is NULL" in failed.error["message"]
    assert sync(kept, cache, "full_refresh").status == "COMPLETED"
    assert copy_of(store, cache) == rows(source, "airlines")
    source.execute("DELETE FROM airlines WHERE carrier IS NULL")
    assert (done := sync(kept, cache)).status == "COMPLETED"
    assert done.deleted == 1
    assert copy_of(store, cache) == rows(source, "airlines")


def test_a_source_that_is_gone_fails_the_execution(kept: PeakaSandbox, source: sqlite3.Connection) -> None:
    """A dropped table is named in the error of the execution."""
    source.execute("DROP TABLE flights")
    failed = sync(kept, FLIGHTS)
    assert failed.status == "FAILED"
    assert "no table flights" in failed.error["message"]


def test_a_file_put_in_the_sources_place_is_read(
    kept: PeakaSandbox, source: sqlite3.Connection, tmp_path: Path
) -> None:
    """A source that is replaced as a whole is opened anew."""
    with closing(sqlite3.connect(tmp_path / "new.db")) as other:
        other.execute("CREATE TABLE flights (id INTEGER PRIMARY KEY, carrier TEXT, delay REAL, day DATE)")
    (tmp_path / "new.db").replace(tmp_path / "ops.db")
    done = sync(kept, FLIGHTS)
    assert (done.status, done.deleted, done.cached) == ("COMPLETED", 3, 0)


def test_a_locked_source_is_waited_for(kept: PeakaSandbox, source: sqlite3.Connection) -> None:
    """While a writer locks a source its executions wait; then they read what was written."""
    api = Api(kept)
    source.execute("BEGIN EXCLUSIVE")
    api.trigger()
    source.execute("INSERT INTO flights VALUES (4, 'UA', 1, NULL)")
    time.sleep(0.3)
    assert api.status()["status"] == "RUNNING"
    source.execute("COMMIT")
    kept.wait_idle()
    last = kept.executions(FLIGHTS)[-1]
    assert (last.status, last.inserted) == ("COMPLETED", 1)


def test_a_source_that_is_locked_in_the_midst_of_its_description_is_waited_for(
    source: sqlite3.Connection, tmp_path: Path
) -> None:
    """A writer who comes between two questions about a table does not make it a table without columns."""
    with closing(sqlite3.connect(tmp_path / "ops.db", timeout=0)) as reader:

        def lock_before_the_columns(statement: str) -> None:
            if statement.startswith("SELECT") and "table_xinfo" in statement:
                reader.set_trace_callback(None)
                source.execute("BEGIN EXCLUSIVE")

        reader.set_trace_callback(lock_before_the_columns)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            describe(reader, "flights")
        source.execute("ROLLBACK")
        assert describe(reader, "flights") is not None


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_source_is_written_to_while_it_is_copied(
    kept: PeakaSandbox,
    source: sqlite3.Connection,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    journal: str,
) -> None:
    """A writer commits without an error all through a long copying, and the next incremental has what it wrote."""
    monkeypatch.setattr(copying, "STEP_ROWS", 2_000)
    source.execute(f"PRAGMA journal_mode = {journal}")
    source.executescript(
        "CREATE TABLE big (id INTEGER PRIMARY KEY, x);"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
        "INSERT INTO big SELECT i, 'row ' || i FROM n"
    )
    written = 0
    cache = kept.create_cache("ops.public.big")
    with closing(sqlite3.connect(tmp_path / "ops.db", isolation_level=None, timeout=60)) as writer:
        while kept.executions(cache)[-1].finished_at is None:
            writer.execute("UPDATE big SET x = x || '!' WHERE id = ?", (written * 7919 % 100000 + 1,))
            written += 1
            time.sleep(0.002)
    assert written > 0
    assert kept.executions(cache)[-1].status == "COMPLETED"
    done = sync(kept, cache)
    assert (done.status, done.inserted, done.deleted) == ("COMPLETED", 0, 0)
    assert copy_of(store, cache) == rows(source, "big")


def test_both_modes_beside_each_other_end_with_what_the_source_has(
    kept: PeakaSandbox, source: sqlite3.Connection, store: Path
) -> None:
    """A full refresh that read early does not undo what an incremental beside it has brought since."""
    kept.plan(FLIGHTS, mode="full_refresh", hold=True)
    kept.start_execution(FLIGHTS, "full_refresh")
    while not kept.executions(FLIGHTS)[-1].cached:
        pass
    source.execute("INSERT INTO flights VALUES (7, 'WN', 1, NULL)")
    kept.start_execution(FLIGHTS)
    while kept.executions(FLIGHTS)[-1].finished_at is None:
        pass
    assert kept.executions(FLIGHTS)[-1].inserted == 1
    kept.release(FLIGHTS)
    kept.wait_idle()
    assert [e.status for e in kept.executions(FLIGHTS)] == ["COMPLETED"] * 3
    assert copy_of(store, kept.caches[FLIGHTS]) == rows(source, "flights")


def test_caches_are_copied_beside_each_other(kept: PeakaSandbox, source: sqlite3.Connection) -> None:
    """A small cache is done while a large one is still being copied."""
    source.executescript(
        "CREATE TABLE big (id INTEGER PRIMARY KEY, x);"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)"
        "INSERT INTO big SELECT i, 'row ' || i FROM n"
    )
    large = kept.create_cache("ops.public.big")
    small = kept.create_cache("ops.public.airlines")
    kept.wait_idle()
    ((big,), (few,)) = kept.executions(large), kept.executions(small)
    assert (big.started_at or 0) < (few.started_at or 0) < (few.finished_at or 0) < (big.finished_at or 0)


def test_deleting_a_cache_drops_its_copy(kept: PeakaSandbox, store: Path) -> None:
    """Nothing of a deleted cache is left in the store, also where it was being copied."""
    kept.plan(FLIGHTS, hold=True)
    kept.start_execution(FLIGHTS, "full_refresh")
    deleted = kept.caches[FLIGHTS]
    kept.delete_cache(FLIGHTS)
    kept.wait_idle()
    kept.close()
    with closing(sqlite3.connect(store)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert not [name for name in tables if deleted.replace("-", "_") in name]
        assert connection.execute("SELECT count(*) FROM peaka_execution").fetchone() == (0,)
    assert [execution.status for execution in kept.executions(deleted)] == ["COMPLETED", "CANCELLED"]
    assert threading.active_count() == 1


@pytest.mark.parametrize("key", ["NOT NULL", ""])
def test_a_full_refresh_of_rows_that_are_being_replaced(
    kept: PeakaSandbox,
    source: sqlite3.Connection,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    """A row that gets another place in its file while it is copied is copied once."""
    monkeypatch.setattr(copying, "STEP_ROWS", 500)
    source.executescript(
        f"CREATE TABLE big (id TEXT {key} PRIMARY KEY, x);"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)"
        "INSERT INTO big SELECT 'row ' || i, i FROM n"
    )
    kept.behaviour.first_sync_mode = "full_refresh"
    cache = kept.create_cache("ops.public.big")
    written = 0
    with closing(sqlite3.connect(tmp_path / "ops.db", isolation_level=None, timeout=60)) as writer:
        while kept.executions(cache)[-1].finished_at is None:
            written += 1
            writer.execute(
                "INSERT OR REPLACE INTO big VALUES ('row ' || ?, -1)", (written * 7919 % 30000 + 1,)
            )
            time.sleep(0.001)
    assert written > 0
    (done,) = kept.executions(cache)
    assert (done.status, done.error, done.cached) == ("COMPLETED", None, 30_000)
    assert sync(kept, cache).status == "COMPLETED"
    assert copy_of(store, cache) == rows(source, "big")


def test_a_table_may_have_many_columns(ops: Any, source: sqlite3.Connection) -> None:
    """At night as many as SQLite lets one have: copied, changed, queried and told apart by their fingerprint."""
    names = [f"c{number}" for number in range(min(2_000, 50 * EXAMPLES))]
    source.execute(
        f"CREATE TABLE wide (c0 INTEGER PRIMARY KEY, {', '.join(f'{name} INTEGER' for name in names[1:])})"
    )
    source.execute(
        f"INSERT INTO wide SELECT {', '.join('1' for _ in names)} UNION ALL SELECT {', '.join('2' for _ in names)}"
    )
    with PeakaSandbox(ops, ["ops.public.wide"], profile="documented") as sandbox:
        sandbox.wait_idle()
        api = Api(sandbox)
        fingerprint = f"SELECT to_hex(checksum(ROW({', '.join(names)}))) FROM ops.public.wide"
        before = api.query(fingerprint)
        source.execute(f"UPDATE wide SET {names[-1]} = 7 WHERE c0 = 2")
        sandbox.start_execution("ops.public.wide")
        sandbox.wait_idle()
        last = sandbox.executions()[-1]
        assert (last.status, last.inserted, last.updated, last.deleted) == ("COMPLETED", 0, 1, 0), last.error
        assert api.query(f"SELECT sum({names[-1]}), count(*) FROM ops.public.wide") == [[8, 2]]
        assert api.query(fingerprint) != before
        sandbox.start_execution("ops.public.wide", "full_refresh")
        sandbox.wait_idle()
        assert sandbox.executions()[-1].status == "COMPLETED"


@pytest.mark.parametrize(
    "definition", ["k TEXT PRIMARY KEY", "k PRIMARY KEY", "k TEXT PRIMARY KEY COLLATE NOCASE"]
)
def test_keys_may_be_texts_that_are_no_utf8(
    ops: Any, source: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, definition: str
) -> None:
    """Steps begin and end at such keys, and every row is where it belongs."""
    monkeypatch.setattr(copying, "STEP_ROWS", 2)
    source.execute(f"CREATE TABLE odd ({definition}, n INTEGER)")
    keys = [f"CAST(x'{byte:02x}{byte:02x}' AS TEXT)" for byte in range(0x80, 0x90)] + ["'a'", "'é'", "'z'"]
    source.execute(f"INSERT INTO odd VALUES {', '.join(f'({key}, {n})' for n, key in enumerate(keys))}")
    with PeakaSandbox(ops, ["ops.public.odd"], profile="documented") as sandbox:
        sandbox.wait_idle()
        source.execute("DELETE FROM odd WHERE n = 3")
        source.execute("UPDATE odd SET n = 100 WHERE n = 5")
        sandbox.start_execution("ops.public.odd")
        sandbox.start_execution("ops.public.odd", "full_refresh")
        sandbox.wait_idle()
        first, delta, refresh = sandbox.executions()
        assert (first.status, first.inserted) == ("COMPLETED", len(keys)), first.error
        assert (delta.inserted, delta.updated, delta.deleted) == (0, 1, 1)
        assert (refresh.status, refresh.inserted) == ("COMPLETED", len(keys) - 1)
        assert Api(sandbox).query("SELECT count(*), sum(n) FROM ops.public.odd") == [
            [18, sum(range(19)) - 8 + 100]
        ]
