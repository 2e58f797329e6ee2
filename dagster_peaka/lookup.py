"""From what a user writes, a cache's id or ``catalog.schema.table``, to the cache in this project."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from dagster_peaka.client import PeakaClient
from dagster_peaka.errors import PeakaConfigError, PeakaError, PeakaNotFoundError
from dagster_peaka.models import CacheStatus
from dagster_peaka.runner import SyncTarget

NAMED_AT_MOST = 5
"""Near matches that a message lists."""


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


CacheReference: TypeAlias = TableName | str
"""A cache as addressed by a user: by its table's full name, or by its id."""


def find_caches(
    client: PeakaClient, references: Iterable[CacheReference]
) -> dict[CacheReference, SyncTarget | PeakaError]:
    """The cache that each reference means, or the error that says why there is none.

    Ids are taken as they are and cost no request. Tables cost two requests, whatever their number: the catalogs, and
    one listing of caches.

    Raises:
        PeakaError: when Peaka cannot be asked at all.
    """
    found: dict[CacheReference, SyncTarget | PeakaError] = {}
    tables: list[TableName] = []
    for reference in references:
        if isinstance(reference, TableName):
            tables.append(reference)
        else:
            found[reference] = SyncTarget(reference)
    if tables:
        found.update(_find_tables(client, tables))
    return found


def _find_tables(
    client: PeakaClient, tables: Sequence[TableName]
) -> dict[CacheReference, SyncTarget | PeakaError]:
    catalogs = client.list_catalogs()
    names = {catalog.id: catalog.name for catalog in catalogs}
    places = {
        (catalog.id, table.schema)
        for table in tables
        for catalog in catalogs
        if catalog.name == table.catalog
    }
    cached: dict[TableName, list[CacheStatus]] = {}
    for status in _list_caches(client, places):
        name = TableName(
            names.get(status.catalog_id or "", "?"), status.schema_name or "?", status.table_name or "?"
        )
        if not status.deleted:
            cached.setdefault(name, []).append(status)
    return {table: _find_table(client.project_id, table, names.values(), cached) for table in tables}


def _list_caches(client: PeakaClient, places: Collection[tuple[str, str]]) -> list[CacheStatus]:
    """The caches of one schema, or of the whole project where several catalogs or schemas are meant."""
    if len(places) > 1:
        return client.list_cache_statuses()
    try:
        return [status for place in places for status in client.list_cache_statuses(*place)]
    except PeakaNotFoundError:  # no such schema
        return []


def _find_table(
    project_id: str,
    table: TableName,
    catalogs: Collection[str],
    cached: Mapping[TableName, Sequence[CacheStatus]],
) -> SyncTarget | PeakaError:
    found = cached.get(table, [])
    if len(found) == 1:
        return SyncTarget(found[0].id, str(table), found[0].catalog_id, table.schema)
    if found:
        # Peaka lists catalogs of its own that share a name.
        ids = ", ".join(status.id for status in found)
        return PeakaConfigError(
            f"Project {project_id} has {len(found)} caches of a table {table}: say by cache_id which one is meant "
            f"({ids})."
        )
    if table.catalog not in catalogs:
        return _missing(
            f"Project {project_id} has no catalog {table.catalog!r} (needed for {table})."
            f"{_near(table.catalog, catalogs)} Correct the name, or check project_id."
        )
    return _missing(
        f"Project {project_id} has no cache of table {table}.{_near(str(table), map(str, cached))} Create the cache in "
        "Peaka, or correct the name."
    )


def _missing(message: str) -> PeakaNotFoundError:
    return PeakaNotFoundError(message, status_code=404)


def _near(name: str, names: Iterable[str]) -> str:
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
