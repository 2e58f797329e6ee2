"""From the component's caches to assets, and to the steps that sync them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import dagster as dg

from dagster_peaka.assets import checks_of, steps_of
from dagster_peaka.caches.project import PeakaCache, PeakaQuery
from dagster_peaka.component.attributes import PeakaCacheAttributes
from dagster_peaka.component.settings import PeakaOpSettings
from dagster_peaka.resource import PeakaResource, PeakaSyncConfig
from dagster_peaka.steps.checks import PeakaCacheChecks
from dagster_peaka.steps.definition import StepSettings
from dagster_peaka.steps.specs import SyncSettings, identity_of, specs_of, warn_of_schedules
from dagster_peaka.steps.step import StepResult
from dagster_peaka.translator import DagsterPeakaTranslator

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


@dataclass(frozen=True)
class Steps:
    """How caches are synced.

    ``name`` is the key of the resource, and what the names of steps of many caches begin with. ``execute`` is what
    each of them does.
    """

    name: str
    step_per: str
    sync: SyncSettings
    checks: PeakaCacheChecks
    op: PeakaOpSettings
    translator: ComponentTranslator
    execute: Callable[[dg.AssetExecutionContext, PeakaResource], Iterable[StepResult]]

    def of(self, caches: Sequence[PeakaCache], said: Said, *, written: bool) -> list[dg.AssetsDefinition]:
        """The assets of caches.

        Args:
            written: whether the caches are written out: not all is known of them then. One that is written by its id
                has a step of its own where there is one per catalog.

        Raises:
            PeakaConfigError: when two of them would be one asset.
        """
        specs = specs_of(caches, self.translator, self.sync, _written_place if written else None)
        warn_of_schedules(caches, specs)
        definitions: list[dg.AssetsDefinition] = []
        for step_per in dict.fromkeys(("cache", self.step_per)):
            group = [
                (cache, spec)
                for cache, spec in zip(caches, specs, strict=True)
                if step_per
                == ("cache" if self.step_per == "catalog" and not cache.table_name else self.step_per)
            ]
            if group:
                definitions.extend(self._definitions(step_per, group, said))
        return definitions

    def _definitions(
        self, step_per: str, group: Sequence[tuple[PeakaCache, dg.AssetSpec]], said: Said
    ) -> Iterator[dg.AssetsDefinition]:
        caches, specs = zip(*group, strict=True)
        cache_of = {spec.key: cache for cache, spec in group}
        prefix = None if step_per == "cache" else self.name
        for name, members in steps_of(step_per, caches, specs, prefix, None).items():
            op = self.op
            if step_per == "cache":
                cache = cache_of[members[0].key]
                for context, attributes in said.get(cache.id, ()):
                    own = attributes.of(context, members[0], cache).op
                    op = own.over(op) if own else op
            step = StepSettings(op.retry_policy, op.pool, op.tags)
            yield step.definition(self._body(), members, checks_of(members, self.checks), name, self.name)

    def _body(self) -> Callable[..., Iterator[StepResult]]:
        execute, resource_key = self.execute, self.name

        # The config makes the form of the launchpad; `execute` reads it from the context.
        def peaka_sync(
            context: dg.AssetExecutionContext,
            config: PeakaSyncConfig,  # noqa: ARG001
        ) -> Iterator[StepResult]:
            yield from execute(context, getattr(context.resources, resource_key))

        return peaka_sync


def _written_place(cache: PeakaCache) -> dict[str, str]:
    """The metadata by which a step finds a cache that is written out; its table stands for its id."""
    identity, _ = identity_of(None, cache.id) if cache.table_name else identity_of(cache.id, None)
    return identity
