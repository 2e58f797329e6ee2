"""What Peaka's API answers, typed, and as tolerant as its document leaves room for.

Field names are the document's in snake_case. Ids arrive as strings or JSON integers and are kept as strings (catalog
ids exceed 2^53, so they never pass through a float). What is absent, null or unreadable is None; unknown fields are
ignored. Only an object without its id (or name, where that is what it is addressed by) is an error, because nothing
can be done with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import Enum
from typing import Annotated, Any, NamedTuple

from pydantic import (
    AliasChoices,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dagster_peaka.api.fields import (
    COMPLETED,
    TERMINAL_STATUSES,
    Count,
    Flag,
    Id,
    Instant,
    Label,
    OrNone,
    PeakaModel,
    Status,
    Text,
    as_array,
    as_label,
    as_object,
    as_status,
)
from dagster_peaka.api.values import python_value
from dagster_peaka.errors import PeakaConfigError, shortened


class SyncMode(str, Enum):
    """The two ways in which Peaka brings a cache up to date.

    Example:
        .. code-block:: python

            execution = client.get_execution_history(cache_id)[0]
            print(execution.mode is SyncMode.INCREMENTAL)
    """

    INCREMENTAL = "incremental"
    FULL_REFRESH = "full_refresh"

    @classmethod
    def parse(cls, text: str) -> SyncMode:
        """The mode that a user's ``incremental`` or ``full_refresh`` means.

        Raises:
            PeakaConfigError: for anything else.
        """
        try:
            return cls(text)
        except ValueError:
            raise PeakaConfigError(f"mode must be 'incremental' or 'full_refresh', not {text!r}.") from None

    @classmethod
    def recognize(cls, text: object) -> SyncMode | None:
        """The mode that Peaka's spelling means (``FULL_REFRESH``, ``full-refresh``, ``Incremental`` …), or None."""
        letters = re.sub(r"[^a-z]", "", text.lower()) if isinstance(text, str) else ""
        return {"incremental": cls.INCREMENTAL, "fullrefresh": cls.FULL_REFRESH}.get(letters)

    @property
    def other(self) -> SyncMode:
        """The mode that this one is not."""
        return SyncMode.FULL_REFRESH if self is SyncMode.INCREMENTAL else SyncMode.INCREMENTAL

    @property
    def words(self) -> str:
        """The mode in running text, ``incremental update`` or ``full refresh``."""
        return "incremental update" if self is SyncMode.INCREMENTAL else "full refresh"


CLOCK_TOLERANCE = timedelta(minutes=1)
"""How far two of Peaka's clocks may disagree."""


class ExecutionProgress(PeakaModel):
    """Rows that an execution has handled so far. What Peaka did not report is None, never zero.

    Example:
        .. code-block:: python

            progress = client.get_execution_history(cache_id)[0].progress
            print(progress.inserted, progress.updated, progress.deleted)
    """

    cached: Count = Field(default=None, validation_alias="numberOfCachedRecords")
    inserted: Count = Field(default=None, validation_alias="numberOfInsertedRecords")
    updated: Count = Field(default=None, validation_alias="numberOfUpdatedRecords")
    deleted: Count = Field(default=None, validation_alias="numberOfDeletedRecords")


class CacheExecution(PeakaModel):
    """One run of a cache's sync inside Peaka (``CacheExecutionInfo`` in Peaka's document).

    ``status`` is in upper case. ``mode`` is None where Peaka gives none or one that is not known.
    ``created_at``, ``updated_at`` and ``finished_at`` are by Peaka's clock.

    Example:
        .. code-block:: python

            execution = peaka.sync("shop.public.orders")
            print(execution.id, execution.status, execution.duration_seconds)
    """

    id: Id
    status: Status = ""
    mode: SyncMode | None = Field(default=None, validation_alias=AliasChoices("executionMode", "mode"))
    error: object = None
    progress: ExecutionProgress = Field(default_factory=ExecutionProgress)
    created_at: Instant = None
    updated_at: Instant = None
    finished_at: Instant = None

    @field_validator("mode", mode="before")
    @classmethod
    def _recognize_mode(cls, value: Any) -> SyncMode | None:
        return SyncMode.recognize(value)

    @field_validator("progress", mode="before")
    @classmethod
    def _progress_or_nothing(cls, value: Any) -> Any:
        return value if isinstance(value, ExecutionProgress) else as_object(value) or {}

    @field_validator("finished_at")
    @classmethod
    def _no_end_before_the_beginning(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        """None for an end that is none, such as 1970 or year 1; two of Peaka's clocks may disagree by a minute."""
        created_at: datetime | None = info.data.get("created_at")
        return None if value and created_at and created_at - value > CLOCK_TOLERANCE else value

    @property
    def succeeded(self) -> bool:
        """True for COMPLETED and nothing else."""
        return self.status == COMPLETED

    @property
    def ended(self) -> bool:
        """True when the execution surely runs no more, by a terminal status, or an unknown one with an end."""
        return self.status in TERMINAL_STATUSES or (self.finished_at is not None and self.status != "RUNNING")

    @property
    def duration_seconds(self) -> float | None:
        """Seconds from creation to end, both by Peaka's clock; None while it runs or where either is missing."""
        if self.created_at is None or self.finished_at is None:
            return None
        return max(0.0, (self.finished_at - self.created_at).total_seconds())

    @property
    def reason(self) -> str:
        """Peaka's own words on why the execution failed, at most 4,096 characters; empty where it gave none."""
        return shortened(error_words(self.error))


def error_words(error: object) -> str:
    """The message inside an error of any shape: its ``message``, ``reason``, ``error`` …, or else all of it as JSON."""
    if error is None or error == {} or error == []:
        return ""
    words = [error.strip()] if isinstance(error, str) else list(_messages(error))
    if not words:
        try:
            words = [json.dumps(error, ensure_ascii=False, default=str)]
        except RecursionError:
            return "an error nested too deeply to show"
    *first, last = dict.fromkeys(words)
    said = ": ".join([*(each.rstrip(".") for each in first), last])
    # JSON can hold half of a surrogate pair, which no log and no database takes.
    return said.encode(errors="replace").decode()


def _messages(error: Any, depth: int = 0) -> Iterator[str]:
    fields = as_object(error)
    if fields is None or depth > 3:
        return
    for key in ("message", "errorMessage", "reason", "detail", "error", "cause"):
        value = fields.get(key)
        if isinstance(value, str) and value.strip():
            yield value.strip()
        else:
            yield from _messages(value, depth + 1)


class CacheStatus(PeakaModel):
    """The status of one cache: its newest execution of each mode.

    The document's top-level ``status`` mixes both modes, so nothing is decided by it but ``deleted``.

    Example:
        .. code-block:: python

            status = client.get_cache_status(cache_id)
            print(status.last_incremental, status.last_full_refresh)
    """

    id: Id
    status: Status = ""
    catalog_id: Text = None
    schema_name: Text = None
    table_name: Text = None
    last_incremental: Annotated[CacheExecution | None, OrNone] = Field(
        default=None, validation_alias="lastIncrementalCacheExecution"
    )
    last_full_refresh: Annotated[CacheExecution | None, OrNone] = Field(
        default=None, validation_alias="lastFullRefreshCacheExecution"
    )

    @field_validator("last_incremental", "last_full_refresh", mode="before")
    @classmethod
    def _of_its_mode(cls, value: Any, info: ValidationInfo) -> Any:
        mode = SyncMode.INCREMENTAL if info.field_name == "last_incremental" else SyncMode.FULL_REFRESH
        fields = as_object(value)
        return value if fields is None else {**fields, "executionMode": mode.value}

    @property
    def deleted(self) -> bool:
        """True when Peaka has deleted the cache and still lists it."""
        return self.status == "DELETED"

    def last(self, mode: SyncMode) -> CacheExecution | None:
        """The newest execution of ``mode`` that Peaka shows."""
        return self.last_incremental if mode is SyncMode.INCREMENTAL else self.last_full_refresh


class CacheSchedule(PeakaModel):
    """When Peaka syncs by itself: ``BASIC`` with an ISO-8601 duration (``PT6H``), or ``NONE``.

    Example:
        .. code-block:: python

            schedule = client.get_cache(cache_id).incremental_schedule
            print("never" if schedule is None else schedule.expression)
    """

    type: str = "NONE"
    expression: Text = None

    @field_validator("type", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> str:
        return as_status(value) or "NONE"

    @classmethod
    def every(cls, duration: str | None) -> CacheSchedule:
        """The schedule for an ISO-8601 duration such as ``PT15M``; None means never."""
        return cls(type="NONE") if duration is None else cls(type="BASIC", expression=duration)

    def means(self, other: CacheSchedule | None) -> bool:
        """Whether both have Peaka sync equally often, however that is written: ``P1D`` is ``PT24H``."""
        if other is None or "NONE" in (self.type, other.type):
            return self.type == "NONE" and (other is None or other.type == "NONE")
        mine, its = duration_seconds(self.expression), duration_seconds(other.expression)
        return self.expression == other.expression or (mine is not None and mine == its)

    def as_json(self) -> dict[str, str]:
        """The object that Peaka takes."""
        body = {"type": self.type}
        return body if self.expression is None else {**body, "expression": self.expression}


_DURATION = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?",
    re.ASCII | re.IGNORECASE,
)


def duration_seconds(duration: str | None) -> float | None:
    """The seconds of an ISO-8601 duration without months and years; None for anything else."""
    match = _DURATION.fullmatch(duration or "")
    parts = {name: float(number) for name, number in match.groupdict().items() if number} if match else {}
    return timedelta(**parts).total_seconds() if parts else None


class CacheSettings(PeakaModel):
    """What a cache copies and when (``Cache`` in Peaka's document).

    Example:
        .. code-block:: python

            settings = client.get_cache(cache_id)
            print(settings.schema_name, settings.table_name)
    """

    id: Id
    catalog_id: Text = None
    schema_name: Text = None
    table_name: Text = None
    incremental_schedule: Annotated[CacheSchedule | None, OrNone] = Field(
        default=None, validation_alias="incrementalCacheSchedule"
    )
    full_refresh_schedule: Annotated[CacheSchedule | None, OrNone] = Field(
        default=None, validation_alias="fullRefreshCacheSchedule"
    )
    existed: Flag = Field(default=None, exclude=True)
    """True where :meth:`~dagster_peaka.PeakaClient.create_cache` found a cache of the table, and changed nothing."""


class CacheRequest(PeakaModel):
    """A cache to be created. Schedules are ISO-8601 durations such as ``PT6H``; None means no schedule.

    Example:
        .. code-block:: python

            (shop,) = [catalog for catalog in client.list_catalogs() if catalog.name == "shop"]
            guests = CacheRequest(
                catalog_id=shop.id, schema_name="public", table_name="guests", incremental_schedule="PT6H"
            )
            (creation,) = client.create_caches([guests])
            print(creation.error or creation.cache)
    """

    catalog_id: Id
    schema_name: str
    table_name: str
    incremental_schedule: str | None = None
    full_refresh_schedule: str | None = None

    def as_json(self) -> dict[str, object]:
        """The object that Peaka takes, without what is not set."""
        body: dict[str, object] = {
            "catalogId": self.catalog_id,
            "schemaName": self.schema_name,
            "tableName": self.table_name,
        }
        if self.incremental_schedule is not None:
            body["incrementalCacheSchedule"] = CacheSchedule.every(self.incremental_schedule).as_json()
        if self.full_refresh_schedule is not None:
            body["fullRefreshCacheSchedule"] = CacheSchedule.every(self.full_refresh_schedule).as_json()
        return body


class CacheCreation(PeakaModel):
    """One result of a batch creation: ``cache`` on success, otherwise ``error``.

    Example:
        .. code-block:: python

            unknown = CacheRequest(catalog_id="1", schema_name="public", table_name="nothing")
            (creation,) = client.create_caches([unknown])
            if not creation.success:
                print(creation.error)
    """

    success: bool = False
    error: Text = None
    cache: Annotated[CacheSettings | None, OrNone] = None

    @field_validator("success", mode="before")
    @classmethod
    def _only_true(cls, value: Any) -> bool:
        return value is True


class Catalog(PeakaModel):
    """A data source connected to a project.

    Example:
        .. code-block:: python

            for catalog in client.list_catalogs():
                print(catalog.id, catalog.name, catalog.catalog_type)
    """

    id: Id
    name: Label = ""
    display_name: Text = None
    catalog_type: Text = None
    connection_id: Text = None


class KeyInfo(PeakaModel):
    """Whose key it is. Peaka's document does not name ``GET /info``; its own tools were seen to ask for it.

    Example:
        .. code-block:: python

            info = client.get_key_info()
            print(info.project_id, info.project_name)
    """

    project_id: Text = None
    project_name: Text = None


class Schema(PeakaModel):
    """A schema of a catalog.

    Example:
        .. code-block:: python

            for catalog in client.list_catalogs():
                print([schema.schema_name for schema in client.list_schemas(catalog.id)])
    """

    catalog_id: Text = None
    catalog_name: Text = None
    schema_name: Id


class Table(PeakaModel):
    """A table of a schema.

    ``supported_cache_types`` is None when Peaka could not tell, and empty when the table cannot be cached.

    Example:
        .. code-block:: python

            settings = client.get_cache(cache_id)
            for table in client.list_tables(settings.catalog_id, settings.schema_name):
                print(table.table_name, table.is_cached, table.supported_modes)
    """

    catalog_id: Text = None
    catalog_name: Text = None
    schema_name: Id
    table_name: Id
    supported_cache_types: list[str] | None = None
    is_cacheable: Flag = None
    is_dynamic_table: Flag = None
    is_cached: Flag = None

    @field_validator("supported_cache_types", mode="before")
    @classmethod
    def _texts_or_nothing(cls, value: Any) -> list[str] | None:
        entries = as_array(value)
        return None if entries is None else [entry for entry in entries if isinstance(entry, str)]

    @property
    def supported_modes(self) -> frozenset[SyncMode] | None:
        """The modes in which the table can be cached; None when Peaka did not say."""
        if self.supported_cache_types is None:
            return None
        modes = (SyncMode.recognize(entry) for entry in self.supported_cache_types)
        return frozenset(mode for mode in modes if mode is not None)


class Column(PeakaModel):
    """A column of a table; ``data_type`` is Trino's name of the type.

    Example:
        .. code-block:: python

            settings = client.get_cache(cache_id)
            for column in client.list_columns(settings.catalog_id, settings.schema_name, "orders"):
                print(column.name, column.data_type)
    """

    name: Id
    data_type: Label = ""
    display_name: Text = None
    default_value: Text = None
    is_not_null: Flag = None
    is_unique: Flag = None
    description: Text = Field(default=None, validation_alias=AliasChoices("desc", "description"))


class QueryColumn(NamedTuple):
    """A column of a query's answer; ``data_type`` is Trino's name of the type, empty where no row tells it.

    Example:
        .. code-block:: python

            result = client.execute_query('SELECT item, price FROM "shop"."public"."orders"')
            print([f"{column.name} {column.data_type}" for column in result.columns])
    """

    name: str
    data_type: str = ""


class QueryResult(PeakaModel):
    """A query's answer: its columns in order, and one mapping of column name to value per row.

    Values are int, float, Decimal, bool, date, datetime (with a zone where the type has one), str and None, by the
    types of their columns; arrays, maps, times and whatever is not known stay as Peaka sent them.

    Example:
        .. code-block:: python

            result = client.execute_query('SELECT item, price FROM "shop"."public"."orders"')
            for row in result.rows:
                print(row["item"], row["price"])
    """

    columns: list[QueryColumn] = Field(default_factory=list[QueryColumn])
    rows: list[dict[str, object]] = Field(validation_alias="data")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, answer: Any) -> Any:
        fields = as_object(answer)
        data = as_array(fields.get("data")) if fields is not None else None
        if fields is None or data is None:
            return answer
        names = [
            as_label(entry.get("columnName") if (entry := as_object(each)) else each)
            for each in as_array(fields.get("columns")) or []
        ]
        rows = [_row(each) for each in data]
        types = {cell.name: cell.data_type for cells, _ in rows for cell in cells} if rows else {}
        names = names or list(types)
        columns = [QueryColumn(name, types.get(name, "")) for name in names]
        return {"columns": columns, "data": [values for _, values in rows]}


def _row(entry: Any) -> tuple[list[QueryColumn], Any]:
    """The typed columns and the values of a row: an array of cells, or an object without types."""
    cells = as_array(entry)
    if cells is not None and not all(isinstance(cell, dict) for cell in cells):
        return [], entry  # no row of any form that was asked for
    if cells is None:
        values = as_object(entry)
        if values is None:
            return [], entry
        return [], {name: python_value(value, "") for name, value in values.items()}
    typed = [cell for each in cells if (cell := as_object(each)) is not None]
    columns = [QueryColumn(as_label(cell.get("name")), as_label(cell.get("dataType"))) for cell in typed]
    values = (
        python_value(cell.get("value"), column.data_type) for cell, column in zip(typed, columns, strict=True)
    )
    return columns, {column.name: value for column, value in zip(columns, values, strict=True)}
