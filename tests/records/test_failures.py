"""Guarantee 5: a sync that fails says why, in words that suffice, and cancels nothing."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaResource, PeakaSyncError, build_peaka_cache_asset
from dagster_peaka.api.models import CacheExecution, SyncMode
from dagster_peaka.caches.names import SyncTarget
from dagster_peaka.records.failures import sync_error
from dagster_peaka.sandbox import PeakaSandbox
from dagster_peaka.sync.outcome import Origin, Result, Trouble
from dagster_peaka.sync.timing import SyncRules
from tests.fleets import fleet
from tests.materializing import (
    Clock,
    Failed,
    acting_when,
    clock_of_syncs,
    failure_of,
    is_followed,
    peaka_for,
    run_of,
    triggers,
)

TABLE = "ops.public.t"


@pytest.fixture(autouse=True)
def nothing_is_cancelled(sandbox: PeakaSandbox) -> Iterator[None]:
    """No failure of any kind sends a cancel."""
    yield
    assert [request for request in sandbox.requests if "cancel" in (request.operation or "").lower()] == []


def failed(peaka: PeakaResource, asset: Mapping[str, Any] | None = None, *, retries: int = 0) -> Failed:
    """How the materialization of one cache failed, by default that of `ops.public.t`."""
    asset = {"table": TABLE} if asset is None else asset
    policy = dg.RetryPolicy(max_retries=retries) if retries else None
    return failure_of(run_of(build_peaka_cache_asset(**asset, retry_policy=policy), peaka))


def shown(sandbox: PeakaSandbox) -> str:
    """The cache as every message about it begins."""
    return f"Peaka cache {TABLE} ({sandbox.caches[TABLE]}): "


def newest(sandbox: PeakaSandbox) -> str:
    """The id of the newest execution of the cache."""
    return sandbox.executions(TABLE)[-1].id


@contextmanager
def once_followed(sandbox: PeakaSandbox, act: Callable[[], object]) -> Generator[None, None, None]:
    """Hold the next execution, and act when the step has seen it run."""
    sandbox.plan(TABLE, hold=True)
    with acting_when(lambda: follows(sandbox), act):
        yield


def follows(sandbox: PeakaSandbox) -> bool:
    """Whether the step has seen what its trigger started."""
    return triggers(sandbox) > 0 and is_followed(sandbox)


def put_forward(clock: Clock, seconds: float) -> None:
    """Let so many seconds pass."""
    clock.ahead += seconds


# What Peaka says about the execution


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"message": "the disk is full", "code": 7}, "the disk is full"),
        ("connection reset by ops-db", "connection reset by ops-db"),
        ({"cause": {"message": "no such column: v"}}, "no such column: v"),
        ({"attempts": 3}, '{"attempts": 3}'),
    ],
)
def test_a_failed_execution_fails_the_step_with_peakas_reason(
    sandbox: PeakaSandbox, error: dict[str, Any] | str, reason: str
) -> None:
    """Cache, execution, state, reason and advice are in the description, whatever the shape of Peaka's error."""
    sandbox.plan(TABLE, fail=error)

    failure = failed(peaka_for(sandbox))

    execution = newest(sandbox)
    assert failure.description == (
        f"{shown(sandbox)}incremental update execution {execution} FAILED. Peaka says: {reason}. Look at the cache "
        "and its source in Peaka, then materialize again."
    )
    assert failure.metadata == {
        "peaka/cache": f"{TABLE} ({sandbox.caches[TABLE]})",
        "peaka/execution_id": execution,
        "peaka/state": "FAILED",
    }


def test_a_reason_of_any_size_is_cut(sandbox: PeakaSandbox) -> None:
    """Peaka's words take 4 kB at most, and the cut is marked."""
    sandbox.plan(TABLE, fail={"message": "no! " * 100_000})

    failure = failed(peaka_for(sandbox))

    assert 4_000 < len(failure.description) < 4_500
    assert " … (cut short)" in failure.description
    assert failure.description.endswith("then materialize again.")


def test_an_execution_without_a_reason_has_none_made_up(sandbox: PeakaSandbox) -> None:
    """Where Peaka gives no reason, the message goes on without one."""
    sandbox.behaviour.error_shape = "null"
    sandbox.plan(TABLE, fail="lost on the way")

    description = failed(peaka_for(sandbox)).description

    assert f"execution {newest(sandbox)} FAILED. Look at the cache" in description


@pytest.mark.parametrize(
    ("mode", "kept"),
    [("incremental", "keeps the rows that were synced before"), ("full_refresh", "keeps its old data")],
)
def test_an_execution_that_a_stranger_cancelled_fails_the_step(
    sandbox: PeakaSandbox, mode: Any, kept: str
) -> None:
    """The message says that it was cancelled in Peaka, and what the cache holds now."""
    sandbox.behaviour.full_refresh_gap = 0.0
    with once_followed(sandbox, lambda: sandbox.cancel(TABLE, mode)):
        description = failed(peaka_for(sandbox), {"table": TABLE, "mode": mode}).description

    assert f"execution {newest(sandbox)} was CANCELLED" in description
    assert f"Somebody cancelled it in Peaka; the cache {kept}." in description


def test_a_status_that_ends_unknown_is_no_success(sandbox: PeakaSandbox) -> None:
    """An execution that has an end and a status never seen before fails the step after start_timeout."""
    sandbox.plan(TABLE, status="TIMED_OUT", duration=0.1)

    failure = failed(peaka_for(sandbox, start_timeout=0.3))

    assert (
        f"{shown(sandbox)}incremental update execution {newest(sandbox)} has ended in state 'TIMED_OUT', which this "
        "package does not know as a success."
    ) in failure.description
    assert failure.metadata["peaka/state"] == "TIMED_OUT"


def test_a_status_that_stays_unknown_fails_after_poll_timeout(sandbox: PeakaSandbox) -> None:
    """An execution without an end is waited for, whatever its status says, and no longer than poll_timeout."""
    sandbox.plan(TABLE, status="PENDING", hold=True)

    with clock_of_syncs() as clock, acting_when(lambda: follows(sandbox), lambda: put_forward(clock, 900)):
        description = failed(peaka_for(sandbox, poll_timeout=900)).description

    assert (
        "the incremental update has not ended within 900 s (poll_timeout); execution "
        f"{newest(sandbox)} was last seen PENDING"
    ) in description
    assert "It may still run; nothing was cancelled." in description


def test_a_sync_that_takes_too_long_fails_and_leaves_it_running(sandbox: PeakaSandbox) -> None:
    """After poll_timeout the step fails; the execution goes on, and the message names the setting."""
    sandbox.plan(TABLE, hold=True)

    with clock_of_syncs() as clock, acting_when(lambda: follows(sandbox), lambda: put_forward(clock, 900)):
        description = failed(peaka_for(sandbox, poll_timeout=900)).description

    assert f"execution {newest(sandbox)} was last seen RUNNING" in description
    assert "It may still run" in description
    assert "raise poll_timeout if it needs that long." in description
    assert sandbox.executions(TABLE)[-1].status == "RUNNING"


# What never begins


def test_an_execution_that_never_appears_fails_after_two_triggers(sandbox: PeakaSandbox) -> None:
    """The message says that it was triggered twice, that one may start late, and which setting to raise."""
    sandbox.behaviour.visible_after = 1_000

    failure = failed(peaka_for(sandbox, start_timeout=0.2))

    assert failure.description == (
        f"{shown(sandbox)}an incremental update was triggered twice, and no new execution appeared within 0.2 s "
        "(start_timeout) of quiet. An execution may still start late: look at the cache in Peaka before you "
        "materialize again, and raise start_timeout if its queue is long."
    )
    posts = [request for request in sandbox.requests if request.operation == "incrementalUpdateCache"]
    assert len(posts) == 2


def test_a_trigger_that_is_refused_twice_fails_with_peakas_words(sandbox: PeakaSandbox) -> None:
    """A 4xx is asked for once more, and then is the reason."""
    sandbox.fault("incrementalUpdateCache", times=None, status=400, body={"message": "the table has no key"})

    description = failed(peaka_for(sandbox, start_timeout=0.2)).description

    assert description.startswith(f"{shown(sandbox)}Peaka refused twice to start an incremental update.")
    assert "the table has no key." in description
    assert "Check in Peaka whether the table supports it" in description


def test_a_trigger_that_is_never_taken_fails_after_outage_tolerance(sandbox: PeakaSandbox) -> None:
    """Endless 429s end as a failure that says that nothing was started."""
    sandbox.fault("incrementalUpdateCache", times=None, status=429, headers={"Retry-After": "0"})

    description = failed(peaka_for(sandbox, outage_tolerance=0.3)).description

    assert (
        "an incremental update could not be triggered for 0.3 s (outage_tolerance); none was started"
        in description
    )
    assert len(sandbox.executions(TABLE)) == 1


def test_what_runs_already_fails_the_step_where_that_is_wanted(sandbox: PeakaSandbox) -> None:
    """With on_running="fail" nothing is triggered; the message names the execution and the other choices."""
    sandbox.plan(TABLE, hold=True)
    stranger = sandbox.start_execution(TABLE)

    failure = failed(peaka_for(sandbox, on_running="fail"))

    assert failure.description == (
        f"{shown(sandbox)}incremental update execution {stranger} was already there (RUNNING), and on_running is "
        "'fail'; nothing was triggered. Wait for it to end, or set on_running to 'queue' or 'attach'."
    )
    assert len(sandbox.executions(TABLE)) == 2


# What is not there, or not allowed


def test_a_cache_that_is_deleted_on_the_way_fails_the_step(sandbox: PeakaSandbox) -> None:
    """The message names the execution that was followed, and that the cache is gone."""
    cache = sandbox.caches[TABLE]
    with once_followed(sandbox, lambda: sandbox.delete_cache(TABLE)):
        description = failed(peaka_for(sandbox)).description

    assert description.startswith(f"Peaka cache {TABLE} ({cache}): the cache was deleted while execution ")
    assert description.endswith("was RUNNING. Create it again in Peaka, if it is still wanted.")


def test_an_unknown_cache_id_says_what_to_check(sandbox: PeakaSandbox) -> None:
    """An id that the project does not have is named, with the settings that may be wrong."""
    failure = failed(peaka_for(sandbox), {"cache_id": "f00", "key": "orders"})

    assert failure.description == (
        "Peaka cache orders (f00): the project has no such cache. Check the cache's id or table, and project_id; "
        "fetch the snapshot again if the cache was created anew."
    )


@pytest.mark.parametrize("table", ["ops.public.tt", "opps.public.t", "ops.publik.t"])
def test_an_unknown_table_is_named_with_what_is_near(sandbox: PeakaSandbox, table: str) -> None:
    """A table, catalog or schema that is misspelt: the message names it and the project."""
    description = failed(peaka_for(sandbox), {"table": table}).description

    assert table in description
    assert "sandbox" in description
    assert [request for request in sandbox.requests if request.method == "POST"] == []


def test_a_misspelt_table_is_answered_with_near_matches(sandbox: PeakaSandbox) -> None:
    """The caches whose names are near are listed."""
    assert "Near matches: ops.public.t" in failed(peaka_for(sandbox), {"table": "ops.public.tt"}).description


@pytest.mark.parametrize("by", ["table", "cache_id"])
def test_a_wrong_key_says_which_setting_to_check(sandbox: PeakaSandbox, by: str) -> None:
    """A 401 names the cache, api_key and zone or base_url, and not the key."""
    address = TABLE if by == "table" else sandbox.caches[TABLE]

    description = failed(peaka_for(sandbox, api_key="key-of-another-zone"), {by: address}).description

    assert address in description
    assert "api_key" in description
    assert "base_url" in description
    assert "key-of-another-zone" not in description


def test_an_empty_key_says_which_setting_to_set(sandbox: PeakaSandbox) -> None:
    """An api_key that is empty, as an unset variable of a shell makes it, is a failure that names the setting."""
    assert failed(peaka_for(sandbox, api_key=" ")).description.startswith("api_key is empty")


# A server that is away


@pytest.mark.parametrize("by", ["table", "cache_id"])
def test_a_server_that_is_away_from_the_start_fails_after_outage_tolerance(
    sandbox: PeakaSandbox, by: str
) -> None:
    """The message names the cache and the address, and says that nothing was triggered."""
    address = TABLE if by == "table" else sandbox.caches[TABLE]
    sandbox.stop()

    description = failed(peaka_for(sandbox, outage_tolerance=0.3), {by: address}).description

    assert address in description
    assert "nothing was triggered" in description
    assert "Could not connect to Peaka at 127.0.0.1:" in description


def test_a_server_that_stays_away_fails_the_step_and_names_what_may_run(sandbox: PeakaSandbox) -> None:
    """Unreadable for longer than outage_tolerance: the execution is named, and that it may still run."""
    with once_followed(sandbox, sandbox.stop):
        failure = failed(peaka_for(sandbox, outage_tolerance=0.4))

    execution = newest(sandbox)
    assert failure.description.startswith(
        f"{shown(sandbox)}the status could not be read for 0.4 s (outage_tolerance); execution {execution} was last "
        "seen RUNNING. The last try: Could not connect"
    )
    assert failure.description.endswith(
        "It may still run; nothing was cancelled. Materialize again once Peaka answers."
    )
    assert failure.metadata["peaka/execution_id"] == execution
    assert sandbox.executions(TABLE)[-1].status == "RUNNING"


def test_a_short_outage_is_no_failure(sandbox: PeakaSandbox) -> None:
    """Away for less than outage_tolerance: one trigger, and the materialization names its execution."""

    def away_for_a_while() -> None:
        sandbox.stop()
        sandbox.release(TABLE)
        sandbox.wait_idle()
        sandbox.start()

    asset = build_peaka_cache_asset(table=TABLE)

    with once_followed(sandbox, away_for_a_while):
        result = run_of(asset, peaka_for(sandbox, outage_tolerance=20))

    (materialization,) = result.asset_materializations_for_node(asset.op.name)
    (ours,) = [execution for execution in sandbox.executions(TABLE) if execution.origin == "api"]
    assert materialization.metadata["peaka/execution_id"].value == ours.id


# Retries


def test_the_retry_policy_stays_on_for_what_may_pass(sandbox: PeakaSandbox) -> None:
    """A failed execution is retried as the asset's retry policy says, each time with a trigger of its own."""
    sandbox.plan(TABLE, fail="the source is locked", times=None)

    assert failed(peaka_for(sandbox), retries=2).tries == 3
    assert [execution.origin for execution in sandbox.executions(TABLE)] == ["creation", "api", "api", "api"]


@pytest.mark.parametrize(
    ("settings", "asset"),
    [
        ({}, {"cache_id": "f00"}),
        ({}, {"table": "ops.public.tt"}),
        ({"api_key": "wrong"}, {"table": TABLE}),
        ({"api_key": " "}, {"table": TABLE}),
    ],
)
def test_the_retry_policy_stops_for_what_cannot_pass(
    sandbox: PeakaSandbox, settings: dict[str, Any], asset: dict[str, Any]
) -> None:
    """A missing cache and a wrong key fail at once: no retry helps against them."""
    assert failed(peaka_for(sandbox, **settings), asset, retries=2).tries == 1


# Many caches in one step


def test_a_step_names_each_cache_that_failed_and_records_the_others(sandbox: PeakaSandbox) -> None:
    """What succeeded is recorded; the description lists each failure with its reason."""
    sandbox.plan(TABLE, fail="the source is locked")

    @dg.multi_asset(
        specs=[
            dg.AssetSpec(key, metadata={"peaka/table": f"ops.public.{key}"}) for key in ("t", "u", "missing")
        ]
    )
    def caches(context: dg.AssetExecutionContext, peaka: PeakaResource) -> Iterator[Any]:
        yield from peaka.sync_and_poll(context)

    result = run_of(caches, peaka_for(sandbox))

    description = failure_of(result).description
    assert description.startswith("2 caches failed:\n- ")
    assert f"{shown(sandbox)}incremental update execution {newest(sandbox)} FAILED" in description
    assert "no cache of table ops.public.missing" in description
    (recorded,) = result.asset_materializations_for_node("caches")
    assert recorded.asset_key == dg.AssetKey("u")


def test_the_failures_of_a_fleet_fit_on_a_screen(sandbox: PeakaSandbox) -> None:
    """However many caches fail, with however long reasons, the description is bounded and names all of them."""
    names = [f"cache{number}" for number in range(12)]

    @dg.multi_asset(specs=[dg.AssetSpec(name, metadata={"peaka/cache_id": name}) for name in names])
    def caches(context: dg.AssetExecutionContext, peaka: PeakaResource) -> Iterator[Any]:
        yield from peaka.sync_and_poll(context)

    sandbox.fault("getCacheStatus", times=None, status=403, body={"message": "no! " * 2_000})
    sandbox.fault("listCacheStatuses", times=None, status=403, body={"message": "no! " * 2_000})

    description = failure_of(run_of(caches, peaka_for(sandbox))).description

    assert description.startswith("12 caches failed:")
    assert len(description) < 25_000
    assert all(name in description for name in names)
    assert "with their reasons in the log" in description


def test_what_to_do_about_many_failures_alike_is_said_once(sandbox: PeakaSandbox) -> None:
    """Five tables without a cache are five short lines and one piece of advice; another failure keeps its own."""
    names = [f"lost{number}" for number in range(5)]
    sandbox.plan(TABLE, fail="the source is locked")
    assets = fleet({name: {"peaka/table": f"ops.public.{name}"} for name in (*names, "t")})

    lines = failure_of(run_of(assets, peaka_for(sandbox))).description.splitlines()

    assert lines[0] == "6 caches failed:"
    for line, name in zip(lines[1:6], names, strict=True):
        assert line.startswith(f"- Project sandbox has no cache of table ops.public.{name}. Near matches: ")
        assert "Create the cache" not in line
    assert lines[6] == ("  What to do about each of these: Create the cache in Peaka, or correct the name.")
    assert lines[7].startswith(f"- {shown(sandbox)}incremental update execution {newest(sandbox)} FAILED.")
    assert lines[7].endswith("Look at the cache and its source in Peaka, then materialize again.")
    assert len(lines) == 8


def test_an_execution_that_showed_late_is_not_said_to_have_stopped_the_trigger() -> None:
    """Where on_running is 'fail' and the trigger had been sent already, the message does not deny it."""
    running = CacheExecution(id="e1", status="RUNNING")
    result = Result(running, Origin.TRIGGERED, 1, Trouble.ALREADY_RUNNING)

    error = sync_error(
        result, target=SyncTarget("c"), mode=SyncMode.INCREMENTAL, rules=SyncRules(on_running="fail")
    )

    assert "nothing was triggered" not in str(error)
    assert "a trigger had been sent before it showed, and may start another" in str(error)


def test_an_asset_without_a_cache_is_told_what_its_spec_needs(sandbox: PeakaSandbox) -> None:
    """A body of one's own around an asset that names no cache: the failure says which metadata is missing."""

    @dg.multi_asset(specs=[dg.AssetSpec("orders")])
    def caches(context: dg.AssetExecutionContext, peaka: PeakaResource) -> Iterator[Any]:
        yield from peaka.sync_and_poll(context)

    description = failure_of(run_of(caches, peaka_for(sandbox))).description

    assert description == (
        "Asset orders names no Peaka cache: its spec's metadata needs 'peaka/cache_id' or 'peaka/table'."
    )


# Beside Dagster


def test_a_sync_from_python_raises_the_same_words(sandbox: PeakaSandbox) -> None:
    """`PeakaResource.sync` raises an error that carries the cache, the execution and its state."""
    sandbox.plan(TABLE, fail="the source is locked")

    with pytest.raises(PeakaSyncError, match="FAILED. Peaka says: the source is locked.") as raised:
        peaka_for(sandbox).sync(TABLE)

    assert raised.value.cache == f"{TABLE} ({sandbox.caches[TABLE]})"
    assert raised.value.execution_id == newest(sandbox)
    assert raised.value.state == "FAILED"
    assert not raised.value.permanent
