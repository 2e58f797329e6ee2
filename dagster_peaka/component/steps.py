"""From the component's caches to assets, and to the steps that sync them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import dagster as dg

from dagster_peaka.assets import build_peaka_cache_asset, build_peaka_cache_assets
from dagster_peaka.caches.names import op_names
from dagster_peaka.caches.project import PeakaCache
from dagster_peaka.component.attributes import PeakaCacheAttributes, PeakaCacheEntry
from dagster_peaka.component.settings import PeakaOpSettings
from dagster_peaka.declared import (
    FINGERPRINT_METADATA,
    MODE_METADATA,
    ON_SCHEDULE_METADATA,
    ROW_COUNT_METADATA,
    WAIT_METADATA,
)
from dagster_peaka.errors import PeakaConfigError
from dagster_peaka.resource import PeakaResource, PeakaSyncConfig
from dagster_peaka.specs import KIND_TAG, AssetCondition
from dagster_peaka.steps.step import StepResult
from dagster_peaka.translator import DagsterPeakaTranslator

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
    each of them does, ``is_usual`` whether that is what the steps of the factories do anyway.
    """

    name: str
    step_per: str
    mode: str | None
    row_count: str
    fingerprint: str | None
    wait: bool
    on_schedule: str
    last_sync_check: bool
    op: PeakaOpSettings
    spec_of: SpecOf
    execute: Execute
    is_usual: bool

    def of_caches(self, caches: Sequence[PeakaCache], said: Said) -> list[dg.AssetsDefinition]:
        """The assets of caches from a snapshot.

        Raises:
            PeakaConfigError: as :func:`build_peaka_cache_assets` does.
        """
        definitions = build_peaka_cache_assets(
            caches,
            step_per=self.step_per,
            translator=_Translator(lambda props: self.spec_of(props, said.get(props.id, ()))),
            mode=self.mode,
            name=None if self.step_per == "cache" else self.name,
            **self._common(),
        )
        if self.step_per != "cache":
            return [self._step(definition.op.name, [definition], self.op) for definition in definitions]
        return [
            self._step(definition.op.name, [definition], self._op(definition, cache, said))
            for cache, definition in zip(caches, definitions, strict=True)
        ]

    def of_entries(self, entries: Sequence[PeakaCacheEntry], said: Said) -> list[dg.AssetsDefinition]:
        """The assets of caches that are written out.

        One that is written by its id has a step of its own where there is one per catalog: its catalog is not known.

        Raises:
            PeakaConfigError: when two of them would be one asset.
        """
        taken: dict[str, PeakaCacheEntry] = {}
        together: dict[tuple[str, ...], list[dg.AssetsDefinition]] = {}
        project = tuple(self.name.split("__"))
        alone: list[dg.AssetsDefinition] = []
        for entry in entries:
            definition = self._of_entry(entry, said)
            key = definition.key.to_user_string()
            if (other := taken.setdefault(key, entry)) is not entry:
                raise PeakaConfigError(
                    f"{other} and {entry} would both be the asset {key!r}: give one of them another key."
                )
            if self.step_per == "project":
                together.setdefault(project, []).append(definition)
            elif self.step_per == "catalog" and entry.table is not None:
                together.setdefault((*project, entry.props.catalog_name), []).append(definition)
            else:
                op = self._op(definition, entry.props, said) if self.step_per == "cache" else self.op
                alone.append(self._step(definition.op.name, [definition], op))
        names = op_names(together)
        return [*alone, *(self._step(names[parts], group, self.op) for parts, group in together.items())]

    def _of_entry(self, entry: PeakaCacheEntry, said: Said) -> dg.AssetsDefinition:
        props = entry.props
        spec = self.spec_of(props, said.get(props.id, ()))
        common = self._common()
        for setting, name in (
            ("row_count", ROW_COUNT_METADATA),
            ("fingerprint", FINGERPRINT_METADATA),
            ("wait", WAIT_METADATA),
            ("on_schedule", ON_SCHEDULE_METADATA),
        ):
            common[setting] = spec.metadata.get(name, common[setting])
        return build_peaka_cache_asset(
            cache_id=entry.cache_id,
            table=entry.table,
            key=spec.key,
            mode=spec.metadata.get(MODE_METADATA, self.mode or "incremental"),
            deps=spec.deps,
            description=spec.description,
            metadata=spec.metadata,
            tags={name: value for name, value in spec.tags.items() if not name.startswith(KIND_TAG)},
            owners=spec.owners,
            kinds=spec.kinds,
            group_name=spec.group_name,
            code_version=spec.code_version,
            automation_condition=cast("AssetCondition | None", spec.automation_condition),
            freshness_policy=spec.freshness_policy,
            **common,
        )

    def _common(self) -> dict[str, Any]:
        """What the factories take alike."""
        return {
            "row_count": self.row_count,
            "fingerprint": self.fingerprint,
            "last_sync_check": self.last_sync_check,
            "wait": self.wait,
            "on_schedule": self.on_schedule,
            "resource_key": self.name,
            "retry_policy": self.op.retry_policy,
            "pool": self.op.pool,
            "op_tags": self.op.tags,
        }

    def _op(self, definition: dg.AssetsDefinition, cache: PeakaCache, said: Said) -> PeakaOpSettings:
        """The settings of a step for one cache."""
        op = self.op
        (spec,) = definition.specs
        for each in said.get(cache.id, ()):
            own = each.of(spec, cache).op
            op = own.over(op) if own else op
        return op

    def _step(
        self, name: str, definitions: Sequence[dg.AssetsDefinition], op: PeakaOpSettings
    ) -> dg.AssetsDefinition:
        """The assets of all of these definitions, by one step."""
        if self.is_usual and op is self.op and [each.op.name for each in definitions] == [name]:
            return definitions[0]
        ops = [definition.op for definition in definitions]
        whole = dg.op(
            name=name,
            ins=_union(each.ins for each in ops),
            out=_union(each.outs for each in ops),
            required_resource_keys={self.name},
            tags=op.tags,
            retry_policy=op.retry_policy,
            pool=op.pool,
        )(self._body())
        return dg.AssetsDefinition(
            node_def=whole,
            keys_by_input_name=_union(each.keys_by_input_name for each in definitions),
            keys_by_output_name=_union(each.keys_by_output_name for each in definitions),
            specs=[spec for each in definitions for spec in each.specs],
            check_specs_by_output_name=_union(each.check_specs_by_output_name for each in definitions),
            can_subset=True,
        )

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


def _union(mappings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for mapping in mappings for name, value in mapping.items()}


class _Translator(DagsterPeakaTranslator):
    """Asks the component."""

    def __init__(self, spec_of: Callable[[PeakaCache], dg.AssetSpec]) -> None:
        super().__init__()
        self._spec_of = spec_of

    def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
        return self._spec_of(props)
