"""What the component's YAML says about assets: of all of them, of those that a pattern means, of one that it lists.

Templates that mention ``props`` or ``spec`` are rendered for each cache; everything else when the YAML is read.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

import dagster as dg
from pydantic import AfterValidator, BaseModel, BeforeValidator, PrivateAttr, model_validator
from typing_extensions import Self

from dagster_peaka.api.settings import bare
from dagster_peaka.caches.declared import (
    FINGERPRINT_METADATA,
    MODE_METADATA,
    ON_SCHEDULE_METADATA,
    ROW_COUNT_METADATA,
    WAIT_METADATA,
    checked_fingerprint,
)
from dagster_peaka.caches.declared import RowCount as DeclaredRowCount
from dagster_peaka.caches.names import TableName, checked_cache_id
from dagster_peaka.caches.project import PeakaCache
from dagster_peaka.component.reading import (
    SETTINGS_CONFIG,
    Anything,
    Key,
    Loc,
    Scalar,
    Section,
    Tags,
    Text,
    doc,
    field_error,
    instance_of,
    problem_at,
    rendered,
    text,
    validated,
    written,
)
from dagster_peaka.component.settings import WHICH_CACHES, PeakaOpSettings
from dagster_peaka.errors import PeakaConfigError
from dagster_peaka.steps.specs import AssetCondition

OF_EACH_CACHE = re.compile(r"\{[{%].*\b(props|spec)\b", re.DOTALL)
"""A template that comes to something else for each cache."""

Mode = Literal["incremental", "full_refresh"]
OnSchedule = Literal["ignore", "warn", "disable"]


def _row_count(value: object) -> object:
    if value == "full_refresh":
        try:
            DeclaredRowCount.parse("full_refresh")
        except PeakaConfigError as error:
            raise ValueError(str(error)) from None
    return "off" if value is False else value


RowCount = Annotated[
    Literal["query", "off"],
    BeforeValidator(_row_count),
    dg.Resolver.default(model_field_type=Literal["full_refresh", "query", "off", False]),
]
"""Where row counts come from; in YAML, ``off`` without quotes is the truth value."""


def _fingerprint(value: object) -> object:
    try:
        return checked_fingerprint(value) if isinstance(value, str) else value
    except PeakaConfigError as error:
        raise ValueError(str(error)) from None


Fingerprint = Annotated[str, BeforeValidator(_fingerprint), dg.Resolver.default(model_field_type=str)]
"""What data versions are made of."""

Condition = Annotated[
    AssetCondition,
    instance_of(dg.AutomationCondition, "{{ dg.AutomationCondition.eager() }}"),
    dg.Resolver.default(model_field_type=str),
]
"""An automation condition; in YAML a template."""

_Freshness = Annotated[
    dg.FreshnessPolicy,
    instance_of(
        dg.FreshnessPolicy, "{{ dg.FreshnessPolicy.time_window(fail_window=datetime.timedelta(hours=6)) }}"
    ),
    dg.Resolver.default(model_field_type=str),
]


T = TypeVar("T", bound="PeakaAssetAttributes")


class PeakaAssetAttributes(Section):
    """What an asset is called and shows. What is not set stays as it is; tags and metadata are added."""

    key: Annotated[Key | None, doc("The asset's key.", "lake/{{ props.table_name }}")] = None
    key_prefix: Annotated[Key | None, doc("What is put before the asset's key.", "lake")] = None
    group_name: Annotated[Text | None, doc("The asset's group; by default its catalog's.", "lake")] = None
    description: Annotated[str | None, doc("What the asset's page says.")] = None
    deps: Annotated[
        list[Key] | None,
        doc("The keys of the assets on which it depends, in place of others.", ["landed/orders"]),
    ] = None
    metadata: Annotated[Anything | None, doc("Metadata, added to the rest.")] = None
    tags: Annotated[Tags | None, doc("Tags, added to the rest.", {"tier": "prod"})] = None
    owners: Annotated[list[str] | None, doc("Mail addresses, or teams as team:name.", ["team:data"])] = None
    kinds: Annotated[list[str] | None, doc("The asset's kinds, in place of others.", ["peaka"])] = None
    code_version: Annotated[Text | None, doc("The version of what makes the asset.", "3")] = None
    automation_condition: Annotated[
        Condition | None,
        doc("When Dagster materializes the asset by itself.", "{{ dg.AutomationCondition.eager() }}"),
    ] = None
    freshness_policy: Annotated[
        _Freshness | None,
        doc(
            "How old the asset may become.",
            "{{ dg.FreshnessPolicy.time_window(fail_window=datetime.timedelta(hours=6)) }}",
        ),
    ] = None

    _context: dg.ResolutionContext | None = PrivateAttr(default=None)
    _late: Mapping[str, Any] = PrivateAttr(default={})

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Any:
        """The attributes as the YAML ``model`` describes them.

        Raises:
            PeakaConfigError: naming file, line and field.
        """
        values = written(context, model)
        late = {name: value for name, value in values.items() if _is_late(value)}
        early = {name: value for name, value in values.items() if name not in late}
        attributes = validated(cls, context, rendered(context, early))
        return attributes.read_at(context, late)

    def read_at(self, context: dg.ResolutionContext | None, late: Mapping[str, Any] | None = None) -> Self:
        """Itself; errors will name the file and line of ``context``, and ``late`` is rendered for each cache."""
        self._context, self._late = context, late or {}
        return self

    def of(self, spec: dg.AssetSpec, props: PeakaCache) -> Self:
        """The attributes for one cache: with every template rendered.

        Raises:
            PeakaConfigError: naming file, line and field.
        """
        if self._context is None or not self._late:
            return self
        # Its signature has a type that Dagster leaves open.
        context = cast("Any", self._context).with_scope(spec=spec, props=props)
        early = {name: getattr(self, name) for name in self.model_fields_set}
        return validated(type(self), context, {**early, **rendered(context, self._late)})

    def on(self, spec: dg.AssetSpec, props: PeakaCache) -> dg.AssetSpec:
        """The spec with these attributes.

        Raises:
            PeakaConfigError: naming file, line and field, when a template cannot be rendered for this cache, or Dagster
                does not take what it came to.
        """
        said = self.of(spec, props)
        changes = {name: getattr(said, name) for name in REPLACED if getattr(said, name) is not None}
        if said.kinds is not None:
            changes["kinds"] = set(said.kinds)
        if said.key_prefix is not None:
            changes["key"] = changes.get("key", spec.key).with_prefix(said.key_prefix.path)
        for name, value in changes.items():
            spec = self._taken(name, cast("Any", spec).replace_attributes, **{name: value})
        spec = self._taken("metadata", spec.merge_attributes, metadata=said.added_metadata())
        return self._taken("tags", spec.merge_attributes, tags=said.tags) if said.tags else spec

    def _taken(self, name: str, change: Callable[..., dg.AssetSpec], **changes: object) -> dg.AssetSpec:
        """The spec with a change to which Dagster may object."""
        try:
            return change(**changes)
        except dg.DagsterError as error:
            problem = str(error)
        raise problem_at(self._context, (name,), problem)

    def added_metadata(self) -> dict[str, object]:
        """What is added to the spec's metadata."""
        return dict(self.metadata or {})


REPLACED = (
    "key",
    "group_name",
    "description",
    "deps",
    "owners",
    "code_version",
    "automation_condition",
    "freshness_policy",
)
"""Attributes that take the place of what the spec says."""


NEEDS_POLLING = (
    "wait: false leaves it to a polling sensor to record what becomes of a sync, and there is none. Set "
    "polling_sensor, or wait for the syncs."
)


class SyncFields(dg.Model):
    """How caches are synced: of all of them, or of some."""

    model_config = SETTINGS_CONFIG

    mode: Annotated[Mode | None, doc("How the cache is synced.")] = None
    row_count: Annotated[RowCount | None, doc("What dagster/row_count is taken from after a sync.")] = None
    fingerprint: Annotated[
        Fingerprint | None,
        doc(
            "What data versions are made of: checksum, or a select list of aggregates; by default execution ids."
        ),
    ] = None
    wait: Annotated[
        bool | None, doc("Whether the step waits for the sync's end; false needs polling_sensor.")
    ] = None
    on_schedule: Annotated[
        OnSchedule | None, doc("What a sync does about Peaka's own schedules of the cache.")
    ] = None


class PeakaCacheAttributes(SyncFields, PeakaAssetAttributes):
    """What an asset is called and shows, and how its cache is synced."""

    op: Annotated[
        PeakaOpSettings | None, doc("Settings of the cache's own step, in place of the component's.")
    ] = None

    def check(self, loc: Loc, step_per: str, *, polled: bool) -> None:
        """Refuse what the component cannot do; ``loc`` is where this stands.

        Raises:
            PydanticCustomError: naming the field.
        """
        if self.op is not None and step_per != "cache":
            problem = f"a cache has no step of its own with step_per {step_per}: set op of the component."
            raise field_error((*loc, "op"), problem)
        if self.wait is False and not polled:
            raise field_error((*loc, "wait"), NEEDS_POLLING)

    def added_metadata(self) -> dict[str, object]:
        """What is added to the spec's metadata: by it the step knows how to sync."""
        said = {
            MODE_METADATA: self.mode,
            ROW_COUNT_METADATA: self.row_count,
            FINGERPRINT_METADATA: self.fingerprint,
            WAIT_METADATA: self.wait,
            ON_SCHEDULE_METADATA: self.on_schedule,
        }
        return {
            **super().added_metadata(),
            **{name: value for name, value in said.items() if value is not None},
        }


class PeakaCacheOverride(PeakaCacheAttributes):
    """What is different for the caches that ``match`` means. Of several overrides of a field the last one wins.

    Example:
        .. code-block:: python

            PeakaCacheOverride(match="shop.public.*", mode="full_refresh", group_name="shop")
    """

    match: Annotated[
        str | list[str],
        text(
            f"{WHICH_CACHES}.",
            "shop.public.*",
            ["shop.public.orders", "crm.*.*"],
            schema=Scalar | list[Scalar],
        ),
    ]


CacheId = Annotated[Text, AfterValidator(bare)]
"""A cache's id, which may look like a number."""


class PeakaCacheEntry(PeakaCacheAttributes):
    """A cache that is written out, by its table or by its id, with what its asset is called and shows.

    Example:
        .. code-block:: python

            PeakaCacheEntry(table="shop.public.orders", deps=["landed/orders"])
    """

    table: Annotated[str | None, doc("The cached table.", "shop.public.orders")] = None
    cache_id: Annotated[CacheId | None, doc("The cache's id, where table is not given.")] = None

    @model_validator(mode="after")
    def _names_one_cache(self) -> "PeakaCacheEntry":
        if (self.table is None) == (self.cache_id is None):
            raise ValueError("give either table or cache_id, and not both.")
        try:
            if self.table is not None:
                TableName.parse(self.table)
            else:
                checked_cache_id(self.cache_id or "")
        except PeakaConfigError as error:
            raise field_error(("cache_id" if self.table is None else "table",), str(error)) from None
        return self

    def __str__(self) -> str:
        return f"table {self.table}" if self.cache_id is None else f"cache {self.cache_id}"

    @property
    def props(self) -> PeakaCache:
        """What is known of the cache without asking; the table stands for ids, empty texts for names."""
        if self.table is None:
            cache_id = self.cache_id or ""
            return PeakaCache(
                id=cache_id, catalog_id=cache_id, catalog_name="", schema_name="", table_name=""
            )
        table = TableName.parse(self.table)
        return PeakaCache(
            id=str(table),
            catalog_id=table.catalog,
            catalog_name=table.catalog,
            schema_name=table.schema,
            table_name=table.table,
        )


def cache_entries(context: dg.ResolutionContext, value: Sequence[BaseModel | str]) -> list[PeakaCacheEntry]:
    """Caches that are written out; as a text, one is a table where it has dots, and an id otherwise."""
    found: list[PeakaCacheEntry] = []
    for number, each in enumerate(value):
        place = context.at_path(number)
        if isinstance(each, BaseModel):
            found.append(PeakaCacheEntry.resolve_from_model(place, each))
        else:
            found.append(validated(PeakaCacheEntry, place, _as_entry(str(rendered(place, each)))))
    return found


def _as_entry(value: Any) -> Any:
    if isinstance(value, str):
        return {"table" if "." in value else "cache_id": value}
    return value


Entries = list[Annotated[PeakaCacheEntry, BeforeValidator(_as_entry)]]
"""Caches that are written out, in Python and in what a template comes to as in YAML."""


def _is_late(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_late, cast("Mapping[str, Any]", value).values()))
    if isinstance(value, (list, tuple)):
        return any(map(_is_late, cast("list[Any]", value)))
    return isinstance(value, str) and OF_EACH_CACHE.search(value) is not None
