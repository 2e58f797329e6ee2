"""Column lineage of realistic queries: what each column is made of was written down by hand."""

from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaCache, PeakaProject, PeakaQuery, build_peaka_query_assets
from dagster_peaka.api import Column
from dagster_peaka.caches.names import TableName
from dagster_peaka.queries.lineage import column_lineage

ORDERS = TableName("shop", "public", "orders")
ITEMS = TableName("shop", "public", "items")
PEOPLE = TableName("crm", "main", "people")
DAILY = TableName("peaka", "mtquery", "daily")
COLUMNS = {
    ORDERS: ["id", "customer_id", "item_id", "price", "day"],
    ITEMS: ["id", "name", "cost"],
    PEOPLE: ["id", "name", "country"],
    DAILY: ["day", "revenue"],
}
PLAIN = {"cheap": "SELECT id, name FROM shop.public.items WHERE cost < 3"}
SHORT = {ORDERS: "o", ITEMS: "i", PEOPLE: "p", DAILY: "d"}
"""How tables are written below."""

QUERIES = [
    ("SELECT id, price FROM shop.public.orders", {"id": "o.id", "price": "o.price"}),
    (
        "SELECT o.id, p.name AS customer FROM shop.public.orders o JOIN crm.main.people p ON o.customer_id = p.id",
        {"id": "o.id", "customer": "p.name"},
    ),
    (
        "SELECT day, sum(price) AS revenue, count(*) AS n FROM shop.public.orders GROUP BY day",
        {"day": "o.day", "revenue": "o.price", "n": ""},
    ),
    ("SELECT * FROM shop.public.items", {"id": "i.id", "name": "i.name", "cost": "i.cost"}),
    (
        "SELECT i.*, o.price FROM shop.public.orders o JOIN shop.public.items i ON i.id = o.item_id",
        {"id": "i.id", "name": "i.name", "cost": "i.cost", "price": "o.price"},
    ),
    (
        "WITH big AS (SELECT id, price FROM shop.public.orders WHERE price > 9) SELECT id, price * 2 AS twice FROM big",
        {"id": "o.id", "twice": "o.price"},
    ),
    (
        "SELECT id, name FROM shop.public.items UNION ALL SELECT id, country FROM crm.main.people",
        {"id": "i.id p.id", "name": "i.name p.country"},
    ),
    (
        "SELECT id, rank() OVER (PARTITION BY customer_id ORDER BY price DESC) AS r FROM shop.public.orders",
        {"id": "o.id", "r": "o.customer_id o.price"},
    ),
    (
        "SELECT id, lag(price) OVER (ORDER BY day) AS before FROM shop.public.orders",
        {"id": "o.id", "before": "o.day o.price"},
    ),
    (
        "SELECT price - cost AS margin FROM shop.public.orders JOIN shop.public.items ON item_id = items.id",
        {"margin": "i.cost o.price"},
    ),
    (
        """SELECT CASE WHEN p.country = 'TR' THEN o.price ELSE 0 END AS home
        FROM shop.public.orders o, crm.main.people p WHERE p.id = o.customer_id""",
        {"home": "o.price p.country"},
    ),
    (
        "SELECT (SELECT max(price) FROM shop.public.orders) AS most, name FROM shop.public.items",
        {"most": "o.price", "name": "i.name"},
    ),
    (
        "SELECT name FROM shop.public.items WHERE id IN (SELECT item_id FROM shop.public.orders)",
        {"name": "i.name"},
    ),
    (
        "SELECT d.day, d.revenue / 100 AS hundreds FROM peaka.mtquery.daily d",
        {"day": "d.day", "hundreds": "d.revenue"},
    ),
    (
        "SELECT coalesce(p.name, i.name) AS label FROM crm.main.people p FULL JOIN shop.public.items i ON p.id = i.id",
        {"label": "i.name p.name"},
    ),
    (
        "SELECT x.total FROM (SELECT customer_id, sum(price) AS total FROM shop.public.orders GROUP BY 1) x",
        {"total": "o.price"},
    ),
    (
        'SELECT "ID", upper(NAME) AS "Loud" FROM "SHOP"."Public"."Items"',
        {"id": "i.id", "loud": "i.name"},
    ),
    (
        """SELECT date_trunc('month', day) AS month, approx_distinct(customer_id) AS buyers FROM shop.public.orders
        GROUP BY 1 HAVING count(*) > 1 ORDER BY 2""",
        {"month": "o.day", "buyers": "o.customer_id"},
    ),
    (
        "WITH a AS (SELECT * FROM shop.public.items), b AS (SELECT *, cost * 2 AS double FROM a) SELECT * FROM b",
        {"id": "i.id", "name": "i.name", "cost": "i.cost", "double": "i.cost"},
    ),
    (
        "SELECT name, tag FROM shop.public.items CROSS JOIN UNNEST(split(name, ' ')) AS t (tag)",
        {"name": "i.name", "tag": "i.name"},
    ),
    (
        "SELECT id FROM shop.public.items INTERSECT SELECT item_id FROM shop.public.orders",
        {"id": "i.id o.item_id"},
    ),
    (
        "SELECT sum(price) FILTER (WHERE day > DATE '2026-01-01') FROM shop.public.orders",
        {"_col0": "o.day o.price"},
    ),
    ("SELECT c.id, c.name FROM peaka.query.cheap c", {"id": "i.id", "name": "i.name"}),
    ("SELECT a, b FROM (VALUES (1, 'x')) AS v (a, b)", {"a": "", "b": ""}),
    (
        "WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT n FROM t",
        {"n": ""},
    ),
]


@pytest.mark.parametrize(("sql", "expected"), QUERIES)
def test_the_lineage_of_a_query(sql: str, expected: dict[str, str]) -> None:
    """Each column, and the columns of which its values are made."""
    found = column_lineage(sql, COLUMNS, PLAIN)

    assert found is not None
    assert {
        name: " ".join(sorted(f"{SHORT[table]}.{column}" for table, column in columns))
        for name, columns in found.items()
    } == expected


@pytest.mark.parametrize("sql", ["SELECT * FROM other.place.unknown", "SELEC 1", "", "SELECT FROM WHERE"])
def test_what_cannot_be_told_has_no_lineage(sql: str) -> None:
    """A star over columns that nobody knows, and what is no SQL."""
    assert column_lineage(sql, COLUMNS) is None


def test_assets_show_their_columns_and_what_these_are_made_of() -> None:
    """By the keys of assets, through another query, with the names as the cache has them."""
    items = PeakaCache(
        id="c",
        catalog_id="1",
        catalog_name="shop",
        schema_name="public",
        table_name="items",
        columns=(Column(name="Id", data_type="bigint"), Column(name="Cost", data_type="double")),
    )
    project = PeakaProject(
        project_id="p",
        caches=(items,),
        queries=(
            PeakaQuery(id="1", name="first", sql="SELECT id, cost * 2 AS twice FROM shop.public.items"),
            PeakaQuery(id="2", name="second", sql="SELECT * FROM peaka.mtquery.first"),
            PeakaQuery(id="3", name="third", sql="SELECT * FROM peaka.mtquery.third"),
        ),
    )

    first, second, third = (spec for each in build_peaka_query_assets(project) for spec in each.specs)

    cache, query = dg.AssetKey(["shop", "public", "items"]), dg.AssetKey(["peaka", "mtquery", "first"])
    assert value(first, "dagster/column_lineage") == dg.TableColumnLineage(
        {"id": [dg.TableColumnDep(cache, "Id")], "twice": [dg.TableColumnDep(cache, "Cost")]}
    )
    assert value(second, "dagster/column_lineage") == dg.TableColumnLineage(
        {"id": [dg.TableColumnDep(query, "id")], "twice": [dg.TableColumnDep(query, "twice")]}
    )
    assert [column.name for column in value(second, "dagster/column_schema").columns] == ["id", "twice"]
    assert "dagster/column_lineage" not in third.metadata


def value(spec: dg.AssetSpec, name: str) -> Any:
    """What a spec's metadata says, in whatever form Dagster keeps it."""
    found = spec.metadata[name]
    return found.value if isinstance(found, dg.MetadataValue) else found
