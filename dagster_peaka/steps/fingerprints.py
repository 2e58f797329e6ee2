"""What one query asks of a cached table after its sync: a fingerprint of its rows, and how many there are. Pure.

``"checksum"`` asks for Trino's ``checksum`` over whole rows, which depends on no order: by column, rows that swap
values would cancel out. Any other fingerprint is a select list of the user's, over the whole table.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dagster_peaka.api.models import QueryResult
from dagster_peaka.caches.declared import CHECKSUM
from dagster_peaka.caches.names import TableName, quoted
from dagster_peaka.errors import PeakaConfigError, PeakaResponseError

NO_HASH = re.compile(r"\b(hyperloglog|p4hyperloglog|qdigest|tdigest|setdigest|sphericalgeography|kdbtree)\b")
"""Trino's types whose values cannot be compared, so that no row that holds one has a hash. They may be nested."""

ROWS, HASH = "peaka_rows", "peaka_checksum"
"""The names of our own columns of the answer."""

LONGEST = 200
"""Characters of a fingerprint before it is replaced by its hash: Dagster shows it as the data version."""


@dataclass(frozen=True)
class Measurement:
    """What was asked of one table and answered; None where it was not asked for, or could not be had."""

    rows: int | None = None
    fingerprint: str | None = None


def hashable(columns: Mapping[str, str]) -> list[str]:
    """Those columns, of all by their types, whose values can be hashed."""
    return [name for name, kind in columns.items() if not NO_HASH.search(kind.lower())]


def statement(table: TableName, fingerprint: str | None, columns: Mapping[str, str], *, rows: bool) -> str:
    """The query for a fingerprint, for the number of rows, or both.

    Args:
        columns: the types of the table's columns by their names; needed for a checksum only.

    Raises:
        PeakaConfigError: when no column can be hashed.
    """
    wanted: list[str] = []
    if fingerprint == CHECKSUM:
        names = hashable(columns)
        if not names:
            raise PeakaConfigError("none of its columns can be hashed: set fingerprint to a select list")
        wanted.append(f"to_hex(checksum(ROW({', '.join(map(quoted, names))}))) AS {HASH}")
    elif fingerprint is not None:
        wanted.append(f"{fingerprint}\n")  # a comment at its end is over with the line
    if rows or fingerprint == CHECKSUM:
        wanted.append(f"count(*) AS {ROWS}")
    return f"SELECT {', '.join(wanted)} FROM {'.'.join(map(quoted, table))}"


def measurement(fingerprint: str | None, result: QueryResult) -> Measurement:
    """What the answer to :func:`statement` says.

    Raises:
        PeakaResponseError: when it is not one row with all that was asked for.
    """
    if len(result.rows) != 1:
        raise PeakaResponseError(f"Peaka answered {len(result.rows)} rows where one was asked for.")
    row = dict(result.rows[0])
    names = [name for name in result.columns if name]
    if len(names) != len(set(names)) or len(row) < len(names):
        # One of them hides the other, and with it perhaps a change.
        raise PeakaResponseError("Two columns of the fingerprint have the same name: give them names by AS.")
    rows = _number(row.pop(ROWS)) if ROWS in row else None
    if fingerprint is None:
        if rows is None:
            raise PeakaResponseError("Peaka's answer has no number of rows, which was asked for.")
        return Measurement(rows)
    if fingerprint == CHECKSUM:
        if rows is None or HASH not in row:
            raise PeakaResponseError("Peaka's answer has no checksum, which was asked for.")
        return Measurement(rows, f"{rows}:{row[HASH] or ''}")
    if not row:
        raise PeakaResponseError("Peaka's answer has no values.")
    return Measurement(rows, _shortened(json.dumps(list(row.values()), ensure_ascii=False, default=str)))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _number(value: object) -> int:
    text = str(value)
    if text.isascii() and text.isdigit():
        return int(text)
    raise PeakaResponseError(f"Peaka answered {value!r:.200} where a number of rows was asked for.")
