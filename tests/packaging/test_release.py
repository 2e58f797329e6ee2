"""What a release says of itself: the same versions of Python everywhere, one address, links that work."""

import re
import subprocess
import sys
import tarfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from tests.documents import ROOT

VERSIONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unpacked source distribution."""
    folder = tmp_path_factory.mktemp("source")
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


def test_python_3_10_to_3_14_everywhere() -> None:
    """The requirement, the classifiers, the matrix, the README and CONTRIBUTING name the same versions."""
    project, nox = (ROOT / "pyproject.toml").read_text(), (ROOT / "noxfile.py").read_text()
    example = (ROOT / "example_project" / "pyproject.toml").read_text()
    readme, contributing = (ROOT / "README.md").read_text(), (ROOT / "CONTRIBUTING.md").read_text()

    assert re.findall(r"Programming Language :: Python :: (3\.\d+)", project) == VERSIONS
    assert [version for version in VERSIONS if f'"{version}"' not in nox] == []
    for text in (project, example):
        assert 'requires-python = ">=3.10,<3.15"' in text
    for text in (readme, contributing):
        assert set(re.findall(r"Python (3\.\d+ to 3\.\d+)", text)) == {"3.10 to 3.14"}


def test_links_of_the_readme_work_from_an_index(source: Path) -> None:
    """All are absolute and made from the repository's address, which stands in one place, as the URLs are."""
    page = Parser().parsestr((source / "PKG-INFO").read_text(encoding="utf-8"))
    text = str(page.get_payload())
    (repository,) = re.findall(
        r'^repository = "(.+)"$', (source / "pyproject.toml").read_text(), re.MULTILINE
    )

    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    assert [link for link in links if "://" not in link and not link.startswith("#")] == []
    assert f"]({repository}/raw/HEAD/docs/images/asset-graph.png)" in text
    assert f"]({repository}/blob/HEAD/docs/tour.md)" in text
    assert page["Description-Content-Type"] == "text/markdown"
    assert [each.split(", ")[1].startswith(repository) for each in page.get_all("Project-URL", [])] == [
        True
    ] * 3
    addresses = [
        path
        for path in ("pyproject.toml", "README.md", "SECURITY.md")
        if repository in (ROOT / path).read_text()
    ]
    assert addresses == ["pyproject.toml"]


def test_the_source_brings_the_page_on_security_and_a_version_that_stands_in_it(source: Path) -> None:
    """Whoever finds a hole reads how to report it; tools that do not import read the version."""
    assert "## Reporting" in (source / "SECURITY.md").read_text()
    text = (source / "dagster_peaka" / "__init__.py").read_text()
    (version,) = re.findall(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    assert f"Version: {version}\n" in (source / "PKG-INFO").read_text()


@pytest.mark.parametrize("name", ["quality-check", "release"])
def test_the_workflows_of_the_community_repository_only_need_copying(name: str) -> None:
    """Each calls that repository's template for the folder in which the package will be."""
    file = ROOT / ".github" / "community-integrations" / f"{name}-dagster-peaka.yml"
    workflow = yaml.safe_load(file.read_text())

    (job,) = workflow["jobs"].values()
    assert job["uses"] == f"./.github/workflows/template-{name}.yml"
    assert job["with"]["working_directory"] == "./libraries/dagster-peaka"
