"""The README and the pages of `docs/`: their code, typed in as it stands, and their links."""

from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT, missing_links, python_blocks, run

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))


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


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    """Files, pictures and headings that a page names exist."""
    assert missing_links(page) == []
