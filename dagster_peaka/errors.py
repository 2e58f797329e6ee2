"""What can go wrong between this package and Peaka: one small tree.

::

    PeakaError
    ├── PeakaConfigError          a setting is missing, malformed or contradicts another (also a ValueError)
    ├── PeakaConnectionError      Peaka could not be reached; the request surely had no effect, or was a read
    ├── PeakaUnknownOutcomeError  a request that changes something was sent, and its answer was lost or a 5xx
    ├── PeakaResponseError        an answer that makes no sense: not JSON, another shape, a redirect
    ├── PeakaApiError             Peaka answered with an error status
    │   ├── PeakaAuthenticationError   401: the key
    │   ├── PeakaPermissionError       403: the kind of key
    │   ├── PeakaNotFoundError         404: the cache, table or project
    │   ├── PeakaRateLimitError        429, still after the retries
    │   └── PeakaServerError           5xx answered to a read
    └── PeakaSyncError            a sync did not end in a COMPLETED execution of its own

Any other 4xx is a plain :class:`PeakaApiError`. No error carries the API key, neither in its text nor in an exception
that it was raised from.
"""

from __future__ import annotations

from typing import Any

MAX_REASON_LENGTH = 4096
"""Characters of Peaka's own words that an error repeats at most."""


def shortened(text: str, length: int = MAX_REASON_LENGTH) -> str:
    """``text``, cut to ``length`` characters with a mark where something is missing."""
    return text if len(text) <= length else text[: length - 15] + " … (cut short)"


def sentence(text: str) -> str:
    """``text`` with a full stop, unless it ends as a sentence does."""
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def with_article(words: str) -> str:
    """``words`` with ``a`` or ``an`` in front."""
    return f"{'an' if words[:1] in 'aeiou' else 'a'} {words}"


class PeakaError(Exception):
    """Whatever this package raises about Peaka.

    Example:
        .. code-block:: python

            try:
                peaka.sync("shop.public.orders")
            except PeakaError as error:
                print("never" if error.permanent else "later", error)
    """

    permanent: bool = False
    """True when trying again without a change of settings, key or cache cannot help."""

    advice: str = ""
    """The end of the message that says what to do, where the same is to be done about others that failed so."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without a call of the constructor, whose keywords Python's own way leaves out."""
        return Exception.__new__, (type(self), *self.args), self.__dict__


class PeakaConfigError(PeakaError, ValueError):
    """A setting is missing, malformed or contradicts another. The message names it and says what to write.

    Example:
        .. code-block:: python

            try:
                build_peaka_cache_asset(table="orders")
            except PeakaConfigError as error:
                print(error)  # table must be written as 'catalog.schema.table' …
    """

    permanent = True


class PeakaConnectionError(PeakaError):
    """Peaka could not be reached or did not answer in time, and nothing was changed by the request.

    ``permanent`` is True where no further try helps: a certificate that cannot be verified, a proxy that refuses.

    Example:
        .. code-block:: python

            try:
                client.list_catalogs()
            except PeakaConnectionError:
                print("Peaka is away.")
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class PeakaUnknownOutcomeError(PeakaError):
    """A changing request left this machine, and whether Peaka carried it out is unknown: check before you repeat it.

    Example:
        .. code-block:: python

            try:
                client.trigger_incremental_update(cache_id)
            except PeakaUnknownOutcomeError as error:
                print(client.get_cache_status(cache_id).last_incremental, error.status_code)
    """

    def __init__(self, message: str, *, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code
        """The 5xx that came back, or None when no answer came, or none that could be read."""


class PeakaResponseError(PeakaError):
    """Peaka's answer, or that of something in front of it, could not be understood.

    Example:
        .. code-block:: python

            try:
                client.list_catalogs()
            except PeakaResponseError as error:
                print("Is base_url the API's address?", error)
    """


class PeakaApiError(PeakaError):
    """Peaka answered with an error status.

    ``status_code`` is the HTTP status, ``reason`` Peaka's own message (at most 4,096 characters, may be empty),
    ``error_code`` its ``errorCode`` such as ``TABLE_NOT_CACHEABLE`` where one came.

    Example:
        .. code-block:: python

            try:
                client.create_cache("1", "public", "orders")
            except PeakaApiError as error:
                print(error.status_code, error.error_code, error.reason)
    """

    def __init__(
        self, message: str, *, status_code: int, reason: str = "", error_code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.reason = reason
        self.error_code = error_code
        self.permanent = 400 <= status_code < 500 and status_code not in (408, 425, 429)


class PeakaAuthenticationError(PeakaApiError):
    """401: the key is wrong, revoked, or belongs to another zone.

    Example:
        .. code-block:: python

            with PeakaClient("not-a-key", project_id, base_url) as stranger:
                try:
                    stranger.list_catalogs()
                except PeakaAuthenticationError as error:
                    print(error)
    """


class PeakaPermissionError(PeakaApiError):
    """403: the key is valid but may not do this; a Project key reaches its own project only.

    Example:
        .. code-block:: python

            try:
                client.list_catalogs()
            except PeakaPermissionError as error:
                print(error.reason)
    """


class PeakaNotFoundError(PeakaApiError):
    """404: the cache, catalog, schema, table or project does not exist.

    Example:
        .. code-block:: python

            try:
                client.get_cache("no-such-cache")
            except PeakaNotFoundError as error:
                print(error)
    """


class PeakaRateLimitError(PeakaApiError):
    """429 until the retries were used up. The request had no effect.

    Example:
        .. code-block:: python

            try:
                client.trigger_incremental_update(cache_id)
            except PeakaRateLimitError:
                print("Too many requests: nothing was triggered.")
    """


class PeakaServerError(PeakaApiError):
    """5xx answered to a read; 502, 503 and 504 until the retries were used up.

    Example:
        .. code-block:: python

            try:
                client.list_catalogs()
            except PeakaServerError as error:
                print(error.status_code)
    """


class PeakaSyncError(PeakaError):
    """A sync did not end in a COMPLETED execution of its own.

    ``cache`` is the cache's name and id as shown in the message, ``execution_id`` the execution followed (None when
    none was identified), ``state`` its last known status, ``url`` where a person finds the cache (None where
    ``studio_url`` is not set).

    Example:
        .. code-block:: python

            try:
                peaka.sync("shop.public.orders")
            except PeakaSyncError as error:
                print(error.cache, error.execution_id, error.state)
    """

    def __init__(
        self,
        message: str,
        *,
        cache: str,
        execution_id: str | None = None,
        state: str | None = None,
        permanent: bool = False,
        advice: str = "",
        url: str | None = None,
    ) -> None:
        super().__init__(f"{message} {advice}" if advice else message)
        self.url = url
        self.advice = advice
        self.cache = cache
        self.execution_id = execution_id
        self.state = state
        self.permanent = permanent
