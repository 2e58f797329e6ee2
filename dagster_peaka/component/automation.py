"""The sensors that the component's YAML asks for."""

from collections.abc import Sequence

import dagster as dg

from dagster_peaka.component.settings import (
    PeakaPollingSensorSettings,
    PeakaUpstreamSensorSettings,
)
from dagster_peaka.errors import PeakaConfigError
from dagster_peaka.sensors.polling import build_peaka_polling_sensor
from dagster_peaka.sensors.upstream import build_peaka_upstream_sensor


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
