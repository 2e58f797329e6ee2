"""What the sandbox's tests share: a source that can be written to, a sandbox that serves it, a client for its API."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dagster_peaka.sandbox import PeakaSandbox, Profile

FLIGHTS = "ops.public.flights"


class Api:
    """A client of a sandbox's project: paths are relative to it."""

    def __init__(self, sandbox: PeakaSandbox, **headers: str) -> None:
        self.sandbox = sandbox
        self.client = httpx.Client(
            base_url=f"{sandbox.base_url}/data/projects/{sandbox.project_id}/",
            headers={"Authorization": f"Bearer {sandbox.api_key}", **headers},
            timeout=300,
        )

    def __call__(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """The answer to a request."""
        return self.client.request(method, path, **kwargs)

    def get(self, path: str, **kwargs: Any) -> Any:
        """The JSON of a GET that must succeed."""
        response = self("GET", path, **kwargs)
        assert response.status_code == 200, response.text
        return response.json()

    def status(self, cache: str = FLIGHTS) -> Any:
        """A cache's status, without logs."""
        return self.get(f"cache/{self.sandbox.caches[cache]}/status?excludeLogs=true")

    def history(self, cache: str = FLIGHTS, query: str = "") -> Any:
        """A page of a cache's history."""
        return self.get(f"cache/{self.sandbox.caches[cache]}/executionHistory{query}")

    def trigger(self, operation: str = "incrementalUpdate", cache: str = FLIGHTS) -> httpx.Response:
        """What a trigger, or a cancel, is answered."""
        return self("POST", f"cache/{self.sandbox.caches[cache]}/{operation}")

    def query(self, statement: str) -> list[list[Any]]:
        """The rows of a statement."""
        response = self("POST", "queries/execute?format=COMPACT", json={"statement": statement})
        assert response.status_code == 200, response.text
        return response.json()["data"]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A source as its owner writes to it, with each statement committed at once."""
    connection = sqlite3.connect(tmp_path / "ops.db", isolation_level=None)
    connection.executescript(
        """
        CREATE TABLE flights (id INTEGER PRIMARY KEY, carrier TEXT, delay REAL, day DATE);
        INSERT INTO flights VALUES (1, 'UA', 2.5, '2013-01-01'), (2, 'AA', NULL, '2013-01-01'), (3, 'B6', -1, NULL);
        CREATE TABLE airlines (carrier TEXT PRIMARY KEY, name TEXT NOT NULL DEFAULT 'unknown');
        INSERT INTO airlines VALUES ('UA', 'United'), ('AA', 'American');
        CREATE TABLE notes (said TEXT);
        INSERT INTO notes VALUES ('twice'), ('twice'), (NULL);
        CREATE VIEW late AS SELECT id, delay FROM flights WHERE delay > 0;
        CREATE VIRTUAL TABLE words USING fts5(word);
        """
    )
    yield connection
    connection.close()


@pytest.fixture
def ops(source: sqlite3.Connection, tmp_path: Path) -> dict[str, dict[str, str | Path]]:
    """The sources of a sandbox: `source` as the schema `public` of the catalog `ops`."""
    return {"ops": {"public": tmp_path / "ops.db"}}


@pytest.fixture
def peaka_profile() -> Profile:
    """`peaka_sandbox` keeps to the document as well."""
    return "documented"


@pytest.fixture
def sandbox(ops: dict[str, dict[str, str | Path]]) -> Iterator[PeakaSandbox]:
    """A sandbox that has cached the flights, and has nothing else to do. It keeps to the document, so that a test has
    one thing before it; what people saw is in `test_profiles`.
    """
    with PeakaSandbox(ops, [FLIGHTS], profile="documented") as sandbox:
        sandbox.wait_idle()
        yield sandbox


@pytest.fixture
def api(sandbox: PeakaSandbox) -> Api:
    """A client of `sandbox`."""
    return Api(sandbox)


@pytest.fixture
def url(api: Api) -> str:
    """The path of the cache of the flights."""
    return f"cache/{api.sandbox.caches[FLIGHTS]}"
