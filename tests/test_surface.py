"""What is exported, and what is said about names that were."""

import importlib

import pytest

import dagster_peaka
from dagster_peaka import api, component


@pytest.mark.parametrize("module", [dagster_peaka, api, component])
def test_what_is_exported_is_there(module: object) -> None:
    """Each name, once; some thirty of them in the package itself."""
    exported: list[str] = list(module.__all__)  # pyright: ignore[reportAttributeAccessIssue]

    assert sorted(set(exported)) == exported
    assert all(getattr(module, name) is not None for name in exported)
    assert len(exported) <= 36


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("Table", "dagster_peaka.api"),
        ("SyncMode", "dagster_peaka.api"),
        ("PeakaOpSettings", "dagster_peaka.component"),
    ],
)
def test_a_name_that_moved_says_where_it_is(name: str, place: str) -> None:
    """As an error of the import, whose remedy works."""
    with pytest.raises(ImportError, match=f"from {place} import {name}"):
        exec(f"from dagster_peaka import {name}")
    assert getattr(importlib.import_module(place), name)


def test_a_name_that_never_was_is_an_attribute_error() -> None:
    """As of any module."""
    assert not hasattr(dagster_peaka, "PeakaNothing")
