"""Saved queries as Peaka's API shows them, and how the refreshes of materialized ones stand."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dagster_peaka.api.fields import Id, Instant, Label, OrNone, PeakaModel, Status, Text

MATERIALIZED = "MATERIALIZED"
"""The type of a query whose result Peaka keeps as a snapshot."""


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
        """The schedule in words: an ISO-8601 duration, or a cron expression with its zone; empty for none."""
        if self.type.lower() == "interval":
            return self.repeat_duration or ""
        if self.type.lower() == "cron":
            return " ".join(filter(None, (self.cron_expression, self.timezone)))
        return ""


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
