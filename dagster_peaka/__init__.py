"""Peaka caches as Dagster assets: each materialization is one execution, named, followed to its end and recorded."""

import dagster as dg

from dagster_peaka import api, component
from dagster_peaka.api.client import PeakaClient
from dagster_peaka.assets import build_peaka_cache_asset, build_peaka_cache_assets, peaka_cache_assets
from dagster_peaka.caches.project import PeakaCache, PeakaProject, PeakaQuery
from dagster_peaka.caches.selection import PeakaCacheSelector
from dagster_peaka.checks import build_peaka_cache_checks
from dagster_peaka.component.project import PeakaProjectComponent
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
    "DagsterPeakaTranslator",
    "PeakaApiError",
    "PeakaAuthenticationError",
    "PeakaCache",
    "PeakaCacheChecks",
    "PeakaCacheSelector",
    "PeakaClient",
    "PeakaConfigError",
    "PeakaConnectionError",
    "PeakaError",
    "PeakaNotFoundError",
    "PeakaPermissionError",
    "PeakaProject",
    "PeakaProjectComponent",
    "PeakaQuery",
    "PeakaRateLimitError",
    "PeakaResource",
    "PeakaResponseError",
    "PeakaServerError",
    "PeakaSyncConfig",
    "PeakaSyncError",
    "PeakaUnknownOutcomeError",
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

_MOVED = {
    **dict.fromkeys(api.__all__, "dagster_peaka.api"),
    **dict.fromkeys(component.__all__, "dagster_peaka.component"),
}


def __getattr__(name: str) -> object:
    """What names that were exported here say: where they are now."""
    if name in _MOVED:
        raise ImportError(f"{name} is in {_MOVED[name]}: write `from {_MOVED[name]} import {name}`.")
    raise AttributeError(f"module 'dagster_peaka' has no attribute {name!r}")


__version__ = "0.1.0"
"""The release that is installed. The only place that says it."""

# By this Dagster tells, in its UI and its telemetry, which libraries a code location has loaded.
dg.DagsterLibraryRegistry.register(  # pyright: ignore[reportPrivateImportUsage] - as libraries of others do
    "dagster-peaka", __version__, is_dagster_package=False
)
