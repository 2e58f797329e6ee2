"""When a sync has changed nothing: the rule by which a materialization keeps the data version of the one before it.

An incremental update that reports no inserted, no updated and no deleted row changed nothing by itself. But a sync
that Dagster has not seen, or one that was cancelled half way, may have changed rows since the last materialization. So
each materialization records the newest execution of each mode that its data version covers (:class:`Known`), and the
next one keeps the version only when these were still the newest ones before its own (:func:`next_version`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from dagster_peaka.api.models import CacheExecution, SyncMode

KNOWN_METADATA = "peaka/known_executions"
"""The key of a materialization's metadata under which :class:`Known` is kept, as JSON."""


@dataclass(frozen=True)
class Known:
    """The newest execution of each mode that a data version covers, by id; None where there was none yet."""

    incremental: str | None
    full_refresh: str | None

    def of(self, mode: SyncMode) -> str | None:
        """The newest execution of ``mode``."""
        return self.incremental if mode is SyncMode.INCREMENTAL else self.full_refresh

    def after(self, mode: SyncMode, execution_id: str) -> Known:
        """What is known once ``execution_id`` is the newest execution of ``mode``."""
        if mode is SyncMode.INCREMENTAL:
            return Known(execution_id, self.full_refresh)
        return Known(self.incremental, execution_id)

    def as_json(self) -> dict[str, str | None]:
        """The form that is kept in metadata."""
        return {"incremental": self.incremental, "full_refresh": self.full_refresh}

    @classmethod
    def from_json(cls, value: object) -> Known | None:
        """What :meth:`as_json` wrote; None for anything else."""
        if not isinstance(value, Mapping):
            return None
        fields = cast("Mapping[str, Any]", value)
        ids = [fields.get("incremental", 0), fields.get("full_refresh", 0)]
        if not all(found is None or isinstance(found, str) for found in ids):
            return None
        return cls(*ids)


@dataclass(frozen=True)
class Version:
    """What one materialization records: its data version, and what that covers, where that is surely known."""

    text: str
    known: Known | None = None


def next_version(
    previous: Version | None,
    mode: SyncMode,
    execution: CacheExecution,
    *,
    before: Known | None,
    covers: Known | None,
    alone: bool,
) -> Version:
    """The version of a materialization that stands for ``execution``: its id, or ``previous``'s when nothing changed.

    Args:
        previous: what the last materialization of the same cache recorded.
        before: the newest execution of each mode at the look before the trigger; None while one of them ran.
        covers: the newest execution of each mode at the end, the sync's own being that of ``mode``.
        alone: whether no other execution can have come between that look and ``execution``.
    """
    nothing_changed = alone and no_change_shows(mode, execution, before=before, covers=covers)
    if nothing_changed and previous is not None and previous.known == before:
        return Version(previous.text, covers)
    return Version(execution.id, covers)


def reports_no_change(mode: SyncMode, execution: CacheExecution) -> bool:
    """True for an incremental update that Peaka reports as 0 inserted, 0 updated and 0 deleted rows.

    Counts that are not reported may be anything; a full refresh writes every row anew.
    """
    rows = execution.progress
    return mode is SyncMode.INCREMENTAL and rows.inserted == rows.updated == rows.deleted == 0


def no_change_shows(
    mode: SyncMode, execution: CacheExecution, *, before: Known | None, covers: Known | None
) -> bool:
    """True when ``execution`` reports no change, and from ``before`` to ``covers`` no other execution shows.

    One of the same mode need not show: ``execution`` has taken its place in the status.
    """
    return (
        reports_no_change(mode, execution)
        and before is not None
        and covers == before.after(mode, execution.id)
    )
