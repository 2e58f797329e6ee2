"""The YAML in the pages of `docs/`: each block is loaded, so that no example can rot."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from dagster_peaka import PeakaSyncConfig
from dagster_peaka.sandbox import PeakaSandbox
from tests.component.projects import Project, connection_to, keys
from tests.documents import ROOT, blocks
from tests.materializing import sqlite_tables

WRITTEN = [
    pytest.param(content, id=f"{page.stem}-{number}")
    for page in sorted((ROOT / "docs").glob("*.md"))
    for number, (language, content) in enumerate(blocks(page))
    if language == "yaml" or "/defs.yaml" in language  # other titles are of other files
]
SETTINGS = [
    pytest.param(content, id=f"{page.stem}-{number}")
    for page in sorted((ROOT / "docs").glob("*.md"))
    for number, (language, content) in enumerate(blocks(page))
    if language == 'yaml title="dagster.yaml"'
]


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that the pages name."""
    monkeypatch.setenv("PEAKA_PROJECT_ID", "sandbox")
    monkeypatch.setenv("PEAKA_BASE_URL", "http://127.0.0.1:9/api/v1")


@pytest.mark.parametrize("content", WRITTEN)
def test_yaml_in_a_page_is_what_it_is_said_to_be(project: Project, tmp_path: Path, content: str) -> None:
    """A file, or attributes in a file, make a component that finds its caches; config of a run is valid."""
    said: dict[str, Any] = yaml.safe_load(content)
    if "on_running" in said:
        assert PeakaSyncConfig(**said)
        return
    if "type" in said:
        project.write("defs.yaml", content)
        assert project.component().connection.project_id == "sandbox"
    attributes = said.get("attributes", said)
    tables = sqlite_tables(tmp_path / "shop.db", ["orders", "items", "tmp_1"])
    with PeakaSandbox({"shop": {"public": tables}}, caches=["shop.public.*"]) as sandbox:
        sandbox.wait_idle()
        project.declare({**attributes, "connection": connection_to(sandbox)})
        if state := attributes.get("defs_state"):
            # Dagster offers that storage to its own processes only.
            assert project.component().defs_state.management_type.name == state["management_type"]
        else:
            assert keys(project.definitions(dev=True))


@pytest.mark.parametrize("content", SETTINGS)
def test_settings_of_dagster_in_a_page_are_accepted(tmp_path: Path, content: str) -> None:
    """A `dagster.yaml` of these lines makes an instance."""
    (tmp_path / "dagster.yaml").write_text(content)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_monitoring_enabled
        assert instance.run_retries_enabled


def test_the_pages_show_yaml() -> None:
    """There are blocks to try."""
    assert len(WRITTEN) >= 5
