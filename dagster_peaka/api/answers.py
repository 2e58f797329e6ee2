"""What an answer means: a call's result, or the error that says what to do. No connection, no waiting."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar, cast

import httpx

from dagster_peaka.api.calls import Answer, Call
from dagster_peaka.api.models import error_words
from dagster_peaka.api.network import ForGood, Proxy
from dagster_peaka.api.redaction import Redaction
from dagster_peaka.errors import (
    PeakaApiError,
    PeakaAuthenticationError,
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

T = TypeVar("T")

SHOWN_BEGINNING = 200
"""Characters of an answer that could not be understood which an error shows."""


class Reader:
    """Reads what comes back for the calls of one connection.

    The API key is in nothing that leaves here, whoever wrote it there: not in a message, a reason or an error code, nor
    in what a successful answer holds.
    """

    def __init__(self, api_key: str, project_id: str, base_url: str, proxy: Proxy | None = None) -> None:
        self._project_id = project_id
        self._base_url = base_url
        self._proxy = proxy
        self._redaction = Redaction(api_key)
        self._safe = self._redaction.text
        self._outages = _Outages()

    def read(self, call: Call[T], path: str, response: httpx.Response) -> Answer[T]:
        """The result of a call that was answered.

        Raises:
            PeakaError: when the answer is an error, a redirect, or not what the call promises.
        """
        status = response.status_code
        if status >= 400:
            raise self._refusal(call, path, response)
        if status >= 300:
            raise PeakaResponseError(
                self._safe(
                    f"{call.method} {path} was answered with a redirect ({status}), which is not followed because "
                    "the key goes to base_url's host only: set base_url to the address that Peaka's documentation "
                    "gives."
                )
            )
        age = response.headers.get("Age", "").strip()
        if call.fresh and age.isdigit() and int(age) > 0:
            raise PeakaResponseError(
                self._safe(
                    f"{call.method} {path} was answered by a cache in between, {age} s old (Via: "
                    f"{response.headers.get('Via', 'unnamed')}), and says nothing of now: have that proxy cache none "
                    "of Peaka's answers, or name base_url's host in NO_PROXY."
                )
            )
        try:
            value = call.parse(
                self._decoded(response, exact=call.exact) if call.needs_json else self._beginning(response)
            )
            self._outages.worked(call)
            return Answer(value, server_time(response))
        except PeakaResponseError as error:
            problem = str(error)
        raise self._misfit(call, path, response, problem)

    def no_answer(self, call: Call[Any], error: Exception) -> PeakaError:
        """The error for a call that was not answered."""
        where = httpx.URL(self._base_url).netloc.decode()
        words = self._safe(" ".join(str(error).split()) or type(error).__name__)
        subject = self._safe(call.subject)
        if isinstance(error, ForGood):
            return PeakaConnectionError(f"Could not connect to Peaka at {where}: {words}.", permanent=True)
        if isinstance(error, httpx.DecodingError) and not call.changes:
            return PeakaResponseError(
                f"Peaka's answer at {where} for {subject} cannot be read: {words}. Check that base_url is that of "
                "Peaka's API, and raise max_response_bytes for answers that have to be so large."
            )
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
            if self._proxy is None:
                remedy = "check that it is up and can be reached from here, and base_url or zone"
            else:
                remedy = "check that this proxy is up and reaches that host, or name the host in NO_PROXY"
            way = f" by the proxy {self._proxy.shown}" if self._proxy else ""
            return PeakaConnectionError(f"Could not connect to Peaka at {where}{way} ({words}): {remedy}.")
        if call.changes:
            return PeakaUnknownOutcomeError(
                f"{call.method} for {subject} was sent to {where}, but its answer was lost ({words}): Peaka may or "
                "may not have carried it out. Check in Peaka before you repeat it."
            )
        return PeakaConnectionError(
            f"No answer from Peaka at {where} for {subject} ({words}): check that it is up, and raise request_timeout "
            "if its answers take long."
        )

    def _misfit(self, call: Call[Any], path: str, response: httpx.Response, problem: str) -> PeakaError:
        beginning = shortened(self._beginning(response), SHOWN_BEGINNING)
        message = self._safe(
            f"{call.method} {path} was answered with {response.status_code}, but {problem}: check that base_url is "
            "that of Peaka's API."
        )
        message += f" The answer begins {beginning!r}."
        if call.changes:
            return PeakaUnknownOutcomeError(f"{message} The request may have been carried out all the same.")
        return PeakaResponseError(message)

    def _refusal(self, call: Call[Any], path: str, response: httpx.Response) -> PeakaError:
        status = response.status_code
        reason, error_code = self._reason(response)
        reason = shortened(self._safe(reason))
        error_code = error_code and shortened(error_code)
        if reason:
            said = f" Peaka says: {reason}"
        elif _is_page(response):
            said = " The answer is a web page, perhaps of something in front of Peaka: check base_url."
        else:
            said = ""
        request = f"{call.method} {path} was answered with {status}"
        if status >= 500 and call.changes:
            message = f"{request} for {call.subject}: Peaka may or may not have carried it out."
            said += " Check in Peaka before you repeat it."
            return PeakaUnknownOutcomeError(self._safe(message) + said, status_code=status)
        kind, advice = _advice(status)
        if status == 400 and "cache settings not found" in reason.lower():
            # What a trigger of a cache that does not exist was seen to be answered with.
            kind, advice = _advice(404)
        if status >= 500:
            said += self._outages.failed(call)
        advice = advice.format(subject=call.subject, project=self._project_id, base_url=self._base_url)
        message = f"{self._safe(f'{request}: {advice}')}{said}"
        return kind(message, status_code=status, reason=reason, error_code=error_code)

    def _beginning(self, response: httpx.Response) -> str:
        """The answer's text without the key, of which JSON may write any part as escapes."""
        text = _text(response)
        if "\\" not in text:
            return self._safe(text)
        try:
            return json.dumps(self._decoded(response), ensure_ascii=False)
        except (PeakaResponseError, RecursionError):
            return self._safe(text)

    def _decoded(self, response: httpx.Response, *, exact: bool = False) -> Any:
        try:
            text = response.content.decode(json.detect_encoding(response.content), "surrogatepass")
            data = json.loads(text, parse_float=Decimal if exact else None)
            return self._redaction.data(data, text)
        except (ValueError, RecursionError):
            raise PeakaResponseError("its body is not JSON") from None

    def _reason(self, response: httpx.Response) -> tuple[str, str | None]:
        """Peaka's own words in an error body of unspecified shape, and its ``errorCode``."""
        try:
            data = self._decoded(response)
        except PeakaResponseError:
            text = " ".join(self._safe(_text(response)).split())
            return (text if text.isprintable() and not _is_page(response) else ""), None
        code = cast("dict[str, Any]", data).get("errorCode") if isinstance(data, dict) else None
        return error_words(cast("object", data)), str(code) if isinstance(code, (str, int)) else None


@dataclass
class _Failing:
    """A read that is answered with 5xx again and again."""

    since: datetime
    tries: int = 0


class _Outages:
    """What is answered with 5xx, since when and how often, and what is answered meanwhile: a 5xx may be for good."""

    def __init__(self) -> None:
        self._failing: dict[Hashable, _Failing] = {}
        self._worked: dict[str, datetime] = {}

    def worked(self, call: Call[Any]) -> None:
        """Note a call that was answered well."""
        self._worked[call.subject] = datetime.now(timezone.utc)
        self._failing.pop((call.method, call.segments), None)

    def failed(self, call: Call[Any]) -> str:
        """Note a 5xx; returns what else is known, once it is not the first in a row."""
        now = datetime.now(timezone.utc)
        failing = self._failing.setdefault((call.method, call.segments), _Failing(now))
        failing.tries += 1
        if failing.tries == 1:
            return ""
        others = [
            subject for subject, at in self._worked.items() if at >= failing.since and subject != call.subject
        ]
        meanwhile = (
            f"; meanwhile Peaka answered about {', '.join(others[-3:])}, so this may be for good: report it to Peaka"
            if others
            else ""
        )
        return f" The same {failing.tries} times since {failing.since:%H:%M:%S} UTC{meanwhile}."


def _advice(status: int) -> tuple[type[PeakaApiError], str]:
    """The kind of error that a status means, and what to do."""
    if status == 401:
        return PeakaAuthenticationError, (
            "the API key was refused. Check api_key, and that zone or base_url ({base_url}) is its own."
        )
    if status == 403:
        return PeakaPermissionError, (
            "this key may not do that. A Project key reaches its own project only: check project_id ({project}), or "
            "use a Partner key."
        )
    if status == 404:
        return PeakaNotFoundError, (
            "Peaka could not find {subject} (project {project}). Check the id or name, project_id, "
            "and base_url ({base_url})."
        )
    if status == 429:
        return PeakaRateLimitError, (
            "too many requests, still after the retries ({subject}). Lower max_concurrent_requests or try later."
        )
    if status >= 500:
        return PeakaServerError, (
            "Peaka, or something in front of it, is in trouble ({subject}). Try again later."
        )
    return PeakaApiError, "Peaka refused the request for {subject}. Check its ids, names and values."


def _is_page(response: httpx.Response) -> bool:
    return _text(response).lstrip()[:9].lower().startswith(("<!doctype", "<html"))


def server_time(response: httpx.Response) -> datetime | None:
    """When an answer was given, by the clock of who gave it, as its ``Date`` says; None where that is no date."""
    try:
        moment = parsedate_to_datetime(response.headers.get("Date", ""))
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else None


def _text(response: httpx.Response) -> str:
    """The body as text, whatever its charset claims: some names of charsets are codecs that no text has."""
    return response.content.decode(json.detect_encoding(response.content), "replace")
