"""The check `last_sync_succeeded`: evaluated by the sync's own step, also when the sync fails."""

from typing import Any

import dagster as dg
import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.fleets import fleet, recorded
from tests.materializing import acting_when, failure_of, peaka_for, run_of, triggers

CHECK = "last_sync_succeeded"
BOTH = {"t": {"peaka/table": "ops.public.t"}, "u": {"peaka/table": "ops.public.u"}}


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, list[dg.AssetCheckEvaluation]]:
    """The evaluations of each asset's check in a run, in order."""
    found: dict[str, list[dg.AssetCheckEvaluation]] = {}
    for each in result.get_asset_check_evaluations():
        assert each.check_name == CHECK
        found.setdefault(each.asset_key.to_user_string(), []).append(each)
    return found


def verdicts(result: dg.ExecuteInProcessResult) -> dict[str, list[bool]]:
    """Whether each evaluation of each asset's check passed, in order."""
    return {key: [each.passed for each in several] for key, several in evaluations(result).items()}


def selected(
    sandbox: PeakaSandbox, selection: dg.AssetSelection, *, instance: dg.DagsterInstance | None = None
) -> dg.ExecuteInProcessResult:
    """A run of part of the step."""
    return dg.materialize(
        [fleet(BOTH, checks=True)],
        selection=selection,
        resources={"peaka": peaka_for(sandbox)},
        instance=instance,
        raise_on_error=False,
    )


# With the sync


def test_a_sync_that_succeeds_passes(sandbox: PeakaSandbox) -> None:
    """The check follows the materialization that it is about, and names its execution."""
    result = run_of(fleet(BOTH, checks=True), peaka_for(sandbox))

    (evaluation,) = evaluations(result)["t"]
    assert evaluation.passed
    materialized = {each.asset_key: each for each in result.asset_materializations_for_node("fleet")}
    assert {name: value.value for name, value in evaluation.metadata.items()} == {
        "peaka/cache_id": sandbox.caches["ops.public.t"],
        "peaka/execution_id": materialized[dg.AssetKey("t")].metadata["peaka/execution_id"].value,
        "peaka/mode": "incremental",
    }
    assert evaluation.target_materialization_data is not None
    assert evaluation.target_materialization_data.run_id == result.run_id


def test_a_sync_that_fails_does_not_pass_before_the_step_fails(sandbox: PeakaSandbox) -> None:
    """The description is the failure's own, severity is ERROR, and the other caches of the step pass."""
    sandbox.plan("ops.public.t", fail="the source is locked")

    result = run_of(fleet(BOTH, checks=True), peaka_for(sandbox))

    assert verdicts(result) == {"t": [False], "u": [True]}
    (evaluation,) = evaluations(result)["t"]
    assert evaluation.description == failure_of(result).description
    assert "Peaka says: the source is locked." in (evaluation.description or "")
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR
    execution = sandbox.executions("ops.public.t")[-1].id
    assert evaluation.metadata["peaka/execution_id"].value == execution


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"peaka/table": "ops.public.none"}, "no cache of table ops.public.none"),
        ({"peaka/table": "nowhere.public.t"}, "no catalog 'nowhere'"),
        ({"peaka/cache_id": "f00"}, "has no such cache"),
        ({"peaka/table": "ops.public.t", "peaka/mode": "full"}, "mode must be"),
        ({}, "names no Peaka cache"),
    ],
)
def test_a_sync_that_cannot_begin_is_not_told_of(
    sandbox: PeakaSandbox, metadata: dict[str, Any], words: str
) -> None:
    """A cache that is not found, or not even named, has no execution to tell of: the step's failure says why."""
    assets = fleet({"bad": metadata, "u": BOTH["u"]}, checks=True)

    result = run_of(assets, peaka_for(sandbox))

    assert verdicts(result) == {"u": [True]}
    assert words in failure_of(result).description
    assert recorded(result) == ["u"]


@pytest.mark.parametrize("settings", [{"api_key": "wrong"}, {"api_key": " "}])
def test_where_peaka_cannot_be_asked_the_check_says_nothing(
    sandbox: PeakaSandbox, settings: dict[str, Any]
) -> None:
    """No execution was seen, so nothing is known of the last sync: the step fails, and its check is not evaluated."""
    result = run_of(fleet(BOTH, checks=True), peaka_for(sandbox, **settings))

    assert not result.success
    assert verdicts(result) == {}


def test_an_outage_before_the_trigger_is_no_verdict_on_the_last_sync(sandbox: PeakaSandbox) -> None:
    """Nothing was triggered and nothing seen, whatever the last sync was."""
    sandbox.fault(times=None, status=503)

    result = run_of(fleet(BOTH, checks=True), peaka_for(sandbox, outage_tolerance=0.2))

    assert not result.success
    assert verdicts(result) == {}


def test_a_result_is_recorded_while_others_are_still_awaited(sandbox: PeakaSandbox) -> None:
    """Materialization and check of one cache are in the event log before the other's sync has ended."""
    sandbox.plan("ops.public.u", hold=True)
    key = dg.AssetKey("t")
    with dg.DagsterInstance.ephemeral() as instance:

        def t_is_recorded() -> bool:
            record = instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(key, CHECK))
            return record is not None and record.status.value == "SUCCEEDED"

        with acting_when(t_is_recorded, lambda: sandbox.release("ops.public.u")):
            result = selected(sandbox, dg.AssetSelection.all(), instance=instance)

    assert verdicts(result) == {"t": [True], "u": [True]}
    assert recorded(result) == ["t", "u"]


def test_a_step_retry_evaluates_what_it_repeats(sandbox: PeakaSandbox) -> None:
    """The check of the failed cache is evaluated again, that of the recorded one is not, and the step succeeds."""
    sandbox.plan("ops.public.u", fail="the source is locked")
    assets = fleet(BOTH, checks=True, retry_policy=dg.RetryPolicy(max_retries=1))

    result = run_of(assets, peaka_for(sandbox))

    assert result.success
    assert verdicts(result) == {"t": [True], "u": [False, True]}
    assert recorded(result) == ["t", "u"]
    assert triggers(sandbox) == 3


def test_an_asset_without_the_check_has_no_evaluation(sandbox: PeakaSandbox) -> None:
    """Only what is declared is evaluated."""
    assert verdicts(run_of(fleet(BOTH), peaka_for(sandbox))) == {}


def test_a_check_that_the_run_leaves_out_is_evaluated_all_the_same(sandbox: PeakaSandbox) -> None:
    """Re-execution from asset failure selects assets without checks that did not pass: they must not stay so."""
    result = selected(sandbox, dg.AssetSelection.assets("t").without_checks())

    assert verdicts(result) == {"t": [True]}
    assert recorded(result) == ["t"]


# Without a sync

T_ALONE = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("t"), CHECK))


def test_the_check_alone_tells_how_the_newest_sync_went(sandbox: PeakaSandbox) -> None:
    """A run of the check syncs nothing: it passes or not by what Peaka shows, whoever started that sync."""
    assert verdicts(selected(sandbox, T_ALONE)) == {"t": [True]}

    sandbox.plan("ops.public.t", fail="the source is locked")
    stranger = sandbox.start_execution("ops.public.t", mode="full_refresh")
    sandbox.wait_idle()
    sandbox.plan("ops.public.t", hold=True)
    sandbox.start_execution("ops.public.t")
    result = selected(sandbox, T_ALONE)

    (evaluation,) = evaluations(result)["t"]
    assert not evaluation.passed
    cache = sandbox.caches["ops.public.t"]
    assert evaluation.description == (
        f"Peaka cache {cache}: full refresh execution {stranger} has ended as FAILED. Peaka says: the source is locked."
    )
    assert result.success
    assert triggers(sandbox) == 0


def test_the_check_of_a_cache_that_was_never_synced_does_not_pass(sandbox: PeakaSandbox) -> None:
    """While the first sync still runs, nothing has succeeded yet."""
    sandbox.delete_cache("ops.public.t")
    sandbox.plan("ops.public.t", hold=True)
    sandbox.create_cache("ops.public.t")

    (evaluation,) = evaluations(selected(sandbox, T_ALONE))["t"]

    assert not evaluation.passed
    assert "has ended yet" in (evaluation.description or "")


def test_the_check_alone_says_nothing_where_peaka_does_not_answer(sandbox: PeakaSandbox) -> None:
    """An outage fails the step, which names the reason."""
    sandbox.fault("getCacheStatus", times=None, status=500)

    result = selected(sandbox, T_ALONE)

    assert verdicts(result) == {}
    assert "was answered with 500" in failure_of(result).description
