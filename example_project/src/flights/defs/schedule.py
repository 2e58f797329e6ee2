"""The whole chain as one job, and a schedule that lands one more day of 2013 every ten minutes of ours."""

import dagster as dg

from flights.defs.caches import BROKEN
from flights.defs.landing import next_day

chain = dg.define_asset_job(
    "chain",
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups(BROKEN),
    description="Land a day of flights and the four small tables, sync the caches, refresh the query, make the report.",
)


@dg.schedule(job=chain, cron_schedule="*/10 * * * *")
def another_day(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Request the chain for the first day that has not landed yet. Switched off until you switch it on."""
    day = next_day(context.instance)
    if day is None:
        return dg.SkipReason("Every day of 2013 has landed.")
    return dg.RunRequest(run_key=day, partition_key=day)
