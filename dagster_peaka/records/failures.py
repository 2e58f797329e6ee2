"""Why a sync failed, in words: the cache, the execution, its state, Peaka's own reason, and what to do now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dagster_peaka.api.models import SyncMode
from dagster_peaka.caches.declared import link
from dagster_peaka.caches.names import SyncTarget
from dagster_peaka.errors import PeakaError, PeakaSyncError, sentence, shortened, with_article
from dagster_peaka.sync.outcome import Origin, Result, Trouble
from dagster_peaka.sync.timers import HANGING
from dagster_peaka.sync.timing import SyncRules

PERMANENT_METADATA = "peaka/permanent"
"""The key in a failure's metadata that says that no retry can help."""

PERMANENT = frozenset({Trouble.GONE, Trouble.NOT_ALLOWED})
"""What no retry helps against; the key, the project or the cache has to change first."""

MAX_DESCRIPTION = 20_000
"""Characters that the reasons of one step's failed caches take at most; what does not fit is named only."""


@dataclass(frozen=True)
class _Words:
    """What is said about one trouble. All three are templates for the fields that :func:`_fields` knows."""

    headline: str
    advice: str
    source: str = "Peaka says"
    """Whose words the reason is, where there is one."""


_WORDS = {
    Trouble.FAILED: _Words(
        "{run} FAILED", "Look at the {noun} and its source in Peaka, then materialize again."
    ),
    Trouble.CANCELLED: _Words(
        "{run} was CANCELLED",
        "Somebody cancelled it in Peaka; the {noun} {kept}. Materialize again when that is wanted.",
    ),
    Trouble.UNKNOWN_END: _Words(
        "{run} has ended in state {state!r}, which this package does not know as a success",
        "Look at the execution in Peaka, then materialize again; if it had succeeded, report that state.",
    ),
    Trouble.VANISHED: _Words(
        "{run}, last seen {state}, is in neither status nor history any more",
        "Look at the {noun}'s history in Peaka, then materialize again.",
    ),
    Trouble.GONE: _Words(
        "{gone}",
        "{mend}",
    ),
    Trouble.ALREADY_RUNNING: _Words(
        "{run} was already there ({state}), and on_running is 'fail'; {meanwhile}",
        "Wait for it to end, or set on_running to 'queue' or 'attach'.",
    ),
    Trouble.REFUSED: _Words(
        "Peaka refused{twice} to start {a_mode}",
        "Check in Peaka whether the {refused} supports it and whether something else was running.",
        source="The last answer",
    ),
    # The reason names the setting to check, because it is an error of the client's.
    Trouble.NOT_ALLOWED: _Words("{a_mode} was not allowed, and none was started", "", source="In detail"),
    Trouble.NOT_TAKEN: _Words(
        "{a_mode} could not be triggered for {outage_tolerance:g} s (outage_tolerance); {started}",
        "Materialize again once Peaka answers.",
        source="The last try",
    ),
    Trouble.NOT_STARTED: _Words(
        "{a_mode} was triggered {times}, and no new execution appeared within {start_timeout:g} s (start_timeout) "
        "of quiet",
        "An execution may still start late: look at the {noun} in Peaka before you materialize again, and raise "
        "start_timeout if its queue is long.",
        source="The last answer",
    ),
    Trouble.UNREADABLE: _Words(
        "the status could not be read for {outage_tolerance:g} s (outage_tolerance); {seen}",
        "{still} Materialize again once Peaka answers.",
        source="The last try",
    ),
    Trouble.STUCK: _Words(
        "{run} is {state}, and neither its progress nor its time of update has changed for "
        "{unchanged:.0f} s (stuck_timeout: {stuck_timeout:g} s)",
        "Perhaps nobody picks it up: it may still run, and nothing was cancelled. Look at it in Peaka, cancel it there "
        "if it hangs, then materialize again.",
    ),
    Trouble.TIMED_OUT: _Words(
        "the {mode} has not ended within {poll_timeout:g} s (poll_timeout); {seen}{hanging}",
        "{still} Look at the {noun} in Peaka, and raise poll_timeout if it needs that long.",
    ),
}


def sync_error(
    result: Result,
    *,
    target: SyncTarget,
    mode: SyncMode,
    rules: SyncRules,
    url: str | None = None,
) -> PeakaSyncError:
    """The exception for a sync that failed.

    Args:
        target: the cache, or the query.
        url: where a person finds it, where that is known.
    """
    assert result.trouble is not None
    words, fields = _WORDS[result.trouble], _fields(result, target, mode, rules)
    parts = [
        f"Peaka {target.noun} {target}{f' <{url}>' if url else ''}: {words.headline.format(**fields)}",
        f"{words.source}: {shortened(result.reason)}" if result.reason else "",
    ]
    execution = result.execution
    return PeakaSyncError(
        " ".join(sentence(part) for part in parts if part),
        advice=sentence(words.advice.format(**fields)) if words.advice else "",
        cache=str(target),
        execution_id=execution.id if execution else None,
        state=execution.status if execution else None,
        permanent=result.trouble in PERMANENT or result.lasting,
        url=url,
    )


def step_failure(failures: Mapping[dg.AssetKey, PeakaError], *, last_try: bool = False) -> dg.Failure:
    """One failure for all that went wrong in a step, by the key of the asset.

    The step's retry policy stays on unless every reason is permanent; then the metadata says so as well.

    Args:
        last_try: whether the policy has no retry left. Dagster would raise "Exceeded max_retries" instead of a failure
            that allows retries, and show this one's words below two stack traces.
    """
    permanent = all(error.permanent for error in failures.values())
    metadata: dict[str, Any] = {PERMANENT_METADATA: True} if permanent else {}
    retry = not (permanent or last_try)
    errors = list(dict.fromkeys(failures.values()))
    if len(errors) == 1:
        metadata = {**error_metadata(errors[0]), **metadata}
        return dg.Failure(description=str(errors[0]), metadata=metadata, allow_retries=retry)
    return dg.Failure(description=_list_of(failures), metadata=metadata, allow_retries=retry)


def _list_of(failures: Mapping[dg.AssetKey, PeakaError]) -> str:
    """A line for each reason; what to do about it follows once for all that have it in common."""
    lines = [f"{len(failures)} caches failed:"]
    room, unsaid = MAX_DESCRIPTION, list[str]()
    by_advice: dict[str, dict[str, str]] = {}
    for key, error in failures.items():
        reason = str(error).removesuffix(error.advice).rstrip()
        by_advice.setdefault(error.advice, {})[key.to_user_string()] = reason
    for advice, reasons in by_advice.items():
        said = len(lines)
        for name, reason in reasons.items():
            line = f"- {reason}"
            room -= len(line)
            if room < 0:
                unsaid.append(name)
            elif line not in lines:
                lines.append(line)
        if advice and len(lines) > said + 1:
            lines.append(f"  What to do about each of these: {advice}")
        elif advice and len(lines) > said:
            lines[-1] += f" {advice}"
    if unsaid:
        lines.append(f"- and {len(unsaid)} more, with their reasons in the log: {', '.join(unsaid)}")
    return "\n".join(lines)


def error_metadata(error: PeakaError) -> dict[str, Any]:
    """What is known of the cache and the execution behind an error."""
    if not isinstance(error, PeakaSyncError):
        return {}
    known: dict[str, Any] = {
        "peaka/cache": error.cache,
        "peaka/execution_id": error.execution_id,
        "peaka/state": error.state,
        **link(error.url),
    }
    return {name: value for name, value in known.items() if value}


def _fields(result: Result, target: SyncTarget, mode: SyncMode, rules: SyncRules) -> dict[str, str | float]:
    execution, triggers = result.execution, result.triggers
    triggered = triggers > 0 or result.origin is Origin.ADOPTED
    noun, update = target.noun, target.update(mode)
    of_query = noun == "query"
    name = target.execution(execution.id) if execution else "an execution"
    state = (execution.status or "without a status") if execution else ""
    incremental = mode is SyncMode.INCREMENTAL
    mend = "Create it again in Peaka, if it is still wanted."
    if execution:
        seen = f"{name} was last seen {state}"
        gone = f"the {noun} was deleted while {name} was {state}"
    else:
        seen = (
            "the execution that was triggered had not appeared yet" if triggered else "nothing was triggered"
        )
        gone = f"the {noun} was deleted"
    if not (execution or triggered):
        gone = f"the project has no such {noun}"
        known_by = "name" if of_query else "table"
        mend = (
            f"Check the {noun}'s id or {known_by}, and project_id; fetch the snapshot again if the {noun} was created "
            "anew."
        )
    return {
        "noun": noun,
        "refused": "query" if of_query else "table",
        "mode": update,
        "a_mode": with_article(update),
        "run": name if of_query else f"{mode.words} {name}",
        "state": state,
        "kept": "keeps the rows that were synced before" if incremental else "keeps its old data",
        "gone": gone,
        "mend": mend,
        "seen": seen,
        "still": "It may still run; nothing was cancelled." if execution or triggered else "",
        "started": "the trigger before it may still start one" if triggers else "none was started",
        "meanwhile": "a trigger had been sent before it showed, and may start another"
        if triggers
        else "nothing was triggered",
        "twice": " twice" if triggers > 1 else "",
        "times": {1: "once", 2: "twice"}.get(triggers, f"{triggers} times"),
        "outage_tolerance": rules.outage_tolerance,
        "start_timeout": rules.start_timeout,
        "poll_timeout": rules.poll_timeout,
        "stuck_timeout": rules.stuck_timeout or 0.0,
        "unchanged": result.unchanged,
        "hanging": f", unchanged for {result.unchanged:.0f} s: perhaps nobody picks it up"
        if result.unchanged >= HANGING
        else "",
    }
