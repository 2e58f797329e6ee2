"""What the example's tests share: its folder, and an environment that names no account."""

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "example_project"


@pytest.fixture
def project() -> Path:
    """The example's folder, in which `dg` commands work."""
    return PROJECT


@pytest.fixture
def environment() -> dict[str, str]:
    """The test run's environment without anything that the example would read from it."""
    ours = ("PEAKA_", "FLIGHTS_", "DAGSTER_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
