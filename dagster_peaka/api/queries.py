"""The operations of saved queries, as :attr:`PeakaClient.queries` offers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Call
from dagster_peaka.api.query_models import QueryStatus, SavedQuery


class PeakaQueries:
    """The saved queries of a project, one method an endpoint: part of :class:`PeakaClient`.

    Reads are retried; a refresh or a cancel is sent again only when it surely was not taken. Raises what
    :mod:`dagster_peaka.errors` draws; Peaka was seen to answer 400, and not 404, for a query that was deleted.

    Example:
        .. code-block:: python

            for status in client.queries.list_statuses():
                client.queries.refresh(status.query_id)
    """

    def __init__(self, answer: Callable[[Call[Any]], Any]) -> None:
        self._answer = answer

    def list(self) -> list[SavedQuery]:
        """All queries that are saved in the project, with their SQL; materialized ones say so."""
        return self._answer(calls.list_queries())

    def get(self, query_id: str) -> SavedQuery:
        """One saved query."""
        return self._answer(calls.get_query(query_id))

    def unschedule(self, query: SavedQuery) -> SavedQuery:
        """Take the schedule away by which Peaka refreshes a query, which stays as ``query`` says otherwise."""
        return self._answer(calls.unschedule_query(query))

    def list_statuses(self) -> list[QueryStatus]:
        """How the newest refresh of every materialized query of the project stands: one request."""
        return self._answer(calls.list_query_statuses())

    def get_status(self, query_id: str) -> QueryStatus:
        """How the newest refresh of one materialized query stands."""
        return self._answer(calls.get_query_status(query_id))

    def refresh(self, query_id: str) -> None:
        """Ask for a refresh. Peaka's answer names none: a status with a later ``started_at`` shows that one began."""
        self._answer(calls.refresh_query(query_id))

    def cancel(self, query_id: str) -> None:
        """Ask Peaka to stop the refresh that runs, whoever started it. Returns before anything has stopped."""
        self._answer(calls.cancel_query(query_id))
