"""Trino's types, as far as the sandbox has them: their names, what DuckDB stores them in, and how they coerce.

A timestamp with time zone is stored as the UTC timestamp; its zone belongs to the type (`zone`), because the zones of
all values of an expression are known before it runs. An interval is stored as a count of milliseconds or months, json
as its text, a varchar without its length.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

LONGEST_SQL = 400_000
"""Characters of DuckDB's SQL that one expression may grow to."""

_INTEGERS = {"tinyint": 3, "smallint": 5, "integer": 10, "bigint": 19}
"""The integer types, in their order, with the digits that each has in arithmetic with decimals."""
_NAMES = {"int": "integer", "double precision": "double", "bool": "boolean", "struct": "row"}


class SqlError(Exception):
    """A statement that cannot be answered: wrong, or outside of the subset. The message is for its author."""


@dataclass(frozen=True)
class Type:
    """A Trino type. `of` holds an array's, map's or row's types, `names` a row's names, `zone` a zoned timestamp's."""

    name: str
    precision: int = 0
    scale: int = 0
    of: tuple[Type, ...] = ()
    names: tuple[str, ...] = ()
    zone: str = ""

    def __str__(self) -> str:
        if self.name == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.is_timestamp:
            return f"timestamp({self.precision})" + (" with time zone" if self.zone else "")
        if self.name == "row":
            parts = (f"{name} {kind}".strip() for name, kind in zip(self.names, self.of, strict=True))
            return f"row({', '.join(parts)})"
        return f"{self.name}({', '.join(map(str, self.of))})" if self.of else self.name

    @property
    def is_integer(self) -> bool:
        return self.name in _INTEGERS

    @property
    def is_exact(self) -> bool:
        return self.is_integer or self.name == "decimal"

    @property
    def is_number(self) -> bool:
        return self.is_exact or self.name == "double"

    @property
    def is_timestamp(self) -> bool:
        return self.name == "timestamp"

    @property
    def is_moment(self) -> bool:
        return self.name in ("timestamp", "date")

    @property
    def is_interval(self) -> bool:
        return self.name.startswith("interval")

    @property
    def as_decimal(self) -> Type:
        """The decimal type that an integer type stands for in arithmetic with decimals."""
        return Type("decimal", _INTEGERS[self.name]) if self.is_integer else self

    @property
    def parts(self) -> Iterator[Type]:
        """It and all types in it."""
        yield self
        for part in self.of:
            yield from part.parts

    @property
    def stored(self) -> str:
        """DuckDB's type for it."""
        if self.name == "decimal":
            return f"DECIMAL({self.precision},{self.scale})"
        if self.name == "array":
            return f"{self.of[0].stored}[]"
        if self.name == "map":
            return f"MAP({self.of[0].stored}, {self.of[1].stored})"
        if self.name == "row":
            return (
                f"STRUCT({', '.join(f'f{number} {kind.stored}' for number, kind in enumerate(self.of, 1))})"
            )
        return _STORED.get(self.name, self.name.upper())


_STORED = {
    "json": "VARCHAR",
    "varbinary": "BLOB",
    "unknown": "INTEGER",
    "interval day to second": "BIGINT",
    "interval year to month": "BIGINT",
}
UNKNOWN = Type("unknown")  # the type of a bare NULL
BOOLEAN = Type("boolean")
INTEGER = Type("integer")
BIGINT = Type("bigint")
DOUBLE = Type("double")
VARCHAR = Type("varchar")
DATE = Type("date")
TIMESTAMP = Type("timestamp", 3)
ZONED = Type("timestamp", 3, zone="UTC")
JSON = Type("json")
VARBINARY = Type("varbinary")
SECONDS = Type("interval day to second")
MONTHS = Type("interval year to month")

_PLAIN = (*_INTEGERS, "double", "boolean", "varchar", "varbinary", "date", "json", SECONDS.name, MONTHS.name)
SUPPORTED_TYPES = (*_PLAIN, "decimal", "timestamp", "timestamp with time zone", "array", "map", "row")


def decimal(precision: int, scale: int) -> Type:
    """A decimal type; digits beyond 38 are cut, as Trino does in arithmetic."""
    if scale > 38:
        raise SqlError(f"DECIMAL scale {scale} is beyond 38")
    return Type("decimal", min(precision, 38), scale)


def array_of(kind: Type) -> Type:
    """The array type of an element type."""
    return Type("array", of=(kind,))


def split(text: str) -> list[str]:
    """The parts between the outermost commas."""
    parts, depth, start = list[str](), 0, 0
    for at, character in enumerate(text):
        depth += (character in "(<") - (character in ")>")
        if character == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]


def parse_type(text: str) -> Type:
    """The Type that `text` names, or SqlError when this sandbox has no such type.

    >>> parse_type("array(decimal(10, 2))").of[0].scale
    2
    """
    flat = " ".join(text.lower().split())
    match = re.fullmatch(r"([a-z_ ]+?)\s*(?:\((.*)\))?(\s+with(?:out)? time zone)?", flat)
    name = _NAMES.get(match[1], match[1]) if match else ""
    wrong = SqlError(f"Type {text} is not supported by this sandbox; it has {', '.join(SUPPORTED_TYPES)}")
    if match is None or (match[3] and name != "timestamp"):
        raise wrong
    inner = split(match[2]) if match[2] else []
    if name in ("array", "map") and len(inner) == (1 if name == "array" else 2):
        return Type(name, of=tuple(map(parse_type, inner)))
    if name == "row" and inner:
        fields = [
            part.rsplit(" ", 1) if re.fullmatch(r"[a-z_]\w* [^ ]+", part) else ["", part] for part in inner
        ]
        return Type(name, of=tuple(parse_type(kind) for _, kind in fields), names=tuple(n for n, _ in fields))
    if not all(part.isdecimal() for part in inner):
        raise wrong
    numbers = [int(part[:9]) for part in inner]
    if name == "timestamp" and len(numbers) < 2:
        if numbers and numbers[0] > 6:
            raise SqlError(f"Type {text} is not supported by this sandbox: timestamps have at most 6 digits")
        return Type(name, numbers[0] if numbers else 3, zone="UTC" if "with time" in (match[3] or "") else "")
    if name == "decimal" and len(numbers) < 3:
        precision, scale = (*numbers, *(38, 0)[len(numbers) :])
        if not (1 <= precision <= 38 and scale <= precision):
            raise SqlError(f"Type {text} is invalid: 1 to 38 digits, the scale not above them")
        return Type(name, precision, scale)
    if name not in _PLAIN or len(numbers) > (name == "varchar"):
        raise wrong
    return Type(name)


@dataclass(frozen=True)
class Value:
    """A typed piece of DuckDB's SQL; of literals, also what they say: coercions and units are settled with it."""

    sql: str
    type: Type
    constant: Decimal | None = None  # a numeric literal's number
    text: str | None = None  # a string literal's text

    def __post_init__(self) -> None:
        if len(self.sql) > LONGEST_SQL:
            raise SqlError("The statement is too large for this sandbox: an expression grew beyond its limit")


NULL = Value("NULL", UNKNOWN)


def text_literal(text: str) -> str:
    """`text` as a string literal."""
    return "'" + text.replace("'", "''") + "'"


def number_literal(text: str) -> Value:
    """A numeric literal with the type that Trino gives it: integer, bigint, decimal, or double for 1e0."""
    if not re.fullmatch(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
        raise SqlError(f"Numeric literal {text} is not supported")
    if "e" in text.lower():
        return _double(Decimal(text))
    if "." not in text:
        number = int(text) if len(text) < 40 else 1 << 63
        if number >= 1 << 63:
            raise SqlError(f"Invalid numeric literal: {text[:60]}")
        kind = INTEGER if number < 1 << 31 else BIGINT
        return Value(f"CAST({number} AS {kind.stored})", kind, Decimal(number))
    whole, _, fraction = text.partition(".")
    digits = max(1, len(whole.lstrip("0")) + len(fraction))
    if digits > 38:
        raise SqlError(f"Invalid numeric literal: {text[:60]}... has more than 38 digits")
    kind = Type("decimal", digits, len(fraction))
    return Value(f"CAST('{text}' AS {kind.stored})", kind, Decimal(text))


def _double(number: Decimal) -> Value:
    if not math.isfinite(float(number)):
        raise SqlError("A double literal is beyond the finite range")
    return Value(f"CAST('{float(number)!r}' AS DOUBLE)", DOUBLE, number)


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
    if a.is_moment and b.is_moment:
        zones = sorted({kind.zone for kind in (a, b)} - {""})
        return (
            Type("timestamp", max(a.precision, b.precision), zone=zones[0] if len(zones) < 2 else "several")
            if zones
            else Type("timestamp", max(a.precision, b.precision))
        )
    if a.name == b.name and len(a.of) == len(b.of) and a.of:
        inner = [_common(x, y) for x, y in zip(a.of, b.of, strict=True)]
        names = tuple(x if x == y else "" for x, y in zip(a.names, b.names, strict=True))
        known = [kind for kind in inner if kind is not None]
        return replace(a, of=tuple(known), names=names) if len(known) == len(inner) else None
    return None


def _common_number(a: Type, b: Type) -> Type:
    if DOUBLE in (a, b):
        return DOUBLE
    if a.is_integer and b.is_integer:
        return max(a, b, key=lambda kind: _INTEGERS[kind.name])
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
    if target == DOUBLE and value.constant is not None:
        return _double(value.constant)
    if target == DOUBLE and source.precision > 15:  # DuckDB rounds twice where the digits do not fit a double
        return Value(f"CAST(CAST({value.sql} AS VARCHAR) AS DOUBLE)", target)
    if source.is_timestamp and target.is_timestamp:
        return replace(value, type=target)
    if target.name == "array" and source.of and UNKNOWN not in source.of and source.of != target.of:
        inner = coerce(Value("e", source.of[0]), target.of[0])
        return Value(f"list_transform({value.sql}, lambda e: {inner.sql})", target)
    if target.name in ("map", "row") and target.stored == source.stored:
        return replace(value, type=target)
    return Value(f"CAST({value.sql} AS {target.stored})", target, value.constant, value.text)


def wrong(name: str, arguments: Sequence[object], expected: str) -> SqlError:
    """The error of a call whose arguments do not fit."""
    given = ", ".join(str(value.type) if isinstance(value, Value) else "function" for value in arguments)
    return SqlError(f"Unexpected parameters ({given}) for function {name}. Expected: {expected}")
