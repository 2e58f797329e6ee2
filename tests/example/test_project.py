"""The example as a `dg` project: it loads anywhere, without a server, an account or a database."""

import json
import subprocess
import sys
from pathlib import Path

from flights.database import TABLES


def dg(project: Path, environment: dict[str, str], *arguments: str) -> str:
    """What a `dg` command prints; it must succeed."""
    command = [str(Path(sys.executable).with_name("dg")), *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_definitions_are_valid_without_any_configuration(
    project: Path, environment: dict[str, str]
) -> None:
    """`dg check defs` passes with none of the environment variables set."""
    assert "successfully" in dg(project, environment, "check", "defs")


def test_each_table_lands_and_is_cached_and_the_report_follows(
    project: Path, environment: dict[str, str]
) -> None:
    """`dg list defs` shows five landings, a cache that depends on each, the report behind them, and what automates."""
    found = json.loads(dg(project, environment, "list", "defs", "--json"))
    deps = {asset["asset_key"]: set(asset["dependency_keys"]) for asset in found["assets"]}
    landings: dict[str, set[str]] = {f"operational/{table}": set() for table in TABLES}
    caches = {f"ops/public/{table}": {f"operational/{table}"} for table in TABLES}
    report = {"punctuality": {"ops/public/flights", "ops/public/airlines", "ops/public/weather"}}
    assert deps == {**landings, **caches, **report}
    assert [job["name"] for job in found["jobs"]] == ["chain"]
    assert [schedule["name"] for schedule in found["schedules"]] == ["another_day"]
    assert [sensor["name"] for sensor in found["sensors"]] == [
        "after_landing",
        "new_report",
        "synced_elsewhere",
    ]
