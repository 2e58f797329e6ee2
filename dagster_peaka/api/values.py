"""A query's values as Python has them, by the names of Trino's types.

Peaka was seen to send every value as a string, whatever the column's type: ``"25001"``, a sum of doubles
``"1.254740786E7"``. Its document says nothing of values. So a value is read by its type, in either form; what is not
known, or does not read as its type says, stays as it came.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal, InvalidOperation
from zoneinfo import ZoneInfo

_MOMENT = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[T ](?P<time>\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d+))?\s*(?P<zone>\S+)?",
    re.ASCII,
)
_OFFSET = re.compile(r"(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>\d\d)", re.ASCII)


def python_value(value: object, data_type: str) -> object:
    """``value`` as the Python type that belongs to Trino's ``data_type``.

    bool, int, float, Decimal, date, datetime (with a zone where the type has one) and str; None for null. Fractions
    of a second beyond microseconds have no place in a datetime: such a value stays a string.
    """
    read = _READERS.get(re.split(r"[(\s]", data_type.strip().lower(), maxsplit=1)[0])
    if value is None or read is None:
        return float(value) if isinstance(value, Decimal) else value
    try:
        return read(value)
    except (ValueError, TypeError, OverflowError, InvalidOperation, KeyError, OSError):
        return float(value) if isinstance(value, Decimal) else value


def _boolean(value: object) -> object:
    return value if isinstance(value, bool) else {"true": True, "false": False}[str(value).lower()]


def _integer(value: object) -> object:
    return value if isinstance(value, int) and not isinstance(value, bool) else int(str(value))


def _float(value: object) -> object:
    if isinstance(value, bool):
        raise TypeError
    return float(str(value))


def _decimal(value: object) -> object:
    if isinstance(value, bool):
        raise TypeError
    return Decimal(str(value))


def _date(value: object) -> object:
    return date.fromisoformat(str(value))


def _timestamp(value: object) -> object:
    match = _MOMENT.fullmatch(str(value).strip())
    fraction = ((match["fraction"] or "") if match else "").rstrip("0")
    if match is None or len(fraction) > 6:
        raise ValueError
    moment = datetime.fromisoformat(f"{match['date']}T{match['time']}.{fraction.ljust(6, '0')}")
    return moment if match["zone"] is None else moment.replace(tzinfo=_zone(match["zone"]))


def _zone(name: str) -> tzinfo:
    if name in ("Z", "UTC"):
        return timezone.utc
    match = _OFFSET.fullmatch(name)
    if match is None:
        return ZoneInfo(name)
    offset = timedelta(hours=int(match["hours"]), minutes=int(match["minutes"]))
    return timezone(-offset if match["sign"] == "-" else offset)


_READERS: dict[str, Callable[[object], object]] = {
    "boolean": _boolean,
    **dict.fromkeys(("tinyint", "smallint", "integer", "int", "bigint"), _integer),
    **dict.fromkeys(("real", "double"), _float),
    "decimal": _decimal,
    "date": _date,
    "timestamp": _timestamp,
    **dict.fromkeys(("varchar", "char"), str),
}
