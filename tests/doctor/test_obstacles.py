"""What keeps syncs from working: each ends in time, with the one line that helps first, and the key in no output."""

import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dagster_peaka.api.addresses import ZONES
from dagster_peaka.sandbox import PeakaSandbox, Profile
from tests.doctor.conftest import KEY, Doctor, settings_for
from tests.raw_server import HANG, RawServer, reply


@pytest.fixture(params=["documented", "observed"])
def peaka(request: pytest.FixtureRequest, ops_database: Path) -> Iterator[PeakaSandbox]:
    """A local Peaka in each profile, with two caches and a key that is easily found."""
    profile: Profile = request.param
    sources = {"ops": {"public": ops_database}}
    with PeakaSandbox(sources, caches=["ops.public.*"], profile=profile, api_key=KEY) as peaka:
        peaka.wait_idle()
        peaka.clear_requests()
        yield peaka


def test_where_nothing_is_in_the_way_it_says_so(peaka: PeakaSandbox, doctor: Doctor) -> None:
    """It ends with 0, changes nothing, and each reading is that of the profile or of both."""
    ran = doctor(peaka, "ops.public.t")

    assert ran.code == 0, ran.out
    assert "Nothing was found that will keep syncs from working." in ran.out
    assert {request.operation for request in peaka.requests if request.method != "GET"} == {"executeQuery"}
    other = "observed" if peaka.profile == "documented" else "document"
    judged = {each["name"]: each.get("whose") for each in json.loads(ran.report)["readings"]}
    told = {name for name, whose in judged.items() if whose == other}
    # The document does not know /info, and says nothing of first syncs; nobody has reported how times are spelled.
    unsaid = {"info", "first_sync_mode", "mode_spelling", "timestamps", "history_current"}
    assert told <= unsaid
    assert "new" not in judged.values()
    assert KEY not in ran.everything


def test_a_wrong_key(peaka: PeakaSandbox, doctor: Doctor) -> None:
    """The variable that holds it, and the zone, which may be the other one."""
    ran = doctor(settings_for(peaka, PEAKA_API_KEY="pk-of-another-account"))

    assert ran.code == 1
    assert "The key was refused" in ran.first
    assert "PEAKA_API_KEY" in ran.first
    assert "pk-of-another-account" not in ran.everything


def test_a_wrong_zone(peaka: PeakaSandbox, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the key is refused; in its own zone it is not, and nothing but the zone was to be set."""
    with PeakaSandbox({}, api_key="another", project_id=peaka.project_id) as elsewhere:
        monkeypatch.setitem(ZONES, "us", elsewhere.base_url)
        monkeypatch.setitem(ZONES, "eu", peaka.base_url)
        variables = {"PEAKA_API_KEY": KEY, "PEAKA_PROJECT_ID": peaka.project_id}
        wrong = doctor(variables)
        right = doctor({**variables, "PEAKA_ZONE": "eu"})

    assert (wrong.code, right.code) == (1, 0)
    assert "PEAKA_ZONE=eu" in wrong.first
    assert KEY not in wrong.everything + right.everything


def test_no_api_v1(peaka: PeakaSandbox, doctor: Doctor) -> None:
    """The end that the address lacks is named."""
    ran = doctor(settings_for(peaka, PEAKA_BASE_URL=peaka.base_url.removesuffix("/api/v1")))

    assert ran.code == 1
    assert "Append /api/v1 to PEAKA_BASE_URL" in ran.first
    assert KEY not in ran.everything


def test_a_web_page_in_place_of_the_api(doctor: Doctor) -> None:
    """What answers with 200 and no JSON is not Peaka's API."""
    with RawServer(reply(200, "<!doctype html><p>Welcome")) as server:
        ran = doctor({"PEAKA_API_KEY": KEY, "PEAKA_PROJECT_ID": "p", "PEAKA_BASE_URL": server.base_url})

    assert ran.code == 1
    assert "not Peaka's API" in ran.first


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_a_proxy_that_is_down(doctor: Doctor) -> None:
    """The proxy is named as what is away, and its password is in no output."""
    proxy = f"http://somebody:hidden-word@127.0.0.1:{closed_port()}"
    ran = doctor({"PEAKA_API_KEY": KEY, "PEAKA_PROJECT_ID": "p", "HTTPS_PROXY": proxy}, "--timeout", "12")

    assert ran.code == 1
    assert "The proxy that the environment names cannot be reached." in ran.first
    assert "NO_PROXY" in ran.first
    assert "hidden-word" not in ran.everything
    assert "127.0.0.1" in ran.out
    assert "127.0.0.1" not in ran.report
    assert KEY not in ran.everything


def test_nobody_at_the_address(doctor: Doctor) -> None:
    """Where no proxy is named, it is the address or the network."""
    address = f"http://127.0.0.1:{closed_port()}/api/v1"
    ran = doctor({"PEAKA_API_KEY": KEY, "PEAKA_PROJECT_ID": "p", "PEAKA_BASE_URL": address})

    assert ran.code == 1
    assert "Nothing can be reached at that address." in ran.first


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers 401 to everything."""

    def do_GET(self) -> None:
        """Refuse."""
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
        """Say nothing."""


@contextmanager
def https_server(folder: Path) -> Generator[tuple[str, Path]]:
    """An https server on this machine, whose certificate nobody has signed: its address and the certificate."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}/api/v1", certificate
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_certificate_that_cannot_be_verified(doctor: Doctor, tmp_path: Path) -> None:
    """The variable that is named helps: with it the server is reached, and what it says is read."""
    with https_server(tmp_path) as (address, certificate):
        variables = {"PEAKA_API_KEY": KEY, "PEAKA_PROJECT_ID": "p", "PEAKA_BASE_URL": address}
        unknown = doctor(variables, "--timeout", "12")
        known = doctor({**variables, "SSL_CERT_FILE": str(certificate)}, "--timeout", "12")

    assert unknown.code == known.code == 1
    assert "SSL_CERT_FILE" in unknown.first
    assert "The key was refused" in known.first
    assert KEY not in unknown.everything + known.everything


@pytest.mark.parametrize("info", ["answer", "missing"])
def test_an_unknown_project(peaka: PeakaSandbox, doctor: Doctor, info: str) -> None:
    """Where Peaka tells whose key it is, the right id is in the line."""
    peaka.behaviour.info = info  # pyright: ignore[reportAttributeAccessIssue]
    ran = doctor(settings_for(peaka, PEAKA_PROJECT_ID="elsewhere"))

    assert ran.code == 1
    assert "PEAKA_PROJECT_ID" in ran.first
    assert (f"({peaka.project_id})" in ran.first) == (info == "answer")


@pytest.mark.parametrize("peaka", ["observed"], indirect=True)
def test_a_slow_server(peaka: PeakaSandbox, doctor: Doctor) -> None:
    """What there was time for is told, and what to raise for the rest."""
    peaka.fault(times=None, status=None, delay=0.5)
    ran = doctor(peaka, "--timeout", "6")

    assert ran.code == 0
    assert "--timeout" in ran.first
    assert ran.readings["project"] == "found"
    assert KEY not in ran.everything


def test_a_hanging_server(doctor: Doctor) -> None:
    """It takes connections, and that is all: there is nothing to be read, and the doctor ends."""
    with RawServer(HANG) as server:
        variables = {"PEAKA_API_KEY": KEY, "PEAKA_PROJECT_ID": "p", "PEAKA_BASE_URL": server.base_url}
        ran = doctor(variables, "--timeout", "1.5")

    assert ran.code == 1
    assert "does not answer in time" in ran.first
    assert KEY not in ran.everything


@pytest.mark.parametrize("peaka", ["observed"], indirect=True)
def test_one_part_that_hangs_leaves_the_others(peaka: PeakaSandbox, doctor: Doctor) -> None:
    """A history that never comes is a reading of its own."""
    peaka.fault("getCacheExecutionHistory", times=None, status=None, delay=600)
    ran = doctor(peaka, "--timeout", "18")

    assert ran.code == 0
    assert ran.readings["history"] == "fail"
    assert ran.readings["query_values"] in ("text", "json")


@pytest.mark.parametrize("missing", ["PEAKA_API_KEY", "PEAKA_PROJECT_ID"])
def test_a_variable_that_is_not_set(peaka: PeakaSandbox, doctor: Doctor, missing: str) -> None:
    """It is named, and nothing is asked."""
    ran = doctor(settings_for(peaka, **{missing: ""}))

    assert ran.code == 1
    assert f"{missing} is not set" in ran.first
    assert peaka.requests == []


@pytest.mark.parametrize(
    "variables",
    [
        {"PEAKA_ZONE": "mars", "PEAKA_BASE_URL": ""},
        {"PEAKA_BASE_URL": "http://peaka.example/api/v1"},
        {"PEAKA_PROJECT_ID": ".."},
    ],
)
def test_a_setting_that_cannot_work(peaka: PeakaSandbox, doctor: Doctor, variables: dict[str, str]) -> None:
    """The setting's own error is the line."""
    ran = doctor(settings_for(peaka, **variables))

    assert ran.code == 1
    assert next(iter(variables.values())) in ran.first
    assert KEY not in ran.everything


@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_a_peaka_that_repeats_the_key(doctor: Doctor, status: int) -> None:
    """In a body of any status, as a name or as a reason: it is replaced before anybody sees it."""
    told = json.dumps([{"id": KEY, "name": KEY, "message": KEY, "status": KEY}])
    body = told if status == 200 else json.dumps({"message": f"{KEY} is wrong", "errorCode": KEY})
    with RawServer(
        reply(200, json.dumps({"projectId": KEY, "projectName": KEY})), reply(status, body)
    ) as server:
        variables = {"PEAKA_API_KEY": KEY, "PEAKA_PROJECT_ID": "p", "PEAKA_BASE_URL": server.base_url}
        table = f'"{KEY}".public.t'
        ran = doctor(variables, table, "--timeout", "6")
        as_json = doctor(variables, table, "--timeout", "6", "--json")

    assert KEY not in ran.everything + as_json.everything
    assert "the API key" in ran.out


def test_a_cache_in_between(doctor: Doctor) -> None:
    """Old answers are as good as none: the proxy that gives them is to blame."""
    catalogs = json.dumps([{"id": "1", "name": "ops"}])
    old = reply(200, "[]", Age="60", Via="1.1 squid.acme.example")
    with RawServer(reply(200, "{}"), reply(200, catalogs), old, old, reply(404, "{}")) as server:
        variables = {"PEAKA_API_KEY": KEY, "PEAKA_PROJECT_ID": "p", "PEAKA_BASE_URL": server.base_url}
        ran = doctor(variables, "--timeout", "12")

    assert ran.code == 1
    assert "A cache in between answers" in ran.first
    assert "squid" in ran.out
    assert "squid" not in ran.report


@pytest.mark.parametrize("status", [401, 403, 500, 200])
def test_info_alone_decides_nothing(peaka: PeakaSandbox, doctor: Doctor, status: int) -> None:
    """Peaka's document does not know it: whatever it answers, the rest is read."""
    peaka.fault("getInfo", times=None, status=status, body="<html>")
    ran = doctor(peaka)

    assert ran.code == 0
    assert ran.readings["info"] == "refused"
    assert ran.readings["project"] == "found"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_peaka_in_trouble(peaka: PeakaSandbox, doctor: Doctor, status: int) -> None:
    """It is no setting that is wrong."""
    peaka.fault("listCatalogs", times=None, status=status, headers={"Retry-After": "0"})
    ran = doctor(peaka)

    assert ran.code == 1
    assert "Try again later." in ran.first


def test_caches_that_no_listing_shows(peaka: PeakaSandbox, doctor: Doctor) -> None:
    """They may be there all the same: none is to be created."""
    peaka.behaviour.project_statuses = peaka.behaviour.catalog_statuses = "fail"
    ran = doctor(peaka, "ops.public.t")

    assert ran.code == 1
    assert "Name caches by cache_id" in ran.first
    assert ran.readings["table"] == "cached"
    assert "caches" not in ran.readings


ODD = (
    None,
    [],
    {},
    5,
    [None],
    ["x"],
    [{}],
    [[]],
    {"data": 5},
    {"data": [[]]},
    [{"id": None}],
    {"id": {}},
)
STRANGE = {
    "id": 1,
    "status": 5,
    "progress": 7,
    "createdAt": [],
    "executionMode": {},
    "error": 1,
    "finishedAt": -1,
}
ODD_STATUS = {
    "id": "c",
    "status": {},
    "catalogId": 1.5,
    "schemaName": 3,
    "lastIncrementalCacheExecution": STRANGE,
}


@pytest.mark.parametrize("peaka", ["observed"], indirect=True)
@pytest.mark.parametrize(
    "operation",
    [
        "getInfo",
        "listCatalogs",
        "getCacheStatusByProject",
        "getCacheStatusByCatalog",
        "getCacheExecutionHistory",
        "getCacheSettings",
        "getCacheStatus",
        "executeQuery",
        "listTables_1",
    ],
)
def test_whatever_peaka_answers_the_doctor_ends(peaka: PeakaSandbox, doctor: Doctor, operation: str) -> None:
    """Also what no document knows."""
    for body in (*ODD, [STRANGE, STRANGE], ODD_STATUS, [ODD_STATUS]):
        fault = peaka.fault(operation, times=None, status=200, body=json.dumps(body))
        ran = doctor(peaka, "ops.public.t", "--sync", "ops.public.t", "--yes", "--sync-timeout", "0.2")
        fault.remove()
        assert ran.code in (0, 1)
        assert ran.readings


@pytest.mark.parametrize("peaka", ["observed"], indirect=True)
def test_the_command_from_a_shell(peaka: PeakaSandbox) -> None:
    """It needs no project of Dagster's, prints JSON and nothing else where it is asked for, and ends by its code."""
    command = [sys.executable, "-m", "dagster_peaka", "doctor", "--json", "--base-url", peaka.base_url]
    command += ["--project-id", peaka.project_id, "--api-key-variable", "MY_KEY"]
    right, wrong = (
        subprocess.run(
            command,
            env={"MY_KEY": key, "PATH": "", "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        for key in (KEY, "wrong")
    )

    assert (right.returncode, wrong.returncode) == (0, 1), right.stderr
    assert json.loads(right.stdout)["readings"]
    assert "PEAKA_API_KEY" in json.loads(wrong.stdout)["first"]
    assert KEY not in right.stdout + right.stderr
