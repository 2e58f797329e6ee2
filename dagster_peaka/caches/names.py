"""Names: how a user writes a table, which names are near to one, and what Dagster takes as names of ops and groups."""

from __future__ import annotations

import difflib
import hashlib
import keyword
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import dagster as dg

from dagster_peaka.api.models import SyncMode
from dagster_peaka.api.settings import bare
from dagster_peaka.errors import PeakaConfigError

NAMED_AT_MOST = 5
"""Near matches that a message lists."""

MAX_NAME = 100
"""Characters of a name before it is cut and told apart by a hash."""

MAX_KIND = 50
"""Characters of a kind: Dagster keeps it as part of a tag's key."""

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
            part if part == part.strip() and "." not in part and '"' not in part else quoted(part)
            for part in self
        )


CacheReference: TypeAlias = TableName | str
"""A cache as addressed by a user: by its table's full name, or by its id."""


@dataclass(frozen=True)
class SyncTarget:
    """The cache that a sync is for.

    ``name`` is ``catalog.schema.table`` where it is known, ``shown_as`` what messages call the cache otherwise.
    ``noun`` is ``query`` for a materialized query, whose only mode is its refresh, which has no id but its start.
    """

    cache_id: str
    name: str | None = None
    catalog_id: str | None = None
    schema_name: str | None = None
    shown_as: str | None = None
    noun: Literal["cache", "query"] = "cache"

    def execution(self, execution_id: str) -> str:
        """What messages call an execution of it."""
        return f"execution {execution_id}" if self.noun == "cache" else f"the refresh of {execution_id}"

    def update(self, mode: SyncMode) -> str:
        """What messages call an execution that is to come."""
        return mode.words if self.noun == "cache" else "refresh"

    def __str__(self) -> str:
        shown = self.name or self.shown_as
        if shown is None or (shown == self.shown_as and self.cache_id in shown):
            return shown or self.cache_id
        return f"{shown} ({self.cache_id})"


_PART = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")*)"\s*|(?P<plain>[^".]*))(?P<end>\.|\Z)')


def quoted(part: str) -> str:
    """A name in double quotes, as SQL and a table's full name take it; quotes inside are doubled."""
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


def table_of(target: SyncTarget) -> TableName | None:
    """The full name of the table behind a cache, where it is known."""
    try:
        return TableName.parse(target.name or "")
    except PeakaConfigError:
        return None


def few(names: Sequence[str], most: int = NAMED_AT_MOST, separator: str = ", ") -> str:
    """The first of the names, and how many more there are."""
    more = len(names) - most
    return separator.join(names[:most]) + (f" and {more} more" if more > 0 else "")


def near_matches(name: str, names: Iterable[str]) -> str:
    """`` Near matches: …`` with what reads like ``name`` among ``names``, ready to follow a sentence; else empty."""
    by_folded = {known.casefold(): known for known in sorted(names)}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=NAMED_AT_MOST)
    return f" Near matches: {', '.join(by_folded[folded] for folded in near)}." if near else ""


def checked_cache_id(cache_id: str) -> str:
    """``cache_id`` as it is sent, when it may be one.

    Raises:
        PeakaConfigError: for an empty one, ``.`` and ``..``, which no path can carry.
    """
    known = bare(cache_id)
    if known in ("", ".", ".."):
        raise PeakaConfigError(f"cache_id {cache_id!r} is no id: copy it from the cache's page in Peaka.")
    return known


T = TypeVar("T")


def parted(argument: str, key: T) -> T:
    """``key``, unless it is a text with slashes: Dagster shows that like a key of several parts, and takes it for one.

    Raises:
        PeakaConfigError: naming the argument, and saying what to write.
    """
    if isinstance(key, str) and "/" in key:
        raise PeakaConfigError(
            f"{argument} names {key!r}, which Dagster takes for one part with slashes in it: write the parts as a "
            f"list, such as {key.split('/')!r}."
        )
    return key


def op_name(key: dg.AssetKey) -> str:
    """A valid name for the step of ``key``: its parts with ``__`` between them, and a hash where that is not so."""
    return _distinct(
        "__".join(key.path), as_it_is=lambda name: name.split("__") == list(key.path), of=key.path
    )


def op_names(wanted: Collection[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """A valid name for each of several steps: its parts with ``__`` between them, ``_`` for what is between words.

    Those of which two would have the same name are told apart by a hash.
    """
    plain = {parts: op_name(dg.AssetKey([re.sub(r"[-. ]", "_", part) for part in parts])) for parts in wanted}
    alike = Counter(plain.values())
    return {parts: name if alike[name] == 1 else op_name(dg.AssetKey(parts)) for parts, name in plain.items()}


def group_name(text: str) -> str:
    """A valid name of an asset group for ``text``: itself, or something like it with a short hash."""
    return _distinct(text, as_it_is=lambda name: name == text, of=[text])


def kind(text: str) -> str:
    """A valid kind for what Peaka calls a catalog's type: in lower case, and ``_`` for what a tag cannot hold."""
    return re.sub(r"[^a-z0-9_.-]+", "_", text.lower())[:MAX_KIND].strip("_.-")


def _distinct(text: str, *, as_it_is: Callable[[str], bool], of: Sequence[str]) -> str:
    """``text`` as a name that Dagster accepts.

    The hash of ``of`` keeps apart what reads alike, and away from words that Dagster or Python keep for themselves.
    """
    name = re.sub(r"[^A-Za-z0-9_]", "_", text)[:MAX_NAME]
    if name and as_it_is(name) and name not in RESERVED_NAMES and not keyword.iskeyword(name):
        return name
    digest = hashlib.sha256("\0".join(of).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name}_{digest[:12]}"
