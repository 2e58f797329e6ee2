"""The README's code, typed in as it stands."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

README = Path(__file__).parents[2] / "README.md"


def blocks() -> list[tuple[str, str]]:
    """The fenced blocks of the README, each with its language."""
    tokens = MarkdownIt().parse(README.read_text(encoding="utf-8"))
    return [(token.info, token.content) for token in tokens if token.type == "fence"]


def test_the_code_runs_and_prints_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python blocks run one after the other; a text block behind one is what it prints, … for an id."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    printed = ""
    ran = compared = 0
    for language, content in blocks():
        if language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(content, README, "exec"), names)
            printed = output.getvalue()
            ran += 1
        elif language == "text":
            assert re.fullmatch(re.escape(content).replace("…", r"\S+"), printed), printed
            compared += 1
    assert (ran, compared) == (9, 6)


def test_every_link_to_a_file_leads_somewhere() -> None:
    """Files and pictures that the README names exist."""
    targets = re.findall(r"\]\(([^)\s]+)\)", README.read_text(encoding="utf-8"))
    missing = [name for name in targets if "://" not in name and not (README.parent / name).exists()]
    assert missing == []
