"""The query builder's objects: the SQL that they become, and the field that an error names."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dagster_peaka.sandbox.sql import Place, SqlError, TableRef, query_builder_to_sql, run

TABLE = {"catalogName": "ops", "schemaName": "public", "tableName": 'o"dd'}


def _column(name: str, **table: str) -> dict[str, Any]:
    return {"column": {"columnName": name, **table}}


@pytest.fixture
def rows(tmp_path: Path) -> Any:
    """Runs a builder's query over a table of four rows and gives its rows."""
    path = tmp_path / "ops.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('CREATE TABLE "o""dd" (amount INTEGER, "the ""name""" TEXT)')
        stored = [(100, "a"), (200, "it's"), (300, None), (None, "d%")]
        connection.executemany('INSERT INTO "o""dd" VALUES (?, ?)', stored)
        connection.commit()
    place = Place(str(path), 'o"dd', (("amount", "bigint"), ('the "name"', "varchar")))

    def answer(**body: Any) -> list[tuple[Any, ...]]:
        def resolve(table: TableRef) -> Place | None:
            return place if table == TableRef("ops", "public", 'o"dd') else None

        return run(query_builder_to_sql({"from": [TABLE], **body}), resolve).rows

    return answer


def test_the_least_query_is_a_table(rows: Any) -> None:
    """Only `from` is needed; null and empty fields are as good as absent ones."""
    everything = [(100, "a"), (200, "it's"), (300, None), (None, "d%")]
    assert rows() == everything
    assert rows(columns=None, filters=None, limit=None, offset=None, orderBy=None) == everything
    assert rows(columns=["*"], filters={}, orderBy=[]) == everything


def test_columns_order_limit_and_offset(rows: Any) -> None:
    """Columns are names, sorting takes ASC and DESC, NULLs come last."""
    assert rows(columns=["amount"], orderBy=["amount DESC"], limit=2, offset=1) == [(200,), (100,)]
    assert rows(columns=["amount"], orderBy=["amount"]) == [(100,), (200,), (300,), (None,)]
    assert rows(columns=['the "name"'], orderBy=['the "name" asc'], limit=1) == [("a",)]
    assert rows(columns=['"amount"'], limit=0) == []


NAME = 'the "name"'
FILTERS: list[tuple[Any, list[int | None]]] = [
    ([_column("amount"), ">", [150]], [200, 300]),
    ([_column("amount"), ">=", 200], [200, 300]),
    ([_column("amount"), "<", [150.5]], [100]),
    ([_column("amount"), "<=", [100]], [100]),
    ([_column("amount"), "=", [300]], [300]),
    ([_column("amount"), "!=", [300]], [100, 200]),
    ([_column("amount"), "<>", [300]], [100, 200]),
    ([_column("amount"), "in", [100, 300]], [100, 300]),
    ([_column("amount"), "NOT  IN", [100]], [200, 300]),
    ([_column("amount"), "between", [150, 250]], [200]),
    ([_column("amount"), "is null"], [None]),
    ([_column("amount"), "is not null", None], [100, 200, 300]),
    ([_column(NAME), "=", ["it's"]], [200]),
    ([_column(NAME), "like", ["%'%"]], [200]),
    ([_column(NAME), "not like", ["a"]], [200, None]),
    ([_column("amount", tableName='o"dd', schemaName="public", catalogName="ops"), "=", [100]], [100]),
    ([_column("AMOUNT", tableName='o"dd'), "=", [100]], [100]),
    ({"or": [[_column("amount"), "=", [100]], [_column(NAME), "=", ["d%"]]]}, [100, None]),
    ({"and": [[_column("amount"), ">", [100]], {"or": [[_column("amount"), "<", [250]]]}]}, [200]),
]


@pytest.mark.parametrize(("condition", "amounts"), FILTERS, ids=[str(condition) for condition, _ in FILTERS])
def test_filters(rows: Any, condition: Any, amounts: list[int | None]) -> None:
    """Each operator selects what it says, alone and inside and/or."""
    filters = condition if isinstance(condition, dict) else {"and": [condition]}
    assert [amount for (amount,) in rows(columns=["amount"], filters=filters)] == amounts


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"from": []}, "from"),
    ({"from": "x"}, "from: must be a list"),
    ({"from": [7]}, "from[0]"),
    ({"from": [{"catalogId": "1", "schemaName": "s", "tableName": "t"}]}, "from[0].catalogName"),
    ({"columns": [1]}, "columns[0]"),
    ({"columns": [" "]}, "columns[0]"),
    ({"limit": -1}, "limit"),
    ({"limit": True}, "limit"),
    ({"offset": "1"}, "offset"),
    ({"orderBy": [1]}, "orderBy[0]"),
    ({"orderBy": [""]}, "orderBy[0]"),
    ({"filters": {"xor": []}}, "filters"),
    ({"filters": {"and": [], "or": []}}, "filters"),
    ({"filters": {"and": []}}, "filters.and"),
    ({"filters": {"and": [["amount", "=", [1]]]}}, "filters.and[0][0]"),
    ({"filters": {"and": [[_column("amount")]]}}, "filters.and[0]"),
    ({"filters": {"and": [[_column("amount"), "~", [1]]]}}, "filters.and[0][1]"),
    ({"filters": {"and": [[_column("amount"), "=", []]]}}, "filters.and[0][2]"),
    ({"filters": {"and": [[_column("amount"), "=", [None]]]}}, "filters.and[0][2]"),
    ({"filters": {"and": [[_column("amount"), "=", [{}]]]}}, "filters.and[0][2]"),
    ({"filters": {"and": [[_column("amount"), "=", [float("nan")]]]}}, "filters.and[0][2]"),
    ({"filters": {"and": [[_column("amount"), "between", [1]]]}}, "filters.and[0][2]"),
    ({"filters": {"and": [[_column("amount"), "is null", [1]]]}}, "filters.and[0][2]"),
    ({"filters": {"and": [[{"column": {}}, "=", [1]]]}}, "columnName"),
    ({"groupBy": ["amount"]}, "groupBy"),
]


@pytest.mark.parametrize(("body", "names"), WRONG, ids=[str(body) for body, _ in WRONG])
def test_a_wrong_field_is_named(body: dict[str, Any], names: str) -> None:
    """A builder object that is wrong is an error that names the field."""
    with pytest.raises(SqlError) as caught:
        query_builder_to_sql({"from": [TABLE], **body})
    assert names in str(caught.value)


def test_deep_filters_are_refused() -> None:
    """Filters nested without end are an error, not a recursion."""
    filters: Any = [_column("amount"), "=", [1]]
    for _ in range(10_000):
        filters = {"and": [filters]}
    with pytest.raises(SqlError, match="nested"):
        query_builder_to_sql({"from": [TABLE], "filters": filters})


@pytest.mark.parametrize("hostile", ['x"; DROP TABLE t; --', "x' OR '1'='1", "a\\", "/* x", "x -- y"])
def test_names_and_values_stay_names_and_values(rows: Any, hostile: str) -> None:
    """Text from a body never becomes SQL."""
    with pytest.raises(SqlError, match="cannot be resolved"):
        rows(columns=[hostile])
    assert rows(filters={"and": [[_column(NAME), "=", [hostile]]]}) == []
