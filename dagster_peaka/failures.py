"""Why a sync failed, in words: the cache, the execution, its state, Peaka's own reason, and what to do now."""

from __future__ import annotations

from dagster_peaka.errors import PeakaSyncError, shortened
from dagster_peaka.models import CacheExecution, SyncMode
from dagster_peaka.sync import Origin, Result, SyncRules, Trouble

PERMANENT = frozenset({Trouble.GONE, Trouble.NOT_ALLOWED})
"""What no retry helps against; the key, the project or the cache has to change first."""


def sync_error(result: Result, *, cache: str, mode: SyncMode, rules: SyncRules) -> PeakaSyncError:
    """The exception for a sync that failed. ``cache`` is how the cache is shown: its name and id."""
    assert result.trouble is not None
    execution = result.execution
    said = (
        f" {_SOURCE.get(result.trouble, 'Peaka says')}: {shortened(result.reason)}" if result.reason else ""
    )
    headline = _headline(result, mode, rules)
    return PeakaSyncError(
        f"Peaka cache {cache}: {headline}.{said}{_separator(said)} {_advice(result, mode)}",
        cache=cache,
        execution_id=execution.id if execution else None,
        state=execution.status if execution else None,
        permanent=result.trouble in PERMANENT,
    )


_SOURCE = {
    Trouble.UNREADABLE: "The last try",
    Trouble.NOT_TAKEN: "The last try",
    Trouble.NOT_ALLOWED: "In detail",
}


def _separator(said: str) -> str:
    return "" if not said or said.endswith((".", "!", "?")) else "."


def _named(execution: CacheExecution | None) -> str:
    return f"execution {execution.id}" if execution else "no execution"


def _headline(result: Result, mode: SyncMode, rules: SyncRules) -> str:
    execution = result.execution
    named = _named(execution)
    state = execution.status or "without a status" if execution else ""
    if result.trouble is Trouble.FAILED:
        return f"{mode.words} {named} FAILED"
    if result.trouble is Trouble.CANCELLED:
        return f"{mode.words} {named} was CANCELLED"
    if result.trouble is Trouble.UNKNOWN_END:
        return f"{mode.words} {named} has ended in state {state!r}, which is not known to be a success"
    if result.trouble is Trouble.VANISHED:
        return f"{mode.words} {named} (last seen {state}) is in neither status nor history any more"
    if result.trouble is Trouble.GONE:
        lost = f" while {named} was {state}" if execution else ""
        return f"the cache does not exist or was deleted{lost}"
    if result.trouble is Trouble.ALREADY_RUNNING:
        return f"{mode.words} {named} was running already ({state}) and on_running is 'fail'"
    if result.trouble is Trouble.REFUSED:
        return f"Peaka refused to start a {mode.words}, twice"
    if result.trouble is Trouble.NOT_ALLOWED:
        return f"Peaka did not allow a {mode.words}"
    if result.trouble is Trouble.NOT_TAKEN:
        return (
            f"the {mode.words} could not be triggered for {rules.outage_tolerance:g} s; nothing was started"
        )
    if result.trouble is Trouble.NOT_STARTED:
        return (
            f"{result.triggers} triggers of a {mode.words} were sent, and no new execution appeared within "
            f"{rules.start_timeout:g} s of each"
        )
    if result.trouble is Trouble.UNREADABLE:
        return f"the status could not be read for {rules.outage_tolerance:g} s ({_last_seen(result)})"
    return f"the {mode.words} has not ended within {rules.poll_timeout:g} s ({_last_seen(result)})"


def _last_seen(result: Result) -> str:
    if result.execution is not None:
        return f"execution {result.execution.id}, last seen {result.execution.status or 'without a status'}"
    return "triggered, its execution not yet identified" if result.triggers else "nothing triggered yet"


def _advice(result: Result, mode: SyncMode) -> str:
    trouble = result.trouble
    if trouble is Trouble.FAILED:
        return "Look at the cache and its source in Peaka, then materialize again."
    if trouble is Trouble.CANCELLED:
        kept = (
            "keeps what was synced before"
            if mode is SyncMode.INCREMENTAL
            else "keeps the data from before it"
        )
        return f"Somebody cancelled it in Peaka; the cache {kept}. Materialize again when that is wanted."
    if trouble is Trouble.UNKNOWN_END:
        return "Look at the execution in Peaka; if it did succeed, materialize again and report this state."
    if trouble is Trouble.VANISHED:
        return "Look at the cache's history in Peaka, then materialize again."
    if trouble is Trouble.GONE:
        return "Check the cache's id or table, and project_id; create the cache again in Peaka if it was deleted."
    if trouble is Trouble.ALREADY_RUNNING:
        return "Wait for it to end, or set on_running to 'queue' or 'attach'."
    if trouble is Trouble.REFUSED:
        return f"Check in Peaka that the table supports a {mode.words}."
    if trouble is Trouble.NOT_ALLOWED:
        return "Check api_key, project_id and zone."
    if trouble is Trouble.NOT_TAKEN:
        return "Check that Peaka can be reached, then materialize again."
    if trouble is Trouble.NOT_STARTED:
        return (
            "An execution may still start late. Look at the cache in Peaka before you materialize again, and raise "
            "start_timeout if its queue is long."
        )
    still = (
        f"Execution {result.execution.id} may still be running"
        if result.execution is not None
        else "An execution may still be running"
        if result.triggers or result.origin is Origin.ADOPTED
        else "Nothing was triggered"
    )
    if trouble is Trouble.UNREADABLE:
        return f"{still}; nothing was cancelled. Check that Peaka can be reached, then materialize again."
    return (
        f"{still}; nothing was cancelled. Look at it in Peaka, and raise poll_timeout if it needs that long."
    )
