"""What sends calls to Peaka for one project: one connection pool, one answer or many side by side."""

from __future__ import annotations

import concurrent.futures
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from types import TracebackType
from typing import Protocol, TypeVar

from typing_extensions import Self

from dagster_peaka.api.addresses import ZONES, checked_studio_url, checked_zone, page_url
from dagster_peaka.api.calls import Answer, Call
from dagster_peaka.api.settings import checked_project_id
from dagster_peaka.errors import PeakaConfigError, PeakaConnectionError, PeakaError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

AT_ONCE = 256
"""Calls of one collection begun and not yet answered; how many are on their way, the client limits."""


class Client(Protocol):
    """What the runner needs of :class:`dagster_peaka.PeakaClient`."""

    def start(self, call: Call[T]) -> Future[Answer[T]]:
        """Begin to send ``call``."""
        ...


class Session:
    """Sends calls for one project; the arguments are those of :class:`dagster_peaka.PeakaClient`."""

    def __init__(
        self,
        api_key: str,
        project_id: str,
        base_url: str | None = None,
        *,
        zone: str = "us",
        studio_url: str | None = None,
        studio_query_url: str | None = None,
        request_timeout: float = 30.0,
        request_max_retries: int = 4,
        max_concurrent_requests: int = 16,
        max_response_bytes: int | None = None,
        read_only: bool = False,
    ) -> None:
        project_id = checked_project_id(project_id)
        zone = checked_zone(zone)
        templates = {"cache": studio_url, "query": studio_query_url}
        self._studio_urls = {
            kind: checked_studio_url(template, kind)
            for kind, template in templates.items()
            if template is not None
        }
        if not (math.isfinite(request_timeout) and request_timeout > 0):
            raise PeakaConfigError("request_timeout must be a number of seconds above 0.")
        if request_max_retries < 0:
            raise PeakaConfigError("request_max_retries must be 0 or more.")
        if max_concurrent_requests < 1:
            raise PeakaConfigError("max_concurrent_requests must be 1 or more.")
        if max_response_bytes is not None and max_response_bytes < 1:
            raise PeakaConfigError("max_response_bytes must be 1 or more.")
        # Not before it is needed: httpx takes longer to import than all of this package, and a code location that
        # only loads its definitions sends nothing.
        from dagster_peaka.api.connection import Connection

        self._connection = Connection(
            api_key,
            project_id,
            ZONES[zone] if base_url is None else base_url,
            request_timeout=request_timeout,
            request_max_retries=request_max_retries,
            max_concurrent_requests=max_concurrent_requests,
            max_response_bytes=max_response_bytes,
            read_only=read_only,
        )
        self._project_id = project_id

    @property
    def project_id(self) -> str:
        """The project that every request names."""
        return self._project_id

    def cache_url(self, cache_id: str) -> str | None:
        """The address at which a person finds a cache, by ``studio_url``; None where that is not set."""
        return self._page_url("cache", cache_id)

    def query_url(self, query_id: str) -> str | None:
        """The address at which a person finds a query, by ``studio_query_url``; None where that is not set."""
        return self._page_url("query", query_id)

    def _page_url(self, kind: str, its_id: str) -> str | None:
        template = self._studio_urls.get(kind)
        return None if template is None else page_url(template, self._project_id, kind, its_id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for project {self._project_id!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop requests under way and close the connections. The client cannot be used afterwards."""
        self._connection.close()

    def start(self, call: Call[T]) -> Future[Answer[T]]:
        """Begin to send a call of ``dagster_peaka.api.calls`` without waiting for its answer."""
        return self._connection.start(call)

    def collect(
        self,
        wanted: Iterable[tuple[K, Call[T]]],
        *,
        timeout: float | None = None,
        still: Callable[[K], bool] = lambda _: True,
    ) -> Iterator[tuple[K, Answer[T] | PeakaError]]:
        """Send many calls side by side; yield each key with its answer, or why there is none, in the calls' order.

        Args:
            wanted: the calls, each with a key; taken as places become free.
            timeout: seconds for all of them; what has not been answered then yields a
                :class:`PeakaConnectionError`.
            still: asked before a call is sent and again before its answer is waited for; where it says no, the call
                is dropped and nothing is yielded.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        begun = ((key, self._begun(call)) for key, call in wanted if still(key))
        waiting: deque[tuple[K, Future[Answer[T]]]] = deque()
        try:
            waiting.extend(islice(begun, AT_ONCE))
            while waiting:
                key, future = waiting.popleft()
                if still(key):
                    yield key, _outcome(future, deadline)
                future.cancel()
                waiting.extend(islice(begun, 1))
        finally:
            for _, future in waiting:
                future.cancel()

    def _begun(self, call: Call[T]) -> Future[Answer[T]]:
        try:
            return self.start(call)
        except PeakaError as error:  # an id or a name that no request can carry
            failed: Future[Answer[T]] = Future()
            failed.set_exception(error)
            return failed

    def _answer(self, call: Call[T]) -> T:
        return self._connection.answer(call).value


def _outcome(future: Future[Answer[T]], deadline: float | None) -> Answer[T] | PeakaError:
    try:
        return future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except concurrent.futures.TimeoutError:
        return PeakaConnectionError("Peaka has not answered in the time that there was.")
    except PeakaError as error:
        return error
