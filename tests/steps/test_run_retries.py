"""What no retry can mend stops the retries of the step and of the run; what may pass leaves them on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.fleets import fleet
from tests.materializing import failure_of, peaka_for, run_of

MISSING = {"peaka/table": "ops.public.missing"}
LOCKED = {"peaka/table": "ops.public.t"}
GOOD = {"peaka/table": "ops.public.u"}
MAX_RETRIES = "dagster/max_retries"
WILL_RETRY = "dagster/will_retry"
"""The tag in which Dagster itself notes, when a run has failed, whether its daemon will retry it."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance on which Dagster retries each failed run twice."""
    settings = {"run_retries": {"enabled": True, "max_retries": 2}}
    with dg.DagsterInstance.ephemeral(settings=settings) as instance:
        yield instance


@pytest.fixture(autouse=True)
def locked(sandbox: PeakaSandbox) -> None:
    """Syncs of `ops.public.t` fail, which may pass."""
    sandbox.plan("ops.public.t", fail="the source is locked", times=None)


def failed_run(
    sandbox: PeakaSandbox,
    instance: dg.DagsterInstance,
    assets: Sequence[dg.AssetsDefinition],
    tags: Mapping[str, str] | None = None,
    **settings: Any,
) -> dict[str, str]:
    """The tags of a run of these assets, which fails."""
    result = dg.materialize(
        assets,
        resources={"peaka": peaka_for(sandbox, **settings)},
        instance=instance,
        tags=tags,
        raise_on_error=False,
    )
    assert not result.success
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return dict(run.tags)


@dg.asset(name="b_other")
def broken() -> None:
    """An asset of another kind that fails."""
    raise RuntimeError("the disk is full")


# One step


@pytest.mark.parametrize(
    ("caches", "settings", "retried"),
    [
        ([LOCKED], {}, True),
        ([MISSING], {}, False),
        ([GOOD], {"api_key": "wrong"}, False),
        ([GOOD], {"api_key": " "}, False),
        ([{}], {}, False),
        ([{**GOOD, "peaka/mode": "full"}], {}, False),
        ([MISSING, LOCKED], {}, True),
        ([MISSING, GOOD], {}, False),
        ([MISSING, {"peaka/cache_id": "f00"}, GOOD], {}, False),
    ],
)
def test_a_run_is_retried_unless_all_its_failures_are_permanent(
    sandbox: PeakaSandbox,
    instance: dg.DagsterInstance,
    caches: Sequence[Mapping[str, str]],
    settings: Mapping[str, Any],
    retried: bool,
) -> None:
    """Dagster's own verdict when the run has failed; the tag that decides it is set only where none is to come."""
    assets = fleet({f"a{number}": each for number, each in enumerate(caches)})

    tags = failed_run(sandbox, instance, [assets], **settings)

    assert tags[WILL_RETRY] == ("true" if retried else "false")
    assert tags.get(MAX_RETRIES) == (None if retried else "0")


def test_a_step_of_permanent_failures_says_so(sandbox: PeakaSandbox, instance: dg.DagsterInstance) -> None:
    """The failure's metadata tells other steps, and readers, that no retry helps; the step is tried once."""
    assets = fleet({"a": MISSING, "b": {"peaka/cache_id": "f00"}}, retry_policy=dg.RetryPolicy(max_retries=2))

    failure = failure_of(run_of(assets, peaka_for(sandbox), instance=instance))

    assert failure.metadata == {"peaka/permanent": True}
    assert failure.tries == 1


@pytest.mark.parametrize("of_job", [False, True])
def test_the_failure_after_the_last_retry_begins_with_the_reason(sandbox: PeakaSandbox, of_job: bool) -> None:
    """What Dagster shows first is why the sync failed, and not that the retries of a policy are used up."""
    policy = dg.RetryPolicy(max_retries=2)
    asset = fleet({"a": LOCKED}, retry_policy=None if of_job else policy)
    job = dg.define_asset_job("syncs", op_retry_policy=policy if of_job else None)
    defs = dg.Definitions(assets=[asset], jobs=[job], resources={"peaka": peaka_for(sandbox)})

    result = defs.resolve_job_def("syncs").execute_in_process(raise_on_error=False)

    (failed,) = [event for event in result.all_events if event.is_step_failure]
    error = failed.step_failure_data.error
    assert error is not None
    assert error.message.startswith("dagster._core.definitions.events.Failure: Peaka cache ops.public.t (")
    assert "the source is locked" in error.message
    assert error.cause is None
    assert failure_of(result).tries == 3
    assert "Exceeded max_retries" not in str(failed.event_specific_data)


# A run of many steps


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("before", [None, "1", "7"])
def test_a_step_that_may_pass_keeps_the_runs_retries(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance, names: tuple[str, str], before: str | None
) -> None:
    """Whichever of the two fails first, the run is retried, as often as it was to be."""
    assets = [fleet({f"{names[0]}1": MISSING}, name=names[0]), fleet({f"{names[1]}1": LOCKED}, name=names[1])]

    tags = failed_run(sandbox, instance, assets, {} if before is None else {MAX_RETRIES: before})

    assert tags[WILL_RETRY] == "true"
    assert tags.get(MAX_RETRIES) in ((None, "2") if before is None else (before,))


def test_steps_that_are_all_beyond_help_stop_the_run(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """Two steps of permanent failures are not retried, nor is what was set before forgotten."""
    assets = [fleet({"a1": MISSING}, name="a"), fleet({"b1": {"peaka/cache_id": "f00"}}, name="b")]

    tags = failed_run(sandbox, instance, assets, {MAX_RETRIES: "7"})

    assert (tags[MAX_RETRIES], tags["peaka/max_retries_before"]) == ("0", "7")
    assert tags[WILL_RETRY] == "false"


def test_a_failure_of_another_kind_before_it_keeps_the_runs_retries(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """What failed in a step that has nothing to do with Peaka may pass."""
    tags = failed_run(sandbox, instance, [broken, fleet({"c1": MISSING}, name="c")])

    assert tags[WILL_RETRY] == "true"


def test_three_steps_of_which_the_middle_one_may_pass(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """A later permanent failure does not stop again what a transient one has brought back."""
    caches = {"a": MISSING, "b": LOCKED, "c": MISSING}
    assets = [fleet({f"{name}1": each}, name=name) for name, each in caches.items()]

    assert failed_run(sandbox, instance, assets)[WILL_RETRY] == "true"


# From run to run


def test_a_re_execution_has_its_own_retries(sandbox: PeakaSandbox, instance: dg.DagsterInstance) -> None:
    """A re-execution inherits the tags of the run before it; what that one stopped is on again."""
    first = failed_run(sandbox, instance, [fleet({"a": MISSING})], {MAX_RETRIES: "7"})
    inherited = {key: value for key, value in first.items() if key != WILL_RETRY}

    again = failed_run(sandbox, instance, [fleet({"a": LOCKED})], inherited)
    crashed = failed_run(sandbox, instance, [fleet({"a": GOOD}, name="a"), broken], inherited)
    still = failed_run(sandbox, instance, [fleet({"a": MISSING})], inherited)

    assert (again[MAX_RETRIES], again[WILL_RETRY]) == ("7", "true")
    assert (crashed[MAX_RETRIES], crashed[WILL_RETRY]) == ("7", "true")
    assert (still[MAX_RETRIES], still[WILL_RETRY]) == ("0", "false")


def test_retries_that_a_user_switched_off_stay_off(
    sandbox: PeakaSandbox, instance: dg.DagsterInstance
) -> None:
    """A run that was never to be retried is not, whatever fails in it."""
    tags = failed_run(sandbox, instance, [fleet({"a": LOCKED})], {MAX_RETRIES: "0"})

    assert tags[MAX_RETRIES] == "0"


def test_what_goes_wrong_with_the_tags_hides_no_failure(
    sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the run cannot be written to, the step still fails of its own reason."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("the database is read-only")

    with dg.DagsterInstance.ephemeral() as instance:
        monkeypatch.setattr(instance, "add_run_tags", refuse)
        result = run_of(fleet({"a": MISSING}), peaka_for(sandbox), instance=instance)

    assert "no cache of table ops.public.missing" in failure_of(result).description
