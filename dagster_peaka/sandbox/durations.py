"""ISO-8601 durations of schedules, such as `PT6H`: weeks, days, hours, minutes and seconds."""

import re

_DURATION = re.compile(
    r"P(?:(?P<weeks>[0-9]{1,9})W)?(?:(?P<days>[0-9]{1,9})D)?"
    r"(?P<time>T(?:(?P<hours>[0-9]{1,9})H)?(?:(?P<minutes>[0-9]{1,9})M)?"
    r"(?:(?P<seconds>[0-9]{1,9}(?:\.[0-9]{1,9})?)S)?)?"
)
_SECONDS = {"weeks": 604_800, "days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}
SHORTEST = 0.1
"""Seconds below which a schedule would only keep the machine busy."""
LONGEST = 366 * 86_400
"""Seconds above which a duration is taken for a mistake."""


def parse_duration(text: str) -> float:
    """The seconds of a duration: `parse_duration("P1DT6H") == 108_000`.

    Raises `ValueError` with a sentence for anything else, years and months included: they have no fixed length.
    """
    match = _DURATION.fullmatch(text)
    units = match.groupdict() if match else {}
    time = units.pop("time", None)
    given = {unit: amount for unit, amount in units.items() if amount is not None}
    if not given or time == "T":
        raise ValueError(
            f"{text[:60]!a} is no ISO-8601 duration of weeks, days, hours, minutes and seconds, such as PT6H or P1D"
        )
    seconds = sum(float(amount) * _SECONDS[unit] for unit, amount in given.items())
    if seconds < SHORTEST:
        raise ValueError(f"{text[:60]!a} is too short: a schedule needs at least PT{SHORTEST}S")
    if seconds > LONGEST:
        raise ValueError(f"{text[:60]!a} is too long: a schedule may wait P366D at most")
    return seconds
