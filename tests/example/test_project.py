"""The example as a `dg` project: it loads anywhere, without a server, an account or a database."""

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from flights.commands.processes import Processes
from flights.commands.surroundings import State, peaka
from flights.database import TABLES
from flights.definitions import defs
from flights.defs import caches
from tests.materializing import failure_of


def run_dg(project: Path, environment: dict[str, str], *arguments: str) -> str:
    """What a `dg` command prints; it must succeed."""
    command = [str(Path(sys.executable).with_name("dg")), *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_definitions_are_valid_without_any_configuration(
    project: Path, environment: dict[str, str]
) -> None:
    """`dg check defs` passes with none of the environment variables set."""
    assert "successfully" in run_dg(project, environment, "check", "defs")


def test_each_table_lands_and_is_cached_and_the_report_follows(
    project: Path, environment: dict[str, str]
) -> None:
    """`dg list defs` shows five landings, a cache behind each, then query and report, and what automates."""
    found = json.loads(run_dg(project, environment, "list", "defs", "--json"))
    deps = {asset["asset_key"]: set(asset["dependency_keys"]) for asset in found["assets"]}
    landings: dict[str, set[str]] = {f"operational/{table}": set() for table in TABLES}
    caches = {f"ops/public/{table}": {f"operational/{table}"} for table in TABLES}
    query = {"peaka/mtquery/punctuality": {"ops/public/flights", "ops/public/airlines", "ops/public/weather"}}
    report = {"punctuality": {"peaka/mtquery/punctuality"}}
    assert deps == {**landings, **caches, **query, **report}
    assert [job["name"] for job in found["jobs"]] == ["chain"]
    assert [schedule["name"] for schedule in found["schedules"]] == ["another_day"]
    assert [sensor["name"] for sensor in found["sensors"]] == [
        "after_landing",
        "new_report",
        "synced_elsewhere",
    ]


def test_the_caches_show_their_columns_and_one_fails_on_purpose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns come from the snapshot; a run of the cache that fails says why, and harms nothing else."""
    with State(tmp_path).held() as state, Processes() as processes:
        environment, _ = peaka(processes, state)
        for name, value in {**environment, **state.environment()}.items():
            monkeypatch.setenv(name, value)
        definitions = defs()
        shown = {spec.key.path[-1]: spec.metadata for spec in caches.cache_assets()[0].specs}
        resources = definitions.resources or {}
        gates, airlines = caches.broken_cache("gates"), caches.cache_assets()[0]
        with dg.DagsterInstance.ephemeral() as instance:
            failed = dg.materialize([gates], resources=resources, instance=instance, raise_on_error=False)
            synced = dg.materialize([airlines], resources=resources, instance=instance)

    columns = shown["airlines"]["dagster/column_schema"].columns
    assert [(column.name, column.type) for column in columns] == [("carrier", "varchar"), ("name", "varchar")]
    assert "the source refuses every connection" in failure_of(failed).description
    (sync,) = synced.get_asset_materialization_events()
    assert sync.materialization.metadata["dagster/row_count"].value == 0
    chain = definitions.resolve_job_def("chain").asset_layer.selected_asset_keys
    assert {key.path[0] for key in chain} == {"operational", "ops", "peaka", "punctuality"}
    assert dg.AssetKey(["ops", "public", "gates"]) not in chain
    assert dg.AssetKey(["ops", "public", "gates"]) in {
        spec.key for spec in definitions.resolve_all_asset_specs()
    }
