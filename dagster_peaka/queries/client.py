"""Lets the caches' engine follow refreshes of queries: its calls become those of queries, their statuses executions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar, cast

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Answer, Call
from dagster_peaka.api.models import CacheStatus
from dagster_peaka.api.query_models import QueryStatus
from dagster_peaka.api.session import Client
from dagster_peaka.errors import PeakaApiError, PeakaConfigError, PeakaError, PeakaNotFoundError
from dagster_peaka.queries.refreshes import Refreshes

T = TypeVar("T")


class QueryClient:
    """A client for :class:`dagster_peaka.sync.runner.Runner` to which each query is a cache, by the query's id.

    A history is what was read of the statuses so far, and costs no request.

    Args:
        client: sends the requests.
        refreshes: what is known of each query, by its id.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        client: Client,
        refreshes: Mapping[str, Refreshes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._refreshes = refreshes
        self._clock = clock
        self._lock = threading.Lock()
        """Answers come in threads of their own."""

    def start(self, call: Call[T]) -> Future[Answer[T]]:
        """Begin to send what ``call``, one about caches, means for queries."""
        return cast("Future[Answer[T]]", self._started(call))

    def _started(self, call: Call[Any]) -> Future[Any]:
        match call.segments:
            case ("cache", "status"):
                return _mapped(self._client.start(calls.list_query_statuses()), self._statuses, _same)
            case ("cache", query_id, "status"):
                asked = self._client.start(calls.get_query_status(query_id))
                return _mapped(
                    asked,
                    lambda answer: Answer(self._status(answer.value), answer.server_time),
                    lambda error: self._unreadable(query_id, error),
                )
            case ("cache", query_id, "executionHistory"):
                return self._history(query_id, int(call.query["limit"]), int(call.query["offset"]))
            case ("cache", query_id, "fullRefreshUpdate"):
                return self._client.start(calls.refresh_query(query_id, resent=call.resent))
            case ("cache", query_id, "cancelFullRefreshUpdate"):
                return self._client.start(calls.cancel_query(query_id))
            case _:
                raise PeakaConfigError(f"A query has nothing for {call.method} of {call.subject}.")

    def _status(self, status: QueryStatus) -> CacheStatus:
        with self._lock:
            return self._refreshes[status.query_id].read(status, self._clock())

    def _statuses(self, answer: Answer[list[QueryStatus]]) -> Answer[list[CacheStatus]]:
        found = [self._status(status) for status in answer.value if status.query_id in self._refreshes]
        return Answer(found, answer.server_time)

    def _unreadable(self, query_id: str, error: PeakaError) -> PeakaError:
        with self._lock:
            self._refreshes[query_id].unreadable()
        if isinstance(error, PeakaApiError) and error.status_code == 400:
            # What Peaka was seen to answer about a query that was deleted.
            return PeakaNotFoundError(str(error), status_code=400, reason=error.reason)
        return error

    def _history(self, query_id: str, limit: int, offset: int) -> Future[Answer[Any]]:
        with self._lock:
            page = self._refreshes[query_id].history[offset : offset + limit]
        future: Future[Answer[Any]] = Future()
        future.set_result(Answer(page, None))
        return future


def _same(error: PeakaError) -> PeakaError:
    return error


def _mapped(
    asked: Future[Answer[Any]],
    change: Callable[[Answer[Any]], Answer[Any]],
    explain: Callable[[PeakaError], PeakaError],
) -> Future[Any]:
    """The future of the changed answer; cancelling it cancels what was asked."""
    told: Future[Any] = Future()

    def answered(future: Future[Answer[Any]]) -> None:
        try:
            if future.cancelled():
                told.cancel()
            elif (error := future.exception()) is not None:
                told.set_exception(explain(error) if isinstance(error, PeakaError) else error)
            else:
                told.set_result(change(future.result()))
        except InvalidStateError:  # cancelled meanwhile
            pass
        except Exception as problem:
            told.set_exception(problem)

    def dropped(future: Future[Any]) -> None:
        if future.cancelled():
            asked.cancel()

    told.add_done_callback(dropped)
    asked.add_done_callback(answered)
    return told
