"""A profile from a file: the report of an account, as `python -m dagster_peaka doctor --report` writes it.

The sandbox reads of it what it needs, and nothing else: `base`, the profile that answers what was not read, and of
each of the `readings` its `name` and its `value`, where a switch of `Behaviour` has that name and can have that value.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from dagster_peaka.sandbox.behaviour import DEFAULT_PROFILE, PROFILES, Behaviour
from dagster_peaka.sandbox.sources import SandboxError

FORMAT = 1
"""The newest format of a report that this can read."""


def readings_of(profile: str | Path) -> dict[str, Any]:
    """Every field of `Behaviour` as a profile reads it: one of `PROFILES`, or a report's file.

    Raises `SandboxError` for an unknown name, or a file that is no report.
    """
    if isinstance(profile, str) and profile in PROFILES:
        return PROFILES[profile]
    path = Path(profile)
    if not path.is_file():
        raise SandboxError(
            f"profile {profile}: it must be one of {', '.join(PROFILES)}, or the file of a doctor's report."
        )
    try:
        report: Any = json.loads(path.read_text(encoding="utf-8"))
        if report["format"] > FORMAT:
            raise SandboxError(f"profile {profile}: the report is of a newer release of dagster-peaka.")
        taken = {entry["name"]: entry["value"] for entry in cast("list[dict[str, Any]]", report["readings"])}
        base = PROFILES[report["base"] if report["base"] in PROFILES else DEFAULT_PROFILE]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, SandboxError):
            raise
        raise SandboxError(f"profile {profile}: the file is no report of a doctor.") from None
    usual = {field.name: field.default for field in fields(Behaviour)}
    return base | {
        name: value for name, value in taken.items() if name in usual and _fits(name, value, usual[name])
    }


def _fits(name: str, value: Any, usual: Any) -> bool:
    """Whether a switch can have a value: a doctor also reports what no switch can play."""
    numbers = (int, float)
    alike = type(value) is type(usual) or (type(usual) in numbers and type(value) in numbers)
    try:
        setattr(Behaviour(), name, value)
    except (ValueError, TypeError):
        return False
    return alike
