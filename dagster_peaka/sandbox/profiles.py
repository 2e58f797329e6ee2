"""A profile from a file: the report of an account, as `python -m dagster_peaka doctor --report` writes it.

The sandbox reads of it what it needs, and nothing else: `base`, the profile that answers what was not read, and of
each of the `readings` its `name` and its `value`, where a switch of `Behaviour` has that name and can have that value.
"""

import json
from pathlib import Path
from typing import Any, cast

from dagster_peaka.sandbox.behaviour import DEFAULT_PROFILE, PROFILES, Behaviour, Profile
from dagster_peaka.sandbox.sources import SandboxError

FORMAT = 1
"""The newest format of a report that this can read."""


def read_profile(profile: str | Path) -> tuple[Profile, dict[str, Any]]:
    """The profile that a name or a report's file means, or is based on, and every field of `Behaviour` as it reads it.

    Raises `SandboxError` for an unknown name, or a file that is no report.
    """
    for known, readings in PROFILES.items():
        if profile == known:
            return known, readings
    path = Path(profile)
    if not path.is_file():
        known = ", ".join(PROFILES)
        raise SandboxError(f"profile {profile}: it must be one of {known}, or the file of a doctor's report.")
    try:
        report: Any = json.loads(path.read_text(encoding="utf-8"))
        newer = report["format"] > FORMAT
        base: Profile = "documented" if report["base"] == "documented" else DEFAULT_PROFILE
        taken = {entry["name"]: entry["value"] for entry in cast("list[dict[str, Any]]", report["readings"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise SandboxError(f"profile {profile}: the file is no report of a doctor.") from None
    if newer:
        raise SandboxError(f"profile {profile}: the report is of a newer release of dagster-peaka.")
    return base, PROFILES[base] | {name: value for name, value in taken.items() if _fits(name, value)}


def _fits(name: str, value: Any) -> bool:
    """Whether a switch can have a value: a doctor also reports what no switch can play."""
    usual = PROFILES["documented"].get(name)
    numbers = (int, float)
    try:
        Behaviour(**{name: value})
    except (ValueError, TypeError):
        return False
    return type(value) is type(usual) or (type(usual) in numbers and type(value) in numbers)
