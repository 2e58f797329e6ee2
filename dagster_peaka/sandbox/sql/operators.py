"""Operators with Trino's types, and the values that are put together of others: rows and arrays."""

from __future__ import annotations

from collections.abc import Sequence

from dagster_peaka.sandbox.sql.kinds import (
    BIGINT,
    BOOLEAN,
    DOUBLE,
    JSON,
    UNKNOWN,
    VARBINARY,
    VARCHAR,
    SqlError,
    Type,
    Value,
    array_of,
    coerce,
    coerces,
    common_type,
    decimal,
    wrong,
)
from dagster_peaka.sandbox.sql.moments import of_moments

COMPARED = ("=", "<>", "IS DISTINCT FROM", "IS NOT DISTINCT FROM")


def arithmetic(symbol: str, a: Value, b: Value) -> Value:
    """A symbol b for + - * / %, typed and checked as in Trino."""
    if a.type.is_moment or b.type.is_moment or a.type.is_interval or b.type.is_interval:
        return of_moments(symbol, a, b)
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


def negate(value: Value) -> Value:
    """-value"""
    if not value.type.is_number and not value.type.is_interval:
        raise SqlError(f"Cannot negate {value.type}")
    constant = None if value.constant is None else -value.constant
    return Value(f"CAST(-{value.sql} AS {value.type.stored})", value.type, constant)


def compare(symbol: str, a: Value, b: Value) -> Value:
    """A symbol b for = <> < <= > >= IS [NOT] DISTINCT FROM, of types that Trino compares."""
    kind = common_type((a.type, b.type), f"Cannot apply operator {symbol}")
    x, y = coerce(a, kind), coerce(b, kind)
    if kind.of and symbol in ("=", "<>"):
        return _same(symbol, x, y)
    if kind.name == "map" or (symbol not in COMPARED and (kind == JSON or kind.of)):
        raise SqlError(f"Cannot apply operator: {a.type} {symbol} {b.type} in this sandbox")
    return Value(f"({x.sql} {symbol} {y.sql})", BOOLEAN)


def _same(symbol: str, a: Value, b: Value) -> Value:
    """= and <> of rows and arrays. DuckDB would take a NULL in them for a value."""
    if a.type.name == "row":
        pairs = ((field(a, at), field(b, at)) for at in range(1, len(a.type.of) + 1))
        same = " AND ".join(compare("=", x, y).sql for x, y in pairs)
        test = f"CASE WHEN {a.sql} IS NULL OR {b.sql} IS NULL THEN NULL ELSE {same} END"
    elif a.type.name == "array" and not a.type.of[0].of:
        nulls = f"t_has({a.sql}, NULL) OR t_has({b.sql}, NULL)"
        error = "error('This sandbox compares no arrays that hold NULL')"
        test = f"CASE WHEN {nulls} THEN {error} ELSE {a.sql} = {b.sql} END"
    else:
        raise SqlError(f"Cannot apply operator: {a.type} {symbol} {b.type} in this sandbox")
    return Value(f"({test})" if symbol == "=" else f"(NOT {test})", BOOLEAN)


def scalar(kind: Type, place: str) -> Type:
    """The type, if it has no NULLs inside that would compare otherwise than in Trino. Raises SqlError."""
    if kind.of:
        raise SqlError(f"{place} of {kind} is not supported by this sandbox")
    return kind


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
    joined = " || ".join(coerce(value, kind).sql for value in values)
    unknown = any(
        value.type == UNKNOWN for value in values
    )  # DuckDB 1 forgets the type of what is NULL for sure
    return Value(f"CAST({joined} AS {kind.stored})" if unknown else f"({joined})", kind)


def like(value: Value, pattern: Value, escape: Value | None = None) -> Value:
    """Value LIKE pattern, by characters and case-sensitive."""
    texts = [value, pattern] if escape is None else [value, pattern, escape]
    if any(not coerces(text.type, VARCHAR) for text in texts):
        raise wrong("LIKE", texts, "varchar, varchar")
    if escape is None:
        return Value(f"({coerce(value, VARCHAR).sql} LIKE {coerce(pattern, VARCHAR).sql})", BOOLEAN)
    if escape.text == "":
        raise SqlError("LIKE: the escape string must be a single character")
    return Value(f"t_like({', '.join(coerce(text, VARCHAR).sql for text in texts)})", BOOLEAN)


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
