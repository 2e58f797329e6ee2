"""The kinds of fields in what Peaka's API answers: read as tolerantly as its document leaves room for."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Annotated, Any, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.alias_generators import to_camel

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


_TIMESTAMP = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[Tt ](?P<time>\d\d:\d\d:\d\d)(?:[.,](?P<fraction>\d+))?\s*"
    r"(?:[Zz]|(?P<sign>[+-])(?P<hours>\d\d)(?::?(?P<minutes>\d\d))?)?",
    re.ASCII,
)


def _instant(value: Any) -> datetime | None:
    """A timestamp of the API as an aware datetime in UTC; one without a zone is taken for UTC."""
    if isinstance(value, datetime):
        return value
    match = _TIMESTAMP.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    microseconds = (match["fraction"] or "")[:6].ljust(6, "0")
    offset = f"{match['sign'] or '+'}{match['hours'] or '00'}:{match['minutes'] or '00'}"
    try:
        moment = datetime.fromisoformat(f"{match['date']}T{match['time']}.{microseconds}{offset}")
        return moment.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


def _whole_number(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value):
        return int(value)
    return None


def _lenient_flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def as_label(value: Any) -> str:
    """A string; empty where there is none."""
    return _optional_text(value) or ""


def as_status(value: Any) -> str:
    """A status in capitals, in the one spelling of ``CANCELLED``."""
    status = as_label(value).strip().upper()
    return CANCELLED if status == "CANCELED" else status  # caches say the one, materialized queries the other


def as_object(value: Any) -> dict[str, Any] | None:
    """A JSON object, None where it is something else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def as_array(value: Any) -> list[Any] | None:
    """A JSON array, None where it is something else."""
    return cast("list[Any]", value) if isinstance(value, list) else None


def _or_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


Id = Annotated[str, BeforeValidator(_id_text), Field(min_length=1)]
Text = Annotated[str | None, BeforeValidator(_optional_text)]
Label = Annotated[str, BeforeValidator(as_label)]
Status = Annotated[str, BeforeValidator(as_status)]
Instant = Annotated[datetime | None, BeforeValidator(_instant)]
Count = Annotated[int | None, BeforeValidator(_whole_number)]
Flag = Annotated[bool | None, BeforeValidator(_lenient_flag)]
OrNone = WrapValidator(_or_none)
"""Marks an inner object that is None when it cannot be read, such as an execution that has no id yet."""


class PeakaModel(BaseModel):
    """An object of the API: frozen, unknown fields ignored, readable by camelCase or by field name."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,
    )
