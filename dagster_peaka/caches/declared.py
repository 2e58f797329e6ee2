"""What definitions say by their metadata: which cache an asset is, how it is synced, and which sensors it has.

The factories write this metadata; whoever declares specs by hand may write it as well.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import dagster as dg

from dagster_peaka.api.models import SyncMode
from dagster_peaka.caches.names import CacheReference, SyncTarget, TableName, checked_cache_id
from dagster_peaka.errors import PeakaConfigError

CACHE_ID_METADATA = "peaka/cache_id"
"""The key under which an asset's spec names its cache by id."""

TABLE_METADATA = "peaka/table"
"""The key under which an asset's spec names its cache by ``catalog.schema.table``."""

TABLE_NAME_METADATA = "dagster/table_name"
"""Dagster's own key for a table's full name; it names the table of a cache that is addressed by id."""

CATALOG_ID_METADATA = "peaka/catalog_id"
"""The key of the catalog's id, which narrows listings."""

SCHEMA_NAME_METADATA = "peaka/schema_name"
"""The key of the schema's name, which narrows listings further."""

MODE_METADATA = "peaka/mode"
"""The key of the mode of an asset's syncs: ``incremental`` (when absent) or ``full_refresh``."""

SUPPORTED_MODES_METADATA = "peaka/supported_modes"
"""The key of the modes that the table supports, such as ``incremental, full_refresh``; absent when not known."""

ROW_COUNT_METADATA = "peaka/row_count"
"""The key of what ``dagster/row_count`` is taken from: a :class:`RowCount`, ``off`` when absent."""

FINGERPRINT_METADATA = "peaka/fingerprint"
"""The key of what data versions are made of: ``checksum``, or a select list; the execution's id when absent."""

CHECKSUM = "checksum"
"""The fingerprint over all values of all rows."""

COLUMN_SCHEMA_METADATA = "dagster/column_schema"
"""Dagster's own key for a table's columns, here as they were when the snapshot was taken."""

WAIT_METADATA = "peaka/wait"
"""The key of whether the step waits for the end of what it triggers; true when absent."""

ON_SCHEDULE_METADATA = "peaka/on_schedule"
"""The key of what a sync does about Peaka's own schedules: an :class:`OnSchedule`, ``warn`` when absent."""

QUERY_METADATA = "peaka/query"
"""The key under which an asset's spec names its materialized query, by id or name."""

COLUMN_LINEAGE_METADATA = "dagster/column_lineage"
"""Dagster's own key for column lineage, which it shows by an asset's materializations."""

QUERY_ID_METADATA = "peaka/query_id"
"""The key of the query's id, where it is known when definitions load."""

SOURCES_METADATA = "peaka/sources"
"""The key of the tables that a query reads, as ``catalog.schema.table``; absent where that is not known."""

SOURCES_CHECK = "sources_cached"
"""The name of the check that a refresh's own step evaluates before it."""

URL_METADATA = "peaka/url"
"""The key of the address at which a person finds the cache or the query."""

LAST_SYNC_CHECK = "last_sync_succeeded"
"""The name of the check that a sync's own step evaluates, where the asset declares it."""

POLLING_SENSOR_METADATA = "peaka/polling_sensor"
"""The key under which a sensor's metadata lists the assets that it polls, by the user strings of their keys."""

UPSTREAM_SENSOR_METADATA = "peaka/upstream_sensor"
"""The key under which a sensor's metadata lists the assets that it requests runs of, likewise."""


class RowCount(str, Enum):
    """What a materialization's ``dagster/row_count`` is taken from."""

    OFF = "off"
    """Nothing: no figure of Peaka's status is a total."""
    QUERY = "query"
    """``count(*)``, asked through Peaka's SQL after the sync."""

    @classmethod
    def parse(cls, text: str) -> "RowCount":
        """The choice that a user's string means.

        Raises:
            PeakaConfigError: for anything else.
        """
        if text == "full_refresh":
            raise PeakaConfigError(
                "row_count='full_refresh' is gone, because Peaka's figure after a full refresh is no total of "
                "rows: write row_count='query', which asks Peaka's SQL, or leave it out."
            )
        try:
            return cls(text)
        except ValueError:
            choices = ", ".join(repr(choice.value) for choice in cls)
            raise PeakaConfigError(f"row_count must be one of {choices}, not {text!r}.") from None


class OnSchedule(str, Enum):
    """What a sync does about schedules by which Peaka syncs its cache as well."""

    IGNORE = "ignore"
    WARN = "warn"
    """Says it, where it is learned of."""
    DISABLE = "disable"
    """Switches them off, and fails where Peaka keeps them."""

    @classmethod
    def parse(cls, text: str) -> "OnSchedule":
        """The choice that a user's string means.

        Raises:
            PeakaConfigError: for anything else.
        """
        try:
            return cls(text)
        except ValueError:
            choices = ", ".join(repr(choice.value) for choice in cls)
            raise PeakaConfigError(f"on_schedule must be one of {choices}, not {text!r}.") from None


def link(url: str | None) -> dict[str, Any]:
    """The metadata of the address at which a person finds a cache or a query; nothing where it is not known."""
    return {} if url is None else {URL_METADATA: dg.MetadataValue.url(url)}


def checked_fingerprint(text: str) -> str:
    """``text``, when it can be a fingerprint: ``checksum``, or a select list.

    Raises:
        PeakaConfigError: for an empty one, and for a whole statement.
    """
    if not text.strip() or text.strip().lower().startswith("select ") or ";" in text:
        raise PeakaConfigError(
            f"fingerprint must be {CHECKSUM!r} or a select list of aggregates, such as 'count(*), max(updated_at)', "
            f"not {text!r}."
        )
    return text.strip()


@dataclass(frozen=True)
class DeclaredCache:
    """What an asset's spec says about its cache.

    ``target`` is the cache itself where the spec names it by id; else it has to be looked up by ``reference``.
    ``supported_modes`` and ``columns`` (types by names) are None where nothing is known, and may be outdated otherwise.
    """

    reference: CacheReference
    target: SyncTarget | None
    mode: SyncMode
    supported_modes: frozenset[SyncMode] | None
    row_count: RowCount
    fingerprint: str | None
    columns: Mapping[str, str] | None
    wait: bool
    on_schedule: OnSchedule
    deps: Sequence[dg.AssetKey]


def declared_cache(spec: dg.AssetSpec) -> DeclaredCache:
    """The cache behind an asset, by its spec's metadata.

    Raises:
        PeakaConfigError: naming the asset, when its spec names no cache or says what makes no sense.
    """
    asset = spec.key.to_user_string()
    if not (spec.metadata.get(CACHE_ID_METADATA) or spec.metadata.get(TABLE_METADATA)):
        raise PeakaConfigError(
            f"Asset {asset} names no Peaka cache: its spec's metadata needs {CACHE_ID_METADATA!r} or "
            f"{TABLE_METADATA!r}."
        )
    with _about(spec):
        metadata = spec.metadata
        cache_id, table = _text(metadata, CACHE_ID_METADATA), _text(metadata, TABLE_METADATA)
        reference = checked_cache_id(cache_id) if cache_id else TableName.parse(table or "")
        mode = SyncMode.parse(_text(metadata, MODE_METADATA) or SyncMode.INCREMENTAL.value)
        return _declared(spec, reference, _target(cache_id, metadata) if cache_id else None, mode)


def declared_query(spec: dg.AssetSpec) -> DeclaredCache:
    """The materialized query behind an asset, which the engine follows as a cache that is always made anew.

    Its ``reference`` is the query's name or id, its ``target`` None where no id is known.

    Raises:
        PeakaConfigError: naming the asset, when its spec says what makes no sense.
    """
    with _about(spec):
        name, query_id = _text(spec.metadata, QUERY_METADATA), _text(spec.metadata, QUERY_ID_METADATA)
        target = query_target(query_id, str(name)) if query_id else None
        return _declared(spec, str(name), target, SyncMode.FULL_REFRESH)


def query_target(query_id: str, name: str) -> SyncTarget:
    """A materialized query as the engine follows it: by its id, under the name of its snapshot in SQL."""
    return SyncTarget(query_id, str(TableName("peaka", "mtquery", name)), noun="query")


@contextmanager
def _about(spec: dg.AssetSpec) -> Generator[None]:
    """Lets what is wrong with a spec name its asset."""
    try:
        yield
    except PeakaConfigError as error:
        problem = str(error)
    else:
        return
    raise PeakaConfigError(f"Asset {spec.key.to_user_string()}: {problem}")


def _declared(
    spec: dg.AssetSpec, reference: CacheReference, target: SyncTarget | None, mode: SyncMode
) -> DeclaredCache:
    metadata = spec.metadata
    fingerprint = _text(metadata, FINGERPRINT_METADATA)
    return DeclaredCache(
        reference=reference,
        target=target,
        mode=mode,
        supported_modes=_modes(_text(metadata, SUPPORTED_MODES_METADATA) or ""),
        row_count=RowCount.parse(_text(metadata, ROW_COUNT_METADATA) or RowCount.OFF.value),
        fingerprint=checked_fingerprint(fingerprint) if fingerprint is not None else None,
        columns=_columns(metadata.get(COLUMN_SCHEMA_METADATA)),
        wait=_flag(metadata, WAIT_METADATA, default=True),
        on_schedule=OnSchedule.parse(_text(metadata, ON_SCHEDULE_METADATA) or OnSchedule.WARN.value),
        deps=[dep.asset_key for dep in spec.deps],
    )


def _target(cache_id: str, metadata: Mapping[str, Any]) -> SyncTarget:
    """The cache of an id, with its table's name and place as far as they are written."""
    return SyncTarget(
        cache_id,
        _text(metadata, TABLE_METADATA) or _text(metadata, TABLE_NAME_METADATA),
        _text(metadata, CATALOG_ID_METADATA),
        _text(metadata, SCHEMA_NAME_METADATA),
    )


def _modes(text: str) -> frozenset[SyncMode] | None:
    modes = map(SyncMode.recognize, text.split(","))
    return frozenset(mode for mode in modes if mode is not None) or None


def _columns(written: Any) -> dict[str, str] | None:
    schema = _plain(written)
    return column_types(schema) if isinstance(schema, dg.TableSchema) else None


def column_types(schema: dg.TableSchema) -> dict[str, str]:
    """The types of a table's columns, by their names."""
    return {column.name: column.type for column in schema.columns}


def _text(metadata: Mapping[str, Any], name: str) -> str | None:
    value = _plain(metadata.get(name))
    if value is None or isinstance(value, str):
        return value
    raise PeakaConfigError(f"metadata {name!r} must be a string, not {value!r}.")


def _flag(metadata: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = _plain(metadata.get(name))
    if value is None or isinstance(value, bool):
        return default if value is None else value
    raise PeakaConfigError(f"metadata {name!r} must be True or False, not {value!r}.")


def _plain(value: Any) -> Any:
    """What a user wrote, also where Dagster has put it into a type of its own."""
    return cast("dg.MetadataValue[Any]", value).value if isinstance(value, dg.MetadataValue) else value


def given_assets(assets: object, taken_by: str) -> list[dg.AssetsDefinition]:
    """One assets definition, or several, as a list.

    Raises:
        PeakaConfigError: naming ``taken_by``, for anything else: keys, specs and selections name no cache.
    """
    returned = "what build_peaka_cache_asset and build_peaka_cache_assets return (AssetsDefinition)"
    return cast(
        "list[dg.AssetsDefinition]", _given(assets, (dg.AssetsDefinition,), f"{taken_by} takes {returned}")
    )


def given_assets_or_specs(assets: object, taken_by: str) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """One assets definition or spec of the factories, or several, as a list.

    Raises:
        PeakaConfigError: naming ``taken_by``, for anything else.
    """
    returned = (
        "what build_peaka_cache_asset and build_peaka_cache_assets return (AssetsDefinition), or "
        "load_peaka_cache_specs (AssetSpec)"
    )
    kinds = (dg.AssetsDefinition, dg.AssetSpec)
    return cast(
        "list[dg.AssetsDefinition | dg.AssetSpec]", _given(assets, kinds, f"{taken_by} takes {returned}")
    )


def _given(assets: object, kinds: tuple[type, ...], taken: str) -> list[object]:
    problem = type(assets).__name__
    if isinstance(assets, kinds):
        return [assets]
    try:
        definitions = list(cast("Iterable[object]", assets))
    except Exception:  # Dagster's own values raise it where they would be iterated
        definitions = [assets]
    others = [one for one in definitions if not isinstance(one, kinds)]
    if not others:
        return definitions
    if isinstance(assets, Iterator) or type(assets) in (list, tuple, set):
        problem = f"{type(others[0]).__name__} among them"
    raise PeakaConfigError(f"{taken}, one or several, and was given {problem}.")


def polling_sensor_metadata(keys: Iterable[dg.AssetKey]) -> dict[str, dg.MetadataValue]:
    """The metadata by which a sensor says that it polls the caches behind these assets."""
    return {POLLING_SENSOR_METADATA: _listed(keys)}


def upstream_sensor_metadata(keys: Iterable[dg.AssetKey]) -> dict[str, dg.MetadataValue]:
    """The metadata by which a sensor says that it requests runs of these assets."""
    return {UPSTREAM_SENSOR_METADATA: _listed(keys)}


def _listed(keys: Iterable[dg.AssetKey]) -> dg.MetadataValue:
    return dg.MetadataValue.json(sorted(key.to_user_string() for key in keys))


def polled_assets(sensor: dg.SensorDefinition) -> frozenset[str]:
    """The user strings of the keys of the assets that a sensor polls; none where it is no polling sensor."""
    return _assets_in(sensor, POLLING_SENSOR_METADATA)


def requested_assets(sensor: dg.SensorDefinition) -> frozenset[str]:
    """The user strings of the keys of the assets that a sensor requests; none where it is no upstream sensor."""
    return _assets_in(sensor, UPSTREAM_SENSOR_METADATA)


def _assets_in(sensor: dg.SensorDefinition, key: str) -> frozenset[str]:
    value = _plain(sensor.metadata.get(key))
    return frozenset(map(str, cast("list[Any]", value))) if isinstance(value, list) else frozenset()
