"""Sensors that keep things up to date by themselves. Switched off until you switch them on."""

import dagster as dg

from dagster_peaka import build_peaka_polling_sensor, build_peaka_upstream_sensor
from flights.defs.caches import cache_assets
from flights.defs.report import carriers

INTERVAL = 10  # seconds: somebody is watching. The usual 30 are better where nobody is.


@dg.definitions
def sensors() -> dg.Definitions:
    """What lands is synced, what Peaka syncs by itself is recorded, what has changed is reported."""
    caches = cache_assets()
    return dg.Definitions(
        sensors=[
            build_peaka_upstream_sensor(caches, name="after_landing", minimum_interval_seconds=INTERVAL),
            build_peaka_polling_sensor(
                [*caches, carriers()], name="synced_elsewhere", minimum_interval_seconds=INTERVAL
            ),
            # Asks the assets that have an automation condition: the query, and then the report.
            dg.AutomationConditionSensorDefinition(
                "new_report", target=dg.AssetSelection.groups("reports"), minimum_interval_seconds=INTERVAL
            ),
        ]
    )
