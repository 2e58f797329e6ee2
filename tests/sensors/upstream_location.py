"""A code location with every way in which upstream assets lead to a sync; served to a real daemon.

The upstream assets are external: the test reports their materializations. Each cache has its table's name as its key.
"""

import os

import dagster as dg

from dagster_peaka import PeakaResource, build_peaka_cache_asset
from dagster_peaka.sensors.upstream import build_peaka_upstream_sensor

EAGER = dg.AutomationCondition.eager()

by_sensor = build_peaka_cache_asset(table="ops.public.by_sensor", key="by_sensor", deps=["landed"])
by_two_sensors = build_peaka_cache_asset(
    table="ops.public.by_two_sensors", key="by_two_sensors", deps=["shared"]
)
by_condition = build_peaka_cache_asset(
    table="ops.public.by_condition", key="by_condition", deps=["loaded"], automation_condition=EAGER
)
of_some_partitions = build_peaka_cache_asset(
    table="ops.public.of_some_partitions",
    key="of_some_partitions",
    deps=["daily"],
    automation_condition=EAGER.without(~dg.AutomationCondition.any_deps_missing()),
)
of_all_partitions = build_peaka_cache_asset(
    table="ops.public.of_all_partitions", key="of_all_partitions", deps=["daily"], automation_condition=EAGER
)

defs = dg.Definitions(
    assets=[
        by_sensor,
        by_two_sensors,
        by_condition,
        of_some_partitions,
        of_all_partitions,
        dg.AssetSpec("daily", partitions_def=dg.StaticPartitionsDefinition(["monday", "tuesday"])),
    ],
    sensors=[
        build_peaka_upstream_sensor(
            by_sensor, minimum_interval_seconds=2, default_status=dg.DefaultSensorStatus.RUNNING
        ),
        *(
            build_peaka_upstream_sensor(
                by_two_sensors, name=name, minimum_interval_seconds=2, default_status=status
            )
            for name, status in [
                ("a_stopped_one", dg.DefaultSensorStatus.STOPPED),
                ("first_of_two", dg.DefaultSensorStatus.RUNNING),
                ("second_of_two", dg.DefaultSensorStatus.RUNNING),
            ]
        ),
        dg.AutomationConditionSensorDefinition(
            "conditions",
            target=[by_condition, of_some_partitions, of_all_partitions],
            minimum_interval_seconds=2,
            default_status=dg.DefaultSensorStatus.RUNNING,
        ),
    ],
    resources={
        "peaka": PeakaResource(
            api_key=dg.EnvVar("PEAKA_API_KEY"),
            project_id=dg.EnvVar("PEAKA_PROJECT_ID"),
            base_url=os.environ["PEAKA_BASE_URL"],
            poll_interval=0.1,
        )
    },
    executor=dg.in_process_executor,
)
