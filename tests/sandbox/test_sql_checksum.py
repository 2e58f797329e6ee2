"""The checksum of a table's rows: the same for the same rows, another one for any others."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from dagster_peaka.sandbox.sql import Place, SqlError, run
from tests.sandbox.conftest import Api

TWO = "(1, 'x'), (2, 'y')"


def checksum(rows: str, fields: str = "ROW(a, b)") -> object:
    """The checksum of rows that are written as VALUES."""
    statement = f"SELECT to_hex(checksum({fields})) AS fingerprint FROM (VALUES {rows}) AS t (a, b)"
    return run(statement, lambda _: None).rows[0][0]


def test_a_checksum_is_a_text_of_sixteen_capital_hex_digits() -> None:
    """As of the eight bytes that Trino's checksum has."""
    assert re.fullmatch("[0-9A-F]{16}", str(checksum(TWO)))


def test_the_order_of_rows_does_not_matter() -> None:
    """The same rows have the same checksum however they are read."""
    assert checksum("(2, 'y'), (1, 'x')") == checksum(TWO)


@pytest.mark.parametrize(
    "others",
    [
        "(1, 'y'), (2, 'x')",  # swapped between rows
        "(1, 'x')",
        "(1, 'x'), (1, 'x'), (2, 'y')",
        "(1, 'x'), (2, NULL)",
        "(1, 'x'), (2, '')",
        "(1, 'x'), (2, 'NULL')",
        "(1, 'x'), (2, 'y'), (NULL, NULL)",
        "('1', 'x'), ('2', 'y')",
        "(1e0, 'x'), (2e0, 'y')",
        "(CAST(1 AS bigint), 'x'), (CAST(2 AS bigint), 'y')",
    ],
)
def test_other_rows_have_another_checksum(others: str) -> None:
    """Values, their types, the row that they are in and how often a row is there: all of it counts."""
    assert checksum(others) != checksum(TWO)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ROW(a, b)", "ROW(b, a)"),
        ("ROW(a, a)", "ROW(a)"),
        ("a", "b"),
        ("a", "ROW(a)"),
        ("a = 1", "IF(a = 1, 1, 0)"),
        ("ROW(a, CAST(NULL AS varchar))", "ROW(CAST(NULL AS varchar), a)"),
    ],
)
def test_other_fields_have_another_checksum(one: str, other: str) -> None:
    """A field is told from its neighbour, a value from a row, a truth from a number."""
    assert checksum(TWO, one) != checksum(TWO, other)


def test_texts_do_not_run_into_their_neighbours() -> None:
    """What is moved from the end of a field to the beginning of the next makes another row."""
    assert checksum("('ab', 'c')") != checksum("('a', 'bc')")


def test_rows_that_are_there_twice_do_not_cancel_each_other() -> None:
    """Twice is neither once nor never."""
    once, twice, other = checksum("(1, 'x')"), checksum("(1, 'x'), (1, 'x')"), checksum("(2, 'y'), (2, 'y')")
    assert len({once, twice, other, None}) == 4


@pytest.mark.parametrize("width", [100, 101, 700])
def test_a_row_may_be_as_wide_as_a_table(tmp_path: Path, width: int) -> None:
    """Hundreds of columns, each of which counts."""
    file = tmp_path / "wide.db"
    names = [f"c{number}" for number in range(width)]
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute(f"CREATE TABLE wide ({', '.join(names)})")
    connection.execute(f"INSERT INTO wide VALUES ({', '.join('?' * width)})", names)
    place = Place(str(file), "wide", tuple((name, "varchar") for name in names))

    def fingerprint() -> list[tuple[object, ...]]:
        fields = ", ".join(f'"{name}"' for name in names)
        return list(run(f"SELECT to_hex(checksum(ROW({fields}))), count(*) FROM a.b.c", lambda _: place).rows)

    found = [fingerprint()]
    for name in (names[0], names[-1]):
        connection.execute(f"UPDATE wide SET {name} = NULL")
        found.append(fingerprint())
    connection.close()
    assert len({str(rows) for rows in found}) == 3


def test_a_cached_table_answers_its_fingerprint(api: Api) -> None:
    """Over HTTP: checksum and number of rows are those of the copy, whatever the source has got since."""
    statement = (
        'SELECT to_hex(checksum(ROW("id", "carrier", "delay", "day"))) AS fingerprint, count(*) AS row_count'
        ' FROM "ops"."public"."flights"'
    )
    before = api.query(statement)
    assert before[0][1] == 3
    api.sandbox.database("ops.public").execute("UPDATE flights SET delay = 3 WHERE id = 1")
    assert api.query(statement) == before
    api.trigger()
    api.sandbox.wait_idle()
    (after,) = api.query(statement)
    assert (after[1], after[0] != before[0][0]) == (3, True)


def test_a_row_has_at_least_one_field() -> None:
    """ROW() is no row."""
    with pytest.raises(SqlError, match="at least one field"):
        checksum(TWO, "ROW()")


def test_a_row_in_a_row_counts_as_it_is() -> None:
    """What is nested is told from what is not."""
    assert len({checksum(TWO, fields) for fields in ("ROW(a, b)", "ROW(ROW(a), b)", "ROW(ROW(a, b))")}) == 3
