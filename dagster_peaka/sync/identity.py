"""Which execution did a trigger start? One question, answered by one pure function of history, record and mode.

A trigger's answer names no execution. What is known is written down in a :class:`Record`, and Peaka's history tells the
order: ours is the oldest execution of the mode above the baseline. The running step, a later attempt that takes up
what this one has triggered, and the polling sensor all ask :func:`started_by`. What follows from the answer is decided
by who asks: :mod:`dagster_peaka.sync.machine` (what is followed, and what if the history cannot be read),
:mod:`dagster_peaka.sensors.claims` (what is left to which run), :mod:`dagster_peaka.sync.stopping` (what may be
cancelled). No I/O, no clock, no Dagster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dagster_peaka.api.models import CacheExecution, SyncMode

LATE_TOLERANCE = timedelta(seconds=2)
"""How long before our poll an execution may seem to be created, by another clock, and still count as created after."""

ANSWER_WINDOW = timedelta(seconds=5)
"""How long after a trigger's answer its execution may be created: a full refresh's record was seen to come later."""


@dataclass(frozen=True)
class Record:
    """What is known of a trigger, and written down so that others may ask as well.

    Attributes:
        baseline: the newest execution of the mode at the poll before the trigger; None when there was none.
        polled_at: Peaka's clock at that poll, its answer's ``Date``; None where it is not known, and after a second
            trigger: by then the clocks may be to blame that ours was taken for late.
        answered_at: Peaka's clock when the trigger was answered; None as long as it is not known to be accepted.
        modes: the executions whose mode a status has told; a history may not.
        follows: the execution itself where the sync attached to it or adopted it, and triggered nothing.
    """

    baseline: str | None = None
    polled_at: datetime | None = None
    answered_at: datetime | None = None
    modes: Mapping[str, SyncMode] = field(default_factory=dict[str, SyncMode])
    follows: str | None = None

    def was_late(self, execution: CacheExecution) -> bool:
        """Whether an execution that the poll did not show had been created before it: it ran already."""
        if self.polled_at is None or execution.created_at is None:
            return False
        return execution.created_at < self.polled_at - LATE_TOLERANCE

    def is_surely_ours(self, execution: CacheExecution, *, queued_until: datetime | None = None) -> bool:
        """Whether an execution was created between the poll and the answer of an accepted trigger, by Peaka's dates.

        Args:
            queued_until: when what ran before it has ended, for one that may have been created only then.
        """
        created_at = execution.created_at
        if self.polled_at is None or self.answered_at is None or created_at is None:
            return False
        until = self.answered_at if queued_until is None else max(self.answered_at, queued_until)
        return self.polled_at - LATE_TOLERANCE <= created_at <= until + ANSWER_WINDOW


@dataclass(frozen=True)
class Started:
    """What a history tells about a trigger.

    Attributes:
        candidates: the executions above the baseline that may be ours, oldest first.
        late: the newest execution above the baseline that was only late to show.
        older: the ids at the baseline and beneath it.
        certain: whether nothing else above the baseline may be of the mode.
    """

    candidates: tuple[CacheExecution, ...] = ()
    late: CacheExecution | None = None
    older: frozenset[str] = frozenset()
    certain: bool = False

    @property
    def ours(self) -> CacheExecution | None:
        """The oldest candidate; where that came to nothing, the oldest that COMPLETED: it began after the poll, too."""
        oldest = self.candidates[0] if self.candidates else None
        if oldest is None or oldest.succeeded or not oldest.ended:
            return oldest
        return next((candidate for candidate in self.candidates if candidate.succeeded), oldest)


def started_by(
    history: Sequence[CacheExecution],
    record: Record,
    mode: SyncMode,
    *,
    newest: CacheExecution | None = None,
) -> Started:
    """Which execution a trigger started.

    Args:
        history: newest first, back to the baseline or to its end.
        newest: the newest execution of the mode by the status. Where the history does not hold the baseline, only
            that can be ours.
    """
    if record.follows is not None:
        followed = tuple(entry for entry in history if entry.id == record.follows)
        return Started(followed[:1], certain=True)
    ids = [entry.id for entry in history]
    if record.baseline is None:
        above, older = list(history), frozenset[str]()
    elif record.baseline in ids:
        place = ids.index(record.baseline)
        above, older = list(history[:place]), frozenset(ids[place:])
    else:
        above, older = ([newest] if newest is not None else []), frozenset({record.baseline})

    def mode_of(entry: CacheExecution) -> SyncMode | None:
        if newest is not None and entry.id == newest.id:
            return mode
        return entry.mode or record.modes.get(entry.id)

    candidates: dict[str, CacheExecution] = {}
    late: CacheExecution | None = None
    certain = record.baseline in (None, *ids)
    for entry in reversed(above):
        known = mode_of(entry)
        if known is mode and record.was_late(entry):
            late = entry
        elif known is mode:
            candidates.setdefault(entry.id, entry)
        elif known is None:
            certain = False
    return Started(tuple(candidates.values()), late, older, certain and late is None)
