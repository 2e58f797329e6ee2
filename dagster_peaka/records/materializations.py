"""What a materialization records of the execution it stands for, and its data version.

What Peaka did not report is left out, never zero. A step's result (:func:`materialization`) and an event that a sensor
reports (:func:`external_materialization`) record the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from dagster_peaka.api.models import CacheExecution, SyncMode
from dagster_peaka.caches.names import SyncTarget
from dagster_peaka.sync.machine import Origin, Result
from dagster_peaka.versions import KNOWN_METADATA, Known, Version, next_version

DATA_VERSION_TAG = "dagster/data_version"
"""The tag under which Dagster keeps a materialization's data version."""

SEARCHED, SEARCHED_WHERE_OTHERS_FOLLOW = 10, 100
"""Materializations of an asset that are searched, the newest first, for one of the same execution: of one that this run
triggered, and of one that others may have recorded long ago."""

TABLE_METADATA_KEYS = ("dagster/table_name", "dagster/column_schema")
"""What an asset's spec says about its table, and Dagster shows for each materialization."""


def execution_metadata(
    cache_id: str,
    mode: SyncMode,
    execution: CacheExecution,
    *,
    origin: str,
    known: Known | None,
    table: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The metadata of one execution.

    Rows are counts of this execution (``peaka/rows_cached`` is Peaka's ``numberOfCachedRecords``, whose meaning
    differs between modes); times are Peaka's; ``peaka/duration_seconds`` is from creation to end. ``dagster/row_count``
    is there after a full refresh only, where Peaka's figure is the table's total.

    Args:
        origin: why the execution exists, such as ``triggered``.
        known: the newest execution of each mode that the data version covers; None when that is not surely known.
        table: the table's full name, where it is known.
        extra: what is recorded besides, or instead; an entry that is None is left out.
    """
    progress = execution.progress
    numbers = {
        "peaka/rows_inserted": progress.inserted,
        "peaka/rows_updated": progress.updated,
        "peaka/rows_deleted": progress.deleted,
        "peaka/rows_cached": progress.cached,
        "dagster/row_count": progress.cached if mode is SyncMode.FULL_REFRESH else None,
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
        KNOWN_METADATA: None if known is None else dg.MetadataValue.json(known.as_json()),
        "dagster/table_name": None if table is None else dg.MetadataValue.text(table),
        **(extra or {}),
    }
    return {key: value for key, value in metadata.items() if value is not None}


def table_metadata(declared: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a spec's metadata that each materialization repeats: the table's name and columns."""
    return {key: declared[key] for key in TABLE_METADATA_KEYS if declared.get(key) is not None}


def materialization(
    key: dg.AssetKey,
    target: SyncTarget,
    mode: SyncMode,
    result: Result,
    *,
    instance: dg.DagsterInstance,
    extra: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult[Any]:
    """The materialization of ``key`` for a sync that ended well.

    Args:
        instance: where the asset's last materializations are looked up.
        extra: metadata besides that of the execution, or instead; see :func:`execution_metadata`.
    """
    execution = result.execution
    assert execution is not None
    limit = SEARCHED if result.origin is Origin.TRIGGERED else SEARCHED_WHERE_OTHERS_FOLLOW
    previous, version = recorded_versions(instance, key, target.cache_id, execution.id, limit)
    if version is None:  # an execution has one version, whoever records it, and how often
        version = next_version(
            previous, mode, execution, before=result.before, covers=result.covers, alone=result.alone
        )
    metadata = execution_metadata(
        target.cache_id,
        mode,
        execution,
        origin=result.origin.value,
        known=version.known,
        table=target.name,
        extra=extra,
    )
    return dg.MaterializeResult(asset_key=key, metadata=metadata, data_version=dg.DataVersion(version.text))


def external_materialization(
    key: dg.AssetKey,
    cache_id: str,
    mode: SyncMode,
    execution: CacheExecution,
    *,
    origin: str,
    version: Version,
    table: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dg.AssetMaterialization:
    """The event for an execution that no step of ours followed, with the data version that the caller found for it."""
    metadata = execution_metadata(
        cache_id, mode, execution, origin=origin, known=version.known, table=table, extra=extra
    )
    return dg.AssetMaterialization(asset_key=key, metadata=metadata, tags={DATA_VERSION_TAG: version.text})


def recorded_versions(
    instance: dg.DagsterInstance, key: dg.AssetKey, cache_id: str, execution_id: str, limit: int
) -> tuple[Version | None, Version | None]:
    """What the last materialization of ``key`` recorded, and what that of this execution did, if there is one already.

    None for the first where there is none, or it was of another cache. An execution has one recorded already where
    the polling sensor was first, or another run that follows it.
    """
    try:
        records = instance.fetch_materializations(key, limit=limit).records
    except Exception:
        # A sync that ended well is not lost because the version before it cannot be read: it counts as a change.
        dg.get_dagster_logger("peaka").warning(
            "The last materializations of %s could not be read: this sync counts as a change.",
            key.to_user_string(),
            exc_info=True,
        )
        return None, None
    events = [event for record in records if (event := record.asset_materialization) is not None]
    same = next((event for event in events if _execution_id(event) == execution_id), None)
    previous = version_of(events[0], cache_id) if events else None
    return previous, version_of(same, cache_id) if same is not None else None


def _execution_id(materialized: dg.AssetMaterialization) -> object:
    value = materialized.metadata.get("peaka/execution_id")
    return value.value if isinstance(value, dg.TextMetadataValue) else None


def version_of(materialized: dg.AssetMaterialization, cache_id: str) -> Version | None:
    """What a materialization recorded; None when it was not of ``cache_id``, or has no data version."""
    cache = materialized.metadata.get("peaka/cache_id")
    text = (materialized.tags or {}).get(DATA_VERSION_TAG)
    if not isinstance(cache, dg.TextMetadataValue) or cache.value != cache_id or not text:
        return None
    known = materialized.metadata.get(KNOWN_METADATA)
    return Version(text, Known.from_json(known.data) if isinstance(known, dg.JsonMetadataValue) else None)
