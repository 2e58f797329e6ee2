"""Queries over small tables: what they answer, in Trino's order and types, and what is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from dagster_peaka.sandbox.sources import TableName
from dagster_peaka.sandbox.sql import Place, QueryResult, SqlError, run

Ask = Callable[..., QueryResult]

_TABLES = {
    "flights": (
        ("id", "bigint"),
        ("carrier", "varchar"),
        ("delay", "double"),
        ("day", "date"),
        ("left_at", "timestamp(3)"),
        ("on_time", "boolean"),
        ("price", "decimal(8,2)"),
    ),
    "airlines": (("Carrier", "varchar"), ("name", "varchar")),
    "odd": (("n", "bigint"), ("t", "varchar"), ("d", "date"), ("raw", "varbinary"), ("shape", "geometry")),
}
_DDL = """
CREATE TABLE flights (id INTEGER PRIMARY KEY, carrier TEXT COLLATE NOCASE, delay REAL, day DATE,
                      left_at DATETIME, on_time BOOLEAN, price NUMERIC);
INSERT INTO flights VALUES
    (1, 'AA', 10, '2013-01-01', '2013-01-01T05:00:00Z', 1, 10.10),
    (2, 'AA', -5, '2013-01-01', '2013-01-01 06:30:00', 1, 20),
    (3, 'aa', NULL, '2013-01-02', NULL, NULL, NULL),
    (4, 'UA', 30.5, '2013-02-01', '2013-02-01 00:00:00.250', 0, 5.05),
    (5, NULL, 7, NULL, '2013-02-03', 0, 0.30);
CREATE TABLE airlines (carrier TEXT, name TEXT);
INSERT INTO airlines VALUES ('AA', 'American'), ('UA', 'United'), ('B6', 'JetBlue');
CREATE TABLE odd (n INTEGER, t TEXT, d DATE, raw BLOB, shape TEXT);
INSERT INTO odd VALUES (1, 'a', '2020-01-01', x'00ff', 's'), ('NA', x'00', '2020-13-01', 'text', 's');
"""
F = '"ops"."public"."flights"'
A = '"ops"."public"."airlines"'


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Runs a statement over the tables above."""
    path = tmp_path_factory.mktemp("trino") / "ops.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(_DDL)

    def resolve(table: TableName) -> Place | None:
        if (table.catalog, table.schema) == ("ops", "public") and table.table in _TABLES:
            return Place(str(path), table.table, _TABLES[table.table])
        return None

    return lambda statement, *bindings: run(statement, resolve, bindings=bindings)


ANSWERS: list[tuple[str, list[tuple[object, ...]]]] = [
    # names
    (f"SELECT ID, Carrier FROM {F} WHERE id = 1", [(1, "AA")]),
    ("SELECT F.Id FROM OPS.Public.FLIGHTS AS f WHERE f.ID = 2", [(2,)]),
    ("SELECT flights.id FROM ops.public.flights WHERE ops.public.flights.id = 2", [(2,)]),
    (f'SELECT "CARRIER" FROM {A} WHERE "Name" = \'United\'', [("UA",)]),
    # stored values
    (
        f"SELECT day, left_at, on_time, price FROM {F} WHERE id = 1",
        [("2013-01-01", "2013-01-01 05:00:00.000", True, 10.1)],
    ),
    (
        f"SELECT left_at FROM {F} WHERE id IN (4, 5) ORDER BY id",
        [("2013-02-01 00:00:00.250",), ("2013-02-03 00:00:00.000",)],
    ),
    (f"SELECT id FROM {F} WHERE carrier = 'aa'", [(3,)]),
    (f"SELECT count(DISTINCT carrier) FROM {F}", [(3,)]),
    (f"SELECT sum(price) FROM {F}", [(35.45,)]),
    (f"SELECT id FROM {F} WHERE left_at >= DATE '2013-02-01' ORDER BY id", [(4,), (5,)]),
    (f"SELECT id FROM {F} WHERE NOT on_time ORDER BY id", [(4,), (5,)]),
    # order
    (f"SELECT delay FROM {F} ORDER BY delay", [(-5.0,), (7.0,), (10.0,), (30.5,), (None,)]),
    (f"SELECT delay FROM {F} ORDER BY delay DESC", [(30.5,), (10.0,), (7.0,), (-5.0,), (None,)]),
    (f"SELECT delay FROM {F} ORDER BY delay NULLS FIRST LIMIT 2", [(None,), (-5.0,)]),
    (f"SELECT id FROM {F} ORDER BY carrier DESC, delay DESC OFFSET 1 LIMIT 2", [(4,), (1,)]),
    (f"SELECT id AS x FROM {F} ORDER BY -x LIMIT 1", [(5,)]),
    (f"SELECT id, -id AS id2 FROM {F} ORDER BY 2 LIMIT 1", [(5, -5)]),
    (f"SELECT -id AS id FROM {F} ORDER BY id LIMIT 1", [(-5,)]),
    (f"SELECT id FROM {F} ORDER BY id LIMIT ALL", [(1,), (2,), (3,), (4,), (5,)]),
    (f"SELECT DISTINCT on_time FROM {F} ORDER BY on_time", [(False,), (True,), (None,)]),
    # groups
    (
        f"SELECT carrier, count(*) FROM {F} GROUP BY carrier ORDER BY carrier",
        [("AA", 2), ("UA", 1), ("aa", 1), (None, 1)],
    ),
    (f"SELECT carrier, count(*) FROM {F} GROUP BY 1 HAVING count(*) > 1", [("AA", 2)]),
    (
        f"SELECT upper(carrier), sum(id) AS s FROM {F} GROUP BY upper(carrier) ORDER BY s DESC LIMIT 1",
        [("AA", 6)],
    ),
    (
        f"SELECT upper(carrier) || '!', 1 FROM {F} f GROUP BY upper(f.carrier) ORDER BY max(id)",
        [("AA!", 1), ("UA!", 1), (None, 1)],
    ),
    (f"SELECT count(*) + max(id) FROM {F}", [(10,)]),
    (f"SELECT count(*) FROM {F} HAVING count(*) > 100", []),
    (f"SELECT sum(id) FROM {F} WHERE id > 100", [(None,)]),
    (f"SELECT sum(id) FROM {F} WHERE id > 100 GROUP BY carrier", []),
    (
        f"SELECT month(day), avg(delay) FROM {F} WHERE day IS NOT NULL GROUP BY month(day) ORDER BY 1",
        [(1, 2.5), (2, 30.5)],
    ),
    (
        f"SELECT carrier, count(*) AS n FROM {F} GROUP BY carrier ORDER BY n + 1 DESC, carrier LIMIT 2",
        [("AA", 2), ("UA", 1)],
    ),
    (
        f"SELECT CASE WHEN delay > 5 THEN 'late' ELSE 'fine' END, count(*) FROM {F} GROUP BY 1 ORDER BY 1",
        [("fine", 2), ("late", 3)],
    ),
    # joins
    (
        f"SELECT f.id, a.name FROM {F} f JOIN {A} a ON a.carrier = f.carrier ORDER BY f.id",
        [(1, "American"), (2, "American"), (4, "United")],
    ),
    (
        f"SELECT f.id, a.name FROM {F} f LEFT JOIN {A} a ON a.carrier = f.carrier AND f.id > 1 ORDER BY f.id",
        [(1, None), (2, "American"), (3, None), (4, "United"), (5, None)],
    ),
    (
        f"SELECT a.name, f.id FROM {F} f RIGHT JOIN {A} a ON a.carrier = f.carrier ORDER BY name, id",
        [("American", 1), ("American", 2), ("JetBlue", None), ("United", 4)],
    ),
    (
        (
            f"SELECT a.name, f.id FROM {F} f FULL OUTER JOIN {A} a ON a.carrier = f.carrier"
            " WHERE f.id IS NULL OR a.name IS NULL ORDER BY id"
        ),
        [(None, 3), (None, 5), ("JetBlue", None)],
    ),
    (
        f"SELECT carrier, count(*) FROM {F} FULL JOIN {A} USING (carrier) GROUP BY carrier ORDER BY 1",
        [("AA", 2), ("B6", 1), ("UA", 1), ("aa", 1), (None, 1)],
    ),
    (f"SELECT * FROM {A} JOIN {A} b USING (carrier) ORDER BY 1 LIMIT 1", [("AA", "American", "American")]),
    (f"SELECT count(*) FROM {F}, {A}", [(15,)]),
    (f"SELECT count(*) FROM {F} CROSS JOIN {A} WHERE flights.carrier = airlines.carrier", [(3,)]),
    (f"SELECT count(*) FROM {A} x, {A} y JOIN {A} z ON y.carrier = z.carrier", [(9,)]),
    # subqueries
    (f"SELECT (SELECT max(id) FROM {F}), (SELECT id FROM {F} WHERE id = 99)", [(5, None)]),
    (
        f"SELECT name FROM {A} a WHERE EXISTS (SELECT 1 FROM {F} f WHERE f.carrier = a.carrier) ORDER BY 1",
        [("American",), ("United",)],
    ),
    (f"SELECT name FROM {A} a WHERE carrier NOT IN (SELECT carrier FROM {F})", []),
    (
        f"SELECT name FROM {A} a WHERE carrier NOT IN (SELECT carrier FROM {F} WHERE carrier IS NOT NULL)",
        [("JetBlue",)],
    ),
    (
        f"SELECT name, (SELECT count(*) FROM {F} f WHERE f.carrier = a.carrier) FROM {A} a ORDER BY 2 DESC, 1 LIMIT 2",
        [("American", 2), ("United", 1)],
    ),
    (
        (
            f"SELECT carrier, (SELECT a.name FROM {A} a WHERE a.carrier = f.carrier) FROM {F} f"
            " GROUP BY carrier ORDER BY 2 LIMIT 1"
        ),
        [("AA", "American")],
    ),
    (f"SELECT n FROM (SELECT count(*) AS n FROM {F}) WHERE n > 4", [(5,)]),
    (f"SELECT id FROM {F} WHERE id IN (SELECT 2e0)", [(2,)]),
    ("SELECT t.a + t.b FROM (SELECT 1, 2) AS t (a, b)", [(3,)]),
    # WITH
    (
        (
            f"WITH x AS (SELECT carrier c, count(*) n FROM {F} GROUP BY carrier), y (m) AS (SELECT max(n) FROM x)"
            " SELECT c FROM x, y WHERE n = m"
        ),
        [("AA",)],
    ),
    (
        "WITH a AS (SELECT 1 AS x), b AS (WITH a AS (SELECT 2 AS x) SELECT x FROM a) SELECT a.x, b.x FROM a, b",
        [(1, 2)],
    ),
    # sets and VALUES
    ("SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 1 ORDER BY 1", [(1,), (1,), (2,)]),
    ("SELECT 1 UNION SELECT 1.0", [(1.0,)]),
    ("SELECT 1 UNION ALL SELECT 2e0 ORDER BY 1 DESC", [(2.0,), (1.0,)]),
    ("SELECT 1 UNION SELECT 2 INTERSECT SELECT 3", [(1,)]),
    ("(SELECT 1 UNION SELECT 2) INTERSECT SELECT 2", [(2,)]),
    ("SELECT 1 EXCEPT SELECT 1", []),
    ("SELECT x FROM (SELECT 3 AS x UNION SELECT 1) ORDER BY x LIMIT 1", [(1,)]),
    ("(SELECT 1 AS x UNION ALL SELECT 2) ORDER BY x DESC LIMIT 1", [(2,)]),
    ("SELECT NULL INTERSECT SELECT NULL", [(None,)]),
    ("VALUES (1, 'a'), (2.5, NULL)", [(1.0, "a"), (2.5, None)]),
    ("VALUES 2, 1 ORDER BY 1", [(1,), (2,)]),
    # windows
    (
        (
            f"SELECT id, row_number() OVER (PARTITION BY carrier ORDER BY id DESC) FROM {F}"
            " WHERE carrier = 'AA' ORDER BY 1"
        ),
        [(1, 2), (2, 1)],
    ),
    (
        f"SELECT id, rank() OVER (ORDER BY day), dense_rank() OVER (ORDER BY day) FROM {F} ORDER BY id",
        [(1, 1, 1), (2, 1, 1), (3, 3, 2), (4, 4, 3), (5, 5, 4)],
    ),
    (f"SELECT sum(id) OVER (ORDER BY id), sum(id) OVER () FROM {F} ORDER BY id LIMIT 2", [(1, 15), (3, 15)]),
    (
        f"SELECT lag(id) OVER (ORDER BY id), lead(id, 2, 0) OVER (ORDER BY id) FROM {F} ORDER BY id",
        [(None, 3), (1, 4), (2, 5), (3, 0), (4, 0)],
    ),
    (
        f"SELECT sum(id) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) FROM {F} ORDER BY id",
        [(3,), (6,), (9,), (12,), (9,)],
    ),
    (
        (
            f"SELECT last_value(id) OVER (ORDER BY id), first_value(id) OVER (ORDER BY id DESC) FROM {F}"
            " ORDER BY id LIMIT 1"
        ),
        [(1, 5)],
    ),
    (
        f"SELECT carrier, rank() OVER (ORDER BY count(*) DESC) FROM {F} GROUP BY carrier ORDER BY 2, 1 LIMIT 2",
        [("AA", 1), ("UA", 2)],
    ),
    (f"SELECT avg(price) OVER (), count_if(on_time) OVER () FROM {F} LIMIT 1", [(8.86, 2)]),
    (
        f"SELECT x FROM (SELECT id AS x, row_number() OVER (ORDER BY delay DESC) AS n FROM {F}) WHERE n = 1",
        [(4,)],
    ),
]


@pytest.mark.parametrize(("statement", "rows"), ANSWERS, ids=[statement for statement, _ in ANSWERS])
def test_queries_answer_as_in_trino(ask: Ask, statement: str, rows: list[tuple[object, ...]]) -> None:
    """A query gives the rows that Trino gives, in their order where it is given."""
    assert ask(statement).rows == rows


def test_the_columns_say_name_type_and_origin(ask: Ask) -> None:
    """A table's own column keeps its written name and says its table; an unnamed one is called by its place."""
    found = ask(f"SELECT f.Carrier, price AS cost, count(*), 1.5 AS x FROM {F} f GROUP BY 1, 2").columns
    ref = TableName("ops", "public", "flights")
    assert [(column.name, column.data_type, column.source) for column in found] == [
        ("Carrier", "varchar", ref),
        ("cost", "decimal(8,2)", ref),
        ("_col2", "bigint", None),
        ("x", "decimal(2,1)", None),
    ]


def test_a_star_keeps_the_tables_columns_in_order(ask: Ask) -> None:
    """SELECT * names the columns as the table does."""
    assert [column.name for column in ask(f"SELECT *, 1 AS one FROM {A}").columns] == [
        "Carrier",
        "name",
        "one",
    ]
    assert [column.name for column in ask(f"SELECT a.* FROM {F} f, {A} a").columns] == ["Carrier", "name"]


REFUSED = {
    # names
    "SELECT * FROM flights": "full name",
    "SELECT * FROM public.flights": "full name",
    "SELECT * FROM ops.public.nope": "line 1:15: Table 'ops.public.nope' does not exist",
    "SELECT * FROM sqlite_master": "full name",
    "SELECT * FROM ops.public.sqlite_master": "does not exist",
    f"SELECT nope FROM {F}": "line 1:8: Column 'nope' cannot be resolved",
    f'SELECT "AA" FROM {F}': "Column 'AA' cannot be resolved",
    f"SELECT carrier FROM {F} f, {A} a": "ambiguous",
    f"SELECT f.carrier FROM {F} f JOIN {A} a USING (carrier)": "cannot be resolved",
    f"SELECT flights.id FROM {F} f": "cannot be resolved",
    "SELECT *": "FROM",
    f"SELECT x.* FROM {F} f": "unable to resolve",
    # groups
    f"SELECT carrier, id FROM {F} GROUP BY carrier": "'id' must be an aggregate",
    f"SELECT id, count(*) FROM {F}": "'id' must be an aggregate",
    f"SELECT * FROM {F} GROUP BY id": "must be an aggregate",
    f"SELECT carrier AS c FROM {F} GROUP BY c": "Column 'c' cannot be resolved",
    f"SELECT count(*) AS n FROM {F} HAVING n > 1": "Column 'n' cannot be resolved",
    f"SELECT id FROM {F} WHERE count(*) > 1": "WHERE cannot contain the aggregate",
    f"SELECT max(count(*)) FROM {F}": "cannot contain the aggregate",
    f"SELECT carrier FROM {F} GROUP BY 3": "position 3",
    f"SELECT count(DISTINCT carrier, id) FROM {F}": "DISTINCT",
    f"SELECT count(DISTINCT id) OVER () FROM {F}": "DISTINCT",
    f"SELECT carrier, (SELECT max(f.id) FROM {A}) FROM {F} f GROUP BY carrier": "outer query",
    f"SELECT (SELECT sum(f.id) FROM {A}) FROM {F} f": "outer query",
    # order and limits
    f"SELECT DISTINCT carrier FROM {F} ORDER BY id": "select list",
    f"SELECT id FROM {F} ORDER BY 2": "position 2",
    f"SELECT id AS x, delay AS x FROM {F} ORDER BY x": "ambiguous",
    f"SELECT id FROM {F} LIMIT 1 OFFSET 1": "OFFSET",
    f"SELECT id FROM {F} LIMIT -1": "LIMIT",
    f"SELECT id FROM {F} LIMIT 1 + 1": "LIMIT",
    # types
    f"SELECT id FROM {F} WHERE id = '1'": "bigint and varchar",
    f"SELECT id FROM {F} WHERE day = '2013-01-01'": "date and varchar",
    f"SELECT id FROM {F} WHERE on_time = 1": "boolean and integer",
    f"SELECT id FROM {F} WHERE delay": "must be a boolean",
    f"SELECT id FROM {F} WHERE id IN (SELECT carrier FROM {A})": "bigint and varchar",
    f"SELECT 1 FROM {F} JOIN {A} ON id = name": "bigint and varchar",
    f"SELECT sum(carrier) FROM {F}": "sum",
    "SELECT 1 UNION SELECT 'a'": "integer and varchar",
    "SELECT 1, 2 UNION SELECT 1": "different number",
    "VALUES (1, 2), (3)": "different numbers",
    # several rows, several columns
    f"SELECT (SELECT id FROM {F})": "multiple rows",
    f"SELECT (SELECT id, delay FROM {F})": "one column",
    f"SELECT 1 IN (SELECT id, delay FROM {F})": "one column",
    # windows
    f"SELECT id FROM {F} WHERE row_number() OVER (ORDER BY id) = 1": "WHERE cannot contain the window",
    f"SELECT rank() OVER () FROM {F}": "ORDER BY",
    f"SELECT row_number() FROM {F}": "row_number",
    # the rest of the language
    f"SELECT * FROM {F} NATURAL JOIN {A}": "NATURAL",
    f"SELECT * FROM {F} TABLESAMPLE BERNOULLI (10)": "SAMPLE",
    f"SELECT * FROM {F} JOIN {A}": "ON or USING",
    f"SELECT * FROM {F}, {A} a RIGHT JOIN {A} b ON a.name = b.name": "beside a comma",
    f"SELECT * FROM {F} f, {A} a JOIN {A} b ON f.carrier = b.carrier": "cannot be resolved",
    f"SELECT * FROM ({F} JOIN {A} ON TRUE)": "not supported",
    f"SELECT * FROM {F} FOR VERSION AS OF 1": "not supported",
    "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT * FROM r": "depth limit exceeded (10)",
    "TABLE ops.public.flights": "TABLE",
    "SELECT id FROM ops.public.flights WHERE id IN ()": "",
    "SELECT": "at least one column",
    f"SELECT FROM {F}": "at least one column",
    f"SELECT id, FROM {F}": "comma",
    "SELECT id FROM ops.public.flights WHERE id IN (1,)": "comma",
    f"FROM {F}": "FROM",
    "WITH a AS (SELECT 1) FROM a": "Trino has SELECT",
    f"SELECT * FROM (FROM {F})": "Trino has SELECT",
    f"SELECT id FROM {F} LIMIT 1, 2": "LIMIT stands where Trino has OFFSET",
    f"SELECT id FROM {F} LIMIT 1 UNION ALL SELECT 2": "UNION",
    f"SELECT id FROM {F} ORDER BY id UNION ALL SELECT 2": "UNION",
    f"SELECT id FROM {F} LIMIT 1 ORDER BY id": "ORDER",
    f"SELECT id FROM {F} ORDER BY id WHERE id = 1": "WHERE",
    f"SELECT id FROM {F} GROUP BY id WHERE id = 1": "WHERE",
    f"SELECT count(DISTINCT *) FROM {F}": "DISTINCT",
    f"SELECT lag(id, -1) OVER (ORDER BY id) FROM {F}": "0 or more",
    f"SELECT * FROM {F} f LEFT INNER JOIN {A} a ON TRUE": "LEFT INNER JOIN",
    f"SELECT * FROM {F} f OUTER JOIN {A} a ON TRUE": "OUTER JOIN",
    f"SELECT * FROM {F} f LEFT SEMI JOIN {A} a ON TRUE": "SEMI",
    "WITH t AS (SELECT 1), T AS (SELECT 2) SELECT * FROM t": "more than once",
    "": "empty",
    ";": "empty",
    "-- nothing": "empty",
    # other statements
    f"DELETE FROM {F}": "Delete",
    f"INSERT INTO {F} SELECT 1": "Insert",
    "CREATE TABLE x AS SELECT 1": "Create",
    "DROP TABLE flights": "Drop",
    "PRAGMA table_info(flights)": "PRAGMA",
    "ATTACH 'x' AS y": "ATTACH",
    "EXPLAIN SELECT 1": "EXPLAIN",
    "SHOW TABLES": "SHOW TABLES needs FROM",
    "SHOW FUNCTIONS": "SHOW FUNCTIONS",
    "SET SESSION x = 1": "SET",
    "SELECT 1; DROP TABLE flights": "one statement",
    "SELECT 1; SELECT 2": "one statement",
}


@pytest.mark.parametrize(("statement", "names"), REFUSED.items(), ids=REFUSED)
def test_what_trino_refuses_or_the_subset_lacks_is_refused(ask: Ask, statement: str, names: str) -> None:
    """A statement that is wrong in Trino, or outside of the subset, is an error that names what it is about."""
    with pytest.raises(SqlError) as caught:
        ask(statement)
    assert names in str(caught.value)


@pytest.mark.parametrize(
    ("column", "names"),
    [("n", "Column n is bigint, but"), ("t", "a BLOB of 1 bytes"), ("d", "2020-13-01"), ("raw", "varbinary")],
)
def test_a_stored_value_of_another_type_is_an_error(ask: Ask, column: str, names: str) -> None:
    """A value that its column's type does not have fails the query instead of counting as something else."""
    with pytest.raises(SqlError, match=names):
        ask(f"SELECT count({column}) FROM ops.public.odd WHERE {column} IS NOT NULL")


def test_only_what_is_used_must_be_of_its_type(ask: Ask) -> None:
    """A column of an unsupported type, or with bad values, harms no query that leaves it alone."""
    assert ask("SELECT count(*) FROM ops.public.odd").rows == [(2,)]
    assert ask("SELECT n, t, raw FROM ops.public.odd LIMIT 1").rows == [(1, "a", "AP8=")]
    with pytest.raises(SqlError, match="geometry"):
        ask("SELECT * FROM ops.public.odd")


def test_bindings_are_texts_in_the_order_of_their_marks(ask: Ask) -> None:
    """Each ? takes the next binding, wherever the query uses it, and as a varchar."""
    statement = (
        f"SELECT ?, carrier FROM {F} WHERE carrier = ? AND id < CAST(? AS bigint) ORDER BY ? || carrier"
    )
    assert ask(statement, "it's", "AA", "2", "x").rows == [("it's", "AA")]
    assert ask("SELECT '?', ? || ?", "a", "\0b").rows == [("?", "a\0b")]
    with pytest.raises(SqlError, match="expected 1 but found 0"):
        ask("SELECT ?")
    with pytest.raises(SqlError, match="bigint and varchar"):
        ask(f"SELECT 1 FROM {F} WHERE id = ?", "1")
    with pytest.raises(SqlError):
        ask("SELECT ?", "\ud800")


def test_bindings_in_group_by_are_one_expression_only_where_they_are_one_mark(ask: Ask) -> None:
    """Two marks with equal values are two expressions, as the statement alone shows."""
    with pytest.raises(SqlError, match="must be an aggregate"):
        ask(f"SELECT carrier || ? FROM {F} GROUP BY carrier || ?", "x", "x")
