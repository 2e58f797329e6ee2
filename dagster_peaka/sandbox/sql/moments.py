"""Dates, timestamps and intervals: arithmetic, and the functions of them whose types need code."""

from __future__ import annotations

from dagster_peaka.sandbox.sql.formats import in_utc, read_timestamp, zone_of
from dagster_peaka.sandbox.sql.kinds import (
    BIGINT,
    DATE,
    DOUBLE,
    MONTHS,
    SECONDS,
    TIMESTAMP,
    UNKNOWN,
    VARCHAR,
    ZONED,
    SqlError,
    Type,
    Value,
    coerce,
    coerces,
    common_type,
    text_literal,
)

MONTHS_OF = {"month": 1, "quarter": 3, "year": 12}
UNITS = {
    "millisecond": 1,
    "second": 1000,
    "minute": 60_000,
    "hour": 3_600_000,
    "day": 86_400_000,
    "week": 604_800_000,
    "month": 0,
    "quarter": 0,
    "year": 0,
}
"""Units of dates, with the milliseconds of those that have always as many."""
_OF_DATES = ("day", "week", "month", "quarter", "year")


def of_moments(symbol: str, a: Value, b: Value) -> Value:
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
    """A computed date or timestamp: DuckDB makes timestamps of dates."""
    return Value(f"CAST({sql} AS {kind.stored})", kind)


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


def date_field(name: str, value: Value) -> Value:
    """EXTRACT(name FROM value) and the functions of the fields' names."""
    moment = _instant(name, value)
    field = FIELDS[name]
    if moment.type == DATE and field in ("hour", "minute", "second", "millisecond"):
        raise SqlError(f"A date has no {name}")
    sql = f"{field}({local(moment).sql})"
    return Value(
        f"CAST({sql} % 1000 AS BIGINT)" if field == "millisecond" else f"CAST({sql} AS BIGINT)", BIGINT
    )


def date_trunc(named: Value, value: Value) -> Value:
    moment = _instant("date_trunc", value)
    unit = _unit("date_trunc", named, moment.type)
    sql = _zoned(moment, f"date_trunc('{unit}', {{}})")
    if (
        moment.type.zone and unit not in _OF_DATES
    ):  # an hour that the clocks show twice stays the one that it is
        clock = local(moment).sql
        sql = f"{moment.sql} - ({clock} - date_trunc('{unit}', {clock}))"
    return Value(f"CAST({sql} AS {moment.type.stored})", moment.type)


def date_add(named: Value, number: Value, value: Value) -> Value | None:
    if not coerces(number.type, BIGINT):
        return None
    moment = _instant("date_add", value)
    unit = _unit("date_add", named, moment.type)
    if unit == "millisecond" and moment.type.precision < 3:
        raise SqlError(
            "Adding milliseconds to a timestamp of less than 3 digits is not supported by this sandbox"
        )
    amount = coerce(number, BIGINT).sql
    if unit in ("month", "quarter", "year"):
        step = f"to_months(CAST({amount} * {MONTHS_OF[unit]} AS INTEGER))"
    elif moment.type == DATE:
        step = f"to_days(CAST({amount} * {UNITS[unit] // 86_400_000} AS INTEGER))"
    else:
        step = f"to_milliseconds({amount} * {UNITS[unit]})"
    if unit not in _OF_DATES:
        return shifted(f"{moment.sql} + {step}", moment.type)
    return shifted(_zoned(moment, f"{{}} + {step}"), moment.type)


def date_diff(named: Value, start: Value, end: Value) -> Value:
    start, end = _instant("date_diff", start), _instant("date_diff", end)
    kind = common_type((start.type, end.type), "date_diff")
    unit = _unit("date_diff", named, kind)
    both = [coerce(value, kind) for value in (start, end)]
    sides = [(local(value) if unit in _OF_DATES else value).sql for value in both]
    if kind.is_timestamp and kind.precision > 3:
        sides = [f"date_trunc('millisecond', {sql})" for sql in sides]
    return Value(f"date_sub('{unit}', {', '.join(sides)})", BIGINT)


def from_unixtime(seconds: Value, zone: Value | None = None) -> Value | None:
    if not coerces(seconds.type, DOUBLE):
        return None
    millis = f"CAST(floor({coerce(seconds, DOUBLE).sql} * 1000 + 0.5) AS BIGINT)"
    found = shifted(f"make_timestamp({millis} * 1000)", ZONED)
    return found if zone is None else at_zone(found, zone)


def at_zone(value: Value, zone: Value) -> Value:
    """AT TIME ZONE."""
    if zone.text is None:
        raise SqlError("This sandbox takes a time zone as a string literal only")
    zone_of(zone.text)
    if not value.type.is_timestamp:
        raise SqlError(f"AT TIME ZONE does not take a {value.type}")
    return Value(value.sql, Type("timestamp", value.type.precision, zone=zone.text))


def with_timezone(moment: Value, zone: Value) -> Value | None:
    if not moment.type.is_timestamp or moment.type.zone:
        return None
    found = at_zone(moment, zone)
    return Value(to_utc(found.sql, found.type.zone), found.type)


def at_timezone(moment: Value, zone: Value) -> Value | None:
    return at_zone(moment, zone) if moment.type.zone else None


def to_iso8601(moment: Value) -> Value | None:
    if not moment.type.is_timestamp:
        return None
    if moment.type.zone not in ("", "UTC"):
        raise SqlError("to_iso8601 of other zones than UTC is not supported by this sandbox")
    text = f"replace(t_timestamp_to_text({moment.sql}, {moment.type.precision}), ' ', 'T')"
    return Value(f"({text} || 'Z')" if moment.type.zone else text, VARCHAR)


def timestamp_literal(text: str) -> Value:
    """TIMESTAMP '…', whose digits and zone are its type's."""
    read = read_timestamp(text)
    if read is None or "T" in text.partition(" ")[0]:
        raise SqlError(
            f"Cannot cast {text[:60]!r} to timestamp"
            " (this sandbox reads YYYY-MM-DD HH:MM:SS and up to 6 digits of a second)"
        )
    moment, digits, zone = read
    zone = "UTC" if zone == "Z" else zone
    moment = in_utc(moment, zone) if zone else moment
    return Value(
        f"CAST('{moment.isoformat(sep=' ')}' AS TIMESTAMP)", Type("timestamp", digits, zone=zone), text=text
    )
