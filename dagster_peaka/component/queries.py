"""The materialized queries that the component's YAML asks for."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import dagster as dg

from dagster_peaka.caches.project import PeakaCache, PeakaProject, PeakaQuery
from dagster_peaka.component.settings import PeakaQuerySettings
from dagster_peaka.component.translation import ComponentTranslator
from dagster_peaka.queries.assets import build_peaka_query_assets


def query_assets_of(
    project: PeakaProject,
    caches: Sequence[PeakaCache],
    settings: PeakaQuerySettings,
    *,
    cache_spec: Callable[[PeakaCache], dg.AssetSpec],
    query_spec: Callable[[PeakaQuery], dg.AssetSpec],
    resource_key: str,
) -> list[dg.AssetsDefinition]:
    """The assets of a project's queries.

    Args:
        caches: those that are assets; what else a query reads is outside of them.
        cache_spec: the spec of a cache's asset, by whose key a query depends on it.
        query_spec: the spec of a query's asset.

    Raises:
        PeakaConfigError: as :func:`build_peaka_query_assets`.
    """

    def in_group(props: PeakaQuery) -> dg.AssetSpec:
        spec = query_spec(props)
        group = settings.group_name
        return spec if group is None else cast("Any", spec).replace_attributes(group_name=group)

    return build_peaka_query_assets(
        project.model_copy(update={"caches": tuple(caches)}),
        selector=settings.include,
        translator=ComponentTranslator(cache_spec, in_group),
        sources_check=settings.sources_check,
        on_schedule=settings.on_schedule,
        wait=settings.wait,
        row_count=settings.row_count or "off",
        fingerprint=settings.fingerprint,
        cancel_on_termination=settings.cancel_on_termination,
        retry_policy=settings.op.retry_policy,
        pool=settings.op.pool,
        op_tags=settings.op.tags,
        resource_key=resource_key,
    )
