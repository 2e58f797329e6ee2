"""The doctor as a user runs it, with the environment that a test gives it and nothing else of it."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dagster_peaka.doctor.command import main
from dagster_peaka.sandbox import PeakaSandbox

KEY = "pk-3f9c2b7e/+x=="


@dataclass(frozen=True)
class Ran:
    """What a run of the doctor has left: its exit code, what it printed, the report that it wrote."""

    code: int
    out: str
    err: str
    report: str

    @property
    def everything(self) -> str:
        """All that somebody could read of it."""
        return self.out + self.err + self.report

    @property
    def readings(self) -> dict[str, Any]:
        """The values by their names, of a run with `--report`."""
        return {each["name"]: each["value"] for each in json.loads(self.report)["readings"]}

    @property
    def levels(self) -> dict[str, str]:
        """The levels by the readings' names, of a run with `--report`."""
        return {each["name"]: each["level"] for each in json.loads(self.report)["readings"]}

    @property
    def first(self) -> str:
        """The line that is to help first."""
        (line,) = [line for line in self.out.splitlines() if line.startswith("First: ")]
        return line


Doctor = Callable[..., Ran]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Doctor:
    """Runs the command with a report. `peaka` is a sandbox, or the variables that a user has set."""
    usual = ("PEAKA_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT", "COLUMNS")
    for name in list(os.environ):
        if name.upper().startswith(usual):
            monkeypatch.delenv(name)

    def run(peaka: PeakaSandbox | dict[str, str], *arguments: str) -> Ran:
        variables = peaka if isinstance(peaka, dict) else settings_for(peaka)
        file = tmp_path / "report.json"
        file.unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            code = main([*arguments, "--report", str(file)])
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err, file.read_text())

    return run


def settings_for(peaka: PeakaSandbox, **others: str) -> dict[str, str]:
    """The variables that lead to a sandbox, less or more some."""
    return {
        "PEAKA_API_KEY": peaka.api_key,
        "PEAKA_PROJECT_ID": peaka.project_id,
        "PEAKA_BASE_URL": peaka.base_url,
        **others,
    }
