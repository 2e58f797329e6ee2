"""From what a user writes, a cache's id or ``catalog.schema.table``, to the cache in this project."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from dagster_peaka.client import PeakaClient
from dagster_peaka.errors import PeakaConfigError, PeakaError, PeakaNotFoundError
from dagster_peaka.models import CacheStatus, Catalog
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

        A part that holds a dot is quoted: ``shop.public."orders.2024"``; a quote inside is doubled.

        Raises:
            PeakaConfigError: when there are not exactly three parts, none of them empty.
        """
        parts = _split(text) if isinstance(text, str) else list(text)
        if len(parts) != 3 or not all(isinstance(part, str) and part.strip() for part in parts):
            raise PeakaConfigError(
                f"table must be written as 'catalog.schema.table', not {text!r}; put a part that holds a dot in "
                "double quotes."
            )
        return cls(*(part.strip() for part in parts))

    def __str__(self) -> str:
        return ".".join(part if "." not in part and '"' not in part else _quoted(part) for part in self)


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '""') + '"'


def _split(text: str) -> list[str]:
    parts = [""]
    quoted = False
    position = 0
    while position < len(text):
        character = text[position]
        if character == '"' and quoted and text[position + 1 : position + 2] == '"':
            parts[-1] += '"'
            position += 1
        elif character == '"':
            quoted = not quoted
        elif character == "." and not quoted:
            parts.append("")
        else:
            parts[-1] += character
        position += 1
    return [] if quoted else parts


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


def _find_tables(client: PeakaClient, tables: Sequence[TableName]) -> dict[CacheReference, SyncTarget | PeakaError]:
    catalogs = client.list_catalogs()
    known = {table: [catalog for catalog in catalogs if catalog.name == table.catalog] for table in tables}
    places = {(catalog.id, table.schema) for table, named in known.items() for catalog in named}
    if len(places) == 1:
        statuses = client.list_cache_statuses(*next(iter(places)))
    else:
        statuses = client.list_cache_statuses() if places else []
    cached = {(status.catalog_id, status.schema_name, status.table_name): status for status in statuses}
    return {table: _find_table(client, table, known[table], catalogs, cached) for table in tables}


def _find_table(
    client: PeakaClient,
    table: TableName,
    named: Sequence[Catalog],
    catalogs: Sequence[Catalog],
    cached: dict[tuple[str | None, str | None, str | None], CacheStatus],
) -> SyncTarget | PeakaError:
    if not named:
        return _missing(
            f"Project {client.project_id} has no catalog {table.catalog!r} (needed for {table})."
            + _near(table.catalog, [catalog.name for catalog in catalogs])
        )
    for catalog in named:
        status = cached.get((catalog.id, table.schema, table.table))
        if status is not None and not status.deleted:
            return SyncTarget(status.id, str(table), catalog.id, table.schema)
    names = {catalog.id: catalog.name for catalog in catalogs}
    others = [
        str(TableName(names.get(catalog_id or "", "?"), schema or "?", name or "?"))
        for catalog_id, schema, name in cached
    ]
    return _missing(
        f"Project {client.project_id} has no cache of table {table}.{_near(str(table), others)} Create the cache in "
        "Peaka, or correct the name."
    )


def _missing(message: str) -> PeakaNotFoundError:
    return PeakaNotFoundError(message, status_code=404)


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(set(names)), n=NAMED_AT_MOST)
    return f" Near matches: {', '.join(near)}." if near else ""
