"""How the component's YAML says what every asset is called, and on which asset it depends."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import dagster as dg
from pydantic import BaseModel

from dagster_peaka.caches.project import PeakaCache, PeakaQuery
from dagster_peaka.component.attributes import PeakaAssetAttributes
from dagster_peaka.component.reading import asset_key, problem_at, rendered, validated
from dagster_peaka.translator import AssetKeyLike, DagsterPeakaTranslator

Translation: TypeAlias = Callable[[dg.AssetSpec, PeakaCache], dg.AssetSpec]
"""Changes the spec of a cache's asset."""

SourceAssetKey: TypeAlias = Callable[[PeakaCache], AssetKeyLike | None]
"""The key of the asset that stands for the table which a cache copies, or None where there is no such asset."""


def read_translation(context: dg.ResolutionContext, model: BaseModel | str) -> Translation:
    """The translation that the YAML describes: by attributes, or by one template for all of them."""
    if isinstance(model, BaseModel):
        attributes: PeakaAssetAttributes = PeakaAssetAttributes.resolve_from_model(context, model)
        return attributes.on

    def translated(spec: dg.AssetSpec, props: PeakaCache) -> dg.AssetSpec:
        scope = cast("Any", context).with_scope(spec=spec, props=props)
        result: object = rendered(scope, model)
        if isinstance(result, dg.AssetSpec):
            return result
        if isinstance(result, BaseModel):
            result = result.model_dump(exclude_unset=True)
        if isinstance(result, Mapping):
            said = cast("Mapping[str, Any]", result)
            return validated(PeakaAssetAttributes, scope, said).on(spec, props)
        raise problem_at(
            scope, (), f"came to {result!r:.100}, and it must come to an AssetSpec or to attributes."
        )

    return translated


def read_source_asset_key(context: dg.ResolutionContext, template: str) -> SourceAssetKey:
    """The function that the YAML's template describes."""

    def key_of(props: PeakaCache) -> dg.AssetKey | None:
        scope = cast("Any", context).with_scope(props=props)
        value = rendered(scope, template)
        try:
            return None if value in (None, "") else asset_key(value)
        except ValueError as error:
            problem = str(error)
        raise problem_at(scope, (), problem)

    return key_of


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
