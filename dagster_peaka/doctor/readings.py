"""A reading: what was asked, what was found, whose reading that is, what it means, what to set. Plain data.

Table, JSON and report are views of it. A reading that bears the name of a switch of the sandbox has its value in that
switch's words, which is how the sandbox plays a report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal, cast

import yaml

from dagster_peaka.errors import shortened
from dagster_peaka.resource import PeakaResource

Level = Literal["ok", "note", "warning", "problem"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "problem")
"""Nothing to do; worth knowing; may delay or blur syncs; keeps syncs from working."""


@dataclass(frozen=True)
class Reading:
    """One finding.

    Attributes:
        name: what was asked.
        value: what was found: a word of ours, a number, a truth value, or what is JSON made of them.
        whose: ``document``, ``observed``, ``both`` or ``new``; empty where neither says anything of it.
        level: how it bears on syncs.
        meaning: what it means for the user.
        setting: what to change; empty where there is nothing.
        about: the names and ids of what it is about, which a report replaces.
        said: Peaka's own words, or those of what stands between.
        measured: whether the value is a time that was measured, so that it differs a little each time.
    """

    name: str
    value: Any
    whose: str
    level: Level
    meaning: str
    setting: str = ""
    about: tuple[str, ...] = ()
    said: str = ""
    measured: bool = False

    @property
    def title(self) -> str:
        """What was asked, in words."""
        return KNOWN[self.name].title

    @property
    def names(self) -> str:
        """What it is about, in parentheses; empty where it is about nothing by a name."""
        return f"({', '.join(self.about)})" if self.about else ""

    @property
    def advice(self) -> str:
        """What it means and what to set, as one line; Peaka's words where there is nothing to set."""
        words = (self.meaning, self.setting or shortened(self.said, 300), self.names)
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class _Known:
    """What is known of a reading before it is taken.

    ``says`` holds (level, meaning, setting) by value, ``*`` for any, ``beyond`` for a number above ``bound``.
    """

    title: str
    document: Any = None
    observed: Any = None
    says: Mapping[str, tuple[Level, str, str]] = field(default_factory=dict[str, tuple[Level, str, str]])
    bound: float | None = None
    measured: bool = False


def take(name: str, value: Any, *about: str, said: str = "", level: Level | None = None) -> Reading:
    """The reading of a value, judged by what is known of it; ``level`` counts over the level that is known."""
    known = KNOWN[name]
    usual, meaning, setting = known.says.get(str(value)) or known.says.get("*") or ("ok", "", "")
    if known.bound is not None and value > known.bound:
        usual, meaning, setting = known.says["beyond"]
    given = ", ".join(map(str, cast("list[object]", value))) if isinstance(value, list) else value
    whose = _whose(known, value)
    return Reading(
        name,
        value,
        whose,
        level or ("note" if whose == "new" and usual == "ok" else usual),
        meaning.format(value=given),
        setting,
        about,
        said,
        known.measured,
    )


def _whose(known: _Known, value: Any) -> str:
    told = {"document": known.document, "observed": known.observed}
    said = [who for who, what in told.items() if what is not None]
    agreeing = [who for who in said if told[who] == value]
    return ("both" if len(agreeing) > 1 else agreeing[0]) if agreeing else "new" if said else ""


def base_of(readings: Sequence[Reading]) -> str:
    """The profile of the sandbox that answers what was not read: the one that more readings agree with."""
    count = {"document": 0, "observed": 0}
    for reading in readings:
        known = KNOWN[reading.name]
        if reading.whose in count and None not in (known.document, known.observed):
            count[reading.whose] += 1
    return "documented" if count["document"] > count["observed"] else "observed"


def worst_of(readings: Sequence[Reading]) -> Reading | None:
    """The first problem, or the first warning where there is none."""
    serious = [reading for reading in readings if reading.level in ("warning", "problem")]
    return max(serious, key=lambda reading: LEVELS.index(reading.level), default=None)


def first_of(readings: Sequence[Reading]) -> str:
    """The one line that helps first."""
    worst = worst_of(readings)
    return worst.advice if worst else "Nothing was found that will keep syncs from working."


def _known() -> dict[str, _Known]:
    entries = yaml.safe_load((files("dagster_peaka.doctor") / "readings.yaml").read_text(encoding="utf-8"))
    return {name: _read(entry) for name, entry in entries.items()}


def _read(entry: dict[str, Any]) -> _Known:
    told = {name: entry.pop(name) for name in ("title", "document", "observed", "measured") if name in entry}
    bound = entry.pop("bound", None)
    if isinstance(bound, str):  # a setting of the resource, as it is where a user sets none
        bound = float(PeakaResource.model_fields[bound].default)
    return _Known(**told, bound=bound, says={str(value): _split(says) for value, says in entry.items()})


def _split(says: str) -> tuple[Level, str, str]:
    level, meaning, setting, *_ = [*says.split(" | "), "", ""]
    return next(known for known in LEVELS if known == level), meaning, setting


KNOWN = _known()
"""Every reading there is."""
