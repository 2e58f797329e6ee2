"""Peaka's REST API, usable without Dagster: what :class:`dagster_peaka.PeakaClient` takes and answers."""

from dagster_peaka.api.models import (
    CacheCreation,
    CacheExecution,
    CacheRequest,
    CacheSchedule,
    CacheSettings,
    CacheStatus,
    Catalog,
    Column,
    ExecutionProgress,
    QueryResult,
    Schema,
    SyncMode,
    Table,
)

__all__ = [
    "CacheCreation",
    "CacheExecution",
    "CacheRequest",
    "CacheSchedule",
    "CacheSettings",
    "CacheStatus",
    "Catalog",
    "Column",
    "ExecutionProgress",
    "QueryResult",
    "Schema",
    "SyncMode",
    "Table",
]
