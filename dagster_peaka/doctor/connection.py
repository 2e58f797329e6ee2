"""The way to Peaka: settings, proxy, certificates, address, key and project. Where one of them fails, nothing else is
asked: the reading that says so is the last.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from dagster_peaka.api import calls
from dagster_peaka.api.addresses import ZONES
from dagster_peaka.api.client import PeakaClient
from dagster_peaka.api.models import Catalog, KeyInfo
from dagster_peaka.api.network import proxy_for
from dagster_peaka.doctor.asking import Asking, Seen
from dagster_peaka.doctor.readings import Reading, take
from dagster_peaka.errors import (
    PeakaAuthenticationError,
    PeakaConfigError,
    PeakaConnectionError,
    PeakaError,
    PeakaNotFoundError,
    PeakaRateLimitError,
    PeakaResponseError,
    PeakaServerError,
)

PROXY_SECONDS = 3.0
"""Seconds for a proxy to take a connection."""

RETRIES = 1
"""A doctor repeats less than a step: it is to tell soon."""


@dataclass(frozen=True)
class Settings:
    """Where Peaka is, and as whom to ask: what a PeakaResource would have, and the time of a request in seconds."""

    api_key: str
    project_id: str
    zone: str = "us"
    base_url: str | None = None
    request_timeout: float = 20.0

    @property
    def address(self) -> str:
        """The API's address."""
        return self.base_url or ZONES.get(self.zone.lower(), "")

    def new_client(self) -> PeakaClient:
        """A client of these settings; a ``PeakaConfigError`` for those that cannot work."""
        if not self.api_key.strip():
            raise PeakaConfigError(
                "PEAKA_API_KEY is not set. Set it to a Partner or Project key, or name the variable that holds the key "
                "with --api-key-variable."
            )
        if not self.project_id.strip():
            raise PeakaConfigError("PEAKA_PROJECT_ID is not set: set it to the id in the project's address.")
        if not self.address:
            raise PeakaConfigError(f"PEAKA_ZONE is {self.zone!r}: it is one of {', '.join(ZONES)}.")
        return PeakaClient(
            self.api_key,
            self.project_id,
            self.address,
            request_timeout=self.request_timeout,
            request_max_retries=RETRIES,
        )


def reach(asking: Asking, settings: Settings) -> Seen[list[Catalog]] | None:
    """Tell the readings of the way to Peaka; returns the catalogs, or None where nothing else is to be asked."""
    project = asking.name("project", settings.project_id)
    if settings.base_url is not None:
        asking.hide("address", urlsplit(settings.address).netloc)
    way = proxy_for(settings.address)
    proxy = None if way is None else way.url
    if proxy is None:
        asking.take("proxy", "none")
    else:  # without its user and password
        host = proxy.rpartition("@")[2].rpartition("/")[2]
        asking.take("proxy", "used", asking.name("address", host))
    info: Seen[KeyInfo] | PeakaError
    try:
        info = asking.ask(calls.get_key_info())
    except PeakaError as error:
        info = error
    if isinstance(info, (PeakaConnectionError, PeakaConfigError)):
        asking.found(_failure(info, settings, proxy, None, asking))
        return None
    try:
        catalogs = asking.ask(calls.list_catalogs())
    except PeakaError as error:
        asking.found(_failure(error, settings, proxy, info, asking))
        return None
    asking.take("connection", "works")
    asking.take("address", "own" if settings.base_url else settings.zone.lower())
    asking.take("key", "accepted")
    _of_key(info, settings, asking)
    asking.take("project", "found", project)
    return catalogs


def _of_key(info: Seen[KeyInfo] | PeakaError, settings: Settings, asking: Asking) -> None:
    if isinstance(info, PeakaError):
        missing = isinstance(info, PeakaNotFoundError)
        asking.take("info", "missing" if missing else "refused", said="" if missing else str(info))
        return
    asking.take("info", "answer")
    asking.hide("project", info.value.project_name)
    named = info.value.project_id
    if named is None:
        asking.take("key_project", "no project")
    else:
        whose = "this project" if named == settings.project_id else "another project"
        asking.take("key_project", whose, asking.name("project", named))


def _failure(
    error: PeakaError,
    settings: Settings,
    proxy: str | None,
    info: Seen[KeyInfo] | PeakaError | None,
    asking: Asking,
) -> Reading:
    """The reading of an error after which nothing else is to be asked; ``info`` may tell whose key it is."""
    said = str(error)
    if isinstance(error, PeakaConfigError):
        return take("settings", "cannot work", said=said)
    if isinstance(error, PeakaAuthenticationError):
        return take("key", "refused", said=said)
    if isinstance(error, PeakaConnectionError):
        return take("connection", _broken(said, proxy), said=said)
    if isinstance(error, (PeakaServerError, PeakaRateLimitError)):
        return take("connection", "in trouble", said=said)
    without_end = not urlsplit(settings.address).path.rstrip("/").endswith("/api/v1")
    if without_end and isinstance(error, (PeakaNotFoundError, PeakaResponseError)):
        return take("address", "without /api/v1", said=said)
    if isinstance(error, PeakaResponseError):
        return take("connection", "something else", said=said)
    other = info.value.project_id if isinstance(info, Seen) else None
    if other not in (None, settings.project_id):
        return take("project", "not of this key", asking.name("project", other), said=said)
    return take("project", "missing", said=said)


def _broken(said: str, proxy: str | None) -> str:
    """What is broken between here and Peaka, by the words of the error and a try at the proxy."""
    if "certificate" in said.lower():
        return "certificate"
    if proxy is not None and not _takes_connections(proxy):
        return "proxy down"
    return "refused" if said.startswith("Could not connect") else "no answer"


def _takes_connections(proxy: str) -> bool:
    parts = urlsplit(proxy)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), PROXY_SECONDS):
            return True
    except (OSError, ValueError):
        return False
