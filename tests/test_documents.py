"""The README and the pages of `docs/`: their code, typed in as it stands, and their links."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from dagster_peaka import PeakaResource
from dagster_peaka.sandbox import PeakaSandbox
from tests.component.projects import Project
from tests.documents import ROOT, blocks, files, missing_links, python_blocks, run

README = ROOT / "README.md"
TOUR = ROOT / "docs" / "tour.md"
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if page != TOUR]
CREATED = {
    "pyproject.toml": '[tool.dg]\ndirectory_type = "project"\n\n[tool.dg.project]\nroot_module = "shop"\n',
    "shop/__init__.py": "",
    "shop/defs/__init__.py": "",
    "shop/definitions.py": """
from pathlib import Path

import dagster as dg


@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
""",
}
"""What a project that create-dagster has made holds of itself."""


def test_the_tour_runs_and_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of the tour, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    ran, compared = run(TOUR, {"__name__": "tour"})

    assert ran == len(python_blocks(TOUR))
    assert compared >= 6


@pytest.fixture
def cached_orders(peaka_sandbox: PeakaSandbox) -> PeakaSandbox:
    """A local Peaka with the cache that the README names; the README's variables lead to it."""
    peaka_sandbox.database("ops.public").execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    peaka_sandbox.create_cache("ops.public.orders")
    peaka_sandbox.wait_idle()
    return peaka_sandbox


def test_the_readmes_cache_syncs(cached_orders: PeakaSandbox) -> None:
    """The README's Python; only the address of a local Peaka comes besides."""
    names: dict[str, Any] = {"__name__": "readme"}

    run(README, names)

    settings: dict[str, Any] = names["peaka"].model_dump()
    settings["base_url"] = cached_orders.base_url
    peaka = PeakaResource(**settings)
    assert dg.materialize([names["orders"]], resources={"peaka": peaka}).success


def test_the_readmes_component_loads(cached_orders: PeakaSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's YAML; only the address of a local Peaka comes besides."""
    ((_, yaml_text),) = [block for block in blocks(README) if block[0] == "yaml"]
    written = yaml.safe_load(yaml_text)
    written["attributes"]["connection"]["base_url"] = cached_orders.base_url

    with create_defs_folder_sandbox() as folder:
        project = Project(folder, monkeypatch)
        project.declare(written["attributes"], kind=written["type"])
        loaded = project.definitions(dev=True)

    assert loaded.resolve_asset_graph().get_all_asset_keys() == {dg.AssetKey(["ops", "public", "orders"])}


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
def test_a_page_runs_and_prints_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of a page, after the one of the tour that starts a local Peaka."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    exec(next(block for block in python_blocks(TOUR) if "sandbox.start()" in block), names)
    monkeypatch.setenv("PEAKA_API_KEY", names["sandbox"].api_key)
    monkeypatch.setenv("PEAKA_PROJECT_ID", names["sandbox"].project_id)
    try:
        ran, _ = run(page, names)
    finally:
        names["sandbox"].close()

    assert ran == len(python_blocks(page))


def test_a_users_project_is_tested_as_its_page_says(tmp_path: Path) -> None:
    """The files of the page on tests, in an empty folder, under pytest alone: it finds the fixtures by itself."""
    written = files(ROOT / "docs" / "test.md")
    for name, content in {**CREATED, **written}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    tests = sum(content.count("\ndef test_") for content in written.values())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PEAKA_")}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tests} passed" in done.stdout


@pytest.mark.parametrize("page", [README, TOUR, *PAGES], ids=lambda page: page.stem)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    """Files, pictures and headings that a page names exist."""
    assert missing_links(page) == []
