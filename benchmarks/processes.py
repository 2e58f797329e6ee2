"""N caches at the default, a step each: what Dagster's processes cost, and what this package adds to that.

Each step is a process, and Dagster starts as many as there are cores, which have nothing to do while a sync is awaited.
Beside the syncs, in the same run, the same number of steps that only sleep as long as an execution lasts; and once all
caches in one step, which waits for them together. The sandbox runs in a process of its own and counts the requests.

Syncs and bare steps are of one code location, so the processes of both import this package, as in a project: what the
import itself costs, `benchmarks.loading` tells. They take turns (syncs, bare, bare, syncs), until a row stands for
24 steps of each kind, because a run of twelve varies by more than what is measured.

    python -m benchmarks.processes 12 40
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_peaka import PeakaProject, PeakaResource, build_peaka_cache_assets

SECONDS = 5.0
CACHES, SNAPSHOT, ADDRESS = "BENCH_CACHES", "BENCH_SNAPSHOT", "BENCH_ADDRESS"
STEPS_OF_A_ROW = 24
# Beside the code location, what the first request imports.
PRELOADED = ["benchmarks.processes", "dagster_peaka.api.connection", "httpcore"]
FORKSERVER = {"forkserver": {"preload_modules": PRELOADED}}
EXECUTORS: dict[str, Any] = {"multiprocess": {}, "multiprocess, forkserver": {"start_method": FORKSERVER}}


def syncs(step_per: str) -> dg.JobDefinition:
    """A job that syncs every cache."""
    assets = build_peaka_cache_assets(PeakaProject.load(os.environ[SNAPSHOT]), step_per=step_per)
    peaka = PeakaResource(api_key="sandbox-key", project_id="sandbox", base_url=os.environ[ADDRESS])
    jobs = [dg.define_asset_job("all")]
    return dg.Definitions(assets=assets, jobs=jobs, resources={"peaka": peaka}).resolve_job_def("all")


def cache_steps() -> dg.JobDefinition:
    """A step for each cache."""
    return syncs("cache")


def one_step() -> dg.JobDefinition:
    """One step for all."""
    return syncs("project")


def bare_steps() -> dg.JobDefinition:
    """As many steps that sleep."""

    def sleeping(name: str) -> dg.AssetsDefinition:
        @dg.asset(name=name)
        def sleep() -> None:
            time.sleep(SECONDS)

        return sleep

    assets = [sleeping(f"t{each}") for each in range(int(os.environ[CACHES]))]
    return dg.Definitions(assets=assets, jobs=[dg.define_asset_job("all")]).resolve_job_def("all")


def seconds(job: str, executor: dict[str, Any]) -> float:
    """The time of a run, in this process and those that it starts."""
    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.local_temp(home) as instance:
        began = time.perf_counter()
        config = {"execution": {"config": {"multiprocess": executor}}}
        with dg.execute_job(
            dg.reconstructable(globals()[job]), instance=instance, run_config=config
        ) as result:
            assert result.success
        return time.perf_counter() - began


def measured(job: str, executor: dict[str, Any]) -> float:
    """The time of a run in a fresh process."""
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.processes", "--run", job, json.dumps(executor)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"},
    )
    return float(output.stdout.splitlines()[-1])


def in_turn(executor: dict[str, Any], pairs: int) -> tuple[float, float]:
    """The mean times of the syncs and of the bare steps."""
    spent = {"cache_steps": 0.0, "bare_steps": 0.0}
    for pair in range(pairs):
        for job in spent if pair % 2 == 0 else reversed(spent):
            spent[job] += measured(job, executor)
    return spent["cache_steps"] / pairs, spent["bare_steps"] / pairs


def count(requests: Path) -> int:
    """How many requests the sandbox has served."""
    return len(requests.read_text().splitlines())


def rows(caches: int) -> None:
    """Print the rows of so many caches."""
    from benchmarks.fleet import make_source, resource_of, start_sandbox, wait_until_idle

    with tempfile.TemporaryDirectory() as folder:
        source, requests, snapshot = (
            Path(folder) / name for name in ("source.db", "requests.jsonl", "snapshot.json")
        )
        make_source(source, caches)
        sandbox, base_url = start_sandbox(source, requests, SECONDS)
        os.environ.update({CACHES: str(caches), SNAPSHOT: str(snapshot), ADDRESS: base_url})
        try:
            wait_until_idle(base_url, caches)
            resource_of(base_url).fetch_project().save(snapshot)
            pairs = max(1, STEPS_OF_A_ROW // caches)
            for name, executor in EXECUTORS.items():
                before = count(requests)
                ours, bare = in_turn(executor, pairs)
                asked = (count(requests) - before) / (caches * pairs)
                print(
                    f"| {caches} | {name} | {ours:.0f} s | {bare:.0f} s | {ours / bare:.2f} | {asked:.1f} |",
                    flush=True,
                )
            before = count(requests)
            together = measured("one_step", {})
            asked = (count(requests) - before) / caches
            print(f"| {caches} | one step for all | {together:.0f} s | | | {asked:.1f} |", flush=True)
        finally:
            sandbox.terminate()
            sandbox.wait()


def main(numbers: list[int]) -> None:
    """Print the table."""
    print(f"| caches | steps, on {os.cpu_count()} cores | time | bare steps | over them | requests a sync |")
    print("|---:|---|---:|---:|---:|---:|")
    for caches in numbers:
        rows(caches)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        print(seconds(sys.argv[2], json.loads(sys.argv[3])))
    else:
        main([int(argument) for argument in sys.argv[1:]] or [12, 40])
