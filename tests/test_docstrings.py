"""Every public name has a docstring with an example, and every example runs."""

import inspect
import os
import sqlite3
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

import dagster_peaka
from dagster_peaka import PeakaClient, PeakaProject, PeakaResource, build_peaka_cache_asset
from dagster_peaka.sandbox import PeakaSandbox

MARK = ".. code-block:: python"

PUBLIC = {
    name: getattr(module, name)
    for module in (dagster_peaka, dagster_peaka.api, dagster_peaka.component)
    for name in module.__all__
}


def examples_in(docstring: str) -> Iterator[str]:
    """The Python code blocks of a docstring."""
    _, *blocks = docstring.split(MARK)
    for block in blocks:
        lines = block.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        taken: list[str] = []
        for line in lines:
            if line.strip() and len(line) - len(line.lstrip()) < indent:
                break
            taken.append(line)
        yield textwrap.dedent("\n".join(taken))


def documented() -> Iterator[tuple[str, Any]]:
    """The public names, and the public methods of the classes among them."""
    for name, value in PUBLIC.items():
        yield name, value
        if inspect.isclass(value):
            for method, function in vars(value).items():
                if not method.startswith("_") and inspect.getdoc(function):
                    yield f"{name}.{method}", function


EXAMPLES = [
    pytest.param(example, id=name if number == 0 else f"{name} ({number + 1})")
    for name, value in documented()
    for number, example in enumerate(examples_in(inspect.getdoc(value) or ""))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a shop's database."""
    folder = tmp_path_factory.mktemp("examples")
    with closing(sqlite3.connect(folder / "shop.db")) as shop, shop:
        shop.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, price REAL)")
        shop.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT)")
        shop.execute("CREATE TABLE guests (id INTEGER PRIMARY KEY, name TEXT)")
        shop.execute("INSERT INTO orders VALUES (1, 'tea', 3.5), (2, 'cake', 4.0)")
    return folder


@pytest.fixture(scope="module")
def shop(folder: Path) -> Iterator[PeakaSandbox]:
    """A local Peaka that caches two of the shop's three tables."""
    caches = ["shop.public.orders", "shop.public.items"]
    with PeakaSandbox({"shop": {"public": folder / "shop.db"}}, caches=caches) as sandbox:
        sandbox.wait_idle()
        yield sandbox


@pytest.fixture
def names(folder: Path, shop: PeakaSandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What an example may use without saying where it comes from; a snapshot lies in the folder it runs in."""
    peaka = PeakaResource(
        api_key=shop.api_key, project_id=shop.project_id, base_url=shop.base_url, poll_interval=0.05
    )
    monkeypatch.chdir(folder)
    monkeypatch.setitem(os.environ, "PEAKA_API_KEY", shop.api_key)
    monkeypatch.setitem(os.environ, "PEAKA_PROJECT_ID", shop.project_id)
    peaka.fetch_project().save(folder / "peaka_project.json")
    with PeakaClient(shop.api_key, shop.project_id, shop.base_url) as client:
        yield {
            **PUBLIC,
            "__name__": "an_example",
            "dg": dg,
            "peaka": peaka,
            "client": client,
            "api_key": shop.api_key,
            "project_id": shop.project_id,
            "base_url": shop.base_url,
            "cache_id": shop.caches["shop.public.orders"],
            "orders": build_peaka_cache_asset(table="shop.public.orders", deps=["landed_orders"]),
            "project": PeakaProject.load(folder / "peaka_project.json"),
        }


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name: str) -> None:
    """A docstring of its own, with a code block."""
    docstring = PUBLIC[name].__doc__ or ""

    assert list(examples_in(docstring)), f"{name} has no example in its docstring"


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_runs(example: str, names: dict[str, Any]) -> None:
    """As it stands, in a folder with a snapshot, against a local Peaka."""
    exec(compile(example, "<example>", "exec"), names)
