"""The README and the pages of `docs/`: their code, typed in as it stands, and their links."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT, files, missing_links, python_blocks, run

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
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


def test_the_readme_runs_and_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of the README, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    ran, compared = run(README, {"__name__": "readme"})

    assert ran >= 9
    assert compared >= 6


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
def test_a_page_runs_and_prints_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of a page, after the one of the README's tour that starts a local Peaka."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    exec(next(block for block in python_blocks(README) if "sandbox.start()" in block), names)
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


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    """Files, pictures and headings that a page names exist."""
    assert missing_links(page) == []
