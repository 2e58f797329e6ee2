"""Where Peaka may be: which base URLs the key may be sent to."""

from __future__ import annotations

import ipaddress
import re

from dagster_peaka.api.settings import bare
from dagster_peaka.errors import PeakaConfigError

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
