"""From caches to the specs of their assets: what the translator says, what the caller adds, what the step needs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import dagster as dg

from dagster_peaka.api.models import SyncMode
from dagster_peaka.caches.declared import (
    CACHE_ID_METADATA,
    CATALOG_ID_METADATA,
    FINGERPRINT_METADATA,
    MODE_METADATA,
    ON_SCHEDULE_METADATA,
    ROW_COUNT_METADATA,
    SCHEMA_NAME_METADATA,
    SUPPORTED_MODES_METADATA,
    TABLE_METADATA,
    TABLE_NAME_METADATA,
    WAIT_METADATA,
    OnSchedule,
    RowCount,
    checked_fingerprint,
)
from dagster_peaka.caches.names import TableName, checked_cache_id, few
from dagster_peaka.caches.project import PeakaCache, PeakaProject
from dagster_peaka.caches.selection import PeakaSelection, select
from dagster_peaka.errors import PeakaConfigError
from dagster_peaka.steps.arguments import instead
from dagster_peaka.translator import DagsterPeakaTranslator

AssetCondition: TypeAlias = (
    dg.AutomationCondition[dg.AssetKey] | dg.AutomationCondition[dg.AssetKey | dg.AssetCheckKey]
)
"""What Dagster takes as an asset's automation condition."""

AssetDependency: TypeAlias = (
    dg.AssetKey | str | Sequence[str] | dg.AssetSpec | dg.AssetsDefinition | dg.SourceAsset | dg.AssetDep
)
"""What Dagster takes as an asset's dependency."""

KIND_TAG = "dagster/kind/"
"""How Dagster keeps an asset's kinds among its tags."""


@instead()
def load_peaka_cache_specs(
    caches_or_project: PeakaProject | Iterable[PeakaCache],
    *,
    selector: PeakaSelection | None = None,
    translator: DagsterPeakaTranslator | None = None,
    row_count: str = "off",
    fingerprint: str | None = None,
) -> list[dg.AssetSpec]:
    """Caches as external assets: Dagster shows them and what depends on them, and has no step to sync them.

    For projects that only watch: Peaka's schedules or other clients sync the caches, and
    :func:`build_peaka_polling_sensor`, given these specs, records each sync as a materialization. Nothing touches the
    network when this is called.

    Args:
        caches_or_project: a snapshot, or caches.
        selector: which caches, as for :func:`build_peaka_cache_assets`; by default all.
        translator: says what each asset is called and shows; by default :class:`DagsterPeakaTranslator`.
        row_count: ``query`` has the polling sensor count the table's rows after each sync that it records.
        fingerprint: what the data version of a materialization is made of, as for :func:`build_peaka_cache_asset`.

    What an asset is called and shows is the translator's to say; ``dg.map_asset_specs`` changes it afterwards.

    Raises:
        PeakaConfigError: when two caches would be one asset, when a selector matches nothing, or when an argument
            cannot be understood.

    Example:
        .. code-block:: python

            specs = load_peaka_cache_specs(PeakaProject.load("peaka_project.json"), selector="shop.public.*")
            defs = dg.Definitions(
                assets=specs, sensors=[build_peaka_polling_sensor(specs)], resources={"peaka": peaka}
            )
    """
    sync = SyncSettings(None, row_count, fingerprint)
    return specs_of(selected(caches_or_project, selector), translator, sync)


@dataclass(frozen=True)
class SyncSettings:
    """How assets are synced, as their specs' metadata tell the step."""

    mode: str | None
    row_count: str
    fingerprint: str | None
    wait: bool = True
    on_schedule: str = OnSchedule.WARN.value

    def __post_init__(self) -> None:
        if self.mode is not None:
            SyncMode.parse(self.mode)
        RowCount.parse(self.row_count)
        if self.fingerprint is not None:
            checked_fingerprint(self.fingerprint)
        OnSchedule.parse(self.on_schedule)

    def as_metadata(self, supported: frozenset[SyncMode] | None = None) -> dict[str, object]:
        """The metadata of a cache's asset, without what is the step's default anyway."""
        if self.mode is not None:
            mode = SyncMode.parse(self.mode)
        else:
            only_refreshed = supported == frozenset({SyncMode.FULL_REFRESH})
            mode = SyncMode.FULL_REFRESH if only_refreshed else SyncMode.INCREMENTAL
        return {MODE_METADATA: mode.value, **self.without_mode()}

    def without_mode(self) -> dict[str, object]:
        """The part of the metadata that a query's asset has, too."""
        metadata: dict[str, object] = {}
        if self.row_count != RowCount.OFF.value:
            metadata[ROW_COUNT_METADATA] = self.row_count
        if self.fingerprint is not None:
            metadata[FINGERPRINT_METADATA] = checked_fingerprint(self.fingerprint)
        if not self.wait:
            metadata[WAIT_METADATA] = False
        if self.on_schedule != OnSchedule.WARN.value:
            metadata[ON_SCHEDULE_METADATA] = self.on_schedule
        return metadata


def _with_settings(
    spec: dg.AssetSpec, cache: PeakaCache, sync: SyncSettings, place: Mapping[str, str]
) -> dg.AssetSpec:
    """The spec with the metadata by which the step finds the cache, and knows how to sync it."""
    metadata = {**shown(place), **sync.as_metadata(cache.supported_modes), **spec.metadata, **place}
    # Its signature has types that Dagster leaves open.
    return cast("Any", spec).replace_attributes(skippable=True, metadata=metadata)


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


def several(argument: str, values: T) -> T:
    """``values``, when they are not one text, of which Python would take every letter.

    Raises:
        PeakaConfigError: naming the argument.
    """
    if isinstance(values, str):
        raise PeakaConfigError(f"{argument} must be a list, not a text: write {argument}=[{values!r}].")
    return values


def is_a(value: object, kind: type) -> bool:
    """Whether ``value`` is what its type says: not every caller has a type checker."""
    return isinstance(value, kind)


def selected(
    caches_or_project: PeakaProject | Iterable[PeakaCache], selector: PeakaSelection | None
) -> Sequence[PeakaCache]:
    """The caches that a factory is for.

    Raises:
        PeakaConfigError: for what is no cache, and when the selector fits nothing.
    """
    if isinstance(caches_or_project, PeakaProject):
        caches: Sequence[PeakaCache] = caches_or_project.caches
    else:
        single = isinstance(caches_or_project, (str, bytes, PeakaCache))
        caches = () if single else tuple(caches_or_project)
        if single or not all(is_a(cache, PeakaCache) for cache in caches):
            raise PeakaConfigError(
                "caches_or_project must be a PeakaProject, such as PeakaProject.load(path), or a list of PeakaCache, "
                f"not {caches_or_project!r}."
            )
    caches = tuple(dict.fromkeys(caches))  # the same once, where lists of caches overlap
    return caches if selector is None else select(caches, selector)


def specs_of(
    caches: Sequence[PeakaCache],
    translator: DagsterPeakaTranslator | None,
    sync: SyncSettings,
    place: Callable[[PeakaCache], dict[str, str]] | None = None,
) -> list[dg.AssetSpec]:
    """The spec of each cache, in the same order.

    Args:
        place: the metadata by which the step finds a cache; by default all that a snapshot tells.

    Raises:
        PeakaConfigError: when two caches would be one asset.
    """
    translator = DagsterPeakaTranslator() if translator is None else translator
    if not is_a(translator, DagsterPeakaTranslator):
        raise PeakaConfigError(
            f"translator must be an instance of a DagsterPeakaTranslator, not {translator!r}."
        )
    specs: list[dg.AssetSpec] = []
    taken: dict[str, str] = {}
    names: dict[str, PeakaCache] = {}
    for cache in caches:
        same = names.setdefault(cache.id, cache)
        if same is not cache:
            raise PeakaConfigError(
                f"Cache {cache.id} is given twice, as {same.name} and as {cache.name}: leave one of them out."
            )
        whose = f"cache {cache.id} ({cache.name})"
        try:
            translated = translator.get_asset_spec(cache)
        except dg.DagsterInvalidDefinitionError as error:  # which of hundreds of caches, it does not say
            raise PeakaConfigError(
                f"{type(translator).__name__}.get_asset_spec failed for {whose}: {error}"
            ) from error
        spec = checked_spec(translated, whose, translator.get_asset_spec)
        spec = _with_settings(spec, cache, sync, (place or _place)(cache))
        check_distinct(spec, whose, taken)
        specs.append(spec)
    return specs


def checked_spec(answered: object, whose: str, translated_by: Callable[..., object]) -> dg.AssetSpec:
    """What a translator's method has answered, when it can be the spec of an asset that is synced as a whole.

    Raises:
        PeakaConfigError: naming the method and ``whose`` spec it is.
    """
    method = f"{type(getattr(translated_by, '__self__', None)).__name__}.{translated_by.__name__}"
    if not isinstance(answered, dg.AssetSpec):
        raise PeakaConfigError(
            f"{method} answered {answered!r} for {whose}: it must return a dagster.AssetSpec."
        )
    if answered.partitions_def is not None:
        raise PeakaConfigError(
            f"The asset of {whose} has a partitions_def: it is synced as a whole. Remove it in {method}."
        )
    return answered


def check_distinct(spec: dg.AssetSpec, whose: str, taken: dict[str, str]) -> None:
    """Note ``whose`` spec it is in ``taken``, by its key.

    Raises:
        PeakaConfigError: naming both, when another one's is of that key already.
    """
    # By these strings Dagster tells assets apart in places: ['a/b', 'c'] and ['a', 'b/c'] are one there.
    shown = spec.key.to_user_string()
    other = taken.setdefault(shown, whose)
    if other != whose:
        raise PeakaConfigError(
            f"{other} and {whose} would both be the asset {shown!r}: give one of them another key in the translator, "
            "or leave it out with selector."
        )


def identity_of(
    cache_id: str | None, table: str | Sequence[str] | None
) -> tuple[dict[str, str], dg.AssetKey]:
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


def shown(identity: Mapping[str, str]) -> dict[str, str]:
    """The table as Dagster shows it, unless the user says otherwise."""
    table = identity.get(TABLE_METADATA)
    return {} if table is None else {TABLE_NAME_METADATA: table}


def description_of(identity: Mapping[str, str], mode: SyncMode) -> str:
    """What the page of an asset says by default."""
    name = identity.get(TABLE_METADATA) or f"cache {identity[CACHE_ID_METADATA]}"
    how = "brought up to date by an" if mode is SyncMode.INCREMENTAL else "rebuilt by a"
    return f"Peaka's copy of {name}, {how} {mode.words}."


# Schedules of Peaka's own


def schedules_text(incremental: str | None, full_refresh: str | None) -> str:
    """Schedules in words: ``incremental PT6H, full refresh P1D``; empty where there is none."""
    schedules = {"incremental": incremental, "full refresh": full_refresh}
    return ", ".join(f"{mode} {duration}" for mode, duration in schedules.items() if duration is not None)


def warn_of_schedules(caches: Sequence[PeakaCache], specs: Sequence[dg.AssetSpec]) -> None:
    """As :func:`warn_of_own_schedules`, for caches and their specs in the same order."""
    warn_of_own_schedules(
        "cache",
        (
            (cache.name, schedules_text(cache.incremental_schedule, cache.full_refresh_schedule), spec)
            for cache, spec in zip(caches, specs, strict=True)
        ),
    )


def warn_of_own_schedules(noun: str, known: Iterable[tuple[str, str, dg.AssetSpec]]) -> None:
    """Say in one line what Peaka syncs by itself, where that is not declared to be known.

    Args:
        noun: what these are, ``cache`` or ``query``.
        known: of each the name, the schedules in words (empty for none), and the spec.
    """
    found = [
        f"{name} ({schedules})"
        for name, schedules, spec in known
        if schedules
        and spec.metadata.get(ON_SCHEDULE_METADATA, OnSchedule.WARN.value) == OnSchedule.WARN.value
    ]
    if found:
        dg.get_dagster_logger("peaka").warning(
            "Peaka syncs by schedules of its own: %s. A %s that Dagster decides to sync as well is synced twice. "
            "Set on_schedule to 'disable' to have those schedules switched off by the next sync, or to 'ignore' where "
            "both are wanted.",
            few(found),
            noun,
        )
