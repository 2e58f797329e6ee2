"""A code location with a cache that Peaka's users sync, another whose step does not wait, and a sensor that is on."""

import dagster as dg

from dagster_peaka import PeakaResource, build_peaka_cache_asset
from dagster_peaka.sensors.polling import build_peaka_polling_sensor

watched = build_peaka_cache_asset(table="ops.public.t", key="watched", checks={"last_sync_succeeded": True})
deferred = build_peaka_cache_asset(table="ops.public.u", key="deferred", wait=False)

defs = dg.Definitions(
    assets=[watched, deferred],
    sensors=[
        build_peaka_polling_sensor(
            [watched, deferred],
            minimum_interval_seconds=1,
            default_status=dg.DefaultSensorStatus.RUNNING,
        )
    ],
    resources={
        "peaka": PeakaResource(
            api_key=dg.EnvVar("PEAKA_API_KEY"),
            project_id=dg.EnvVar("PEAKA_PROJECT_ID"),
            base_url=dg.EnvVar("PEAKA_BASE_URL"),
        )
    },
)
