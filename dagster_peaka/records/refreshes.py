"""What Dagster is told of a refresh of a materialized query, whoever records it."""

from collections.abc import Mapping
from typing import Any, TypeVar

import dagster as dg

from dagster_peaka.api.models import CacheExecution
from dagster_peaka.caches.declared import COLUMN_LINEAGE_METADATA, LAST_SYNC_CHECK, link
from dagster_peaka.records.materializations import table_metadata

C = TypeVar("C", dg.AssetCheckResult, dg.AssetCheckEvaluation)


def refresh_metadata(
    query_id: str,
    refresh: CacheExecution,
    spec_metadata: Mapping[str, Any],
    *,
    origin: str,
    url: str | None = None,
) -> dict[str, Any]:
    """The metadata of a materialization: what the asset's spec says of its table, and the refresh's times.

    Args:
        url: where a person finds the query, where that is known.
    """
    times = {"peaka/started_at": refresh.created_at, "peaka/finished_at": refresh.finished_at}
    metadata: dict[str, Any] = {
        **link(url),
        **table_metadata(spec_metadata),
        **{name: value for name, value in spec_metadata.items() if name == COLUMN_LINEAGE_METADATA},
        "peaka/query_id": dg.MetadataValue.text(query_id),
        "peaka/origin": dg.MetadataValue.text(origin),
        **{name: dg.MetadataValue.timestamp(time) for name, time in times.items() if time is not None},
    }
    if refresh.duration_seconds is not None:
        metadata["peaka/duration_seconds"] = dg.MetadataValue.float(refresh.duration_seconds)
    return metadata


def refresh_version(query_id: str, start: str) -> str:
    """One refresh, one version: the query and its start, which is all that Peaka tells of it."""
    return f"{query_id}@{start}"


def refresh_check(kind: type[C], key: dg.AssetKey, query: str, refresh: CacheExecution, url: str | None) -> C:
    """The check ``last_sync_succeeded`` of a query: how a refresh that has ended went.

    Args:
        kind: what a step yields, or what a sensor reports.
        query: how the query is shown.
        url: where a person finds it, where that is known.
    """
    return kind(
        passed=refresh.succeeded,
        asset_key=key,
        check_name=LAST_SYNC_CHECK,
        severity=dg.AssetCheckSeverity.ERROR,
        description=None
        if refresh.succeeded
        else f"Peaka query {query}: the refresh of {refresh.id} has ended as {refresh.status}; the snapshot is as it "
        "was. Look at the query and its sources in Peaka, then materialize it again.",
        metadata={"peaka/execution_id": refresh.id, "peaka/query": query, **link(url)},
    )
