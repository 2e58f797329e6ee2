"""The fault campaign: the real package over real HTTP, against generated combinations of the sandbox's misbehaviours.

What is judged comes from the sandbox's own records. `PEAKA_CAMPAIGNS` sets how many campaigns run (default 2) and
`PEAKA_FIRST_SEED` where to begin; a violation names its seed.
"""

import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaResource
from dagster_peaka.sandbox import Behaviour, PeakaSandbox

CAMPAIGNS = int(os.environ.get("PEAKA_CAMPAIGNS", "2"))
FIRST = int(os.environ.get("PEAKA_FIRST_SEED", "0"))
CACHES = [f"ops.public.t{number}" for number in range(6)]
TRIGGER = "incrementalUpdateCache"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with a small table for each cache."""
    path = tmp_path_factory.mktemp("campaign") / "ops.db"
    with closing(sqlite3.connect(path)) as database, database:
        for cache in CACHES:
            table = cache.rsplit(".", 1)[1]
            database.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, v TEXT)")
            database.execute(f"INSERT INTO {table} VALUES (1, 'one')")
    return path


def misbehave(sandbox: PeakaSandbox, pick: random.Random) -> list[threading.Timer]:
    """Let the sandbox misbehave as the generator says; returns what happens later."""
    for cache in CACHES:
        if pick.random() < 0.3:
            sandbox.plan(cache, times=pick.choice([1, 2]), fail={"message": "source is locked"})
        elif pick.random() < 0.2:
            sandbox.plan(cache, times=1, duration=pick.choice([0.5, 1.5]))
        if pick.random() < 0.3:
            sandbox.fault(TRIGGER, cache, times=1, lose_reply=True, status=None)
        elif pick.random() < 0.2:
            sandbox.fault(TRIGGER, cache, times=1, status=pick.choice([429, 500, 502, 503]))
        elif pick.random() < 0.1:
            sandbox.fault(TRIGGER, cache, times=1, refuse=True, status=None)
        if pick.random() < 0.2:
            sandbox.start_execution(cache, mode=pick.choice(["incremental", "full_refresh"]))
    for _ in range(pick.randrange(3)):
        sandbox.fault(
            "getCacheStatusByCatalog", times=pick.choice([1, 3]), status=pick.choice([429, 502, 503])
        )
    timers = [
        threading.Timer(pick.uniform(0.2, 3.0), sandbox.start_execution, (pick.choice(CACHES),))
        for _ in range(3)
    ]
    if pick.random() < 0.3:
        timers.append(threading.Timer(pick.uniform(0.5, 2.0), lambda: outage(sandbox)))
    return timers


def outage(sandbox: PeakaSandbox) -> None:
    """The server is away for a moment, and comes back on the same port."""
    sandbox.stop()
    time.sleep(0.7)
    sandbox.start()


def behaviour(pick: random.Random) -> Behaviour:
    """One reading of every open question."""
    return Behaviour(
        execution_seconds=pick.choice([0.0, 0.3, 1.0]),
        visible_after=pick.choice([0.0, 0.0, 0.4, 1.2]),
        hide_queued=pick.random() < 0.3,
        queued_status=pick.choice(["RUNNING", "QUEUED"]),
        coalesce=pick.random() < 0.3,
        other_mode=pick.choice(["parallel", "queue", "coalesce", "refuse"]),
        trigger_answer=pick.choice(["object", "empty", "text"]),
        status_case=pick.choice(["upper", "lower", "title"]),
        mode_spelling=pick.choice(["upper", "lower", "kebab", "absent"]),
        timestamps=pick.choice(["z", "offset", "no_fraction", "null", "absent"]),
        error_shape=pick.choice(["object", "string", "null"]),
        ids_as_numbers=pick.random() < 0.3,
        clock_offset=pick.choice([0.0, 3600.0, -3600.0]),
        extra_fields=pick.random() < 0.5,
        drop_progress=pick.random() < 0.3,
    )


@dg.multi_asset(
    specs=[dg.AssetSpec(cache.split("."), metadata={"peaka/table": cache}) for cache in CACHES],
    required_resource_keys={"peaka"},
)
def fleet(context: dg.AssetExecutionContext) -> Iterator[Any]:
    """Every cache of the campaign, in one step."""
    yield from context.resources.peaka.sync_and_poll(context)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + CAMPAIGNS))
def test_every_guarantee_holds_over_http(source: Path, seed: int) -> None:
    """Each cache is materialized by a COMPLETED execution of its own time, or named as failed; nothing is cancelled."""
    pick = random.Random(seed)
    with PeakaSandbox({"ops": {"public": source}}, caches=["ops.public.*"]) as sandbox:
        sandbox.wait_idle()
        sandbox.behaviour = behaviour(pick)
        sandbox.clear_requests()
        timers = misbehave(sandbox, pick)
        peaka = PeakaResource(
            api_key=sandbox.api_key,
            project_id=sandbox.project_id,
            base_url=sandbox.base_url,
            poll_interval=0.1,
            start_timeout=2.0,
            poll_timeout=60.0,
            outage_tolerance=20.0,
        )
        for timer in timers:
            timer.start()
        began = time.time()
        with dg.DagsterInstance.ephemeral() as instance:
            result = dg.materialize(
                [fleet], instance=instance, resources={"peaka": peaka}, raise_on_error=False
            )
            materialized = {
                event.asset_key: event.step_materialization_data.materialization.metadata
                for event in result.all_events
                if event.is_step_materialization and event.asset_key is not None
            }
            failure = [event for event in result.all_events if event.is_step_failure]
        for timer in timers:
            timer.join()
        judge(
            sandbox, began, materialized, str(failure[0].step_failure_data) if failure else "", f"seed {seed}"
        )


def judge(
    sandbox: PeakaSandbox, began: float, materialized: dict[dg.AssetKey, Any], failure: str, seed: str
) -> None:
    """Compare what Dagster was told with what the sandbox knows."""
    assert not [record for record in sandbox.requests if (record.operation or "").startswith("cancel")], seed
    for cache, cache_id in sandbox.caches.items():
        key = dg.AssetKey(cache.split("."))
        truth = {execution.id: execution for execution in sandbox.executions(cache)}
        posts = [
            r for r in sandbox.requests if r.operation == TRIGGER and cache_id in r.path and r.status != 429
        ]
        assert len(posts) <= 2, f"{seed}: {cache} was triggered {len(posts)} times"
        if key not in materialized:
            assert cache in failure, f"{seed}: {cache} gave no result and is not named: {failure}"
            continue
        execution = truth[str(materialized[key]["peaka/execution_id"].value)]
        assert (execution.status, execution.mode) == ("COMPLETED", "INCREMENTAL"), f"{seed}: {cache}"
        assert execution.created_at >= began - 2.0 or len(posts) == 2, (
            f"{seed}: {cache} began before the look"
        )
