"""What the component's YAML says about assets: of all of them, of those that a pattern means, of one that it lists.

The attributes are those of Dagster's own components. Templates that mention ``props`` or ``spec`` are rendered for each
cache; everything else when the YAML is read. Dagster's ``post_processing`` says more of assets once they are made.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias, cast

import dagster as dg
from dagster.components import AssetAttributesModel
from pydantic import AfterValidator, BeforeValidator, Field, ModelWrapValidatorHandler, model_validator
from typing_extensions import Self

from dagster_peaka.caches.names import TableName, checked_cache_id
from dagster_peaka.caches.project import PeakaCache
from dagster_peaka.component.fields import Anything, Key, Section, Tags, Texts, asset_key, instance_of
from dagster_peaka.component.reading import blaming, is_late, problem_at, rendered, validated
from dagster_peaka.component.settings import WHICH_CACHES, PeakaOpSettings, SyncFields
from dagster_peaka.steps.specs import AssetCondition
from dagster_peaka.translator import AssetKeyLike

Condition = Annotated[
    AssetCondition, instance_of(dg.AutomationCondition, "{{ dg.AutomationCondition.eager() }}")
]
"""An automation condition; in YAML a template."""

FRESHNESS = "{{ dg.FreshnessPolicy.time_window(fail_window=datetime.timedelta(hours=6)) }}"
Freshness = Annotated[dg.FreshnessPolicy, instance_of(dg.FreshnessPolicy, FRESHNESS)]


def of_dagster(name: str, *examples: Any) -> Any:
    """What Dagster says about an attribute of assets."""
    description = AssetAttributesModel.model_fields[name].description
    return Field(description=description, examples=list(examples) or None)


class PeakaAssetAttributes(Section):
    """What an asset is called and shows. What is not set stays as it is; tags and metadata are added."""

    key: Key | None = Field(default=None, examples=["lake/{{ props.table_name }}"])
    """The asset's key."""
    key_prefix: Annotated[Key | None, of_dagster("key_prefix", "lake")] = None
    group_name: Annotated[str | None, of_dagster("group_name", "lake")] = None
    description: Annotated[str | None, of_dagster("description")] = None
    deps: Annotated[list[Key] | None, of_dagster("deps", ["landed/orders"])] = None
    metadata: Annotated[Anything | None, of_dagster("metadata")] = None
    tags: Annotated[Tags | None, of_dagster("tags", {"tier": "prod"})] = None
    owners: Annotated[list[str] | None, of_dagster("owners", ["team:data"])] = None
    kinds: Annotated[list[str] | None, of_dagster("kinds", ["peaka"])] = None
    code_version: Annotated[str | None, of_dagster("code_version", "3")] = None
    automation_condition: Annotated[
        Condition | None, of_dagster("automation_condition", "{{ dg.AutomationCondition.eager() }}")
    ] = None
    freshness_policy: Annotated[Freshness | None, of_dagster("freshness_policy", FRESHNESS)] = None

    @model_validator(mode="wrap")
    @classmethod
    def _leave_what_is_late(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """A template of ``props`` or ``spec`` stays in its field until :meth:`of` renders it."""
        if not isinstance(values, Mapping):
            return handler(values)
        said = cast("Mapping[str, Any]", values)
        late = {name: value for name, value in said.items() if name in cls.model_fields and is_late(value)}
        attributes = handler({name: value for name, value in said.items() if name not in late})
        for name, template in late.items():
            setattr(attributes, name, template)
        return attributes

    def of(self, context: dg.ResolutionContext, spec: dg.AssetSpec, props: PeakaCache) -> Self:
        """The attributes for one cache: with every template rendered."""
        said = {name: getattr(self, name) for name in self.model_fields_set}
        late = {name: value for name, value in said.items() if is_late(value)}
        if not late:
            return self
        return validated(type(self), context, {**said, **rendered(context, late, spec=spec, props=props)})

    def on(self, context: dg.ResolutionContext, spec: dg.AssetSpec, props: PeakaCache) -> dg.AssetSpec:
        """The spec with these attributes."""
        said = self.of(context, spec, props)
        changed: Any = spec  # its methods have types that Dagster leaves open
        for name in PeakaAssetAttributes.model_fields:
            value: Any = said.added_metadata() if name == "metadata" else getattr(said, name)
            if value is None:
                continue
            with blaming(context, name):
                if name == "key_prefix":
                    changed = changed.replace_attributes(key=changed.key.with_prefix(value.path))
                elif name in ("metadata", "tags"):
                    changed = changed.merge_attributes(**{name: value})
                else:
                    changed = changed.replace_attributes(**{name: value})
        return changed

    def added_metadata(self) -> dict[str, object]:
        """What is added to the spec's metadata."""
        return dict(self.metadata or {})


# What all assets are called, and on which asset each depends

TranslationFn: TypeAlias = Callable[[dg.AssetSpec, PeakaCache], dg.AssetSpec]
"""Changes the spec of a cache's asset."""

Translation = Annotated[
    TranslationFn | PeakaAssetAttributes | str,
    BeforeValidator(lambda value: value, json_schema_input_type=PeakaAssetAttributes | str),
]
"""A function, attributes, or a template that comes to a spec or to attributes."""

SourceKeyFn: TypeAlias = Callable[[PeakaCache], AssetKeyLike | None]


def _source(value: Any) -> Any:
    return value if callable(value) or is_late(value) else asset_key(value).to_user_string()


SourceAssetKey = Annotated[SourceKeyFn | str, BeforeValidator(_source, json_schema_input_type=str)]
"""The key of the asset that stands for the table which a cache copies: by a function, or by a template."""


def translated(
    context: dg.ResolutionContext, translation: Any, spec: dg.AssetSpec, props: PeakaCache
) -> dg.AssetSpec:
    """The spec as a translation has it."""
    if callable(translation):
        return cast("TranslationFn", translation)(spec, props)
    if isinstance(translation, str):
        translation = rendered(context, translation, spec=spec, props=props)
        if isinstance(translation, dg.AssetSpec):
            return translation
        if isinstance(translation, Mapping):
            translation = validated(PeakaAssetAttributes, context, cast("Mapping[str, Any]", translation))
    if isinstance(translation, PeakaAssetAttributes):
        return translation.on(context, spec, props)
    problem = f"came to {translation!r:.100}, and it must come to an AssetSpec or to attributes."
    raise problem_at(context, problem)


def source_key(context: dg.ResolutionContext, source: Any, props: PeakaCache) -> AssetKeyLike | None:
    """The key of the asset that stands for the table which a cache copies, or None where there is no such asset."""
    if source is None or callable(source):
        return cast("AssetKeyLike | None", source and source(props))
    value = rendered(context, source, props=props)
    try:
        return None if value in (None, "") else asset_key(value)
    except ValueError as error:
        raise problem_at(context, str(error)) from None


# What is different for some caches, and caches that are written out


class PeakaCacheAttributes(SyncFields, PeakaAssetAttributes):
    """What an asset is called and shows, and how its cache is synced."""

    op: PeakaOpSettings | None = None
    """Settings of the cache's own step, in place of the component's."""

    def added_metadata(self) -> dict[str, object]:
        """What is added to the spec's metadata: by it the step knows how to sync."""
        said = {f"peaka/{name}": getattr(self, name) for name in SyncFields.model_fields}
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

    match: Texts = Field(
        description=f"{WHICH_CACHES}.", examples=["shop.public.*", ["shop.public.orders", "crm.*.*"]]
    )


class PeakaCacheEntry(PeakaCacheAttributes):
    """A cache that is written out, by its table or by its id, with what its asset is called and shows.

    Example:
        .. code-block:: python

            PeakaCacheEntry(table="shop.public.orders", deps=["landed/orders"])
    """

    table: Annotated[str, AfterValidator(lambda table: str(TableName.parse(table)))] | None = Field(
        default=None, examples=["shop.public.orders"]
    )
    """The cached table."""
    cache_id: Annotated[str, AfterValidator(checked_cache_id)] | None = None
    """The cache's id, where table is not given."""

    @model_validator(mode="after")
    def _names_one_cache(self) -> "PeakaCacheEntry":
        if (self.table is None) == (self.cache_id is None):
            raise ValueError("give either table or cache_id, and not both.")
        return self

    @property
    def props(self) -> PeakaCache:
        """What is known of the cache without asking; the table stands for ids, empty texts for names."""
        name = TableName("", "", "") if self.table is None else TableName.parse(self.table)
        known = self.cache_id or str(name)
        return PeakaCache(
            id=known,
            catalog_id=name.catalog or known,
            catalog_name=name.catalog,
            schema_name=name.schema,
            table_name=name.table,
        )


def _as_entry(value: Any) -> Any:
    if isinstance(value, str):
        return {"table" if "." in value else "cache_id": value}
    return value


Entries = list[
    Annotated[PeakaCacheEntry, BeforeValidator(_as_entry, json_schema_input_type=str | PeakaCacheEntry)]
]
"""Caches that are written out; as a text, one is a table where it has dots, and an id otherwise."""
