"""What the component's tests share: a project, and the variable that holds the key."""

import warnings
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox

from dagster_peaka.sandbox import PeakaSandbox
from tests.component.projects import KEY_VARIABLE, Project


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project without components."""
    with create_defs_folder_sandbox() as folder:
        yield Project(folder, monkeypatch)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No warnings of what Dagster itself does with components."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """The sandbox's key, in the variable where the component looks for it."""
    monkeypatch.setenv(KEY_VARIABLE, "sandbox-key")
    return "sandbox-key"


@pytest.fixture
def away(sandbox: PeakaSandbox) -> PeakaSandbox:
    """A Peaka that cannot be reached."""
    sandbox.stop()
    return sandbox
