"""A project's caches as plain data: what definitions are built from, with or without Peaka at hand."""

from datetime import datetime, timezone

from pydantic import BaseModel, ConfigDict, Field

from dagster_peaka.models import Column, Id, SyncMode
from dagster_peaka.names import TableName


class PeakaCache(BaseModel):
    """One cache: which table it copies, and what is known of it. What is not known is None.

    ``columns`` carry Trino's types; schedules are ISO-8601 durations such as ``PT6H``, None where Peaka starts no sync
    of that mode by itself or where that is not known.

    Example:
        .. code-block:: python

            cache = PeakaCache(
                id="5f3c", catalog_id="17", catalog_name="shop", schema_name="public", table_name="orders"
            )
            print(cache.name)  # shop.public.orders
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Id
    catalog_id: Id
    catalog_name: str
    schema_name: str
    table_name: str
    catalog_type: str | None = None
    columns: tuple[Column, ...] | None = None
    incremental_schedule: str | None = None
    full_refresh_schedule: str | None = None
    supported_modes: frozenset[SyncMode] | None = None

    @property
    def table(self) -> TableName:
        """The table's full name, as its three parts."""
        return TableName(self.catalog_name, self.schema_name, self.table_name)

    @property
    def name(self) -> str:
        """The table as ``catalog.schema.table``; a part that holds a dot is quoted."""
        return str(self.table)


class PeakaProject(BaseModel):
    """A snapshot of a project's caches, taken at one time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project_id: str
    caches: tuple[PeakaCache, ...]
    taken_at: datetime = Field(default_factory=lambda: datetime.now(timezone.utc))
