"""Calendar arithmetic as Trino does it, on integers: days, and microseconds, since 1970-01-01.

Only years 1 to 9999 exist here. Units, and how months clamp and differences count whole units only, follow
Trino's "Date and time functions" page; month and year differences are those of the Joda-Time calendar under it.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from functools import lru_cache

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1)
_FIRST, _LAST = date.min.toordinal() - _EPOCH_DAY, date.max.toordinal() - _EPOCH_DAY

FIXED_UNITS = {
    "millisecond": 1000,
    "second": SECOND,
    "minute": MINUTE,
    "hour": HOUR,
    "day": DAY,
    "week": 7 * DAY,
}
MONTHS = {"month": 1, "quarter": 3, "year": 12}
DATE_UNITS = ("day", "week", "month", "quarter", "year")
UNITS = (*FIXED_UNITS, *MONTHS)

_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?)?(Z|[+-]00:?00)?", re.ASCII
)


class OutOfRange(ValueError):
    """A date before the year 1 or after 9999."""


@lru_cache(maxsize=4096)
def parse_date(text: str) -> int | None:
    """Days of 'YYYY-MM-DD', or None when it is no such date."""
    match = _DATE.fullmatch(text)
    try:
        return date(int(match[1]), int(match[2]), int(match[3])).toordinal() - _EPOCH_DAY if match else None
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def parse_timestamp(text: str) -> tuple[int, bool, bool] | None:
    """(microseconds, has a "T", has a UTC mark) of 'YYYY-MM-DD[ HH:MM[:SS[.ffffff]]]', or None."""
    match = _TIMESTAMP.fullmatch(text)
    days = parse_date(match[1]) if match else None
    if match is None or days is None:
        return None
    hour, minute, second = (int(part or 0) for part in match.group(2, 3, 4))
    if hour > 23 or minute > 59 or second > 59 or (match[6] and not match[2]):
        return None
    micros = (
        days * DAY + hour * HOUR + minute * MINUTE + second * SECOND + int((match[5] or "").ljust(6, "0"))
    )
    return micros, "T" in text, bool(match[6])


def to_date(days: int) -> date:
    """The date of a day number; OutOfRange outside of the years 1 to 9999."""
    if not _FIRST <= days <= _LAST:
        raise OutOfRange("a date is outside of the years 1 to 9999")
    return date.fromordinal(days + _EPOCH_DAY)


def to_datetime(micros: int) -> datetime:
    """The datetime of a microsecond number; OutOfRange outside of the years 1 to 9999."""
    to_date(micros // DAY)
    return _EPOCH + timedelta(microseconds=micros)


def from_datetime(moment: datetime) -> int:
    """Microseconds of a naive datetime."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def date_text(days: int) -> str:
    """2013-01-31"""
    return to_date(days).isoformat()


def timestamp_text(micros: int, precision: int) -> str:
    """2013-01-31 05:00:00.000, with `precision` digits behind the point and no point for 0."""
    whole = to_datetime(micros).replace(microsecond=0).isoformat(sep=" ")
    return f"{whole}.{micros % SECOND:06d}"[: 20 + precision] if precision else whole


def round_timestamp(micros: int, precision: int) -> int:
    """`micros` with `precision` digits of a second, halves up (timestamps have no sign)."""
    unit = 10 ** (6 - precision)
    return (micros + unit // 2) // unit * unit


def add_months(days: int, months: int) -> int:
    """Days plus months; a day that the month lacks becomes its last: January 31 plus 1 is February 28 or 29."""
    start = to_date(days)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    if not 1 <= year <= 9999:
        raise OutOfRange("a date is outside of the years 1 to 9999")
    return date(year, month + 1, min(start.day, month_length(year, month + 1))).toordinal() - _EPOCH_DAY


def month_length(year: int, month: int) -> int:
    """Days of that month."""
    if month == 2:
        return 29 if is_leap(year) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def is_leap(year: int) -> bool:
    """Whether the year has a February 29."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def add(unit: str, amount: int, micros: int) -> int:
    """`micros` plus `amount` units, as date_add does."""
    if unit in FIXED_UNITS:
        moved = micros + amount * FIXED_UNITS[unit]
    else:
        moved = add_months(micros // DAY, amount * MONTHS[unit]) * DAY + micros % DAY
    to_date(moved // DAY)
    return moved


def truncate(unit: str, micros: int) -> int:
    """The start of the unit that `micros` lies in, as date_trunc does; weeks begin on Monday."""
    if unit == "week":
        days = micros // DAY
        return (days - (days + 3) % 7) * DAY
    if unit in FIXED_UNITS:
        return micros - micros % FIXED_UNITS[unit]
    start = to_date(micros // DAY)
    month = 1 if unit == "year" else start.month - (start.month - 1) % MONTHS[unit]
    return (date(start.year, month, 1).toordinal() - _EPOCH_DAY) * DAY


def difference(unit: str, start: int, end: int) -> int:
    """Whole units from `start` to `end`, negative when `end` is earlier, as date_diff counts them."""
    start, end = start - start % 1000, end - end % 1000
    if end < start:
        return -difference(unit, end, start)
    if unit in FIXED_UNITS:
        return (end - start) // FIXED_UNITS[unit]
    return _years(start, end) if unit == "year" else _months(start, end) // MONTHS[unit]


def _months(start: int, end: int) -> int:
    a, b = to_datetime(start), to_datetime(end)
    if b.day == month_length(b.year, b.month) and a.day > b.day:
        a = a.replace(day=b.day)
    months = (b.year - a.year) * 12 + b.month - a.month
    return months - (b - b.replace(day=1, hour=0, minute=0, second=0, microsecond=0) < _into_month(a))


def _into_month(moment: datetime) -> timedelta:
    return moment - moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _years(start: int, end: int) -> int:
    a, b = to_datetime(start), to_datetime(end)
    into_a, into_b = a - datetime(a.year, 1, 1), b - datetime(b.year, 1, 1)
    leap_day = timedelta(days=59)
    if into_a >= leap_day:
        if is_leap(a.year) and not is_leap(b.year):
            into_a -= timedelta(days=1)
        elif not is_leap(a.year) and is_leap(b.year) and into_b >= leap_day:
            into_b -= timedelta(days=1)
    return b.year - a.year - (into_b < into_a)


def _week_year(day: date) -> int:
    return day.isocalendar()[0]


def field(name: str, micros: int) -> int:
    """One calendar field of a moment: what EXTRACT and year(), week(), hour() … answer."""
    moment = to_datetime(micros)
    day = moment.date()
    if name in ("hour", "minute", "second", "year", "month", "day"):
        return int(getattr(moment, name))
    other = {
        "millisecond": lambda: moment.microsecond // 1000,
        "quarter": lambda: (day.month + 2) // 3,
        "week": lambda: day.isocalendar()[1],
        "year_of_week": lambda: _week_year(day),
        "day_of_week": day.isoweekday,
        "day_of_year": lambda: day.timetuple().tm_yday,
    }
    return other[name]()
