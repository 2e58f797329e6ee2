"""Peaka's own schedules of a step's caches, or query: said where they are learned of, or switched off before the sync.

Whoever lets Dagster decide when a cache is synced, and leaves its schedule in Peaka on, syncs it twice.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Call
from dagster_peaka.api.client import PeakaClient
from dagster_peaka.api.models import CacheSchedule, CacheSettings
from dagster_peaka.api.query_models import SavedQuery
from dagster_peaka.caches.declared import OnSchedule
from dagster_peaka.caches.names import SyncTarget, few
from dagster_peaka.errors import PeakaError, PeakaNotFoundError, PeakaSyncError, sentence

PATIENCE = 30.0
"""Seconds that each of the three rounds of questions may take, for all caches together."""

NEVER = CacheSchedule.every(None)


@dataclass(frozen=True)
class Scheduled:
    """What has schedules: what it is called, its settings by its id, these in words, and how they are switched off."""

    noun: str
    read: Callable[[str], Call[Any]]
    in_words: Callable[[Any], str]
    switch_off: Callable[[Any], Call[Any]]


def _in_words(settings: CacheSettings) -> str:
    """The schedules of a cache: ``incremental PT6H, full refresh P1D``; empty where it has none."""
    schedules = {"incremental": settings.incremental_schedule, "full refresh": settings.full_refresh_schedule}
    return ", ".join(
        f"{mode} {schedule.expression}"
        for mode, schedule in schedules.items()
        if not NEVER.means(schedule) and schedule
    )


def _of_query(query: SavedQuery) -> str:
    return "" if query.schedule is None else query.schedule.words


CACHES = Scheduled(
    "cache", calls.get_cache, _in_words, lambda settings: calls.update_cache(settings.id, NEVER, NEVER)
)
QUERIES = Scheduled("query", calls.get_query, _of_query, calls.unschedule_query)


class Schedules:
    """What one step learns of the schedules of its caches, and does about them.

    ``disabled`` has, by the cache's id, the schedules that were switched off, in words.
    """

    def __init__(self, client: PeakaClient, log: logging.Logger, of: Scheduled = CACHES) -> None:
        self._client = client
        self._log = log
        self._of = of
        self._learned: dict[str, str] = {}
        self.disabled: dict[str, str] = {}

    def learned(self, settings: CacheSettings | SavedQuery) -> None:
        """Take in settings that were read for another reason."""
        if text := self._of.in_words(settings):
            self._learned[settings.id] = text

    def see_to(self, targets: Iterable[tuple[SyncTarget, OnSchedule]]) -> dict[str, PeakaError]:
        """Switch off Peaka's own schedules, or say that there are some, as is chosen for each.

        Returns:
            By id, why a sync must not go on; see :meth:`disable`.
        """
        chosen: dict[OnSchedule, list[SyncTarget]] = {choice: [] for choice in OnSchedule}
        for target, choice in targets:
            chosen[choice].append(target)
        self.warn(chosen[OnSchedule.WARN])
        return self.disable(chosen[OnSchedule.DISABLE])

    def warn(self, targets: Iterable[SyncTarget]) -> None:
        """Say which of these are known to have schedules: one line for all."""
        found = [
            f"{target} ({self._learned[target.cache_id]})" for target in targets if self._is_known(target)
        ]
        if found:
            self._log.warning(
                "Peaka syncs by schedules of its own: %s. A %s that Dagster decides to sync as well is synced "
                "twice. Set on_schedule to 'disable' to have them switched off, or to 'ignore' where both are wanted.",
                few(found),
                self._of.noun,
            )

    def _is_known(self, target: SyncTarget) -> bool:
        return target.cache_id in self._learned

    def disable(self, targets: Iterable[SyncTarget]) -> dict[str, PeakaError]:
        """Switch off the schedules of these, and read back whether they are off.

        Three rounds of requests, side by side: what each has, a change of those that have schedules, and what
        these have then. What fails in passing is a warning, and is left to the next sync.

        Returns:
            By id, why a sync must not go on: Peaka does not allow the change, or has answered that it is made and
            keeps a schedule.
        """
        caches = {target.cache_id: target for target in targets}
        before = self._read(caches, caches)
        wanted = {
            cache_id: text for cache_id, settings in before.items() if (text := self._of.in_words(settings))
        }
        refused: dict[str, PeakaError] = {}
        changes = ((cache_id, self._of.switch_off(before[cache_id])) for cache_id in wanted)
        answers = self._client.collect(changes, timeout=PATIENCE)
        unsure = {cache_id: answer for cache_id, answer in answers if isinstance(answer, PeakaError)}
        changed = [cache_id for cache_id in wanted if not _is_for_good(unsure.get(cache_id))]
        for cache_id, settings in self._read(caches, changed).items():
            kept = self._of.in_words(settings)
            if not kept:
                self._disabled(caches[cache_id], wanted[cache_id])
            elif cache_id in unsure:
                self._left(caches[cache_id], unsure[cache_id])
            else:
                refused[cache_id] = PeakaSyncError(
                    f"Peaka {self._of.noun} {caches[cache_id]}: Peaka answered that its schedules are switched off "
                    f"(on_schedule='disable'), and keeps {kept}; nothing was triggered. Switch them off in Peaka, or "
                    "set on_schedule to 'ignore'.",
                    cache=str(caches[cache_id]),
                )
        for cache_id, error in unsure.items():
            if _is_for_good(error) and not isinstance(error, PeakaNotFoundError):
                refused[cache_id] = PeakaSyncError(
                    f"Peaka {self._of.noun} {caches[cache_id]}: its schedules ({wanted[cache_id]}) could not be "
                    f"switched off (on_schedule='disable'); nothing was triggered. {sentence(str(error))}",
                    cache=str(caches[cache_id]),
                    permanent=True,
                )
        return refused

    def _read(self, caches: Mapping[str, SyncTarget], wanted: Iterable[str]) -> dict[str, Any]:
        """The settings of caches, as far as they can be read."""
        settings: dict[str, Any] = {}
        questions = ((cache_id, self._of.read(cache_id)) for cache_id in wanted)
        for cache_id, answer in self._client.collect(questions, timeout=PATIENCE):
            if not isinstance(answer, PeakaError):
                settings[cache_id] = answer.value
            elif not isinstance(answer, PeakaNotFoundError):  # that, the sync itself will say
                self._left(caches[cache_id], answer)
        return settings

    def _disabled(self, target: SyncTarget, text: str) -> None:
        self.disabled[target.cache_id] = text
        self._log.info(
            "%s: Peaka's own schedules are switched off, because Dagster decides when it is synced (on_schedule is "
            "'disable'): %s.",
            target,
            text,
        )

    def _left(self, target: SyncTarget, error: PeakaError) -> None:
        self._log.warning(
            "%s: whether its schedules are off (on_schedule is 'disable') is not known; the next sync tries again. %s",
            target,
            sentence(str(error)),
        )


def _is_for_good(error: PeakaError | None) -> bool:
    return error is not None and error.permanent
