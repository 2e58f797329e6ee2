"""The component as it is used from a shell: found, scaffolded, checked, listed and refreshed by `dg`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.component.projects import KEY_VARIABLE, TYPE
from tests.materializing import sqlite_tables

SECRET = "pk-77aa01-in-no-output"

# What `create-dagster project` writes, as far as `dg` needs it.
PYPROJECT = """
[project]
name = "shop"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "shop"
"""
DEFINITIONS = """
from pathlib import Path

from dagster import definitions, load_from_defs_folder


@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""


@dataclass(frozen=True)
class Shell:
    """A shell in the folder of a project."""

    folder: Path
    sandbox: PeakaSandbox

    @property
    def defs(self) -> Path:
        """Where components are."""
        return self.folder / "src" / "shop" / "defs"

    def dg(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """What a `dg` command printed, and how it ended."""
        environment = {
            **os.environ,
            KEY_VARIABLE: SECRET,
            "PYTHONPATH": str(self.folder / "src"),
            "DAGSTER_HOME": str(self.folder / "home"),
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "COLUMNS": "300",
        }
        done = subprocess.run(
            [str(Path(sys.executable).with_name("dg")), *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert SECRET not in done.stdout + done.stderr
        return done

    def listed(self) -> "tuple[set[str], str]":
        """The keys of the assets that `dg list defs` shows, and what it warns of."""
        done = self.dg("list", "defs", "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["assets"]
        return {asset["asset_key"] for asset in found}, done.stderr


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A project with a component for each way in which Dagster can keep state; Peaka is there."""
    folder = tmp_path_factory.mktemp("shop")
    tables = sqlite_tables(folder / "ops.db", "tuv")
    with PeakaSandbox({"ops": {"public": tables}}, caches=["ops.public.*"], api_key=SECRET) as sandbox:
        sandbox.wait_idle()
        shell = Shell(folder, sandbox)
        (folder / "home").mkdir()
        (folder / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        (folder / "pyproject.toml").write_text(PYPROJECT)
        shell.defs.mkdir(parents=True)
        (shell.defs.parent / "__init__.py").touch()
        (shell.defs.parent / "definitions.py").write_text(DEFINITIONS)
        yield shell


@pytest.fixture(scope="module")
def scaffolded(shell: Shell) -> Path:
    """The YAML that `dg scaffold defs` wrote."""
    options = ["--project-id", shell.sandbox.project_id, "--base-url", shell.sandbox.base_url]
    done = shell.dg("scaffold", "defs", TYPE, "peaka", *options)
    assert done.returncode == 0, done.stderr
    return shell.defs / "peaka" / "defs.yaml"


def test_dg_finds_the_component_and_scaffolds_it(shell: Shell, scaffolded: Path) -> None:
    """The scaffolded YAML names the project and the key's variable, and is all that is needed."""
    text = scaffolded.read_text()

    assert text.startswith(f"type: {TYPE}\n")
    assert f"project_id: {shell.sandbox.project_id}" in text
    assert f"base_url: {shell.sandbox.base_url}" in text
    assert f"env: {KEY_VARIABLE}" in text
    components = json.loads(shell.dg("list", "components", "--json").stdout)
    assert TYPE in {component["key"] for component in components["items"]}


def test_a_misspelt_field_is_found_by_dg_check(shell: Shell, scaffolded: Path) -> None:
    """The schema that editors use tells `dg check yaml` which field is wrong, and in which line."""
    good = scaffolded.read_text()
    scaffolded.write_text(good.replace("base_url", "base_ur"))

    done = shell.dg("check", "yaml")

    scaffolded.write_text(good)
    assert done.returncode != 0
    assert "attributes.connection.base_ur" in done.stdout + done.stderr
    assert f"{scaffolded}:8" in done.stdout + done.stderr


def test_dg_lists_and_refreshes_while_peaka_comes_and_goes(shell: Shell, scaffolded: Path) -> None:
    """With Peaka there all is well; without it what was known stays, a refresh fails, and a warning tells each."""
    base = f"{scaffolded.read_text()}    request_max_retries: 0\n"
    for table, kept in (
        ("t", "LOCAL_FILESYSTEM"),
        ("u", "VERSIONED_STATE_STORAGE"),
        ("v", "LEGACY_CODE_SERVER_SNAPSHOTS"),
    ):
        folder = shell.defs / f"of_{table}"
        folder.mkdir()
        more = f"  selection: {{include: ops.public.{table}}}\n  defs_state: {{management_type: {kept}}}\n"
        (folder / "defs.yaml").write_text(base + more)
    scaffolded.unlink()

    assets, warned = shell.listed()
    assert assets == {"ops/public/t", "ops/public/u", "ops/public/v"}
    assert "PeakaProjectComponent:" not in warned

    states = {path: path.read_bytes() for path in shell.folder.rglob("state") if path.is_file()}
    shell.sandbox.stop()
    refreshed = shell.dg("utils", "refresh-defs-state")
    assert refreshed.returncode != 0
    assert "Could not connect to Peaka" in refreshed.stdout + refreshed.stderr
    assert {path: path.read_bytes() for path in shell.folder.rglob("state") if path.is_file()} == states

    assets, warned = shell.listed()
    assert assets == {"ops/public/t", "ops/public/u"}
    warnings = [line for line in warned.splitlines() if "PeakaProjectComponent:" in line]
    assert len(warnings) == 3
    assert sum("Going on with the state, which is" in warning for warning in warnings) == 2
    assert sum("keeps no older state" in warning for warning in warnings) == 1

    assert [
        path for path in shell.folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ] == []
