"""A code location with three assets that are not waited for, of which a polling sensor covers one."""

import os

import dagster as dg

from dagster_peaka import PeakaResource, build_peaka_cache_asset, build_peaka_query_asset
from dagster_peaka.caches.declared import polling_sensor_metadata

polled = build_peaka_cache_asset(table="ops.public.t", key="polled", wait=False)
forgotten = build_peaka_cache_asset(table="ops.public.u", key="forgotten", wait=False)
query = build_peaka_query_asset(query="report", key="forgotten_query", wait=False)


@dg.sensor(name="watch", metadata=polling_sensor_metadata([polled.key]))
def watch() -> dg.SkipReason:
    """Stands for the polling sensor: the step asks what it covers, and no more."""
    return dg.SkipReason("not run here")


defs = dg.Definitions(
    assets=[polled, forgotten, query],
    sensors=[watch],
    resources={
        "peaka": PeakaResource(
            api_key=dg.EnvVar("PEAKA_API_KEY"),
            project_id=dg.EnvVar("PEAKA_PROJECT_ID"),
            base_url=os.environ.get("PEAKA_BASE_URL", "http://127.0.0.1:1/api/v1"),
        )
    },
    executor=dg.in_process_executor,
)
