"""Whether a table supports the mode of its sync: said before anything is triggered, and never guessed.

What Peaka does not say, or not in time, is unknown, and then the sync goes on: a source that is down cannot be asked
for the modes of its tables, and that is no reason to leave its caches alone.
"""

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Call
from dagster_peaka.api.client import FEW, PeakaClient
from dagster_peaka.api.models import CacheSettings, CacheStatus, SyncMode, Table
from dagster_peaka.caches.names import SyncTarget, table_of
from dagster_peaka.errors import PeakaError, PeakaSyncError

PATIENCE = 10.0
"""Seconds by which these questions may delay a sync."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Wish(NamedTuple):
    """A sync that is wanted, and the modes that its table is said to support: None where nothing is known."""

    target: SyncTarget
    mode: SyncMode
    supported: frozenset[SyncMode] | None = None


class _Place(NamedTuple):
    """Where a cached table is, as Peaka addresses it."""

    catalog_id: str
    schema: str
    table: str


def unsupported(
    client: PeakaClient,
    wishes: Iterable[Wish],
    log: logging.Logger,
    learned: Callable[[CacheSettings], None] | None = None,
) -> dict[str, PeakaSyncError]:
    """By cache id, why a mode cannot be had; what is not in it may be triggered.

    A mode that is said to be supported costs no request. Otherwise Peaka is asked, because what is said may be
    outdated: one listing of tables for each schema, side by side.

    Args:
        learned: told of the settings of caches that had to be read.
    """
    doubtful = [wish for wish in wishes if wish.supported is None or wish.mode not in wish.supported]
    deadline = time.monotonic() + PATIENCE
    questions = _Questions(client, log, deadline)
    places = _places(questions, [wish.target for wish in doubtful], learned)
    supported = _supported(questions, set(places.values()))
    refused: dict[str, PeakaSyncError] = {}
    for wish in doubtful:
        place = places.get(wish.target.cache_id)
        modes = supported.get(place) if place else None
        if modes and wish.mode not in modes:
            refused[wish.target.cache_id] = _refusal(wish)
    return refused


def _refusal(wish: Wish) -> PeakaSyncError:
    words, other = wish.mode.words, wish.mode.other
    article = "an" if wish.mode is SyncMode.INCREMENTAL else "a"
    return PeakaSyncError(
        f"Peaka cache {wish.target}: its table does not support {article} {words} ({wish.mode.value}), only "
        f"{other.value}; nothing was triggered. Set mode to {other.value!r} where the asset is declared, or in the "
        "run's config.",
        cache=str(wish.target),
        permanent=True,
    )


class _Questions:
    """Puts questions side by side, and waits for the answers until the deadline."""

    def __init__(self, client: PeakaClient, log: logging.Logger, deadline: float) -> None:
        self._client = client
        self._log = log
        self._deadline = deadline

    def ask(self, questions: Mapping[K, Call[V]]) -> dict[K, V]:
        """The answers that came."""
        answers: dict[K, V] = {}
        left = max(0.0, self._deadline - time.monotonic())
        for key, answer in self._client.collect(questions.items(), timeout=left):
            if isinstance(answer, PeakaError):
                self._unanswered(answer)
            else:
                answers[key] = answer.value
        if len(answers) < len(questions) and time.monotonic() >= self._deadline:
            self._log.info(
                "Peaka does not say within %g s which modes every table supports; going on without that.",
                PATIENCE,
            )
        return answers

    def _unanswered(self, error: PeakaError) -> None:
        # The sync itself will meet whatever is wrong, and say it.
        self._log.debug("Which modes a table supports could not be read: %s", error)


def _places(
    questions: _Questions,
    targets: Sequence[SyncTarget],
    learned: Callable[[CacheSettings], None] | None,
) -> dict[str, _Place]:
    """Where the table of each cache is, by the cache's id; without those of which Peaka does not say it."""
    known = {target.cache_id: _written(target) for target in targets}
    unknown = [cache_id for cache_id, place in known.items() if place is None]
    entries: Sequence[CacheSettings] | Sequence[CacheStatus]
    if len(unknown) > FEW:
        listing: dict[str, Call[Any]] = {"all": calls.list_cache_statuses()}
        entries = [status for statuses in questions.ask(listing).values() for status in statuses]
    else:
        answers = questions.ask({cache_id: calls.get_cache(cache_id) for cache_id in unknown})
        entries = list(answers.values())
        if learned is not None:
            for settings in answers.values():
                learned(settings)
    wanted = set(unknown)
    places = {entry.id: _read(entry) for entry in entries if entry.id in wanted}
    return {cache_id: place for cache_id, place in {**known, **places}.items() if place is not None}


def _written(target: SyncTarget) -> _Place | None:
    """The place as far as the definition or a listing has told it."""
    table = table_of(target)
    if table is None or target.catalog_id is None or target.schema_name is None:
        return None
    return _Place(target.catalog_id, target.schema_name, table.table)


def _read(entry: CacheSettings | CacheStatus) -> _Place | None:
    if entry.catalog_id is None or entry.schema_name is None or entry.table_name is None:
        return None
    return _Place(entry.catalog_id, entry.schema_name, entry.table_name)


def _supported(questions: _Questions, places: set[_Place]) -> dict[_Place, frozenset[SyncMode] | None]:
    schemas = {(place.catalog_id, place.schema) for place in places}
    answers = questions.ask({schema: calls.list_tables(*schema) for schema in schemas})
    return {
        _Place(catalog_id, schema, table.table_name): _modes(table)
        for (catalog_id, schema), tables in answers.items()
        for table in tables
    }


def _modes(table: Table) -> frozenset[SyncMode] | None:
    """What a table surely supports, and nothing else.

    An empty list means that the table cannot be cached, but it is; a type that is not known may be another name of
    the mode that is wanted.
    """
    modes = table.supported_modes
    if not modes or any(SyncMode.recognize(kind) is None for kind in table.supported_cache_types or ()):
        return None
    return modes
