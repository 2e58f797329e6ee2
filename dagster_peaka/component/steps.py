"""From the component's caches to assets, and to the steps that sync them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import dagster as dg

from dagster_peaka.assets import checks_of, steps_of
from dagster_peaka.caches.project import PeakaCache, PeakaQuery
from dagster_peaka.component.attributes import PeakaCacheAttributes
from dagster_peaka.component.settings import PeakaOpSettings
from dagster_peaka.resource import PeakaResource, PeakaSyncConfig
from dagster_peaka.steps.checks import PeakaCacheChecks
from dagster_peaka.steps.definition import StepSettings
from dagster_peaka.steps.specs import identity_of
from dagster_peaka.steps.step import StepResult
from dagster_peaka.translator import DagsterPeakaTranslator

Execute: TypeAlias = Callable[[dg.AssetExecutionContext, PeakaResource], Iterable[StepResult]]
"""What a step does."""

Said: TypeAlias = Mapping[str, Sequence[tuple[dg.ResolutionContext, PeakaCacheAttributes]]]
"""What is said about single caches and where, by their ids; of several the last one wins."""


class ComponentTranslator(DagsterPeakaTranslator):
    """Asks the component."""

    def __init__(
        self,
        cache_spec: Callable[[PeakaCache], dg.AssetSpec],
        query_spec: Callable[[PeakaQuery], dg.AssetSpec] | None = None,
    ) -> None:
        super().__init__()
        self._cache_spec = cache_spec
        self._query_spec = query_spec or super().get_query_spec

    def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
        """The spec of a cache's asset."""
        return self._cache_spec(props)

    def get_query_spec(self, props: PeakaQuery) -> dg.AssetSpec:
        """The spec of a query's asset."""
        return self._query_spec(props)


def steps_for(
    caches: Sequence[PeakaCache],
    specs: Sequence[dg.AssetSpec],
    said: Said,
    *,
    name: str,
    step_per: str,
    checks: PeakaCacheChecks,
    op: PeakaOpSettings,
    execute: Execute,
) -> Iterator[dg.AssetsDefinition]:
    """The steps that sync caches.

    One that is written by its id has a step of its own where there is one per catalog: its catalog is not known.

    Args:
        specs: those of the caches, in the same order.
        name: the key of the resource, and what the names of steps of many caches begin with.
        execute: what each step does.
    """
    cache_of = {spec.key: cache for cache, spec in zip(caches, specs, strict=True)}
    groups: dict[str, list[dg.AssetSpec]] = {"cache": [], step_per: []}
    for cache, spec in zip(caches, specs, strict=True):
        groups["cache" if step_per == "catalog" and not cache.table_name else step_per].append(spec)
    for per, group in groups.items():
        prefix = None if per == "cache" else name
        members_of = steps_of(per, [cache_of[spec.key] for spec in group], group, prefix, None)
        for step_name, members in members_of.items():
            settings, cache = op, cache_of[members[0].key]
            for context, attributes in said.get(cache.id, ()) if per == "cache" else ():
                own = attributes.of(context, members[0], cache).op
                settings = own.over(settings) if own else settings
            step = StepSettings(settings.retry_policy, settings.pool, settings.tags)
            yield step.definition(_body(execute, name), members, checks_of(members, checks), step_name, name)


def _body(execute: Execute, resource_key: str) -> Callable[..., Iterator[StepResult]]:
    # The config makes the form of the launchpad; `execute` reads it from the context.
    def peaka_sync(
        context: dg.AssetExecutionContext,
        config: PeakaSyncConfig,  # noqa: ARG001
    ) -> Iterator[StepResult]:
        yield from execute(context, getattr(context.resources, resource_key))

    return peaka_sync


def written_place(cache: PeakaCache) -> dict[str, str]:
    """The metadata by which a step finds a cache that is written out; its table stands for its id."""
    identity, _ = identity_of(None, cache.id) if cache.table_name else identity_of(cache.id, None)
    return identity
