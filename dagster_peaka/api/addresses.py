"""Where Peaka may be: which base URLs the key may be sent to, and where a person finds a cache."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, urlsplit

from dagster_peaka.api.settings import bare
from dagster_peaka.errors import PeakaConfigError

ZONES = {
    "us": "https://partner.peaka.studio/api/v1",
    "eu": "https://partner.eu.peaka.studio/api/v1",
}
"""The base URLs of Peaka's zones, as its OpenAPI document lists them."""

EXAMPLE = "write it like 'https://partner.peaka.studio/api/v1'."


def checked_base_url(base_url: str) -> str:
    """``base_url`` without a trailing slash.

    Raises:
        PeakaConfigError: when it is no ``https`` address (``http`` is accepted for loopback only, because the key
            travels in clear), or carries a user, a query or a fragment.
    """
    import httpx  # not before it is needed: it takes longer to import than all of this package

    try:
        url = httpx.URL(bare(base_url or ""))
        host, port = url.host, 443 if url.port is None else url.port
    except (httpx.InvalidURL, ValueError):  # also what is no host name or no Unicode
        raise PeakaConfigError(f"base_url is not a valid address; {EXAMPLE}") from None
    if url.userinfo or "?" in str(url) or "#" in str(url):
        raise PeakaConfigError(f"base_url must carry no user, query or fragment; {EXAMPLE}")
    if url.scheme not in ("http", "https") or not _is_host(host) or not 1 <= port <= 65535:
        raise PeakaConfigError(f"base_url is not an http(s) address with a host; {EXAMPLE}")
    if url.scheme == "http" and not is_loopback(host):
        raise PeakaConfigError(
            f"base_url {str(url)!r} would send the API key unencrypted: use https (http is for this machine only)."
        )
    return str(url).rstrip("/")


def checked_zone(zone: str) -> str:
    """The name of a zone, in lower case.

    Raises:
        PeakaConfigError: when Peaka has no such zone.
    """
    known = bare(zone).lower()
    if known not in ZONES:
        raise PeakaConfigError(
            f"zone must be one of {', '.join(map(repr, ZONES))}, not {zone!r}; or set base_url."
        )
    return known


def checked_studio_url(template: str, kind: str = "cache") -> str:
    """A template of the addresses at which a person finds a cache, or a query.

    Raises:
        PeakaConfigError: when it is no http(s) address, or names anything but the project and that.
    """
    template = bare(template)
    filled = page_url(template, "1", kind, "1")
    address = urlsplit(filled) if filled.isprintable() else urlsplit("")
    if address.scheme not in ("http", "https") or not address.netloc or set(filled) & set("{} "):
        raise PeakaConfigError(
            f"{STUDIO_URLS[kind]} must be an address like 'https://peaka.example/{{project_id}}/{{{kind}_id}}', with "
            f"no other names in braces, not {template!r}."
        )
    return template


STUDIO_URLS = {"cache": "studio_url", "query": "studio_query_url"}
"""The settings that hold these templates."""


def page_url(template: str, project_id: str, kind: str, its_id: str) -> str:
    """The address of the page of one cache, or of one query."""
    for place, value in {"{project_id}": project_id, f"{{{kind}_id}}": its_id}.items():
        template = template.replace(place, quote(value, safe=""))
    return template


def is_loopback(host: str) -> bool:
    """True for ``localhost`` and the addresses of the loopback interface."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_host(host: str) -> bool:
    """True for a host name or an address; httpx lets through what no resolver takes."""
    name = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    return ":" in host or re.fullmatch(rf"{name}(\.{name})*\.?", host) is not None
