"""From the component's caches to assets, and to the steps that sync them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import dagster as dg

from dagster_peaka.assets import checks_of, steps_of
from dagster_peaka.caches.project import PeakaCache
from dagster_peaka.component.attributes import PeakaCacheAttributes, PeakaCacheEntry
from dagster_peaka.component.settings import PeakaOpSettings
from dagster_peaka.component.translation import ComponentTranslator
from dagster_peaka.resource import PeakaResource, PeakaSyncConfig
from dagster_peaka.steps.checks import PeakaCacheChecks
from dagster_peaka.steps.definition import StepSettings
from dagster_peaka.steps.specs import SyncSettings, identity_of, specs_of, warn_of_schedules
from dagster_peaka.steps.step import StepResult

Execute: TypeAlias = Callable[[dg.AssetExecutionContext, PeakaResource], Iterable[StepResult]]
"""What a step does."""

Said: TypeAlias = Mapping[str, Sequence[PeakaCacheAttributes]]
"""What is said about single caches, by their ids; of several the last one wins."""

SpecOf: TypeAlias = Callable[[PeakaCache, Sequence[PeakaCacheAttributes]], dg.AssetSpec]
"""The spec of a cache's asset, given what is said about this cache alone."""


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
    spec_of: SpecOf
    execute: Execute

    def of_caches(self, caches: Sequence[PeakaCache], said: Said) -> list[dg.AssetsDefinition]:
        """The assets of caches from a snapshot.

        Raises:
            PeakaConfigError: when two of them would be one asset.
        """
        specs = specs_of(caches, self._translator(said), self.sync)
        warn_of_schedules(caches, specs)
        return self._definitions(self.step_per, caches, specs, said)

    def of_entries(self, entries: Sequence[PeakaCacheEntry], said: Said) -> list[dg.AssetsDefinition]:
        """The assets of caches that are written out.

        One that is written by its id has a step of its own where there is one per catalog: its catalog is not known.

        Raises:
            PeakaConfigError: when two of them would be one asset.
        """
        identities = {entry.props.id: identity_of(entry.cache_id, entry.table)[0] for entry in entries}
        caches = [entry.props for entry in entries]
        specs = specs_of(caches, self._translator(said), self.sync, lambda cache: identities[cache.id])
        definitions: list[dg.AssetsDefinition] = []
        for step_per in dict.fromkeys(("cache", self.step_per)):
            group = [
                (cache, spec)
                for cache, spec in zip(caches, specs, strict=True)
                if step_per
                == ("cache" if self.step_per == "catalog" and not cache.table_name else self.step_per)
            ]
            if group:
                some, theirs = zip(*group, strict=True)
                definitions.extend(self._definitions(step_per, some, theirs, said))
        return definitions

    def _translator(self, said: Said) -> ComponentTranslator:
        return ComponentTranslator(lambda props: self.spec_of(props, said.get(props.id, ())))

    def _definitions(
        self, step_per: str, caches: Sequence[PeakaCache], specs: Sequence[dg.AssetSpec], said: Said
    ) -> list[dg.AssetsDefinition]:
        cache_of = {spec.key: cache for cache, spec in zip(caches, specs, strict=True)}
        prefix = None if step_per == "cache" else self.name
        definitions: list[dg.AssetsDefinition] = []
        for name, members in steps_of(step_per, caches, specs, prefix, None).items():
            op = self.op
            if step_per == "cache":
                cache = cache_of[members[0].key]
                for attributes in said.get(cache.id, ()):
                    own = attributes.of(members[0], cache).op
                    op = own.over(op) if own else op
            step = StepSettings(op.retry_policy, op.pool, op.tags)
            checks = checks_of(members, self.checks)
            definitions.append(step.definition(self._body(), members, checks, name, self.name))
        return definitions

    def _body(self) -> Callable[..., Iterator[StepResult]]:
        execute, resource_key = self.execute, self.name

        # The config makes the form of the launchpad; `execute` reads it from the context.
        def peaka_sync(
            context: dg.AssetExecutionContext,
            config: PeakaSyncConfig,  # noqa: ARG001
        ) -> Iterator[StepResult]:
            yield from execute(context, getattr(context.resources, resource_key))

        return peaka_sync


def usual_sync(context: dg.AssetExecutionContext, peaka: PeakaResource) -> Iterator[StepResult]:
    """What the steps of the factories do, with the config of the run."""
    config = PeakaSyncConfig(**context.op_execution_context.op_config)
    yield from peaka.sync_and_poll(context, config)
