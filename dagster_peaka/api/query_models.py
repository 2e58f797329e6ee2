"""Saved queries as Peaka's API shows them, and how the refreshes of materialized ones stand."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from dagster_peaka.api.fields import TERMINAL_STATUSES, Id, Instant, Label, OrNone, PeakaModel, Status, Text
from dagster_peaka.api.models import CacheExecution, SyncMode

MATERIALIZED = "MATERIALIZED"
"""The type of a query whose result Peaka keeps as a snapshot."""

UNCHANGED_WORD = 30.0
"""Seconds for which a word that may be from before the start has to stay, where no time tells."""


class QuerySchedule(PeakaModel):
    """When Peaka refreshes a materialized query by itself (``MaterializedQuerySchedule`` in Peaka's document).

    Example:
        .. code-block:: python

            for query in client.queries.list():
                print(query.name, "never" if query.schedule is None else query.schedule.words)
    """

    type: Label = ""
    cron_expression: Text = None
    repeat_duration: Text = None
    timezone: Text = None

    @property
    def words(self) -> str:
        """The schedule in words: an ISO-8601 duration, or a cron expression with its zone; empty for none.

        Of a type that is not known, and where that leaves its fields empty, the type itself.
        """
        if self.type.lower() in ("", "none"):
            return ""
        return (
            self.repeat_duration or " ".join(filter(None, (self.cron_expression, self.timezone))) or self.type
        )


class SavedQuery(PeakaModel):
    """A query that is kept in a project (``Query`` in Peaka's document).

    In SQL it is ``"peaka"."query"."<name>"``; the snapshot of a materialized one is ``"peaka"."mtquery"."<name>"``.

    Example:
        .. code-block:: python

            for query in client.queries.list():
                print(query.name, query.is_materialized, query.sql)
    """

    id: Id
    name: Label = ""
    display_name: Text = None
    sql: Label = Field(default="", validation_alias="inputQuery")
    query_type: Status = "PLAIN"
    schedule: Annotated[QuerySchedule | None, OrNone] = None
    path: Text = None

    @property
    def is_materialized(self) -> bool:
        """Whether Peaka keeps the query's result as a snapshot."""
        return self.query_type == MATERIALIZED


class QueryStatus(PeakaModel):
    """How the newest refresh of a materialized query stands (``MaterializedQueryStatusView`` in Peaka's document).

    It names no execution: ``started_at`` is all that tells one refresh from another. ``status`` is in upper case and
    was seen to be that of the refresh before until the new one has begun; ``CANCELED`` is ``CANCELLED`` here as for
    caches. A query that was never refreshed was seen to say COMPLETED, with both times None. Times are by Peaka's
    clock.

    Example:
        .. code-block:: python

            for status in client.queries.list_statuses():
                print(status.query_name, status.status, status.started_at)
    """

    query_id: Id
    query_name: Label = ""
    status: Status = ""
    started_at: Instant = Field(default=None, validation_alias="lastExecutionStartTime")
    updated_at: Instant = Field(default=None, validation_alias="lastUpdateTime")
    next_start_at: Instant = Field(default=None, validation_alias="nextExecutionStartTime")
    schedule: Annotated[QuerySchedule | None, OrNone] = Field(
        default=None, validation_alias="scheduleSettings"
    )

    def ended(self, now: datetime | None) -> CacheExecution | None:
        """The refresh that this status, alone, proves to have ended, and how; None where it may still run.

        Args:
            now: Peaka's clock when it answered. Where no time tells, a word that stands :data:`UNCHANGED_WORD` seconds
                after the start is not that of the refresh before.
        """
        start, updated = self.started_at, self.updated_at
        if self.status not in TERMINAL_STATUSES or start is None or (updated is not None and updated < start):
            return None
        if updated is not None and updated > start:
            return refresh_execution(start, self.status, updated)
        stood = 0.0 if now is None else (now - start).total_seconds()
        return None if stood < UNCHANGED_WORD else refresh_execution(start, self.status)


def refresh_execution(start: datetime, word: str, finished_at: datetime | None = None) -> CacheExecution:
    """A refresh as an execution, whose id is its start: nothing else tells it from the others of its query."""
    return CacheExecution(
        id=start.isoformat(),
        status=word,
        mode=SyncMode.FULL_REFRESH,
        created_at=start,
        finished_at=finished_at,
    )
