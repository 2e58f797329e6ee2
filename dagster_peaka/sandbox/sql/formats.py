"""Dates as texts, formats of MySQL and Java, JSON: more Python functions that the generated SQL calls."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sized
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import lru_cache
from typing import Any, cast
from zoneinfo import ZoneInfo

from dagster_peaka.sandbox.sql.kinds import SqlError
from dagster_peaka.sandbox.sql.udfs import java_double, udf

_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?)?"
    r"(?: ?(Z|[+-]\d\d:\d\d|[A-Za-z_]+(?:/[A-Za-z_]+)*))?",
    re.ASCII,
)


@lru_cache(maxsize=4096)
def read_timestamp(text: str) -> tuple[datetime, int, str] | None:
    """(moment, digits behind the second, zone) of 'YYYY-MM-DD[ HH:MM[:SS[.ffffff]]][ ZONE]', or None."""
    match = _TIMESTAMP.fullmatch(text)
    try:
        if match is None or (match[6] and not match[2]):
            return None
        hour, minute, second = (int(part or 0) for part in match.group(2, 3, 4))
        micros = int((match[5] or "").ljust(6, "0"))
        day = date.fromisoformat(match[1])
        moment = datetime(day.year, day.month, day.day, hour, minute, second, micros)
    except ValueError:
        return None
    return moment, len(match[5] or ""), match[6] or ""


def in_utc(moment: datetime, zone: str) -> datetime:
    """What the clocks of UTC show when those of a zone show `moment`. Raises SqlError for no zone."""
    offset = zone_of(zone).utcoffset(moment)
    return moment - (offset or timedelta())


@lru_cache(maxsize=1024)
def zone_of(zone: str) -> ZoneInfo:
    """A zone by its name. Raises SqlError."""
    try:
        return ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        raise SqlError(
            f"'{zone[:60]}' is not a valid time zone of this sandbox: it knows names as Europe/Berlin"
        ) from None


def timestamp_text(moment: datetime, precision: int) -> str:
    """2013-01-31 05:00:00.000, with `precision` digits behind the point and no point for 0."""
    whole = moment.replace(microsecond=0, tzinfo=None).isoformat(sep=" ")
    return f"{whole}.{moment.microsecond:06d}"[: 20 + precision] if precision else whole


# --- date_format and date_parse, after MySQL

_PYTHONS = {
    **{same: f"%{same}" for same in "YymdHIjpSbaT%"},
    "M": "%B", "W": "%A", "c": "%-m", "e": "%-d", "k": "%-H", "l": "%-I", "h": "%I", "i": "%M", "s": "%S",
    "f": "%f", "v": "%V", "x": "%G", "r": "%I:%M:%S %p",
}  # fmt: skip
"""MySQL's specifiers in the words of Python's."""
_READ = {known: _PYTHONS[known].replace("-", "") for known in "YymcdeHkhIlisSfpbMT%"}


def _translated(function: str, pattern: str, known: Mapping[str, str]) -> str:
    """MySQL's pattern as Python's. Raises SqlError."""

    def specifier(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise SqlError(f"{function}: %{match[1]} is not supported by this sandbox")
        return known[match[1]]

    return re.sub(r"%(.)", specifier, pattern, flags=re.DOTALL)


def _in_millis(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


@udf("TIMESTAMP, VARCHAR -> VARCHAR")
def t_date_format(moment: datetime, pattern: str) -> str:
    """date_format(timestamp, format)."""
    years = {
        "Y": f"{moment.year:04d}",
        "x": f"{moment.isocalendar()[0]:04d}",
    }  # of four digits on any machine
    return _in_millis(moment).strftime(_translated("date_format", pattern, _PYTHONS | years))


@udf("VARCHAR, VARCHAR -> TIMESTAMP")
def t_date_parse(text: str, pattern: str) -> datetime:
    """date_parse(text, format)."""
    read = _translated("date_parse", pattern, _READ)
    year, reads_year = ("", "") if re.search("%[Yy]", read) else ("1970 ", "%Y ")  # Python's own is 1900
    try:
        if not text.isascii() or re.search(r"\s{2}|[^\S ]", text):  # of which Python reads more than Trino
            raise ValueError
        moment = datetime.strptime(year + text, reads_year + read)
    except ValueError:
        raise SqlError(f"Invalid format: {text[:60]!r} is not as {pattern[:60]!r}") from None
    except re.error:
        raise SqlError("date_parse: a part that is there twice is not supported by this sandbox") from None
    if "%y" in read and moment.year == 1969:  # Trino's hundred years begin with 1970
        moment = moment.replace(year=2069)
    return _in_millis(moment)


# --- format, after Java

_SPECIFIER = re.compile(r"%(?:(\d+)\$)?([-+ 0,(#]*)(\d+)?(?:\.(\d+))?([a-zA-Z%])")


@udf("VARCHAR, VARCHAR, VARCHAR[] -> VARCHAR")
def t_format(pattern: str, kinds: str, values: list[str | None]) -> str:
    """Java's String.format, of values as texts: %s %d %f %x %b %n %% with width, precision and flags."""
    known, taken = kinds.split(";"), iter(range(len(values)))

    def shown(match: re.Match[str]) -> str:
        at, flags, width, digits, letter = match.groups()
        if letter in "%n":
            return "%" if letter == "%" else "\n"
        place = int(at) - 1 if at else next(taken, len(values))
        if not 0 <= place < len(values):
            raise SqlError(f"format: {match[0]} has no value")
        if int(width or 0) > 10_000 or int(digits or 0) > 100 or len(pattern) > 10_000:
            raise SqlError("format: the result would be too long for this sandbox")
        text = _formatted(letter, flags, width or "", digits, values[place], known[place])
        if text is None:
            raise SqlError(f"format: {match[0]} does not take a {known[place]} in this sandbox")
        return text

    if "%" in _SPECIFIER.sub("", pattern):
        raise SqlError("format: a % that begins nothing")
    return _SPECIFIER.sub(shown, pattern)


def _formatted(
    letter: str, flags: str, width: str, digits: str | None, value: str | None, known: str
) -> str | None:
    """A value in Python's notation of what Java's asks for; None where the two are not alike."""
    whole = known in ("tinyint", "smallint", "integer", "bigint")
    side, comma = "<" if "-" in flags else ">", "," if "," in flags else ""
    if value is None or letter == "s" or (letter == "b" and known == "boolean"):
        if set(flags) - {"-"} or (digits and letter != "s"):
            return None
        text = "null" if value is None else java_double(float(value)) if known == "double" else value
        return format(text, side + width + (f".{digits}" if digits else ""))
    if set(flags) - set("-+0,") or (("0" in flags) and (comma or side == "<")):
        return None
    spec = (
        ("<" if side == "<" else "")
        + ("+" if "+" in flags else "")
        + ("0" if "0" in flags else "")
        + width
        + comma
    )
    if letter == "d" and whole and digits is None:
        return format(int(value), spec + "d")
    if letter in "xX" and whole and digits is None and int(value) >= 0 and not set(flags) - set("-0"):
        return format(int(value), spec + letter)
    if letter == "f" and (known == "double" or known.startswith("decimal")):
        number = Decimal(value).quantize(
            Decimal(1).scaleb(-int(digits or 6)), ROUND_HALF_UP, Context(prec=400)
        )
        return format(number, spec + "f")
    return None


# --- JSON

_STEP = re.compile(r"""\.([A-Za-z_]\w*)|\[(\d+)\]|\["([^"]*)"\]|\['([^']*)'\]""", re.ASCII)


@lru_cache(maxsize=256)
def _path(path: str) -> tuple[str | int, ...]:
    steps: list[str | int] = []
    at = 1
    while path.startswith("$") and at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            break
        at = match.end()
        steps.append(int(match[2]) if match[2] else next(g for g in match.group(1, 3, 4) if g is not None))
    if not path.startswith("$") or at != len(path):
        raise SqlError(
            f'JSON path {path[:60]!r} is not supported by this sandbox: it follows $.name, [0] and ["name"]'
        )
    return tuple(steps)


def _read_float(text: str) -> float:
    number = float(text)
    if not java_double(number) == repr(number) == text:
        raise SqlError(f"The JSON number {text[:40]} has a form that this sandbox would have to change")
    return number


def load_json(text: str) -> Any:
    """JSON's value; ValueError where it is none."""
    return json.loads(text, parse_float=_read_float, parse_constant=_no_constant)


def _no_constant(name: str) -> None:
    raise ValueError(name)


def dump_json(value: Any, in_order: bool = False) -> str:
    """A value as JSON without spaces, names in their order where that is wanted."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=in_order)


_NOTHING = object()


def _found(text: str, path: str) -> Any:
    """What is at a path, `_NOTHING` where there is nothing or the text is no JSON."""
    try:
        value = load_json(text)
        for step in _path(path):
            if isinstance(value, list) != isinstance(step, int) or not isinstance(value, (dict, list)):
                return _NOTHING
            value = cast("dict[Any, Any]", value)[step]
    except (LookupError, ValueError):
        return _NOTHING
    return value


@udf("VARCHAR, VARCHAR -> VARCHAR")
def t_json_extract(text: str, path: str) -> str | None:
    """The JSON at a path, NULL where there is none or the text is no JSON."""
    value = _found(text, path)
    return None if value is _NOTHING else dump_json(value)


@udf("VARCHAR, VARCHAR -> VARCHAR")
def t_json_extract_scalar(text: str, path: str) -> str | None:
    """The text, number or truth at a path, as a text."""
    value = _found(text, path)
    if value is _NOTHING or value is None or isinstance(value, (dict, list)):
        return None
    return value if isinstance(value, str) else dump_json(value)


@udf("VARCHAR, VARCHAR -> BIGINT")
def t_json_size(text: str, path: str) -> int | None:
    """Members of the object or array at a path, 0 for a scalar."""
    value = _found(text, path)
    if value is _NOTHING:
        return None
    return len(cast("Sized", value)) if isinstance(value, (dict, list)) else 0


@udf("VARCHAR -> VARCHAR")
def t_json_parse(text: str) -> str:
    """A text as JSON: no spaces, names sorted."""
    try:
        return dump_json(load_json(text), in_order=True)
    except ValueError:
        raise SqlError(f"Cannot convert {text[:60]!r} to JSON") from None


@udf("VARCHAR, VARCHAR -> VARCHAR")
def t_json_scalar(text: str, kind: str) -> str | None:
    """A JSON scalar as the text that is cast on to `kind`; null is NULL."""
    value = load_json(text)
    if value is None:
        return None
    fits = {"varchar": (str,), "boolean": (bool,), "double": (int, float)}.get(kind, (int,))
    if not isinstance(value, fits) or (isinstance(value, bool) and kind != "boolean"):
        raise SqlError(f"Cannot cast the JSON {text[:60]} to {kind} in this sandbox")
    return value if isinstance(value, str) else json.dumps(value)


@udf("VARCHAR -> VARCHAR[]")
def t_json_elements(text: str) -> list[str] | None:
    """The elements of a JSON array, each as JSON."""
    value = load_json(text)
    if value is None:
        return None
    if not isinstance(value, list):
        raise SqlError(f"Cannot cast the JSON {text[:60]} to an array")
    return [dump_json(inner) for inner in cast("list[Any]", value)]
