"""Fixtures of the engine's tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka.api import calls
from dagster_peaka.sandbox import PeakaSandbox
from tests.sync.readings import Readings
from tests.sync.steps import Nursery, Steps


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What starts runs quickly."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dagster's home with the tables of its databases, which take longer to make than to copy."""
    home = tmp_path_factory.mktemp("dagster_home")
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_runs(limit=1) == []
        assert instance.get_latest_materialization_event(dg.AssetKey("any")) is None
    return home


@pytest.fixture
def steps(sandbox: PeakaSandbox, tmp_path: Path, empty_home: Path, nursery: Nursery) -> Iterator[Steps]:
    """Runs in processes of their own, against the sandbox, on one instance."""
    home = tmp_path / "dagster_home"
    shutil.copytree(empty_home, home)
    steps = Steps(sandbox, home, nursery)
    yield steps
    steps.close()


@pytest.fixture
def looks(sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch) -> Readings:
    """The looks of a sync, which go out at once unless a test holds them back."""
    looks = Readings(sandbox)
    looks.allowed.set()
    real = calls.get_cache_status

    def look(cache_id: str) -> calls.Call[Any]:
        looks.hold()
        return real(cache_id)

    monkeypatch.setattr(calls, "get_cache_status", look)
    return looks
