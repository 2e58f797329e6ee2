"""The retries of a whole run: off after errors that no retry can mend, on again when something else went wrong too.

A step's own retry policy is stopped by its ``Failure``. The daemon's retries of the run are not: they end at the run's
tag ``dagster/max_retries``, which is read when the run has failed. A run may have many steps, so what other steps of
it have failed of counts as well. All of this is done as well as it can be: two steps that fail in the same moment may
not see each other, and a step of another kind that fails later finds the run's retries off.
"""

from collections.abc import Mapping

import dagster as dg

from dagster_peaka.records.failures import PERMANENT_METADATA

MAX_RETRIES_TAG = "dagster/max_retries"
"""Dagster's own tag for how often a run is retried."""

STOPPED_IN_TAG = "peaka/retries_stopped_in"
"""The tag that names the run whose retries were stopped here; re-executions inherit tags."""

BEFORE_TAG = "peaka/max_retries_before"
"""The tag that keeps what ``dagster/max_retries`` was before."""

DEFAULT = "default"
"""The value of the latter where the run had no such tag."""


def is_last_try(context: dg.AssetExecutionContext) -> bool:
    """Whether the step has a retry policy, its own or its job's, and no retry left."""
    policy = context.job_def.get_retry_policy_for_handle(context.op_execution_context.node_handle)
    return policy is not None and context.op_execution_context.retry_number >= policy.max_retries


def free_inherited_retries(context: dg.AssetExecutionContext) -> None:
    """At the begin of a step: what stopped the retries of the run before this one does not stop this one's."""
    run_id = context.run.run_id
    if context.run.tags.get(STOPPED_IN_TAG, run_id) == run_id:
        return
    run = context.instance.get_run_by_id(run_id)  # an earlier step may have stopped them anew
    if run is not None and run.tags.get(STOPPED_IN_TAG) != run_id:
        settle_run_retries(context, permanent=False)


def settle_run_retries(context: dg.AssetExecutionContext, *, permanent: bool) -> None:
    """At the end of a step that fails: stop the retries of its run, or bring them back.

    Args:
        permanent: whether no retry can help against any of the step's failures.
    """
    try:
        tags = _new_tags(context, permanent=permanent)
        if tags:
            context.instance.add_run_tags(context.run.run_id, tags)
    except Exception:
        # Whatever is wrong here must not hide why the step fails.
        context.log.warning("The retries of this run could not be set.", exc_info=True)


def _new_tags(context: dg.AssetExecutionContext, *, permanent: bool) -> dict[str, str]:
    run_id = context.run.run_id
    run = context.instance.get_run_by_id(run_id)  # the context's own is as it was when the step began
    tags: Mapping[str, str] = run.tags if run is not None else {}
    off, stopped_in = tags.get(MAX_RETRIES_TAG) == "0", tags.get(STOPPED_IN_TAG)
    if permanent and not off:
        # Where another step has brought them back, its own failure may not be in the log yet.
        brought_back = stopped_in == run_id
        if brought_back or _may_pass(context):
            return {}
        before = tags.get(MAX_RETRIES_TAG, DEFAULT)
        return {MAX_RETRIES_TAG: "0", BEFORE_TAG: before, STOPPED_IN_TAG: run_id}
    if not permanent and off and stopped_in:
        before = tags.get(BEFORE_TAG, DEFAULT)
        default = str(context.instance.run_retries_max_retries)
        return {MAX_RETRIES_TAG: default if before == DEFAULT else before}
    return {}


def _may_pass(context: dg.AssetExecutionContext) -> bool:
    """True when another step of the run has failed of something that a retry may mend."""
    events = context.instance.get_records_for_run(
        context.run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=1000
    )
    return any(not _is_permanent(record.event_log_entry.dagster_event) for record in events.records)


def _is_permanent(event: dg.DagsterEvent | None) -> bool:
    failure = event.step_failure_data.user_failure_data if event is not None else None
    return failure is not None and PERMANENT_METADATA in failure.metadata
