"""Which executions are our runs': those that a run records itself, and those that it did not wait for. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dagster_peaka.api.models import SyncMode
from dagster_peaka.sensors.entries import Entries
from dagster_peaka.sync.identity import Record, Started, started_by


@dataclass(frozen=True)
class Trigger:
    """What a run of ours wrote down about a sync: its mode, and what tells which execution it follows.

    ``notices_within`` are the seconds in which the run, if it lives, records an end.
    """

    run_id: str
    mode: SyncMode
    record: Record
    notices_within: float = 0.0


@dataclass(frozen=True)
class Logged:
    """What the event log holds of one asset already.

    Attributes:
        recorded: the executions that it has materializations of, each with the run's id; empty for a sensor's event.
        deferred: triggers, oldest first, of runs that did not wait for the outcome.
        named: the executions that the sensor has recorded as triggered by a run, each with that run's id.
        evaluated: the execution that the latest evaluation of the last-sync check tells about.
    """

    recorded: Mapping[str, str] = field(default_factory=dict[str, str])
    deferred: Sequence[Trigger] = ()
    named: Mapping[str, str] = field(default_factory=dict[str, str])
    evaluated: str | None = None


class Claims:
    """The claims of our runs to the executions of one cache.

    Args:
        entries: the executions.
        followed: triggers of runs whose steps have not ended: if they live, they record the outcome themselves.
        our_now: our clock, in epoch seconds.
    """

    def __init__(self, entries: Entries, followed: Sequence[Trigger], our_now: int) -> None:
        self._entries = entries
        self._followed = followed
        self._our_now = our_now

    def held(
        self, ended: Sequence[int], recorded: Mapping[str, str], since: Mapping[bytes, int]
    ) -> dict[bytes, int]:
        """What is left to the run that follows it, as long as that may be alive, and since when it has been.

        Args:
            ended: the places of executions that have ended.
            recorded: the ids of those that Dagster has materializations of.
            since: what the last tick held back.
        """
        held: dict[bytes, int] = {}
        for trigger in self._followed:
            ours = self._started(trigger).ours
            place = None if ours is None else self._entries.places.get(ours.id)
            if ours is None or place is None or place not in ended or ours.id in recorded:
                continue
            first = since.get(self._entries[place].short, self._our_now)
            if self._our_now < first + trigger.notices_within:
                held[self._entries[place].short] = first
        return held

    def runs(self, ended: Sequence[int], logged: Logged) -> dict[str, str]:
        """The executions that runs have triggered and do not record, by id, each with its run."""
        return dict([*self._abandoned(ended), *self._deferred(logged)])

    def _abandoned(self, ended: Sequence[int]) -> Iterator[tuple[str, str]]:
        over = {self._entries[place].execution.id for place in ended}
        for trigger in self._followed:
            if trigger.record.follows is not None:
                continue  # another run's, or a stranger's
            ours = self._started(trigger).ours
            if ours is not None and ours.id in over and self._came_in_time(ours.id, trigger):
                yield ours.id, trigger.run_id

    def _deferred(self, logged: Logged) -> Iterator[tuple[str, str]]:
        """Of each run that did not wait, the oldest execution that is still free."""
        yield from logged.named.items()
        taken = set(logged.named)
        for trigger in logged.deferred:
            if trigger.run_id in logged.named.values():
                continue
            for candidate in self._started(trigger).candidates:
                if candidate.id in taken or logged.recorded.get(candidate.id):
                    continue
                if self._came_in_time(candidate.id, trigger):
                    taken.add(candidate.id)
                    yield candidate.id, trigger.run_id
                break

    def _started(self, trigger: Trigger) -> Started:
        """What a trigger may have started, by what this tick has read."""
        entries = [self._entries[place] for place in range(len(self._entries))]
        modes = {entry.execution.id: entry.mode for entry in entries if entry.mode is not None}
        record = replace(trigger.record, modes={**trigger.record.modes, **modes})
        return started_by(
            self._entries.executions, record, trigger.mode, newest=self._entries.newest[trigger.mode]
        )

    def _came_in_time(self, execution_id: str, trigger: Trigger) -> bool:
        """Whether an execution came with its trigger, or right after what ran from then on: else that was swallowed."""
        place = self._entries.places.get(execution_id)
        # Of a run that died before its trigger was answered, only the poll before it is known.
        answered_at = trigger.record.answered_at or trigger.record.polled_at
        if place is None or answered_at is None:
            return False
        queued_until = answered_at
        for execution in reversed(self._entries.executions[place + 1 :]):
            if execution.created_at is not None and execution.created_at <= queued_until:
                queued_until = max(queued_until, execution.finished_at or queued_until)
        record = replace(trigger.record, answered_at=answered_at)
        return record.is_surely_ours(self._entries[place].execution, queued_until=queued_until)
