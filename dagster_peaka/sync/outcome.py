"""What is known after a trigger, and how a sync ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from dagster_peaka.api.models import CacheExecution
from dagster_peaka.sync.identity import Record


class Posted(Enum):
    """What is known after a POST."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """A 4xx. Perhaps only because something runs already."""
    UNKNOWN = "unknown"
    """No answer, or a 5xx: it may have been taken."""
    NOT_TAKEN = "not taken"
    """It surely had no effect: no connection, or 429."""
    REFUSED_FOR_GOOD = "refused for good"
    """A 4xx that says that the request itself is wrong, such as 400: the table may not support the mode."""
    NOT_ALLOWED = "not allowed"
    """401 or 403: repeating it cannot help."""
    NOT_FOUND = "not found"
    """404: the cache is gone."""


class Origin(Enum):
    """Why the execution that a sync follows exists."""

    TRIGGERED = "triggered"
    ATTACHED = "attached"
    """It ran before this sync polled, and on_running is "attach"."""
    ADOPTED = "adopted"
    """An earlier attempt of the same run, or the run it was re-executed from, had triggered it."""


class Trouble(Enum):
    """Why a sync failed."""

    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN_END = "unknown end"
    VANISHED = "vanished"
    GONE = "gone"
    ALREADY_RUNNING = "already running"
    REFUSED = "refused"
    NOT_ALLOWED = "not allowed"
    NOT_TAKEN = "not taken"
    NOT_STARTED = "not started"
    UNREADABLE = "unreadable"
    STUCK = "stuck"
    TIMED_OUT = "timed out"


@dataclass(frozen=True)
class Result:
    """How a sync ended: ``trouble`` is None on success, and then ``execution`` is the COMPLETED one it stands for."""

    execution: CacheExecution | None
    origin: Origin
    triggers: int
    trouble: Trouble | None = None
    reason: str = ""
    """Peaka's words, or what could not be read; may be empty."""
    lasting: bool = False
    """True when Peaka refused the trigger for a reason that no repetition removes, such as the mode."""
    unchanged: float = 0.0
    """Seconds for which the execution had shown no sign of life when the sync was given up."""
    unproven: bool = False
    """True when the history could not be read, and only the status says that the execution began after the poll."""
    record: Record = field(default_factory=Record)
    """What tells which execution it was, for those who record how it ends."""
    other_runs: bool = False
    """True when an execution of the other mode ran at the last poll: what the table holds may be half of its copy."""
    deferred: bool = False
    """True when there is nothing more to do and the outcome is not waited for (``follow=False``)."""

    @property
    def ok(self) -> bool:
        """True when the sync stands for a COMPLETED execution."""
        return self.trouble is None and not self.deferred
