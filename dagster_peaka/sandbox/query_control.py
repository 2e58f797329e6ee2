"""What a test may see of saved queries, and do to them beside the API: `PeakaSandbox.queries`."""

import asyncio
from collections.abc import Callable

from dagster_peaka.sandbox.behaviour import Plan
from dagster_peaka.sandbox.caches import release
from dagster_peaka.sandbox.saved_queries import Query, RefreshRecord, SavedQueries
from dagster_peaka.sandbox.serving import Loop
from dagster_peaka.sandbox.wire import Json


class SandboxQueries:
    """The saved queries of a sandbox, each by its name or its id. Safe to call from any thread.

    Raises `KeyError` for a query that is not there.

    Example: `sandbox.queries.create("report", 'SELECT count(*) AS n FROM "shop"."public"."orders"')`
    """

    def __init__(self, queries: Callable[[], SavedQueries], loop: Loop) -> None:
        self._queries = queries
        self._loop = loop

    def create(self, name: str, sql: str, *, materialized: bool = True, schedule: Json | None = None) -> str:
        """A new query, of which nothing is refreshed yet. `schedule` is Peaka's object. Returns its id.

        Raises `ValueError` for a name that is taken.
        """
        made = self._loop.call(
            lambda: self._queries().create(name, sql, materialized=materialized, schedule=schedule)
        )
        return made.id

    def delete(self, query: str) -> None:
        """Delete a query beside the API."""
        self._loop.call(lambda: self._queries().delete(self._named(query)))

    def refresh(self, query: str) -> None:
        """Start a refresh beside the API, as others and schedules do."""
        self._loop.call(lambda: self._queries().refresh(self._named(query), "stranger"))

    def cancel(self, query: str) -> None:
        """Cancel what waits or runs, beside the API."""
        self._loop.call(lambda: self._queries().cancel(self._named(query)))

    def plan(
        self, query: str, *, duration: float | None = None, hold: bool = False, fail: str | None = None
    ) -> None:
        """Decide how the next refresh goes: its seconds, whether it waits for `release`, whether it fails."""
        self._loop.call(
            lambda: self._named(query).plans.append(Plan(duration=duration, hold=hold, fail=fail))
        )

    def release(self, query: str) -> None:
        """Let the held refreshes of a query go on."""
        self._loop.call(lambda: release(self._named(query).unfinished))

    def refreshes(self, query: str) -> list[RefreshRecord]:
        """The truth about all refreshes of a query, oldest first."""
        return self._loop.call(lambda: [refresh.record() for refresh in self._named(query).refreshes])

    def wait_idle(self, timeout: float = 30) -> None:
        """Wait until no refresh waits or runs. Raises `TimeoutError` after `timeout` seconds."""
        try:
            self._loop.wait(self._queries().idle(), timeout)
        except asyncio.TimeoutError:  # on Python 3.10 not yet the built-in one
            raise TimeoutError(f"Refreshes of queries are not finished after {timeout} s.") from None

    def _named(self, query: str) -> Query:
        found = self._queries().named(query)
        if found is None:
            raise KeyError(f"The sandbox has no query {query!r}.")
        return found
