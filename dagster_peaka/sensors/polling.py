"""The sensor that turns syncs which Peaka or others started into materializations of the cache assets.

A tick reads the statuses of all caches by one listing. Only for caches that moved since the last tick it reads the
history, and only about executions that have ended it asks Dagster's event log. What follows from that is decided in
:mod:`dagster_peaka.sensors.review`.
"""

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

from dagster_peaka.caches.declared import (
    LAST_SYNC_CHECK,
    QUERY_METADATA,
    declared_cache,
    declared_query,
    given_assets_or_specs,
    polling_sensor_metadata,
)
from dagster_peaka.errors import PeakaConfigError
from dagster_peaka.resource import PeakaResource
from dagster_peaka.sensors.events import PolledAsset
from dagster_peaka.sensors.reading import CatalogNames
from dagster_peaka.sensors.refreshes import PolledQuery, refresh_events
from dagster_peaka.sensors.summary import counted
from dagster_peaka.sensors.tick import Tick


def build_peaka_polling_sensor(
    assets: dg.AssetsDefinition | dg.AssetSpec | Iterable[dg.AssetsDefinition | dg.AssetSpec],
    *,
    name: str = "peaka_polling_sensor",
    resource_key: str = "peaka",
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
    backfill: bool = False,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.SensorDefinition:
    """A sensor by which Dagster learns of the syncs that Peaka's schedules, its UI or other clients started.

    Each execution that completes becomes a materialization of its cache's asset, once, with the same metadata and by
    the same data version as those of our own runs; ``peaka/origin`` is ``external``. What a run of ours
    records itself is left to that run. What a step with ``wait=False`` has triggered is recorded with that run's id
    (``peaka/run_id``, origin ``triggered``). A failed or cancelled execution becomes a failed evaluation of the check
    ``last_sync_succeeded`` where the asset declares it, and a warning in the tick's log otherwise.

    Of a materialized query each tick records the newest refresh, if that has completed and is not recorded yet, the
    first tick too: Peaka keeps no history of refreshes, so one that another has replaced between two ticks is lost.

    A tick with nothing new makes one request, whatever the number of caches, and asks no database. The first tick
    reports nothing: it remembers what there is. Peaka keeps executions for 14 days; a sensor that was off for longer
    says so in its log. Dagster shows ticks that request no runs as skipped; the reason beside them says what was
    recorded. While Peaka is away there is nothing to record, and after the resource's ``outage_tolerance`` ticks fail.

    Args:
        assets: the assets of caches and materialized queries, as the factories of this package make them, or their
            specs, where Dagster only watches (:func:`load_peaka_cache_specs`).
        resource_key: the key of the :class:`PeakaResource` in the definitions.
        minimum_interval_seconds: seconds between two ticks at least.
        default_status: whether it runs without being switched on in Dagster's UI.
        backfill: whether a cache that is seen for the first time brings along the completed executions that Peaka
            still shows, 14 days of them, as far as Dagster does not hold them yet.

    Raises:
        PeakaConfigError: when an asset names no cache, or two name the same.

    Example:
        .. code-block:: python

            orders = build_peaka_cache_asset(table="shop.public.orders", checks={"last_sync_succeeded": True})

            defs = dg.Definitions(
                assets=[orders],
                sensors=[build_peaka_polling_sensor([orders])],
                resources={"peaka": peaka},
            )
    """
    polled, queries = _polled(given_assets_or_specs(assets, "build_peaka_polling_sensor"))
    kinds = {"cache": len(polled), "materialized query": len(queries)}
    watched = " and ".join(counted(number, noun) for noun, number in kinds.items() if number) or "no cache"
    catalogs = CatalogNames()

    def peaka_polling_sensor(context: dg.SensorEvaluationContext, **_: object) -> dg.SensorResult:
        # Called directly, as tests do, a sensor gets its resources as arguments besides.
        peaka: PeakaResource = getattr(context.resources, resource_key)
        with peaka.get_client() as client:
            result = (
                Tick(context, name, client, peaka, polled, backfill, catalogs).result() if polled else None
            )
            refreshed = refresh_events(context, name, client, peaka, queries)
        return _with_queries(result, refreshed, len(queries)) if queries or result is None else result

    return dg.SensorDefinition(
        name,
        evaluation_fn=peaka_polling_sensor,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=description or f"Records what Peaka and others have synced of {watched}.",
        required_resource_keys={resource_key},
        tags=tags,
        metadata=polling_sensor_metadata(asset.key for asset in (*polled, *queries)),
    )


def _with_queries(
    result: dg.SensorResult | None,
    refreshed: Sequence[dg.AssetMaterialization | dg.AssetCheckEvaluation],
    queries: int,
) -> dg.SensorResult:
    """A tick's result, with what has become of materialized queries."""
    recorded = sum(isinstance(event, dg.AssetMaterialization) for event in refreshed)
    reason = f"Recorded {recorded} of {queries} materialized queries."
    if result is None:
        return dg.SensorResult(asset_events=refreshed, skip_reason=reason)
    return dg.SensorResult(
        asset_events=[*result.asset_events, *refreshed],
        skip_reason=f"{result.skip_reason.skip_message} {reason}" if result.skip_reason else reason,
        cursor=result.cursor,
    )


def _polled(
    assets: Iterable[dg.AssetsDefinition | dg.AssetSpec],
) -> tuple[list[PolledAsset], list[PolledQuery]]:
    polled: dict[bytes, PolledAsset] = {}
    queries: dict[str, PolledQuery] = {}
    for each in assets:
        alone = isinstance(each, dg.AssetSpec)
        checks = () if alone else each.check_keys
        checked = {check.asset_key for check in checks if check.name == LAST_SYNC_CHECK}
        for spec in [each] if alone else each.specs:
            if QUERY_METADATA in spec.metadata:
                query = PolledQuery(spec, declared_query(spec), spec.key in checked)
                _refuse_same(query, queries.setdefault(query.name, query), f"query {query.name}")
                continue
            asset = PolledAsset(spec.key, declared_cache(spec), spec.metadata, spec.key in checked)
            _refuse_same(asset, polled.setdefault(asset.address, asset), f"cache {asset}")
    if not polled and not queries:
        raise PeakaConfigError("The polling sensor was given no asset: there would be nothing to poll.")
    return list(polled.values()), list(queries.values())


def _refuse_same(one: PolledAsset | PolledQuery, other: PolledAsset | PolledQuery, what: str) -> None:
    if other is not one:
        raise PeakaConfigError(
            f"Assets {other.key.to_user_string()} and {one.key.to_user_string()} mean the same Peaka {what}: give the "
            "polling sensor one of them."
        )
