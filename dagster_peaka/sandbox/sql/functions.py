"""Which function a call means, by `catalogue`'s lines; operators, casts, and functions whose types need code."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from dagster_peaka.sandbox.sql import catalogue
from dagster_peaka.sandbox.sql.formats import in_utc, read_timestamp, zone_of
from dagster_peaka.sandbox.sql.kinds import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    INTEGER,
    JSON,
    MONTHS,
    SECONDS,
    TIMESTAMP,
    UNKNOWN,
    VARCHAR,
    ZONED,
    SqlError,
    Type,
    Value,
    array_of,
    coerce,
    coerces,
    common_type,
    decimal,
    parse_type,
    text_literal,
)

Lambda = Callable[[Sequence[Type]], Value]
"""A lambda expression: of its parameters' types, its SQL with the type of what it gives."""
Argument = Value | Lambda

VARBINARY = Type("varbinary")
BITS = {"tinyint": 7, "smallint": 15, "integer": 31, "bigint": 63}
UNITS = {
    **{"millisecond": 1, "second": 1000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000},
    **{"week": 604_800_000, "month": 0, "quarter": 0, "year": 0},
}
"""Units of dates, with the milliseconds of those that have always as many."""
_OF_DATES = ("day", "week", "month", "quarter", "year")


def wrong(name: str, arguments: Sequence[Argument], expected: str) -> SqlError:
    """The error of a call whose arguments do not fit."""
    given = ", ".join(str(value.type) if isinstance(value, Value) else "function" for value in arguments)
    return SqlError(f"Unexpected parameters ({given}) for function {name}. Expected: {expected}")


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
    depth, parts = 0, [""]
    for character in match[2]:
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    of = tuple(_type(part.strip()) for part in parts)
    return Type(match[1], of=of, names=("",) * len(of) if match[1] == "row" else ())


def _read(text: str) -> dict[str, list[_Line]]:
    lines: dict[str, list[_Line]] = {}
    for line in text.strip().splitlines():
        head, _, sql = line.partition(": ")
        name, _, rest = head.partition("(")
        depth, at = 1, 0
        while depth:
            depth += (rest[at] == "(") - (rest[at] == ")")
            at += 1
        listed = _type(f"row({rest[: at - 1].replace('...', '')})").of if at > 1 else ()
        found = _Line(listed, _type(rest[at:].strip()), sql, f"({rest[: at - 1]})", "..." in rest)
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
        return parameter.name != "N" or both.is_number or both == UNKNOWN
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
    return Type(
        kind.name,
        kind.precision,
        kind.scale,
        tuple(_filled(part, bound) for part in kind.of),
        kind.names,
        kind.zone,
    )


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
    if build is not None:
        values = [argument for argument in arguments if isinstance(argument, Value)]
        if len(values) != len(arguments):
            raise wrong(name, arguments, "no lambda")
        found = build(values)
        if found is not None:
            return found
    if name not in _SCALARS:
        if build is not None:
            raise wrong(name, arguments, "other types, or another number of them")
        raise SqlError(f"Function {name[:60]} is not supported by this sandbox")
    line, typed, result = _chosen(_SCALARS[name], name, arguments)
    sql = line.sql.replace("{*}", ", ".join(typed)) if line.variadic else line.sql.format(*typed)
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


AGGREGATES = frozenset({*_AGGREGATES, "checksum", "listagg"}) - {
    name for name in list(_AGGREGATES)[list(_AGGREGATES).index("row_number") :]
}
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


# --- Operators


def arithmetic(symbol: str, a: Value, b: Value) -> Value:
    """A symbol b for + - * / %, typed and checked as in Trino."""
    if a.type.is_moment or b.type.is_moment or a.type.is_interval or b.type.is_interval:
        return _of_moments(symbol, a, b)
    kind = common_type((a.type, b.type), f"Cannot apply operator {symbol}")
    if kind == UNKNOWN:
        kind = BIGINT
    if not kind.is_number:
        raise SqlError(f"Cannot apply operator: {a.type} {symbol} {b.type}")
    if kind.name == "decimal":
        return _decimals(symbol, a, b)
    left, right = coerce(a, kind).sql, coerce(b, kind).sql
    if kind == DOUBLE:
        return Value(f"t_finite({left} {symbol} {right})", kind)
    if symbol in "/%":
        return Value(f"{'t_div' if symbol == '/' else 't_mod'}({left}, {right})", kind)
    return Value(f"({left} {symbol} {right})", kind)


def _decimals(symbol: str, a: Value, b: Value) -> Value:
    a, b = (
        coerce(value, decimal(1, 0) if value.type == UNKNOWN else value.type.as_decimal) for value in (a, b)
    )
    (p, s), (q, t) = (a.type.precision, a.type.scale), (b.type.precision, b.type.scale)
    scale = max(s, t)
    if symbol == "*":
        kind = decimal(p + q, s + t)
    elif symbol == "/":
        kind = decimal(p + t + max(t - s, 0), scale)
    else:
        digits = min(p - s, q - t) if symbol == "%" else max(p - s, q - t) + 1
        kind = decimal(digits + scale, scale)
    if symbol in "/%":
        texts = f"CAST({a.sql} AS VARCHAR), CAST({b.sql} AS VARCHAR)"
        text = f"t_decimal_div({texts}, {scale})" if symbol == "/" else f"t_decimal_mod({texts})"
        return Value(f"CAST({text} AS {kind.stored})", kind)
    if symbol != "*":
        wide = decimal(38, scale).stored if kind.precision == 38 else kind.stored
        a, b = (Value(f"CAST({value.sql} AS {wide})", value.type) for value in (a, b))
    return Value(f"CAST({a.sql} {symbol} {b.sql} AS {kind.stored})", kind)


def _of_moments(symbol: str, a: Value, b: Value) -> Value:
    if a.type.is_interval and b.type.is_moment and symbol == "+":
        a, b = b, a
    refused = SqlError(f"Cannot apply operator: {a.type} {symbol} {b.type}")
    if a.type.is_interval and (b.type == a.type or b.type.is_integer):
        if (symbol in "+-") != (b.type == a.type) or symbol in "/%":
            raise refused
        return Value(f"({a.sql} {symbol} {b.sql})", a.type)
    if a.type.is_integer and b.type.is_interval and symbol == "*":
        return Value(f"({a.sql} * {b.sql})", b.type)
    if a.type.is_moment and b.type.is_moment and symbol == "-":
        kind = common_type((a.type, b.type), "-")
        if DATE in (a.type, b.type) and kind != DATE:
            raise refused
        days = f"CAST(date_diff('day', {b.sql}, {a.sql}) AS BIGINT) * 86400000"
        micros = f"(epoch_ms({a.sql}) - epoch_ms({b.sql}))"
        return Value(f"({days})" if kind == DATE else micros, SECONDS)
    if not a.type.is_moment or not b.type.is_interval or symbol not in "+-":
        raise refused
    amount = b.sql if symbol == "+" else f"(-{b.sql})"
    if b.type == MONTHS:
        step = f"to_months(CAST({amount} AS INTEGER))"
    else:
        step = f"t_whole_days({amount})" if a.type == DATE else f"to_milliseconds({amount})"
    if a.type.is_timestamp and b.type == SECONDS:  # so much time, whatever the zone's clocks do meanwhile
        return shifted(f"{a.sql} + {step}", Type("timestamp", max(3, a.type.precision), zone=a.type.zone))
    return shifted(_zoned(a, f"{{}} + {step}"), a.type)


def _zoned(moment: Value, sql: str) -> str:
    """`sql` of {} as the clocks of the value's zone show it, and back."""
    if moment.type.zone in ("", "UTC"):
        return sql.format(moment.sql)
    return to_utc(sql.format(local(moment).sql), moment.type.zone)


def shifted(sql: str, kind: Type) -> Value:
    """A computed date or timestamp, within the years that there are."""
    return Value(f"t_in_years(CAST({sql} AS {kind.stored}))", kind)


def local(moment: Value) -> Value:
    """A moment as its zone's clocks show it."""
    zone = moment.type.zone
    if zone == "several":
        raise SqlError("Values of several time zones are not supported here by this sandbox")
    plain = Type("timestamp", moment.type.precision) if zone else moment.type
    if zone in ("", "UTC"):
        return Value(moment.sql, plain)
    return Value(f"timezone({text_literal(zone)}, timezone('UTC', {moment.sql}))", plain)


def to_utc(sql: str, zone: str) -> str:
    """A zone's timestamp as UTC's."""
    return sql if zone == "UTC" else f"timezone('UTC', timezone({text_literal(zone)}, {sql}))"


def negate(value: Value) -> Value:
    """-value"""
    if not value.type.is_number and not value.type.is_interval:
        raise SqlError(f"Cannot negate {value.type}")
    constant = None if value.constant is None else -value.constant
    return Value(f"CAST(-{value.sql} AS {value.type.stored})", value.type, constant)


COMPARED = ("=", "<>", "IS DISTINCT FROM", "IS NOT DISTINCT FROM")


def compare(symbol: str, a: Value, b: Value) -> Value:
    """A symbol b for = <> < <= > >= IS [NOT] DISTINCT FROM, of types that Trino compares."""
    kind = common_type((a.type, b.type), f"Cannot apply operator {symbol}")
    if kind.name == "map" or (kind == JSON and symbol not in COMPARED):
        raise SqlError(f"Cannot apply operator: {a.type} {symbol} {b.type} in this sandbox")
    return Value(f"({coerce(a, kind).sql} {symbol} {coerce(b, kind).sql})", BOOLEAN)


def concat(name: str, values: Sequence[Value]) -> Value:
    """Texts, varbinaries or arrays put together; NULL when one of them is."""
    arrays = [value.type for value in values if value.type.name == "array"]
    kind = VARCHAR if not arrays else common_type(arrays, name)
    if not arrays and all(value.type.name == "varbinary" for value in values):
        kind = VARBINARY
    if arrays:  # an element beside an array counts as an array of one
        values = [
            value if value.type.name == "array" or value.type == UNKNOWN
            else Value(f"[{value.sql}]", array_of(value.type)) for value in values
        ]  # fmt: skip
        kind = common_type((value.type for value in values), name)
    if len(values) < 2 or any(not coerces(value.type, kind) for value in values):
        raise wrong(name, values, "varchar, varchar")
    return Value(f"({' || '.join(coerce(value, kind).sql for value in values)})", kind)


def like(value: Value, pattern: Value, escape: Value | None) -> Value:
    """Value LIKE pattern, by characters and case-sensitive."""
    texts = [value, pattern] if escape is None else [value, pattern, escape]
    if any(not coerces(text.type, VARCHAR) for text in texts):
        raise wrong("LIKE", texts, "varchar, varchar")
    if escape is None:
        return Value(f"({coerce(value, VARCHAR).sql} LIKE {coerce(pattern, VARCHAR).sql})", BOOLEAN)
    if escape.text == "":
        raise SqlError("LIKE: the escape string must be a single character")
    return Value(f"t_like({', '.join(coerce(text, VARCHAR).sql for text in texts)})", BOOLEAN)


# --- Casts


def cast(value: Value, target: Type, lenient: bool, length: int | None = None) -> Value:
    """CAST, or TRY_CAST when `lenient`; `length` is that of varchar(length)."""
    source = value.type
    if source == UNKNOWN or (source == target and length is None):
        return Value(f"CAST({value.sql} AS {target.stored})", target) if source == UNKNOWN else value
    if target == VARCHAR:
        if length is not None and source != VARCHAR:
            raise SqlError(
                f"CAST of {source} to varchar({length}) is not supported by this sandbox; use varchar"
            )
        text = _to_text(value)
        return Value(text if length is None else f"left({text}, {length})", VARCHAR)
    if JSON in (source, target):
        return _json_cast(value, target)
    word = "TRY_CAST" if lenient else "CAST"
    plain = Value(f"{word}({value.sql} AS {target.stored})", target)
    if source == VARCHAR:
        return _from_text(value, target, lenient)
    if target.is_integer and source.is_number:
        rounded = f"round({value.sql})" if source == DOUBLE else value.sql
        return Value(f"{word}({rounded} AS {target.stored})", target)
    if target.name == "decimal" and source == DOUBLE:
        text = f"t_double_to_decimal({value.sql}, {target.precision}, {target.scale})"
        return Value(f"{word}({text} AS {target.stored})", target)
    if (target.name == "decimal" and source.is_exact) or (target.is_integer and source == BOOLEAN):
        return plain
    if target == BOOLEAN and source.is_number:
        return Value(f"({value.sql} <> 0)", BOOLEAN)
    if source.is_timestamp and (target == DATE or target.is_timestamp):
        return _recast(value, target)
    if target.is_timestamp and source == DATE:
        return coerce(value, target)
    if coerces(source, target):
        return coerce(value, target)
    if source.name == target.name and len(source.of) == len(target.of) and source.name in ("array", "row"):
        return _inner(value, target, lenient)
    raise SqlError(f"Cannot cast {source} to {target} in this sandbox")


def _inner(value: Value, target: Type, lenient: bool) -> Value:
    if target.name == "array":
        inner = cast(Value("e", value.type.of[0]), target.of[0], lenient)
        return Value(f"list_transform({value.sql}, lambda e: {inner.sql})", target)
    parts = (
        f"f{at} := {cast(Value(f'struct_extract({value.sql}, {chr(39)}f{at}{chr(39)})', have), want, lenient).sql}"
        for at, (have, want) in enumerate(zip(value.type.of, target.of, strict=True), 1)
    )
    return Value(f"CASE WHEN {value.sql} IS NOT NULL THEN struct_pack({', '.join(parts)}) END", target)


def _recast(value: Value, target: Type) -> Value:
    if target == DATE:
        return Value(f"CAST({local(value).sql} AS DATE)", DATE)
    sql = value.sql if target.zone else local(value).sql
    zone = value.type.zone or "UTC" if target.zone else ""
    if target.precision < value.type.precision:
        sql = f"t_round_time({sql}, {10 ** (6 - target.precision)})"
    return Value(sql, Type("timestamp", target.precision, zone=zone))


def _to_text(value: Value) -> str:
    kind = value.type
    if kind == VARCHAR:
        return value.sql
    if kind == DOUBLE:
        return f"t_double_to_text({value.sql})"
    if kind == DATE:
        return f"CAST(t_in_years({value.sql}) AS VARCHAR)"
    if kind.is_timestamp:
        text = f"t_timestamp_to_text({local(value).sql}, {kind.precision})"
        return f"({text} || {text_literal(f' {kind.zone}')})" if kind.zone else text
    if kind.name == "decimal" and kind.precision == kind.scale < 38:  # DuckDB writes .05
        return f"CAST(CAST({value.sql} AS {decimal(kind.precision + 1, kind.scale).stored}) AS VARCHAR)"
    if kind.is_exact or kind == BOOLEAN:
        return f"CAST({value.sql} AS VARCHAR)"
    if kind == JSON:
        return f"t_json_scalar({value.sql}, 'varchar')"
    raise SqlError(f"Cannot cast {kind} to varchar in this sandbox")


def _from_text(value: Value, target: Type, lenient: bool) -> Value:
    flag = "true" if lenient else "false"
    if target.is_timestamp and value.text is not None and target.zone:
        return timestamp_literal(value.text)
    if target.is_integer:
        return Value(
            f"CAST(t_text_to_integer({value.sql}, {BITS[target.name]}, {flag}) AS {target.stored})", target
        )
    if target.name == "decimal":
        text = f"t_text_to_decimal({value.sql}, {target.precision}, {target.scale}, {flag})"
        return Value(f"CAST({text} AS {target.stored})", target)
    if target.is_timestamp and not target.zone:
        return Value(f"t_text_to_timestamp({value.sql}, {target.precision}, {flag})", target)
    if target in (DOUBLE, BOOLEAN, DATE):
        return Value(f"t_text_to_{target}({value.sql}, {flag})", target)
    if target == VARBINARY:
        return Value(f"encode({value.sql})", target)
    raise SqlError(f"Cannot cast varchar to {target} in this sandbox")


def _json_cast(value: Value, target: Type) -> Value:
    source = value.type
    if target == JSON:
        if source in (VARCHAR, DATE) or source.is_timestamp:
            return Value(f"t_text_to_json({_to_text(value)})", JSON)
        if source.is_integer or source == BOOLEAN:
            return Value(f"CAST({value.sql} AS VARCHAR)", JSON)
        if source.name == "array":
            inner = _json_cast(Value("e", source.of[0]), JSON) if source.of[0] != JSON else Value("e", JSON)
            items = f"list_transform({value.sql}, lambda e: coalesce({inner.sql}, 'null'))"
            return Value(f"('[' || array_to_string({items}, ',') || ']')", JSON)
        raise SqlError(f"Cannot cast {source} to json in this sandbox")
    if target.name == "array":
        inner = cast(Value("e", JSON), target.of[0], lenient=False)
        return Value(f"list_transform(t_json_elements({value.sql}), lambda e: {inner.sql})", target)
    if target.is_integer or target in (DOUBLE, BOOLEAN):
        return Value(f"CAST(t_json_scalar({value.sql}, '{target}') AS {target.stored})", target)
    raise SqlError(f"Cannot cast json to {target} in this sandbox")


def timestamp_literal(text: str) -> Value:
    """TIMESTAMP '…', whose digits and zone are its type's."""
    read = read_timestamp(text)
    if read is None or "T" in text.partition(" ")[0]:
        raise SqlError(
            f"Cannot cast {text[:60]!r} to timestamp (this sandbox reads YYYY-MM-DD HH:MM:SS and up to 6 digits of a second)"
        )
    moment, digits, zone = read
    zone = "UTC" if zone == "Z" else zone
    moment = in_utc(moment, zone) if zone else moment
    return Value(
        f"CAST('{moment.isoformat(sep=' ')}' AS TIMESTAMP)", Type("timestamp", digits, zone=zone), text=text
    )


# --- Functions whose types need code


def _number(name: str, values: Sequence[Value], most: int = 1) -> Value:
    if not 1 <= len(values) <= most or not (values[0].type.is_number or values[0].type == UNKNOWN):
        raise wrong(name, values, "(a number)")
    return coerce(values[0], BIGINT) if values[0].type == UNKNOWN else values[0]


def _sign(values: Sequence[Value]) -> Value:
    value = _number("sign", values)
    kind = decimal(1, 0) if value.type.name == "decimal" else value.type
    return Value(f"CAST(sign({value.sql}) AS {kind.stored})", kind)


def _whole(function: str, values: Sequence[Value]) -> Value | None:
    """Floor, ceil, or round and truncate without digits: integers as they are, decimals without their scale."""
    value = _number(function, values, 2)
    p, s = value.type.precision, value.type.scale
    if value.type == DOUBLE and function in ("floor", "ceil") and len(values) == 1:
        return Value(f"{function}({value.sql})", DOUBLE)
    if value.type == DOUBLE:
        return None
    digits = values[1] if len(values) == 2 and function == "round" else None
    if len(values) == 2 and (digits is None or not digits.type.is_integer):
        raise wrong(function, values, "(a number) or (a number, integer)")
    if value.type.is_integer:
        if digits is not None and (digits.constant is None or digits.constant < 0):
            raise SqlError("round(integer, n) with n below 0 or computed is not supported by this sandbox")
        return value
    if digits is not None:
        if digits.constant is None or digits.constant < 0:
            raise SqlError("round(decimal, n) with n below 0 or computed is not supported by this sandbox")
        kind = decimal(p + 1, s)
        cut = decimal(min(38, p + 1), min(s, int(digits.constant)))
        return Value(f"CAST(CAST({value.sql} AS {cut.stored}) AS {kind.stored})", kind)
    kind = decimal(p - s + (min(s, 1) if function != "trunc" else p == s), 0)
    inner = value.sql if function == "round" else f"{function}({value.sql})"
    return Value(f"CAST({inner} AS {kind.stored})", kind)


def _mod(values: Sequence[Value]) -> Value | None:
    return arithmetic("%", *values) if len(values) == 2 else None


def _extreme(function: str, values: Sequence[Value]) -> Value:
    if not values:
        raise wrong(function, values, "at least 1 of one type")
    kind = common_type((value.type for value in values), function)
    typed = [coerce(value, kind).sql for value in values]
    some = " OR ".join(f"{sql} IS NULL" for sql in typed)
    if len(typed) == 1:
        return Value(typed[0], kind)
    return Value(f"CASE WHEN {some} THEN NULL ELSE {function}({', '.join(typed)}) END", kind)


def _coalesce(values: Sequence[Value]) -> Value:
    if len(values) < 2:
        raise wrong("coalesce", values, "at least 2 of one type")
    kind = common_type((value.type for value in values), "coalesce")
    return Value(f"coalesce({', '.join(coerce(value, kind).sql for value in values)})", kind)


def _nullif(values: Sequence[Value]) -> Value | None:
    if len(values) != 2:
        return None
    first, second = values
    same = compare("=", first, second)
    return Value(f"CASE WHEN {same.sql} THEN NULL ELSE {first.sql} END", first.type)


def _regexp(name: str, values: Sequence[Value]) -> Value | None:
    """Functions of a pattern. DuckDB's patterns are RE2's, which have what Java's have but look-around."""
    if len(values) not in (2, 3) or any(not coerces(value.type, VARCHAR) for value in values[:2]):
        return None
    text, pattern = (coerce(value, VARCHAR).sql for value in values[:2])
    third = values[2] if len(values) == 3 else None
    if name == "replace":
        if third is None:
            return Value(f"regexp_replace({text}, {pattern}, '', 'g')", VARCHAR)
        if third.text is None:
            raise SqlError("regexp_replace: this sandbox takes the replacement as a string literal only")
        by = re.sub(r"\$(\d)", r"\\\1", third.text.replace("\\", "\\\\"))
        if "$" in by or "\\" in third.text:
            raise SqlError("regexp_replace: of $ and \\ the replacement may hold $1 to $9 in this sandbox")
        return Value(f"regexp_replace({text}, {pattern}, {text_literal(by)}, 'g')", VARCHAR)
    if third is not None and (not third.type.is_integer or third.constant is None):
        raise SqlError(f"regexp_{name}: this sandbox takes the group as an integer literal only")
    group = 0 if third is None else int(third.constant or 0)
    whole = f"regexp_extract({text}, {pattern}, {group})"
    if name == "extract":
        return Value(f"CASE WHEN regexp_matches({text}, {pattern}) THEN {whole} END", VARCHAR)
    return Value(f"regexp_extract_all({text}, {pattern}, {group})", array_of(VARCHAR))


def _format(values: Sequence[Value]) -> Value | None:
    if len(values) < 1 or values[0].type != VARCHAR:
        return None
    listed = values[1:]
    texts = [
        f"CAST({value.sql} AS VARCHAR)"
        if value.type == DOUBLE
        else _to_text(value)
        if value.type != UNKNOWN
        else "NULL"
        for value in listed
    ]
    kinds = text_literal(";".join(str(value.type) for value in listed))
    return Value(f"t_format({values[0].sql}, {kinds}, CAST([{', '.join(texts)}] AS VARCHAR[]))", VARCHAR)


def _typeof(values: Sequence[Value]) -> Value | None:
    return Value(text_literal(str(values[0].type)), VARCHAR) if len(values) == 1 else None


def _array_join(values: Sequence[Value]) -> Value | None:
    if len(values) not in (2, 3) or values[0].type.name != "array":
        return None
    text = cast(Value("e", values[0].type.of[0]), VARCHAR, lenient=False).sql
    if len(values) == 3:
        text = f"coalesce({text}, {coerce(values[2], VARCHAR).sql})"
    return Value(
        f"array_to_string(list_transform({values[0].sql}, lambda e: {text}), {coerce(values[1], VARCHAR).sql})",
        VARCHAR,
    )


# --- Dates and times


def _instant(name: str, value: Value) -> Value:
    if value.type == UNKNOWN:
        return coerce(value, TIMESTAMP)
    if not value.type.is_moment:
        raise SqlError(f"Unexpected parameter {value.type} for {name}. Expected: a date or a timestamp")
    return value


def _unit(name: str, value: Value, kind: Type) -> str:
    if value.text is None:
        raise SqlError(f"{name}: this sandbox takes the unit as a string literal only")
    unit = value.text.lower()
    if unit not in UNITS or (kind == DATE and unit not in _OF_DATES):
        raise SqlError(f"'{value.text[:40]}' is not a valid {kind} unit for {name}")
    return unit


FIELDS = {
    **{name: name for name in ("year", "quarter", "month", "week", "day", "hour", "minute", "second")},
    **dict.fromkeys(("day_of_week", "dow"), "isodow"),
    **dict.fromkeys(("day_of_year", "doy"), "dayofyear"),
    **dict.fromkeys(("year_of_week", "yow"), "isoyear"),
    "day_of_month": "day",
    "week_of_year": "week",
    "millisecond": "millisecond",
}
"""Names of calendar fields, as functions and (but week_of_year and millisecond) in EXTRACT, with DuckDB's names."""


def date_field(name: str, values: Sequence[Value]) -> Value | None:
    """EXTRACT(name FROM value) and the functions of the fields' names."""
    if len(values) != 1:
        return None
    if values[0].type == SECONDS and (unit := UNITS.get(name)) and name != "week":
        larger = {"day": 1 << 62, "hour": 24, "minute": 60, "second": 60, "millisecond": 1000}[name]
        return Value(f"(({values[0].sql} // {unit}) % {larger})", BIGINT)
    moment = _instant(name, values[0])
    field = FIELDS[name]
    if moment.type == DATE and field in ("hour", "minute", "second", "millisecond"):
        raise SqlError(f"A date has no {name}")
    sql = f"{field}({local(moment).sql})"
    return Value(
        f"CAST({sql} % 1000 AS BIGINT)" if field == "millisecond" else f"CAST({sql} AS BIGINT)", BIGINT
    )


def _date_trunc(values: Sequence[Value]) -> Value | None:
    if len(values) != 2:
        return None
    moment = _instant("date_trunc", values[1])
    unit = _unit("date_trunc", values[0], moment.type)
    sql = _zoned(moment, f"date_trunc('{unit}', {{}})")
    if (
        moment.type.zone and unit not in _OF_DATES
    ):  # an hour that the clocks show twice stays the one that it is
        clock = local(moment).sql
        sql = f"{moment.sql} - ({clock} - date_trunc('{unit}', {clock}))"
    return Value(f"CAST({sql} AS {moment.type.stored})", moment.type)


def _date_add(values: Sequence[Value]) -> Value | None:
    if len(values) != 3 or not coerces(values[1].type, BIGINT):
        return None
    moment = _instant("date_add", values[2])
    unit = _unit("date_add", values[0], moment.type)
    if unit == "millisecond" and moment.type.precision < 3:
        raise SqlError(
            "Adding milliseconds to a timestamp of less than 3 digits is not supported by this sandbox"
        )
    amount = coerce(values[1], BIGINT).sql
    if unit in ("month", "quarter", "year"):
        step = f"to_months(CAST({amount} * {dict(month=1, quarter=3, year=12)[unit]} AS INTEGER))"
    elif moment.type == DATE:
        step = f"to_days(CAST({amount} * {UNITS[unit] // 86_400_000} AS INTEGER))"
    else:
        step = f"to_milliseconds({amount} * {UNITS[unit]})"
    if unit not in _OF_DATES:
        return shifted(f"{moment.sql} + {step}", moment.type)
    return shifted(_zoned(moment, f"{{}} + {step}"), moment.type)


def _date_diff(values: Sequence[Value]) -> Value | None:
    if len(values) != 3:
        return None
    start, end = (_instant("date_diff", value) for value in values[1:])
    kind = common_type((start.type, end.type), "date_diff")
    unit = _unit("date_diff", values[0], kind)
    both = [coerce(value, kind) for value in (start, end)]
    sides = [(local(value) if unit in _OF_DATES else value).sql for value in both]
    if kind.is_timestamp and kind.precision > 3:
        sides = [f"date_trunc('millisecond', {sql})" for sql in sides]
    return Value(f"date_sub('{unit}', {', '.join(sides)})", BIGINT)


def _date(values: Sequence[Value]) -> Value | None:
    return cast(values[0], DATE, lenient=False) if len(values) == 1 else None


def _from_unixtime(values: Sequence[Value]) -> Value | None:
    if len(values) not in (1, 2) or not coerces(values[0].type, DOUBLE):
        return None
    millis = f"CAST(floor({coerce(values[0], DOUBLE).sql} * 1000 + 0.5) AS BIGINT)"
    found = shifted(f"make_timestamp({millis} * 1000)", ZONED)
    return found if len(values) == 1 else at_zone(found, values[1])


def at_zone(value: Value, zone: Value) -> Value:
    """AT TIME ZONE."""
    if zone.text is None:
        raise SqlError("This sandbox takes a time zone as a string literal only")
    zone_of(zone.text)
    if not value.type.is_timestamp:
        raise SqlError(f"AT TIME ZONE does not take a {value.type}")
    return Value(value.sql, Type("timestamp", value.type.precision, zone=zone.text))


def _with_timezone(values: Sequence[Value]) -> Value | None:
    if len(values) != 2 or not values[0].type.is_timestamp or values[0].type.zone:
        return None
    found = at_zone(*values)
    return Value(to_utc(found.sql, found.type.zone), found.type)


def _at_timezone(values: Sequence[Value]) -> Value | None:
    return at_zone(*values) if len(values) == 2 and values[0].type.zone else None


def _zones_clock(name: str, values: Sequence[Value]) -> Value | None:
    """Functions of a timestamp's own clock: the same as of the plain timestamp that its zone shows."""
    if not values or not values[0].type.zone or values[0].type.zone == "UTC":
        return None
    return call(name, [local(values[0]), *values[1:]])


def _to_iso8601(values: Sequence[Value]) -> Value | None:
    if len(values) != 1 or not values[0].type.is_timestamp:
        return None
    if values[0].type.zone not in ("", "UTC"):
        raise SqlError("to_iso8601 of other zones than UTC is not supported by this sandbox")
    text = f"replace(t_timestamp_to_text({values[0].sql}, {values[0].type.precision}), ' ', 'T')"
    return Value(f"({text} || 'Z')" if values[0].type.zone else text, VARCHAR)


# --- Rows and arrays


def row(values: Sequence[Value], names: Sequence[str] = ()) -> Value:
    """ROW(a, b, …)."""
    if not values:
        raise SqlError("ROW needs at least one field")
    kind = Type("row", of=tuple(value.type for value in values), names=tuple(names) or ("",) * len(values))
    return Value(
        f"struct_pack({', '.join(f'f{at} := {value.sql}' for at, value in enumerate(values, 1))})", kind
    )


def array(values: Sequence[Value]) -> Value:
    """ARRAY[a, b, …]."""
    kind = common_type((value.type for value in values), "ARRAY")
    listed = ", ".join(coerce(value, kind).sql for value in values)
    return Value(f"CAST([{listed}] AS {kind.stored}[])", array_of(kind))


def subscript(value: Value, index: Value) -> Value:
    """value[index]."""
    if value.type.name == "array" and coerces(index.type, BIGINT):
        return Value(f"t_at({value.sql}, {coerce(index, BIGINT).sql})", value.type.of[0])
    if value.type.name == "map":
        return Value(
            f"t_key({value.sql}, {coerce(index, common_type((value.type.of[0], index.type), '[]')).sql})",
            value.type.of[1],
        )
    if value.type.name == "row" and index.constant is not None and 1 <= index.constant <= len(value.type.of):
        return field(value, int(index.constant))
    raise SqlError(f"Cannot use {index.type} for subscript of {value.type}")


def field(value: Value, number: int) -> Value:
    """A row's field, from 1."""
    return Value(f"struct_extract({value.sql}, 'f{number}')", value.type.of[number - 1])


_Builder = Callable[[Sequence[Value]], Value | None]

_BUILDERS: dict[str, _Builder] = {
    "sign": _sign,
    "floor": partial(_whole, "floor"),
    **dict.fromkeys(("ceil", "ceiling"), partial(_whole, "ceil")),
    "round": partial(_whole, "round"),
    "truncate": partial(_whole, "trunc"),
    "mod": _mod,
    "greatest": partial(_extreme, "greatest"),
    "least": partial(_extreme, "least"),
    "coalesce": _coalesce,
    "nullif": _nullif,
    "concat": partial(concat, "concat"),
    **{f"regexp_{name}": partial(_regexp, name) for name in ("replace", "extract", "extract_all")},
    "format": _format,
    "typeof": _typeof,
    "array_join": _array_join,
    **{name: partial(date_field, name) for name in FIELDS},
    "date": _date,
    "date_trunc": _date_trunc,
    "date_add": _date_add,
    "date_diff": _date_diff,
    "from_unixtime": _from_unixtime,
    "with_timezone": _with_timezone,
    "at_timezone": _at_timezone,
    "to_iso8601": _to_iso8601,
    **{name: partial(_zones_clock, name) for name in ("date_format", "last_day_of_month")},
    "row": row,
}

NAMES = (*_SCALARS, *_BUILDERS, *WINDOWED, "checksum", "listagg", "now", "grouping", "reduce", "zip_with")
"""All functions that there are, by Trino's names."""
