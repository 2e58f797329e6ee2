"""What the check ``last_sync_succeeded`` says. It belongs to the sync's own step, where it is declared.

A run may also ask for the check alone: then nothing is synced, and what Peaka shows decides.
"""

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import dagster as dg

from dagster_peaka.api.models import CacheExecution, CacheStatus, SyncMode
from dagster_peaka.caches.declared import LAST_SYNC_CHECK
from dagster_peaka.errors import PeakaSyncError, sentence
from dagster_peaka.records.failures import error_metadata

BEGIN_OF_TIME = datetime.min.replace(tzinfo=timezone.utc)
"""Stands for a time that Peaka did not give."""


def check_key(key: dg.AssetKey) -> dg.AssetCheckKey:
    """The key of the check of an asset."""
    return dg.AssetCheckKey(key, LAST_SYNC_CHECK)


def passed(key: dg.AssetKey, cache_id: str, mode: SyncMode, execution: CacheExecution) -> dg.AssetCheckResult:
    """The check of a sync that ended well, and in which execution."""
    return dg.AssetCheckResult(
        passed=True,
        asset_key=key,
        check_name=LAST_SYNC_CHECK,
        metadata={
            "peaka/cache_id": cache_id,
            "peaka/execution_id": execution.id,
            "peaka/mode": mode.value,
        },
    )


def failed(key: dg.AssetKey, error: PeakaSyncError) -> dg.AssetCheckResult:
    """The check of a sync whose execution failed; the description is the error's own text."""
    return _not_passed(key, str(error), error_metadata(error))


def shown(key: dg.AssetKey, status: CacheStatus) -> dg.AssetCheckResult:
    """The check by a cache's status: how the newest execution that has ended went, whoever started it."""
    lasts = [(status.last(mode), mode) for mode in SyncMode]
    ended = [(execution, mode) for execution, mode in lasts if execution is not None and execution.ended]
    if not ended:
        return _not_passed(key, f"No sync of Peaka cache {status.id} has ended yet.", {})
    execution, mode = max(ended, key=lambda each: each[0].created_at or BEGIN_OF_TIME)
    if execution.succeeded:
        return passed(key, status.id, mode, execution)
    reason = f" Peaka says: {sentence(execution.reason)}" if execution.reason else ""
    return _not_passed(
        key,
        f"Peaka cache {status.id}: {mode.words} execution {execution.id} has ended as {execution.status}.{reason}",
        {"peaka/cache_id": status.id, "peaka/execution_id": execution.id, "peaka/mode": mode.value},
    )


def _not_passed(key: dg.AssetKey, description: str, metadata: Mapping[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=False,
        asset_key=key,
        check_name=LAST_SYNC_CHECK,
        severity=dg.AssetCheckSeverity.ERROR,
        description=description,
        metadata=metadata,
    )
