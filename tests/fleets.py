"""Steps of several caches, declared by hand as a user's own body would be."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from dagster_peaka import PeakaResource, PeakaSyncConfig


def fleet(
    metadata: Mapping[str, Mapping[str, Any]],
    *,
    name: str = "fleet",
    checks: bool = False,
    deps: Sequence[str] = (),
    retry_policy: dg.RetryPolicy | None = None,
) -> dg.AssetsDefinition:
    """One step for the assets of these names, each with its metadata, and with the check of its last sync."""
    specs = [
        dg.AssetSpec(asset, metadata=dict(each), skippable=True, deps=list(deps))
        for asset, each in metadata.items()
    ]
    check_specs = [dg.AssetCheckSpec("last_sync_succeeded", asset=spec.key) for spec in specs]

    @dg.multi_asset(
        name=name,
        specs=specs,
        check_specs=check_specs if checks else None,
        can_subset=True,
        retry_policy=retry_policy,
    )
    def caches(
        context: dg.AssetExecutionContext, config: PeakaSyncConfig, peaka: PeakaResource
    ) -> Iterator[Any]:
        yield from peaka.sync_and_poll(context, config)

    return caches


def recorded(result: dg.ExecuteInProcessResult) -> list[str]:
    """The assets that a run has materialized, in order."""
    return [
        event.asset_key.to_user_string()
        for event in result.all_events
        if event.is_step_materialization and event.asset_key is not None
    ]
