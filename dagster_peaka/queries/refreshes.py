"""What the status of a materialized query tells of its refreshes. Pure: no I/O, no clock, no Dagster.

The status has one word and two times, and names no execution. So a refresh is known by its start, and told as the
execution that the caches' engine (:mod:`dagster_peaka.sync`) follows: baseline, trigger, adoption, outages and ends are
decided there. Here is decided what a status proves:

========================================  =============================================================================
the status                                what it tells
========================================  =============================================================================
no start                                  nothing was ever refreshed, whatever the word is
a start before one that was seen          an old answer: nothing
a start after those that were seen        another refresh has begun
a word that is not terminal               it runs
terminal, ``updated_at`` after the start  it has ended so
terminal, ``updated_at`` at the start,    it has ended so when a second reading says the same. Where no other word was
or none                                   seen since the start, it may be that of an earlier refresh, and has to stay
                                          for :data:`UNCHANGED_WORD` seconds
terminal, ``updated_at`` before           the word is that of an earlier refresh, and this one runs. Where that stays so
the start                                 for ``patience``: a failure counts, a success never does
========================================  =============================================================================

A refresh that another one has replaced before its end was seen is told to run as long as the other one does, and is
forgotten when that has ended: what the other one has read began later still, and stands for both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from dagster_peaka.api.fields import COMPLETED, TERMINAL_STATUSES
from dagster_peaka.api.models import CacheExecution, CacheStatus, SyncMode
from dagster_peaka.api.query_models import UNCHANGED_WORD, QueryStatus, refresh_execution
from dagster_peaka.sync.timers import Lasting

MODE = SyncMode.FULL_REFRESH
"""As what a refresh is told: it makes the whole snapshot anew."""

UNPROVEN = "COMPLETED BEFORE ITS START"
"""The end of a refresh whose word stays that of an earlier one: not known as a success."""

REPLACED = "REPLACED"
"""The end of one that ran before this step, and that another one has replaced."""


@dataclass
class Refreshes:
    """The refreshes of one query, as far as readings of its status have told.

    Args:
        patience: seconds for which a word from before the start is taken for one that is about to go.
        baseline: the identity of the newest refresh that an earlier attempt had seen.
    """

    query_id: str
    patience: float
    baseline: str | None = None
    _known: list[CacheExecution] = field(default_factory=list[CacheExecution], init=False)
    """Newest first."""

    def __post_init__(self) -> None:
        self._read_before = False
        self._before: set[str] = set()
        self._same, self._stale = Lasting(), Lasting()
        self._words: set[str] = set()
        """The words that were seen since the newest refresh began."""
        if self.baseline is not None:
            self._read_before = True
            self._before.add(self.baseline)
            self._known.append(refresh_execution(datetime.fromisoformat(self.baseline), COMPLETED))

    @property
    def history(self) -> list[CacheExecution]:
        """The refreshes that were seen, newest first."""
        return list(self._known)

    @property
    def status(self) -> CacheStatus:
        """The newest of them, as the status of a cache."""
        newest = self._known[0] if self._known else None
        return CacheStatus(id=self.query_id, last_full_refresh=newest)

    def read(self, status: QueryStatus, now: float) -> CacheStatus:
        """Take in a reading, made at the monotonic time ``now``; returns :attr:`status`."""
        start = status.started_at
        newest = self._known[0].created_at if self._known else None
        if start is None or (newest is not None and start < newest):
            self._same.over()
            self._stale.over()
        elif newest is not None and start == newest:
            self._known[0] = self._newest(status, start, now)
        else:
            self._replaced()
            self._words.clear()
            self._known.insert(0, self._newest(status, start, now))
            if not self._read_before:
                self._before.add(self._known[0].id)
        if self._known and self._known[0].ended:
            newest_id = self._known[0].id
            self._known = [
                each for each in self._known if each.ended or each.id == newest_id or each.id in self._before
            ]
        self._read_before = True
        return self.status

    def unreadable(self) -> None:
        """A reading failed: what was seen before it is not confirmed by what comes after it."""
        self._same.over()
        self._stale.over()

    def _replaced(self) -> None:
        """What ran before this step has ended by now, however."""
        if self._known and not self._known[0].ended and self._known[0].id in self._before:
            started = self._known[0].created_at
            assert started is not None
            self._known[0] = refresh_execution(started, REPLACED, started)

    def _newest(self, status: QueryStatus, start: datetime, now: float) -> CacheExecution:
        """The refresh that began at ``start``, as the status shows it."""
        word, updated = status.status, status.updated_at
        self._words.add(word)
        before = self._known[0] if self._known and self._known[0].created_at == start else None
        if before is not None and before.ended and before.status != UNPROVEN and word == before.status:
            return before
        if word not in TERMINAL_STATUSES:
            self.unreadable()
            return refresh_execution(start, word or "RUNNING")
        if updated is not None and updated < start:
            self._same.over()
            if self._stale.seen(now, (word, start)) < self.patience or not self._read_before:
                return refresh_execution(start, "RUNNING")
            return (
                refresh_execution(start, UNPROVEN, start)
                if word == COMPLETED
                else refresh_execution(start, word)
            )
        self._stale.over()
        lasting = self._same.seen(now, (word, start, updated))
        # What is there at the first reading is the baseline: however it ended, nothing is concluded from that.
        sure = not self._read_before or (updated is not None and updated > start)
        if not sure and self._same.readings > 1:
            sure = len(self._words) > 1 or lasting >= UNCHANGED_WORD
        return refresh_execution(start, word, updated) if sure else refresh_execution(start, "RUNNING")
