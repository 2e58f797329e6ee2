"""Dates as texts, formats of MySQL and Java, JSON: more Python functions that the generated SQL calls."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sized
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import lru_cache
from typing import Any, cast
from zoneinfo import ZoneInfo

from dagster_peaka.sandbox.sql.kinds import SqlError
from dagster_peaka.sandbox.sql.udfs import java_double, udf

_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?)?"
    r"(?: ?(Z|[+-]\d\d:\d\d|[A-Za-z_]+(?:/[A-Za-z_]+)*))?",
    re.ASCII,
)
_DATELIKE = re.compile(r"\s*[+-]?\d+-\d+-\d+.*", re.DOTALL)


def _unreadable(text: str, kind: str, form: str, lenient: bool) -> None:
    """TRY_CAST gives NULL only for what Trino surely refuses too: other spellings of dates are errors."""
    if not lenient or _DATELIKE.fullmatch(text):
        raise SqlError(f"Cannot cast {text[:60]!r} to {kind} (this sandbox reads {form})")


@udf("VARCHAR, BOOLEAN -> DATE")
def t_text_to_date(text: str, lenient: bool) -> date | None:
    """YYYY-MM-DD."""
    try:
        if match := _DATE.fullmatch(text):
            return date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        pass
    return _unreadable(text, "date", "real dates as YYYY-MM-DD", lenient)


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


@udf("VARCHAR, BIGINT, BOOLEAN -> TIMESTAMP")
def t_text_to_timestamp(text: str, precision: int, lenient: bool) -> datetime | None:
    """YYYY-MM-DD HH:MM:SS, rounded to the precision."""
    read = read_timestamp(text)
    if read is None or read[2] or "T" in text:
        _unreadable(text, "timestamp", "YYYY-MM-DD HH:MM:SS and up to 6 digits of a second", lenient)
        return None
    return _rounded(read[0], precision)


def _rounded(moment: datetime, precision: int) -> datetime:
    unit = 10 ** (6 - precision)
    micros = (moment.microsecond + unit // 2) // unit * unit
    try:
        return moment.replace(microsecond=0) + timedelta(microseconds=micros)
    except OverflowError:
        raise SqlError("A date became one outside of the years 1 to 9999") from None


def timestamp_text(moment: datetime, precision: int) -> str:
    """2013-01-31 05:00:00.000, with `precision` digits behind the point and no point for 0."""
    whole = moment.replace(microsecond=0, tzinfo=None).isoformat(sep=" ")
    return f"{whole}.{moment.microsecond:06d}"[: 20 + precision] if precision else whole


@udf("TIMESTAMP, BIGINT -> VARCHAR")
def t_timestamp_to_text(moment: datetime | str, precision: int) -> str:
    """A timestamp as CAST writes it."""
    if not isinstance(moment, datetime):  # DuckDB gives a text for what Python cannot hold
        raise SqlError("A date became one outside of the years 1 to 9999")
    return timestamp_text(moment, precision)


# --- date_format and date_parse, after MySQL

_WORD = {"b": "%b", "M": "%B", "a": "%a", "W": "%A", "p": "%p"}
_NUMBER: dict[str, Callable[[datetime], str]] = {
    "Y": lambda m: f"{m.year:04d}",
    "y": lambda m: f"{m.year % 100:02d}",
    "m": lambda m: f"{m.month:02d}",
    "c": lambda m: str(m.month),
    "d": lambda m: f"{m.day:02d}",
    "e": lambda m: str(m.day),
    "H": lambda m: f"{m.hour:02d}",
    "k": lambda m: str(m.hour),
    "h": lambda m: f"{(m.hour + 11) % 12 + 1:02d}",
    "I": lambda m: f"{(m.hour + 11) % 12 + 1:02d}",
    "l": lambda m: str((m.hour + 11) % 12 + 1),
    "i": lambda m: f"{m.minute:02d}",
    "s": lambda m: f"{m.second:02d}",
    "S": lambda m: f"{m.second:02d}",
    "f": lambda m: f"{m.microsecond // 1000:03d}000",
    "j": lambda m: f"{m.timetuple().tm_yday:03d}",
    "v": lambda m: f"{m.isocalendar()[1]:02d}",
    "x": lambda m: f"{m.isocalendar()[0]:04d}",
    "T": lambda m: m.strftime("%H:%M:%S"),
    "r": lambda m: f"{(m.hour + 11) % 12 + 1:02d}:{m:%M:%S} {m:%p}",
    "%": lambda _: "%",
}


def _specifiers(pattern: str) -> Iterator[tuple[bool, str]]:
    at = 0
    while at < len(pattern):
        if pattern[at] == "%" and at + 1 < len(pattern):
            yield True, pattern[at + 1]
            at += 1
        else:
            yield False, pattern[at]
        at += 1


@udf("TIMESTAMP, VARCHAR -> VARCHAR")
def t_date_format(moment: datetime, pattern: str) -> str:
    """date_format(timestamp, format)."""
    parts: list[str] = []
    for is_specifier, character in _specifiers(pattern):
        if not is_specifier:
            parts.append(character)
        elif character in _WORD:
            parts.append(moment.strftime(_WORD[character]))
        elif character in _NUMBER:
            parts.append(_NUMBER[character](moment))
        else:
            raise SqlError(f"date_format: %{character} is not supported")
    return "".join(parts)


_READ = {
    "Y": r"(?P<Y>\d{4})", "y": r"(?P<y>\d\d)", "m": r"(?P<m>\d\d?)", "c": r"(?P<m>\d\d?)", "d": r"(?P<d>\d\d?)",
    "e": r"(?P<d>\d\d?)", "H": r"(?P<H>\d\d?)", "k": r"(?P<H>\d\d?)", "h": r"(?P<h>\d\d?)", "I": r"(?P<h>\d\d?)",
    "l": r"(?P<h>\d\d?)", "i": r"(?P<i>\d\d?)", "s": r"(?P<s>\d\d?)", "S": r"(?P<s>\d\d?)", "f": r"(?P<f>\d{1,6})",
    "p": r"(?P<p>AM|PM|am|pm)", "b": r"(?P<b>[A-Za-z]{3})", "M": r"(?P<b>[A-Za-z]+)", "%": "%",
    "T": r"(?P<H>\d\d?):(?P<i>\d\d?):(?P<s>\d\d?)",
}  # fmt: skip
_MONTHS = [date(2000, month, 1).strftime("%B").lower() for month in range(1, 13)]


@udf("VARCHAR, VARCHAR -> TIMESTAMP")
def t_date_parse(text: str, pattern: str) -> datetime:
    """date_parse(text, format)."""
    try:
        expression = "".join(
            _READ[character] if is_specifier else re.escape(character)
            for is_specifier, character in _specifiers(pattern)
        )
        match = re.fullmatch(expression, text, re.ASCII)
    except KeyError as error:
        raise SqlError(f"date_parse: %{error.args[0]} is not supported by this sandbox") from None
    except re.error:
        raise SqlError("date_parse: a part that is there twice is not supported by this sandbox") from None
    moment = _moment({name: value for name, value in match.groupdict().items() if value} if match else None)
    if moment is None:
        raise SqlError(f"Invalid format: {text[:60]!r} is not as {pattern[:60]!r}")
    return moment


def _moment(found: dict[str, str] | None) -> datetime | None:
    if found is None:
        return None
    year = int(found["Y"]) if "Y" in found else 1970
    if "y" in found:
        year = int(found["y"]) + (2000 if int(found["y"]) < 70 else 1900)
    month = int(found.get("m", 1))
    if "b" in found:
        named = [n for n, name in enumerate(_MONTHS, 1) if found["b"].lower() in (name, name[:3])]
        month = named[0] if named else 0
    hour = int(found.get("H", 0))
    if "h" in found:
        hour = (
            int(found["h"]) % 12 + 12 * (found.get("p", "am").lower() == "pm")
            if 1 <= int(found["h"]) <= 12
            else 99
        )
    try:
        return datetime(
            year, month, int(found.get("d", 1)), hour, int(found.get("i", 0)), int(found.get("s", 0)),
            int(found.get("f", "").ljust(6, "0")) // 1000 * 1000,
        )  # fmt: skip
    except ValueError:
        return None


# --- format, after Java

_SPECIFIER = re.compile(r"%(?:(\d+)\$)?([-+ 0,(#]*)(\d+)?(?:\.(\d+))?([a-zA-Z%])")


@udf("VARCHAR, VARCHAR, VARCHAR[] -> VARCHAR")
def t_format(pattern: str, kinds: str, values: list[str | None]) -> str:
    """Java's String.format, of values as texts: %s %d %f %x %b %n %% with width, precision and flags."""
    known, taken = kinds.split(";"), iter(range(len(values)))

    def shown(match: re.Match[str]) -> str:
        _, flags, width, digits, kind = match.groups()
        if kind in "%n":
            return "%" if kind == "%" else "\n"
        at = int(match[1]) - 1 if match[1] else next(taken, len(values))
        if not 0 <= at < len(values):
            raise SqlError(f"format: {match[0]} has no value")
        text = _shown(kind, flags, digits, values[at], known[at], match[0])
        if width is None or len(text) >= int(width):
            return text
        if "0" in flags:
            sign = text[0] if text[0] in "+-" else ""
            return sign + text[len(sign) :].rjust(int(width) - len(sign), "0")
        return text.ljust(int(width)) if "-" in flags else text.rjust(int(width))

    if len(pattern) > 10_000 or any(
        int(m[3] or 0) > 10_000 or int(m[4] or 0) > 100 for m in _SPECIFIER.finditer(pattern)
    ):
        raise SqlError("format: the result would be too long for this sandbox")
    if "%" in _SPECIFIER.sub("", pattern):
        raise SqlError("format: a % that begins nothing")
    return _SPECIFIER.sub(shown, pattern)


def _shown(kind: str, flags: str, digits: str | None, value: str | None, known: str, whole: str) -> str:
    wrong = SqlError(f"format: {whole} does not take a {known} in this sandbox")
    if set(flags) - set("-+0,") or (set(flags) - set("-") and kind not in "df"):
        raise wrong
    if kind == "s":
        text = "null" if value is None else java_double(float(value)) if known == "double" else value
        return text if digits is None else text[: int(digits)]
    if kind == "b" and known == "boolean" and value is not None:
        return value
    if value is None:
        return "null"
    sign = "+" if "+" in flags else ""
    if kind in ("d", "x", "X") and known in ("tinyint", "smallint", "integer", "bigint") and digits is None:
        if kind == "d":
            return format(int(value), f"{sign}{',' if ',' in flags else ''}d")
        if int(value) < 0:
            raise wrong
        return format(int(value), kind)
    if kind == "f" and (known == "double" or known.startswith("decimal")):
        step = Decimal(1).scaleb(-int(digits or 6))
        number = Decimal(value).quantize(step, ROUND_HALF_UP, Context(prec=400))
        return format(number, f"{sign}{',' if ',' in flags else ''}f")
    raise wrong


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
    if java_double(number) != text:
        raise SqlError(f"The JSON number {text[:40]} has a form that this sandbox would have to change")
    return number


def load_json(text: str) -> Any:
    """JSON's value; ValueError where it is none."""
    return json.loads(text, parse_float=_read_float, parse_constant=_no_constant)


def _no_constant(name: str) -> None:
    raise ValueError(name)


def dump_json(value: Any) -> str:
    """A value as JSON without spaces, doubles as Java writes them."""
    return json.dumps(_javas(value), separators=(",", ":"), ensure_ascii=False)


def _javas(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        return _each(value, _javas)
    if isinstance(value, float) and java_double(value) != repr(value):
        raise SqlError(f"The JSON number {value!r} has a form that this sandbox does not write")
    return value


def _found(text: str, path: str) -> Any:
    value = load_json(text)
    for step in _path(path):
        if isinstance(value, list) != isinstance(step, int) or not isinstance(value, (dict, list)):
            raise LookupError
        value = cast("dict[Any, Any]", value)[
            step
        ]  # a list's index or an object's name; LookupError where it is not
    return value


def _length(value: Any) -> int | None:
    return len(cast("Sized", value)) if isinstance(value, (dict, list)) else None


@udf("VARCHAR, VARCHAR -> VARCHAR")
def t_json_extract(text: str, path: str) -> str | None:
    """The JSON at a path, NULL where there is none or the text is no JSON."""
    try:
        return dump_json(_found(text, path))
    except (LookupError, ValueError):
        return None


@udf("VARCHAR, VARCHAR -> VARCHAR")
def t_json_extract_scalar(text: str, path: str) -> str | None:
    """The text, number or truth at a path, as a text."""
    try:
        value = _found(text, path)
    except (LookupError, ValueError):
        return None
    if value is None or isinstance(value, (dict, list)):
        return None
    return value if isinstance(value, str) else dump_json(value)


@udf("VARCHAR, VARCHAR -> BIGINT")
def t_json_size(text: str, path: str) -> int | None:
    """Members of the object or array at a path, 0 for a scalar."""
    try:
        value = _found(text, path)
    except (LookupError, ValueError):
        return None
    return _length(value) or 0


@udf("VARCHAR -> BIGINT")
def t_json_array_length(text: str) -> int | None:
    """Elements of a JSON array, NULL for anything else."""
    try:
        value = load_json(text)
    except ValueError:
        return None
    return _length(value) if isinstance(value, list) else None


@udf("VARCHAR -> VARCHAR")
def t_json_parse(text: str) -> str:
    """A text as JSON: no spaces, names sorted."""
    try:
        return dump_json(_sorted(load_json(text)))
    except ValueError:
        raise SqlError(f"Cannot convert {text[:60]!r} to JSON") from None


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        value = dict(sorted(cast("dict[str, Any]", value).items()))
    return _each(value, _sorted)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """A JSON value with all that it holds changed."""
    if isinstance(value, dict):
        return {name: change(inner) for name, inner in cast("dict[str, Any]", value).items()}
    return [change(inner) for inner in cast("list[Any]", value)] if isinstance(value, list) else value


@udf("VARCHAR -> VARCHAR")
def t_text_to_json(text: str) -> str:
    """A text as a JSON string."""
    return dump_json(text)


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
