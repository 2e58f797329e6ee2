"""The report: how punctual each carrier is. Peaka answers by a materialized query, and a table and a chart show it."""

import dagster as dg

from dagster_peaka import PeakaResource, build_peaka_query_asset
from flights.peaka_names import QUERY, cache_key
from flights.punctuality import COLUMNS, TABLES, chart, markdown_table, rows_from_answer

# Made anew when rows have changed, not already when a sync found nothing to do: data versions are fingerprints here.
WHEN_ROWS_CHANGE = dg.AutomationCondition.eager().replace(
    dg.AutomationCondition.any_deps_updated(),
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()),
)


def carriers() -> dg.AssetsDefinition:
    """The query's snapshot: a row for each carrier, refreshed after the caches of the three tables that it reads."""
    return build_peaka_query_asset(
        query=QUERY,
        deps=[cache_key(table) for table in TABLES],
        sources=[".".join(cache_key(table)) for table in TABLES],
        sources_check="block",
        group_name="reports",
        description="Each carrier's flights that have landed so far, as Peaka keeps them.",
        automation_condition=WHEN_ROWS_CHANGE,
        row_count="query",
        fingerprint=f"to_hex(checksum(ROW({', '.join(COLUMNS)})))",
    )


@dg.asset(
    deps=[["peaka", "mtquery", QUERY]],
    group_name="reports",
    automation_condition=WHEN_ROWS_CHANGE,
    kinds={"peaka", "matplotlib"},
)
def punctuality(peaka: PeakaResource) -> dg.MaterializeResult:
    """Each carrier's flights that have landed so far: how many were on time, late or cancelled."""
    with peaka.get_client() as client:
        answer = client.execute_query(f'SELECT * FROM "peaka"."mtquery"."{QUERY}"')
    carriers = rows_from_answer(answer.rows)
    if not carriers:
        raise dg.Failure(
            "Peaka's copy of the flights holds no rows: materialize a day of operational/flights, "
            "then its cache, then the query."
        )
    return dg.MaterializeResult(
        metadata={
            "report": dg.MetadataValue.md(markdown_table(carriers)),
            "chart": dg.MetadataValue.md(f"![Share of flights on time]({chart(carriers)})"),
            "flights": sum(carrier.flights for carrier in carriers),
            "carriers": len(carriers),
        }
    )


@dg.definitions
def report() -> dg.Definitions:
    """The query between the caches and the report, and the report."""
    return dg.Definitions(assets=[carriers(), punctuality])
