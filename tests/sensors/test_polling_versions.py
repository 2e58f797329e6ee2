"""One execution has one data version, however many materializations stand for it, and whoever records it first."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_peaka import build_peaka_cache_asset
from dagster_peaka.sandbox import PeakaSandbox
from dagster_peaka.sensors.polling import build_peaka_polling_sensor
from tests.materializing import acting_when, clock_of_syncs, is_followed, peaka_for, run_of, triggers
from tests.sensors.polling import Watch, recorded, sync_by_others

T = "ops.public.t"
KEY = dg.AssetKey(T.split("."))
ASSET = build_peaka_cache_asset(table=T, deps=["landed"])


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that several processes share."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def watch(sandbox: PeakaSandbox, instance: dg.DagsterInstance) -> Watch:
    """A sensor that has recorded a sync."""
    watch = Watch(build_peaka_polling_sensor([ASSET]), peaka_for(sandbox), instance)
    watch.tick()
    sync_by_others(sandbox, [T])
    watch.tick()
    sandbox.clear_requests()
    return watch


def versions_of(instance: dg.DagsterInstance, execution: str) -> list[str]:
    """The data versions of the materializations that stand for an execution."""
    events = [
        record.asset_materialization for record in instance.fetch_materializations(KEY, limit=100).records
    ]
    return [
        str((event.tags or {})["dagster/data_version"])
        for event in events
        if event is not None and event.metadata["peaka/execution_id"].value == execution
    ]


def test_a_run_that_adopts_what_the_sensor_has_recorded_gives_it_the_same_version(
    watch: Watch, sandbox: PeakaSandbox
) -> None:
    """A re-execution triggers nothing, and records the newest that COMPLETED since: the last record is no past."""
    sandbox.plan(T, times=1, hold=True)
    with (
        clock_of_syncs() as clock,
        acting_when(lambda: is_followed(sandbox), lambda: setattr(clock, "ahead", 900)),
    ):
        parent = run_of(ASSET, peaka_for(sandbox, poll_timeout=900), instance=watch.instance)
    assert not parent.success
    ours = sandbox.executions(T)[-1].id
    sandbox.release(T)
    sandbox.wait_idle()
    (other,) = sync_by_others(sandbox, [T])
    watch.tick()
    before = recorded(watch.instance, KEY)
    assert before[1:] == [ours, other]
    re_executed(sandbox, parent.run_id)
    assert recorded(watch.instance, KEY) == [*before, other]
    assert versions_of(watch.instance, other) == [other, other]
    assert triggers(sandbox) == 1
    assert watch.tick() == []


def re_executed(sandbox: PeakaSandbox, run_id: str) -> None:
    """Execute the whole of a run again, in a process of its own, as Dagster does."""
    peaka = {
        "PEAKA_API_KEY": sandbox.api_key,
        "PEAKA_PROJECT_ID": sandbox.project_id,
        "PEAKA_BASE_URL": sandbox.base_url,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.sync.steps_to_kill"],
        env={**os.environ, **peaka, "AGAIN_ALL": run_id, "EXECUTOR": "in_process"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("success\n"), done.stderr
