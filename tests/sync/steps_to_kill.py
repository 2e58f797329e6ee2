"""A Dagster project whose step is interrupted, killed and re-executed by tests, each run in a process of its own.

`main`, or `python -m tests.sync.steps_to_kill`, runs the job with the executor, Peaka and settings that the environment
names; with `AGAIN=<run id>` it re-executes that run from failure, with `AGAIN_ALL=<run id>` the whole of it. It prints
`run <id>` and, last, `success` or `failure`. `SECONDS_LATER` is by how much the step takes the earlier attempts for
older. What a termination may take is bounded by `STOP_BUDGET`, so generously that a busy machine does not exceed it.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import dagster as dg

from dagster_peaka import PeakaResource, build_peaka_cache_asset
from dagster_peaka.records import attempts
from dagster_peaka.sync import runner


def peaka() -> PeakaResource:
    """The resource, from the environment."""
    return PeakaResource(
        api_key=dg.EnvVar("PEAKA_API_KEY"),
        project_id=dg.EnvVar("PEAKA_PROJECT_ID"),
        base_url=os.environ.get("PEAKA_BASE_URL", "http://127.0.0.1:1/api/v1"),
        poll_interval=float(os.environ.get("POLL_INTERVAL", "0.1")),
        poll_timeout=float(os.environ.get("POLL_TIMEOUT", "600")),
        start_timeout=float(os.environ.get("START_TIMEOUT", "20")),
        on_running=os.environ.get("ON_RUNNING", "queue"),
        cancel_on_termination=os.environ.get("CANCEL", "yes") == "yes",
    )


@dg.asset
def landed() -> None:
    """The upstream of the caches."""


def caches() -> list[dg.AssetsDefinition]:
    """One asset a table, or all of them in one step."""
    tables = os.environ.get("TABLES", "ops.public.t").split(",")
    if len(tables) == 1:
        retries = dg.RetryPolicy(max_retries=int(os.environ.get("RETRIES", "0")))
        return [build_peaka_cache_asset(table=tables[0], deps=[landed], retry_policy=retries)]

    @dg.multi_asset(
        specs=[dg.AssetSpec(table.split("."), metadata={"peaka/table": table}) for table in tables],
        required_resource_keys={"peaka"},
        name="fleet",
    )
    def fleet(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from context.resources.peaka.sync_and_poll(context)

    return [fleet]


def job() -> dg.JobDefinition:
    """The job that is run, for every process that needs it: the caches, without their upstream."""
    runner.STOP_BUDGET = float(os.environ.get("STOP_BUDGET", "120"))
    later = float(os.environ.get("SECONDS_LATER", "0"))
    patch.object(attempts, "time", SimpleNamespace(time=lambda: time.time() + later)).start()
    in_process = os.environ.get("EXECUTOR") == "in_process"
    definitions = dg.Definitions(
        assets=[*caches(), landed],
        jobs=[
            dg.define_asset_job(
                "sync", selection=dg.AssetSelection.all() - dg.AssetSelection.assets("landed")
            )
        ],
        resources={"peaka": peaka()},
        executor=dg.in_process_executor if in_process else dg.multiprocess_executor,
    )
    return definitions.resolve_job_def("sync")


def main() -> None:
    """Run the job, or a re-execution of an earlier run."""
    # A shell's background process ignores SIGINT; Dagster's run workers do not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    again = os.environ.get("AGAIN")
    with dg.DagsterInstance.get() as instance:
        options = dg.ReexecutionOptions.from_failure(again, instance) if again else None
        if os.environ.get("AGAIN_ALL"):
            options = dg.ReexecutionOptions(parent_run_id=os.environ["AGAIN_ALL"])
        result = dg.execute_job(
            dg.reconstructable(job), instance=instance, reexecution_options=options, raise_on_error=False
        )
        sys.stdout.write(f"run {result.run_id}\n{'success' if result.success else 'failure'}\n")


if __name__ == "__main__":
    main()
