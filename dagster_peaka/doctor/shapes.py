"""What the raw JSON of answers tells of Peaka's contract: spellings, types, order, counters. Pure.

Values are in the words of the sandbox's switches. What the answers do not tell is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

from dagster_peaka.api.models import CacheExecution, ExecutionProgress, SyncMode
from dagster_peaka.doctor.readings import Reading, take

Json = dict[str, Any]

DOCUMENTED = frozenset({"RUNNING", "CANCELLED", "FAILED", "COMPLETED", "DELETED", "NOT_INITIALIZED"})
"""The words of a status in Peaka's document."""

_EXECUTION = {"id", "executionMode", "status", "error", "progress", "createdAt", "updatedAt", "finishedAt"}
_COUNTERS = {f"numberOf{what}Records" for what in ("Cached", "Inserted", "Updated", "Deleted")}
_PROGRESS = _COUNTERS | {"lastOffset", "lastCacheTxId"}
_STATUS = {"id", "status", "catalogId", "schemaName", "tableName", "projectId", "appId", "cacheActionLogs"}
_SLOTS = {"lastIncrementalCacheExecution", "lastFullRefreshCacheExecution"}
_CATALOG = {"id", "name", "displayName", "catalogType", "connectionId"}


def objects(answer: object) -> list[Json]:
    """The objects in an array."""
    entries = cast("list[object]", answer) if isinstance(answer, list) else []
    return [cast("Json", entry) for entry in entries if isinstance(entry, dict)]


def executions_in(statuses: Iterable[Json]) -> list[Json]:
    """The executions that statuses show."""
    return [
        cast("Json", status[slot])
        for status in statuses
        for slot in _SLOTS
        if isinstance(status.get(slot), dict)
    ]


def of_answers(
    catalogs: list[Json], statuses: list[Json], histories: Sequence[list[Json]]
) -> Iterator[Reading]:
    """What types and spellings tell."""
    shown = [entry for history in histories for entry in history]
    executions = [*executions_in(statuses), *shown]
    if catalogs:
        yield take("ids_as_numbers", all(type(catalog.get("id")) is int for catalog in catalogs))
    yield from _of_words([*executions, *statuses])
    if executions:
        # In a status the place tells the mode, and the word may be missing.
        yield take("mode_spelling", _spelling([entry.get("executionMode") for entry in shown or executions]))
        yield take("timestamps", _one_of(map(_written, executions)))
    if failed := [entry for entry in executions if _status(entry) == "FAILED"]:
        yield take("error_shape", _one_of(_kind(entry.get("error")) for entry in failed))
    if ended := [entry for entry in executions if _status(entry) == "COMPLETED"]:
        yield take("drop_progress", all("progress" not in entry for entry in ended))
    if catalogs or executions:
        progress = objects([entry.get("progress") for entry in executions])
        parts = [(catalogs, _CATALOG), (statuses, _STATUS | _SLOTS), (executions, _EXECUTION)]
        names = {
            name for part, known in [*parts, (progress, _PROGRESS)] for e in part for name in {*e} - known
        }
        yield take("extra_fields", bool(names), said=", ".join(sorted(map(shortened_word, names))))


def _of_words(entries: list[Json]) -> Iterator[Reading]:
    """What the words for a status tell."""
    words = [word for entry in entries if isinstance(word := entry.get("status"), str) and word]
    if words:
        yield take("status_case", _one_of(map(_case, words)))
    strange = sorted({word.upper() for word in words} - DOCUMENTED - {"CANCELED"})
    if strange:
        yield take("status_words", [shortened_word(word) for word in strange])
    for entry in entries:
        if _status(entry) in strange and entry.get("createdAt") and not entry.get("finishedAt"):
            yield take("queued_status", shortened_word(_status(entry)))
            return


def of_history(full: list[Json], pair: list[Json], second: list[Json], newest: set[str]) -> Iterator[Reading]:
    """What a history tells of order and pages.

    Args:
        full: its first page.
        pair: the same with ``limit=2``.
        second: the same with ``offset=1`` and ``limit=1``.
        newest: the ids of the executions that the status shows; the history should hold one of them at its beginning.
    """
    ids = [str(entry.get("id")) for entry in full]
    yield take("history_current", not newest or bool(newest & set(ids[:2])))
    dates = [entry.created_at for entry in map(_execution, full) if entry is not None and entry.created_at]
    if len(dates) > 1:
        falling = all(later >= earlier for later, earlier in pairwise(dates))
        rising = all(later <= earlier for later, earlier in pairwise(dates))
        yield take("history_order", "newest first" if falling else "oldest first" if rising else "mixed")
    if len(full) > 1:
        asked = [str(entry.get("id")) for entry in pair] == ids[:2]
        begun = [str(entry.get("id")) for entry in second][:1] == ids[1:2]
        short = bool(pair) and len(pair) < 2
        yield take(
            "history_pages", "as asked" if asked and begun else "short" if short and begun else "otherwise"
        )


def of_counters(histories: Sequence[Sequence[CacheExecution]]) -> Iterator[Reading]:
    """What counters tell. The oldest of each history is left out: it may be the first sync, which counts otherwise."""
    done = [
        entry
        for history in histories
        for entry in history[:-1]
        if entry.succeeded and entry.progress.cached is not None
    ]
    updates = [entry.progress for entry in done if entry.mode is not SyncMode.FULL_REFRESH]
    updated = [progress.updated for progress in updates if progress.updated is not None]
    if updated:
        yield take("updated_records", "inflated" if min(updated) >= 2 else "exact")
    if any(progress.deleted for progress in updates):
        yield take("deleted_records", "exact")
    if not updates:
        return
    # Where no deletion was reported, `handled` and `reported` are the same numbers; any other number is the total.
    reported = all(entry.progress.cached == _sum(entry.progress, deleted=False) for entry in done)
    handled = all(progress.cached == _sum(progress) for progress in updates)
    yield take("cached_records", "reported" if reported else "handled" if handled else "total")


def first_mode(status: Json) -> str | None:
    """The mode of a cache's first sync, by the mode that it has never seen; None where both have been."""
    shown = [slot for slot in _SLOTS if isinstance(status.get(slot), dict)]
    if len(shown) != 1:
        return None
    return "incremental" if "Incremental" in shown[0] else "full_refresh"


def is_unattended(entry: Json) -> bool:
    """Whether an execution looks like a job that nobody has picked up."""
    return (
        _status(entry) == "RUNNING"
        and entry.get("progress") is None
        and entry.get("error") is None
        and entry.get("updatedAt") == entry.get("createdAt")
        and "progress" in entry
    )


def shortened_word(text: str) -> str:
    """A word of Peaka's, kept to what a word may hold."""
    return re.sub(r"[^\w -]", "?", text)[:40]


def _status(entry: Json) -> str:
    return str(entry.get("status")).upper()


def _execution(entry: Json) -> CacheExecution | None:
    try:
        return CacheExecution.model_validate(entry)
    except ValueError:
        return None


def _sum(progress: ExecutionProgress, *, deleted: bool = True) -> int:
    return (progress.inserted or 0) + (progress.updated or 0) + ((progress.deleted or 0) if deleted else 0)


def _one_of(found: Iterable[str]) -> str:
    """The one word of all, or ``mixed``."""
    words = set(found)
    return words.pop() if len(words) == 1 else "mixed"


def _case(word: str) -> str:
    forms = {"upper": word.upper(), "lower": word.lower(), "title": word.title()}
    return next((name for name, form in forms.items() if word == form), "mixed")


def _spelling(found: Sequence[object]) -> str:
    words = {word for word in found if isinstance(word, str)}
    if not words:
        return "absent"
    forms = {"upper": {"INCREMENTAL", "FULL_REFRESH"}, "lower": {"incremental", "full_refresh"}}
    forms["kebab"] = {"incremental", "full-refresh"}
    strange = ", ".join(sorted(map(shortened_word, words)))
    return next((name for name, form in forms.items() if words <= form), strange)


def _written(entry: Json) -> str:
    if "createdAt" not in entry:
        return "absent"
    text = entry["createdAt"]
    if not isinstance(text, str):
        return "null" if text is None else f"a {_kind(text)}"
    if not text.endswith("Z"):
        return "offset" if re.search(r"[+-]\d\d:?\d\d$", text) else "without a zone"
    return "z" if "." in text else "no_fraction"


def _kind(value: object) -> str:
    kinds = (("object", dict), ("string", str), ("null", type(None)), ("array", list))
    return next((name for name, kind in kinds if isinstance(value, kind)), "number")
