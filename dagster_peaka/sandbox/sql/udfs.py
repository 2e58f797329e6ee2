"""What DuckDB cannot do as Trino does it: Python functions that the generated SQL calls, all named t_….

NULL in gives NULL out. A SqlError raised here becomes the query's error. Functions over dates' formats and JSON are in
`formats`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_HALF_UP, Context, Decimal
from typing import Any, ParamSpec, TypeVar, cast

from dagster_peaka.sandbox.sql.kinds import SqlError

_P = ParamSpec("_P")
_R = TypeVar("_R")

LONGEST_TEXT = 1 << 20
"""Characters that a text may grow to inside a query."""

UDFS: dict[str, tuple[tuple[str, ...], str, Callable[..., Any]]] = {}
"""Name -> (DuckDB's types of the arguments, that of the result, implementation)."""

WHITESPACE = (
    "".join(  # what Java calls whitespace: no-break spaces are not among it
        map(
            chr,
            (*range(0x09, 0x0E), *range(0x1C, 0x21), 0x1680, *range(0x2000, 0x2007), *range(0x2008, 0x200B)),
        )
    )
    + "\u2028\u2029\u205f\u3000"
)
_EXACT = Context(prec=200)


# DuckDB counts a function's parameters, so each has to have as many as it takes.
_Call = Callable[..., Any]


def _one(call: _Call) -> _Call:
    def of(a: Any) -> Any:
        return call(a)

    return of


def _two(call: _Call) -> _Call:
    def of(a: Any, b: Any) -> Any:
        return call(a, b)

    return of


def _three(call: _Call) -> _Call:
    def of(a: Any, b: Any, c: Any) -> Any:
        return call(a, b, c)

    return of


def _four(call: _Call) -> _Call:
    def of(a: Any, b: Any, c: Any, d: Any) -> Any:
        return call(a, b, c, d)

    return of


_OF = {1: _one, 2: _two, 3: _three, 4: _four}


def udf(signature: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Registers a function under its own name, by "ARGUMENT, ARGUMENT -> RESULT"."""
    arguments, _, result = signature.partition(" -> ")

    def register(function: Callable[_P, _R]) -> Callable[_P, _R]:
        def strict(*values: Any) -> Any:
            return None if any(value is None for value in values) else call(*values)

        call, listed = cast("Callable[..., Any]", function), tuple(arguments.split(", "))
        UDFS[function.__name__] = (listed, result, _OF[len(listed)](strict))
        return function

    return register


# --- Numbers


@udf("VARCHAR, VARCHAR, BIGINT -> VARCHAR")
def t_decimal_div(a: str, b: str, scale: int) -> str:
    """The quotient of two decimals, halves away from zero."""
    if not (divisor := Decimal(b)):
        raise SqlError("Division by zero")
    numerator, denominator = (Decimal(a).scaleb(scale, _EXACT) / 1, divisor)
    (top, bottom), (over, under) = numerator.as_integer_ratio(), denominator.as_integer_ratio()
    top, bottom = top * under, bottom * over
    quotient, rest = divmod(abs(top), abs(bottom))
    quotient += 2 * rest >= abs(bottom)
    signed = quotient if (top < 0) == (bottom < 0) else -quotient
    return format(Decimal(signed).scaleb(-scale, _EXACT), "f")


@udf("VARCHAR, VARCHAR -> VARCHAR")
def t_decimal_mod(a: str, b: str) -> str:
    """The rest of a division of decimals, with the dividend's sign."""
    if not (divisor := Decimal(b)):
        raise SqlError("Division by zero")
    dividend = Decimal(a)
    whole = _EXACT.divide(dividend, divisor).to_integral_value(ROUND_DOWN)
    return format(_EXACT.subtract(dividend, _EXACT.multiply(whole, divisor)), "f")


@udf("DOUBLE, BIGINT -> DOUBLE")
def t_round(number: float, digits: int) -> float:
    """Trino's round(double, n): the scaled value is rounded, halves away from zero, and scaled back."""
    if not -300 <= digits <= 300 or not math.isfinite(number):
        raise SqlError("round() takes from -300 to 300 digits in this sandbox, of no Infinity and no NaN")
    factor = 10.0**digits
    scaled = abs(number) * factor
    if scaled >= 1 << 63:
        raise SqlError(f"round({number!r}, {digits}) is beyond what this sandbox rounds exactly")
    numerator, denominator = scaled.as_integer_ratio()
    rounded = (2 * numerator + denominator) // (2 * denominator)
    return math.copysign(rounded / factor, number)


@udf("DOUBLE, BIGINT, BIGINT -> VARCHAR")
def t_double_to_decimal(number: float, precision: int, scale: int) -> str:
    """A double as a decimal, refused where the binary value and its shortest digits round apart."""
    if not math.isfinite(number):
        raise SqlError(f"Cannot cast the double {number!r} to decimal({precision},{scale})")
    step = Decimal(1).scaleb(-scale)
    exact, shortest = (
        value.quantize(step, ROUND_HALF_UP, Context(prec=400))
        for value in (Decimal(number), Decimal(repr(number)))
    )
    if exact != shortest:
        raise SqlError(
            f"CAST of the double {number!r} to decimal({precision},{scale}) falls on a tie; use round()"
        )
    return format(exact, "f")


@udf("DOUBLE -> VARCHAR")
def t_double_to_text(number: float) -> str:
    """A double as Trino casts it: 1.2E3, 0E0."""
    if not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    if number == 0:
        return "-0E0" if math.copysign(1, number) < 0 else "0E0"
    return _scientific(number)


def java_double(number: float) -> str:
    """A finite double as Java writes it: from 0.001 up to 10 million in plain digits, beyond with an exponent.

    >>> java_double(669.74), java_double(12547407.86), java_double(1e-4)
    ('669.74', '1.254740786E7', '1.0E-4')
    """
    plain = number == 0 or 1e-3 <= abs(number) < 1e7
    return format(Decimal(repr(number)), "f") if plain else _scientific(number)


def _scientific(number: float) -> str:
    sign, digits, _ = Decimal(repr(number)).normalize().as_tuple()
    text = "".join(map(str, digits))
    return f"{'-' * sign}{text[0]}.{text[1:] or '0'}E{Decimal(repr(number)).adjusted()}"


# --- Text


def _one_to_one(character: str, changed: str) -> str:
    if character == "ß":  # Trino maps characters one by one, and this one has no single capital
        return character
    if len(changed) != 1:
        raise SqlError(f"The character {character!r} has no one-character change of case in this sandbox")
    return changed


@udf("VARCHAR -> VARCHAR")
def t_upper(text: str) -> str:
    """Capitals, character by character."""
    return text.upper() if text.isascii() else "".join(_one_to_one(c, c.upper()) for c in text)


@udf("VARCHAR -> VARCHAR")
def t_lower(text: str) -> str:
    """Small letters, character by character."""
    return text.lower() if text.isascii() else "".join(_one_to_one(c, c.lower()) for c in text)


@udf("VARCHAR, VARCHAR, VARCHAR -> VARCHAR")
def t_trim(text: str, side: str, characters: str) -> str:
    """Text without the characters at its ends; '' stands for whitespace."""
    gone = characters or WHITESPACE
    text = text.lstrip(gone) if side in ("BOTH", "LEADING") else text
    return text.rstrip(gone) if side in ("BOTH", "TRAILING") else text


@udf("VARCHAR, BIGINT, BIGINT -> VARCHAR")
def t_substr(text: str, start: int, length: int) -> str:
    """Characters counted from 1, from the end where negative, and nothing outside of the text."""
    first = start - 1 if start > 0 else len(text) + start
    return text[first : first + length] if start and first >= 0 and length > 0 else ""


@udf("VARCHAR, VARCHAR, VARCHAR -> VARCHAR")
def t_replace(text: str, part: str, by: str) -> str:
    """Replace; an empty part is found around every character."""
    if len(text) + text.count(part) * (len(by) - len(part)) > LONGEST_TEXT:
        raise SqlError(f"A text grew beyond {LONGEST_TEXT} characters")
    return text.replace(part, by)


def _padding(name: str, text: str, size: int, pad: str) -> str:
    if not 0 <= size <= LONGEST_TEXT:
        raise SqlError(f"{name}: the target length must be from 0 to {LONGEST_TEXT}")
    if not pad:
        raise SqlError(f"{name}: the padding string must not be empty")
    missing = max(0, size - len(text))
    return (pad * (missing // len(pad) + 1))[:missing]


@udf("VARCHAR, BIGINT, VARCHAR -> VARCHAR")
def t_lpad(text: str, size: int, pad: str) -> str:
    """Padded in front, or cut."""
    return _padding("lpad", text, size, pad) + text[:size]


@udf("VARCHAR, BIGINT, VARCHAR -> VARCHAR")
def t_rpad(text: str, size: int, pad: str) -> str:
    """Padded behind, or cut."""
    return text[:size] + _padding("rpad", text, size, pad)


@udf("VARCHAR -> VARCHAR")
def t_reverse(text: str) -> str:
    """The characters from the last to the first."""
    return text[::-1]


@udf("VARCHAR, VARCHAR, BIGINT -> VARCHAR")
def t_split_part(text: str, delimiter: str, index: int) -> str | None:
    """The part of that number, NULL behind the last."""
    if index < 1:
        raise SqlError("split_part: the index must be greater than zero")
    parts = _split("split_part", text, delimiter, -1)
    return parts[index - 1] if index <= len(parts) else None


@udf("VARCHAR, VARCHAR, BIGINT -> VARCHAR[]")
def t_split(text: str, delimiter: str, limit: int) -> list[str]:
    """The parts, at most `limit` of them, of which the last holds the rest."""
    if limit < 1:
        raise SqlError("split: the limit must be positive")
    return _split("split", text, delimiter, limit - 1)


def _split(name: str, text: str, delimiter: str, most: int) -> list[str]:
    if not delimiter:
        raise SqlError(f"{name}: an empty delimiter is not supported by this sandbox")
    return text.split(delimiter, most)


@udf("VARCHAR, VARCHAR, VARCHAR -> VARCHAR")
def t_translate(text: str, source: str, target: str) -> str:
    """Characters of `source` become those of `target` in their place, or go."""
    mapped = {ord(c): target[at] if at < len(target) else None for at, c in reversed(list(enumerate(source)))}
    return text.translate(mapped)


@udf("VARCHAR, VARCHAR, VARCHAR -> BOOLEAN")
def t_like(text: str, pattern: str, escape: str) -> bool:
    """LIKE with an ESCAPE, whose rules DuckDB does not check."""
    if len(escape) != 1:
        raise SqlError("LIKE: the escape string must be a single character")
    runs = [""]
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            literal = next(characters, "")
            if literal not in ("%", "_", escape):
                raise SqlError("LIKE: the escape character must be followed by %, _ or itself")
            runs[-1] += re.escape(literal)
        elif character == "%":
            runs.append("")
        else:
            runs[-1] += "." if character == "_" else re.escape(character)
    if len(runs) == 1:
        return re.fullmatch(runs[0], text, re.DOTALL) is not None
    first, *middle, last = runs
    start, end = re.match(first, text, re.DOTALL), re.search(f"(?:{last})\\Z", text, re.DOTALL)
    at = start.end() if start else -1
    for piece in middle:  # each at its first place: in time proportional to text times pattern
        found = re.compile(piece, re.DOTALL).search(text, at) if at >= 0 else None
        at = found.end() if found else -1
    return at >= 0 and end is not None and at <= end.start()


# --- Casts from text


def _unreadable(text: str, target: str, form: str) -> SqlError:
    return SqlError(f"Cannot cast {text[:60]!r} to {target} (this sandbox reads {form})")


@udf("VARCHAR, BIGINT, BOOLEAN -> BIGINT")
def t_text_to_integer(text: str, bits: int, lenient: bool) -> int | None:
    """Digits, and nothing around them."""
    number = int(text) if re.fullmatch(r"[+-]?[0-9]+", text) and len(text) < 30 else None
    if number is None or not -(1 << bits) <= number < 1 << bits:
        if not text.isascii() and re.search(r"\d", text):
            raise SqlError(f"Casting {text[:60]!r}, digits beyond 0 to 9, is not supported by this sandbox")
        if lenient:
            return None
        raise SqlError(f"Cannot cast {text[:60]!r} to an integer of {bits + 1} bits")
    return number


_DOUBLE = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_JAVA_DOUBLE = re.compile(  # what Java reads as well: spaces around, NaN, Infinity, hexadecimals, 1.5f
    r"[\x00-\x20]*[+-]?(nan|infinity|0x.*|[0-9.]+(e[+-]?[0-9]+)?[fd]?)[\x00-\x20]*", re.IGNORECASE | re.DOTALL
)


@udf("VARCHAR, BOOLEAN -> DOUBLE")
def t_text_to_double(text: str, lenient: bool) -> float | None:
    """Plain digits; what only Java reads is refused."""
    if _DOUBLE.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    if lenient and not _JAVA_DOUBLE.fullmatch(text):
        return None
    raise _unreadable(text, "double", "plain digits, a point and an exponent")


@udf("VARCHAR, BIGINT, BIGINT, BOOLEAN -> VARCHAR")
def t_text_to_decimal(text: str, precision: int, scale: int, lenient: bool) -> str | None:
    """Plain digits and a point, rounded to the scale."""
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)", text) or len(text) > 100:
        if lenient and not re.search(r"[0-9]", text):
            return None
        raise _unreadable(text, "decimal", "plain digits and a point")
    number = Decimal(text).quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, _EXACT)
    if abs(number) >= 10 ** (precision - scale):
        if lenient:
            return None
        raise SqlError(
            f"Cannot cast {text[:60]!r} to decimal({precision},{scale}): it has more than {precision} digits"
        )
    return format(number, "f")


@udf("VARCHAR, BOOLEAN -> BOOLEAN")
def t_text_to_boolean(text: str, lenient: bool) -> bool | None:
    """T, true, 1 and their opposites."""
    words = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
    if text.lower() in words or lenient:
        return words.get(text.lower())
    raise SqlError(f"Cannot cast {text[:60]!r} to boolean")
