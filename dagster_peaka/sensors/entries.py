"""One cache's executions as a tick of the polling sensor sees them: its history and its status in one order. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dagster_peaka.api.fields import TERMINAL_STATUSES
from dagster_peaka.api.models import CacheExecution, CacheStatus, SyncMode
from dagster_peaka.sensors.cursor import Mark, short


@dataclass(frozen=True)
class Entry:
    """An execution at its place; ``mode`` is None where nothing tells it, ``short`` its hash in the cursor."""

    execution: CacheExecution
    mode: SyncMode | None
    short: bytes


class Entries:
    """The executions, newest first; they go by their places, of which 0 is the newest.

    Args:
        status: shows the newest execution of each mode.
        mark: what the last tick left.

    Attributes:
        newest: the newest execution of each mode by the status.
        shown: these, by their ids.
        places: the place of each id.
        seen_places: the place of each short hash.
        lags: whether the history is older than the status, so that others may be missing from it.
    """

    def __init__(self, status: CacheStatus, mark: Mark | None) -> None:
        self.newest = {mode: status.last(mode) for mode in SyncMode}
        self.shown = {execution.id: execution for execution in self.newest.values() if execution}
        self.lags = False
        self.places: dict[str, int] = {}
        self.seen_places: dict[bytes, int] = {}
        self._mark = mark
        self._entries: list[Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, place: int) -> Entry:
        return self._entries[place]

    @property
    def executions(self) -> list[CacheExecution]:
        """All of them, newest first."""
        return [entry.execution for entry in self._entries]

    def order(self, history: Sequence[CacheExecution], *, trusted: bool) -> None:
        """Take in the history, newest first, and put what the status shows beyond it in its place.

        Args:
            trusted: whether a history that shows less than the status is taken for no old answer.
        """
        listed = {execution.id for execution in history}
        self._entries = [self.entry(execution) for execution in history]
        for execution in self.shown.values():
            if execution.id in listed:
                continue
            place = self._place_of(execution)
            if place < len(self._entries) and not (self._is_known(execution) or trusted):
                self.lags = True
            else:
                self._entries.insert(place, self.entry(execution))
        self.places = {entry.execution.id: place for place, entry in enumerate(self._entries)}
        self.seen_places = {entry.short: place for place, entry in enumerate(self._entries)}

    def entry(self, execution: CacheExecution) -> Entry:
        """An execution with all that history and status tell of it."""
        shown = self.shown.get(execution.id, execution)
        further = max((execution, shown), key=_progress)
        return Entry(further, execution.mode or shown.mode or self._only_mode(), short(execution.id))

    def seen_place(self, mode: SyncMode) -> int:
        """The place of the newest execution of a mode that was seen before, beneath all where it is not to be found."""
        mark = self._mark.newest[mode] if self._mark is not None else None
        return len(self) if mark is None else self.seen_places.get(mark, len(self))

    def newest_place(self, mode: SyncMode) -> int:
        """The place of the newest execution of a mode by the status; above all where it is not among them."""
        newest = self.newest[mode]
        return -1 if newest is None else self.places.get(newest.id, -1)

    def _is_known(self, execution: CacheExecution) -> bool:
        return self._mark is None or short(execution.id) in self._mark.newest.values()

    def _only_mode(self) -> SyncMode | None:
        """The mode of every execution, where only one mode was ever seen."""
        modes = [mode for mode in SyncMode if self.newest[mode] or (self._mark and self._mark.newest[mode])]
        return modes[0] if len(modes) == 1 else None

    def _place_of(self, execution: CacheExecution) -> int:
        """Where an execution belongs that the history does not show: it is behind it, or too new for it."""
        created = [entry.execution.created_at for entry in self._entries]
        if execution.created_at is not None:
            for place, other in enumerate(created):
                if other is not None and other <= execution.created_at:
                    return place
            if created and created[-1] is not None:
                return len(created)
        return len(created) if self._mark is not None and self._is_known(execution) else 0


def _progress(execution: CacheExecution) -> tuple[bool, bool]:
    """How far an execution has come by what one answer says of it: an end is never taken back."""
    return execution.status in TERMINAL_STATUSES, execution.ended
