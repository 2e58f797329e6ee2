"""The way to Peaka, as the environment of this machine names it: certificates, proxies, and who is spared them."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

import httpx

from dagster_peaka.api.addresses import is_loopback
from dagster_peaka.errors import PeakaConfigError

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""The variables that name certificates in place of those that httpx brings along; the first that is set counts."""

NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})
"""What OpenSSL says where the other side does not speak TLS at all."""


@dataclass(frozen=True)
class Proxy:
    """The proxy by which requests go, and the variable that names it. ``shown`` leaves out its password."""

    variable: str
    url: str

    @property
    def shown(self) -> str:
        """Variable and address, as messages name it."""
        return f"{self.variable}={_without_user(self.url)}"


class ForGood(httpx.TransportError):
    """A connection that no further try brings about; nothing was sent. The message says what to do."""


def transport(base_url: str, proxy: Proxy | None) -> httpx.AsyncHTTPTransport:
    """The network, by way of ``proxy``.

    Raises:
        PeakaConfigError: naming variable and value, for certificates or a proxy that cannot be used.
    """
    # Without TLS no certificate is needed; a context that trusts nobody costs no time, and fails safe.
    tls = httpx.URL(base_url).scheme == "https"
    trusted = _trusted() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    if proxy is None:
        return httpx.AsyncHTTPTransport(verify=trusted, limits=limits)
    try:
        url = httpx.URL(proxy.url)
        if not url.host or not 1 <= (80 if url.port is None else url.port) <= 65535:
            raise ValueError
        # A proxy that is reached by https is checked by the same certificates.
        return httpx.AsyncHTTPTransport(
            verify=trusted,
            proxy=httpx.Proxy(url, ssl_context=trusted if url.scheme == "https" else None),
            limits=limits,
        )
    except (httpx.InvalidURL, ValueError, ImportError):  # ImportError: SOCKS needs another package
        raise PeakaConfigError(
            f"The proxy that the environment names for base_url cannot be used ({proxy.shown}): write it like "
            "'http://proxy.example:3128', or name the host in NO_PROXY."
        ) from None


def _trusted() -> ssl.SSLContext:
    variable = _certificates()
    try:
        if (
            variable == "SSL_CERT_DIR" and not Path(os.environ[variable]).is_dir()
        ):  # OpenSSL would overlook it
            raise NotADirectoryError(None, "no such folder")
        return httpx.create_ssl_context()
    except ssl.SSLError:
        problem = "it holds no certificate in PEM form"
    except OSError as error:
        problem = error.strerror or str(error)
    raise PeakaConfigError(
        f"{_shown(variable)} cannot be used to check certificates ({problem}): let SSL_CERT_FILE name a file of "
        "certificates in PEM form, or SSL_CERT_DIR a folder of them, or unset both."
    )


def _certificates() -> str:
    """The variable that names the certificates that are trusted; empty for those of httpx."""
    return next((name for name in CERTIFICATES if os.environ.get(name)), "")


def _shown(variable: str) -> str:
    return (
        f"{variable}={os.environ[variable]}"
        if variable
        else "the file of certificates that httpx brings along"
    )


def proxy_for(base_url: str) -> Proxy | None:
    """The proxy that the environment names for ``base_url``; none for loopback, where the key is in clear."""
    url = httpx.URL(base_url)
    proxies = getproxies()
    port = url.port or {"http": 80, "https": 443}.get(url.scheme, 0)
    if is_loopback(url.host) or spared(url.host, port, proxies.get("no", "")):
        return None
    scheme = next((scheme for scheme in (url.scheme, "all") if proxies.get(scheme)), None)
    if scheme is None or proxy_bypass(url.netloc.decode()):  # which asks Windows and macOS
        return None
    proxy = proxies[scheme]
    # Without a scheme the environment means an http proxy.
    return Proxy(f"{scheme.upper()}_PROXY", proxy if "://" in proxy else f"http://{proxy}")


def spared(host: str, port: int, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` names a host, in any of the forms that are in use.

    A domain with or without a leading dot or ``*.`` (and everything below it), an address, a network such as
    ``10.0.0.0/8`` or ``fd00::/8``, any of them with a port (IPv6 then in brackets), ``*`` for all. Neither the standard
    library nor httpx reads them all.
    """
    return any(
        _names(entry, host.lower().rstrip("."), port) for entry in re.split(r"[,\s]+", no_proxy) if entry
    )


_ENTRY = re.compile(
    r"(?:\w+://)?(?:\[(?P<ipv6>[^\]]+)\]|(?P<bare>[^\[\]]*:[^\[\]]*:[^\[\]]*)|(?P<name>[^:]*))(?::(?P<port>\d+))?"
)


def _names(entry: str, host: str, port: int) -> bool:
    match = _ENTRY.fullmatch(entry)
    if match is None or (match["port"] and int(match["port"]) != port):
        return False
    name = (match["ipv6"] or match["bare"] or match["name"]).lower()
    if name == "*":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        domain = name.removeprefix("*").strip(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def for_good(error: httpx.TransportError, proxy: Proxy | None) -> ForGood | None:
    """The same failure as one that no further try mends, where it is one."""
    said = str(error)
    if isinstance(error, httpx.ProxyError):
        status = re.match(r"4\d\d\b", said)
        if proxy is None or status is None or status[0] in ("408", "429"):
            return None
        remedy = "give user and password in it" if status[0] == "407" else "have it let this host through"
        return ForGood(f"the proxy {proxy.shown} refuses ({said}): {remedy}, or name the host in NO_PROXY")
    problem = _tls_error(error)
    if isinstance(problem, ssl.SSLCertVerificationError):
        return ForGood(
            f"its certificate cannot be verified ({problem.verify_message}) by {_shown(_certificates())}. Check "
            "base_url's host and this machine's clock. If a proxy or a firewall of yours opens TLS, or the certificate "
            "is your own, set SSL_CERT_FILE to a file in PEM form that holds its issuer's"
        )
    if problem is not None and problem.reason in NO_TLS:
        where = f"there or at the proxy {proxy.shown}" if proxy else "there"
        return ForGood(f"no TLS is spoken {where} ({problem.reason}). Check scheme and port of the address")
    return None


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, ssl.SSLError):
        behind = behind.__cause__ or behind.__context__
    return behind


def _without_user(url: str) -> str:
    scheme, mark, rest = url.rpartition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
