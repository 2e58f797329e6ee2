"""How a cache becomes an asset's spec, and how a project says otherwise."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import dagster as dg

from dagster_peaka.api.models import Column
from dagster_peaka.caches.declared import link
from dagster_peaka.caches.names import group_name, kind, parted
from dagster_peaka.caches.project import PeakaCache, PeakaQuery

AssetKeyLike: TypeAlias = dg.AssetKey | str | Sequence[str]
"""What Dagster takes as an asset key."""


class PeakaPages(Protocol):
    """Where a person finds caches and queries: a :class:`PeakaResource` or a :class:`PeakaClient`."""

    def cache_url(self, cache_id: str) -> str | None:
        """The address of a cache's page; None where it is not known."""
        ...

    def query_url(self, query_id: str) -> str | None:
        """The address of a query's page; None where it is not known."""
        ...


class DagsterPeakaTranslator:
    """Translates a cache into the spec of its asset. Override :meth:`get_asset_spec` to change what it says.

    By default the key is ``[catalog, schema, table]``, the group is the catalog, and the kinds are ``peaka`` and the
    catalog's type. Names that Dagster does not take as a group's are changed and get a short hash.

    Args:
        source_asset_key: the key of the asset that stands for the table which a cache copies, or None where there is
            no such asset; the cache's asset then depends on it.
        pages: the resource, where specs are to show ``peaka/url``, too: materializations and failures do by themselves.

    Example:
        .. code-block:: python

            import dagster as dg
            from dagster_peaka import DagsterPeakaTranslator, PeakaCache


            class InLake(DagsterPeakaTranslator):
                def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
                    spec = super().get_asset_spec(props)
                    return spec.replace_attributes(key=spec.key.with_prefix("lake"), group_name="lake")


            translator = InLake(source_asset_key=lambda cache: ["landed", cache.table_name])
    """

    # Of the class, for subclasses that have an __init__ of their own.
    _source_asset_key: Callable[[PeakaCache], AssetKeyLike | None] | None = None
    _pages: PeakaPages | None = None

    def __init__(
        self,
        *,
        source_asset_key: Callable[[PeakaCache], AssetKeyLike | None] | None = None,
        pages: PeakaPages | None = None,
    ) -> None:
        self._source_asset_key = source_asset_key
        self._pages = pages

    def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
        """The spec of the asset that stands for the cache ``props``.

        Its metadata holds ``dagster/table_name``, ``dagster/column_schema`` with Peaka's (Trino's) types where the
        columns are known, and the cache's schedules in Peaka as ISO-8601 durations. The factories add what the step
        needs to find the cache. ``peaka/mode``, ``peaka/row_count`` and ``peaka/wait`` in the metadata of a spec win
        over their arguments of the same name.
        """
        source = self._source_asset_key(props) if self._source_asset_key else None
        schedules = {
            "peaka/incremental_schedule": props.incremental_schedule,
            "peaka/full_refresh_schedule": props.full_refresh_schedule,
        }
        columns = {"dagster/column_schema": column_schema(props.columns)} if props.columns is not None else {}
        return dg.AssetSpec(
            key=list(props.table),
            deps=None if source is None else [parted("source_asset_key", source)],
            description=f"Peaka's copy of {props.name}.",
            metadata={
                **link(self._pages.cache_url(props.id) if self._pages else None),
                "dagster/table_name": props.name,
                **columns,
                **{name: duration for name, duration in schedules.items() if duration is not None},
            },
            group_name=group_name(props.catalog_name),
            kinds={"peaka", kind(props.catalog_type or "")} - {""},
        )

    def get_query_spec(self, props: PeakaQuery) -> dg.AssetSpec:
        """The spec of the asset that stands for the materialized query ``props``, without dependencies.

        By default the key is what the query's snapshot is called in SQL: ``["peaka", "mtquery", name]``. The metadata
        holds ``dagster/table_name``, the SQL, and the query's schedule in Peaka.
        """
        schedule = {} if props.schedule is None else {"peaka/schedule": props.schedule}
        return dg.AssetSpec(
            key=list(props.table),
            description=f"Peaka's snapshot of the query {props.name}.",
            metadata={
                **link(self._pages.query_url(props.id) if self._pages else None),
                "dagster/table_name": str(props.table),
                "peaka/sql": dg.MetadataValue.md(f"```sql\n{props.sql}\n```"),
                **schedule,
            },
            group_name="peaka_queries",
            kinds={"peaka", "sql"},
        )


def column_schema(columns: Sequence[Column]) -> dg.TableSchema:
    """The columns as Dagster shows them: Trino's types, Peaka's descriptions, and what is unique or never null."""
    return dg.TableSchema(
        [
            dg.TableColumn(
                column.name,
                type=column.data_type or "unknown",
                description=column.description,
                constraints=dg.TableColumnConstraints(
                    nullable=not column.is_not_null, unique=bool(column.is_unique)
                ),
            )
            for column in columns
        ]
    )
