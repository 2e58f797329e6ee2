"""The factories that make Peaka caches Dagster assets, and the decorator for a step with a body of one's own."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import dagster as dg

from dagster_peaka.api.models import SyncMode
from dagster_peaka.caches.names import TableName, checked_cache_id, op_name
from dagster_peaka.caches.project import PeakaCache, PeakaProject
from dagster_peaka.caches.selection import PeakaSelection, select
from dagster_peaka.declared import (
    CACHE_ID_METADATA,
    CATALOG_ID_METADATA,
    FINGERPRINT_METADATA,
    LAST_SYNC_CHECK,
    MODE_METADATA,
    ROW_COUNT_METADATA,
    SCHEMA_NAME_METADATA,
    SUPPORTED_MODES_METADATA,
    TABLE_METADATA,
    TABLE_NAME_METADATA,
    WAIT_METADATA,
    RowCount,
    checked_fingerprint,
)
from dagster_peaka.errors import PeakaConfigError
from dagster_peaka.records.attempts import materializations_of
from dagster_peaka.resource import PeakaResource, PeakaSyncConfig
from dagster_peaka.steps.step import StepResult
from dagster_peaka.translator import AssetKeyLike, DagsterPeakaTranslator

AssetCondition: TypeAlias = (
    dg.AutomationCondition[dg.AssetKey] | dg.AutomationCondition[dg.AssetKey | dg.AssetCheckKey]
)
"""What Dagster takes as an asset's automation condition."""

STEP_PER = ("cache", "catalog", "project")
KIND_TAG = "dagster/kind/"
"""How Dagster keeps an asset's kinds among its tags."""

AssetDependency: TypeAlias = (
    dg.AssetKey | str | Sequence[str] | dg.AssetSpec | dg.AssetsDefinition | dg.SourceAsset | dg.AssetDep
)
"""What Dagster takes as an asset's dependency."""


def build_peaka_cache_asset(
    *,
    cache_id: str | None = None,
    table: str | Sequence[str] | None = None,
    key: AssetKeyLike | None = None,
    mode: str = "incremental",
    deps: Iterable[AssetDependency] | None = None,
    description: str | None = None,
    metadata: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
    kinds: Iterable[str] | None = None,
    group_name: str | None = None,
    code_version: str | None = None,
    automation_condition: AssetCondition | None = None,
    freshness_policy: dg.FreshnessPolicy | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, object] | None = None,
    row_count: str = "off",
    fingerprint: str | None = None,
    last_sync_check: bool = False,
    wait: bool = True,
    resource_key: str = "peaka",
) -> dg.AssetsDefinition:
    """One Peaka cache as one asset: materializing it syncs the cache and records the execution.

    The step triggers an incremental update (or a full refresh), follows exactly that execution to its end, and
    records its id, rows and times. Nothing touches the network when this is called; a table is looked up when the
    step runs, so the same definition serves every project that caches it.

    Args:
        cache_id: the cache's id. Ids differ between projects; ``table`` does not.
        table: the cached table as ``catalog.schema.table``, or its three parts. Exactly one of the two is given.
        key: the asset key; by default the table's three parts, or ``peaka/<cache_id>``.
        mode: ``incremental`` or ``full_refresh``; run config can change it for one run.
        row_count: ``query`` records ``dagster/row_count`` after every sync, by ``count(*)`` through Peaka's SQL.
            ``off`` records none: no figure of Peaka's status is a total.
        fingerprint: what the data version of a materialization is made of. ``checksum``: a checksum over all values
            of all rows (in any order), with their number; other strings are a select list of aggregates over the
            table, such as ``count(*), max(updated_at)``. Costs one query after the sync, which scans the copy; it
            answers ``row_count`` as well. None: the version is the execution's id, so it changes with every sync, and
            ``AutomationCondition.data_version_changed()`` fires after every one.
        last_sync_check: whether the asset gets the check ``last_sync_succeeded``, evaluated by every sync.
        wait: False for a step that ends when the trigger is answered; :func:`build_peaka_polling_sensor` then records
            what becomes of it. It implies ``last_sync_check``.
        resource_key: the key of the :class:`PeakaResource` in the definitions.

    The other arguments mean what they mean for ``@dg.asset``; ``kinds`` is ``{"peaka"}`` by default.

    Raises:
        PeakaConfigError: when the arguments contradict each other or cannot be understood.

    Example:
        .. code-block:: python

            orders = build_peaka_cache_asset(
                table="shop.public.orders", deps=["landed_orders"], group_name="caches"
            )
    """
    identity, default_key = _identity(cache_id, table)
    sync = _SyncSettings(mode, row_count, fingerprint, wait)
    spec = dg.AssetSpec(
        key=default_key if key is None else key,
        deps=_several("deps", deps),
        description=description or _description(identity, SyncMode.parse(mode)),
        metadata={**_shown(identity), **(metadata or {}), **identity, **sync.as_metadata()},
        skippable=True,
        tags=tags,
        owners=owners,
        kinds={"peaka"} if kinds is None else set(_several("kinds", kinds)),
        group_name=group_name,
        code_version=code_version,
        automation_condition=automation_condition,
        freshness_policy=freshness_policy,
    )
    step = _StepSettings(last_sync_check, retry_policy, pool, op_tags)
    return step.definition(_body(resource_key), [spec], op_name(spec.key), resource_key)


def build_peaka_cache_assets(
    caches_or_project: PeakaProject | Iterable[PeakaCache],
    *,
    step_per: str = "cache",
    selector: PeakaSelection | None = None,
    translator: DagsterPeakaTranslator | None = None,
    mode: str | None = None,
    name: str | None = None,
    deps: Iterable[AssetDependency] | None = None,
    metadata: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
    kinds: Iterable[str] | None = None,
    group_name: str | None = None,
    code_version: str | None = None,
    automation_condition: AssetCondition | None = None,
    freshness_policy: dg.FreshnessPolicy | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, object] | None = None,
    row_count: str = "off",
    fingerprint: str | None = None,
    last_sync_check: bool = False,
    wait: bool = True,
    resource_key: str = "peaka",
) -> list[dg.AssetsDefinition]:
    """Caches as assets: one step for each cache, for each catalog, or for all of them.

    Nothing touches the network when this is called: the caches come from a snapshot
    (:meth:`PeakaResource.fetch_project`, :meth:`PeakaProject.load`) or are written out as :class:`PeakaCache`. Every
    definition is subsettable, and a step syncs only the caches that were selected.

    ``step_per`` decides what is cheap and what is robust:

    - ``cache`` (default): each cache has a step of its own, with its own retries, pool slot and log. A failed cache
      stops only what depends on it. The price is a process and some requests for each of them.
    - ``catalog``, ``project``: one step syncs many caches side by side and looks at all of them with one request.
      Each materialization is recorded the moment it is known, and the failed caches are named at the end. But Dagster
      runs nothing downstream of a failed step in that run, not even behind its successful caches, and a failed
      upstream of one cache keeps the whole step from starting. "Re-execute from asset failure" repeats the failed
      ones only.

    Args:
        caches_or_project: a snapshot, or caches.
        step_per: ``cache``, ``catalog`` or ``project``.
        selector: which caches: an id or ``catalog.schema.table`` with shell patterns, a predicate, several of these,
            or a :class:`PeakaCacheSelector`; by default all.
        translator: says what each asset is called and shows; by default :class:`DagsterPeakaTranslator`.
        mode: ``incremental`` or ``full_refresh``; by default incremental, and full refresh for a table that is known
            to support nothing else.
        name: the name of the step; where there are several, what their names begin with. By default steps are named
            after the cache, the catalog or the project, so a second call for the same catalogs or project needs it.
        row_count: as for :func:`build_peaka_cache_asset`, and so are ``fingerprint``, ``last_sync_check``, ``wait``
            and ``resource_key``. Of a cache from a snapshot, ``checksum`` covers the snapshot's columns.

    The other arguments mean what they mean for ``@dg.asset``. ``deps``, ``metadata`` and ``tags`` come on top of what
    the translator says; the others replace it.

    Raises:
        PeakaConfigError: when two caches would be one asset, when a selector matches nothing, or when an argument
            cannot be understood.

    Example:
        .. code-block:: python

            shop = build_peaka_cache_assets(
                PeakaProject.load("peaka_project.json"), selector="shop.public.*", step_per="catalog"
            )
    """
    if step_per not in STEP_PER:
        choices = ", ".join(map(repr, STEP_PER))
        raise PeakaConfigError(f"step_per must be one of {choices}, not {step_per!r}.")
    project_id = caches_or_project.project_id if isinstance(caches_or_project, PeakaProject) else None
    caches = _selected(caches_or_project, selector)
    attributes = _Attributes(
        deps,
        metadata,
        tags,
        owners=owners,
        kinds=None if kinds is None else set(_several("kinds", kinds)),
        group_name=group_name,
        code_version=code_version,
        automation_condition=automation_condition,
        freshness_policy=freshness_policy,
    )
    specs = _specs(caches, translator, _SyncSettings(mode, row_count, fingerprint, wait), attributes)
    step = _StepSettings(last_sync_check, retry_policy, pool, op_tags)
    body = _body(resource_key)
    return [
        step.definition(body, members, step_name, resource_key)
        for step_name, members in _steps(step_per, caches, specs, name, project_id).items()
    ]


def peaka_cache_assets(
    caches_or_project: PeakaProject | Iterable[PeakaCache],
    *,
    selector: PeakaSelection | None = None,
    translator: DagsterPeakaTranslator | None = None,
    mode: str | None = None,
    name: str | None = None,
    deps: Iterable[AssetDependency] | None = None,
    metadata: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
    kinds: Iterable[str] | None = None,
    group_name: str | None = None,
    code_version: str | None = None,
    automation_condition: AssetCondition | None = None,
    freshness_policy: dg.FreshnessPolicy | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, object] | None = None,
    row_count: str = "off",
    fingerprint: str | None = None,
    last_sync_check: bool = False,
    wait: bool = True,
) -> Callable[[Callable[..., Iterable[StepResult]]], dg.AssetsDefinition]:
    """Caches as the assets of one step with a body of one's own, around ``yield from peaka.sync_and_poll(context)``.

    The arguments are those of :func:`build_peaka_cache_assets`. The body takes what ``@dg.multi_asset`` gives one: a
    context, resources by their names, and a config. It may do things before, between and after the results.

    Raises:
        PeakaConfigError: as :func:`build_peaka_cache_assets`, and when no cache is left.

    Example:
        .. code-block:: python

            project = PeakaProject.load("peaka_project.json")


            @peaka_cache_assets(project, selector="shop.public.*")
            def shop(context: dg.AssetExecutionContext, peaka: PeakaResource, config: PeakaSyncConfig):
                context.log.info("The shop's caches are brought up to date.")
                yield from peaka.sync_and_poll(context, config)
    """
    caches = _selected(caches_or_project, selector)
    if not caches:
        raise PeakaConfigError(
            "peaka_cache_assets was given no cache: check the project or the list of caches."
        )
    attributes = _Attributes(
        deps,
        metadata,
        tags,
        owners=owners,
        kinds=None if kinds is None else set(_several("kinds", kinds)),
        group_name=group_name,
        code_version=code_version,
        automation_condition=automation_condition,
        freshness_policy=freshness_policy,
    )
    specs = _specs(caches, translator, _SyncSettings(mode, row_count, fingerprint, wait), attributes)
    step = _StepSettings(last_sync_check, retry_policy, pool, op_tags)

    def decorated(body: Callable[..., Iterable[StepResult]]) -> dg.AssetsDefinition:
        return step.definition(_watched(body), specs, name or body.__name__)

    return decorated


def _body(resource_key: str) -> Callable[..., Iterator[StepResult]]:
    """What the factories' steps do."""

    def peaka_sync(context: dg.AssetExecutionContext, config: PeakaSyncConfig) -> Iterator[StepResult]:
        peaka: PeakaResource = getattr(context.resources, resource_key)
        yield from peaka.sync_and_poll(context, config)

    return peaka_sync


def _watched(body: Callable[..., Iterable[StepResult]]) -> Callable[..., Iterator[StepResult]]:
    """``body``, which fails when it ends without a result of a selected cache: Dagster itself would say nothing."""

    @functools.wraps(body)
    def watched(*args: Any, **kwargs: Any) -> Iterator[StepResult]:
        results = body(*args, **kwargs)
        if not _is(results, Iterable):
            raise dg.Failure(
                f"{body.__name__} answered {results!r} and no results: write `yield from "
                "peaka.sync_and_poll(context)` in its body.",
                allow_retries=False,
            )
        context = dg.AssetExecutionContext.get()
        left_alone = any(
            isinstance(value, PeakaSyncConfig) and value.wait is False for value in (*args, *kwargs.values())
        )
        missing = set[dg.AssetKey]() if left_alone else _awaited(context)
        for result in results:
            if isinstance(result, dg.MaterializeResult):
                missing -= {result.asset_key} if result.asset_key else missing
            yield result
        missing.difference_update(materializations_of(context.instance, context.run.run_id))
        if missing:
            named = ", ".join(sorted(key.to_user_string() for key in missing))
            raise dg.Failure(
                f"{body.__name__} has ended without a result of {named}, so nothing is recorded of it. Yield every "
                "result of sync_and_poll, and let its Failure pass."
            )

    return watched


def _awaited(context: dg.AssetExecutionContext) -> set[dg.AssetKey]:
    """The selected assets of a step whose syncs it waits for."""
    metadata = context.assets_def.metadata_by_key
    return {key for key in context.selected_asset_keys if metadata[key].get(WAIT_METADATA) is not False}


# From caches to specs


@dataclass(frozen=True)
class _SyncSettings:
    """How assets are synced, as their specs' metadata tell the step."""

    mode: str | None
    row_count: str
    fingerprint: str | None
    wait: bool

    def __post_init__(self) -> None:
        if self.mode is not None:
            SyncMode.parse(self.mode)
        RowCount.parse(self.row_count)
        if self.fingerprint is not None:
            checked_fingerprint(self.fingerprint)

    def as_metadata(self, supported: frozenset[SyncMode] | None = None) -> dict[str, object]:
        """The metadata, without what is the step's default anyway."""
        if self.mode is not None:
            mode = SyncMode.parse(self.mode)
        else:
            only_refreshed = supported == frozenset({SyncMode.FULL_REFRESH})
            mode = SyncMode.FULL_REFRESH if only_refreshed else SyncMode.INCREMENTAL
        metadata: dict[str, object] = {MODE_METADATA: mode.value}
        if self.row_count != RowCount.OFF.value:
            metadata[ROW_COUNT_METADATA] = self.row_count
        if self.fingerprint is not None:
            metadata[FINGERPRINT_METADATA] = checked_fingerprint(self.fingerprint)
        if not self.wait:
            metadata[WAIT_METADATA] = False
        return metadata


class _Attributes:
    """What a factory's arguments say about all of its assets, on top of what the translator says of each."""

    def __init__(
        self,
        deps: Iterable[AssetDependency] | None,
        metadata: Mapping[str, object] | None,
        tags: Mapping[str, str] | None,
        **replaced: Any,
    ) -> None:
        self._deps = list(_several("deps", deps) or ())
        self._metadata = dict(metadata or {})
        self._tags = dict(tags or {})
        self._replaced = {name: value for name, value in replaced.items() if value is not None}

    def added_to(self, spec: dg.AssetSpec, cache: PeakaCache, sync: _SyncSettings) -> dg.AssetSpec:
        """The spec with these attributes, and with the metadata by which the step finds the cache."""
        changed = dict(self._replaced)
        if self._deps:
            changed["deps"] = [*spec.deps, *self._deps]
        if self._tags:
            shown = {name: value for name, value in spec.tags.items() if not name.startswith(KIND_TAG)}
            changed["tags"] = {**shown, **self._tags}
        changed["metadata"] = {
            TABLE_NAME_METADATA: cache.name,
            **sync.as_metadata(cache.supported_modes),
            **spec.metadata,
            **self._metadata,
            **_place(cache),
        }
        # Its signature has types that Dagster leaves open.
        return cast("Any", spec).replace_attributes(skippable=True, **changed)


def _place(cache: PeakaCache) -> dict[str, str]:
    """The metadata by which a step finds a cache, and knows its table, without a request."""
    place = {
        CACHE_ID_METADATA: cache.id,
        TABLE_METADATA: cache.name,
        CATALOG_ID_METADATA: cache.catalog_id,
        SCHEMA_NAME_METADATA: cache.schema_name,
    }
    if cache.supported_modes is not None:
        place[SUPPORTED_MODES_METADATA] = ", ".join(sorted(mode.value for mode in cache.supported_modes))
    return place


T = TypeVar("T")


def _several(argument: str, values: T) -> T:
    """``values``, when they are not one text, of which Python would take every letter.

    Raises:
        PeakaConfigError: naming the argument.
    """
    if isinstance(values, str):
        raise PeakaConfigError(f"{argument} must be a list, not a text: write {argument}=[{values!r}].")
    return values


def _is(value: object, kind: type) -> bool:
    """Whether ``value`` is what its type says: not every caller has a type checker."""
    return isinstance(value, kind)


def _selected(
    caches_or_project: PeakaProject | Iterable[PeakaCache], selector: PeakaSelection | None
) -> Sequence[PeakaCache]:
    if isinstance(caches_or_project, PeakaProject):
        caches: Sequence[PeakaCache] = caches_or_project.caches
    else:
        single = isinstance(caches_or_project, (str, bytes, PeakaCache))
        caches = () if single else tuple(caches_or_project)
        if single or not all(_is(cache, PeakaCache) for cache in caches):
            raise PeakaConfigError(
                "caches_or_project must be a PeakaProject, such as PeakaProject.load(path), or a list of PeakaCache, "
                f"not {caches_or_project!r}."
            )
    return caches if selector is None else select(caches, selector)


def _specs(
    caches: Sequence[PeakaCache],
    translator: DagsterPeakaTranslator | None,
    sync: _SyncSettings,
    attributes: _Attributes,
) -> list[dg.AssetSpec]:
    """The spec of each cache, in the same order.

    Raises:
        PeakaConfigError: when two caches would be one asset.
    """
    translator = DagsterPeakaTranslator() if translator is None else translator
    if not _is(translator, DagsterPeakaTranslator):
        raise PeakaConfigError(
            f"translator must be an instance of a DagsterPeakaTranslator, not {translator!r}."
        )
    specs: list[dg.AssetSpec] = []
    taken: dict[str, PeakaCache] = {}
    names: dict[str, PeakaCache] = {}
    for cache in caches:
        same = names.setdefault(cache.id, cache)
        if same is not cache:
            raise PeakaConfigError(
                f"Cache {cache.id} is given twice, as {same.name} and as {cache.name}: leave one of them out."
            )
        translated = translator.get_asset_spec(cache)
        if not _is(translated, dg.AssetSpec):
            raise PeakaConfigError(
                f"{type(translator).__name__}.get_asset_spec answered {translated!r} for cache {cache.id} "
                f"({cache.name}): it must return a dagster.AssetSpec."
            )
        spec = attributes.added_to(translated, cache, sync)
        if spec.partitions_def is not None:
            raise PeakaConfigError(
                f"The asset of cache {cache.id} ({cache.name}) has a partitions_def: a Peaka cache is synced as a "
                "whole. Remove it in the translator's get_asset_spec."
            )
        # By these strings Dagster tells assets apart in places: ['a/b', 'c'] and ['a', 'b/c'] are one there.
        shown = spec.key.to_user_string()
        other = taken.setdefault(shown, cache)
        if other is not cache:
            raise PeakaConfigError(
                f"Caches {other.id} ({other.name}) and {cache.id} ({cache.name}) would both be the asset {shown!r}: "
                "give one of them another key in the translator's get_asset_spec, or leave it out with selector."
            )
        specs.append(spec)
    return specs


def _identity(cache_id: str | None, table: str | Sequence[str] | None) -> tuple[dict[str, str], dg.AssetKey]:
    """The metadata by which the step finds the cache, and the key that the asset has by default."""
    if (cache_id is None) == (table is None):
        raise PeakaConfigError(
            "Give either cache_id or table='catalog.schema.table', not both and not neither."
        )
    if table is not None:
        name = TableName.parse(table)
        return {TABLE_METADATA: str(name)}, dg.AssetKey(list(name))
    assert cache_id is not None
    known = checked_cache_id(cache_id)
    return {CACHE_ID_METADATA: known}, dg.AssetKey(["peaka", known])


def _shown(identity: Mapping[str, str]) -> dict[str, str]:
    """The table as Dagster shows it, unless the user says otherwise."""
    table = identity.get(TABLE_METADATA)
    return {} if table is None else {TABLE_NAME_METADATA: table}


def _description(identity: Mapping[str, str], mode: SyncMode) -> str:
    name = identity.get(TABLE_METADATA) or f"cache {identity[CACHE_ID_METADATA]}"
    how = "brought up to date by an" if mode is SyncMode.INCREMENTAL else "rebuilt by a"
    return f"Peaka's copy of {name}, {how} {mode.words}."


# From specs to steps


def _steps(
    step_per: str,
    caches: Sequence[PeakaCache],
    specs: Sequence[dg.AssetSpec],
    name: str | None,
    project_id: str | None,
) -> dict[str, list[dg.AssetSpec]]:
    """The specs of each step, by the name of its op."""
    if not specs:
        return {}
    if step_per == "project":
        return {name or _joined("peaka", project_id or "project"): list(specs)}
    if step_per == "cache":
        prefix = () if name is None else (name,)
        single: dict[str, list[dg.AssetSpec]] = {}
        for spec in specs:
            single.setdefault(op_name(dg.AssetKey([*prefix, *spec.key.path])), []).append(spec)
        return single
    names = {cache.catalog_id: cache.catalog_name for cache in caches}
    shared = Counter(names.values())
    steps: dict[str, list[dg.AssetSpec]] = {}
    for cache, spec in zip(caches, specs, strict=True):
        # Peaka lists catalogs of its own that share a name.
        catalog = [cache.catalog_name, *([cache.catalog_id] if shared[cache.catalog_name] > 1 else [])]
        steps.setdefault(_joined(name or "peaka", *catalog), []).append(spec)
    return steps


def _check_independent(specs: Sequence[dg.AssetSpec], name: str) -> None:
    """One step syncs its caches side by side, so none of them may wait for another."""
    keys = {spec.key for spec in specs}
    for spec in specs:
        waited_for = [dep.asset_key.to_user_string() for dep in spec.deps if dep.asset_key in keys]
        if waited_for:
            raise PeakaConfigError(
                f"Asset {spec.key.to_user_string()} depends on {', '.join(waited_for)}, and step {name!r} would sync "
                "both side by side: give them steps of their own (step_per='cache'), or take the dependency away."
            )


def _joined(*parts: str) -> str:
    return op_name(dg.AssetKey(parts))


@dataclass(frozen=True)
class _StepSettings:
    """What a factory's arguments say about its steps."""

    last_sync_check: bool
    retry_policy: dg.RetryPolicy | None
    pool: str | None
    op_tags: Mapping[str, object] | None

    def definition(
        self,
        body: Callable[..., Iterable[StepResult]],
        specs: Sequence[dg.AssetSpec],
        name: str,
        *resource_keys: str,
    ) -> dg.AssetsDefinition:
        """The step that ``body`` does for ``specs``.

        Built from an op, because ``@dg.multi_asset`` makes up names of inputs and outputs from keys, and refuses keys
        of which no name can be made.
        """
        _check_independent(specs, name)
        outputs = {f"result__{op_name(spec.key)}": spec for spec in specs}
        checks = {
            f"check__{op_name(spec.key)}": dg.AssetCheckSpec(
                LAST_SYNC_CHECK, asset=spec.key, description="Peaka's last sync of this cache has succeeded."
            )
            for spec in specs
            if self.last_sync_check or spec.metadata.get(WAIT_METADATA) is False
        }
        upstream = dict.fromkeys(dep.asset_key for spec in specs for dep in spec.deps)
        inputs = {f"upstream__{op_name(key)}": key for key in upstream}
        op = dg.op(
            name=name,
            ins={input_name: dg.In(dg.Nothing) for input_name in inputs},
            out={
                # Not required: Dagster materializes by itself what is required and not yielded.
                **{
                    output: dg.Out(dg.Nothing, is_required=False, code_version=spec.code_version)
                    for output, spec in outputs.items()
                },
                **{output: dg.Out(dg.Nothing, is_required=False) for output in checks},
            },
            required_resource_keys=set(resource_keys),
            tags=self.op_tags,
            retry_policy=self.retry_policy,
            pool=self.pool,
        )(body)
        return dg.AssetsDefinition(
            node_def=op,
            keys_by_input_name=inputs,
            keys_by_output_name={output: spec.key for output, spec in outputs.items()},
            specs=list(specs),
            check_specs_by_output_name=checks,
            can_subset=True,
        )
