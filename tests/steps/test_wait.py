"""`wait=False`: the step triggers, writes down what it started, and ends; a polling sensor records how it went on."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaResource, build_peaka_cache_asset
from dagster_peaka.sandbox import PeakaSandbox
from tests.fleets import fleet, recorded
from tests.materializing import TRIGGERS, failure_of, peaka_for, run_of, triggers

TABLE = "ops.public.t"
T = dg.AssetKey("t")
LEFT = {"peaka/wait": False}
BOTH = {"t": {"peaka/table": TABLE, **LEFT}, "u": {"peaka/table": "ops.public.u", **LEFT}}
ROOT = Path(__file__).parents[2]


def operations(sandbox: PeakaSandbox) -> list[str | None]:
    """What was asked of Peaka, in order."""
    return [request.operation for request in sandbox.requests]


def observed(instance: dg.DagsterInstance, key: dg.AssetKey, name: str) -> list[tuple[str, Any]]:
    """What an asset's observations hold under `name`, newest first, each with the id of its run."""
    found: list[tuple[str, Any]] = []
    for record in instance.fetch_observations(key, limit=100).records:
        observation = record.event_log_entry.asset_observation
        assert observation is not None
        if name in observation.metadata:
            found.append((record.event_log_entry.run_id, observation.metadata[name].value))
    return found


def lines(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    """What the run's log says beside Dagster's own events."""
    entries = instance.all_logs(result.run_id)
    return "\n".join(entry.user_message for entry in entries if entry.dagster_event is None)


# Triggering


def test_the_step_ends_with_the_triggers_answer(sandbox: PeakaSandbox) -> None:
    """The run succeeds while the execution runs: nothing is asked after the POST, and nothing is materialized."""
    sandbox.plan(TABLE, hold=True)

    result = run_of(fleet({"t": BOTH["t"]}, checks=True), peaka_for(sandbox))

    assert result.success
    assert operations(sandbox)[-1] == "incrementalUpdateCache"
    assert triggers(sandbox) == 1
    assert sandbox.executions(TABLE)[-1].status == "RUNNING"
    assert recorded(result) == []
    assert list(result.get_asset_check_evaluations()) == []


def test_what_was_started_is_written_down(sandbox: PeakaSandbox) -> None:
    """The record before the trigger says that nobody waits; one on each asset says what was triggered by which run."""
    before = {table: sandbox.executions(f"ops.public.{table}")[-1].id for table in BOTH}
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_of(fleet(BOTH), peaka_for(sandbox), instance=instance)
        written = [
            value for key in BOTH for _, value in observed(instance, dg.AssetKey(key), "peaka/triggering")
        ]
        triggered = {key: observed(instance, dg.AssetKey(key), "peaka/triggered") for key in BOTH}
        said = lines(instance, result)

    waits = {cache_id: entry["wait"] for record in written for cache_id, entry in record.items()}
    assert waits == dict.fromkeys(sandbox.caches.values(), False)
    for table, ((run_id, trigger),) in triggered.items():
        cache_id = sandbox.caches[f"ops.public.{table}"]
        assert run_id == result.run_id
        assert (trigger["cache_id"], trigger["mode"], trigger["answer"]) == (
            cache_id,
            "incremental",
            "accepted",
        )
        assert trigger["baseline"] == before[table]
        assert trigger["polled_at"]
    assert "Triggered, and not waited for: ops.public." in said
    assert "How it ends is recorded by a polling sensor." in said


@pytest.mark.parametrize(
    ("declared", "chosen", "waits"), [(True, False, False), (False, None, False), (False, True, True)]
)
def test_the_runs_config_wins_over_what_is_declared(
    sandbox: PeakaSandbox, declared: bool, chosen: bool | None, waits: bool
) -> None:
    """`wait` can be chosen for one run, either way."""
    asset = build_peaka_cache_asset(table=TABLE, key="t", wait=declared)

    result = run_of(asset, peaka_for(sandbox), config={} if chosen is None else {"wait": chosen})

    assert result.success
    assert recorded(result) == (["t"] if waits else [])


def test_one_step_may_wait_for_some_and_not_for_others(sandbox: PeakaSandbox) -> None:
    """What is waited for is recorded; what is not is left running."""
    sandbox.plan("ops.public.u", hold=True)
    assets = fleet({"t": {"peaka/table": TABLE}, "u": BOTH["u"]})

    result = run_of(assets, peaka_for(sandbox))

    assert result.success
    assert recorded(result) == ["t"]
    assert sandbox.executions("ops.public.u")[-1].status == "RUNNING"


def test_without_the_check_a_failure_would_be_no_more_than_a_warning(sandbox: PeakaSandbox) -> None:
    """The log says so where wait=False is chosen for an asset that declares no check of its last sync."""
    with dg.DagsterInstance.ephemeral() as instance:
        without = lines(instance, run_of(fleet({"t": BOTH["t"]}), peaka_for(sandbox), instance=instance))
        checked = run_of(fleet({"t": BOTH["t"]}, checks=True), peaka_for(sandbox), instance=instance)

        assert "Asset t declares no check 'last_sync_succeeded'" in without
        assert "declares no check" not in lines(instance, checked)


# A trigger that does not go well


@pytest.mark.parametrize("fault", [{"lose_reply": True}, {"status": 502}, {"status": 500}])
def test_a_trigger_of_unknown_outcome_is_not_repeated(
    sandbox: PeakaSandbox, fault: Mapping[str, Any]
) -> None:
    """Whether it was taken the polling sensor will tell: the log says that, and the record that it is not known."""
    sandbox.fault("incrementalUpdateCache", times=1, **fault)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_of(fleet({"t": BOTH["t"]}), peaka_for(sandbox), instance=instance)
        ((_, trigger),) = observed(instance, T, "peaka/triggered")
        said = lines(instance, result)

    assert result.success
    assert sum(operation in TRIGGERS for operation in operations(sandbox)) == 1
    assert operations(sandbox)[-1] == "incrementalUpdateCache"
    assert trigger["answer"] == "unknown"
    assert f"Triggered, perhaps in vain: {TABLE} ({sandbox.caches[TABLE]}): " in said
    assert "It is not triggered again; if an execution was started, how it ends is recorded by a poll" in said


@pytest.mark.parametrize("status", [400, 409, 422])
def test_a_refused_trigger_fails_the_step(sandbox: PeakaSandbox, status: int) -> None:
    """A 4xx is told at once, in the failure; other caches of the step are triggered."""
    sandbox.fault(
        "incrementalUpdateCache", cache=TABLE, times=None, status=status, body={"message": "not now"}
    )

    result = run_of(fleet(BOTH, checks=True), peaka_for(sandbox))

    description = failure_of(result).description
    assert (
        f"Peaka cache {TABLE} ({sandbox.caches[TABLE]}): Peaka refused to start an incremental update."
        in description
    )
    assert "Peaka says: not now" in description
    assert result.get_asset_check_evaluations() == []  # no execution was seen
    assert sum(operation in TRIGGERS for operation in operations(sandbox)) == 2


def test_a_trigger_that_was_surely_not_taken_is_repeated(sandbox: PeakaSandbox) -> None:
    """After a 429 it is sent again, until it is taken."""
    sandbox.fault("incrementalUpdateCache", times=2, status=429, headers={"Retry-After": "0"})

    assert run_of(fleet({"t": BOTH["t"]}), peaka_for(sandbox)).success
    assert [each.origin for each in sandbox.executions(TABLE)] == ["creation", "api"]


@pytest.mark.parametrize("table", [{"peaka/table": "ops.public.none"}, {"peaka/cache_id": "f00"}])
def test_a_cache_that_is_not_there_fails_the_step(sandbox: PeakaSandbox, table: Mapping[str, Any]) -> None:
    """What is wrong before the trigger fails as ever."""
    assert failure_of(run_of(fleet({"t": {**table, **LEFT}}), peaka_for(sandbox))).tries == 1


# Something runs already


@pytest.mark.parametrize(("on_running", "sent"), [("queue", 1), ("attach", 0)])
def test_what_runs_already_is_followed_by_another_or_counts(
    sandbox: PeakaSandbox, on_running: str, sent: int
) -> None:
    """`queue` triggers another; `attach` triggers nothing, says so, and leaves no record of a trigger."""
    sandbox.plan(TABLE, hold=True)
    stranger = sandbox.start_execution(TABLE)
    with dg.DagsterInstance.ephemeral() as instance:
        peaka = peaka_for(sandbox, on_running=on_running)
        result = run_of(fleet({"t": BOTH["t"]}), peaka, instance=instance)
        written = observed(instance, T, "peaka/triggered")
        said = lines(instance, result)

    assert result.success
    assert triggers(sandbox) == len(written) == sent
    nothing = f"Nothing was triggered, because an execution runs already and on_running is 'attach': {TABLE}"
    assert (nothing in said) == (sent == 0)
    assert (f"(execution {stranger})" in said) == (sent == 0)


def test_what_runs_already_fails_the_step_where_it_is_to(sandbox: PeakaSandbox) -> None:
    """`fail` triggers nothing and fails."""
    sandbox.plan(TABLE, hold=True)
    sandbox.start_execution(TABLE)

    result = run_of(fleet({"t": BOTH["t"]}), peaka_for(sandbox, on_running="fail"))

    assert "on_running is 'fail'; nothing was triggered" in failure_of(result).description
    assert triggers(sandbox) == 0


# Trying again


def test_a_step_retry_triggers_only_what_was_not_taken(sandbox: PeakaSandbox) -> None:
    """What was triggered is neither triggered nor asked for again; what was refused is."""
    sandbox.plan(TABLE, hold=True)
    sandbox.fault("incrementalUpdateCache", cache="ops.public.u", times=1, status=409)
    assets = fleet(BOTH, retry_policy=dg.RetryPolicy(max_retries=1))
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_of(assets, peaka_for(sandbox, start_timeout=0.2), instance=instance)
        said = lines(instance, result)

    assert result.success
    posts = [request.path for request in sandbox.requests if request.operation in TRIGGERS]
    assert [path.count(sandbox.caches[TABLE]) for path in posts].count(1) == 1
    assert len(posts) == 3
    assert (
        f"Triggered already by an earlier attempt: {TABLE} ({sandbox.caches[TABLE]}). Nothing is left" in said
    )


def job() -> dg.JobDefinition:
    """A job of one cache; the run's config says whether it is waited for."""
    definitions = dg.Definitions(
        assets=[build_peaka_cache_asset(table=TABLE, key="t")],
        resources={
            "peaka": PeakaResource(
                api_key=dg.EnvVar("SANDBOX_KEY"),
                project_id=dg.EnvVar("SANDBOX_PROJECT"),
                base_url=dg.EnvVar("SANDBOX_URL"),
                poll_interval=0.05,
                start_timeout=2.0,
            )
        },
        jobs=[dg.define_asset_job("sync", ["t"], executor_def=dg.in_process_executor)],
    )
    return definitions.resolve_job_def("sync")


class Runs:
    """Runs of the job in a process of their own.

    Dagster builds definitions anew for them, and from then on takes the whole process for one that only executes:
    components, for instance, would not ask for their state any more.
    """

    def __init__(self, pool: ProcessPoolExecutor, home: Path, sandbox: PeakaSandbox) -> None:
        self._pool = pool
        self.home = str(home)
        self._environment = {
            "SANDBOX_KEY": sandbox.api_key,
            "SANDBOX_PROJECT": sandbox.project_id,
            "SANDBOX_URL": sandbox.base_url,
        }

    def run(self, *, wait: bool, again: str | None = None) -> str:
        """The id of a successful run, or of the re-execution of one."""
        return self._pool.submit(run_job, self.home, self._environment, wait, again).result()


def run_job(home: str, environment: Mapping[str, str], wait: bool, again: str | None) -> str:
    """A run of the job, or its re-execution."""
    os.environ.update(environment)
    with dg.DagsterInstance.local_temp(home) as instance:
        result = dg.execute_job(
            dg.reconstructable(job),
            instance,
            run_config={"ops": {"t": {"config": {"wait": wait}}}},
            reexecution_options=None if again is None else dg.ReexecutionOptions(again),
        )
    assert result.success
    return result.run_id


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """A process beside this one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture
def runs(pool: ProcessPoolExecutor, tmp_path: Path, sandbox: PeakaSandbox) -> Runs:
    """Runs that find the sandbox."""
    return Runs(pool, tmp_path, sandbox)


@pytest.fixture
def instance(runs: Runs) -> Iterator[dg.DagsterInstance]:
    """The instance that keeps them."""
    with dg.DagsterInstance.local_temp(runs.home) as instance:
        yield instance


@pytest.mark.parametrize("wait", [True, False])
def test_a_re_execution_adopts_what_the_run_before_it_left(
    sandbox: PeakaSandbox, runs: Runs, instance: dg.DagsterInstance, wait: bool
) -> None:
    """While the execution is not recorded, nothing is triggered again; who waits follows it to its end."""
    first = runs.run(wait=False)
    sandbox.wait_idle()

    again = runs.run(wait=wait, again=first)

    assert triggers(sandbox) == 1
    events = instance.fetch_materializations(T, limit=10).records
    assert [event.run_id for event in events] == ([again] if wait else [])
    if wait:
        materialization = events[0].asset_materialization
        assert materialization is not None
        assert materialization.metadata["peaka/execution_id"].value == sandbox.executions(TABLE)[-1].id
        assert materialization.metadata["peaka/origin"].value == "adopted"


def test_a_re_execution_after_the_sensor_triggers_anew(
    sandbox: PeakaSandbox, runs: Runs, instance: dg.DagsterInstance
) -> None:
    """Once the asset has been materialized, by the sensor or anybody, the earlier trigger is settled."""
    first = runs.run(wait=False)
    sandbox.wait_idle()
    instance.report_runless_asset_event(dg.AssetMaterialization(T))

    again = runs.run(wait=False, again=first)

    assert triggers(sandbox) == 2
    assert {run_id for run_id, _ in observed(instance, T, "peaka/triggered")} == {first, again}


# Who records it


def materialized(sandbox: PeakaSandbox, home: Path, selection: str) -> str:
    """What a run of some assets of `waiting_location` prints, which has to fail."""
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "PEAKA_API_KEY": sandbox.api_key,
        "PEAKA_PROJECT_ID": sandbox.project_id,
        "PEAKA_BASE_URL": sandbox.base_url,
    }
    dagster = str(Path(sys.executable).with_name("dagster"))
    ended = subprocess.run(
        [dagster, "asset", "materialize", "-m", "tests.steps.waiting_location", "--select", selection],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode != 0
    return ended.stdout


def test_a_polling_sensor_has_to_cover_the_asset(sandbox: PeakaSandbox, tmp_path: Path) -> None:
    """In a run from a code location, an asset that a polling sensor covers is left to it, and the log names the sensor.

    Any other is refused before anything is asked of Peaka, in words that say what to add.
    """
    said = materialized(sandbox, tmp_path, "polled,forgotten")

    assert "How it ends is recorded by polling sensor 'watch', when that is switched on." in said
    assert (
        "Asset forgotten would not be waited for (wait=False), and no polling sensor of this code location covers it"
    ) in said
    assert "Add build_peaka_polling_sensor with this asset to the definitions" in said
    posts = [request.path for request in sandbox.requests if request.method == "POST"]
    assert [sandbox.caches[TABLE] in path for path in posts] == [True]


def test_a_polling_sensor_has_to_cover_a_query_s_asset_too(sandbox: PeakaSandbox, tmp_path: Path) -> None:
    """In the same words, and nothing is triggered."""
    said = materialized(sandbox, tmp_path, "forgotten_query")

    assert "Asset forgotten_query would not be waited for (wait=False), and no polling sensor" in said
    assert sandbox.requests == []


def test_an_asset_that_its_step_has_to_produce_is_refused(sandbox: PeakaSandbox) -> None:
    """Dagster would materialize it by itself at the end of the step: nothing is triggered, and the spec is named."""

    @dg.multi_asset(specs=[dg.AssetSpec("t", metadata=BOTH["t"])])
    def caches(context: dg.AssetExecutionContext, peaka: PeakaResource) -> Any:
        yield from peaka.sync_and_poll(context)

    result = run_of(caches, peaka_for(sandbox))

    assert "Asset t cannot be left to a polling sensor (wait=False)" in failure_of(result).description
    assert "skippable=True" in failure_of(result).description
    assert recorded(result) == []
    assert sandbox.requests == []
