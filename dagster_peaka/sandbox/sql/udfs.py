"""What DuckDB cannot do as Trino does it: Python functions that the generated SQL calls, all named t_….

NULL in gives NULL out. A SqlError raised here becomes the query's error. Functions over dates' formats and JSON are in
`formats`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from dagster_peaka.sandbox.sql.kinds import SqlError

_P = ParamSpec("_P")
_R = TypeVar("_R")

UDFS: dict[str, tuple[tuple[str, ...], str, Callable[..., Any]]] = {}
"""Name -> (DuckDB's types of the arguments, that of the result, implementation)."""

_EXACT = Context(prec=200)


def udf(signature: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Registers a function under its own name, by "ARGUMENT, ARGUMENT -> RESULT"."""
    arguments, _, result = signature.partition(" -> ")

    def register(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(function)  # DuckDB counts the parameters
        def strict(*values: Any) -> Any:
            return None if any(value is None for value in values) else call(*values)

        call = cast("Callable[..., Any]", function)
        UDFS[function.__name__] = (tuple(arguments.split(", ")), result, strict)
        return function

    return register


# --- Numbers


@udf("VARCHAR, VARCHAR, BIGINT -> VARCHAR")
def t_decimal_div(a: str, b: str, scale: int) -> str:
    """The quotient of two decimals, halves away from zero."""
    if not Decimal(b):
        raise SqlError("Division by zero")
    return format(Decimal(_rounded(Fraction(a) / Fraction(b) * 10**scale)).scaleb(-scale, _EXACT), "f")


def _rounded(number: Fraction) -> int:
    """The nearest whole number, halves away from zero."""
    nearest = int(abs(number) + Fraction(1, 2))
    return nearest if number > 0 else -nearest


@udf("VARCHAR, VARCHAR -> VARCHAR")
def t_decimal_mod(a: str, b: str) -> str:
    """The rest of a division of decimals, with the dividend's sign."""
    if not Decimal(b):
        raise SqlError("Division by zero")
    return format(_EXACT.remainder(Decimal(a), Decimal(b)), "f")


@udf("DOUBLE, BIGINT -> DOUBLE")
def t_round(number: float, digits: int) -> float:
    """Trino's round(double, n): the scaled value is rounded, halves away from zero, and scaled back."""
    if not -300 <= digits <= 300 or not math.isfinite(number):
        raise SqlError("round() takes from -300 to 300 digits in this sandbox, of no Infinity and no NaN")
    scaled = abs(number) * 10.0**digits
    if scaled >= 1 << 63:
        raise SqlError(f"round({number!r}, {digits}) is beyond what this sandbox rounds exactly")
    return math.copysign(_rounded(Fraction(scaled)) / 10.0**digits, number)


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
