"""CAST and TRY_CAST, between the types that Trino casts and this sandbox has."""

from __future__ import annotations

from dagster_peaka.sandbox.sql.kinds import (
    BOOLEAN,
    DATE,
    DOUBLE,
    JSON,
    UNKNOWN,
    VARBINARY,
    VARCHAR,
    SqlError,
    Type,
    Value,
    coerce,
    coerces,
    decimal,
    text_literal,
)
from dagster_peaka.sandbox.sql.moments import local, timestamp_literal

DAY = r"\d{4}-\d\d-\d\d"
CLOCK = r"([01]\d|2[0-3]):\d\d(:\d\d(\.\d{1,6})?)?"
_DATELIKE = r"(?s)\s*[+-]?\d+-\d+-\d+.*"
_FORMS = {
    "integer": (r"[+-]?[0-9]+", r"(?s).*[^\P{Nd}0-9].*", "digits"),
    "decimal": (r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)", "(?s).*[0-9].*", "plain digits and a point"),
    "double": (
        r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
        r"(?is)[\x00-\x20]*[+-]?(nan|infinity|0x.*|[0-9.]+(e[+-]?[0-9]+)?[fd]?)[\x00-\x20]*",
        "plain digits, a point and an exponent",
    ),
    "boolean": ("(?i)t|true|1|f|false|0", r"\b\B", "t, true, 1 and f, false, 0"),
    "date": (DAY, _DATELIKE, "real dates as YYYY-MM-DD"),
    "timestamp": (f"{DAY}( {CLOCK})?", _DATELIKE, "YYYY-MM-DD HH:MM:SS and up to 6 digits of a second"),
}
"""Texts that are cast: those that DuckDB reads as Trino does, others that Trino may read, and the first in words.
TRY_CAST gives NULL only for what Trino surely refuses.
"""


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
        text = to_text(value)
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


def to_text(value: Value) -> str:
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
    if target.is_timestamp and target.zone and value.text is not None:
        return timestamp_literal(value.text)
    if target == VARBINARY:
        return Value(f"encode({value.sql})", target)
    form = _FORMS.get("integer" if target.is_integer else target.name)
    if form is None or target.zone:
        raise SqlError(f"Cannot cast varchar to {target} in this sandbox")
    read = {
        "date": f"t_day({value.sql})",
        "timestamp": f"t_moment({value.sql}, {10 ** (6 - target.precision)})",
    }
    typed = read.get(target.name, f"TRY_CAST({value.sql} AS {target.stored})")
    good, more, said = (
        text_literal(text) for text in (*form[:2], f"{target} (this sandbox reads {form[2]})")
    )
    sql = f"t_read({value.sql}, {typed}, {good}, {more}, {str(lenient).lower()}, {said})"
    return Value(f"t_finite({sql})" if target == DOUBLE else sql, target)


def _json_cast(value: Value, target: Type) -> Value:
    source = value.type
    if target == JSON:
        if source in (VARCHAR, DATE) or source.is_timestamp:
            return Value(f"CAST(to_json({to_text(value)}) AS VARCHAR)", JSON)
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
