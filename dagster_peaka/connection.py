"""How calls travel: one connection pool, retries, one pace for all after a 429, and errors that say what to do.

Requests run on an event loop in one background thread, so that a caller may start many, wait for some, and drop the
rest at once: a cancelled request closes its socket instead of holding its thread until a timeout. The thread starts
with the first request and ends in :meth:`Connection.close`.

What is retried: a read on connection errors, timeouts, 429, 502, 503 and 504; a changing request only when it surely
was not taken (connection refused, connect timeout, 429). Everything else is told to the caller, once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any, Generic, TypeVar
from urllib.request import getproxies, proxy_bypass

import httpx
from httpx_retries import Retry, RetryTransport

from dagster_peaka.calls import Call
from dagster_peaka.errors import (
    PeakaApiError,
    PeakaAuthenticationError,
    PeakaConfigError,
    PeakaConnectionError,
    PeakaError,
    PeakaNotFoundError,
    PeakaPermissionError,
    PeakaRateLimitError,
    PeakaResponseError,
    PeakaServerError,
    PeakaUnknownOutcomeError,
    shortened,
)
from dagster_peaka.models import error_words

T = TypeVar("T")

MAX_BACKOFF = 30.0
"""Seconds that one wait between two attempts lasts at most, also when ``Retry-After`` asks for more."""

CONNECT_TIMEOUT = 10.0
"""Seconds that opening a connection may take at most."""


@dataclass(frozen=True)
class Answer(Generic[T]):
    """A call's result, and Peaka's clock (the ``Date`` header, whole seconds) when it was given, if it said so."""

    value: T
    server_time: datetime | None


def checked_base_url(base_url: str) -> str:
    """``base_url`` without a trailing slash.

    Raises:
        PeakaConfigError: when it is no ``https`` address (``http`` is accepted for loopback only, because the key
            travels in clear), or carries a user, a query or a fragment.
    """
    example = "write it like 'https://partner.peaka.studio/api/v1'."
    try:
        url = httpx.URL(base_url.strip())
        port = url.port
    except (httpx.InvalidURL, ValueError, TypeError):
        raise PeakaConfigError(f"base_url is not a valid address; {example}") from None
    if url.userinfo or url.query or url.fragment:
        raise PeakaConfigError(f"base_url must carry no user, query or fragment; {example}")
    if url.scheme not in ("http", "https") or not url.host or port == 0:
        raise PeakaConfigError(f"base_url {base_url!r} is not an http(s) address; {example}")
    if url.scheme == "http" and not is_loopback(url.host):
        raise PeakaConfigError(
            f"base_url {base_url!r} would send the API key unencrypted: use https (http is for this machine only)."
        )
    return str(url).rstrip("/")


def is_loopback(host: str) -> bool:
    """True for ``localhost`` and the addresses of the loopback interface."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class _Pace:
    """After a 429 nobody sends before the time that Peaka asked for; waits are capped like any other backoff."""

    def __init__(self) -> None:
        self._not_before = 0.0
        self._refusals = 0

    async def wait(self) -> None:
        while (left := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def note(self, response: httpx.Response, retry: Retry) -> None:
        if response.status_code != 429:
            self._refusals = 0
            return
        self._refusals += 1
        pause = min(MAX_BACKOFF, 0.5 * 2**self._refusals) * random.uniform(0.5, 1)
        asked = response.headers.get("Retry-After", "")
        if asked:
            try:
                pause = min(MAX_BACKOFF, retry.parse_retry_after(asked))
            except ValueError:
                pass
        self._not_before = max(self._not_before, time.monotonic() + pause)


class _Attempt(httpx.AsyncBaseTransport):
    """One attempt at a request: kept to the common pace, read to its last byte, within ``timeout`` seconds in all.

    Reading the body here puts a connection that breaks half way under the same retry rules as one that never opened.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, timeout: float, retry: Retry) -> None:
        self._inner = inner
        self._timeout = timeout
        self._retry = retry
        self._pace = _Pace()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._pace.wait()
        try:
            response = await asyncio.wait_for(self._exchange(request), self._timeout)
        except asyncio.TimeoutError:
            raise httpx.ReadTimeout(f"no complete answer within {self._timeout:g} s", request=request) from None
        self._pace.note(response, self._retry)
        return response

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        await response.aread()
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class Connection:
    """Sends calls to one project of one Peaka, with one key. Safe to use from several threads.

    Args:
        api_key: the Partner or Project key; kept out of every repr, message and exception.
        project_id: the project that every path names.
        base_url: checked by :func:`checked_base_url`.
        request_timeout: seconds for one attempt, from connecting to the last byte.
        request_max_retries: how often a request is repeated at most, under the rules above.
        max_concurrent_requests: requests under way at once at most.
        transport: replaces the network, for tests.
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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._api_key = _checked_key(api_key)
        self._project_id = project_id
        self._base_url = checked_base_url(base_url)
        self._request_timeout = request_timeout
        self._max_concurrent_requests = max_concurrent_requests
        self._transport = transport
        self._read_retry = Retry(
            total=request_max_retries,
            allowed_methods=["GET", "POST"],
            status_forcelist=[429, 502, 503, 504],
            backoff_factor=0.5,
            max_backoff_wait=MAX_BACKOFF,
        )
        self._change_retry = Retry(
            total=request_max_retries,
            allowed_methods=["POST", "PUT", "DELETE"],
            status_forcelist=[429],
            retry_on_exceptions=[httpx.ConnectError, httpx.ConnectTimeout],
            backoff_factor=0.5,
            max_backoff_wait=MAX_BACKOFF,
        )
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: httpx.AsyncClient | None = None
        self._slots: asyncio.Semaphore | None = None

    def __repr__(self) -> str:
        return f"<Connection to project {self._project_id!r} at {self._base_url}>"

    def start(self, call: Call[T]) -> Future[Answer[T]]:
        """Begin to send ``call``; the future holds the answer or a :class:`PeakaError`. Cancelling it drops it.

        Raises:
            PeakaConfigError: at once, when an id or name cannot be part of a path.
        """
        path = call.path(self._project_id)
        return asyncio.run_coroutine_threadsafe(self._send(call, path), self._running_loop())

    def answer(self, call: Call[T]) -> Answer[T]:
        """Send ``call`` and wait for its answer.

        Raises:
            PeakaError: as drawn in :mod:`dagster_peaka.errors`.
        """
        future = self.start(call)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """Drop what is under way, close the connections and end the thread. The next request would start anew."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), loop)
        thread.join()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._slots = asyncio.Semaphore(self._max_concurrent_requests)
                self._client = self._new_client()
                self._thread = threading.Thread(
                    target=_run_loop, args=(loop,), name="dagster-peaka requests", daemon=True
                )
                self._thread.start()
                self._loop = loop
            return self._loop

    async def _shut_down(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
        asyncio.get_running_loop().stop()

    def _new_client(self) -> httpx.AsyncClient:
        transport = self._transport or httpx.AsyncHTTPTransport(
            proxy=_proxy_for(self._base_url), limits=httpx.Limits(max_connections=None, max_keepalive_connections=None)
        )
        attempt = _Attempt(transport, self._request_timeout, self._read_retry)
        return httpx.AsyncClient(
            transport=RetryTransport(attempt, self._read_retry),
            # wait_for in _Attempt bounds the whole attempt; only connecting has a bound of its own, because
            # a connect timeout is the one kind that surely had no effect.
            timeout=httpx.Timeout(None, connect=min(CONNECT_TIMEOUT, self._request_timeout / 2)),
            follow_redirects=False,
            trust_env=False,
            headers={
                "Authorization": f"Bearer {self._api_key}",
                "Accept": "application/json",
                "User-Agent": f"dagster-peaka/{version('dagster-peaka')} dagster/{version('dagster')}",
            },
        )

    async def _send(self, call: Call[T], path: str) -> Answer[T]:
        assert self._client is not None and self._slots is not None
        request = self._client.build_request(
            call.method,
            self._base_url + path,
            params=dict(call.query) or None,
            json=call.body,
            extensions={"retry": self._change_retry if call.changes else self._read_retry},
        )
        response: httpx.Response | None = None
        failure: PeakaError | None = None
        async with self._slots:
            try:
                response = await self._client.send(request)
            except httpx.HTTPError as error:
                failure = self._no_answer(call, error)
        # Raised out here: an exception raised inside the handler would carry httpx's, and with it the request's
        # headers, as its context.
        if response is None:
            raise failure or PeakaConnectionError("no answer")
        return self._read(call, path, response)

    def _no_answer(self, call: Call[Any], error: httpx.HTTPError) -> PeakaError:
        where = httpx.URL(self._base_url).netloc.decode()
        words = self._redacted(str(error) or type(error).__name__)
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)):
            return PeakaConnectionError(
                f"Could not connect to Peaka at {where} ({words}): check that it is up, and base_url or zone."
            )
        if call.changes:
            return PeakaUnknownOutcomeError(
                f"{call.method} for {call.subject} was sent to {where}, but its answer was lost ({words}): "
                "Peaka may or may not have carried it out."
            )
        return PeakaConnectionError(f"No answer from Peaka at {where} for {call.subject} ({words}).")

    def _read(self, call: Call[T], path: str, response: httpx.Response) -> Answer[T]:
        status = response.status_code
        if 300 <= status < 400:
            raise PeakaResponseError(
                f"{call.method} {path} was answered with a redirect ({status}), which is not followed because the "
                "key goes to base_url's host only: set base_url to the address that Peaka's documentation gives."
            )
        if status >= 400:
            raise self._refusal(call, path, response)
        data: Any = None
        problem = ""
        if call.needs_json:
            try:
                data = json.loads(response.content)
            except ValueError:
                problem = "its body is not JSON"
        if not problem:
            try:
                return Answer(call.parse(data), _server_time(response))
            except PeakaResponseError as error:
                problem = str(error)
        beginning = self._redacted(shortened(response.text, 200))
        message = f"{call.method} {path} was answered with {status}, but {problem}. It begins: {beginning!r}."
        if call.changes:
            raise PeakaUnknownOutcomeError(message + " It may have been carried out all the same.")
        raise PeakaResponseError(message + " Check that base_url is that of Peaka's API.")

    def _refusal(self, call: Call[Any], path: str, response: httpx.Response) -> PeakaError:
        status = response.status_code
        reason, error_code = _reason(response)
        reason = self._redacted(reason)
        said = f" Peaka says: {reason}" if reason else ""
        request = f"{call.method} {path} was answered with {status}"
        if status >= 500:
            message = f"{request} for {call.subject}.{said}"
            if call.changes:
                return PeakaUnknownOutcomeError(
                    f"{message} It may or may not have been carried out.", status_code=status
                )
            return PeakaServerError(message, status_code=status, reason=reason, error_code=error_code)
        kind, advice = _ADVICE.get(status, (PeakaApiError, ""))
        advice = advice.format(subject=call.subject, project=self._project_id, base_url=self._base_url)
        message = f"{request}{f': {advice}' if advice else f' for {call.subject}.'}{said}"
        return kind(message, status_code=status, reason=reason, error_code=error_code)

    def _redacted(self, text: str) -> str:
        return text.replace(self._api_key, "[the API key]")


_ADVICE: dict[int, tuple[type[PeakaApiError], str]] = {
    401: (
        PeakaAuthenticationError,
        "the API key was refused. Check api_key, and that zone or base_url ({base_url}) is the one it was made in.",
    ),
    403: (
        PeakaPermissionError,
        "this key may not do that. A Project key reaches its own project only: check project_id ({project}), or "
        "use a Partner key.",
    ),
    404: (
        PeakaNotFoundError,
        "{subject} was not found in project {project}. Check the id or name, and project_id.",
    ),
    429: (
        PeakaRateLimitError,
        "too many requests, still after the retries. Lower max_concurrent_requests or try later ({subject}).",
    ),
}


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _checked_key(api_key: str) -> str:
    key = api_key.strip()
    if not key:
        raise PeakaConfigError("api_key is empty: set it to a Partner or Project API key of Peaka.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise PeakaConfigError("api_key holds characters that no API key has (spaces, line ends, non-ASCII).")
    return key


def _proxy_for(base_url: str) -> str | None:
    """The proxy that the environment names for this one host; never one for loopback, where the key is in clear."""
    url = httpx.URL(base_url)
    if is_loopback(url.host) or proxy_bypass(url.host):
        return None
    proxies = getproxies()
    return proxies.get(url.scheme) or proxies.get("all")


def _server_time(response: httpx.Response) -> datetime | None:
    try:
        moment = parsedate_to_datetime(response.headers.get("Date", ""))
    except (TypeError, ValueError, IndexError):
        return None
    return moment if moment.tzinfo is not None else None


def _reason(response: httpx.Response) -> tuple[str, str | None]:
    """Peaka's own words in an error body of unspecified shape, and its ``errorCode``."""
    try:
        data = json.loads(response.content)
    except ValueError:
        text = response.text.strip()
        return ("" if text.lower().startswith(("<!doctype", "<html")) else shortened(text)), None
    code = data.get("errorCode") if isinstance(data, dict) else None
    return error_words(data), str(code) if isinstance(code, (str, int)) else None

