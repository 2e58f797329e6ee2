"""The report: how punctual each carrier is, asked of Peaka's SQL over the cached tables."""

import dagster as dg

from dagster_peaka import PeakaResource
from flights.peaka_names import cache_key
from flights.punctuality import chart, markdown_table, rows_from_answer, statement

# Made anew when rows of a cache have changed, not already when a sync found nothing to do: the data versions of
# the caches are fingerprints of their rows.
WHEN_ROWS_CHANGE = dg.AutomationCondition.eager().replace(
    dg.AutomationCondition.any_deps_updated(),
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()),
)


@dg.asset(
    deps=[cache_key("flights"), cache_key("airlines"), cache_key("weather")],
    group_name="reports",
    automation_condition=WHEN_ROWS_CHANGE,
    kinds={"peaka", "matplotlib"},
)
def punctuality(peaka: PeakaResource) -> dg.MaterializeResult:
    """Each carrier's flights that have landed so far: how many were on time, late or cancelled."""
    with peaka.get_client() as client:
        answer = client.execute_query(statement())
    carriers = rows_from_answer(answer.rows)
    if not carriers:
        raise dg.Failure(
            "Peaka's copy of the flights holds no rows: materialize a day of operational/flights, "
            "then its cache."
        )
    return dg.MaterializeResult(
        metadata={
            "report": dg.MetadataValue.md(markdown_table(carriers)),
            "chart": dg.MetadataValue.md(f"![Share of flights on time]({chart(carriers)})"),
            "flights": sum(carrier.flights for carrier in carriers),
            "carriers": len(carriers),
        }
    )
