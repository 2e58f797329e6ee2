"""What a materialization records of the execution it stands for, and its data version.

What Peaka did not report is left out, never zero. A step's result (:func:`materialization`) and an event that a sensor
reports (:func:`external_materialization`) record the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from dagster_peaka.api.models import CacheExecution, SyncMode
from dagster_peaka.caches.declared import URL_METADATA
from dagster_peaka.caches.names import SyncTarget
from dagster_peaka.sync.outcome import Result

DATA_VERSION_TAG = "dagster/data_version"
"""The tag under which Dagster keeps a materialization's data version."""

TABLE_METADATA_KEYS = ("dagster/table_name", "dagster/column_schema", URL_METADATA)
"""What an asset's spec says about its table, and Dagster shows for each materialization."""


def execution_metadata(
    cache_id: str,
    mode: SyncMode,
    execution: CacheExecution,
    *,
    origin: str,
    table: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The metadata of one execution.

    Rows are what Peaka reported of this execution, and nothing is concluded from them: ``peaka/rows_processed`` is its
    ``numberOfCachedRecords``, no total in any mode, and ``deleted`` was seen to stay 0 though rows went. Times are
    Peaka's; ``peaka/duration_seconds`` is from creation to end.

    Args:
        origin: why the execution exists, such as ``triggered``.
        table: the table's full name, where it is known.
        extra: what is recorded besides, or instead; an entry that is None is left out.
    """
    progress = execution.progress
    numbers = {
        "peaka/rows_inserted": progress.inserted,
        "peaka/rows_updated": progress.updated,
        "peaka/rows_deleted": progress.deleted,
        "peaka/rows_processed": progress.cached,
    }
    times = {"peaka/started_at": execution.created_at, "peaka/finished_at": execution.finished_at}
    duration = execution.duration_seconds
    metadata: dict[str, Any] = {
        "peaka/cache_id": dg.MetadataValue.text(cache_id),
        "peaka/execution_id": dg.MetadataValue.text(execution.id),
        "peaka/mode": dg.MetadataValue.text(mode.value),
        "peaka/origin": dg.MetadataValue.text(origin),
        **{key: None if number is None else dg.MetadataValue.int(number) for key, number in numbers.items()},
        **{key: None if time is None else dg.MetadataValue.timestamp(time) for key, time in times.items()},
        "peaka/duration_seconds": None if duration is None else dg.MetadataValue.float(duration),
        "dagster/table_name": None if table is None else dg.MetadataValue.text(table),
        **(extra or {}),
    }
    return {key: value for key, value in metadata.items() if value is not None}


def table_metadata(declared: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a spec's metadata that each materialization repeats: the table's name, columns and address."""
    return {key: declared[key] for key in TABLE_METADATA_KEYS if declared.get(key) is not None}


def data_version(execution: CacheExecution, fingerprint: str | None) -> str:
    """The fingerprint of the rows after an execution, and its id where there is none: never what counters say."""
    return execution.id if fingerprint is None else fingerprint


def row_count(rows: int | None) -> dict[str, Any]:
    """Dagster's own metadata for a counted total; nothing where it is not known."""
    return {} if rows is None else {"dagster/row_count": dg.MetadataValue.int(rows)}


def schedules_disabled(words: str | None) -> dict[str, Any]:
    """The metadata of the schedules of Peaka's that were switched off before the sync; nothing where none were."""
    return {} if words is None else {"peaka/schedules_disabled": dg.MetadataValue.text(words)}


def materialization(
    key: dg.AssetKey,
    target: SyncTarget,
    mode: SyncMode,
    result: Result,
    *,
    fingerprint: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult[Any]:
    """The materialization of ``key`` for a sync that ended well.

    Args:
        fingerprint: of the rows after the sync, where it is known: the data version. Otherwise that is the
            execution's id, so that an execution has one version, whoever records it, and how often.
        extra: metadata besides that of the execution, or instead; see :func:`execution_metadata`.
    """
    execution = result.execution
    assert execution is not None
    metadata = execution_metadata(
        target.cache_id, mode, execution, origin=result.origin.value, table=target.name, extra=extra
    )
    version = dg.DataVersion(data_version(execution, fingerprint))
    return dg.MaterializeResult(asset_key=key, metadata=metadata, data_version=version)


def external_materialization(
    key: dg.AssetKey,
    cache_id: str,
    mode: SyncMode,
    execution: CacheExecution,
    *,
    origin: str,
    fingerprint: str | None = None,
    table: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dg.AssetMaterialization:
    """The event for an execution that no step of ours followed, with the same data version as a step's result."""
    metadata = execution_metadata(cache_id, mode, execution, origin=origin, table=table, extra=extra)
    tags = {DATA_VERSION_TAG: data_version(execution, fingerprint)}
    return dg.AssetMaterialization(asset_key=key, metadata=metadata, tags=tags)
