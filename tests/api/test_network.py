"""Networks and machines as they are: certificates, proxies, answers that are damaged or ask for patience."""

import asyncio
import gzip
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import (
    PeakaClient,
    PeakaConfigError,
    PeakaConnectionError,
    PeakaError,
    PeakaResource,
    PeakaResponseError,
    PeakaUnknownOutcomeError,
    build_peaka_cache_asset,
)
from dagster_peaka.api.network import spared
from dagster_peaka.sandbox import PeakaSandbox
from tests.raw_server import RawServer, reply

ELSEWHERE = "https://peaka.invalid/api/v1"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no certificates but those that a test names."""
    for name in (*PROXIES, *map(str.lower, PROXIES), "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def asked(base_url: str, **settings: Any) -> PeakaError:
    """The error that a read of somewhere ends in."""
    settings.setdefault("request_max_retries", 0)
    with pytest.raises(PeakaError) as caught:
        with PeakaClient("pk-3f9c2b7e", "p", base_url, **settings) as client:
            client.list_catalogs()
    return caught.value


class TestCertificates:
    """What the environment says about certificates is checked, and what a certificate is refused for is told."""

    @pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
    @pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty"])
    def test_certificates_that_cannot_be_read_are_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, kind: str
    ) -> None:
        """A variable that names no file, a folder or no PEM is a mistake of the environment, named with its value."""
        path = tmp_path / kind
        if kind == "folder":
            path.mkdir()
        elif kind != "missing":
            path.write_text("no certificate" if kind == "text" else "")
        monkeypatch.setenv(variable, str(path))
        if (variable, kind) == ("SSL_CERT_DIR", "folder"):
            PeakaClient(
                "pk-3f9c2b7e", "p", ELSEWHERE
            ).close()  # OpenSSL finds certificates in it when it needs them
            return

        with pytest.raises(PeakaConfigError, match="PEM form") as caught:
            PeakaClient("pk-3f9c2b7e", "p", ELSEWHERE)

        assert f"{variable}={path}" in str(caught.value)
        assert caught.value.permanent

    def test_this_machine_needs_no_certificates(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A sandbox, which is reached without TLS, works whatever the variable says."""
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
        with (
            RawServer(reply(body="[]")) as server,
            PeakaClient("pk-3f9c2b7e", "p", server.base_url) as client,
        ):
            assert client.list_catalogs() == []

    def test_a_certificate_that_cannot_be_verified_is_told_once_and_for_good(
        self, tls_server: RawServer
    ) -> None:
        """It is not asked again: the error is permanent, and says what to set."""
        error = asked(tls_server.base_url, request_max_retries=4)

        assert isinstance(error, PeakaConnectionError)
        assert error.permanent
        assert "SSL_CERT_FILE" in str(error)
        assert "self-signed certificate" in str(error)
        assert tls_server.connections == 1

    def test_the_file_that_was_set_is_named_where_it_does_not_help(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tls_server: RawServer
    ) -> None:
        """Which certificates were trusted is part of the message."""
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
        assert f"SSL_CERT_DIR={tmp_path}" in str(asked(tls_server.base_url))

    def test_a_certificate_of_ones_own_is_verified_by_the_file_that_is_set(
        self, monkeypatch: pytest.MonkeyPatch, tls_server: RawServer, certificate: tuple[Path, Path]
    ) -> None:
        """The remedy that the message names works."""
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        with PeakaClient("pk-3f9c2b7e", "p", tls_server.base_url) as client:
            assert client.list_catalogs() == []

    def test_a_sync_fails_for_good_without_an_outage(self, tls_server: RawServer) -> None:
        """The step ends at once instead of after `outage_tolerance`, and no retry policy tries it again."""
        connection: dict[str, Any] = {"api_key": "k", "project_id": "p", "base_url": tls_server.base_url}
        result = dg.materialize(
            [build_peaka_cache_asset(cache_id="1")],
            resources={"peaka": PeakaResource(**connection, outage_tolerance=2)},
            raise_on_error=False,
        )

        (failed,) = [event for event in result.all_events if event.is_step_failure]
        failure = failed.step_failure_data.user_failure_data
        assert failure is not None
        assert "SSL_CERT_FILE" in (failure.description or "")
        assert failure.metadata["peaka/permanent"].value is True
        assert tls_server.connections <= 2

    def test_an_address_without_tls_is_told_for_good(self, sandbox: PeakaSandbox) -> None:
        """The scheme or the port is wrong, and stays so."""
        error = asked(sandbox.base_url.replace("http:", "https:"), request_max_retries=4)
        assert isinstance(error, PeakaConnectionError)
        assert error.permanent
        assert "no TLS is spoken there" in str(error)


class TestProxies:
    """A proxy that does not work is named, and who is spared one is read from every form of NO_PROXY."""

    @pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
    @pytest.mark.parametrize("port", ["0", "99999", "port"])
    def test_a_port_that_no_proxy_has_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, port: str
    ) -> None:
        """It is a mistake of the environment, told with the variable and without the password."""
        monkeypatch.setenv(variable, f"http://user:secret@proxy.example:{port}")
        error = asked(ELSEWHERE)
        assert isinstance(error, PeakaConfigError)
        assert f"{variable}=http://proxy.example:{port}" in str(error)
        assert "secret" not in str(error)

    def test_a_dead_proxy_is_named_instead_of_peaka(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody listens where the proxy should be: that is what has to be looked at, and it may pass."""
        with RawServer(reply()) as gone:
            host = gone.host
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@{host}")
        error = asked(ELSEWHERE)
        assert isinstance(error, PeakaConnectionError)
        assert not error.permanent
        assert f"by the proxy HTTPS_PROXY=http://{host}" in str(error)
        assert "check that this proxy is up" in str(error)
        assert "secret" not in str(error)

    @pytest.mark.parametrize(
        ("status", "remedy", "permanent"),
        [
            (403, "have it let this host through", True),
            (407, "give user and password in it", True),
            (429, "check that this proxy is up", False),
            (502, "check that this proxy is up", False),
        ],
    )
    def test_what_a_proxy_refuses_is_for_good_and_what_it_cannot_do_is_for_a_while(
        self, monkeypatch: pytest.MonkeyPatch, status: int, remedy: str, permanent: bool
    ) -> None:
        """A proxy that wants a password is no outage of Peaka's."""
        with RawServer(reply(status)) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
            error = asked(ELSEWHERE)
            assert f"HTTPS_PROXY=http://{proxy.host}" in str(error)
        assert error.permanent is permanent
        assert remedy in str(error)

    def test_a_trigger_that_no_proxy_let_through_surely_had_no_effect(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What fails on the way to the proxy is no unknown outcome."""
        with RawServer(reply(407)) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
            with PeakaClient("pk-3f9c2b7e", "p", ELSEWHERE) as client, pytest.raises(PeakaConnectionError):
                client.trigger_incremental_update("1")

    @pytest.mark.parametrize(
        ("address", "no_proxy"),
        [
            ("https://peaka.invalid", "peaka.invalid:443"),
            ("https://peaka.invalid", "other.example invalid"),
            ("https://peaka.invalid", "*.invalid"),
            ("https://[2001:db8::5]:9", "2001:db8::/32"),
            ("https://[2001:db8::5]:9", "[2001:db8::5]:9"),
            ("https://192.0.2.7:9", "192.0.2.0/24"),
        ],
    )
    def test_a_spared_host_is_reached_without_the_proxy(
        self, monkeypatch: pytest.MonkeyPatch, address: str, no_proxy: str
    ) -> None:
        """The proxy sees nothing of it."""
        with RawServer(reply(403)) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
            monkeypatch.setenv("NO_PROXY", no_proxy)
            asked(f"{address}/api/v1", request_timeout=0.4)
            assert not proxy.requests

    @pytest.mark.parametrize(
        ("host", "port", "no_proxy", "is_spared"),
        [
            ("peaka.example", 443, "*", True),
            ("peaka.example", 443, "a.example, peaka.example", True),
            ("peaka.example", 443, ".example", True),
            ("PEAKA.example.", 443, "peaka.EXAMPLE", True),
            ("peaka.example", 443, "peaka.example.", True),
            ("peaka.example", 443, "https://peaka.example", True),
            ("peaka.example", 443, "peaka.example:8443", False),
            ("peaka.example", 8443, "peaka.example:8443", True),
            ("badpeaka.example", 443, "peaka.example", False),
            ("peaka.example", 443, "", False),
            ("peaka.example", 443, " , ,", False),
            ("peaka.example", 443, "10.0.0.0/8", False),
            ("10.1.2.3", 443, "10.0.0.0/8", True),
            ("10.1.2.3", 443, "10.1.2.3", True),
            ("10.1.2.3", 443, "10.1.2.3:80", False),
            ("11.1.2.3", 443, "10.0.0.0/8", False),
            ("10.1.2.3", 443, "10.0.0.0/99", False),
            ("fd00::1", 443, "fd00::1", True),
            ("fd00::1", 443, "FD00:0::1", True),
            ("fd00::1", 443, "[fd00::1]", True),
            ("fd00::1", 443, "[fd00::1]:443", True),
            ("fd00::1", 443, "[fd00::1]:80", False),
            ("fd00::1", 443, "fd00::/8", True),
            ("fd00::1", 443, "[fd00::]/8", False),
            ("fd00::1", 443, "10.0.0.0/8", False),
        ],
    )
    def test_no_proxy_is_read_in_every_form(
        self, host: str, port: int, no_proxy: str, is_spared: bool
    ) -> None:
        """Domains, addresses and networks, each with or without a port."""
        assert spared(host, port, no_proxy) is is_spared


class TestPatience:
    """How long an answer asks to wait, and what is asked for again."""

    @pytest.mark.parametrize("hours", [-1, 0, 1])
    @pytest.mark.parametrize("status", [429, 503])
    def test_a_date_to_wait_for_is_one_of_the_answers_own_clock(
        self, pauses: list[float], hours: int, status: int
    ) -> None:
        """A clock that is an hour away makes no wait of four seconds one of none, or of thirty."""
        now = datetime.now(timezone.utc) + timedelta(hours=hours)
        headers = {
            "Date": format_datetime(now, usegmt=True),
            "Retry_After": format_datetime(now + timedelta(seconds=4), usegmt=True),
        }
        with (
            RawServer(reply(status, b"{}", length=None, **headers), reply(body="[]")) as server,
            PeakaClient("pk-3f9c2b7e", "p", server.base_url) as client,
        ):
            assert client.list_catalogs() == []
        assert max(pauses) == pytest.approx(4, abs=0.5)

    @pytest.mark.parametrize(
        ("asked_for", "seconds"), [("4", 4), ("4.0", 4), ("3.5", 4), ("9.0", 9), (" 4 ", 4)]
    )
    def test_seconds_may_be_written_with_a_fraction(
        self, pauses: list[float], asked_for: str, seconds: int
    ) -> None:
        """Some gateways write 4.0 for 4."""
        with (
            RawServer(reply(503, Retry_After=asked_for), reply(body="[]")) as server,
            PeakaClient("pk-3f9c2b7e", "p", server.base_url) as client,
        ):
            assert client.list_catalogs() == []
        assert pauses == [seconds]

    @pytest.mark.parametrize("damage", [b"no gzip", gzip.compress(b"[]")[:-4]], ids=["no gzip", "cut short"])
    def test_a_damaged_answer_of_a_read_is_asked_for_again(self, pauses: list[float], damage: bytes) -> None:
        """Bytes that a proxy has garbled are an accident of one answer."""
        broken = reply(200, damage, Content_Encoding="gzip")
        with (
            RawServer(broken, broken, reply(body="[]")) as server,
            PeakaClient("pk-3f9c2b7e", "p", server.base_url) as client,
        ):
            assert client.list_catalogs() == []
            assert len(server.requests) == 3

    def test_lasting_damage_ends_after_the_retries(self, pauses: list[float]) -> None:
        """Then the error says what is wrong with the answers."""
        with RawServer(reply(200, b"no gzip", Content_Encoding="gzip")) as server:
            error = asked(server.base_url, request_max_retries=2)
            assert len(server.requests) == 3
        assert isinstance(error, PeakaResponseError)
        assert "its packing is damaged" in str(error)

    def test_a_damaged_answer_to_a_change_is_not_asked_for_again(self) -> None:
        """What it says is lost: the outcome is unknown, and the request sent once."""
        with (
            RawServer(reply(200, b"no gzip", Content_Encoding="gzip")) as server,
            PeakaClient("pk-3f9c2b7e", "p", server.base_url) as client,
            pytest.raises(PeakaUnknownOutcomeError),
        ):
            client.trigger_incremental_update("1")
        assert len(server.requests) == 1

    def test_an_answer_that_is_too_large_is_not_asked_for_again(self, pauses: list[float]) -> None:
        """It would be as large the next time."""
        with RawServer(reply(200, "x" * 100)) as server:
            asked(server.base_url, max_response_bytes=10, request_max_retries=4)
            assert len(server.requests) == 1


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, in seconds, none of which is waited out."""
    waits, real = [], asyncio.sleep
    now = 1000.0

    async def sleep(seconds: float, result: Any = None) -> Any:
        nonlocal now
        if threading.current_thread().name != "dagster-peaka requests":
            return await real(seconds, result)
        waits.append(seconds)
        now += seconds
        return await real(0, result)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr("dagster_peaka.api.connection.time.monotonic", lambda: now)
    return waits


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine that nobody but itself has signed, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    options = "-x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *options.split(), *files], check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def tls_server(certificate: tuple[Path, Path]) -> Iterator[RawServer]:
    """A server of this machine that is reached by https."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate)
    with RawServer(reply(body="[]"), tls=tls) as server:
        yield server
