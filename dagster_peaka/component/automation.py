"""The checks and sensors that the component's YAML asks for."""

from collections.abc import Sequence

import dagster as dg

from dagster_peaka.checks import build_peaka_cache_checks
from dagster_peaka.component.settings import (
    PeakaCheckSettings,
    PeakaPollingSensorSettings,
    PeakaUpstreamSensorSettings,
)
from dagster_peaka.errors import PeakaConfigError
from dagster_peaka.sensors.polling import build_peaka_polling_sensor
from dagster_peaka.sensors.upstream import build_peaka_upstream_sensor


def checks_of(
    assets: Sequence[dg.AssetsDefinition], checks: PeakaCheckSettings, resource_key: str
) -> list[dg.AssetChecksDefinition]:
    """The checks of each step's assets, as one step: no step has to wait for the checks of another.

    Raises:
        PeakaConfigError: as :func:`build_peaka_cache_checks`, also where there are no assets.
    """
    return [
        made
        for definition in assets or [()]
        for made in build_peaka_cache_checks(
            definition,
            max_rows_dropped=checks.max_rows_dropped,
            columns_unchanged=checks.columns_unchanged,
            max_age=checks.max_age,
            blocking=checks.blocking,
            severity=dg.AssetCheckSeverity[checks.severity] if checks.severity else None,
            retry_policy=checks.op.retry_policy,
            pool=checks.op.pool,
            op_tags=checks.op.tags,
            resource_key=resource_key,
        )
    ]


def upstream_sensor_of(
    assets: Sequence[dg.AssetsDefinition], sensor: PeakaUpstreamSensorSettings, name: str
) -> dg.SensorDefinition:
    """The sensor that requests caches.

    Raises:
        PeakaConfigError: as :func:`build_peaka_upstream_sensor`.
    """
    if not any(spec.deps for definition in assets for spec in definition.specs):
        raise PeakaConfigError(NOTHING_UPSTREAM)
    return build_peaka_upstream_sensor(
        assets,
        name=sensor.name or f"{name}_upstream_sensor",
        require=sensor.require,
        minimum_update_interval=sensor.minimum_update_interval,
        run_tags=sensor.run_tags,
        minimum_interval_seconds=sensor.minimum_interval_seconds,
        default_status=sensor.status,
        description=sensor.description,
        tags=sensor.tags,
    )


def polling_sensor_of(
    assets: Sequence[dg.AssetsDefinition], sensor: PeakaPollingSensorSettings, name: str
) -> dg.SensorDefinition:
    """The sensor that records the syncs of others.

    Raises:
        PeakaConfigError: as :func:`build_peaka_polling_sensor`.
    """
    return build_peaka_polling_sensor(
        assets,
        name=sensor.name or f"{name}_polling_sensor",
        resource_key=name,
        minimum_interval_seconds=sensor.minimum_interval_seconds,
        default_status=sensor.status,
        backfill=sensor.backfill,
        description=sensor.description,
        tags=sensor.tags,
    )


NOTHING_UPSTREAM = (
    "there is nothing to watch, because no cache's asset depends on another. Say by source_asset_key, or by deps in "
    "overrides, which assets fill the tables that the caches copy."
)
