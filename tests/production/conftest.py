"""One deployment for all tests of this folder; each test has tables of its own.

`PEAKA_PRODUCTION` says which tests there are: `smoke` or `all` (`make production`). They take minutes, so without it
there are none.
"""

import os
from collections.abc import Iterator

import pytest

from tests.production.deployment import Deployment, deployed

WANTED = os.environ.get("PEAKA_PRODUCTION")
collect_ignore_glob = {"all": [], "smoke": ["test_[!s]*.py"]}.get(WANTED or "", ["test_*.py"])


@pytest.fixture(scope="session")
def deployment() -> Iterator[Deployment]:
    """Everything up. Celery and the rest are imported by its processes alone."""
    tables = ["six", "left", "rolling", *(f"one_{n}" for n in range(9)), *(f"two_{n}" for n in range(6))]
    with deployed(tables) as everything:
        yield everything
