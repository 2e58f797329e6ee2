"""What the runner is asked for, what it has written down, and the jobs that it has under way."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from dagster_peaka.api.models import SyncMode
from dagster_peaka.caches.names import SyncTarget
from dagster_peaka.sync.history import History
from dagster_peaka.sync.identity import Record
from dagster_peaka.sync.machine import Reading, Sync
from dagster_peaka.sync.outcome import Origin, Posted
from dagster_peaka.sync.timing import SyncRules


@dataclass(frozen=True)
class SyncJob:
    """One sync to be done: which cache, in which mode, by which rules, and what an earlier attempt wrote down."""

    target: SyncTarget
    mode: SyncMode
    rules: SyncRules
    earlier: Record | None = None
    earlier_age: float = 0.0
    adopts_completed: bool = True


@dataclass(frozen=True)
class Note:
    """What has to be written down about a job: before its trigger goes out, or how that was answered.

    ``answer`` is None as long as the trigger may be taken; ``origin`` tells one that attaches or adopts; ``repeated``
    is True where an earlier trigger of the job may have been taken.
    """

    job: SyncJob
    record: Record
    origin: Origin = Origin.TRIGGERED
    answer: Posted | None = None
    repeated: bool = False


@dataclass(eq=False)
class Run:
    """A job under way: its machine, and whether a request for it alone is out."""

    job: SyncJob
    sync: Sync
    busy: bool = False
    history: History = field(default_factory=History)
    reading: Reading | None = None
    noted: Record | None = None
    """What ``write_down`` was told last, while that may be taken."""
    after: Future[Any] | None = None
    """What ``after_result`` began."""
    answered: bool = False
    """Whether its result waits to be yielded, or was."""
