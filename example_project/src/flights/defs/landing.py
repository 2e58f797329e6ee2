"""The assets that land the data set in the operational database: flights by day, the other tables whole."""

import warnings
from collections.abc import Iterable, Mapping
from datetime import date

import dagster as dg

from flights import database, dataset

FLIGHTS_DAYS = dg.DailyPartitionsDefinition(
    start_date=dataset.FIRST_DAY.isoformat(), end_date=(dataset.LAST_DAY + dataset.ONE_DAY).isoformat()
)
LANDING = "operational"

warnings.filterwarnings("ignore", "Parameter `backfill_policy`", dg.BetaWarning)


@dg.asset(
    key_prefix=LANDING,
    group_name=LANDING,
    kinds={"sqlite"},
    partitions_def=FLIGHTS_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),  # the file is read once, however many days a run lands
)
def flights(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """The flights that left New York City's three airports on a day of 2013."""
    wanted = [date.fromisoformat(key) for key in context.partition_keys]
    by_day: dict[date, list[Mapping[str, str | None]]] = {day: [] for day in wanted}
    for row in _rows("flights"):
        day = date(*(int(row[name] or 0) for name in ("year", "month", "day")))
        if day in by_day:
            by_day[day].append(row)
    landings = [_land("flights", rows, day) for day, rows in by_day.items()]
    return _result("flights", landings)


def _landing_of_a_table(table: str, description: str) -> dg.AssetsDefinition:
    @dg.asset(name=table, key_prefix=LANDING, group_name=LANDING, kinds={"sqlite"}, description=description)
    def landing() -> dg.MaterializeResult:
        return _result(table, [_land(table, _rows(table))])

    return landing


airlines = _landing_of_a_table("airlines", "The airlines' names, by their two-letter carrier code.")
airports = _landing_of_a_table("airports", "Airports: where they are and which time they keep.")
planes = _landing_of_a_table(
    "planes", "Planes, by their tail number. Many flights name one that is not here."
)
weather = _landing_of_a_table("weather", "The weather at New York City's three airports, by hour.")


def next_day(instance: dg.DagsterInstance) -> str | None:
    """The partition key of the day to land next, the first not materialized yet; None after the last."""
    landed = instance.get_materialized_partitions(flights.key)
    return next((key for key in FLIGHTS_DAYS.get_partition_keys() if key not in landed), None)


def _rows(table: str) -> Iterable[Mapping[str, str | None]]:
    try:
        yield from dataset.read_rows(table)
    except dataset.DatasetError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def _land(table: str, rows: Iterable[Mapping[str, str | None]], day: date | None = None) -> database.Landing:
    scope = {"year": day.year, "month": day.month, "day": day.day} if day else None
    try:
        return database.land(database.database_path(), table, rows, scope=scope)
    except database.DatabaseError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def _result(table: str, landings: list[database.Landing]) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        metadata={
            "rows_inserted": sum(landing.inserted for landing in landings),
            "rows_updated": sum(landing.updated for landing in landings),
            "rows_deleted": sum(landing.deleted for landing in landings),
            "dagster/row_count": landings[-1].total,
            "dagster/table_name": table,
            "database": dg.MetadataValue.path(database.database_path()),
        }
    )
