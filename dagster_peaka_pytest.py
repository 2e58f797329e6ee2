"""The fixtures that pytest offers wherever this package is installed: `peaka_sandbox`, with its `peaka_profile`, and
`peaka_script`.

A module beside the package, because pytest imports it at every start: to import anything of the package would import
Dagster, seconds before a test asks for it and before a `conftest.py` or a measuring of coverage has had its say. For
the same reason it holds nothing but fixtures: no hooks, no options, nothing that acts by itself.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dagster_peaka.sandbox import PeakaSandbox, PeakaScript, Profile


@pytest.fixture
def peaka_profile() -> "Profile":
    """How `peaka_sandbox` plays Peaka: `documented` or `observed`. Override or parametrize it to choose."""
    from dagster_peaka.sandbox.behaviour import DEFAULT_PROFILE

    return DEFAULT_PROFILE


@pytest.fixture
def peaka_sandbox(monkeypatch: pytest.MonkeyPatch, peaka_profile: "Profile") -> "Iterator[PeakaSandbox]":
    """A local Peaka without a table, for one test. PEAKA_API_KEY, PEAKA_PROJECT_ID and PEAKA_BASE_URL lead to it."""
    from dagster_peaka.sandbox import PeakaSandbox  # without its extra, an error that names it

    with PeakaSandbox({}, profile=peaka_profile) as sandbox:
        monkeypatch.setenv("PEAKA_API_KEY", sandbox.api_key)
        monkeypatch.setenv("PEAKA_PROJECT_ID", sandbox.project_id)
        monkeypatch.setenv("PEAKA_BASE_URL", sandbox.base_url)
        yield sandbox


@pytest.fixture
def peaka_script(peaka_sandbox: "PeakaSandbox") -> "PeakaScript":
    """Lets executions of caches in `peaka_sandbox` go as written down: `peaka_script(table, [ScriptedExecution()])`."""
    from dagster_peaka.sandbox import PeakaScript

    return PeakaScript(peaka_sandbox)
