"""How requests travel: what is sent again and what never, one pace for all, where the key goes, what errors say."""

import asyncio
import gzip
import json
import logging
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

import pytest

from dagster_peaka import (
    PeakaApiError,
    PeakaAuthenticationError,
    PeakaClient,
    PeakaConfigError,
    PeakaConnectionError,
    PeakaError,
    PeakaNotFoundError,
    PeakaPermissionError,
    PeakaRateLimitError,
    PeakaResource,
    PeakaResponseError,
    PeakaServerError,
    PeakaUnknownOutcomeError,
)
from dagster_peaka.api import calls
from dagster_peaka.sandbox import PeakaSandbox
from tests.raw_server import HANG, RawServer, reply

KEY = "pk-3f9c2b7e/+x=="
NASTY_KEY = 'pk"3f9c\\2b7e'
CACHE = "0b1c"

READS: dict[str, Callable[[PeakaClient], Any]] = {
    "status": lambda client: client.get_cache_status(CACHE),
    "listing": lambda client: client.list_cache_statuses(),
    "history": lambda client: client.get_execution_history(CACHE),
    "catalogs": lambda client: client.list_catalogs(),
    "query": lambda client: client.execute_query("SELECT 1"),
}
CHANGES: dict[str, Callable[[PeakaClient], Any]] = {
    "trigger": lambda client: client.trigger_incremental_update(CACHE),
    "refresh": lambda client: client.trigger_full_refresh(CACHE),
    "create many": lambda client: client.create_caches([]),
    "update": lambda client: client.update_cache(
        CACHE, incremental_schedule=None, full_refresh_schedule=None
    ),
    "delete": lambda client: client.delete_cache(CACHE),
}


@pytest.fixture(params=READS)
def read(request) -> Callable[[PeakaClient], Any]:
    """A request that changes nothing."""
    return READS[request.param]


@pytest.fixture(params=CHANGES)
def change(request) -> Callable[[PeakaClient], Any]:
    """A request that may change something."""
    return CHANGES[request.param]


def client_of(server: RawServer | PeakaSandbox, **settings: Any) -> PeakaClient:
    """A client whose requests reach `server`."""
    return PeakaClient(KEY, "sandbox", server.base_url, **settings)


@pytest.fixture
def peaka(sandbox: PeakaSandbox) -> Iterator[PeakaClient]:
    """A client of the sandbox."""
    with PeakaClient(sandbox.api_key, sandbox.project_id, sandbox.base_url) as client:
        yield client


class Waits:
    """The waits of all clients' requests, in seconds: none is waited out, the clock of the common pace jumps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.now = 1000.0
        self.real_seconds = 0.0
        self.during: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        """The time as far as the waits went."""
        return self.now


@pytest.fixture
def waits(monkeypatch) -> Waits:
    """Time for the clients' threads only; the servers' goes on as ever."""
    waits, real = Waits(), asyncio.sleep

    async def sleep(seconds: float, result: Any = None) -> Any:
        if threading.current_thread().name != "dagster-peaka requests":
            return await real(seconds, result)
        waits.seconds.append(seconds)
        until = waits.now + seconds
        waits.during()
        await real(waits.real_seconds)
        waits.now = max(waits.now, until)
        return result

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr("dagster_peaka.api.connection.time", waits)
    return waits


@pytest.mark.usefixtures("waits")
class TestReads:
    """A read is sent again when that may help."""

    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    def test_passing_trouble_is_ridden_out(self, sandbox, peaka, status):
        """A read that meets 429, 502, 503 or 504 is sent again until it is answered."""
        sandbox.fault("listCatalogs", times=3, status=status)
        assert peaka.list_catalogs()
        assert [request.status for request in sandbox.requests] == [status] * 3 + [200]

    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    def test_lasting_trouble_ends_after_the_retries(self, waits, read, status):
        """A read is repeated `request_max_retries` times and no more, with growing waits of 30 s at most."""
        with RawServer(reply(status)) as server, client_of(server, request_max_retries=6) as client:
            kind = PeakaRateLimitError if status == 429 else PeakaServerError
            with pytest.raises(kind) as caught:
                read(client)
            assert len(server.requests) == 7
        assert not caught.value.permanent
        assert all(0 <= seconds <= 30 for seconds in waits.seconds)

    def test_other_errors_are_told_at_once(self, read, waits):
        """Any other 4xx, and what 5xx a gateway does not answer in passing, is never sent again."""
        statuses = [400, 401, 403, 404, 405, 408, 409, 410, 418, 422, 451, 500, 501, 520]
        with RawServer(*map(reply, statuses)) as server, client_of(server) as client:
            for status in statuses:
                with pytest.raises(PeakaApiError) as caught:
                    read(client)
                assert caught.value.status_code == status
            assert len(server.requests) == len(statuses)
        assert not waits.seconds

    @pytest.mark.parametrize(
        "broken",
        [b"", b"HTTP/1.1 200 OK\r\nContent-Le", reply(body="[]", length=100), b"garbage\r\n\r\n"],
        ids=["dropped", "half a head", "half a body", "no HTTP"],
    )
    def test_broken_answers_are_asked_for_again(self, broken):
        """A read whose connection breaks, at any point of the answer, is sent again."""
        with RawServer(broken, broken, reply(body="[]")) as server, client_of(server) as client:
            assert client.list_cache_statuses() == []
            assert len(server.requests) == 3

    @pytest.mark.parametrize("status", [None, 502, 503, 504])
    def test_a_query_whose_answer_is_lost_is_asked_again(self, sandbox, peaka, status):
        """Though it is posted, and though Peaka has run it: it only reads."""
        sandbox.fault("executeQuery", times=2, status=status, lose_reply=status is None)
        assert peaka.execute_query('SELECT count(*) AS n FROM "ops"."public"."t"').rows == [{"n": 3}]
        assert [request.status for request in sandbox.requests] == [status or 0] * 2 + [200]

    def test_lasting_breaks_end_after_the_retries(self, read):
        """Connections that keep breaking end in an error that says that no answer came."""
        with RawServer(b"") as server, client_of(server, request_max_retries=2) as client:
            with pytest.raises(PeakaConnectionError, match="No answer from Peaka"):
                read(client)
            assert len(server.requests) == 3

    @pytest.mark.parametrize("stuck", [HANG, reply(length=9)], ids=["silence", "half"])
    def test_an_attempt_ends_with_its_timeout(self, stuck):
        """An attempt whose last byte does not come within `request_timeout` is given up and sent again."""
        with RawServer(stuck, reply(body="[]"), keep_open=True) as server:
            with client_of(server, request_timeout=0.5, request_max_retries=9) as client:
                assert client.list_cache_statuses() == []
            assert len(server.requests) >= 2

    def test_no_retries_means_one_request(self, waits, read):
        """With `request_max_retries=0` nothing is ever sent twice."""
        with RawServer(reply(503)) as server, client_of(server, request_max_retries=0) as client:
            with pytest.raises(PeakaServerError):
                read(client)
            assert len(server.requests) == 1


@pytest.mark.usefixtures("waits")
class TestChanges:
    """What may change something is sent again only when it surely was not taken."""

    def test_a_lost_answer_is_left_to_the_caller(self, change):
        """A change whose answer is lost is sent once, and its outcome called unknown."""
        with RawServer(b"") as server, client_of(server) as client:
            with pytest.raises(PeakaUnknownOutcomeError, match="may or may not") as caught:
                change(client)
            assert len(server.requests) == 1
        assert caught.value.status_code is None

    def test_a_5xx_leaves_the_outcome_unknown(self, change):
        """A change answered by a 5xx is sent once: the gateway may have lost the answer of a Peaka that took it."""
        statuses = [500, 502, 503, 504, 520, 599]
        with RawServer(*map(reply, statuses)) as server, client_of(server) as client:
            for status in statuses:
                with pytest.raises(PeakaUnknownOutcomeError) as caught:
                    change(client)
                assert caught.value.status_code == status
            assert len(server.requests) == len(statuses)

    @pytest.mark.parametrize("broken", [reply(length=100), HANG], ids=["half", "silence"])
    def test_a_half_answer_or_none_leaves_the_outcome_unknown(self, change, broken):
        """So is one whose answer breaks off or never comes."""
        with RawServer(broken) as server, client_of(server, request_timeout=1.0) as client:
            with pytest.raises(PeakaUnknownOutcomeError):
                change(client)
            assert len(server.requests) == 1

    def test_a_lost_trigger_did_start(self, sandbox, peaka):
        """The unknown outcome is real: the trigger whose answer was lost has started its one execution."""
        sandbox.fault("incrementalUpdateCache", lose_reply=True)
        with pytest.raises(PeakaUnknownOutcomeError):
            peaka.trigger_incremental_update(sandbox.caches["ops.public.t"])
        sandbox.wait_idle()
        assert [record.origin for record in sandbox.executions("ops.public.t")].count("api") == 1

    def test_a_refusal_is_told_at_once(self, change):
        """A 4xx other than 429 is never sent again."""
        statuses = [400, 401, 403, 404, 405, 408, 409, 410, 422]
        with RawServer(*map(reply, statuses)) as server, client_of(server) as client:
            for status in statuses:
                with pytest.raises(PeakaApiError) as caught:
                    change(client)
                assert caught.value.status_code == status
            assert len(server.requests) == len(statuses)

    def test_a_429_was_not_taken(self, sandbox, peaka):
        """A trigger refused by 429 is sent again, and starts one execution."""
        sandbox.fault("incrementalUpdateCache", times=3, status=429)
        peaka.trigger_incremental_update(sandbox.caches["ops.public.t"])
        sandbox.wait_idle()
        assert [request.status for request in sandbox.requests] == [429, 429, 429, 200]
        assert [record.origin for record in sandbox.executions("ops.public.t")].count("api") == 1

    def test_lasting_429s_end_after_the_retries(self, change):
        """A change that is refused by 429 again and again ends in an error that says so."""
        with RawServer(reply(429)) as server, client_of(server, request_max_retries=3) as client:
            with pytest.raises(PeakaRateLimitError, match="max_concurrent_requests"):
                change(client)
            assert len(server.requests) == 4

    def test_a_refused_connection_is_tried_again(self, sandbox, peaka, waits):
        """A trigger that finds nobody listening goes out when the server is back, once."""
        sandbox.stop()
        waits.during = lambda: sandbox.start() if len(waits.seconds) == 2 else None
        peaka.trigger_incremental_update(sandbox.caches["ops.public.t"])
        sandbox.wait_idle()
        assert [request.operation for request in sandbox.requests] == ["incrementalUpdateCache"]
        assert len(waits.seconds) == 2

    def test_an_absent_server_ends_after_the_retries(self, sandbox, waits, change):
        """When nobody ever listens, the error comes after the retries and says that nothing was sent."""
        sandbox.stop()
        with (
            client_of(sandbox, request_max_retries=3) as client,
            pytest.raises(PeakaConnectionError, match="Could not connect to Peaka at 127"),
        ):
            change(client)
        assert len(waits.seconds) == 3

    @pytest.mark.parametrize("body", ["", "<html>", "[]", "7"])
    def test_an_answer_that_makes_no_sense_leaves_the_outcome_unknown(self, body):
        """A 200 without the promised object does not say whether the cache was created."""
        with RawServer(reply(body=body)) as server, client_of(server) as client:
            with pytest.raises(PeakaUnknownOutcomeError, match="may have been carried out"):
                client.create_cache("1", "s", "t")
            assert len(server.requests) == 1


class TestPace:
    """Waits between attempts, and one pace for all after a 429."""

    def test_retry_after_in_seconds_is_kept(self, sandbox, peaka, waits):
        """The next attempt waits as long as `Retry-After` says."""
        sandbox.fault(times=1, status=503, headers={"Retry-After": "7"})
        peaka.list_catalogs()
        assert waits.seconds == [7]

    @pytest.mark.parametrize("status", [429, 503])
    def test_retry_after_as_a_date_is_kept(self, sandbox, peaka, waits, status):
        """`Retry-After` may be a date; it is waited for."""
        date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=20), usegmt=True)
        sandbox.fault(times=1, status=status, headers={"Retry-After": date})
        peaka.list_catalogs()
        assert 10 < sum(waits.seconds) <= 20

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize(
        "asked",
        [
            "86400",
            "9" * 400,
            "Fri, 01 Jan 2199 00:00:00 GMT",
            "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        ],
    )
    def test_retry_after_is_capped(self, sandbox, peaka, waits, status, asked):
        """Whatever `Retry-After` asks for, a wait ends after 30 s."""
        sandbox.fault(times=2, status=status, headers={"Retry-After": asked})
        peaka.list_catalogs()
        assert all(seconds <= 30 for seconds in waits.seconds)
        assert [request.status for request in sandbox.requests] == [status, status, 200]

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize(
        "asked", ["", "soon", "-5", "1.5", "nan", "Mon, 99 Jan 2024 00:00:00 GMT", "\xb2"]
    )
    def test_an_unreadable_retry_after_is_ignored(self, waits, status, asked):
        """A `Retry-After` that is neither seconds nor a date leaves the usual backoff."""
        with (
            RawServer(reply(status, Retry_After=asked), reply(body="[]")) as server,
            client_of(server) as client,
        ):
            client.list_cache_statuses()
            assert len(server.requests) == 2
        assert all(0 <= seconds <= 2 for seconds in waits.seconds)

    def test_a_429_slows_every_request(self, sandbox, waits):
        """After a 429, requests of other caches and kinds wait, too, until the time that Peaka named."""
        sandbox.fault("getCacheStatus", status=429, headers={"Retry-After": "20"}, times=None)
        with PeakaClient(
            sandbox.api_key, sandbox.project_id, sandbox.base_url, request_max_retries=0
        ) as client:
            with pytest.raises(PeakaRateLimitError):
                client.get_cache_status(sandbox.caches["ops.public.t"])
            assert waits.seconds == []
            client.list_catalogs()
            client.trigger_incremental_update(sandbox.caches["ops.public.u"])
        assert waits.seconds == [20]

    def test_many_429s_at_once_count_as_one(self, waits):
        """Refusals of requests that were under way together do not add up to a long pause."""
        waits.real_seconds = 0.1
        with (
            RawServer(*[reply(429)] * 12, reply(body="[]"), delay=0.3) as server,
            client_of(server, request_max_retries=8) as client,
            ThreadPoolExecutor(12) as threads,
        ):
            list(threads.map(lambda _: client.list_cache_statuses(), range(12)))
        assert waits.now - 1000 < 25

    def test_a_query_may_take_as_long_as_it_was_given(self):
        """An attempt at a query lasts at least the seconds that Peaka was given for it."""
        with (
            RawServer(reply(body='{"columns": ["n"], "data": [{"n": 1}]}'), delay=0.6) as server,
            client_of(server, request_timeout=0.2) as client,
        ):
            assert client.execute_query("SELECT 1 AS n", timeout=60).rows == [{"n": 1}]


class TestWhereTheKeyGoes:
    """To `base_url`'s host, by https unless it is this machine, and nowhere else."""

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("call", [READS["status"], CHANGES["trigger"]], ids=["read", "change"])
    def test_redirects_are_not_followed(self, status, call):
        """A redirect is an error that says so, and its target hears nothing, least of all the key."""
        with RawServer(reply()) as other:
            with (
                RawServer(reply(status, Location=f"{other.base_url}/?{KEY}")) as server,
                client_of(server) as client,
            ):
                with pytest.raises(PeakaResponseError, match=r"redirect.*base_url") as caught:
                    call(client)
                assert len(server.requests) == 1
            assert not other.requests
        assert KEY not in everything_said(caught.value)

    @pytest.mark.parametrize(
        "base_url",
        [
            "http://peaka.example/api/v1",
            "http://10.0.0.1/api/v1",
            "http://0.0.0.0/api/v1",
            "http://localhost.evil.example/api/v1",
            "http://127.0.0.1.evil.example/api/v1",
            "http://127.1/api/v1",
            "http://[2001:db8::1]/api/v1",
        ],
    )
    def test_http_is_for_this_machine_only(self, base_url):
        """An http address of another machine is refused, because the key would travel in clear."""
        with pytest.raises(PeakaConfigError, match="unencrypted: use https"):
            PeakaClient(KEY, "p", base_url)

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "[::1]"])
    def test_http_works_on_this_machine(self, host):
        """An http address of the loopback interface is accepted."""
        PeakaClient(KEY, "p", f"http://{host}:1/api/v1").close()

    @pytest.mark.parametrize(
        "base_url",
        [
            "",
            " ",
            "peaka",
            "partner.peaka.studio/api/v1",
            "//partner.peaka.studio/api/v1",
            "https:/partner.peaka.studio",
            "https:partner.peaka.studio",
            "https://",
            "https:///api/v1",
            "ftp://partner.peaka.studio",
            "file:///etc/passwd",
            "https://ho st/",
            "https://host\n/api",
            "https://host\\evil.example/",
            "https://exa%mple/",
            "https://xn--/",
            "https://\u2603.net/",
            "https://[::1/",
            "https://host:port/",
            "https://host:0/",
            "https://host:-1/",
            "https://host:99999/",
            "https://.../",
            "https://" + "a" * 300,
            "https://host/api/v1?x=1",
            "https://host/api/v1?",
            "https://host/api/v1#part",
            "https://host/api/v1#",
            "https://host/\ud800",
            f"https://user:{quote(KEY, safe='')}@host/api/v1",
            f"https://{quote(KEY, safe='')}@host:99999/api/v1",
            f"https://host/api/v1?key={KEY}",
            f"ftp://host/{KEY}",
        ],
    )
    def test_a_malformed_address_is_refused(self, base_url):
        """An address that cannot work is refused when the client is made, by an example of a right one."""
        with pytest.raises(
            PeakaConfigError, match=r"base_url.*https://partner\.peaka\.studio/api/v1"
        ) as caught:
            PeakaClient(KEY, "p", base_url)
        said = everything_said(caught.value)
        assert KEY not in said
        assert "3f9c2b7e" not in said.replace(repr(base_url), "")
        said.encode()

    def test_a_trailing_slash_and_blanks_do_no_harm(self, sandbox):
        """The address may end with a slash or blanks."""
        with PeakaClient(sandbox.api_key, sandbox.project_id, f" {sandbox.base_url}/ \n") as client:
            assert client.list_catalogs()

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_loopback_never_goes_through_a_proxy(self, sandbox, monkeypatch, host):
        """Proxies that the environment names are not used for this machine, where the key is in clear."""
        with RawServer(reply(502)) as proxy:
            for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, f"http://{proxy.host}")
            address = sandbox.base_url.replace("127.0.0.1", host)
            with PeakaClient(sandbox.api_key, sandbox.project_id, address) as client:
                assert client.list_catalogs()
            assert not proxy.requests

    @pytest.mark.parametrize("scheme", ["http://", ""])
    def test_another_host_goes_through_the_proxy(self, monkeypatch, scheme):
        """Other hosts are reached through the environment's proxy, which sees a tunnel and never the key."""
        with RawServer(reply(403)) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"{scheme}{proxy.host}")
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            with (
                PeakaClient(KEY, "p", "https://peaka.invalid/api/v1", request_max_retries=0) as client,
                pytest.raises(PeakaConnectionError, match="Could not connect"),
            ):
                client.trigger_incremental_update(CACHE)
            (tunnel,) = proxy.requests
        assert (tunnel.method, tunnel.target) == ("CONNECT", "peaka.invalid:443")
        assert KEY not in str(tunnel)

    def test_the_environment_can_spare_a_host_the_proxy(self, monkeypatch):
        """A host in NO_PROXY is reached directly."""
        with RawServer(reply(403)) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
            monkeypatch.setenv("NO_PROXY", "peaka.invalid")
            with (
                PeakaClient(KEY, "p", "https://peaka.invalid/api/v1", request_max_retries=0) as client,
                pytest.raises(PeakaConnectionError),
            ):
                client.list_catalogs()
            assert not proxy.requests

    @pytest.mark.parametrize(
        "address", ["socks5://user:secret@host:1", "nonsense://user:secret@host", "http://[::1"]
    )
    def test_an_unusable_proxy_is_named(self, monkeypatch, address):
        """A proxy that cannot be used is a mistake in the environment, told without its password."""
        monkeypatch.setenv("HTTPS_PROXY", address)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with pytest.raises(PeakaConfigError, match="proxy") as caught:
            PeakaClient(KEY, "p", "https://peaka.invalid/api/v1")
        assert "secret" not in str(caught.value)

    def test_requests_carry_the_key_and_both_versions(self):
        """Peaka is told the key in one header, and in another which versions ask."""
        with RawServer(reply(body="[]")) as server, client_of(server) as client:
            client.list_catalogs()
            (request,) = server.requests
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["user-agent"].startswith("dagster-peaka/")
        assert " dagster/1." in request.headers["user-agent"]
        assert KEY not in request.target


def everything_said(error: BaseException | None) -> str:
    """All that an error and those behind it could show to anybody."""
    said: list[str] = []
    while error is not None:
        said += [str(error), repr(error), repr(error.args), repr(vars(error))]
        said += traceback.format_exception(error)
        error = error.__cause__ or error.__context__
    return "\n".join(said)


def error_of(call: Callable[[], Any]) -> PeakaError | None:
    """The error that a call ends in, if it does; no other exception may come."""
    try:
        call()
    except PeakaError as error:
        return error
    return None


ECHO = f'{{"message": "Authorization: Bearer {KEY} is wrong", "errorCode": "{KEY}"}}'
ANSWERS = {
    "401": reply(401, ECHO),
    "403": reply(403, ECHO),
    "404": reply(404, ECHO),
    "400": reply(400, ECHO),
    "409 string": reply(409, json.dumps(KEY)),
    "422 object": reply(422, json.dumps({"headers": {"Authorization": KEY, KEY: 1}})),
    "429": reply(429, ECHO),
    "500": reply(500, KEY),
    "502 HTML": reply(502, f"<html>{KEY}</html>"),
    "503 escaped": reply(503, '{"message": "' + "".join(f"\\u{ord(letter):04x}" for letter in KEY) + '"}'),
    "200 HTML": reply(200, f"<!doctype html><title>{KEY}</title>"),
    "200 empty": reply(200, ""),
    "200 wrong shape": reply(200, json.dumps({"id": {"key": KEY}})),
    "200 array": reply(200, json.dumps([KEY])),
    "200 text": reply(200, json.dumps(KEY)),
    "200 too deep": reply(200, "[" * 100_000),
    "200 odd encoding": reply(200, b"\xff\xfe\xfa" + KEY.encode()),
    "200 broken gzip": reply(200, b"no gzip " + KEY.encode(), Content_Encoding="gzip"),
    "400 gzip": reply(400, gzip.compress(ECHO.encode()), Content_Encoding="gzip"),
    "400 giant": reply(400, json.dumps({"message": "x" * 5_000_000 + KEY})),
    "400 giant text": reply(400, "x" * 5_000_000),
    "400 giant code": reply(400, json.dumps({"message": "no", "errorCode": "x" * 100_000})),
    "400 cut in the key": reply(400, json.dumps({"message": "x" * (4096 - 15 - 6) + KEY * 2})),
    "200 cut in the key": reply(200, "x" * (200 - 15 - 6) + KEY * 2),
    "400 too deep": reply(400, "[" * 100_000),
    "400 lone surrogate": reply(400, '{"message": "\\ud800"}'),
    "400 binary": reply(400, bytes(range(256))),
    "dropped": b"",
    "half": reply(200, KEY, length=999),
    "no HTTP": b"no HTTP\r\n\r\n",
    "redirect": reply(302, Location="https://elsewhere.example/"),
    "bad redirect": reply(302, Location="https://["),
}


class TestWhatErrorsSay:
    """Every error is one readable message that says what to do, and never holds the key."""

    @pytest.mark.parametrize("answer", ANSWERS)
    def test_the_key_is_in_no_error_and_no_log(self, caplog, answer):
        """Whatever comes back, even with the key in it: the error and every log record are free of it, and short."""
        caplog.set_level(logging.DEBUG)
        with RawServer(ANSWERS[answer]) as server, client_of(server, request_max_retries=0) as client:
            for name in ("status", "listing", "trigger", "create many"):
                error = error_of(lambda name=name: {**READS, **CHANGES}[name](client))
                # A trigger's answer is not read, and a listing without caches is empty.
                assert error is not None or "200" in answer
                said = everything_said(error)
                assert KEY not in said
                assert KEY[:8] not in said
                assert len(str(error)) < 6000
                assert len(str(getattr(error, "error_code", ""))) <= 4096
                str(error).encode()
            assert KEY not in repr(client)
        assert caplog.records
        assert KEY[:8] not in "\n".join(record.getMessage() for record in caplog.records)

    def test_a_key_of_any_letters_is_hidden(self):
        """A key with quotes and backslashes is hidden, too, when it comes back inside JSON."""
        body = json.dumps({"headers": [NASTY_KEY], "path": f"/{NASTY_KEY}"})
        with (
            RawServer(reply(400, body)) as server,
            PeakaClient(NASTY_KEY, "p", server.base_url) as client,
            pytest.raises(PeakaApiError) as caught,
        ):
            client.list_catalogs()
        said = everything_said(caught.value)
        assert NASTY_KEY not in said
        assert "3f9c" not in said

    def test_a_key_given_as_an_id_is_hidden(self):
        """The key stays hidden when it was passed as an id by mistake."""
        with (
            RawServer(reply(404)) as server,
            PeakaClient(KEY, KEY, server.base_url) as client,
            pytest.raises(PeakaNotFoundError) as caught,
        ):
            client.get_cache(KEY)
        assert KEY not in everything_said(caught.value)
        assert "3f9c2b7e" not in everything_said(caught.value)

    def test_a_wrong_key_names_the_setting_and_the_zone(self, sandbox):
        """401: which setting, and that the key belongs to a zone."""
        with (
            PeakaClient("not-the-key", sandbox.project_id, sandbox.base_url) as client,
            pytest.raises(PeakaAuthenticationError, match=r"Check api_key.*zone or base_url") as caught,
        ):
            client.list_cache_statuses()
        assert "not-the-key" not in everything_said(caught.value)
        assert caught.value.permanent

    def test_a_forbidden_request_names_the_kind_of_key(self):
        """403: which kind of key reaches what, and the project."""
        with (
            RawServer(reply(403, '{"message": "no access"}')) as server,
            client_of(server) as client,
            pytest.raises(PeakaPermissionError, match=r"Project key .* \(sandbox\).*Partner key.*no access"),
        ):
            client.list_cache_statuses()

    def test_an_unknown_cache_names_cache_and_project(self, peaka):
        """404: which cache, and in which project it was looked for."""
        with pytest.raises(
            PeakaNotFoundError, match=r"could not find cache 77-88 \(project sandbox\)\. Check the id"
        ):
            peaka.get_cache_status("77-88")

    def test_an_unknown_project_is_named(self, sandbox):
        """404 for a project that the key does not know names project_id."""
        with (
            PeakaClient(sandbox.api_key, "elsewhere", sandbox.base_url) as client,
            pytest.raises(
                PeakaNotFoundError,
                match=r"could not find the project's catalogs \(project elsewhere\)\..*project_id, and base_url \(http",
            ),
        ):
            client.list_catalogs()

    @pytest.mark.usefixtures("waits")
    def test_an_unreachable_server_is_named(self, sandbox, peaka):
        """A server that is not there: its address, and which settings to check."""
        sandbox.stop()
        with pytest.raises(
            PeakaConnectionError, match=r"127\.0\.0\.1:\d+ \(.+\): check .*base_url or zone"
        ) as caught:
            peaka.list_catalogs()
        assert "\n" not in str(caught.value)

    @pytest.mark.usefixtures("waits")
    def test_an_unknown_host_is_named(self):
        """A host name that does not exist is told like a server that is not there."""
        with (
            PeakaClient(KEY, "p", "https://peaka.invalid/api/v1", request_max_retries=1) as client,
            pytest.raises(PeakaConnectionError, match=r"peaka\.invalid.*base_url or zone"),
        ):
            client.list_catalogs()

    @pytest.mark.parametrize("status", [200, 404, 502])
    def test_a_web_page_is_called_one(self, status):
        """A page of something in front of Peaka points to base_url, and is not repeated as Peaka's words."""
        page = "<!DOCTYPE html><html><body>Sign in</body></html>"
        with (
            RawServer(reply(status, page, Content_Type="text/html")) as server,
            client_of(server, request_max_retries=0) as client,
            pytest.raises(PeakaError, match=r"heck .*base_url") as caught,
        ):
            client.list_catalogs()
        assert "Peaka says" not in str(caught.value)

    def test_peakas_own_words_are_repeated(self):
        """Peaka's message is in the error's text and its `reason`."""
        with (
            RawServer(reply(400, '{"code": 400, "message": "schema is locked"}')) as server,
            client_of(server) as client,
            pytest.raises(PeakaApiError, match="Peaka says: schema is locked") as caught,
        ):
            client.list_catalogs()
        assert caught.value.reason == "schema is locked"

    @pytest.mark.parametrize("body", ['{"data": []}', "null", "7", '"text"'])
    def test_an_answer_of_another_shape_is_named(self, body):
        """JSON of another shape tells what was expected, and shows how the answer begins."""
        with (
            RawServer(reply(body=body)) as server,
            client_of(server) as client,
            pytest.raises(PeakaResponseError, match="should be a JSON array of CacheStatus and is "),
        ):
            client.list_cache_statuses()


class TestClock:
    """Peaka's clock, as the answers show it."""

    @pytest.mark.parametrize(
        "date", ["", "soon", "Mon, 99 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 99999999999999999999 1:1:1 GMT"]
    )
    def test_an_unreadable_date_is_none(self, date):
        """A `Date` header that is no date is no reason to fail."""
        with RawServer(reply(body="[]", Date=date)) as server, client_of(server) as client:
            assert client.start(calls.list_catalogs()).result().server_time is None

    def test_the_date_is_the_servers(self, sandbox, peaka):
        """The `Date` header is told beside the answer, by the server's clock."""
        sandbox.behaviour.clock_offset = -86400 * 400
        moment = peaka.start(calls.list_catalogs()).result().server_time
        assert moment is not None
        assert moment < datetime.now(timezone.utc) - timedelta(days=399)


INTERRUPTED = """
import signal, sys, threading
from dagster_peaka import PeakaClient
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with PeakaClient("key", "p", sys.argv[1], request_timeout=3600) as client:
        client.list_catalogs()
except KeyboardInterrupt:
    print("interrupted", threading.active_count())
"""

FORKED = """
import os, signal, sys
from dagster_peaka import PeakaClient
with PeakaClient(*sys.argv[1:]) as client:
    client.list_catalogs()
    child = os.fork()
    if not child:
        signal.alarm(15)
        client.list_catalogs()
        client.close()
        os._exit(0)
    print("child", os.waitpid(child, 0)[1])
    client.list_catalogs()
"""

DROPPED = """
import gc, os, sys, threading, time
from dagster_peaka import PeakaClient

def held():
    return len(os.listdir("/proc/self/fd")), threading.active_count()

PeakaClient(*sys.argv[1:])  # imports what a client needs
before = held()
for _ in range(5):
    PeakaClient(*sys.argv[1:]).list_catalogs()
gc.collect()
deadline = time.monotonic() + 300
while held() != before and time.monotonic() < deadline:
    time.sleep(0.05)
print("left", *(now - then for now, then in zip(held(), before)))
"""


def said_by(script: str, sandbox: PeakaSandbox) -> list[str]:
    """The words that a script prints, in a process of its own, which is given what names the sandbox."""
    command = [sys.executable, "-c", script, sandbox.api_key, sandbox.project_id, sandbox.base_url]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    return done.stdout.split()


class TestLeaving:
    """Ends that come before the answer."""

    def test_an_interrupt_leaves_at_once(self):
        """Ctrl-C during a request whose answer may take an hour ends it, its connection and the client's thread."""
        with RawServer(HANG) as server:
            command = [sys.executable, "-c", INTERRUPTED, server.base_url]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                server.arrived.acquire()
                process.send_signal(signal.SIGINT)
                output, _ = process.communicate(timeout=600)
        assert output.split() == ["interrupted", "1"]

    @pytest.mark.usefixtures("waits")
    def test_an_interrupt_between_attempts_leaves_at_once(self, waits):
        """So does one that comes while a retry waits for its turn."""
        with RawServer(reply(503, Retry_After="30")) as server, client_of(server) as client:
            future = client.start(calls.list_catalogs())
            server.arrived.acquire()
            future.cancel()
            assert future.cancelled()

    @pytest.mark.parametrize(
        ("call", "kind"),
        [(READS["status"], PeakaConnectionError), (CHANGES["trigger"], PeakaUnknownOutcomeError)],
        ids=["read", "change"],
    )
    def test_closing_ends_the_calls_of_other_threads(self, call, kind):
        """Who waits for an answer when another thread closes the client gets an error, and does not wait for ever."""
        with RawServer(HANG) as server, ThreadPoolExecutor(1) as threads:
            client = client_of(server, request_timeout=3600)
            waiting = threads.submit(call, client)
            server.arrived.acquire()
            client.close()
            with pytest.raises(kind, match="closed"):
                waiting.result()

    def test_closing_while_others_start_calls_never_hangs(self, sandbox):
        """Calls that race with close either are answered or fail; none waits for ever, whatever the order."""
        for _ in range(20):
            client = PeakaClient(
                sandbox.api_key, sandbox.project_id, sandbox.base_url, max_concurrent_requests=1
            )
            client.list_catalogs()
            with ThreadPoolExecutor(4) as threads:
                asked = [threads.submit(client.list_catalogs) for _ in range(12)]
                client.close()
                for call in asked:
                    assert isinstance(call.exception(), (PeakaConnectionError, RuntimeError, type(None)))

    def test_a_dropped_call_closes_its_connection(self):
        """Cancelling a call's future ends its request at once, so that nothing is held until a timeout."""
        with RawServer(HANG) as server, client_of(server, request_timeout=3600) as client:
            future = client.start(calls.list_catalogs())
            server.arrived.acquire()
            future.cancel()
            server.left.acquire()

    def test_a_client_that_was_used_before_a_fork_works_on_both_sides(self, sandbox):
        """As after a forkserver's preloading: neither process waits for the other's thread."""
        assert said_by(FORKED, sandbox) == ["child", "0"]

    def test_a_client_that_nobody_closes_ends_with_its_last_reference(self, sandbox):
        """Its thread, its loop and its connections go with it."""
        assert said_by(DROPPED, sandbox) == ["left", "0", "0"]


def test_the_resource_shows_no_key():
    """The resource's repr leaves the key out."""
    resource = PeakaResource.model_validate({"api_key": KEY, "project_id": "p"})
    assert KEY not in repr(resource)
    assert KEY not in str(resource)
