"""Trino's types: how they are named, written as SQLite values, brought together and shown.

SQLite keeps every value in one of these forms, so that its own comparisons, sorting and grouping are exact:

    boolean                          0 or 1
    tinyint … bigint                 integer
    decimal(p,s)                     integer, the value times 10^s (so at most 18 or 19 digits, beyond: refused)
    double                           real, always finite (Trino's Infinity and NaN are refused)
    varchar                          text
    varbinary                        blob
    date                             integer, days since 1970-01-01
    timestamp(p), with time zone     integer, microseconds since 1970-01-01 00:00 (the only zone is UTC)
"""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from dagster_peaka.sandbox import trino_dates as dates

LONGEST_SQL = 400_000
"""Characters of SQLite's SQL that one expression may grow to."""

INTEGER_BITS = {"tinyint": 7, "smallint": 15, "integer": 31, "bigint": 63}
_INTEGER_DIGITS = {"tinyint": 3, "smallint": 5, "integer": 10, "bigint": 19}
_ORDER_OF_INTEGERS = tuple(INTEGER_BITS)
_NAMES = {"int": "integer", "double precision": "double", "bool": "boolean"}
_TYPE = re.compile(r"([a-z ]+?)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?(\s+with(?:out)? time zone)?")

Cell = int | float | str | None
"""What SQLite gives for one value of a supported type."""


class SqlError(Exception):
    """A statement that cannot be answered: wrong, or outside of the subset. The message is for its author."""


@dataclass(frozen=True)
class Type:
    """A Trino type; `precision` and `scale` count for decimal, `precision` for timestamps."""

    name: str
    precision: int = 0
    scale: int = 0

    def __str__(self) -> str:
        if self.name == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.name == "timestamp":
            return f"timestamp({self.precision})"
        if self.name == "timestamp with time zone":
            return f"timestamp({self.precision}) with time zone"
        return self.name

    @property
    def is_integer(self) -> bool:
        return self.name in INTEGER_BITS

    @property
    def is_exact(self) -> bool:
        return self.is_integer or self.name == "decimal"

    @property
    def is_number(self) -> bool:
        return self.is_exact or self.name == "double"

    @property
    def is_timestamp(self) -> bool:
        return self.name in ("timestamp", "timestamp with time zone")

    @property
    def as_decimal(self) -> Type:
        """The decimal type that an integer type stands for in arithmetic with decimals."""
        return Type("decimal", _INTEGER_DIGITS[self.name]) if self.is_integer else self


UNKNOWN = Type("unknown")  # the type of a bare NULL
BOOLEAN = Type("boolean")
INTEGER = Type("integer")
BIGINT = Type("bigint")
DOUBLE = Type("double")
VARCHAR = Type("varchar")
DATE = Type("date")
TIMESTAMP = Type("timestamp", 3)
ZONED = Type("timestamp with time zone", 3)

VARBINARY = Type("varbinary")

SUPPORTED_TYPES = (
    *INTEGER_BITS,
    "decimal",
    "double",
    "boolean",
    "varchar",
    "varbinary",
    "date",
    "timestamp",
    ZONED.name,
)


def decimal(precision: int, scale: int) -> Type:
    """A decimal type; digits beyond 38 are cut, as Trino does in arithmetic."""
    if scale > 38:
        raise SqlError(f"DECIMAL scale {scale} is beyond 38")
    return Type("decimal", min(precision, 38), scale)


def parse_type(text: str) -> Type:
    """The Type that `text` names, or SqlError when this sandbox has no such type.

    >>> parse_type("decimal(10, 2)")
    Type(name='decimal', precision=10, scale=2)
    """
    match = _TYPE.fullmatch(" ".join(text.lower().split()))
    name = match[1] if match else ""
    name = _NAMES.get(name, name)
    if match is None or name not in SUPPORTED_TYPES:
        raise SqlError(f"Type {text} is not supported by this sandbox; it has {', '.join(SUPPORTED_TYPES)}")
    first = int(match[2]) if match[2] else None
    if name == "timestamp":
        if (first or 0) > 6:
            raise SqlError(f"Type {text} is not supported by this sandbox: timestamps have at most 6 digits")
        zoned = "with time" in (match[4] or "")
        return Type(ZONED.name if zoned else name, 3 if first is None else first)
    if name == "decimal":
        precision, scale = 38 if first is None else first, int(match[3] or 0)
        if not (1 <= precision <= 38 and scale <= precision):
            raise SqlError(f"Type {text} is invalid: 1 to 38 digits, the scale not above them")
        return Type(name, precision, scale)
    if match[4] or match[3] or (first is not None and name != "varchar"):
        raise SqlError(f"Type {text} is not supported by this sandbox")
    return Type(name)


@dataclass(frozen=True)
class Value:
    """A typed piece of SQLite's SQL; of literals, also what they say: coercions and units are settled with it."""

    sql: str
    type: Type
    constant: Decimal | None = None  # a numeric literal's number
    text: str | None = None  # a string literal's text

    def __post_init__(self) -> None:
        if len(self.sql) > LONGEST_SQL:
            raise SqlError("The statement is too large for this sandbox: an expression grew beyond its limit")


NULL = Value("NULL", UNKNOWN)


def text_literal(text: str) -> str:
    """`text` as a SQLite string literal."""
    return "'" + text.replace("'", "''") + "'"


def number_literal(text: str) -> Value:
    """A numeric literal with the type that Trino gives it: integer, bigint, decimal, or double for 1e0."""
    if not re.fullmatch(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
        raise SqlError(f"Numeric literal {text} is not supported")
    if "e" in text.lower():
        return Value(double_sql(float(text)), DOUBLE, Decimal(text))
    if "." not in text:
        number = int(text) if len(text) < 40 else 1 << 63
        if number >= 1 << 63:
            raise SqlError(f"Invalid numeric literal: {text[:60]}")
        return Value(str(number), INTEGER if number < 1 << 31 else BIGINT, Decimal(number))
    whole, _, fraction = text.partition(".")
    kind = Type("decimal", max(1, len(whole.lstrip("0")) + len(fraction)), len(fraction))
    if kind.precision > 38:
        raise SqlError(f"Invalid numeric literal: {text[:60]}... has more than 38 digits")
    unscaled = int((whole + fraction) or "0")
    if unscaled >= 1 << 63:
        raise SqlError(f"Numeric literal {text} is beyond the 18 digits that this sandbox's decimals hold")
    return Value(str(unscaled), kind, Decimal(text))


def double_sql(number: float) -> str:
    """A finite double as SQLite writes it, to the last bit."""
    if not math.isfinite(number):
        raise SqlError("A double literal is beyond the finite range")
    return repr(number) if number >= 0 else f"({number!r})"


def common_type(types: Iterable[Type], what: str) -> Type:
    """The type that all of `types` coerce to without a cast; SqlError naming `what` when there is none."""
    found = UNKNOWN
    for kind in types:
        both = _common(found, kind)
        if both is None:
            raise SqlError(f"{what}: {found} and {kind} do not go together; add a CAST")
        found = both
    return found


def _common(a: Type, b: Type) -> Type | None:
    if a == b or b == UNKNOWN:
        return a
    if a == UNKNOWN:
        return b
    if a.is_number and b.is_number:
        return _common_number(a, b)
    instants = [kind for kind in (a, b) if kind.is_timestamp]
    if instants and all(kind.is_timestamp or kind == DATE for kind in (a, b)):
        zoned = any(kind.name == ZONED.name for kind in instants)
        return Type(ZONED.name if zoned else "timestamp", max(kind.precision for kind in instants))
    return None


def _common_number(a: Type, b: Type) -> Type:
    if DOUBLE in (a, b):
        return DOUBLE
    if a.is_integer and b.is_integer:
        return max(a, b, key=lambda kind: _ORDER_OF_INTEGERS.index(kind.name))
    a, b = a.as_decimal, b.as_decimal
    scale = max(a.scale, b.scale)
    return decimal(max(a.precision - a.scale, b.precision - b.scale) + scale, scale)


def coerces(source: Type, target: Type) -> bool:
    """Whether Trino turns `source` into `target` by itself."""
    return _common(source, target) == target


def coerce(value: Value, target: Type) -> Value:
    """`value` as `target`, to which it coerces."""
    source = value.type
    if source == target:
        return value
    if source == UNKNOWN:
        return Value(value.sql, target)
    if target == DOUBLE:
        return _to_double(value)
    if target.name == "decimal":
        return _to_decimal(value, target)
    if source == DATE and target.is_timestamp:
        return Value(f"({value.sql} * {dates.DAY})", target)
    return Value(value.sql, target, value.constant)


def _to_double(value: Value) -> Value:
    if value.constant is not None:
        return Value(double_sql(float(value.constant)), DOUBLE, value.constant)
    if value.type.is_integer:
        return Value(f"CAST({value.sql} AS REAL)", DOUBLE)
    return Value(f"t_decimal_to_double({value.sql}, {value.type.precision}, {value.type.scale})", DOUBLE)


def _to_decimal(value: Value, target: Type) -> Value:
    shift = target.scale - value.type.scale
    if shift == 0:
        return Value(value.sql, target, value.constant)
    if value.constant is not None and abs(scaled := int(value.constant.scaleb(target.scale))) < 1 << 63:
        return Value(str(scaled), target, value.constant)
    return Value(f"t_decimal_rescale({value.sql}, {shift}, {target.precision})", target)


def read_column(sql: str, kind: Type, column: str) -> str:
    """SQL that reads a stored column as the type that it was declared with, and fails on a value that is not.

    SQLite lets any value into any column; a text in a bigint column must not count as 0.
    """
    name = text_literal(column)
    bad = f"t_bad_value({name}, '{kind}', {sql})"
    if kind.is_integer:
        limit = 1 << INTEGER_BITS[kind.name]
        fits = "" if kind == BIGINT else f" AND {sql} BETWEEN {-limit} AND {limit - 1}"
        return f"CASE WHEN {sql} IS NULL THEN NULL WHEN typeof({sql}) = 'integer'{fits} THEN {sql} ELSE {bad} END"
    if kind == BOOLEAN:
        return (
            f"CASE WHEN {sql} IS NULL THEN NULL WHEN typeof({sql}) = 'integer' AND {sql} IN (0, 1) THEN {sql} "
            f"ELSE {bad} END"
        )
    if kind == DOUBLE:
        return (
            f"CASE typeof({sql}) WHEN 'null' THEN NULL WHEN 'integer' THEN CAST({sql} AS REAL) "
            f"WHEN 'real' THEN CASE WHEN abs({sql}) <= 1.7976931348623157e308 THEN {sql} ELSE {bad} END ELSE {bad} END"
        )
    if kind == VARBINARY:
        return f"CASE typeof({sql}) WHEN 'blob' THEN {sql} WHEN 'null' THEN NULL ELSE {bad} END"
    if kind == VARCHAR:
        return (
            f"CASE typeof({sql}) WHEN 'text' THEN {sql} COLLATE BINARY WHEN 'null' THEN NULL ELSE {bad} END"
        )
    if kind.name == "decimal":
        return f"t_read_decimal({sql}, {kind.precision}, {kind.scale}, {name})"
    if kind == DATE:
        return f"t_read_date({sql}, {name})"
    return f"t_read_timestamp({sql}, {kind.precision}, {int(kind.name == ZONED.name)}, {name})"


def decimal_text(unscaled: int, scale: int) -> str:
    """A decimal in digits, with all of its scale: (-5, 2) is -0.05."""
    digits = str(abs(unscaled)).rjust(scale + 1, "0")
    shown = f"{digits[:-scale]}.{digits[-scale:]}" if scale else digits
    return f"-{shown}" if unscaled < 0 else shown


def show(cell: Cell | bytes, kind: Type) -> bool | Cell:
    """A result's value as JSON will carry it.

    Dates, timestamps, and a varbinary in base64 are strings, as Trino prints them. A decimal is a number: an int,
    or the float that prints the same digits; one that no float prints exactly is refused rather than rounded.
    """
    if cell is None:
        return None
    if kind == BOOLEAN:
        return bool(cell)
    if isinstance(cell, float):
        if not math.isfinite(cell):
            raise SqlError("The result holds Infinity or NaN, which this sandbox does not show")
        return cell
    if isinstance(cell, bytes):
        return b64encode(cell).decode()
    if isinstance(cell, str):
        return cell
    if kind == DATE:
        return dates.date_text(cell)
    if kind.is_timestamp:
        return dates.timestamp_text(cell, kind.precision) + (" UTC" if kind.name == ZONED.name else "")
    return _show_decimal(cell, kind.scale) if kind.name == "decimal" else cell


def show_text(cell: Cell | bytes, kind: Type) -> str | None:
    """A result's value as a text: doubles in Java's notation, decimals with all of their scale."""
    if kind.name == "decimal" and isinstance(cell, int):
        return decimal_text(cell, kind.scale)
    value = show(cell, kind)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return java_double(value)
    return None if value is None else str(value)


def java_double(number: float) -> str:
    """A finite double as Java writes it: from 0.001 up to 10 million in plain digits, beyond with an exponent.

    >>> java_double(669.74), java_double(12547407.86), java_double(1e-4)
    ('669.74', '1.254740786E7', '1.0E-4')
    """
    if number == 0 or 1e-3 <= abs(number) < 1e7:
        return format(Decimal(repr(number)), "f")
    sign, digits, _ = Decimal(repr(number)).normalize().as_tuple()
    text = "".join(map(str, digits))
    return f"{'-' * sign}{text[0]}.{text[1:] or '0'}E{Decimal(repr(number)).adjusted()}"


def _show_decimal(unscaled: int, scale: int) -> int | float:
    if scale == 0:
        return unscaled
    exact = Decimal(unscaled).scaleb(-scale)
    shown = float(exact)
    if Decimal(repr(shown)) != exact:
        raise SqlError(
            f"The result holds {exact}, more digits than a JSON number carries; CAST it AS varchar"
        )
    return shown


def round_half_up(numerator: int, denominator: int) -> int:
    """The quotient rounded to an integer, halves away from zero, as Trino rounds decimals."""
    quotient, rest = divmod(abs(numerator), abs(denominator))
    quotient += 2 * rest >= abs(denominator)
    return quotient if (numerator < 0) == (denominator < 0) else -quotient


def fit_decimal(unscaled: int, precision: int) -> int:
    """`unscaled` if it is a decimal of that precision, SqlError otherwise."""
    if abs(unscaled) >= 10**precision:
        raise SqlError(f"Decimal overflow: a value has more than {precision} digits")
    if not -(1 << 63) <= unscaled < 1 << 63:
        raise SqlError("A decimal is beyond the 18 digits that this sandbox's decimals hold")
    return unscaled


def decimal_from_double(number: float, precision: int, scale: int) -> int:
    """A double as an unscaled decimal, refused where the binary value and its shortest digits round apart."""
    numerator, denominator = number.as_integer_ratio()
    shortest = Decimal(repr(number)).as_integer_ratio()
    unscaled = round_half_up(numerator * 10**scale, denominator)
    if unscaled != round_half_up(shortest[0] * 10**scale, shortest[1]):
        raise SqlError(
            f"CAST of the double {number!r} to decimal({precision},{scale}) falls on a tie; use round()"
        )
    return fit_decimal(unscaled, precision)
