"""Names: how a user writes a table, which names are near to one, and what Dagster takes as the name of an op."""

from __future__ import annotations

import difflib
import hashlib
import keyword
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import dagster as dg

from dagster_peaka.errors import PeakaConfigError

NAMED_AT_MOST = 5
"""Near matches that a message lists."""

RESERVED_NAMES = frozenset(
    {"context", "conf", "config", "meta", "arg_dict", "input_arg_dict", "output_arg_dict", "input", "output"}
    | {"dict", "int", "str", "float", "bool", "type"}
)
"""What Dagster accepts as the name of no op, beside Python's keywords."""


class TableName(NamedTuple):
    """A table's full name in Peaka."""

    catalog: str
    schema: str
    table: str

    @classmethod
    def parse(cls, text: str | Sequence[str]) -> TableName:
        """The name written as ``catalog.schema.table`` or as three strings.

        A part that holds a dot, or blanks at its ends, is quoted: ``shop.public."orders.2024"``; a quote inside is
        doubled.

        Raises:
            PeakaConfigError: when there are not exactly three parts, none of them empty.
        """
        parts = _split(text) if isinstance(text, str) else list(text)
        if len(parts) != 3 or not all(part.strip() for part in parts):
            raise PeakaConfigError(
                f"table must be written as 'catalog.schema.table', not {text!r}; put a part that holds a dot in "
                "double quotes."
            )
        return cls(*parts)

    def __str__(self) -> str:
        return ".".join(
            part if part == part.strip() and "." not in part and '"' not in part else _quoted(part)
            for part in self
        )


_PART = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")*)"\s*|(?P<plain>[^".]*))(?P<end>\.|\Z)')


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '""') + '"'


def _split(text: str) -> list[str]:
    """The parts between the dots, or none where a quote is out of place."""
    parts: list[str] = []
    position, end = 0, "."
    while end == ".":
        match = _PART.match(text, position)
        if match is None:
            return []
        parts.append(
            match["plain"].strip() if match["quoted"] is None else match["quoted"].replace('""', '"')
        )
        position, end = match.end(), match["end"]
    return parts


def near_matches(name: str, names: Iterable[str]) -> str:
    """`` Near matches: …`` with what reads like ``name`` among ``names``, ready to follow a sentence; else empty."""
    by_folded = {known.casefold(): known for known in sorted(names)}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=NAMED_AT_MOST)
    return f" Near matches: {', '.join(by_folded[folded] for folded in near)}." if near else ""


def checked_cache_id(cache_id: str) -> str:
    """``cache_id``, when it may be one.

    Raises:
        PeakaConfigError: for an empty one, ``.`` and ``..``, which no path can carry.
    """
    if cache_id.strip() in ("", ".", ".."):
        raise PeakaConfigError(f"cache_id {cache_id!r} is no id: copy it from the cache's page in Peaka.")
    return cache_id


def op_name(key: dg.AssetKey) -> str:
    """A valid name for the step of ``key``: its parts with ``__`` between them, and a short hash where that is not so.

    The hash keeps apart what reads alike, and away from words that Dagster or Python keep for themselves.
    """
    name = re.sub(r"[^A-Za-z0-9_]", "_", "__".join(key.path))[:100]
    if name.split("__") == list(key.path) and name not in RESERVED_NAMES and not keyword.iskeyword(name):
        return name
    digest = hashlib.sha256("\0".join(key.path).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name}_{digest[:8]}"
