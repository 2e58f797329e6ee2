"""How calls travel: one connection pool, retries, one pace for all after a 429.

Requests run on an event loop in one background thread, so that a caller may start many, wait for some, and drop the
rest at once: a cancelled request closes its socket instead of holding its thread until a timeout. The thread starts
with the first request and ends in :meth:`Connection.close`, or with the last reference to the connection. A process
that was forked has a thread and sockets of its own. (anyio's blocking portal is such a thread, too; but it cannot be
stopped from its own thread, where a last reference may go, nor without waiting for it.)

What is sent again: a read, be it posted, on connection errors, timeouts, 429, 502, 503 and 504; a changing request
only when it surely was not taken (connection refused, connect timeout, 429). What no further try mends (a certificate
that cannot be verified, a proxy that refuses) is told at once. Everything else is told to the caller, once.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import os
import random
import re
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Coroutine
from concurrent.futures import Future
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from tempfile import SpooledTemporaryFile
from typing import Any, TypeVar

import httpx
from httpx_retries import Retry, RetryTransport

from dagster_peaka.api.addresses import checked_base_url
from dagster_peaka.api.answers import Reader, server_time
from dagster_peaka.api.calls import Answer, Call
from dagster_peaka.api.network import Proxy, for_good, proxy_for, transport
from dagster_peaka.api.settings import checked_key
from dagster_peaka.errors import (
    PeakaConfigError,
    PeakaConnectionError,
    PeakaError,
    PeakaUnknownOutcomeError,
    shortened,
)

T = TypeVar("T")

MAX_WAIT = 30.0
"""Seconds that one wait between two attempts lasts at most, also when ``Retry-After`` asks for more."""

READ_AT_ONCE = 2**16
"""Bytes of an answer that are read or unpacked at once."""

HELD_AT_MOST = 2**25
"""Bytes of an answer that are held in memory before it is known how many it has."""

CONNECT_TIMEOUT = 10.0
"""Seconds that opening a connection may take at most."""


class _Pace:
    """After a 429 no request of the connection leaves before the time that Peaka asked for.

    Where it asked for none, the pause doubles with every refusal that came after the last pause was over: those of
    requests that were under way together count once.
    """

    def __init__(self) -> None:
        self._not_before = 0.0
        self._refusals = 0

    async def wait(self) -> None:
        """Return when the next request may leave."""
        while self.left > 0:
            await asyncio.sleep(self.left)

    @property
    def left(self) -> float:
        """Seconds until then; 0 or less where nothing has to wait."""
        return self._not_before - time.monotonic()

    def refused(self, asked: float | None) -> None:
        """Take in a 429, and the seconds that it asked to wait."""
        now = time.monotonic()
        if now >= self._not_before:
            self._refusals += 1
        if asked is None:
            asked = min(MAX_WAIT, 0.5 * 2 ** min(self._refusals, 10)) * random.uniform(0.5, 1)
        self._not_before = max(self._not_before, now + asked)

    def accepted(self) -> None:
        """Take in any other answer."""
        self._refusals = 0


class _Attempt(httpx.AsyncBaseTransport):
    """One attempt at a request: kept to the common pace, read to its last byte, within the request's time in all.

    Reading the body here puts a connection that breaks half way under the same retry rules as one that never opened.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, proxy: Proxy | None) -> None:
        self._inner = inner
        self._proxy = proxy
        self._pace = _Pace()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.extensions["resent"]:
            await self._pace.wait()
        elif self._pace.left > 0:
            raise HeldBack("Peaka has just asked for a pause, by a 429", request=request)
        seconds: float = request.extensions["attempt_seconds"]
        try:
            response = await asyncio.wait_for(self._exchange(request), seconds)
        except asyncio.TimeoutError:
            raise httpx.ReadTimeout(f"no complete answer within {seconds:g} s", request=request) from None
        asked = _retry_after(response)
        if response.status_code == 429:
            self._pace.refused(asked)
        else:
            self._pace.accepted()
        return response

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await self._inner.handle_async_request(request)
        except httpx.TransportError as error:
            raise for_good(error, self._proxy) or error from error
        try:
            body = await _body(response, request.extensions["most_bytes"])
        finally:
            await response.aclose()
        headers = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_BODY]
        return httpx.Response(
            response.status_code, headers=headers, content=body, extensions=response.extensions
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


class HeldBack(httpx.ConnectError):
    """A request that did not leave, because Peaka has asked for a pause and it must not wait."""


class TooLarge(httpx.DecodingError):
    """An answer with more bytes than its call may have."""


class Damaged(httpx.DecodingError):
    """An answer whose bytes did not arrive as they were packed."""


_OF_THE_BODY = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})


async def _body(response: httpx.Response, most: int) -> bytes:
    """The decoded body, of which never more than ``most`` bytes are taken: what is packed may be a bomb.

    Until it is known to be no larger, what is above :data:`HELD_AT_MOST` waits in a file.
    """
    said = response.headers.get("Content-Length", "")
    if said.isascii() and said.isdigit() and int(said) > most:
        raise TooLarge(f"it has {int(said):,} bytes, and {most:,} may be read")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("gzip", "x-gzip", "identity", ""):
        raise httpx.DecodingError(f"its encoding {encoding!r} was not asked for")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 16) if encoding.endswith("gzip") else None
    taken = 0
    with SpooledTemporaryFile(HELD_AT_MOST) as body:
        try:
            async for chunk in response.aiter_raw(READ_AT_ONCE):
                rest = chunk
                while rest:
                    if unpack is None:
                        taken += body.write(rest)
                        rest = b""
                    else:
                        taken += body.write(unpack.decompress(rest, READ_AT_ONCE))
                        rest = unpack.unconsumed_tail
                    if taken > most:
                        raise TooLarge(f"it has more than the {most:,} bytes that may be read")
        except zlib.error as error:
            raise Damaged(f"its packing is damaged ({error})") from None
        if unpack is not None and taken and not unpack.eof:
            raise Damaged("its packing ends too early")
        body.seek(0)
        return body.read()


def _retry_after(response: httpx.Response) -> float | None:
    """The seconds that an answer asks to wait, capped; leaves its header as whole seconds or not at all.

    A date is one of the answer's own clock, and this machine's may be an hour away: it counts from the ``Date`` of the
    same answer.
    """
    header = response.headers.pop("Retry-After", "").strip()
    try:
        if re.fullmatch(r"\d+(\.\d+)?", header, re.ASCII):
            asked = float(header)
        else:
            until = parsedate_to_datetime(header)
            now = server_time(response) or datetime.now(timezone.utc)
            asked = (until.replace(tzinfo=until.tzinfo or timezone.utc) - now).total_seconds()
    except OverflowError:  # a date beyond all calendars
        asked = MAX_WAIT
    except (TypeError, ValueError, IndexError):
        return None
    asked = min(MAX_WAIT, max(0.0, asked))
    response.headers["Retry-After"] = str(math.ceil(asked))
    return asked


class _Retries(httpx.AsyncBaseTransport):
    """Sends a read again where that may help, and a change only where it surely was not taken."""

    def __init__(self, attempt: _Attempt, most: int) -> None:
        self._attempt = attempt
        reads = Retry(
            total=most,
            allowed_methods=["GET", "POST"],  # a query is a read that is posted
            status_forcelist=[429, 502, 503, 504],
            retry_on_exceptions=[
                httpx.TimeoutException,
                httpx.NetworkError,
                httpx.RemoteProtocolError,
                Damaged,
            ],
            backoff_factor=0.5,
            max_backoff_wait=MAX_WAIT,
        )
        changes = Retry(
            total=most,
            allowed_methods=["POST", "PUT", "DELETE"],
            status_forcelist=[429],
            retry_on_exceptions=[httpx.ConnectError, httpx.ConnectTimeout],
            backoff_factor=0.5,
            max_backoff_wait=MAX_WAIT,
        )
        self._reads, self._changes = RetryTransport(attempt, reads), RetryTransport(attempt, changes)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not request.extensions["resent"]:
            return await self._attempt.handle_async_request(request)
        rules = self._changes if request.extensions["changes"] else self._reads
        return await rules.handle_async_request(request)

    async def aclose(self) -> None:
        await self._attempt.aclose()


class _Engine:
    """What one process needs to send requests: an event loop in a thread, and the sockets that it reads.

    It knows nothing of its connection, so that the connection can go while the thread waits.
    """

    def __init__(self, http: httpx.AsyncClient, most_at_once: int) -> None:
        self.http = http
        self.slots = asyncio.Semaphore(most_at_once)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="dagster-peaka requests", daemon=True)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin to run ``coroutine`` in the thread; callers take turns."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def stop(self) -> None:
        """Let what is under way be dropped and the thread end; may be called from everywhere, and does not wait."""
        if self._loop is not None and not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop)

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._loop is not None:
            self._thread.join()

    def _run(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _shut_down(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                for task in others:
                    task.cancel()
                # Again after a moment: before Python 3.12, wait_for may swallow a cancellation.
                await asyncio.wait(others, timeout=0.5)
            await self.http.aclose()
            await loop.shutdown_asyncgens()
        finally:
            loop.stop()


class Connection:
    """Sends calls to one project of one Peaka, with one key. Safe to use from several threads.

    Args:
        api_key: the Partner or Project key; kept out of every repr, message and exception.
        project_id: the project that every path names.
        base_url: checked by :func:`checked_base_url`.
        request_timeout: seconds for one attempt, from connecting to the last byte.
        request_max_retries: how often a request is repeated at most, under the rules above.
        max_concurrent_requests: requests under way at once at most.
        max_response_bytes: bytes that an answer may have, decoded; by default each call's own limit.
        read_only: whether calls that change something are refused.

    Raises:
        PeakaConfigError: for a key, an address, or certificates or a proxy of the environment that cannot be used.
    """

    def __init__(
        self,
        api_key: str,
        project_id: str,
        base_url: str,
        *,
        request_timeout: float,
        request_max_retries: int,
        max_concurrent_requests: int,
        max_response_bytes: int | None = None,
        read_only: bool = False,
    ) -> None:
        key = checked_key(api_key)
        self._project_id = project_id
        self._base_url = checked_base_url(base_url)
        self._proxy = proxy_for(self._base_url)
        self._reader = Reader(key, project_id, self._base_url, self._proxy)
        self._request_timeout = request_timeout
        self._max_response_bytes = max_response_bytes
        self._read_only = read_only
        # It holds the key where no repr looks, and not this object, which would then wait for the garbage collector.
        base_url, proxy = self._base_url, self._proxy
        self._new_http = lambda: _new_http(key, base_url, proxy, request_timeout, request_max_retries)
        self._max_concurrent_requests = max_concurrent_requests
        self._lock = threading.Lock()
        self._closed = False
        self._use(self._new_engine())
        _CONNECTIONS.add(self)

    def __repr__(self) -> str:
        return f"<Connection to project {self._project_id!r} at {self._base_url}>"

    def start(self, call: Call[T]) -> Future[Answer[T]]:
        """Begin to send ``call``; the future holds the answer or a :class:`PeakaError`. Cancelling it drops it.

        Raises:
            PeakaConfigError: at once, when an id, name or value cannot be part of a request, or a change is refused.
            RuntimeError: after :meth:`close`.
        """
        path = call.path(self._project_id)
        if call.changes and self._read_only:
            raise PeakaConfigError(
                f"This connection is read_only: {call.method} for {call.subject} was not sent. Set read_only to False "
                f"where project {self._project_id} may be changed."
            )
        # Begun under the lock, a call is either dropped by close or refused after it, and never left waiting.
        with self._lock:
            if self._closed:
                raise RuntimeError(
                    "This PeakaClient is closed: make a new one, or use it inside its `with` block."
                )
            engine = self._engine or self._use(self._new_engine())
            request = self._request(engine.http, call, path)
            return engine.start(self._send(engine, call, path, request))

    def answer(self, call: Call[T]) -> Answer[T]:
        """Send ``call`` and wait for its answer.

        Raises:
            PeakaError: as drawn in :mod:`dagster_peaka.errors`.
            RuntimeError: after :meth:`close`.
        """
        future = self.start(call)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            kind = PeakaUnknownOutcomeError if call.changes else PeakaConnectionError
            raise kind(
                f"The client was closed while {call.method} for {call.subject} was under way."
            ) from None
        finally:
            future.cancel()

    def close(self) -> None:
        """Drop what is under way, close the connections and end the thread."""
        with self._lock:
            self._closed = True
            engine = self._engine
        if engine is not None:
            self._end()
            engine.join()

    def forget_parent(self) -> None:
        """In a process that was just forked: leave the loop and the sockets to the parent, whose they are."""
        if self._engine is not None:
            self._end.detach()
            _OF_THE_PARENT.append(self._engine)
        self._engine, self._lock = None, threading.Lock()

    def _new_engine(self) -> _Engine:
        return _Engine(self._new_http(), self._max_concurrent_requests)

    def _use(self, engine: _Engine) -> _Engine:
        self._engine: _Engine | None = engine
        self._end = weakref.finalize(self, engine.stop)
        self._end.atexit = False  # the thread ends with the process
        return engine

    def _request(self, http: httpx.AsyncClient, call: Call[Any], path: str) -> httpx.Request:
        extensions = {"changes": call.changes, "attempt_seconds": self._request_timeout + call.takes}
        extensions["resent"] = call.resent
        extensions["most_bytes"] = self._max_response_bytes or call.most
        try:
            return http.build_request(
                call.method,
                self._base_url + path,
                params=call.query or None,
                json=call.body,
                extensions=extensions,
            )
        except (httpx.InvalidURL, TypeError, ValueError) as error:  # too long, or no JSON
            raise PeakaConfigError(
                f"The request for {shortened(call.subject, 200)} cannot be written ({error}): check its ids, names "
                "and values."
            ) from None

    async def _send(self, engine: _Engine, call: Call[T], path: str, request: httpx.Request) -> Answer[T]:
        failure: PeakaError | None = None
        response: httpx.Response | None = None
        async with engine.slots:
            try:
                response = await engine.http.send(request)
            except Exception as error:  # also what httpx lets through of the libraries that it stands on
                failure = self._reader.no_answer(call, error)
        # Raised out here: an exception raised inside the handler would carry httpx's, and with it the request's
        # headers, as its context.
        if response is None:
            assert failure is not None
            raise failure
        return self._reader.read(call, path, response)


def _new_http(
    key: str, base_url: str, proxy: Proxy | None, request_timeout: float, max_retries: int
) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=_Retries(_Attempt(transport(base_url, proxy), proxy), max_retries),
        # wait_for in _Attempt bounds the whole attempt; only connecting has a bound of its own, because
        # a connect timeout is the one kind that surely had no effect.
        timeout=httpx.Timeout(None, connect=min(CONNECT_TIMEOUT, request_timeout / 2)),
        follow_redirects=False,
        trust_env=False,
        headers={
            "Authorization": f"Bearer {key}",
            "Accept": "application/json",
            "Accept-Encoding": "gzip",  # what can be unpacked piece by piece
            "Cache-Control": "no-cache",
            "User-Agent": f"dagster-peaka/{version('dagster-peaka')} dagster/{version('dagster')}",
        },
    )


_CONNECTIONS: weakref.WeakSet[Connection] = weakref.WeakSet()
_OF_THE_PARENT: list[_Engine] = []
"""Kept, because what Python does to a loop and its sockets when they go would reach those of the parent."""


def _forget_parent() -> None:
    for connection in list(_CONNECTIONS):
        connection.forget_parent()


if sys.platform != "win32":  # where no process is forked
    os.register_at_fork(after_in_child=_forget_parent)
