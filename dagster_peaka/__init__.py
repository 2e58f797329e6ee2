"""Peaka caches as Dagster assets: each materialization is one execution, named, followed to its end and recorded."""

import dagster as dg

from dagster_peaka.api.client import PeakaClient
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
from dagster_peaka.assets import build_peaka_cache_asset, build_peaka_cache_assets, peaka_cache_assets
from dagster_peaka.caches.project import PeakaCache, PeakaProject, PeakaQuery
from dagster_peaka.caches.selection import PeakaCacheSelector
from dagster_peaka.checks import build_peaka_cache_checks
from dagster_peaka.component import (
    PeakaCacheEntry,
    PeakaCacheOverride,
    PeakaCheckSettings,
    PeakaOpSettings,
    PeakaPollingSensorSettings,
    PeakaProjectComponent,
    PeakaQuerySettings,
    PeakaUpstreamSensorSettings,
)
from dagster_peaka.errors import (
    PeakaApiError,
    PeakaAuthenticationError,
    PeakaConfigError,
    PeakaConnectionError,
    PeakaError,
    PeakaNotFoundError,
    PeakaPermissionError,
    PeakaRateLimitError,
    PeakaResponseError,
    PeakaServerError,
    PeakaSyncError,
    PeakaUnknownOutcomeError,
)
from dagster_peaka.queries.assets import build_peaka_query_asset, build_peaka_query_assets
from dagster_peaka.resource import PeakaResource, PeakaSyncConfig
from dagster_peaka.sensors.polling import build_peaka_polling_sensor
from dagster_peaka.sensors.upstream import build_peaka_upstream_sensor
from dagster_peaka.steps.checks import PeakaCacheChecks
from dagster_peaka.steps.specs import load_peaka_cache_specs
from dagster_peaka.translator import DagsterPeakaTranslator

__all__ = [
    "CacheCreation",
    "CacheExecution",
    "CacheRequest",
    "CacheSchedule",
    "CacheSettings",
    "CacheStatus",
    "Catalog",
    "Column",
    "DagsterPeakaTranslator",
    "ExecutionProgress",
    "PeakaApiError",
    "PeakaAuthenticationError",
    "PeakaCache",
    "PeakaCacheChecks",
    "PeakaCacheEntry",
    "PeakaCacheOverride",
    "PeakaCacheSelector",
    "PeakaCheckSettings",
    "PeakaClient",
    "PeakaConfigError",
    "PeakaConnectionError",
    "PeakaError",
    "PeakaNotFoundError",
    "PeakaOpSettings",
    "PeakaPermissionError",
    "PeakaPollingSensorSettings",
    "PeakaProject",
    "PeakaProjectComponent",
    "PeakaQuery",
    "PeakaQuerySettings",
    "PeakaRateLimitError",
    "PeakaResource",
    "PeakaResponseError",
    "PeakaServerError",
    "PeakaSyncConfig",
    "PeakaSyncError",
    "PeakaUnknownOutcomeError",
    "PeakaUpstreamSensorSettings",
    "QueryResult",
    "Schema",
    "SyncMode",
    "Table",
    "build_peaka_cache_asset",
    "build_peaka_cache_assets",
    "build_peaka_cache_checks",
    "build_peaka_polling_sensor",
    "build_peaka_query_asset",
    "build_peaka_query_assets",
    "build_peaka_upstream_sensor",
    "load_peaka_cache_specs",
    "peaka_cache_assets",
]

__version__ = "0.1.0"
"""The release that is installed. The only place that says it."""

# By this Dagster tells, in its UI and its telemetry, which libraries a code location has loaded.
dg.DagsterLibraryRegistry.register(  # pyright: ignore[reportPrivateImportUsage] - as libraries of others do
    "dagster-peaka", __version__, is_dagster_package=False
)
