"""The doctor's page: its commands, typed in as they stand, by somebody who has the page and nothing else."""

import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.doctor.conftest import settings_for
from tests.documents import ROOT, blocks

PAGE = ROOT / "docs" / "doctor.md"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[PeakaSandbox]:
    """The local Peaka of the tour, in an empty folder."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database, database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, price REAL)")
    with PeakaSandbox({"shop": {"public": tmp_path / "shop.db"}}, caches=["shop.public.orders"]) as shop:
        shop.wait_idle()
        yield shop


def test_its_commands_run_one_after_the_other(shop: PeakaSandbox, tmp_path: Path) -> None:
    """Each ends with 0 and without a question that nobody has answered; then the report is there, and is played."""
    shell = [
        line for language, content in blocks(PAGE) if language == "shell" for line in content.splitlines()
    ]
    commands = [shlex.split(line)[1:] for line in shell if line.startswith("python -m dagster_peaka doctor")]
    assert len(commands) == 4
    environment = {**settings_for(shop), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    for command in commands:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            input="y\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert shop.api_key not in done.stdout + done.stderr

    assert [request.operation for request in shop.requests].count("incrementalUpdateCache") == 1
    with PeakaSandbox({}, profile=tmp_path / "report.json") as replay:
        assert replay.behaviour.schema_statuses == "fail"


def test_its_way_to_play_a_report_is_right(
    shop: PeakaSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python of it runs where a report is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.json").write_text('{"format": 1, "base": "documented", "readings": []}')
    (code,) = [content for language, content in blocks(PAGE) if language == "py"]
    names: dict[str, object] = {}
    exec(code, names)
    assert isinstance(names["sandbox"], PeakaSandbox)
    assert names["sandbox"].behaviour.query_values == "json"
