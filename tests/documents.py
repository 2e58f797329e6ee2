"""The code in Markdown pages: found, run in order, and what it prints compared with what the page says."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page, each with its language."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    return [(token.info, token.content) for token in tokens if token.type == "fence"]


def python_blocks(page: Path) -> list[str]:
    """The Python blocks of a page."""
    return [content for language, content in blocks(page) if language == "python"]


def files(page: Path) -> dict[str, str]:
    """The files that a page writes out: its blocks with a title, by that title."""
    titled = [(re.fullmatch(r'\w+ title="(.+)"', info), content) for info, content in blocks(page)]
    return {title[1]: content for title, content in titled if title}


def run(page: Path, names: dict[str, Any]) -> tuple[int, int]:
    """Run all Python blocks, one after the other; a text block behind one is what it prints, with … for an id.

    Returns how many ran, and how many outputs were compared.
    """
    printed = ""
    ran = compared = 0
    for language, content in blocks(page):
        if language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(content, page, "exec"), names)
            printed = output.getvalue()
            ran += 1
        elif language == "text":
            assert re.fullmatch(re.escape(content).replace("…", r"\S+"), printed), printed
            compared += 1
    return ran, compared


def missing_links(page: Path) -> list[str]:
    """Files, pictures and headings that a page names and that do not exist."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [
        target for target in targets if "://" not in target and not _exists(page, *target.partition("#")[::2])
    ]


def _exists(page: Path, name: str, heading: str) -> bool:
    target = page.parent / name if name else page
    if not target.exists():
        return False
    titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
    return not heading or heading in {
        re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles
    }
