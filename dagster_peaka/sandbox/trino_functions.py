"""The allow-list of functions: each Trino name with how its arguments are typed and what SQLite computes.

SCALARS and AGGREGATES are that list, by Trino's names. An argument of a type that Trino would not take is a
SqlError, and so is a function that is not listed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dagster_peaka.sandbox import trino_dates as dates
from dagster_peaka.sandbox.trino_types import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    INTEGER_BITS,
    TIMESTAMP,
    UNKNOWN,
    VARBINARY,
    VARCHAR,
    ZONED,
    SqlError,
    Type,
    Value,
    coerce,
    coerces,
    common_type,
    decimal,
    text_literal,
)

Scalar = Callable[[str, Sequence[Value]], Value]


def _wrong(name: str, arguments: Sequence[Value], expected: str) -> SqlError:
    given = ", ".join(str(value.type) for value in arguments)
    return SqlError(f"Unexpected parameters ({given}) for function {name}. Expected: {expected}")


def call(function: str, *arguments: str | int) -> str:
    """A call of a SQLite function, of SQL texts and integers."""
    return f"{function}({', '.join(map(str, arguments))})"


# --- Operators


def arithmetic(symbol: str, a: Value, b: Value) -> Value:
    """A symbol b for + - * / %, typed and checked as in Trino."""
    name = {"+": "add", "-": "sub", "*": "mul", "/": "div", "%": "mod"}[symbol]
    kind = common_type((a.type, b.type), f"Cannot apply operator {symbol}")
    if kind == UNKNOWN:
        kind = BIGINT
    if not kind.is_number:
        raise SqlError(f"Cannot apply operator: {a.type} {symbol} {b.type}")
    if kind.name == "decimal":
        return _decimal_arithmetic(name, a, b)
    left, right = coerce(a, kind), coerce(b, kind)
    if kind == DOUBLE:
        return Value(call(f"t_double_{name}", left.sql, right.sql), kind)
    return Value(call(f"t_integer_{name}", left.sql, right.sql, INTEGER_BITS[kind.name]), kind)


def _decimal_arithmetic(name: str, a: Value, b: Value) -> Value:
    a, b = (
        coerce(value, decimal(1, 0) if value.type == UNKNOWN else value.type.as_decimal) for value in (a, b)
    )
    (p, s), (q, t) = (a.type.precision, a.type.scale), (b.type.precision, b.type.scale)
    scale = max(s, t)
    if name == "mul":
        kind = decimal(p + q, s + t)
        return Value(call("t_decimal_mul", a.sql, b.sql, kind.precision), kind)
    if name == "div":
        kind = decimal(p + t + max(t - s, 0), scale)
        return Value(call("t_decimal_div", a.sql, b.sql, scale - s + t, kind.precision), kind)
    digits = min(p - s, q - t) if name == "mod" else max(p - s, q - t) + 1
    kind = decimal(digits + scale, scale)
    left, right = (coerce(value, decimal(value.type.precision + scale, scale)) for value in (a, b))
    return Value(call(f"t_decimal_{name}", left.sql, right.sql, kind.precision), kind)


def negate(value: Value) -> Value:
    """-value"""
    if not value.type.is_number:
        raise SqlError(f"Cannot negate {value.type}")
    constant = None if value.constant is None else -value.constant
    if value.type.is_integer and constant is None:
        return Value(call("t_integer_neg", value.sql, INTEGER_BITS[value.type.name]), value.type)
    return Value(f"(-{value.sql})", value.type, constant)


def compare(symbol: str, a: Value, b: Value) -> Value:
    """A symbol b for = <> < <= > >= (and SQLite's IS, IS NOT), of types that Trino compares."""
    kind = common_type((a.type, b.type), f"Cannot apply operator {symbol}")
    return Value(f"({coerce(a, kind).sql} {symbol} {coerce(b, kind).sql})", BOOLEAN)


def concat(name: str, values: Sequence[Value]) -> Value:
    """The texts put together; NULL when one of them is."""
    if any(not coerces(value.type, VARCHAR) for value in values):
        raise _wrong(name, values, "varchar, varchar")
    joined = values[0].sql
    for value in values[1:]:
        joined = call("t_concat", joined, value.sql)
    return Value(joined, VARCHAR)


def like(value: Value, pattern: Value, escape: Value | None) -> Value:
    """Value LIKE pattern, by characters and case-sensitive."""
    texts = [value, pattern] if escape is None else [value, pattern, escape]
    if any(not coerces(text.type, VARCHAR) for text in texts):
        raise _wrong("LIKE", texts, "varchar, varchar")
    if escape is not None and escape.text == "":
        raise SqlError("LIKE: the escape string must be a single character")
    return Value(call("t_like", value.sql, pattern.sql, "''" if escape is None else escape.sql), BOOLEAN)


# --- Casts


def cast(value: Value, target: Type, lenient: bool, length: int | None = None) -> Value:
    """CAST, or TRY_CAST when `lenient`; `length` is that of varchar(length)."""
    source = value.type
    if target == VARCHAR:
        if length is not None and source not in (VARCHAR, UNKNOWN):
            raise SqlError(
                f"CAST of {source} to varchar({length}) is not supported by this sandbox; use varchar"
            )
        text = _to_text(value)
        return (
            Value(call("t_text_cut", text, length), VARCHAR) if length is not None else Value(text, VARCHAR)
        )
    if source == VARCHAR:
        return Value(_from_text(value.sql, target, int(lenient)), target)
    if target.is_integer and source.is_number:
        return Value(_to_integer(value, INTEGER_BITS[target.name], int(lenient)), target)
    if target.name == "decimal" and source.is_number:
        return _cast_decimal(value, target, lenient)
    if target == BOOLEAN and source.is_integer:
        return Value(f"({value.sql} <> 0)", BOOLEAN)
    if source == BOOLEAN and target.is_integer:
        return Value(value.sql, target)
    if target == DATE and source.is_timestamp:
        midnight = call("t_date_trunc", "'day'", value.sql, 1)
        return Value(f"({midnight} / {dates.DAY})", DATE)
    if target.is_timestamp and source.is_timestamp and target.precision < source.precision:
        return Value(call("t_timestamp_round", value.sql, target.precision), target)
    if (target.is_timestamp and (source.is_timestamp or source == DATE)) or coerces(source, target):
        return coerce(value, target) if coerces(source, target) else Value(value.sql, target)
    raise SqlError(f"Cannot cast {source} to {target} in this sandbox")


def _to_text(value: Value) -> str:
    kind = value.type
    if kind in (VARCHAR, UNKNOWN):
        return value.sql
    if kind.is_integer:
        return call("t_integer_to_text", value.sql)
    if kind.name == "decimal":
        return call("t_decimal_to_text", value.sql, kind.scale)
    if kind == BOOLEAN:
        return call("t_boolean_to_text", value.sql)
    if kind == DATE:
        return call("t_date_to_text", value.sql)
    if kind.name == "timestamp":
        return call("t_timestamp_to_text", value.sql, kind.precision)
    raise SqlError(f"Cannot cast {kind} to varchar in this sandbox: versions of Trino print it differently")


def _from_text(sql: str, target: Type, lenient: int) -> str:
    if target.is_integer:
        return call("t_text_to_integer", sql, INTEGER_BITS[target.name], lenient)
    if target.name == "decimal":
        return call("t_text_to_decimal", sql, target.precision, target.scale, lenient)
    if target.name == "timestamp":
        return call("t_text_to_timestamp", sql, target.precision, lenient)
    if target.name in ("double", "boolean", "date"):
        return call(f"t_text_to_{target}", sql, lenient)
    raise SqlError(f"Cannot cast varchar to {target} in this sandbox")


def _to_integer(value: Value, bits: int, lenient: int) -> str:
    if value.type == DOUBLE:
        return call("t_double_to_integer", value.sql, bits, lenient)
    whole = value.sql
    if value.type.scale:
        whole = call("t_decimal_rescale", whole, -value.type.scale, 38)
    return call("t_integer_to_integer", whole, bits, lenient)


def _cast_decimal(value: Value, target: Type, lenient: bool) -> Value:
    if lenient:
        raise SqlError(f"TRY_CAST of {value.type} to {target} is not supported by this sandbox; use CAST")
    if value.type == DOUBLE:
        return Value(call("t_double_to_decimal", value.sql, target.precision, target.scale), target)
    shift = target.scale - value.type.scale
    return Value(call("t_decimal_rescale", value.sql, shift, target.precision), target)


# --- Scalar functions


def _fixed(udf: str, parameters: Sequence[Type], result: Type) -> Scalar:
    """A function of fixed parameter types."""

    def build(name: str, arguments: Sequence[Value]) -> Value:
        fits = len(arguments) == len(parameters) and all(
            coerces(value.type, kind) for value, kind in zip(arguments, parameters, strict=True)
        )
        if not fits:
            raise _wrong(name, arguments, f"({', '.join(map(str, parameters))})")
        typed = [coerce(value, kind).sql for value, kind in zip(arguments, parameters, strict=True)]
        return Value(call(udf, *typed), result)

    return build


def _with_default(udf: str, parameters: Sequence[Type], default: str, result: Type) -> Scalar:
    """A function whose last parameter may be left out, then being `default` (SQL)."""
    full = _fixed(udf, parameters, result)

    def build(name: str, arguments: Sequence[Value]) -> Value:
        if len(arguments) == len(parameters) - 1:
            arguments = (*arguments, Value(default, parameters[-1]))
        return full(name, arguments)

    return build


def _number(name: str, arguments: Sequence[Value]) -> Value:
    if len(arguments) != 1 or not (arguments[0].type.is_number or arguments[0].type == UNKNOWN):
        raise _wrong(name, arguments, "(a number)")
    return coerce(arguments[0], BIGINT) if arguments[0].type == UNKNOWN else arguments[0]


def _abs(name: str, arguments: Sequence[Value]) -> Value:
    value = _number(name, arguments)
    if value.type.is_integer:
        return Value(call("t_integer_abs", value.sql, INTEGER_BITS[value.type.name]), value.type)
    return Value(call("abs", value.sql), value.type)


def _sign(name: str, arguments: Sequence[Value]) -> Value:
    value = _number(name, arguments)
    if value.type == DOUBLE:
        return Value(call("t_sign", value.sql), DOUBLE)
    return Value(call("sign", value.sql), decimal(1, 0) if value.type.name == "decimal" else value.type)


def _whole(direction: str) -> Scalar:
    """Floor or ceiling: integers as they are, doubles stay doubles, decimals lose their scale."""

    def build(name: str, arguments: Sequence[Value]) -> Value:
        value = _number(name, arguments)
        if value.type.is_integer:
            return value
        if value.type == DOUBLE:
            return Value(call(f"t_{direction}", value.sql), DOUBLE)
        kind = decimal(value.type.precision - value.type.scale + min(value.type.scale, 1), 0)
        return Value(call(f"t_decimal_{direction}", value.sql, value.type.scale), kind)

    return build


def _round(name: str, arguments: Sequence[Value]) -> Value:
    value = _number(name, arguments[:1])
    digits = arguments[1] if len(arguments) == 2 else None
    if len(arguments) > 2 or (digits is not None and not digits.type.is_integer):
        raise _wrong(name, arguments, "(a number) or (a number, integer)")
    count = "0" if digits is None else digits.sql
    if value.type == DOUBLE:
        return Value(call("t_round", value.sql, count), DOUBLE)
    if value.type.is_integer:
        if digits is not None and (digits.constant is None or digits.constant < 0):
            raise SqlError("round(integer, n) with n below 0 or computed is not supported by this sandbox")
        return value
    precision, scale = value.type.precision, value.type.scale
    if digits is None:
        kind = decimal(precision - scale + min(1, scale), 0)
        return Value(call("t_decimal_rescale", value.sql, -scale, kind.precision), kind)
    return Value(call("t_decimal_round", value.sql, scale, count), decimal(precision + 1, scale))


def _mod(name: str, arguments: Sequence[Value]) -> Value:
    if len(arguments) != 2:
        raise _wrong(name, arguments, "(a number, a number)")
    return arithmetic("%", *arguments)


def _same_type(sqlite_name: str, least: int) -> Scalar:
    """A SQLite function of its own that treats all of its arguments alike."""

    def build(name: str, arguments: Sequence[Value]) -> Value:
        if len(arguments) < least:
            raise _wrong(name, arguments, f"at least {least} of one type")
        kind = common_type((value.type for value in arguments), name)
        values = [coerce(value, kind).sql for value in arguments]
        return Value(call(sqlite_name, *values) if len(values) > 1 else values[0], kind)

    return build


def _nullif(name: str, arguments: Sequence[Value]) -> Value:
    if len(arguments) != 2:
        raise _wrong(name, arguments, "two of one type")
    first, second = arguments
    kind = common_type((first.type, second.type), name)
    if kind in (first.type, UNKNOWN):
        return Value(call("nullif", first.sql, coerce(second, kind).sql), first.type)
    return Value(f"CASE WHEN {compare('=', first, second).sql} THEN NULL ELSE {first.sql} END", first.type)


def _concat(name: str, arguments: Sequence[Value]) -> Value:
    if len(arguments) < 2:
        raise _wrong(name, arguments, "at least two varchar")
    return concat(name, arguments)


# --- Dates and times


def _step(kind: Type) -> int:
    """Microseconds that one step of the stored form stands for."""
    return dates.DAY if kind == DATE else 1


def _instant(name: str, value: Value) -> Value:
    if value.type == UNKNOWN:
        return coerce(value, TIMESTAMP)
    if value.type != DATE and not value.type.is_timestamp:
        raise SqlError(f"Unexpected parameter {value.type} for {name}. Expected: a date or a timestamp")
    return value


def _unit(name: str, value: Value, kind: Type) -> str:
    if value.text is None:
        raise SqlError(f"{name}: this sandbox takes the unit as a string literal only")
    unit = value.text.lower()
    if unit not in dates.UNITS or (kind == DATE and unit not in dates.DATE_UNITS):
        raise SqlError(f"'{value.text[:40]}' is not a valid {kind} unit for {name}")
    return unit


def date_field(field: str, value: Value) -> Value:
    """EXTRACT(field FROM value) and the functions of the fields' names."""
    moment = _instant(field, value)
    if moment.type == DATE and field in ("hour", "minute", "second", "millisecond"):
        raise SqlError(f"A date has no {field}")
    return Value(call("t_date_field", f"'{field}'", moment.sql, _step(moment.type)), BIGINT)


def _date_field(field: str) -> Scalar:
    def build(name: str, arguments: Sequence[Value]) -> Value:
        if len(arguments) != 1:
            raise _wrong(name, arguments, "(a date or a timestamp)")
        return date_field(field, arguments[0])

    return build


def _date_trunc(name: str, arguments: Sequence[Value]) -> Value:
    if len(arguments) != 2:
        raise _wrong(name, arguments, "(unit, a date or a timestamp)")
    moment = _instant(name, arguments[1])
    unit = _unit(name, arguments[0], moment.type)
    return Value(call("t_date_trunc", f"'{unit}'", moment.sql, _step(moment.type)), moment.type)


def _date_add(name: str, arguments: Sequence[Value]) -> Value:
    if len(arguments) != 3 or not coerces(arguments[1].type, BIGINT):
        raise _wrong(name, arguments, "(unit, bigint, a date or a timestamp)")
    moment = _instant(name, arguments[2])
    return date_add(_unit(name, arguments[0], moment.type), arguments[1].sql, moment)


def date_add(unit: str, amount: str, moment: Value) -> Value:
    """`moment` plus `amount` (SQL of an integer) units."""
    if unit == "millisecond" and moment.type.precision < 3:
        raise SqlError(
            "Adding milliseconds to a timestamp of less than 3 digits is not supported by this sandbox"
        )
    return Value(call("t_date_add", f"'{unit}'", amount, moment.sql, _step(moment.type)), moment.type)


def _date_diff(name: str, arguments: Sequence[Value]) -> Value:
    if len(arguments) != 3:
        raise _wrong(name, arguments, "(unit, from, to)")
    start, end = (_instant(name, value) for value in arguments[1:])
    kind = common_type((start.type, end.type), name)
    unit = _unit(name, arguments[0], kind)
    return Value(
        call("t_date_diff", f"'{unit}'", coerce(start, kind).sql, coerce(end, kind).sql, _step(kind)), BIGINT
    )


def _date(name: str, arguments: Sequence[Value]) -> Value:
    if len(arguments) != 1:
        raise _wrong(name, arguments, "(varchar, date or timestamp)")
    return cast(arguments[0], DATE, lenient=False)


def _to_unixtime(name: str, arguments: Sequence[Value]) -> Value:
    if len(arguments) != 1:
        raise _wrong(name, arguments, "(timestamp)")
    moment = _instant(name, arguments[0])
    return Value(
        call("t_to_unixtime", coerce(moment, TIMESTAMP).sql if moment.type == DATE else moment.sql), DOUBLE
    )


FIELDS = {
    **{name: name for name in ("year", "quarter", "month", "week", "day", "hour", "minute", "second")},
    **dict.fromkeys(("day_of_week", "dow"), "day_of_week"),
    **dict.fromkeys(("day_of_year", "doy"), "day_of_year"),
    **dict.fromkeys(("year_of_week", "yow"), "year_of_week"),
    "day_of_month": "day",
    "week_of_year": "week",
    "millisecond": "millisecond",
}
"""Names of calendar fields, as functions and (but week_of_year and millisecond) in EXTRACT."""

SCALARS: dict[str, Scalar] = {
    "abs": _abs,
    "sign": _sign,
    "floor": _whole("floor"),
    "ceil": _whole("ceiling"),
    "ceiling": _whole("ceiling"),
    "round": _round,
    "mod": _mod,
    "sqrt": _fixed("t_sqrt", [DOUBLE], DOUBLE),
    "power": _fixed("t_power", [DOUBLE, DOUBLE], DOUBLE),
    "pow": _fixed("t_power", [DOUBLE, DOUBLE], DOUBLE),
    "greatest": _same_type("max", 1),
    "least": _same_type("min", 1),
    "coalesce": _same_type("coalesce", 2),
    "nullif": _nullif,
    "concat": _concat,
    "lower": _fixed("t_lower", [VARCHAR], VARCHAR),
    "upper": _fixed("t_upper", [VARCHAR], VARCHAR),
    "length": _fixed("t_length", [VARCHAR], BIGINT),
    "trim": _fixed("t_trim", [VARCHAR], VARCHAR),
    "ltrim": _fixed("t_ltrim", [VARCHAR], VARCHAR),
    "rtrim": _fixed("t_rtrim", [VARCHAR], VARCHAR),
    "substr": _with_default("t_substr", [VARCHAR, BIGINT, BIGINT], str(1 << 40), VARCHAR),
    "substring": _with_default("t_substr", [VARCHAR, BIGINT, BIGINT], str(1 << 40), VARCHAR),
    "strpos": _fixed("t_strpos", [VARCHAR, VARCHAR], BIGINT),
    "replace": _with_default("t_replace", [VARCHAR, VARCHAR, VARCHAR], "''", VARCHAR),
    "lpad": _fixed("t_lpad", [VARCHAR, BIGINT, VARCHAR], VARCHAR),
    "rpad": _fixed("t_rpad", [VARCHAR, BIGINT, VARCHAR], VARCHAR),
    "reverse": _fixed("t_reverse", [VARCHAR], VARCHAR),
    "split_part": _fixed("t_split_part", [VARCHAR, VARCHAR, BIGINT], VARCHAR),
    "to_hex": _fixed("t_to_hex", [VARBINARY], VARCHAR),
    "starts_with": _fixed("t_starts_with", [VARCHAR, VARCHAR], BOOLEAN),
    **{name: _date_field(field) for name, field in FIELDS.items()},
    "date": _date,
    "date_trunc": _date_trunc,
    "date_add": _date_add,
    "date_diff": _date_diff,
    "last_day_of_month": _fixed("t_last_day_of_month", [DATE], DATE),
    "from_unixtime": _fixed("t_from_unixtime", [DOUBLE], ZONED),
    "to_unixtime": _to_unixtime,
}
"""The scalar functions, besides those with a grammar of their own (CASE, IF, CAST, EXTRACT, now() …)."""


# --- Aggregate and window functions

_FIELDS_AT_ONCE = 100
"""Fields that one call may encode: SQLite's functions have at most 127 arguments."""


def row(fields: Sequence[Value]) -> Value:
    """ROW(a, b, …) as the bytes that tell it from any other row, fields of a wide one put together in groups."""
    if not fields:
        raise SqlError("ROW needs at least one field")
    groups = [
        _encoded(fields[start : start + _FIELDS_AT_ONCE]) for start in range(0, len(fields), _FIELDS_AT_ONCE)
    ]
    whole = groups[0] if len(groups) == 1 else _encoded([Value(group, _ROW) for group in groups])
    return Value(whole, _ROW)


_ROW = Type("row")


def _encoded(fields: Sequence[Value]) -> str:
    kinds = text_literal(";".join(str(value.type) for value in fields))
    return call("t_encode", kinds, *(value.sql for value in fields))


Call = Callable[[str, str], str]
"""(SQLite aggregate, argument) -> the call with its DISTINCT, FILTER and OVER."""

Aggregate = Callable[[str, Sequence[Value], Call], Value]


def _one(name: str, arguments: Sequence[Value], accepts: Callable[[Type], bool], expected: str) -> Value:
    if len(arguments) != 1 or not (accepts(arguments[0].type) or arguments[0].type == UNKNOWN):
        raise _wrong(name, arguments, expected)
    return arguments[0]


def _sum(name: str, arguments: Sequence[Value], native: Call) -> Value:
    value = _one(name, arguments, lambda kind: kind.is_number, "(a number)")
    kind = BIGINT if value.type.is_integer or value.type == UNKNOWN else value.type
    return Value(native("sum", value.sql), decimal(38, kind.scale) if kind.name == "decimal" else kind)


def _avg(name: str, arguments: Sequence[Value], native: Call) -> Value:
    value = _one(name, arguments, lambda kind: kind.is_number, "(a number)")
    if value.type.name != "decimal":
        return Value(native("avg", value.sql), DOUBLE)
    parts = native("sum", value.sql), native("count", value.sql)
    return Value(call("t_decimal_div", *parts, 0, value.type.precision), value.type)


def _least_or_greatest(sqlite_name: str) -> Aggregate:
    def build(name: str, arguments: Sequence[Value], native: Call) -> Value:
        value = _one(name, arguments, lambda _: True, "(one value)")
        return Value(native(sqlite_name, value.sql), value.type)

    return build


def _all_or_any(sqlite_name: str) -> Aggregate:
    def build(name: str, arguments: Sequence[Value], native: Call) -> Value:
        value = _one(name, arguments, lambda kind: kind == BOOLEAN, "(boolean)")
        return Value(native(sqlite_name, value.sql), BOOLEAN)

    return build


def _count(name: str, arguments: Sequence[Value], native: Call) -> Value:
    value = _one(name, arguments, lambda _: True, "(one value) or (*)")
    return Value(native("count", value.sql), BIGINT)


def _count_if(name: str, arguments: Sequence[Value], native: Call) -> Value:
    value = _one(name, arguments, lambda kind: kind == BOOLEAN, "(boolean)")
    return Value(native("count", f"CASE WHEN {value.sql} THEN 1 END"), BIGINT)


def _approx_distinct(name: str, arguments: Sequence[Value], native: Call) -> Value:
    value = _one(name, arguments, lambda _: True, "(one value)")
    return Value(native("count", f"DISTINCT {value.sql}"), BIGINT)


def _spread(udf: str) -> Aggregate:
    def build(name: str, arguments: Sequence[Value], native: Call) -> Value:
        value = _one(name, arguments, lambda kind: kind.is_number, "(double)")
        return Value(native(udf, coerce(value, DOUBLE).sql), DOUBLE)

    return build


def _checksum(name: str, arguments: Sequence[Value], native: Call) -> Value:
    value = _one(name, arguments, lambda _: True, "(one value or ROW(...))")
    return Value(native("t_checksum", _encoded([value])), VARBINARY)


AGGREGATES: dict[str, Aggregate] = {
    "count": _count,
    "count_if": _count_if,
    "sum": _sum,
    "avg": _avg,
    "min": _least_or_greatest("min"),
    "max": _least_or_greatest("max"),
    "arbitrary": _least_or_greatest("min"),  # any value will do, so take one that does not change
    "any_value": _least_or_greatest("min"),
    "bool_and": _all_or_any("min"),
    "every": _all_or_any("min"),
    "bool_or": _all_or_any("max"),
    "approx_distinct": _approx_distinct,  # exact, which is within the error that Trino allows itself
    "stddev": _spread("t_stddev_samp"),
    "stddev_samp": _spread("t_stddev_samp"),
    "stddev_pop": _spread("t_stddev_pop"),
    "variance": _spread("t_var_samp"),
    "var_samp": _spread("t_var_samp"),
    "var_pop": _spread("t_var_pop"),
    "checksum": _checksum,
}
"""The aggregate functions."""

WINDOW_AGGREGATES = frozenset(
    {
        "count",
        "count_if",
        "sum",
        "avg",
        "min",
        "max",
        "arbitrary",
        "any_value",
        "bool_and",
        "every",
        "bool_or",
    }
)
"""Those of them that may have OVER."""

RANKINGS = frozenset({"row_number", "rank", "dense_rank"})
NEIGHBOURS = frozenset({"lag", "lead"})
ENDS = frozenset({"first_value", "last_value"})
"""Window functions of no argument, of a value with offset and default, and of one value."""
