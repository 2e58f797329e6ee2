"""One step of N caches: its requests, its time beside the executions' own, and the memory of its process.

The sandbox runs in a process of its own and counts the requests. Time is what the step's own body takes: not while it
is suspended at a `yield`, where Dagster records the result. Memory is the most that a fresh process has held after its
first step.

Beside it: the time of the whole step over that of the longest execution, as Peaka's record tells it, and of a bare step
of the same results; the two take turns in one process, so that a machine that is slower for a while is so for both.
Dagster records both in SQLite, as `dagster dev` does. All figures are medians of three processes. Their executions take
4.8 s, 5 s and 5.2 s, so that no one place of the end between two polls is taken for all.

    python -m benchmarks.fleet 1 10 100 300 1000
"""

import gc
import json
import os
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_peaka import PeakaProject, PeakaResource, peaka_cache_assets

EXECUTION_SECONDS = (4.8, 5.0, 5.2)
TURNS = 2
API_KEY = "sandbox-key"


def make_source(path: Path, tables: int) -> None:
    """A SQLite database with so many small tables."""
    with sqlite3.connect(path) as database:
        for number in range(tables):
            database.execute(f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY, v TEXT)")
            database.execute(f"INSERT INTO t{number} VALUES (1, 'one')")


def start_sandbox(
    source: Path, requests: Path, execution_seconds: float
) -> tuple[subprocess.Popen[str], str]:
    """A sandbox in a process of its own, with every table cached; returns it and its base URL."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dagster_peaka.sandbox"),
            *("--source", f"bench.public={source}", "--cache", "bench.public.*", "--port", "0"),
            *("--execution-seconds", str(execution_seconds), "--requests", str(requests)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"PEAKA_BASE_URL=(\S+)", line)
        if found:
            return process, found.group(1)
    raise SystemExit("the sandbox did not start")


def resource_of(base_url: str) -> PeakaResource:
    """What reaches the sandbox."""
    return PeakaResource(api_key=API_KEY, project_id="sandbox", base_url=base_url)


def bare(
    specs: Sequence[dg.AssetSpec], results: Sequence[dg.AssetMaterialization], instance: dg.DagsterInstance
) -> float:
    """Seconds that Dagster takes for a step of these results, when all of them are there at once."""

    @dg.multi_asset(specs=specs)
    def bare_results() -> Iterator[Any]:
        for result in results:
            version = (result.tags or {}).get("dagster/data_version")
            yield dg.MaterializeResult(
                asset_key=result.asset_key,
                metadata=result.metadata,
                data_version=dg.DataVersion(version) if version else None,
            )

    return timed(lambda: dg.materialize([bare_results], instance=instance))[1]


def timed(run: Callable[[], dg.ExecuteInProcessResult]) -> tuple[dg.ExecuteInProcessResult, float]:
    """A run and its seconds, none of them for the garbage of what ran before it in this process."""
    gc.collect()
    began = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - began
    assert result.success
    return result, seconds


def step(base_url: str, snapshot: str, instance: dg.DagsterInstance) -> dict[str, float]:
    """Materialize all caches in one step, and as many bare results, in turns; returns what a turn takes on average."""
    spent = 0.0

    @peaka_cache_assets(PeakaProject.load(snapshot))
    def fleet(context: dg.AssetExecutionContext, peaka: PeakaResource) -> Iterator[Any]:
        nonlocal spent
        results = peaka.sync_and_poll(context)
        while True:
            began = time.perf_counter()
            result = next(results, None)
            spent += time.perf_counter() - began
            if result is None:
                return
            yield result

    # A process's first run and first client pay for imports.
    bare([dg.AssetSpec("warm")], [dg.AssetMaterialization("warm")], instance)
    resources = {"peaka": resource_of(base_url)}
    resources["peaka"].get_client().close()
    turns: list[dict[str, float]] = []
    for _ in range(TURNS):
        spent = 0.0
        result, seconds = timed(lambda: dg.materialize([fleet], instance=instance, resources=resources))
        results = [event.materialization for event in result.get_asset_materialization_events()]
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert peak is not None
        turns.append(
            {
                "body_seconds": spent,
                "seconds": seconds,
                "bare_seconds": bare(list(fleet.specs), results, instance),
                "longest_seconds": max(
                    float(str(each.metadata["peaka/duration_seconds"].value)) for each in results
                ),
                "peak_mb": int(peak.group(1)) / 1024,
            }
        )
    means = {name: statistics.mean(turn[name] for turn in turns) for name in turns[0]}
    return {**means, "peak_mb": turns[0]["peak_mb"]}


def measure(caches: int) -> dict[str, float]:
    """Everything about steps of so many caches."""
    runs = [one_run(caches, seconds) for seconds in EXECUTION_SECONDS]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def one_run(caches: int, execution_seconds: float) -> dict[str, float]:
    """What :func:`step` measures, in fresh processes, and the requests that the sandbox served meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        source, requests, snapshot = (
            Path(folder) / name for name in ("source.db", "requests.jsonl", "snapshot.json")
        )
        make_source(source, caches)
        sandbox, base_url = start_sandbox(source, requests, execution_seconds)
        try:
            wait_until_idle(base_url, caches)
            resource_of(base_url).fetch_project().save(snapshot)
            before = len(requests.read_text().splitlines())
            run = in_a_process(base_url, snapshot)
            served = [json.loads(line) for line in requests.read_text().splitlines()[before:]]
        finally:
            sandbox.terminate()
            sandbox.wait()
    triggers = sum(record["operation"] == "incrementalUpdateCache" for record in served)
    return {
        **run,
        "late_seconds": run["body_seconds"] - execution_seconds,
        "over_bare": run["seconds"] / (run["bare_seconds"] + run["longest_seconds"]),
        "requests": len(served) / TURNS,
        "triggers": triggers / TURNS,
    }


def in_a_process(base_url: str, snapshot: Path) -> dict[str, float]:
    """What :func:`step` measures, in a process of its own."""
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.fleet", "--step", base_url, str(snapshot)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"},
    )
    return json.loads(output.stdout.splitlines()[-1])


def wait_until_idle(base_url: str, caches: int) -> None:
    """Wait for the caches' first syncs to be over."""
    with resource_of(base_url).get_client() as client:
        while True:
            statuses = client.list_cache_statuses()
            if len(statuses) == caches and all(status.status == "COMPLETED" for status in statuses):
                return
            time.sleep(0.5)


def main(numbers: list[int]) -> None:
    """Print the table."""
    print(
        "| caches | requests | over N | body less execution | peak memory over N=1 "
        "| time over bare step + execution |"
    )
    print("|---|---|---|---|---|---|")
    first_peak: float | None = None
    for caches in numbers:
        measured = measure(caches)
        first_peak = measured["peak_mb"] if first_peak is None else first_peak
        requests = int(measured["requests"])
        print(
            f"| {caches} | {requests} ({int(measured['triggers'])} triggers) | {requests - caches} "
            f"| {measured['late_seconds']:.2f} s | {measured['peak_mb'] - first_peak:.0f} MB "
            f"| {measured['over_bare']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        base_url_of_sandbox, snapshot_of_project = sys.argv[2:]
        with dg.instance_for_test() as in_sqlite:
            print(json.dumps(step(base_url_of_sandbox, snapshot_of_project, in_sqlite)))
    else:
        main([int(argument) for argument in sys.argv[1:]] or [1, 10, 100, 300, 1000])
