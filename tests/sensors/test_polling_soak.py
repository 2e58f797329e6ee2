"""A soak of the polling sensor: ticks over HTTP beside runs, schedules, strangers, failures and deaths.

`PEAKA_CAMPAIGNS` sets how many soaks run (default 1), `PEAKA_TICKS` how many ticks each has (default 30) and
`PEAKA_FIRST_SEED` where to begin; a violation names its seed. The event log is SQLite, or the PostgreSQL of the URL in
`PEAKA_POSTGRES` (with dagster-postgres, which nothing else here needs).
What is judged comes from the sandbox's own records.
"""

import os
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import build_peaka_cache_asset
from dagster_peaka.sandbox import Behaviour, PeakaSandbox
from dagster_peaka.sandbox.server import ModeName
from dagster_peaka.sensors.polling import build_peaka_polling_sensor
from tests.materializing import peaka_for, sqlite_tables
from tests.sensors.polling import Watch

SOAKS = int(os.environ.get("PEAKA_CAMPAIGNS", "1"))
FIRST = int(os.environ.get("PEAKA_FIRST_SEED", "0"))
TICKS = int(os.environ.get("PEAKA_TICKS", "20"))
POSTGRES = os.environ.get("PEAKA_POSTGRES")
SETTINGS = {
    # Runs that are killed would leave behind the processes that copy their output.
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    },
    **({"storage": {"postgres": {"postgres_url": POSTGRES}}} if POSTGRES else {}),
}
CACHES = [f"ops.public.t{number}" for number in range(5)]
SCHEDULED = "ops.public.scheduled"


def behaviour(pick: random.Random) -> Behaviour:
    """One reading of what the contract leaves open."""
    return Behaviour(
        execution_seconds=pick.choice([0.0, 0.05, 0.3]),
        visible_after=pick.choice([0.0, 0.0, 0.4]),
        hide_queued=pick.random() < 0.3,
        queued_status=pick.choice(["RUNNING", "QUEUED"]),
        coalesce=pick.random() < 0.3,
        other_mode=pick.choice(["parallel", "queue", "coalesce"]),
        status_case=pick.choice(["upper", "lower", "title"]),
        mode_spelling=pick.choice(["upper", "lower", "kebab"]),
        timestamps=pick.choice(["z", "offset", "no_fraction", "absent"]),
        clock_offset=pick.choice([0.0, 3600.0, -3600.0]),
        extra_fields=pick.random() < 0.5,
        drop_progress=pick.random() < 0.3,
        cancel_in_gap="cancel",  # what is cancelled here is cancelled beside the API
    )


class Traffic:
    """What goes on beside the ticks: what others do, and runs of ours, two at a time, in threads of their own."""

    def __init__(self, pick: random.Random, sandbox: PeakaSandbox, instance: dg.DagsterInstance) -> None:
        self.pick, self.sandbox, self.instance = pick, sandbox, instance
        self.runs: list[Future[Any]] = []
        self._pool = ThreadPoolExecutor(2)

    def go_on(self) -> None:
        """Let something happen, or nothing."""
        if self.pick.random() < 0.25:
            self._disturb()
        if self.pick.random() < 0.2 and sum(not run.done() for run in self.runs) < 2:
            self._run()

    def _run(self) -> None:
        """A run of ours: some attach to what runs, some give up early."""
        asset = ASSETS[self.pick.randrange(len(CACHES))]
        config = {
            "mode": self.pick.choice(["incremental", "incremental", "full_refresh"]),
            "on_running": self.pick.choice(["queue", "queue", "attach"]),
        }
        peaka = peaka_for(self.sandbox, poll_timeout=self.pick.choice([0.3, 20.0, 20.0]), start_timeout=1.0)
        self.runs.append(
            self._pool.submit(
                dg.materialize,
                [asset],
                resources={"peaka": peaka},
                run_config={"ops": {asset.op.name: {"config": config}}},
                instance=self.instance,
                raise_on_error=False,
            )
        )

    def _disturb(self) -> None:
        """A stranger syncs, one or several at once; some fail, some take long, some are cancelled."""
        cache = self.pick.choice(CACHES)
        if self.pick.random() < 0.3:
            self.sandbox.plan(cache, times=1, fail={"message": "source is locked"})
        elif self.pick.random() < 0.3:
            self.sandbox.plan(cache, mode="full_refresh", times=1, duration=self.pick.choice([0.5, 2.0]))
        for _ in range(self.pick.choice([1, 1, 2, 4])):
            mode: ModeName = self.pick.choice(["incremental", "incremental", "full_refresh"])
            self.sandbox.start_execution(cache, mode)
        if self.pick.random() < 0.1:
            self.sandbox.cancel(cache, self.pick.choice(["incremental", "full_refresh"]))

    def end(self) -> None:
        """Wait for the runs; what they raise is raised here."""
        self._pool.shutdown()
        for run in self.runs:
            run.result()


ASSETS: Sequence[dg.AssetsDefinition] = [
    build_peaka_cache_asset(table=cache, checks={"last_sync_succeeded": number % 2 == 0})
    for number, cache in enumerate([*CACHES, SCHEDULED])
]


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SOAKS))
def test_every_sync_is_recorded_once_whatever_happens(tmp_path: Path, seed: int) -> None:
    """What completed after the first tick is materialized; twice only by a run that followed it, with its version."""
    pick = random.Random(seed)
    names = [name.rsplit(".", 1)[1] for name in (*CACHES, SCHEDULED)]
    source = sqlite_tables(tmp_path / "ops.db", names)
    (tmp_path / "dagster").mkdir()
    with (
        PeakaSandbox({"ops": {"public": source}}, caches=CACHES, behaviour=behaviour(pick)) as sandbox,
        dg.DagsterInstance.local_temp(str(tmp_path / "dagster"), overrides=SETTINGS) as instance,
    ):
        sandbox.create_cache(SCHEDULED, incremental_schedule="PT1S")
        peaka = peaka_for(sandbox)
        watch = Watch(build_peaka_polling_sensor(ASSETS), peaka, instance)
        traffic = Traffic(pick, sandbox, instance)
        for _ in range(3):
            traffic.go_on()
        began = time.time()
        watch.tick()
        first_tick = began, time.time()
        for _ in range(TICKS):
            traffic.go_on()
            if pick.random() < 0.05:  # a daemon or a code server that starts anew
                watch.sensor = build_peaka_polling_sensor(ASSETS)
            watch.tick(dies_after=pick.randrange(4) if pick.random() < 0.1 else None)
        traffic.end()
        with peaka.get_client() as client:
            client.update_cache(
                sandbox.caches[SCHEDULED], incremental_schedule=None, full_refresh_schedule=None
            )
        sandbox.wait_idle()
        time.sleep(0.5)  # longer than anything stays hidden, by the same clock
        watch.tick()
        watch.tick()
        assert watch.tick() == []
        judge(sandbox, instance, first_tick, watch.began, f"seed {seed}")
        assert len(traffic.runs) > 0


STORED_WITHIN = 1.0
"""Seconds in which an event that has its time is stored."""


def judge(
    sandbox: PeakaSandbox,
    instance: dg.DagsterInstance,
    first_tick: tuple[float, float],
    ticks: Sequence[float],
    seed: str,
) -> None:
    """Compare Dagster's event log with what has happened in the sandbox."""
    for cache in (*CACHES, SCHEDULED):
        recorded: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
        key = dg.AssetKey(cache.split("."))
        for record in instance.fetch_materializations(key, limit=10_000, ascending=True).records:
            event = record.asset_materialization
            assert event is not None
            version = (event.tags or {})["dagster/data_version"]
            execution_id = str(event.metadata["peaka/execution_id"].value)
            recorded[execution_id].append((record.run_id, version, record.timestamp))
        truth = {each.id: each for each in sandbox.executions(cache)}
        for execution_id, records in recorded.items():
            execution = truth[execution_id]
            assert execution.status == "COMPLETED", f"{seed}: {cache}: {execution_id} did not complete"
            # What ended just before the first tick but was not shown yet is new to it.
            shown_at = (execution.finished_at or 0) + sandbox.behaviour.visible_after
            assert shown_at >= first_tick[0] or all(run for run, _, _ in records), (
                f"{seed}: {cache}: {execution_id} was over before the first tick"
            )
            for place, (run, _, at) in enumerate(records):
                # A tick knows nothing of what a run records while it goes on.
                tick = max((began for began in ticks if began <= at), default=0.0)
                assert run or all(before >= tick - STORED_WITHIN for _, _, before in records[:place]), (
                    f"{seed}: {cache}: the sensor doubled {execution_id}"
                )
            assert sum(not run for run, _, _ in records) <= 1, f"{seed}: {cache}: doubled {execution_id}"
            assert len({version for _, version, _ in records}) == 1, (
                f"{seed}: {cache}: two versions of {execution_id}"
            )
        for execution in truth.values():
            if execution.status == "COMPLETED" and (execution.finished_at or 0) > first_tick[1]:
                assert execution.id in recorded, f"{seed}: {cache}: {execution.id} was lost"
