"""A history that is read page by page, newest first, while it grows: in order, and without a gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dagster_peaka.api.models import CacheExecution

MAX_HISTORY = 25_000
"""Entries of a history that are read at most: one sync a minute, for as long as Peaka keeps them, is 20,160."""


@dataclass
class History:
    """What has been read of a cache's history so far.

    Each page begins with the last entry that is known. An answer that does not hold that is an older one, which would
    leave a gap: everything is read again.
    """

    entries: list[CacheExecution] = field(default_factory=list[CacheExecution])
    ids: set[str] = field(default_factory=set[str])
    whole: bool = False
    """Whether nothing lies behind the last entry, whatever the size of a page: a server may give fewer than asked."""

    @property
    def offset(self) -> int:
        """Where the next page has to begin."""
        return max(0, len(self.entries) - 1)

    def add(self, page: Sequence[CacheExecution]) -> None:
        """Take in the page from :attr:`offset` on."""
        if self.entries:
            place = next((n for n, entry in enumerate(page) if entry.id == self.entries[-1].id), None)
            if place is None:
                self.entries, self.ids = [], set()
                return
            page = page[place + 1 :]
        before = len(self.ids)
        for entry in page:
            if entry.id not in self.ids:
                self.entries.append(entry)
                self.ids.add(entry.id)
        self.whole = len(self.ids) == before or len(self.entries) >= MAX_HISTORY
