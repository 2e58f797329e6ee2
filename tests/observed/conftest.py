"""What the tests of this folder share: a local Peaka in each profile, and a client of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from dagster_peaka import PeakaClient
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import peaka_for

TABLE = "ops.public.t"
PROFILES = ["observed", "documented"]
Profile = Literal["observed", "documented"]


@pytest.fixture(params=PROFILES)
def peaka(request: pytest.FixtureRequest, ops_database: Path) -> Iterator[PeakaSandbox]:
    """A local Peaka in each profile, with the caches `ops.public.t` and `ops.public.u`; nothing runs."""
    profile: Profile = request.param
    with PeakaSandbox({"ops": {"public": ops_database}}, caches=["ops.public.*"], profile=profile) as peaka:
        peaka.wait_idle()
        peaka.clear_requests()
        yield peaka


@pytest.fixture
def client(peaka: PeakaSandbox) -> Iterator[PeakaClient]:
    """Its client."""
    with peaka_for(peaka).get_client() as client:
        yield client


def asked(peaka: PeakaSandbox) -> list[str]:
    """The operations that were asked for, in order."""
    return [request.operation or "?" for request in peaka.requests]
