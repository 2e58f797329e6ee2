"""What Peaka's API answers, typed, and as tolerant as its document leaves room for.

Field names are the document's in snake_case. Ids arrive as strings or JSON integers and are kept as strings (catalog
ids exceed 2^53, so they never pass through a float). What is absent, null or unreadable is None; unknown fields are
ignored. Only a missing id is an error, because nothing can be done with such an object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.alias_generators import to_camel

from dagster_peaka.errors import PeakaConfigError, shortened


class SyncMode(str, Enum):
    """The two ways in which Peaka brings a cache up to date."""

    INCREMENTAL = "incremental"
    FULL_REFRESH = "full_refresh"

    @classmethod
    def parse(cls, text: str) -> SyncMode:
        """The mode that a user's ``incremental`` or ``full_refresh`` means.

        Raises:
            PeakaConfigError: for anything else.
        """
        mode = cls.recognize(text)
        if mode is None:
            raise PeakaConfigError(f"mode must be 'incremental' or 'full_refresh', not {text!r}.")
        return mode

    @classmethod
    def recognize(cls, text: object) -> SyncMode | None:
        """The mode that Peaka's spelling means (``FULL_REFRESH``, ``full-refresh``, ``Incremental`` …), or None."""
        letters = re.sub(r"[^a-z]", "", text.lower()) if isinstance(text, str) else ""
        return {"incremental": cls.INCREMENTAL, "fullrefresh": cls.FULL_REFRESH}.get(letters)

    @property
    def other(self) -> SyncMode:
        return SyncMode.FULL_REFRESH if self is SyncMode.INCREMENTAL else SyncMode.INCREMENTAL

    @property
    def words(self) -> str:
        """The mode in running text: ``incremental update`` or ``full refresh``."""
        return "incremental update" if self is SyncMode.INCREMENTAL else "full refresh"


COMPLETED = "COMPLETED"
FAILED = "FAILED"
CANCELLED = "CANCELLED"
TERMINAL_STATUSES = frozenset({COMPLETED, FAILED, CANCELLED})
"""The only statuses known to be final. Every other one, known or new, means: not finished, as far as can be told."""


def _id_text(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def _optional_text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value)


def _instant(value: Any) -> datetime | None:
    """A timestamp of the API as an aware datetime; one without a zone is taken for UTC."""
    if not isinstance(value, str):
        return value if isinstance(value, datetime) else None
    text = value.strip()
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        return None
    try:
        instant = datetime.strptime(match["seconds"].replace(" ", "T"), "%Y-%m-%dT%H:%M:%S")
        instant += timedelta(seconds=float("0." + (match["fraction"] or "0")))
        offset = match["offset"] or "Z"
        if offset in "Zz":
            return instant.replace(tzinfo=timezone.utc)
        hours, minutes = int(offset[1:3]), int(offset[-2:]) if len(offset) > 3 else 0
        shift = timedelta(hours=hours, minutes=minutes)
        return instant.replace(tzinfo=timezone(-shift if offset[0] == "-" else shift)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


_TIMESTAMP = re.compile(
    r"(?P<seconds>\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:[.,](?P<fraction>\d+))?\s*(?P<offset>[Zz]|[+-]\d\d(?::?\d\d)?)?"
)


def _whole_number(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value):
        return int(value)
    return None


def _lenient_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _lenient_flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


Id = Annotated[str, BeforeValidator(_id_text), Field(min_length=1)]
Text = Annotated[str | None, BeforeValidator(_optional_text)]
Instant = Annotated[datetime | None, BeforeValidator(_instant)]
Count = Annotated[int | None, BeforeValidator(_whole_number)]
Flag = Annotated[bool | None, BeforeValidator(_lenient_flag)]


class PeakaModel(BaseModel):
    """An object of the API: frozen, unknown fields ignored, readable by camelCase or by field name."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True, hide_input_in_errors=True
    )


class ExecutionProgress(PeakaModel):
    """Rows that an execution has handled so far. What Peaka did not report is None, never zero."""

    cached: Count = Field(None, alias="numberOfCachedRecords")
    inserted: Count = Field(None, alias="numberOfInsertedRecords")
    updated: Count = Field(None, alias="numberOfUpdatedRecords")
    deleted: Count = Field(None, alias="numberOfDeletedRecords")


class CacheExecution(PeakaModel):
    """One run of a cache's sync inside Peaka (``CacheExecutionInfo`` in Peaka's document).

    ``status`` is in upper case. ``mode`` is None where Peaka gives none or one that is not known.
    ``created_at``, ``updated_at`` and ``finished_at`` are by Peaka's clock.
    """

    id: Id
    status: str = ""
    mode: SyncMode | None = Field(None, validation_alias=AliasChoices("executionMode", "mode"))
    error: Any = None
    progress: ExecutionProgress = ExecutionProgress()
    created_at: Instant = None
    updated_at: Instant = None
    finished_at: Instant = None

    @field_validator("mode", mode="before")
    @classmethod
    def _recognize_mode(cls, value: Any) -> SyncMode | None:
        return SyncMode.recognize(value)

    @field_validator("status", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> str:
        return value.strip().upper() if isinstance(value, str) else ""

    @field_validator("progress", mode="before")
    @classmethod
    def _progress_or_nothing(cls, value: Any) -> Any:
        return value if isinstance(value, (dict, ExecutionProgress)) else ExecutionProgress()

    @property
    def succeeded(self) -> bool:
        return self.status == COMPLETED

    @property
    def ended(self) -> bool:
        """True when the execution surely runs no more: a terminal status, or an unknown one with an end."""
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
        return error_words(self.error)


def error_words(error: Any) -> str:
    """The message inside an error of any shape: its ``message``, ``reason``, ``error`` …, or else all of it as JSON."""
    if error is None or error == {} or error == []:
        return ""
    if isinstance(error, str):
        return shortened(error.strip())
    words = list(_messages(error))
    if words:
        return shortened(": ".join(dict.fromkeys(words)))
    return shortened(json.dumps(error, ensure_ascii=False, default=str))


def _messages(error: Any, depth: int = 0) -> Iterator[str]:
    if not isinstance(error, dict) or depth > 3:
        return
    for key in ("message", "errorMessage", "reason", "detail", "error", "cause"):
        value = error.get(key)
        if isinstance(value, str) and value.strip():
            yield value.strip()
        else:
            yield from _messages(value, depth + 1)


class CacheStatus(PeakaModel):
    """The status of one cache: its newest execution of each mode.

    The document's top-level ``status`` mixes both modes, so nothing is decided by it but ``deleted``.
    """

    id: Id
    status: str = ""
    catalog_id: Text = None
    schema_name: Text = None
    table_name: Text = None
    last_incremental: CacheExecution | None = Field(None, alias="lastIncrementalCacheExecution")
    last_full_refresh: CacheExecution | None = Field(None, alias="lastFullRefreshCacheExecution")

    @field_validator("status", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> str:
        return value.strip().upper() if isinstance(value, str) else ""

    @field_validator("last_incremental", "last_full_refresh", mode="before")
    @classmethod
    def _execution_or_nothing(cls, value: Any, info: ValidationInfo) -> Any:
        # An execution that has no id yet cannot be named, so it is not there yet.
        if isinstance(value, dict):
            identity = value.get("id")
            if isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
                return None
            mode = SyncMode.INCREMENTAL if info.field_name == "last_incremental" else SyncMode.FULL_REFRESH
            return {**value, "executionMode": mode.value}
        return value if isinstance(value, CacheExecution) else None

    @property
    def deleted(self) -> bool:
        return self.status == "DELETED"

    def last(self, mode: SyncMode) -> CacheExecution | None:
        """The newest execution of ``mode`` that Peaka shows."""
        return self.last_incremental if mode is SyncMode.INCREMENTAL else self.last_full_refresh


class CacheSchedule(PeakaModel):
    """When Peaka syncs by itself: ``BASIC`` with an ISO-8601 duration (``PT6H``), or ``NONE``."""

    type: str = "NONE"
    expression: str | None = None

    @field_validator("type", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> str:
        return value.strip().upper() if isinstance(value, str) else "NONE"

    @classmethod
    def every(cls, duration: str | None) -> CacheSchedule:
        """The schedule for an ISO-8601 duration such as ``PT15M``; None means never."""
        return cls(type="NONE") if duration is None else cls(type="BASIC", expression=duration)

    def as_json(self) -> dict[str, str]:
        body = {"type": self.type}
        return body if self.expression is None else {**body, "expression": self.expression}


def _schedule_or_nothing(value: Any) -> Any:
    return value if isinstance(value, (dict, CacheSchedule)) else None


OptionalSchedule = Annotated[CacheSchedule | None, BeforeValidator(_schedule_or_nothing)]


class CacheSettings(PeakaModel):
    """What a cache copies and when (``Cache`` in Peaka's document)."""

    id: Id
    catalog_id: Text = None
    schema_name: Text = None
    table_name: Text = None
    incremental_schedule: OptionalSchedule = Field(None, alias="incrementalCacheSchedule")
    full_refresh_schedule: OptionalSchedule = Field(None, alias="fullRefreshCacheSchedule")


class CacheRequest(PeakaModel):
    """A cache to be created. Schedules are ISO-8601 durations such as ``PT6H``; None means no schedule."""

    catalog_id: Id
    schema_name: str
    table_name: str
    incremental_schedule: str | None = None
    full_refresh_schedule: str | None = None

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {
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
    """One result of a batch creation: ``cache`` on success, otherwise ``error``."""

    success: bool = False
    error: Text = None
    cache: CacheSettings | None = None


class Catalog(PeakaModel):
    """A data source connected to a project."""

    id: Id
    name: str = ""
    display_name: Text = None
    catalog_type: Text = None
    connection_id: Text = None


class Schema(PeakaModel):
    """A schema of a catalog."""

    catalog_id: Text = None
    catalog_name: Text = None
    schema_name: str


class Table(PeakaModel):
    """A table of a schema. ``supported_cache_types`` is None when Peaka could not tell, empty when it cannot be cached."""

    catalog_id: Text = None
    catalog_name: Text = None
    schema_name: str
    table_name: str
    supported_cache_types: list[str] | None = None
    is_cacheable: Flag = None
    is_dynamic_table: Flag = None
    is_cached: Flag = None

    @field_validator("supported_cache_types", mode="before")
    @classmethod
    def _texts_or_nothing(cls, value: Any) -> list[str] | None:
        if not isinstance(value, list):
            return None
        return [entry for entry in value if isinstance(entry, str)]

    @property
    def supported_modes(self) -> frozenset[SyncMode] | None:
        """The modes in which the table can be cached; None when Peaka did not say."""
        if self.supported_cache_types is None:
            return None
        modes = (SyncMode.recognize(entry) for entry in self.supported_cache_types)
        return frozenset(mode for mode in modes if mode is not None)


class Column(PeakaModel):
    """A column of a table; ``data_type`` is Trino's name of the type."""

    name: str
    data_type: str = ""
    display_name: Text = None
    default_value: Text = None
    is_not_null: Flag = None
    is_unique: Flag = None
    description: Text = Field(None, validation_alias=AliasChoices("desc", "description"))

    @field_validator("data_type", mode="before")
    @classmethod
    def _type_text(cls, value: Any) -> str:
        return value if isinstance(value, str) else ""


class QueryResult(PeakaModel):
    """A query's answer: the columns' names in order, and one mapping of column name to JSON value per row."""

    columns: Annotated[list[str], BeforeValidator(_lenient_list)] = []
    rows: list[dict[str, Any]] = Field([], alias="data")

    @field_validator("columns", mode="before")
    @classmethod
    def _names(cls, value: Any) -> list[str]:
        entries = _lenient_list(value)
        return [str(entry.get("columnName")) if isinstance(entry, dict) else str(entry) for entry in entries]
