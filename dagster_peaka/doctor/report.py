"""The readings as JSON: as they are, or as a report to be sent in, in which every name and id is replaced.

A report is read by ``PeakaSandbox(profile=…)``: of each reading its ``name`` and ``value``, and ``base``.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

from dagster_peaka.doctor.readings import Reading, base_of, first_of

FORMAT = 1
"""Raised when a reader of older reports would misread a new one."""

PUBLIC = ("peaka",)
"""A catalog that every project has, and whose name is in every sentence."""

_PRIVATE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}"  # an id of Peaka's
    r"|https?://[^\s'\"]+|[\w.+-]+@[\w-]+\.[\w.]+"  # an address
    r"|\b[\w-]+(?:\.[\w-]+){2,}(?::\d+)?|\b\d{5,}\b"  # a host or a table, a catalog's id
    r"|'[^']*'|\"[^\"]*\"",  # whatever somebody quotes
    re.IGNORECASE,
)


def as_json(readings: Sequence[Reading]) -> dict[str, Any]:
    """All readings, with their names."""
    return {
        "format": FORMAT,
        "dagster_peaka": version("dagster-peaka"),
        "dagster": version("dagster"),
        "python": platform.python_version(),
        "base": base_of(readings),
        "first": first_of(readings),
        "readings": [_entry(reading) for reading in readings],
    }


def written(content: Mapping[str, Any]) -> str:
    """The JSON with a line for each reading."""
    head = ",\n".join(
        f"  {json.dumps(key)}: {json.dumps(content[key])}" for key in content if key != "readings"
    )
    lines = ",\n".join(f"    {json.dumps(entry)}" for entry in content["readings"])
    return f'{{\n{head},\n  "readings": [\n{lines}\n  ]\n}}\n'


def without_names(readings: Sequence[Reading], names: Mapping[str, str]) -> list[Reading]:
    """The readings with ``table-1`` in place of a table's name, and so on; the same name is the same everywhere.

    What Peaka said is kept, because it is what a bug is found by, less every known name and whatever looks like an id,
    an address or a quotation.
    """
    aliases: dict[str, str] = {}
    count: dict[str, int] = {}
    for text, kind in names.items():
        if text.strip() and text.casefold() not in (*aliases, *PUBLIC):
            count[kind] = count.get(kind, 0) + 1
            aliases[text.casefold()] = f"{kind}-{count[kind]}"
    known = "|".join(re.escape(text) for text in sorted(aliases, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{known})(?!\w)", re.IGNORECASE) if known else None

    def hidden(text: str) -> str:
        if pattern is not None:
            text = pattern.sub(lambda found: aliases.get(found.group().casefold(), "…"), text)
        return _PRIVATE.sub("…", text)

    return [
        replace(
            reading,
            about=tuple(aliases.get(name.casefold(), "…") for name in reading.about),
            said=hidden(reading.said),
        )
        for reading in readings
    ]


def _entry(reading: Reading) -> dict[str, Any]:
    entry = asdict(reading)
    return {key: value for key, value in entry.items() if value not in ("", (), False) or key == "value"}
