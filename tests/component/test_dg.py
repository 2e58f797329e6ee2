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
from tests.documents import ROOT, blocks
from tests.materializing import sqlite_tables

SECRET = "pk-77aa01-in-no-output"

IN_PROCESS = {"execution": {"config": {"in_process": {}}}}

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
class Printed:
    """What a command printed, and how it ended."""

    stdout: str
    stderr: str
    returncode: int

    @property
    def both(self) -> str:
        """All that was printed."""
        return self.stdout + self.stderr


@dataclass(frozen=True)
class Shell:
    """A shell in the folder of a project, in which `dg` is at hand."""

    folder: Path
    sandbox: PeakaSandbox
    process: "subprocess.Popen[str]"

    @property
    def defs(self) -> Path:
        """Where components are."""
        return self.folder / "src" / "shop" / "defs"

    def dg(self, *arguments: str, **environment: str) -> Printed:
        """What a `dg` command printed, and how it ended. The key is in nothing of it."""
        files = {name: self.folder / "home" / name for name in ("stdout", "stderr")}
        order = {"arguments": arguments, "environment": environment, **{k: str(v) for k, v in files.items()}}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        printed = Printed(files["stdout"].read_text(), files["stderr"].read_text(), code)
        assert SECRET not in printed.both
        return printed

    def files_with(self, text: str) -> list[Path]:
        """The files of the project, and of Dagster's folder in it, that hold a text."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return [path for path in files if text.encode() in path.read_bytes()]

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
    package = folder / "src" / "shop"
    (package / "defs").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "definitions.py").write_text(DEFINITIONS)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "home").mkdir()
    (folder / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    environment = {
        **os.environ,
        KEY_VARIABLE: SECRET,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder / "src"), os.environ.get("PYTHONPATH")])),
        "DAGSTER_HOME": str(folder / "home"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "COLUMNS": "300",
    }
    with (
        PeakaSandbox({"ops": {"public": tables}}, caches=["ops.public.*"], api_key=SECRET) as sandbox,
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("ready_dg.py"))],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        sandbox.wait_idle()
        yield Shell(folder, sandbox, process)


@pytest.fixture(scope="module")
def scaffolded(shell: Shell) -> Path:
    """The YAML that `dg scaffold defs` wrote."""
    options = ["--project-id", shell.sandbox.project_id, "--base-url", shell.sandbox.base_url]
    done = shell.dg("scaffold", "defs", TYPE, "peaka", *options)
    assert done.returncode == 0, done.stderr
    return shell.defs / "peaka" / "defs.yaml"


def test_dg_finds_the_component_and_scaffolds_it(shell: Shell, scaffolded: Path) -> None:
    """The scaffolded YAML is the one in the documentation: it names the project, and the key by its variable."""
    shown = next(text for language, text in blocks(ROOT / "docs" / "component.md") if language == "yaml")

    assert scaffolded.read_text() == shown.replace("http://127.0.0.1:8765/api/v1", shell.sandbox.base_url)
    components = json.loads(shell.dg("list", "components", "--json").stdout)
    assert TYPE in {component["key"] for component in components["items"]}


def test_a_misspelt_field_is_found_by_dg_check(shell: Shell, scaffolded: Path) -> None:
    """The schema that editors use tells `dg check yaml` which field is wrong, and in which line."""
    good = scaffolded.read_text()
    scaffolded.write_text(good.replace("base_url", "base_ur"))

    done = shell.dg("check", "yaml")

    scaffolded.write_text(good)
    assert done.returncode != 0
    assert "attributes.connection.base_ur" in done.both
    assert f"{scaffolded}:8" in done.both


@pytest.mark.parametrize(
    ("more", "listed"),
    [
        ("step_per: table", "'table' is not one of ['cache', 'catalog', 'project']"),
        ("row_count: count", "'count' is not one of ['query', 'off', False"),
        ("overrides: [{match: a.b.c, mode: full}]", "'full' is not one of ['incremental', 'full_refresh'"),
        ("upstream_sensor: {require: some}", "'some' is not one of ['any', 'all']"),
        ("checks: {severity: warn}", "'warn' is not one of ['WARN', 'ERROR'"),
    ],
)
def test_dg_check_lists_what_is_allowed(shell: Shell, scaffolded: Path, more: str, listed: str) -> None:
    """Of a choice that is none, `dg check yaml` says which there are."""
    good = scaffolded.read_text()
    scaffolded.write_text(f"{good.rstrip()}\n  {more}\n")

    done = shell.dg("check", "yaml")

    scaffolded.write_text(good)
    assert done.returncode != 0
    assert listed in " ".join(done.both.split())


def test_dg_check_takes_what_a_load_takes(shell: Shell, scaffolded: Path) -> None:
    """Texts that look like numbers, durations, a selection that is a pattern, and templates in place of choices."""
    good = scaffolded.read_text()
    scaffolded.write_text(
        f"{good.rstrip()}\n  selection: ops.public.t\n  group_name: 2024\n  mode: \"{{{{ 'incremental' }}}}\"\n"
        "  translation: {tags: {release: 1.10, on_call: yes}, code_version: 010}\n"
        "  checks: {max_age: {hours: 6}}\n  overrides: [{match: [0123, a.b.c]}]\n"
    )

    done = shell.dg("check", "yaml")

    scaffolded.write_text(good)
    assert done.returncode == 0, done.both


def test_dg_checks_and_launches_what_it_has_scaffolded(shell: Shell, scaffolded: Path) -> None:
    """All is well, every cache is synced, and the key is in no file that `dg` and the run leave."""
    checked = shell.dg("check", "defs")
    assert checked.returncode == 0, checked.both
    assert "All definitions loaded successfully" in checked.both

    launched = shell.dg("launch", "--assets", "*", "--config-json", json.dumps(IN_PROCESS))

    assert launched.returncode == 0, launched.both
    assert sum(execution.origin == "api" for execution in shell.sandbox.executions()) == 3
    assert list((shell.folder / "home").rglob("*.db"))
    assert shell.files_with(SECRET) == []


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

    wrong = "pk-00-wrong-and-in-no-output"
    refused = shell.dg("utils", "refresh-defs-state", **{KEY_VARIABLE: wrong})
    assert refused.returncode == 1
    assert "the API key was refused" in refused.both
    assert wrong not in refused.both

    states = {path: path.read_bytes() for path in shell.folder.rglob("state") if path.is_file()}
    shell.sandbox.stop()
    refreshed = shell.dg("utils", "refresh-defs-state")
    assert refreshed.returncode != 0
    assert "Could not connect to Peaka" in refreshed.both
    assert "Traceback" not in refreshed.both
    assert "\u2502" not in refreshed.both  # the frame of a stack trace
    last = refreshed.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: Could not connect to Peaka at ")
    assert {path: path.read_bytes() for path in shell.folder.rglob("state") if path.is_file()} == states

    assets, warned = shell.listed()
    assert assets == {"ops/public/t", "ops/public/u"}
    warnings = [line for line in warned.splitlines() if "PeakaProjectComponent:" in line]
    assert len(warnings) == 3
    assert sum("Going on with the state, which is" in warning for warning in warnings) == 2
    assert sum("keeps no older state" in warning for warning in warnings) == 1

    assert shell.files_with(SECRET) == []
