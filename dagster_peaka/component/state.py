"""The component's state: how it is fetched, and which of its caches are meant when definitions are built from it."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import TypeAlias, TypeVar, cast

import click  # Dagster stands on it
import dagster as dg

from dagster_peaka.caches.names import near_matches
from dagster_peaka.caches.project import PeakaCache
from dagster_peaka.caches.selection import (
    PeakaCacheChoice,
    PeakaCachePredicate,
    PeakaCacheSelector,
    PeakaSelection,
    select,
)
from dagster_peaka.component.attributes import PeakaCacheAttributes, PeakaCacheOverride
from dagster_peaka.component.fields import listed
from dagster_peaka.component.reading import Loc
from dagster_peaka.errors import PeakaConfigError, PeakaError
from dagster_peaka.resource import PeakaResource

E = TypeVar("E", bound=PeakaError)

Said: TypeAlias = dict[str, list[tuple[dg.ResolutionContext, PeakaCacheAttributes]]]
"""What is said about single caches and where, by their ids; of several the last one wins."""

REFRESH = "`dg utils refresh-defs-state`"
"""The command that renews the state."""


def plain(project_id: str) -> str:
    """A project's id; of one that is kept in a variable the variable's name."""
    return project_id.env_var_name if isinstance(project_id, dg.EnvVar) else project_id


def state_key(name: str, project_id: str, selection: PeakaCacheSelector | None) -> str:
    """The key of the state of a component, made of its settings alone; ``name`` is that of its class.

    Components for other caches of the same project have another.
    """
    key = f"{name}[{plain(project_id)}]"
    if selection is None:
        return key
    texts = [
        [entry if isinstance(entry, str) else getattr(entry, "__qualname__", "") for entry in entries(choice)]
        for choice in (selection.include, selection.exclude)
    ]
    return f"{key}[{hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]}]"


def without_trace(error: E) -> E:
    """The same error, of click's kind as well: ``dg`` shows its message and no stack trace."""
    kind = type(error)
    told = type(kind.__name__, (kind, click.ClickException), {"__module__": kind.__module__})
    same = told.__new__(told, *error.args)
    click.ClickException.__init__(same, str(error))
    vars(same).update(vars(error))
    return cast("E", same)


def with_excluded(selector: PeakaCacheSelector | None, more: PeakaCachePredicate) -> PeakaCacheSelector:
    """The same selector, which excludes more."""
    asked = selector or PeakaCacheSelector()
    return PeakaCacheSelector(asked.include, [*entries(asked.exclude), more])


def entries(choice: PeakaCacheChoice | None) -> list[str | PeakaCachePredicate]:
    """The texts and predicates of a choice; none for None."""
    if choice is None:
        return []
    return [choice] if isinstance(choice, str) or callable(choice) else list(choice)


def fitting(caches: Sequence[PeakaCache], entry: PeakaSelection) -> Sequence[PeakaCache]:
    """The caches that an entry means, none among them."""
    try:
        return select(caches, entry) if caches else ()
    except PeakaConfigError:
        return ()


def unmatched(text: str, caches: Iterable[PeakaCache]) -> str:
    """What to say about a text that fits no cache."""
    return f"no cache fits {text!r}.{near_matches(text, [cache.name for cache in caches])}"


def still_selected(
    caches: Sequence[PeakaCache], selector: PeakaCacheSelector | None
) -> tuple[list[PeakaCache], list[str]]:
    """The selected ones of the caches in a state, and the texts to include that fit none of them.

    What is selected was checked when the state was fetched. Since then, or because it was half-configured, a cache may
    have gone: no reason to do without the others.
    """
    if selector is None:
        return list(caches), []
    included = {entry: fitting(caches, entry) for entry in entries(selector.include)}
    chosen = {cache.id for found in included.values() for cache in found}
    excluded = {cache.id for entry in entries(selector.exclude) for cache in fitting(caches, entry)}
    return [
        cache
        for cache in caches
        if (selector.include is None or cache.id in chosen) and cache.id not in excluded
    ], [entry for entry, found in included.items() if isinstance(entry, str) and not found]


def overrides_of(
    caches: Sequence[PeakaCache], overrides: Sequence[PeakaCacheOverride], place: dg.ResolutionContext
) -> tuple[Said, list[tuple[Loc, str]]]:
    """The overrides of each cache and where they stand, by its id; and the patterns that fit none, with what to say."""
    said: Said = {}
    missing: list[tuple[Loc, str]] = []
    for number, override in enumerate(overrides):
        found: dict[str, None] = {}
        for text in listed(override.match):
            fits = fitting(caches, text)
            found.update((cache.id, None) for cache in fits)
            if not fits:
                missing.append((("overrides", number, "match"), unmatched(text, caches)))
        for cache_id in found:
            said.setdefault(cache_id, []).append((place.at_path(number), override))
    return said, missing


def patience_at_load(connection: PeakaResource) -> dict[str, object]:
    """Settings of a connection by which a load does not wait for long.

    Dagster gives up a code server that takes about a minute to start, and with it everything else that is there.
    """
    retries = connection.request_max_retries
    return {
        "request_timeout": min(connection.request_timeout, 10.0),
        "request_max_retries": min(retries, 1) if type(retries) is int else 1,
    }


def nothing_known(project_id: str, keeps_no_older: bool) -> str:
    """What to say where there is nothing to build definitions from."""
    project_id = plain(project_id)
    if keeps_no_older:
        return (
            f"Nothing is known of project {project_id}, so there are no assets of it until this code location is "
            "loaded again: with LEGACY_CODE_SERVER_SNAPSHOTS Dagster keeps no older state that could be used, as it "
            "does with LOCAL_FILESYSTEM and VERSIONED_STATE_STORAGE."
        )
    return (
        f"There is no state of project {project_id} yet, so there are no assets of it. Run {REFRESH} where the API "
        "key is set, then load the definitions again."
    )


def age(taken_at: datetime) -> str:
    """How old a state is: ``3 hours old (2026-11-23 12:00 UTC)``."""
    minutes = max(0, int((datetime.now(timezone.utc) - taken_at).total_seconds() // 60))
    for length, unit in ((1440, "day"), (60, "hour"), (1, "minute")):
        if minutes >= length:
            number = minutes // length
            return f"{number} {unit}{'s' if number > 1 else ''} old ({taken_at:%Y-%m-%d %H:%M} UTC)"
    return f"less than a minute old ({taken_at:%Y-%m-%d %H:%M} UTC)"
