"""Dagster's own "re-execute from asset failure", through its webserver and daemon: only what failed is repeated.

`PEAKA_TABLES` sets how many caches each of the six catalogs has (default 10).
"""

import os
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.dagster_dev import dagster_dev, write_settings
from tests.graphql import GraphQL
from tests.materializing import TRIGGERS, peaka_for, sqlite_tables


def triggered(sandbox: PeakaSandbox) -> Counter[str]:
    """How often each cache was triggered since the requests were last cleared."""
    tables = {cache_id: name.rpartition(".")[2] for name, cache_id in sandbox.caches.items()}
    posts = [request for request in sandbox.requests if request.operation in TRIGGERS]
    return Counter(tables[post.path.split("/")[-2]] for post in posts)


CATALOGS = [f"shop{number}" for number in range(6)]
TABLES = int(os.environ.get("PEAKA_TABLES", "10"))
CHOSEN = [f"t{number}" for number in range(TABLES // 4, TABLES * 3 // 4)]
BROKEN = [CHOSEN[1], CHOSEN[len(CHOSEN) // 2], CHOSEN[-1]]


@pytest.mark.timeout(600)  # three processes start before anything happens
def test_re_execution_from_asset_failure_repeats_only_what_failed(tmp_path: Path) -> None:
    """Of some caches of many three fail: the others are recorded, and the re-execution triggers the three."""
    sources = {
        catalog: {"public": sqlite_tables(tmp_path / f"{catalog}.db", [f"t{each}" for each in range(TABLES)])}
        for catalog in CATALOGS
    }
    with PeakaSandbox(sources, caches=["*.*.*"]) as sandbox:
        sandbox.wait_idle()
        project = peaka_for(sandbox).fetch_project()
        assert len(project.caches) == len(CATALOGS) * TABLES
        project.save(tmp_path / "peaka_project.json")
        sandbox.clear_requests()
        for table in BROKEN:
            sandbox.plan(f"shop3.public.{table}", fail="the source is locked")
        write_settings(tmp_path)
        with dagster_dev(
            tmp_path,
            *("-m", "tests.steps.reexecution_location"),
            sandbox=sandbox,
            environment={"PEAKA_SNAPSHOT": str(tmp_path / "peaka_project.json")},
        ) as port:
            ui = GraphQL(port)
            assert sandbox.requests == []  # definitions are loaded
            first = ui.launch(*(["shop3", "public", table] for table in CHOSEN))
            assert ui.ended(first).status == "FAILURE"
            assert triggered(sandbox) == Counter(CHOSEN)
            sandbox.clear_requests()

            again = ui.re_execute(first, "FROM_ASSET_FAILURE")

            assert ui.ended(again).status == "SUCCESS"
            assert triggered(sandbox) == Counter(BROKEN)
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            keys = {table: dg.AssetKey(["shop3", "public", table]) for table in CHOSEN}
            recorded_in = {
                table: event.run_id
                for table, key in keys.items()
                if (event := instance.get_latest_materialization_event(key))
            }
            assert recorded_in == {table: again if table in BROKEN else first for table in CHOSEN}
            for key in keys.values():
                check = dg.AssetCheckKey(key, "last_sync_succeeded")
                record = instance.get_latest_asset_check_evaluation_record(check)
                assert record is not None
                assert record.status.value == "SUCCEEDED"
