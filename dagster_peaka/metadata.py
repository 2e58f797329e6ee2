"""What a materialization records of the execution it stands for. What Peaka did not report is left out, never zero."""

from __future__ import annotations

from typing import Any

import dagster as dg

from dagster_peaka.models import CacheExecution, SyncMode
from dagster_peaka.runner import SyncTarget
from dagster_peaka.sync import Result


def execution_metadata(
    target: SyncTarget, mode: SyncMode, execution: CacheExecution
) -> dict[str, dg.MetadataValue]:
    """The metadata of one execution.

    Rows are counts of this execution (``peaka/rows_cached`` is Peaka's ``numberOfCachedRecords``, whose meaning
    differs between modes); times are Peaka's; ``peaka/duration_seconds`` is from creation to end. ``dagster/row_count``
    is there after a full refresh only, where Peaka's figure is the table's total.
    """
    progress = execution.progress
    numbers = {
        "peaka/rows_inserted": progress.inserted,
        "peaka/rows_updated": progress.updated,
        "peaka/rows_deleted": progress.deleted,
        "peaka/rows_cached": progress.cached,
    }
    if mode is SyncMode.FULL_REFRESH:
        numbers["dagster/row_count"] = progress.cached
    times = {"peaka/started_at": execution.created_at, "peaka/finished_at": execution.finished_at}
    metadata: dict[str, dg.MetadataValue] = {
        "peaka/cache_id": dg.MetadataValue.text(target.cache_id),
        "peaka/execution_id": dg.MetadataValue.text(execution.id),
        "peaka/mode": dg.MetadataValue.text(mode.value),
    }
    metadata.update(
        {key: dg.MetadataValue.int(number) for key, number in numbers.items() if number is not None}
    )
    metadata.update(
        {key: dg.MetadataValue.timestamp(time) for key, time in times.items() if time is not None}
    )
    if execution.duration_seconds is not None:
        metadata["peaka/duration_seconds"] = dg.MetadataValue.float(execution.duration_seconds)
    if target.name is not None:
        metadata["dagster/table_name"] = dg.MetadataValue.text(target.name)
    return metadata


def materialization(
    key: dg.AssetKey, target: SyncTarget, mode: SyncMode, result: Result
) -> dg.MaterializeResult[Any]:
    """The materialization of ``key`` for a sync that ended well."""
    execution = result.execution
    assert execution is not None
    return dg.MaterializeResult(
        asset_key=key,
        metadata={
            **execution_metadata(target, mode, execution),
            "peaka/origin": dg.MetadataValue.text(result.origin.value),
        },
        data_version=dg.DataVersion(execution.id),
    )
