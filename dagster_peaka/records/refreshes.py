"""What Dagster is told of a refresh of a materialized query, whoever records it."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from dagster_peaka.api.models import CacheExecution
from dagster_peaka.caches.declared import COLUMN_LINEAGE_METADATA
from dagster_peaka.records.materializations import table_metadata


def refresh_metadata(
    query_id: str, refresh: CacheExecution, spec_metadata: Mapping[str, Any], *, origin: str
) -> dict[str, Any]:
    """The metadata of a materialization: what the asset's spec says of its table, and the refresh's times."""
    times = {"peaka/started_at": refresh.created_at, "peaka/finished_at": refresh.finished_at}
    metadata: dict[str, Any] = {
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
