"""What the tests of this folder share: Dagster and a sandbox, and a browser where there is one."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.serving import Served, served

EXPECT_MILLISECONDS = 240_000.0
"""How long a page may take to show something: far longer than it does on a machine with nothing else to do."""


@pytest.fixture(scope="module")
def dagster_dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`dagster dev` and a sandbox: they take long to start, so the tests of this folder share them."""
    with served(tmp_path_factory.mktemp("served")) as everything:
        yield everything


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium: the environment's CHROMIUM, or what is on the path. Without one, tests that need it are skipped.

    Not in continuous integration, and not where one was named: there they fail.
    """
    named = os.environ.get("CHROMIUM")
    executable = shutil.which(named or "chromium")
    if executable is None:
        reason = f"no {named or 'chromium'}: install it (apt-get install chromium), or name one in CHROMIUM"
        if named or os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    expect.set_options(timeout=EXPECT_MILLISECONDS)
    with sync_playwright() as playwright:
        # /dev/shm is small in containers; Chromium then takes files.
        browser = playwright.chromium.launch(executable_path=executable, args=["--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, pictures: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page in a window of its own. What it shows at the end of a test, however that goes, is kept as a picture."""
    with browser.new_context(viewport={"width": 1320, "height": 900}) as context:
        context.set_default_timeout(EXPECT_MILLISECONDS)
        page = context.new_page()
        yield page
        page.screenshot(path=pictures / f"{request.node.name}.png")


@pytest.fixture(scope="session")
def pictures() -> Path:
    """The folder that keeps screenshots: the environment's PEAKA_PICTURES, or `artifacts/` in the repository."""
    folder = Path(os.environ.get("PEAKA_PICTURES") or Path(__file__).parents[2] / "artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
