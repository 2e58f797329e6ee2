"""What analysts ask, over HTTP: the queries of analyst_queries.txt with the answers of Trino's documentation."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.sandbox.conftest import Api

_TABLES = """
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, item TEXT, price REAL, quantity INTEGER, day DATE,
                     at TIMESTAMP, paid BOOLEAN);
INSERT INTO orders VALUES
    (1, 1, 'tea', 3.5, 2, '2024-01-05', '2024-01-05 10:15:30', 1),
    (2, 1, 'cake', 4.0, 1, '2024-01-20', '2024-01-20 18:00:00', 1),
    (3, 2, 'tea', 3.5, 10, '2024-02-03', '2024-02-03 09:30:00', 0),
    (4, 3, 'coffee', 2.25, 3, '2024-02-29', '2024-02-29 23:59:59', 1),
    (5, 2, 'cake', 4.0, 2, '2024-03-15', '2024-03-15 12:00:00', NULL),
    (6, NULL, 'tea', NULL, 1, '2024-03-31', NULL, 1);
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT);
INSERT INTO customers VALUES (1, 'Ada', 'London'), (2, 'Bob', 'Paris'), (3, 'Cleo', 'London'), (4, 'Dan', NULL);
"""


def read_queries(name: str) -> list[dict[str, Any]]:
    """The queries of a file here: each its `sql`, and `rows` or what its refusal `names`."""
    found: list[dict[str, Any]] = []
    for line in Path(__file__).with_name(f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("=> "):
            found[-1]["rows"] = json.loads(line[3:])
        elif line.startswith("!! "):
            found[-1]["names"] = line[3:].strip()
        elif line and not line.startswith("#"):
            found.append({"sql": line})
    return found


QUERIES = read_queries("analyst_queries")
REFUSED = read_queries("refused_queries")
ANSWERED = [query for query in QUERIES if "rows" in query]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A sandbox whose source holds the analysts' tables, and keeps to the document, so that values have types."""
    path = tmp_path_factory.mktemp("analysts") / "ops.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(_TABLES)
    with PeakaSandbox({"ops": {"public": path}}, profile="documented") as sandbox:
        yield Api(sandbox)


def _named(sql: str) -> str:
    return re.sub(r"\b(FROM|JOIN|,) (orders|customers)\b", r"\1 ops.public.\2", sql)


@pytest.mark.parametrize("query", ANSWERED, ids=[query["sql"] for query in ANSWERED])
def test_an_analysts_query_is_answered_as_by_trino(api: Api, query: dict[str, Any]) -> None:
    """Values and their order, where the query gives one."""
    found, wanted = api.query(_named(query["sql"])), query["rows"]
    if "ORDER BY" not in query["sql"]:
        found, wanted = sorted(found, key=repr), sorted(wanted, key=repr)
    assert json.dumps(found, sort_keys=True) == json.dumps(wanted, sort_keys=True)


BEYOND = [query for query in QUERIES if "names" in query]


@pytest.mark.parametrize("query", [*BEYOND, *REFUSED], ids=[query["sql"] for query in (*BEYOND, *REFUSED)])
def test_what_is_refused_is_named(api: Api, query: dict[str, Any]) -> None:
    """A query beyond the sandbox, or that Trino refuses, is an error that says which part is wrong."""
    answer = api("POST", "queries/execute?format=COMPACT", json={"statement": _named(query["sql"])})
    assert answer.status_code == 400
    assert query["names"] in answer.json()["message"]


def test_at_most_one_in_twenty_is_refused() -> None:
    """Of two hundred queries."""
    assert len(QUERIES) >= 200
    assert len(BEYOND) <= len(QUERIES) / 20
    assert len(REFUSED) >= 70
