"""Fixtures of the engine's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.sync.steps import Steps


@pytest.fixture
def steps(sandbox: PeakaSandbox, tmp_path: Path) -> Iterator[Steps]:
    """Runs in processes of their own, against the sandbox, on one instance."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    steps = Steps(sandbox, home)
    yield steps
    steps.close()
