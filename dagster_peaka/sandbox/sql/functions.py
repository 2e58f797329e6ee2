"""Which function a call means, by `catalogue`'s lines; and functions whose types need code."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature

from dagster_peaka.sandbox.sql import catalogue, moments
from dagster_peaka.sandbox.sql.casts import cast, to_text
from dagster_peaka.sandbox.sql.kinds import (
    BIGINT,
    DATE,
    DOUBLE,
    UNKNOWN,
    VARBINARY,
    VARCHAR,
    SqlError,
    Type,
    Value,
    coerce,
    coerces,
    common_type,
    decimal,
    parse_type,
    split,
    text_literal,
    wrong,
)
from dagster_peaka.sandbox.sql.operators import arithmetic, compare, concat, row

Lambda = Callable[[Sequence[Type]], Value]
"""A lambda expression: of its parameters' types, its SQL with the type of what it gives."""
Argument = Value | Lambda
_Builder = Callable[..., Value | None]
"""What builds a call of Values; None where it does not take such."""


# --- The catalogue


@dataclass(frozen=True)
class _Line:
    parameters: tuple[Type, ...]
    result: Type
    sql: str
    shown: str
    variadic: bool = False


def _type(text: str) -> Type:
    """A parameter's type; a variable's name is a capital letter, and cannot be a type's."""
    match = re.fullmatch(r"(array|map|lambda|row)\((.*)\)", text)
    if match is None:
        return Type(text) if text.isupper() or text == "unknown" else parse_type(text)
    of = tuple(map(_type, split(match[2])))
    return Type(match[1], of=of, names=("",) * len(of) if match[1] == "row" else ())


def _read(text: str) -> dict[str, list[_Line]]:
    lines: dict[str, list[_Line]] = {}
    for name, listed, result, sql in re.findall(r"(\w+)\((.*?)\) (.+?): (.*)", text):
        parameters = tuple(map(_type, split(listed.replace("...", "")))) if listed else ()
        found = _Line(parameters, _type(result), sql, f"({listed})", "..." in listed)
        lines.setdefault(name, []).append(found)
    return lines


_SCALARS = _read(catalogue.SCALARS)
_AGGREGATES = _read(catalogue.AGGREGATES)


def _bind(parameter: Type, given: Type, bound: dict[str, Type]) -> bool:
    """Whether an argument's type can be the parameter's, noting what that makes of its variables."""
    if parameter.name.isupper():
        try:
            both = common_type((bound.get(parameter.name, UNKNOWN), given), "")
        except SqlError:
            return False
        bound[parameter.name] = both
        fits = {"N": both.is_number or both == UNKNOWN, "D": both.name == "decimal", "E": not both.of}
        return fits.get(parameter.name, True)
    if given == UNKNOWN:
        return True
    if parameter.of:
        return (
            parameter.name == given.name
            and len(parameter.of) == len(given.of)
            and all(_bind(inner, part, bound) for inner, part in zip(parameter.of, given.of, strict=True))
        )
    return coerces(given, parameter) or (parameter.is_timestamp and given.is_timestamp)


def _filled(kind: Type, bound: dict[str, Type]) -> Type:
    if kind.name.isupper():
        return bound.get(kind.name, UNKNOWN)
    return replace(kind, of=tuple(_filled(part, bound) for part in kind.of))


def _fits(line: _Line, arguments: Sequence[Argument]) -> tuple[list[str], dict[str, Type]] | None:
    """The arguments' SQL as the line's parameters, and what its variables are; None where they do not fit."""
    parameters = list(line.parameters)
    while line.variadic and len(parameters) < len(arguments):
        parameters.append(parameters[-1])
    if len(parameters) != len(arguments):
        return None
    bound: dict[str, Type] = {}
    pairs = list(zip(parameters, arguments, strict=True))
    for parameter, argument in pairs:
        if (parameter.name == "lambda") == isinstance(argument, Value):
            return None
        if isinstance(argument, Value) and not _bind(parameter, argument.type, bound):
            return None
    typed: list[str] = []
    for parameter, argument in pairs:
        if isinstance(argument, Value):
            target = _filled(parameter, bound)
            keep = target.is_timestamp and argument.type.is_timestamp
            typed.append(argument.sql if keep else coerce(argument, target).sql)
            continue
        body = argument([_filled(part, bound) for part in parameter.of[:-1]])
        if not _bind(parameter.of[-1], body.type, bound):
            return None
        typed.append(body.sql)
    return typed, bound


def _chosen(
    lines: Sequence[_Line], name: str, arguments: Sequence[Argument]
) -> tuple[_Line, list[str], Type]:
    for line in lines:
        fit = _fits(line, arguments)
        if fit is not None:
            return line, fit[0], _filled(line.result, fit[1])
    raise wrong(name, arguments, " or ".join(line.shown for line in lines))


def call(name: str, arguments: Sequence[Argument]) -> Value:
    """A scalar function's call. Raises SqlError where there is none such, or not of these arguments."""
    build = _BUILDERS.get(name)
    values = [argument for argument in arguments if isinstance(argument, Value)]
    if build is not None and len(values) == len(arguments) and _takes(build, values):
        found = build(*values)
        if found is not None:
            return found
    if name not in _SCALARS:
        if build is not None:
            raise wrong(name, arguments, "other types, or another number of them")
        raise SqlError(f"Function {name[:60]} is not supported by this sandbox")
    return _of_line(_SCALARS[name], name, arguments)


def _of_line(lines: Sequence[_Line], name: str, arguments: Sequence[Argument]) -> Value:
    line, typed, result = _chosen(lines, name, arguments)
    sql = line.sql.replace("{*}", ", ".join(typed))
    sql = sql if line.variadic else sql.format(*typed, type=result.stored)
    return Value(f"({sql})" if sql.startswith("CASE") else sql, result)


Native = Callable[[str], str]
"""A call of DuckDB's, with its DISTINCT, ORDER BY, FILTER and OVER."""


def aggregate(name: str, arguments: Sequence[Value], native: Native) -> Value:
    """An aggregate's or window function's call."""
    if name == "checksum" and len(arguments) == 1:
        hashed = f"t_hash({encoded(arguments)})"
        return Value(f"t_checksum({native(f'sum({hashed})')})", VARBINARY)
    first = arguments[0].type if arguments else UNKNOWN
    if name in ("sum", "avg") and first.name == "decimal" and len(arguments) == 1:
        total = native(f"sum({arguments[0].sql})")
        if name == "sum":
            kind = decimal(38, first.scale)
            return Value(f"CAST({total} AS {kind.stored})", kind)
        count = native(f"count({arguments[0].sql})")
        mean = f"t_decimal_div(CAST({total} AS VARCHAR), CAST({count} AS VARCHAR), {first.scale})"
        return Value(f"CASE WHEN {count} > 0 THEN CAST({mean} AS {first.stored}) END", first)
    if first.is_timestamp and name in ("lag", "lead", "first_value", "last_value", "nth_value"):
        _same_zone(arguments)
    line, typed, result = _chosen(_AGGREGATES[name], name, arguments)
    sql = re.sub(r"<<(.*?)>>", lambda match: native(match[1].format(*typed)), line.sql)
    return Value(sql, result)


def _same_zone(values: Sequence[Value]) -> None:
    if len({value.type.zone for value in values if value.type.is_timestamp}) > 1:
        raise SqlError("Values of several time zones are not supported here by this sandbox")


_NAMES = list(_AGGREGATES)
AGGREGATES = frozenset({*_NAMES[: _NAMES.index("row_number")], "checksum"})
WINDOWED = frozenset(_AGGREGATES)
"""Aggregates, and the functions that a window may have."""
RANKINGS = frozenset(
    {"row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead"}
)
"""Those of them that take no frame."""


def encoded(values: Sequence[Value]) -> str:
    """Values with their types as a text that no other values have; NULL is a value here."""
    parts: list[str] = []
    for value in values:
        text = f"hex({value.sql})" if value.type.name == "varbinary" else f"CAST({value.sql} AS VARCHAR)"
        if value.type.of:
            text = f"CAST(to_json({value.sql}) AS VARCHAR)"
        kind = text_literal(f"{value.type} ")
        parts.append(f"{kind} || coalesce(length({text}) || ' ' || {text}, 'NULL ')")
    return f"concat({', '.join(parts)})"


# --- Functions whose types need code


def _takes(build: _Builder, values: Sequence[Value]) -> bool:
    try:
        signature(build).bind(*values)
    except TypeError:
        return False
    return True


def _number(name: str, value: Value) -> Value:
    if not value.type.is_number and value.type != UNKNOWN:
        raise wrong(name, [value], "(a number)")
    return coerce(value, BIGINT) if value.type == UNKNOWN else value


def _whole(function: str, number: Value) -> Value:
    """Floor, ceil, round and trunc without digits: integers as they are, decimals without their scale."""
    value = _number(function, number)
    p, s = value.type.precision, value.type.scale
    if value.type.is_integer:
        return value
    if value.type == DOUBLE:
        return Value(f"{function}({value.sql})", DOUBLE)
    kind = decimal(p - s + (min(s, 1) if function != "trunc" else p == s), 0)
    inner = value.sql if function == "round" else f"{function}({value.sql})"
    return Value(f"CAST({inner} AS {kind.stored})", kind)


def _round(number: Value, digits: Value | None = None) -> Value | None:
    if digits is None:
        return _whole("round", number)
    value = _number("round", number)
    if not digits.type.is_integer:
        raise wrong("round", [value, digits], "(a number) or (a number, integer)")
    if value.type == DOUBLE:
        return None
    if digits.constant is None or digits.constant < 0:
        raise SqlError("round(number, n) with n below 0 or computed is not supported by this sandbox")
    if value.type.is_integer:
        return value
    kind = decimal(value.type.precision + 1, value.type.scale)
    cut = decimal(kind.precision, min(kind.scale, int(digits.constant)))
    return Value(f"CAST(CAST({value.sql} AS {cut.stored}) AS {kind.stored})", kind)


def _nullif(first: Value, second: Value) -> Value:
    same = compare("=", first, second)
    return Value(f"CASE WHEN {same.sql} THEN NULL ELSE {first.sql} END", first.type)


def _regexp(name: str, text: Value, pattern: Value, third: Value | None = None) -> Value | None:
    """Functions of a pattern, for which RE2 has to find what Joni finds. Raises SqlError where that is unsure."""
    if not coerces(text.type, VARCHAR) or not coerces(pattern.type, VARCHAR):
        return None
    if pattern.text is None:
        raise SqlError("regexp_…: this sandbox takes the pattern as a string literal only")
    if re.search(r"&&|\\[hHRXGpPZ]|\[[^]]*\[", pattern.text):
        raise SqlError(
            f"The pattern {pattern.text[:60]} has what means something else, or nothing, in this sandbox"
        )
    sql = coerce(text, VARCHAR).sql
    if re.search(r"\\[wWdDsSbB]|\(\?[a-z]*i", pattern.text):
        sql = f"t_ascii({sql})"
    if "$" in pattern.text:
        sql = f"t_line({sql})"
    if third is not None and name == "regexp_replace":
        third = _replacement(third)
    elif third is not None and (not third.type.is_integer or third.constant is None):
        raise SqlError(f"{name}: this sandbox takes the group as an integer literal only")
    given = [Value(sql, VARCHAR), pattern, *([third] if third is not None else [])]
    return _of_line(_SCALARS[name], name, given)


def _replacement(value: Value) -> Value:
    """RE2's for Java's."""
    if value.text is None:
        raise SqlError("regexp_replace: this sandbox takes the replacement as a string literal only")
    by = re.sub(r"\$(\d)", r"\\\1", value.text)
    if "$" in by or "\\" in value.text:
        raise SqlError("regexp_replace: of $ and \\ the replacement may hold $1 to $9 in this sandbox")
    return Value(text_literal(by), VARCHAR)


def _format(pattern: Value, *listed: Value) -> Value | None:
    if pattern.type != VARCHAR:
        return None
    texts = [
        f"CAST({value.sql} AS VARCHAR)"
        if value.type == DOUBLE
        else to_text(value)
        if value.type != UNKNOWN
        else "NULL"
        for value in listed
    ]
    kinds = text_literal(";".join(str(value.type) for value in listed))
    return Value(f"t_format({pattern.sql}, {kinds}, CAST([{', '.join(texts)}] AS VARCHAR[]))", VARCHAR)


def _typeof(value: Value) -> Value:
    if VARCHAR in value.type.parts:
        raise SqlError(
            "typeof of a varchar, whose length this sandbox does not follow, is not supported by it"
        )
    return Value(text_literal(str(value.type)), VARCHAR)


def _array_join(values: Value, separator: Value, null: Value | None = None) -> Value | None:
    if values.type.name != "array":
        return None
    text = cast(Value("e", values.type.of[0]), VARCHAR, lenient=False).sql
    if null is not None:
        text = f"coalesce({text}, {coerce(null, VARCHAR).sql})"
    texts = f"list_transform({values.sql}, lambda e: {text})"
    return Value(f"array_to_string({texts}, {coerce(separator, VARCHAR).sql})", VARCHAR)


def _date(value: Value) -> Value:
    return cast(value, DATE, lenient=False)


def _iso_date(value: Value) -> Value | None:
    return _date(value) if value.type == VARCHAR else None


def _zones_clock(name: str, moment: Value, *others: Value) -> Value | None:
    """Functions of a timestamp's own clock: the same as of the plain timestamp that its zone shows."""
    return call(name, [moments.local(moment), *others]) if moment.type.zone not in ("", "UTC") else None


_BUILDERS: dict[str, _Builder] = {
    "floor": partial(_whole, "floor"),
    **dict.fromkeys(("ceil", "ceiling"), partial(_whole, "ceil")),
    "round": _round,
    "truncate": partial(_whole, "trunc"),
    "mod": partial(arithmetic, "%"),
    "nullif": _nullif,
    "concat": lambda *values: concat("concat", values),
    **{name: partial(_regexp, name) for name in _SCALARS if name.startswith("regexp_")},
    "format": _format,
    "typeof": _typeof,
    "array_join": _array_join,
    **{name: partial(moments.date_field, name) for name in moments.FIELDS},
    "date": _date,
    "from_iso8601_date": _iso_date,
    "date_trunc": moments.date_trunc,
    "date_add": moments.date_add,
    "date_diff": moments.date_diff,
    "from_unixtime": moments.from_unixtime,
    "with_timezone": moments.with_timezone,
    "at_timezone": moments.at_timezone,
    "to_iso8601": moments.to_iso8601,
    **{name: partial(_zones_clock, name) for name in ("date_format", "last_day_of_month")},
    "row": lambda *values: row(values),
}

NAMES = (*_SCALARS, *_BUILDERS, *WINDOWED, "checksum", "now", "grouping", "reduce", "zip_with")
"""All functions that there are, by Trino's names."""
