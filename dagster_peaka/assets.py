"""The factory that makes a Peaka cache a Dagster asset."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from dagster_peaka.errors import PeakaConfigError
from dagster_peaka.models import SyncMode
from dagster_peaka.names import TableName, checked_cache_id, op_name
from dagster_peaka.resource import PeakaResource, PeakaSyncConfig
from dagster_peaka.steps import CACHE_ID_METADATA, MODE_METADATA, TABLE_METADATA


def build_peaka_cache_asset(
    *,
    cache_id: str | None = None,
    table: str | Sequence[str] | None = None,
    key: dg.AssetKey | str | Sequence[str] | None = None,
    mode: str = "incremental",
    deps: Iterable[Any] | None = None,
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
    kinds: Iterable[str] | None = None,
    group_name: str | None = None,
    code_version: str | None = None,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    freshness_policy: dg.FreshnessPolicy | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, Any] | None = None,
    resource_key: str = "peaka",
) -> dg.AssetsDefinition:
    """One Peaka cache as one asset: materializing it syncs the cache and records the execution.

    The step triggers an incremental update (or a full refresh), follows exactly that execution to its end, and
    records its id, rows and times. Nothing touches the network when this is called; a table is looked up when the
    step runs, so the same definition serves every project that caches it.

    Args:
        cache_id: the cache's id. Ids differ between projects; ``table`` does not.
        table: the cached table as ``catalog.schema.table``, or its three parts. Exactly one of the two is given.
        key: the asset key; by default the table's three parts, or ``peaka/<cache_id>``.
        mode: ``incremental`` or ``full_refresh``; run config can change it for one run.
        resource_key: the key of the :class:`PeakaResource` in the definitions.

    The other arguments are those of ``@dg.asset``; ``kinds`` is ``{"peaka"}`` by default.

    Raises:
        PeakaConfigError: when the arguments contradict each other or cannot be understood.

    Example:
        .. code-block:: python

            orders = build_peaka_cache_asset(
                table="shop.public.orders", deps=["landed_orders"], group_name="caches"
            )
    """
    sync_mode = SyncMode.parse(mode)
    identity, default_key = _identity(cache_id, table)
    spec = dg.AssetSpec(
        # Dagster materializes an asset that is not skippable by itself when its step ends without a result.
        skippable=True,
        key=default_key if key is None else key,
        description=description or _description(identity, sync_mode),
        metadata={**(metadata or {}), **identity, MODE_METADATA: sync_mode.value},
        tags=tags,
        owners=owners,
        kinds={"peaka"} if kinds is None else set(kinds),
        group_name=group_name,
        code_version=code_version,
        automation_condition=automation_condition,
        freshness_policy=freshness_policy,
    )

    # By `outs` and not by `specs`: from specs Dagster would make up an output name of the key, whatever is in it.
    @dg.multi_asset(
        outs={"result": dg.AssetOut.from_spec(spec, dagster_type=dg.Nothing)},
        deps=deps,
        name=op_name(spec.key),
        required_resource_keys={resource_key},
        retry_policy=retry_policy,
        pool=pool,
        op_tags=op_tags,
    )
    def peaka_cache(
        context: dg.AssetExecutionContext, config: PeakaSyncConfig
    ) -> Iterator[dg.MaterializeResult[Any]]:
        peaka: PeakaResource = getattr(context.resources, resource_key)
        yield from peaka.sync_and_poll(context, config)

    return peaka_cache


def _identity(cache_id: str | None, table: str | Sequence[str] | None) -> tuple[dict[str, str], dg.AssetKey]:
    """The metadata by which the step finds the cache, and the key that the asset has by default."""
    if (cache_id is None) == (table is None):
        raise PeakaConfigError(
            "Give either cache_id or table='catalog.schema.table', not both and not neither."
        )
    if table is not None:
        name = TableName.parse(table)
        return {TABLE_METADATA: str(name), "dagster/table_name": str(name)}, dg.AssetKey(list(name))
    assert cache_id is not None
    return {CACHE_ID_METADATA: checked_cache_id(cache_id)}, dg.AssetKey(["peaka", cache_id])


def _description(identity: Mapping[str, str], mode: SyncMode) -> str:
    name = identity.get(TABLE_METADATA) or f"cache {identity[CACHE_ID_METADATA]}"
    how = "brought up to date by an" if mode is SyncMode.INCREMENTAL else "rebuilt by a"
    return f"Peaka's copy of {name}, {how} {mode.words}."
