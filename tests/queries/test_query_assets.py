"""A snapshot's queries as assets: what they depend on, what is said of them, and how the snapshot keeps them."""

import logging
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import (
    DagsterPeakaTranslator,
    PeakaCache,
    PeakaConfigError,
    PeakaProject,
    PeakaQuery,
    PeakaResource,
    build_peaka_cache_assets,
    build_peaka_query_assets,
)
from dagster_peaka.queries.sql import UnreadableSqlError, tables_of
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import peaka_for

CACHES = tuple(
    PeakaCache(id=f"c-{table}", catalog_id="1", catalog_name="shop", schema_name="public", table_name=table)
    for table in ("orders", "items")
)


def project(**queries: str | PeakaQuery) -> PeakaProject:
    """A snapshot with two caches, and these queries: by their SQL, materialized."""
    made = [
        query if isinstance(query, PeakaQuery) else PeakaQuery(id=f"id-{name}", name=name, sql=query)
        for name, query in queries.items()
    ]
    return PeakaProject(project_id="p", caches=CACHES, queries=tuple(made))


def deps(assets: list[dg.AssetsDefinition]) -> dict[str, set[str]]:
    """What each query's asset depends on, by the last parts of the keys."""
    return {
        spec.key.path[-1]: {dep.asset_key.to_user_string() for dep in spec.deps}
        for asset in assets
        for spec in asset.specs
    }


# Dependencies


def test_dependencies_are_read_from_the_sql() -> None:
    """Caches, other queries, what is neither; and what plain queries read, for those who read them."""
    plain = PeakaQuery(
        id="3", name="cheap", sql="SELECT * FROM SHOP.Public.Items WHERE price < 3", materialized=False
    )
    assets = build_peaka_query_assets(
        project(
            daily='SELECT * FROM "shop"."public"."orders" o JOIN "crm"."main"."people" p ON o.id = p.id',
            report="WITH d AS (SELECT * FROM peaka.mtquery.daily) SELECT * FROM d",
            cheap=plain,
            few="SELECT count(*) FROM peaka.query.cheap",
        )
    )

    assert deps(assets) == {
        "daily": {"shop/public/orders", "crm/main/people"},
        "report": {"peaka/mtquery/daily"},
        "few": {"shop/public/items"},
    }
    sources = {
        spec.key.path[-1]: spec.metadata.get("peaka/sources") for each in assets for spec in each.specs
    }
    assert sources == {
        "daily": ["shop.public.orders", "crm.main.people"],
        "report": None,
        "few": ["SHOP.Public.Items"],
    }
    assert {key.name for each in assets for key in each.check_keys} == {"sources_cached"}


def test_the_translator_says_what_caches_and_queries_are_called() -> None:
    """One for both factories, so that they meet."""

    class Lake(DagsterPeakaTranslator):
        def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
            spec = super().get_asset_spec(props)
            return spec.replace_attributes(key=spec.key.with_prefix("lake"))

        def get_query_spec(self, props: PeakaQuery) -> dg.AssetSpec:
            spec = super().get_query_spec(props).merge_attributes(deps=["clock"])
            return spec.replace_attributes(key=["lake", props.name], group_name="lake")

    snapshot = project(daily="SELECT * FROM shop.public.orders", report="SELECT * FROM peaka.mtquery.daily")
    caches = build_peaka_cache_assets(snapshot, translator=Lake())
    queries = build_peaka_query_assets(snapshot, translator=Lake())

    assert deps(queries) == {"daily": {"lake/shop/public/orders", "clock"}, "report": {"lake/daily", "clock"}}
    peaka = PeakaResource(api_key="k", project_id="p", base_url="http://127.0.0.1:9/api/v1")
    graph = dg.Definitions(assets=[*caches, *queries], resources={"peaka": peaka}).resolve_asset_graph()
    assert graph.get(dg.AssetKey(["lake", "daily"])).parent_keys >= {
        dg.AssetKey(["lake", "shop", "public", "orders"])
    }
    assert {spec.group_name for each in queries for spec in each.specs} == {"lake"}


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ('SELECT * FROM "a"."b"."c d" x JOIN d.e.f USING (id)', ["a.b.c d", "d.e.f"]),
        ("WITH c AS (SELECT * FROM a.b.c), d AS (SELECT * FROM c) SELECT * FROM d, c", ["a.b.c"]),
        ("WITH c AS (SELECT * FROM a.b.t) SELECT * FROM a.b.c, c AS z", ["a.b.c", "a.b.t"]),
        (
            "SELECT * FROM a.b.t WHERE id IN (SELECT id FROM a.b.u) UNION ALL SELECT * FROM a.b.v",
            ["a.b.t", "a.b.u", "a.b.v"],
        ),
        ("SELECT (SELECT max(x) FROM a.b.k) FROM a.b.l, UNNEST(arr) AS t(z)", ["a.b.k", "a.b.l"]),
        ("SELECT sum(v) OVER (PARTITION BY k ORDER BY d) FROM a.b.l FETCH FIRST 3 ROWS ONLY", ["a.b.l"]),
        ("VALUES (1)", []),
        ("SELEC x FROM a.b.c", None),
        ("SELECT * FROM orders", None),
        ("", None),
    ],
)
def test_the_tables_of_a_statement(sql: str, tables: list[str] | None) -> None:
    """Each once; None where the statement cannot be read."""
    if tables is None:
        with pytest.raises(UnreadableSqlError):
            tables_of(sql)
    else:
        assert sorted(map(str, tables_of(sql) or [])) == sorted(tables)


# What is said


def test_sql_that_cannot_be_read_is_a_warning_and_an_asset_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without dependencies and without a check; the others are as they would be."""
    with caplog.at_level(logging.WARNING):
        assets = build_peaka_query_assets(project(bad="SELEC 1", good="SELECT * FROM shop.public.orders"))

    assert deps(assets) == {"bad": set(), "good": {"shop/public/orders"}}
    assert "The SQL of query bad cannot be read" in caplog.text
    assert [len(list(each.check_keys)) for each in assets] == [0, 1]


def test_without_sqlglot_dependencies_are_written_by_hand(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning names the extra."""
    monkeypatch.setitem(sys.modules, "sqlglot", None)

    with caplog.at_level(logging.WARNING):
        assets = build_peaka_query_assets(project(good="SELECT * FROM shop.public.orders"))

    assert deps(assets) == {"good": set()}
    assert "dagster-peaka[lineage]" in caplog.text


def test_a_source_that_is_not_cached_is_said_once_a_load(caplog: pytest.LogCaptureFixture) -> None:
    """With the query that reads it; cached sources and other queries are not."""
    with caplog.at_level(logging.WARNING):
        build_peaka_query_assets(
            project(a="SELECT * FROM crm.main.people, shop.public.orders", b="SELECT * FROM peaka.mtquery.a")
        )

    (line,) = [record.getMessage() for record in caplog.records if "snapshot's caches" in record.getMessage()]
    assert "crm.main.people (by a)" in line
    assert "orders" not in line
    assert "peaka.mtquery" not in line


def test_a_schedule_of_peaka_s_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Unless it is said to be known."""
    snapshot = project(a=PeakaQuery(id="1", name="a", sql="SELECT 1", schedule="0 0 * * * UTC"))

    with caplog.at_level(logging.WARNING):
        build_peaka_query_assets(snapshot, on_schedule="ignore")
        assert "schedules of its own" not in caplog.text
        build_peaka_query_assets(snapshot)

    assert "a (0 0 * * * UTC)" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"selector": "dialy"}, "No materialized query fits 'dialy'. Near matches: daily."),
        ({"on_schedule": "off"}, "on_schedule must be one of 'ignore', 'warn', 'disable'"),
        ({"sources_check": "always"}, "sources_check must be one of"),
    ],
)
def test_likely_mistakes_are_named(arguments: dict[str, Any], said: str) -> None:
    """The message says what to write instead."""
    with pytest.raises(PeakaConfigError, match=said):
        build_peaka_query_assets(project(daily="SELECT 1"), **arguments)


def test_two_queries_of_one_key_are_refused() -> None:
    """Neither would hide the other."""

    class Same(DagsterPeakaTranslator):
        def get_query_spec(self, props: PeakaQuery) -> dg.AssetSpec:
            return super().get_query_spec(props).replace_attributes(key="same")

    with pytest.raises(PeakaConfigError, match="query a and query b would both be the asset 'same'"):
        build_peaka_query_assets(project(a="SELECT 1", b="SELECT 2"), translator=Same())


# The snapshot


def test_a_snapshot_holds_queries_where_they_are_asked_for(sandbox: PeakaSandbox, tmp_path: Path) -> None:
    """With their SQL and schedules, in a file of its own version; without them the file is as it was."""
    every = {"type": "interval", "repeatDuration": "PT6H"}
    sandbox.queries.create("Daily", "SELECT * FROM ops.public.t", schedule=every)
    sandbox.queries.create("plain", "SELECT 1 AS one", materialized=False)
    sandbox.clear_requests()

    with_queries = peaka_for(sandbox).fetch_project(queries=True)
    without = peaka_for(sandbox).fetch_project()

    daily, plain = with_queries.queries
    assert (daily.name, daily.sql, daily.schedule, daily.materialized) == (
        "daily",
        "SELECT * FROM ops.public.t",
        "PT6H",
        True,
    )
    assert (plain.name, plain.schedule, plain.materialized) == ("plain", None, False)
    assert sum(request.operation == "listQueries" for request in sandbox.requests) == 1
    with_queries.save(tmp_path / "with.json")
    without.save(tmp_path / "without.json")
    assert PeakaProject.load(tmp_path / "with.json") == with_queries
    assert PeakaProject.load(tmp_path / "without.json") == without
    assert '"version": 2' in (tmp_path / "with.json").read_text()
    assert '"version": 1' in (tmp_path / "without.json").read_text()
    assert "queries" not in (tmp_path / "without.json").read_text()


def test_a_query_of_a_snapshot_is_refreshed_without_being_looked_up(sandbox: PeakaSandbox) -> None:
    """Its id is known; it runs after its cache."""
    sandbox.queries.create("daily", "SELECT id FROM ops.public.t")
    snapshot = peaka_for(sandbox).fetch_project(selector="ops.public.t", queries=True)
    assets = [*build_peaka_cache_assets(snapshot), *build_peaka_query_assets(snapshot, row_count="query")]
    sandbox.clear_requests()

    result = dg.materialize(assets, resources={"peaka": peaka_for(sandbox)})

    (shown,) = result.asset_materializations_for_node("peaka__mtquery__daily")
    assert shown.metadata["dagster/column_lineage"].value == dg.TableColumnLineage(
        {"id": [dg.TableColumnDep(dg.AssetKey(["ops", "public", "t"]), "id")]}
    )
    events = [
        event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key
    ]
    assert events == ["t", "daily"]
    assert sum(request.operation == "listQueries" for request in sandbox.requests) == 0
