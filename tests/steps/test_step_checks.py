"""Checks that the sync's own step evaluates: `checks=` of the factories."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaConfigError, PeakaResource, build_peaka_cache_asset, build_peaka_cache_assets
from dagster_peaka import peaka_cache_assets as decorated
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import failure_of, peaka_for, run_of, triggers

DAY = timedelta(days=1)
ALL: Any = {"last_sync_succeeded": True, "columns_unchanged": True, "max_age": DAY, "max_rows_dropped": 10}
NAMES = {"last_sync_succeeded", "columns_unchanged", "not_stale", "rows_not_dropped"}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that remembers the runs of one test."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def verdicts(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], bool]:
    """Whether each check that was evaluated has passed, by table and check."""
    return {
        (each.asset_key.path[-1], each.check_name): each.passed
        for each in result.get_asset_check_evaluations()
    }


def shared(sandbox: PeakaSandbox, checks: Any, **more: Any) -> dg.AssetsDefinition:
    """The caches t and u, from a snapshot, in one step."""
    project = peaka_for(sandbox).fetch_project("ops.public.*")
    (assets,) = build_peaka_cache_assets(
        project, step_per="project", row_count="query", checks=checks, **more
    )
    return assets


def test_one_failed_cache_turns_no_check_of_another_red(sandbox: PeakaSandbox) -> None:
    """Every check is evaluated by the step of the sync and before its failure; nothing waits for another step."""
    assets = shared(sandbox, ALL)
    sandbox.plan("ops.public.u", fail="no disk")

    result = run_of(assets, peaka_for(sandbox))

    assert not result.success
    assert {name for table, name in verdicts(result) if table == "t"} == NAMES
    assert all(passed for (table, _), passed in verdicts(result).items() if table == "t")
    assert verdicts(result)["u", "last_sync_succeeded"] is False
    assert verdicts(result)["u", "not_stale"] is True  # by what Peaka shows
    assert {event.step_key for event in result.all_events if event.is_step_event} == {assets.op.name}


@pytest.mark.parametrize("step_per", ["cache", "catalog", "project"])
def test_checks_cost_no_step(sandbox: PeakaSandbox, step_per: str) -> None:
    """The same checks whatever the steps are."""
    project = peaka_for(sandbox).fetch_project("ops.public.*")
    assets = build_peaka_cache_assets(project, step_per=step_per, row_count="query", checks=ALL)

    assert all({spec.name for spec in each.check_specs} == NAMES for each in assets)
    result = dg.materialize(assets, resources={"peaka": peaka_for(sandbox)})
    assert verdicts(result) == {(table, name): True for table in "tu" for name in NAMES}


def test_a_single_cache_takes_checks_too(sandbox: PeakaSandbox, instance: dg.DagsterInstance) -> None:
    """What blocks fails the step, after the materialization: without counts, rows_not_dropped does not pass."""
    asset = build_peaka_cache_asset(table="ops.public.t", checks={"max_rows_dropped": 10, "blocking": True})
    assert run_of(asset, peaka_for(sandbox), instance=instance).success

    @dg.asset(deps=[asset])
    def report() -> None:
        pass

    result = dg.materialize(
        [asset, report], resources={"peaka": peaka_for(sandbox)}, instance=instance, raise_on_error=False
    )

    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.check_name, evaluation.passed) == ("rows_not_dropped", False)
    assert evaluation.severity is dg.AssetCheckSeverity.ERROR
    assert result.asset_materializations_for_node(asset.op.name)
    assert not result.asset_materializations_for_node("report")


def test_a_body_of_ones_own_evaluates_them(sandbox: PeakaSandbox) -> None:
    """They come out of sync_and_poll."""

    @decorated(peaka_for(sandbox).fetch_project("ops.public.t"), checks={"max_age": DAY})
    def mine(context: dg.AssetExecutionContext, peaka: PeakaResource) -> Iterator[Any]:
        yield from peaka.sync_and_poll(context)

    assert verdicts(run_of(mine, peaka_for(sandbox))) == {("t", "not_stale"): True}


def test_checks_alone_trigger_nothing(sandbox: PeakaSandbox, instance: dg.DagsterInstance) -> None:
    """A run of some checks evaluates these, by one poll, and syncs nothing."""
    assets = shared(sandbox, ALL)
    assert run_of(assets, peaka_for(sandbox), instance=instance).success
    sandbox.clear_requests()

    result = dg.materialize(
        [assets],
        selection=dg.AssetSelection.checks(
            *(
                dg.AssetCheckKey(key, name)
                for key in assets.keys
                for name in ("not_stale", "rows_not_dropped")
            )
        ),
        resources={"peaka": peaka_for(sandbox)},
        instance=instance,
    )

    assert set(verdicts(result)) == {
        (table, name) for table in "tu" for name in ("not_stale", "rows_not_dropped")
    }
    assert [request.operation for request in sandbox.requests] == ["getCacheStatusByCatalog"]
    assert triggers(sandbox) == 0


def test_the_step_compares_its_own_materialization(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """rows_not_dropped sees the count that this very step has recorded."""
    assets = shared(sandbox, {"max_rows_dropped": 0})
    for said in ("no earlier materialization", "3 rows before, 3 now"):
        result = run_of(assets, peaka_for(sandbox), instance=instance)
        assert said in (
            next(
                each.description or ""
                for each in result.get_asset_check_evaluations()
                if each.asset_key.path[-1] == "t"
            )
        )


def test_where_peaka_is_away_the_failure_says_it_once(sandbox: PeakaSandbox) -> None:
    """A check that nothing could be read for says nothing: Dagster shows it as not executed, with its step."""
    assets = shared(sandbox, ALL)
    peaka = peaka_for(sandbox, outage_tolerance=0.2)
    sandbox.fault(times=None, status=503)

    result = run_of(assets, peaka)

    assert {name for _, name in verdicts(result)} <= {"rows_not_dropped"}
    assert "503" in failure_of(result).description


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ({"max_age": 3600}, "max_age must be a datetime.timedelta"),
        ({"max_agee": DAY}, "checks has no 'max_agee'. Near matches: max_age"),
        ({"max_rows_dropped": 100}, "max_rows_dropped must be a percentage"),
        ({"blocking": True}, "No check is chosen"),
        ({"columns_unchanged": True}, "columns of a snapshot"),
        (["max_age"], "checks must be a dictionary"),
    ],
)
def test_checks_that_make_no_sense_are_refused(checks: Any, said: str) -> None:
    """Where they are declared, by name."""
    with pytest.raises(PeakaConfigError) as refused:
        build_peaka_cache_asset(table="a.b.c", checks=checks)
    assert said in str(refused.value)
