"""What the check ``last_sync_succeeded`` says of a sync. It belongs to the sync's own step, where it is declared."""

import dagster as dg

from dagster_peaka.declared import LAST_SYNC_CHECK
from dagster_peaka.errors import PeakaError
from dagster_peaka.failures import error_metadata
from dagster_peaka.models import CacheExecution, SyncMode


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


def failed(key: dg.AssetKey, error: PeakaError) -> dg.AssetCheckResult:
    """The check of a sync that failed, or could not be begun; the description is the error's own text."""
    return dg.AssetCheckResult(
        passed=False,
        asset_key=key,
        check_name=LAST_SYNC_CHECK,
        severity=dg.AssetCheckSeverity.ERROR,
        description=str(error),
        metadata=error_metadata(error),
    )
