"""What any answer may be: an error of some shape, one from a cache in between, one that is too large."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dagster_peaka import (
    PeakaApiError,
    PeakaAuthenticationError,
    PeakaClient,
    PeakaError,
    PeakaNotFoundError,
    PeakaResource,
    PeakaResponseError,
    PeakaServerError,
)
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import peaka_for
from tests.raw_server import RawServer, reply


@pytest.mark.parametrize(
    "body",
    [
        '{"error": "WrongRequestException", "message": "no such plan", "errorCode": null}',
        '{"errorCode": 100, "message": "no such plan"}',
        '{"errorCode": "100", "reason": "no such plan"}',
    ],
)
def test_no_error_code_hides_peaka_s_message(body: str) -> None:
    """Null, an integer, a string."""
    with (
        RawServer(reply(400, body)) as server,
        PeakaClient("key", "p", server.base_url) as client,
        pytest.raises(PeakaApiError, match="no such plan"),
    ):
        client.list_catalogs()


def test_a_5xx_that_lasts_says_since_when_and_what_works_meanwhile(sandbox: PeakaSandbox) -> None:
    """It may be for good, and then waiting does not help."""
    sandbox.fault("listSchemas", times=None, status=500)
    with peaka_for(sandbox).get_client() as client:
        messages: list[str] = []
        for _ in range(3):
            with pytest.raises(PeakaServerError) as caught:
                client.list_schemas("1")
            messages.append(str(caught.value))
            client.list_catalogs()

    assert "The same" not in messages[0]
    assert "The same 3 times since " in messages[2]
    assert "meanwhile Peaka answered about the project's catalogs" in messages[2]


@pytest.mark.parametrize("age", ["30", "0", "old", ""])
@pytest.mark.parametrize("call", ["get_cache_status", "get_execution_history"])
def test_a_status_from_a_cache_in_between_is_no_answer(call: str, age: str) -> None:
    """It would be a false success; the error names the proxy. Requests say that they want none."""
    body = '{"id": "c"}' if call == "get_cache_status" else "[]"
    head = f"HTTP/1.1 200 OK\r\nAge: {age}\r\nVia: 1.1 squid\r\nConnection: close\r\n\r\n"
    with (
        RawServer((head + body).encode()) as server,
        PeakaClient("key", "p", server.base_url) as client,
    ):
        if age == "30":
            with pytest.raises(PeakaResponseError, match=r"30 s old \(Via: 1\.1 squid\)"):
                getattr(client, call)("c")
        else:
            getattr(client, call)("c")

    assert server.requests[0].headers["cache-control"] == "no-cache"


CALLS: dict[str, Callable[[PeakaClient], object]] = {
    "status": lambda client: client.get_cache_status("c"),
    "history": lambda client: client.get_execution_history("c"),
    "query": lambda client: client.execute_query("SELECT 1"),
    "trigger": lambda client: client.trigger_incremental_update("c"),
    "tables": lambda client: client.list_tables("1", "s"),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_is_too_large_is_an_error(call: str) -> None:
    """Whatever it says of its length, at any endpoint."""
    body = b'{"a": "' + b"x" * 300_000 + b'"}'
    announced = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    silent = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    for head in (announced, silent):
        with (
            RawServer(head + body) as server,
            PeakaClient("key", "p", server.base_url, max_response_bytes=100_000) as client,
            pytest.raises(PeakaError, match="100,000"),
        ):
            CALLS[call](client)


def test_a_listing_may_have_more_than_other_answers() -> None:
    """With all caches' logs in it, 256 MiB; a setting of one's own counts for it, too."""
    listing, more = reply(body=b"[" + b" " * 70_000_000 + b"]"), reply(body=b"[", length=256 * 2**20 + 1)
    with RawServer(listing, listing, more, listing) as server:
        with PeakaClient("key", "p", server.base_url) as client:
            assert client.list_cache_statuses() == []
            with pytest.raises(PeakaError, match="67,108,864"):
                client.list_catalogs()
            with pytest.raises(PeakaError, match="268,435,456"):
                client.list_cache_statuses()
        resource = PeakaResource(
            api_key="key", project_id="p", base_url=server.base_url, max_response_bytes=69_000_000
        )
        with resource.get_client() as client, pytest.raises(PeakaError, match="69,000,000"):
            client.list_cache_statuses()


def test_a_key_tells_its_project(client: PeakaClient, peaka: PeakaSandbox) -> None:
    """By `GET /info`, which the document does not name, so that it may be missing; a wrong key is refused there."""
    assert client.get_key_info().project_id == peaka.project_id
    with peaka_for(peaka, api_key="another").get_client() as other, pytest.raises(PeakaAuthenticationError):
        other.get_key_info()
    peaka.behaviour.info = "missing"
    with pytest.raises(PeakaNotFoundError):
        client.get_key_info()


FLOOD = """
import itertools, resource, socket, sys, threading, zlib

kind, *wanted = sys.argv[1:]
HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nConnection: close\\r\\n"
PIECE = b"[" * 65_536


def pieces():
    if kind == "long":
        yield HEAD + b"Content-Length: %d\\r\\n\\r\\n" % 500_000_000
        yield from itertools.repeat(PIECE, 500_000_000 // len(PIECE))
    elif kind == "endless":
        yield HEAD + b"Transfer-Encoding: chunked\\r\\n\\r\\n"
        yield from itertools.repeat(b"10000\\r\\n" + PIECE + b"\\r\\n")
    else:
        packer = zlib.compressobj(9, wbits=31)  # piece by piece: what it takes would hide what the client takes
        bomb = b"".join(packer.compress(PIECE) for _ in range(500_000_000 // len(PIECE))) + packer.flush()
        yield HEAD + b"Content-Encoding: gzip\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(bomb) + bomb


def serve(listener):
    while True:
        connection, _ = listener.accept()
        connection.recv(65_536)
        try:
            for piece in pieces():
                connection.sendall(piece)
        except OSError:
            pass
        connection.close()


prepared = list(pieces()) if kind == "bomb" else None
if prepared:
    pieces = lambda: prepared
listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=[listener], daemon=True).start()

from dagster_peaka import PeakaClient, PeakaError

with PeakaClient("key", "p", f"http://127.0.0.1:{listener.getsockname()[1]}", request_max_retries=0) as client:
    import dagster_peaka.api.connection
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for call in wanted:
        try:
            getattr(client, call)(*([] if call == "list_cache_statuses" else ["c"]))
        except PeakaError as error:
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            print(call, type(error).__name__, grown // 1024)
"""


@pytest.mark.parametrize("kind", ["long", "endless", "bomb"])
def test_no_answer_fills_the_memory(tmp_path: Path, kind: str) -> None:
    """500 MB, chunks without an end, a gzip bomb: an error, and less than 100 MB more memory; seen from outside."""
    lost, bad = "PeakaUnknownOutcomeError", "PeakaResponseError"
    expected = {
        "get_cache": bad,
        "trigger_incremental_update": lost,
        "execute_query": bad,
        "list_cache_statuses": bad,
    }
    script = tmp_path / "flood.py"
    script.write_text(FLOOD)
    done = subprocess.run(
        [sys.executable, str(script), kind, *expected],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )

    answers = [line.split() for line in done.stdout.splitlines()]
    assert {call: error for call, error, _ in answers} == expected
    assert [answer for answer in answers if int(answer[2]) >= 100] == []
