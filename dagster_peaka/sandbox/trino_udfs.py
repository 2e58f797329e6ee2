"""What SQLite cannot do as Trino does it: Python functions that the generated SQL calls, all named t_….

Each takes and returns the stored forms of trino_types. NULL in gives NULL out. A SqlError raised here becomes the
query's error.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import ParamSpec, TypeVar, cast

from dagster_peaka.sandbox import trino_dates as dates
from dagster_peaka.sandbox.trino_types import (
    ZONED,
    Cell,
    SqlError,
    decimal_from_double,
    decimal_text,
    fit_decimal,
    round_half_up,
)

_P = ParamSpec("_P")
_R = TypeVar("_R")

Udf = Callable[..., Cell]

LONGEST_TEXT = 1 << 20
"""Characters that a text may grow to inside a query."""

UDFS: dict[str, tuple[int, Udf]] = {}
"""SQLite function name -> (number of arguments, implementation)."""

_WHITESPACE = (
    "".join(  # what Java calls whitespace: no-break spaces are not among it
        map(
            chr,
            (*range(0x09, 0x0E), *range(0x1C, 0x21), 0x1680, *range(0x2000, 0x2007), *range(0x2008, 0x200B)),
        )
    )
    + "\u2028\u2029\u205f\u3000"
)


def udf(arguments: int) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Registers a function under its own name; NULL arguments give NULL without a call."""

    def register(function: Callable[_P, _R]) -> Callable[_P, _R]:
        call = cast("Udf", function)

        def strict(*values: Cell) -> Cell:
            return None if None in values else call(*values)

        UDFS[function.__name__] = (arguments, strict)
        return function

    return register


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise SqlError("A double became Infinity or NaN, which this sandbox does not compute with")
    return number


def _long_enough(text: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise SqlError(f"A text grew beyond {LONGEST_TEXT} characters")
    return text


# --- Reading stored values


def t_bad_value(column: str, kind: str, value: Cell | bytes) -> Cell:
    """Fails: the source holds a value that its column's type does not have."""
    shown = f"a BLOB of {len(value)} bytes" if isinstance(value, bytes) else repr(value)[:100]
    raise SqlError(f"Column {column} is {kind}, but a row of its source holds {shown}")


UDFS["t_bad_value"] = (3, t_bad_value)


_DECIMAL = re.compile(r"[+-]?(\d{1,50}\.?\d{0,50}|\.\d{1,50})(e[+-]\d{1,3})?", re.ASCII)


@udf(4)
def t_read_decimal(value: Cell | bytes, precision: int, scale: int, column: str) -> Cell:
    kind = f"decimal({precision},{scale})"
    text = value if isinstance(value, str) else repr(value)
    if isinstance(value, bytes) or not _DECIMAL.fullmatch(text):
        return t_bad_value(column, kind, value)
    numerator, denominator = Decimal(text).as_integer_ratio()
    unscaled, rest = divmod(numerator * 10**scale, denominator)
    if rest or abs(unscaled) >= 10**precision:
        return t_bad_value(column, kind, value)
    return fit_decimal(unscaled, precision)


@udf(2)
def t_read_date(value: Cell | bytes, column: str) -> Cell:
    days = dates.parse_date(value) if isinstance(value, str) else None
    return t_bad_value(column, "date", value) if days is None else days


@udf(4)
def t_read_timestamp(value: Cell | bytes, precision: int, zoned: int, column: str) -> Cell:
    parsed = dates.parse_timestamp(value) if isinstance(value, str) else None
    if parsed is None:
        return t_bad_value(column, ZONED.name if zoned else f"timestamp({precision})", value)
    return dates.round_timestamp(parsed[0], precision)


# --- Arithmetic


def _fit_integer(number: int, bits: int) -> int:
    if not -(1 << bits) <= number < 1 << bits:
        raise SqlError(f"Integer overflow: {number} does not fit {bits + 1} bits")
    return number


def _divide(a: int, b: int) -> int:
    if b == 0:
        raise SqlError("Division by zero")
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


@udf(3)
def t_integer_add(a: int, b: int, bits: int) -> int:
    return _fit_integer(a + b, bits)


@udf(3)
def t_integer_sub(a: int, b: int, bits: int) -> int:
    return _fit_integer(a - b, bits)


@udf(3)
def t_integer_mul(a: int, b: int, bits: int) -> int:
    return _fit_integer(a * b, bits)


@udf(3)
def t_integer_div(a: int, b: int, bits: int) -> int:
    return _fit_integer(_divide(a, b), bits)


@udf(3)
def t_integer_mod(a: int, b: int, bits: int) -> int:
    return _fit_integer(a - b * _divide(a, b), bits)


@udf(2)
def t_integer_neg(a: int, bits: int) -> int:
    return _fit_integer(-a, bits)


@udf(2)
def t_integer_abs(a: int, bits: int) -> int:
    return _fit_integer(abs(a), bits)


@udf(2)
def t_integer_fit(a: int, bits: int) -> int:
    return _fit_integer(a, bits)


@udf(2)
def t_double_add(a: float, b: float) -> float:
    return _finite(a + b)


@udf(2)
def t_double_sub(a: float, b: float) -> float:
    return _finite(a - b)


@udf(2)
def t_double_mul(a: float, b: float) -> float:
    return _finite(a * b)


@udf(2)
def t_double_div(a: float, b: float) -> float:
    return _finite(a / b if b else math.inf)


@udf(2)
def t_double_mod(a: float, b: float) -> float:
    return _finite(math.fmod(a, b) if b else math.nan)


@udf(3)
def t_decimal_add(a: int, b: int, precision: int) -> int:
    return fit_decimal(a + b, precision)


@udf(3)
def t_decimal_sub(a: int, b: int, precision: int) -> int:
    return fit_decimal(a - b, precision)


@udf(3)
def t_decimal_mul(a: int, b: int, precision: int) -> int:
    return fit_decimal(a * b, precision)


@udf(4)
def t_decimal_div(a: int, b: int, shift: int, precision: int) -> int:
    if b == 0:
        raise SqlError("Division by zero")
    return fit_decimal(round_half_up(a * 10**shift, b), precision)


@udf(3)
def t_decimal_mod(a: int, b: int, precision: int) -> int:
    return fit_decimal(a - b * _divide(a, b), precision)


@udf(3)
def t_decimal_rescale(a: int, shift: int, precision: int) -> int:
    return fit_decimal(a * 10**shift if shift >= 0 else round_half_up(a, 10**-shift), precision)


@udf(3)
def t_decimal_to_double(a: int, precision: int, scale: int) -> float:
    return float(a) / float(10**scale) if precision <= 18 else a / 10**scale


@udf(2)
def t_decimal_floor(a: int, scale: int) -> int:
    return a // 10**scale


@udf(2)
def t_decimal_ceiling(a: int, scale: int) -> int:
    return -(-a // 10**scale)


@udf(3)
def t_decimal_round(a: int, scale: int, digits: int) -> int:
    if digits >= scale:
        return a
    if digits < -40:
        return 0
    unit = 10 ** (scale - digits)
    return fit_decimal(round_half_up(a, unit) * unit, 38)


# --- Mathematical functions


def _java_round(number: float) -> int:
    """Java's Math.round: to the nearest integer, halves up."""
    numerator, denominator = number.as_integer_ratio()
    return (2 * numerator + denominator) // (2 * denominator)


@udf(2)
def t_round(number: float, digits: int) -> float:
    """Trino's round(double, n): the scaled value is rounded, halves away from zero, and scaled back."""
    if not -300 <= digits <= 300:
        raise SqlError("round() takes from -300 to 300 digits in this sandbox")
    factor = 10.0**digits
    scaled = abs(number) * factor
    if scaled >= 1 << 63:
        raise SqlError(f"round({number!r}, {digits}) is beyond what this sandbox rounds exactly")
    return math.copysign(_finite(_java_round(scaled) / factor), number)


@udf(1)
def t_floor(number: float) -> float:
    return math.copysign(float(math.floor(number)), number)


@udf(1)
def t_ceiling(number: float) -> float:
    return math.copysign(float(math.ceil(number)), number)


@udf(1)
def t_sqrt(number: float) -> float:
    return math.sqrt(number) if number >= 0 else _finite(math.nan)


@udf(2)
def t_power(base: float, exponent: float) -> float:
    try:
        return _finite(math.pow(base, exponent))
    except (ValueError, OverflowError):
        return _finite(math.nan)


@udf(1)
def t_sign(number: float) -> float:
    return float((number > 0) - (number < 0))


# --- Text


@udf(2)
def t_concat(a: str, b: str) -> str:
    return _long_enough(a + b)


@udf(1)
def t_length(text: str) -> int:
    return len(text)


def _one_to_one(character: str, changed: str) -> str:
    if character == "ß":  # Trino maps characters one by one, and this one has no single capital
        return character
    if len(changed) != 1:
        raise SqlError(f"The character {character!r} has no one-character change of case in this sandbox")
    return changed


@udf(1)
def t_upper(text: str) -> str:
    return text.upper() if text.isascii() else "".join(_one_to_one(c, c.upper()) for c in text)


@udf(1)
def t_lower(text: str) -> str:
    return text.lower() if text.isascii() else "".join(_one_to_one(c, c.lower()) for c in text)


@udf(1)
def t_trim(text: str) -> str:
    return text.strip(_WHITESPACE)


@udf(1)
def t_ltrim(text: str) -> str:
    return text.lstrip(_WHITESPACE)


@udf(1)
def t_rtrim(text: str) -> str:
    return text.rstrip(_WHITESPACE)


@udf(3)
def t_substr(text: str, start: int, length: int) -> str:
    first = start - 1 if start > 0 else len(text) + start
    return text[first : first + length] if start and first >= 0 and length > 0 else ""


@udf(2)
def t_strpos(text: str, part: str) -> int:
    return text.find(part) + 1


@udf(3)
def t_replace(text: str, part: str, by: str) -> str:
    found = text.count(part)
    if len(text) + found * len(by) > LONGEST_TEXT + found * len(part):
        raise SqlError(f"A text grew beyond {LONGEST_TEXT} characters")
    return text.replace(part, by)


def _padding(name: str, text: str, size: int, pad: str) -> str:
    if not 0 <= size <= LONGEST_TEXT:
        raise SqlError(f"{name}: the target length must be from 0 to {LONGEST_TEXT}")
    if not pad:
        raise SqlError(f"{name}: the padding string must not be empty")
    missing = max(0, size - len(text))
    return (pad * (missing // len(pad) + 1))[:missing]


@udf(3)
def t_lpad(text: str, size: int, pad: str) -> str:
    return _padding("lpad", text, size, pad) + text[:size]


@udf(3)
def t_rpad(text: str, size: int, pad: str) -> str:
    return text[:size] + _padding("rpad", text, size, pad)


@udf(1)
def t_reverse(text: str) -> str:
    return text[::-1]


@udf(3)
def t_split_part(text: str, delimiter: str, index: int) -> str | None:
    if index < 1:
        raise SqlError("split_part: the index must be greater than zero")
    if not delimiter:
        raise SqlError("split_part: an empty delimiter is not supported by this sandbox")
    parts = text.split(delimiter)
    return parts[index - 1] if index <= len(parts) else None


@udf(2)
def t_starts_with(text: str, start: str) -> bool:
    return text.startswith(start)


_ANY = "%"
_ONE = "_"


def _pattern(pattern: str, escape: str) -> list[list[str | None]]:
    """The pieces between the %s; None stands for one arbitrary character."""
    if len(escape) > 1:
        raise SqlError("LIKE: the escape string must be a single character")
    pieces: list[list[str | None]] = [[]]
    characters = iter(pattern)
    for character in characters:
        if escape and character == escape:
            literal = next(characters, "")
            if literal not in (_ANY, _ONE, escape):
                raise SqlError("LIKE: the escape character must be followed by %, _ or itself")
            pieces[-1].append(literal)
        elif character == _ANY:
            pieces.append([])
        else:
            pieces[-1].append(None if character == _ONE else character)
    return pieces


def _fits(text: str, at: int, piece: list[str | None]) -> bool:
    if None not in piece:
        return text.startswith("".join(filter(None, piece)), at)
    return at + len(piece) <= len(text) and all(
        wanted is None or text[at + index] == wanted for index, wanted in enumerate(piece)
    )


def _find(text: str, at: int, end: int, piece: list[str | None]) -> int:
    if None not in piece:
        return text.find("".join(filter(None, piece)), at, end)
    starts = range(at, end - len(piece) + 1)
    return next((start for start in starts if _fits(text, start, piece)), -1)


@udf(3)
def t_like(text: str, pattern: str, escape: str) -> bool:
    """LIKE, in time proportional to text times pattern: between the ends, each piece is taken at its first place."""
    first, *middle = _pattern(pattern, escape)
    if not middle:
        return len(text) == len(first) and _fits(text, 0, first)
    last = middle.pop()
    end = len(text) - len(last)
    at = len(first)
    if at > end or not _fits(text, 0, first) or not _fits(text, end, last):
        return False
    for piece in middle:
        found = _find(text, at, end, piece)
        if found < 0:
            return False
        at = found + len(piece)
    return True


# --- Casts


def _cannot_cast(value: Cell, target: str) -> SqlError:
    return SqlError(f"Cannot cast {str(value)[:60]!r} to {target}")


@udf(3)
def t_text_to_integer(text: str, bits: int, lenient: int) -> int | None:
    match = re.fullmatch(r"[+-]?[0-9]+", text)
    number = int(text) if match and len(text) < 30 else None
    if number is None or not -(1 << bits) <= number < 1 << bits:
        if not text.isascii() and re.search(r"\d", text):
            raise SqlError(f"Casting {text[:60]!r}, digits beyond 0 to 9, is not supported by this sandbox")
        if lenient:
            return None
        raise _cannot_cast(text, f"an integer of {bits + 1} bits")
    return number


_DOUBLE = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_JAVA_DOUBLE = re.compile(  # what Java reads as well: spaces around, NaN, Infinity, hexadecimals, 1.5f
    r"[\x00-\x20]*[+-]?(nan|infinity|0x.*|[0-9.]+(e[+-]?[0-9]+)?[fd]?)[\x00-\x20]*", re.IGNORECASE | re.DOTALL
)


@udf(2)
def t_text_to_double(text: str, lenient: int) -> float | None:
    if _DOUBLE.fullmatch(text):
        return _finite(float(text))
    if lenient and not _JAVA_DOUBLE.fullmatch(text):
        return None
    raise SqlError(
        f"Cannot cast {text[:60]!r} to double (this sandbox reads plain digits, a point and an exponent)"
    )


@udf(4)
def t_text_to_decimal(text: str, precision: int, scale: int, lenient: int) -> int | None:
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)", text):
        if lenient and not re.search(r"[0-9]", text):
            return None
        raise SqlError(f"Cannot cast {text[:60]!r} to decimal (this sandbox reads plain digits and a point)")
    sign = -1 if text.startswith("-") else 1
    whole, _, fraction = text.lstrip("+-").partition(".")
    if len(whole) + len(fraction) > 100:
        raise SqlError("A text of more than 100 digits cannot be cast to decimal by this sandbox")
    unscaled = sign * round_half_up(int(whole + fraction) * 10**scale, 10 ** len(fraction))
    if lenient and abs(unscaled) >= 10**precision:
        return None
    return fit_decimal(unscaled, precision)


@udf(2)
def t_text_to_boolean(text: str, lenient: int) -> bool | None:
    words = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
    if text.lower() in words:
        return words[text.lower()]
    if lenient:
        return None
    raise _cannot_cast(text, "boolean")


_DATELIKE = re.compile(r"\s*[+-]?\d+-\d+-\d+.*", re.DOTALL)


def _unreadable_date(text: str, kind: str, form: str, lenient: int) -> None:
    """TRY_CAST gives NULL only for what Trino surely refuses too: other spellings of dates are errors."""
    if lenient and not _DATELIKE.fullmatch(text):
        return
    raise SqlError(f"Cannot cast {text[:60]!r} to {kind} (this sandbox reads {form})")


@udf(2)
def t_text_to_date(text: str, lenient: int) -> int | None:
    days = dates.parse_date(text)
    if days is None:
        _unreadable_date(text, "date", "real dates as YYYY-MM-DD", lenient)
    return days


@udf(3)
def t_text_to_timestamp(text: str, precision: int, lenient: int) -> int | None:
    micros, has_t, has_zone = dates.parse_timestamp(text) or (None, False, False)
    if micros is None or has_t or has_zone:
        _unreadable_date(text, "timestamp", "YYYY-MM-DD HH:MM:SS and up to 6 digits of a second", lenient)
        return None
    return dates.round_timestamp(micros, precision)


@udf(3)
def t_double_to_integer(number: float, bits: int, lenient: int) -> int | None:
    rounded = round_half_up(*number.as_integer_ratio())
    if not -(1 << bits) <= rounded < 1 << bits:
        if lenient:
            return None
        raise _cannot_cast(number, f"an integer of {bits + 1} bits")
    return rounded


@udf(3)
def t_integer_to_integer(number: int, bits: int, lenient: int) -> int | None:
    if lenient and not -(1 << bits) <= number < 1 << bits:
        return None
    return _fit_integer(number, bits)


@udf(3)
def t_double_to_decimal(number: float, precision: int, scale: int) -> int:
    return decimal_from_double(number, precision, scale)


@udf(1)
def t_integer_to_text(number: int) -> str:
    return str(number)


@udf(2)
def t_decimal_to_text(unscaled: int, scale: int) -> str:
    return decimal_text(unscaled, scale)


@udf(1)
def t_boolean_to_text(flag: int) -> str:
    return "true" if flag else "false"


@udf(1)
def t_date_to_text(days: int) -> str:
    return _dated(dates.date_text, days)


@udf(2)
def t_timestamp_to_text(micros: int, precision: int) -> str:
    return _dated(dates.timestamp_text, micros, precision)


@udf(2)
def t_text_cut(text: str, length: int) -> str:
    return text[:length]


# --- Dates


def _dated(function: Callable[_P, _R], *arguments: _P.args, **keywords: _P.kwargs) -> _R:
    try:
        return function(*arguments, **keywords)
    except (dates.OutOfRange, OverflowError) as error:
        raise SqlError("A date became one outside of the years 1 to 9999") from error


@udf(3)
def t_date_trunc(unit: str, micros: int, step: int) -> int:
    return _dated(dates.truncate, unit, micros * step) // step


@udf(4)
def t_date_add(unit: str, amount: int, micros: int, step: int) -> int:
    return _dated(dates.add, unit, amount, micros * step) // step


@udf(4)
def t_date_diff(unit: str, start: int, end: int, step: int) -> int:
    return dates.difference(unit, start * step, end * step)


@udf(3)
def t_date_field(name: str, micros: int, step: int) -> int:
    return _dated(dates.field, name, micros * step)


@udf(1)
def t_last_day_of_month(days: int) -> int:
    return _dated(dates.add_months, dates.truncate("month", days * dates.DAY) // dates.DAY, 1) - 1


@udf(2)
def t_timestamp_round(micros: int, precision: int) -> int:
    return dates.round_timestamp(micros, precision)


@udf(1)
def t_from_unixtime(seconds: float) -> int:
    micros = _java_round(seconds * 1000) * 1000
    _dated(dates.timestamp_text, micros, 3)
    return micros


@udf(1)
def t_to_unixtime(micros: int) -> float:
    return micros / dates.SECOND


# --- Subqueries


def t_one_row(rows: int, value: Cell) -> Cell:
    """The value of a scalar subquery, which must not have several rows."""
    if rows > 1:
        raise SqlError("Scalar sub-query has returned multiple rows")
    return value


UDFS["t_one_row"] = (2, t_one_row)


def t_encode(kinds: str, *values: Cell | bytes) -> bytes:
    """Values with their types as bytes that no other values have; unlike the others, NULL is a value here."""
    parts: list[bytes] = []
    for kind, value in zip(kinds.split(";"), values, strict=True):
        given = value if isinstance(value, bytes) else ("" if value is None else str(value)).encode()
        parts += (f"{kind} {'NULL' if value is None else len(given)} ".encode(), given)
    return b"".join(parts)


UDFS["t_encode"] = (-1, cast("Udf", t_encode))


@udf(1)
def t_to_hex(value: bytes) -> str:
    return value.hex().upper()


class Checksum:
    """A SQLite aggregate: a sum of hashes, which no order changes and every row does, also one that is there twice."""

    def __init__(self) -> None:
        self._sum: int | None = None

    def step(self, encoded: bytes) -> None:
        """One row, as `t_encode` writes it."""
        number = int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "big")
        self._sum = ((self._sum or 0) + number) % (1 << 64)

    def finalize(self) -> bytes | None:
        """Eight bytes, as Trino's; NULL for no rows."""
        return None if self._sum is None else self._sum.to_bytes(8, "big")


class Variance:
    """A SQLite aggregate: variance or standard deviation, gathered row by row as Trino does (Welford).

    `less` is 1 for a sample and 0 for the whole population; `root` asks for the standard deviation.
    """

    def __init__(self, less: int, root: bool) -> None:
        self._less, self._root = less, root
        self._rows, self._mean, self._squares = 0, 0.0, 0.0

    def step(self, number: float | None) -> None:
        """One row."""
        if number is not None:
            self._rows += 1
            distance = number - self._mean
            self._mean += distance / self._rows
            self._squares += distance * (number - self._mean)

    def finalize(self) -> float | None:
        """The result, NULL for too few rows."""
        divisor = self._rows - self._less
        if divisor <= 0:
            return None
        result = _finite(self._squares / divisor)
        return math.sqrt(result) if self._root else result


AGGREGATES = {
    "t_var_samp": partial(Variance, 1, False),
    "t_var_pop": partial(Variance, 0, False),
    "t_stddev_samp": partial(Variance, 1, True),
    "t_stddev_pop": partial(Variance, 0, True),
    "t_checksum": Checksum,
}
"""SQLite aggregate name -> its maker; each takes one double, but the checksum what `t_encode` gives."""
