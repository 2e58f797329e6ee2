"""A history that is read page by page, newest first, while it grows: in order, and without a gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dagster_peaka.api.models import CacheExecution

IN_VAIN = 5
"""Pages in vain after which no more is asked for: a server may give old answers, or know of no offset."""

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
    _vain: int = 0
    _grown: int = 0
    """By how many entries the history has grown above the first one since that was read."""

    @property
    def failed(self) -> bool:
        """Whether each page was of another history, so that nothing is known of any."""
        return self.whole and self._vain > 0 and not self.entries

    @property
    def offset(self) -> int:
        """Where the next page has to begin."""
        return max(0, len(self.entries) - 1) + self._grown

    def add(self, page: Sequence[CacheExecution]) -> None:
        """Take in the page from :attr:`offset` on."""
        place: int | None = 0
        if self.entries:
            place = next((n for n, entry in enumerate(page) if entry.id == self.entries[-1].id), None)
            if place is None:
                self.entries, self.ids, self._grown = [], set(), 0
                self._in_vain()
                return
            self._grown += place
            page = page[place + 1 :]
        self.entries.extend(page)
        self.ids.update(entry.id for entry in page)
        if not page:
            self._in_vain()
        self.whole = self.whole or not (page or place) or len(self.entries) >= MAX_HISTORY

    def _in_vain(self) -> None:
        self._vain += 1
        self.whole = self._vain >= IN_VAIN
