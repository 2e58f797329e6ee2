"""What a step writes down before its triggers, and how a later attempt finds it after a crash.

The record is one ``AssetObservation`` a step, in the run's event log: it is written before the POSTs, survives the
death of the process, and starts no automation. Only where a POST was not taken, another one says so: it leaves nothing
to adopt. A step retry reads its own run; a re-execution also reads the runs that it descends from (``parent_run_id``).

What a step triggers without waiting for it has another observation, of its own asset, once the trigger was answered:
by that the polling sensor finds the run, and a retry of the step knows that there is nothing left to do.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias, cast

import dagster as dg

from dagster_peaka.api.models import SyncMode
from dagster_peaka.caches.names import SyncTarget, few
from dagster_peaka.sync.identity import Record
from dagster_peaka.sync.jobs import Note, SyncJob
from dagster_peaka.sync.outcome import Origin, Posted

ATTEMPT_METADATA = "peaka/triggering"
"""The key of the record in the observation's metadata."""

TRIGGERED_METADATA = "peaka/triggered"
"""The key in the observation of what was triggered and is not waited for."""

MAX_ANCESTORS = 20
"""Runs that are searched at most, the nearest first."""

NOTICES_WITHIN = 90.0
"""Seconds in which a run of the first release, which wrote nothing of that down, notices an end."""

_NOT_TAKEN = {Posted.NOT_TAKEN, Posted.REFUSED, Posted.REFUSED_FOR_GOOD, Posted.NOT_ALLOWED, Posted.NOT_FOUND}
"""Answers to a trigger after which no execution is to be expected of it."""


_RUN_EVENTS = {
    dg.DagsterEventType.ASSET_OBSERVATION,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
}
"""The events that tell how far a run has come with its syncs."""

Place: TypeAlias = tuple[str, SyncMode, str]
"""By what syncs are told apart: the cache's id, the mode, and the asset's name, as a user string."""


class Seen(NamedTuple):
    """What Dagster had when a trigger went out. Whoever follows up that trigger hands it on as it was.

    Attributes:
        newest: the storage id of the newest materialization of the asset itself.
        deps: those of the assets that it depends on, by their names.
    """

    newest: int | None = None
    deps: Mapping[str, int | None] = {}


NOTHING_SEEN = Seen()


@dataclass(frozen=True)
class EarlierAttempt:
    """What an earlier attempt wrote down about its trigger, and how many seconds ago.

    ``deferred`` is True where its trigger was answered and it did not wait for more; ``recorded`` where the asset has
    been materialized since, by whomever; ``ours`` where it was an attempt at this very step, in the same run. ``seen``
    is what it had seen when it triggered.
    """

    record: Record
    age: float
    deferred: bool = False
    recorded: bool = False
    ours: bool = False
    seen: Seen = NOTHING_SEEN

    @property
    def adopts_completed(self) -> bool:
        """Whether an execution that has COMPLETED is taken up: one that was not waited for is settled once recorded."""
        return not (self.deferred and self.recorded)


@dataclass(frozen=True)
class AttemptRecord:
    """What a step wrote down about one sync: of which cache, in which mode, for which asset.

    Attributes:
        record: what tells which execution it follows.
        waits: False where the step does not wait for the outcome.
        answered: True once the trigger of one that does not wait was answered.
        taken: False where its trigger surely started nothing.
        attached: True where it triggered nothing, because another execution ran.
        notices_within: seconds in which the run, if it lives, has recorded an end.
        seen: what Dagster had when the trigger went out.
    """

    cache_id: str
    mode: SyncMode
    asset: str
    record: Record
    waits: bool = True
    answered: bool = False
    taken: bool = True
    attached: bool = False
    notices_within: float = NOTICES_WITHIN
    seen: Seen = NOTHING_SEEN

    @property
    def place(self) -> Place:
        """By what records are told apart."""
        return self.cache_id, self.mode, self.asset


def records_of(observation: dg.AssetObservation | None) -> Iterator[AttemptRecord]:
    """The records in an observation, also in those that release 0.1 has written; none in other observations."""
    if observation is None:
        return
    for cache_id, written in _json(observation, ATTEMPT_METADATA).items():
        record = _parsed(cache_id, written, str(written.get("asset")))
        if record is not None:
            yield record
    written = _json(observation, TRIGGERED_METADATA)
    record = _parsed(str(written.get("cache_id")), written, observation.asset_key.to_user_string())
    if record is not None:
        yield replace(record, waits=False, answered=True)


def _parsed(cache_id: str, written: Mapping[str, Any], asset: str) -> AttemptRecord | None:
    mode = SyncMode.recognize(written.get("mode"))
    if mode is None:
        return None
    # The first release said `looked_at`, and triggered at once after it.
    polled_at = _instant(written.get("polled_at") or written.get("looked_at"))
    modes = {name: SyncMode.recognize(of) for name, of in written.get("modes", {}).items()}
    answer = written.get("answer")
    record = Record(
        written.get("baseline"),
        polled_at,
        _instant(written.get("answered_at")) or (polled_at if answer == Posted.ACCEPTED.value else None),
        {name: of for name, of in modes.items() if of is not None},
        written.get("follows"),
    )
    return AttemptRecord(
        cache_id,
        mode,
        asset,
        record,
        waits=written.get("wait") is not False,
        taken=answer not in {each.value for each in _NOT_TAKEN},
        attached=written.get("origin") == Origin.ATTACHED.value,
        notices_within=float(written.get("notices_within", NOTICES_WITHIN)),
        seen=Seen(written.get("newest"), written.get("deps", {})),
    )


def write_down(
    context: dg.AssetExecutionContext,
    notes: Sequence[tuple[dg.AssetKey, Note]],
    deps: Mapping[dg.AssetKey, Sequence[dg.AssetKey]],
    seen: dict[dg.AssetKey, Seen],
) -> None:
    """Record durably, as an observation of the first of these assets, what their syncs are about to do or have met.

    Args:
        deps: what each of the assets depends on.
        seen: what Dagster had when the trigger went out that is followed up, where one is; others are added.
    """
    afresh = [
        key for key, note in notes if key not in seen or not follows_up(note.origin, repeated=note.repeated)
    ]
    wanted = {asset for key in afresh for asset in (key, *deps.get(key, ()))}
    newest: dict[dg.AssetKey, int | None] = {}
    for found in context.instance.get_asset_records(sorted(wanted)) if wanted else ():
        newest[found.asset_entry.asset_key] = found.asset_entry.last_materialization_storage_id
    for key in afresh:
        seen[key] = Seen(
            newest.get(key), {dep.to_user_string(): newest.get(dep) for dep in deps.get(key, ())}
        )
    caches = {
        note.job.target.cache_id: {
            **_text_of(note.job, note.record),
            # Another step of the run may sync the same cache for an asset of its own.
            "asset": key.to_user_string(),
            "notices_within": note.job.rules.notices_within,
            "newest": seen[key].newest,
            **({"deps": seen[key].deps} if seen[key].deps else {}),
            **({} if note.job.rules.follow else {"wait": False}),
            **({} if note.answer is None else {"answer": note.answer.value}),
            **({} if note.origin is Origin.TRIGGERED else {"origin": note.origin.value}),
        }
        for key, note in notes
    }
    context.log_event(
        dg.AssetObservation(
            asset_key=notes[0][0],
            description="How a later attempt, or a polling sensor, finds the executions of these caches that this run "
            "follows: each is the first above its baseline, the newest execution so far.",
            metadata={ATTEMPT_METADATA: dg.MetadataValue.json(caches)},
        )
    )


def follows_up(origin: Origin, *, repeated: bool) -> bool:
    """Whether a sync goes on with what an earlier trigger may have started, so that its rows may be as old as that."""
    return origin is Origin.ADOPTED or repeated


def write_down_deferred(
    context: dg.AssetExecutionContext, key: dg.AssetKey, job: SyncJob, record: Record, *, sure: bool
) -> None:
    """Record, as an observation of ``key``, that its cache was triggered and this run does not wait for the outcome.

    Args:
        sure: whether Peaka has accepted the trigger; its answer may have been lost.
    """
    trigger = {
        "cache_id": job.target.cache_id,
        **_text_of(job, record),
        "answer": (Posted.ACCEPTED if sure else Posted.UNKNOWN).value,
    }
    context.log_event(
        dg.AssetObservation(
            asset_key=key,
            description="Triggered, and not waited for: a polling sensor records how it ends.",
            metadata={TRIGGERED_METADATA: dg.MetadataValue.json(trigger)},
        )
    )


def _text_of(job: SyncJob, record: Record) -> dict[str, Any]:
    written = {
        "mode": job.mode.value,
        "baseline": record.baseline,
        "polled_at": _text(record.polled_at),
        "answered_at": _text(record.answered_at),
        "modes": {name: mode.value for name, mode in record.modes.items()},
        "follows": record.follows,
    }
    return {name: value for name, value in written.items() if name == "baseline" or value}


def earlier_attempts(
    context: dg.AssetExecutionContext,
    caches: Mapping[dg.AssetKey, tuple[SyncTarget, SyncMode]],
    deps: Mapping[dg.AssetKey, Sequence[dg.AssetKey]],
    max_age: float,
) -> dict[dg.AssetKey, EarlierAttempt]:
    """For each asset, the earlier attempt whose trigger this step must follow up instead of sending another.

    An attempt counts when it triggered the same cache for the same asset in the same mode less than ``max_age``
    seconds ago, its trigger may have been taken, its run recorded no materialization of the asset since, and the
    newest materialization of each of ``deps`` is still the one that it has seen.
    """
    newest = _Newest(context.instance)
    names = {
        key.to_user_string(): key for key in (*caches, *(dep for key in caches for dep in deps.get(key, ())))
    }
    attempts, outdated = left_by(
        (RunStory(run_events(context.instance, run_id)) for run_id in _lineage(context)),
        [(target.cache_id, mode, key.to_user_string()) for key, (target, mode) in caches.items()],
        {key.to_user_string(): [dep.to_user_string() for dep in deps.get(key, ())] for key in caches},
        lambda name: newest.of(names[name]),
        time.time(),
        max_age,
    )
    for why in sorted(set(outdated.values())):
        assets = few(sorted(place[2] for place, reason in outdated.items() if reason == why))
        context.log.info("What an earlier attempt triggered is not adopted, because %s: %s.", why, assets)
    return {names[place[2]]: attempt for place, attempt in attempts.items()}


def left_by(
    lineage: Iterable["RunStory"],
    places: Iterable[Place],
    deps: Mapping[str, Sequence[str]],
    newest: Callable[[str], int | None],
    now: float,
    max_age: float,
) -> tuple[dict[Place, EarlierAttempt], dict[Place, str]]:
    """What earlier attempts at these syncs have left to be followed up, and why the others are not. Pure.

    Args:
        lineage: what this run, and those that it was re-executed from, have written so far, the nearest first.
        deps: by an asset's name, those of what it depends on.
        newest: the storage id of an asset's newest materialization.
        now: epoch seconds.
    """
    found: dict[Place, EarlierAttempt] = {}
    outdated: dict[Place, str] = {}
    open_places = set(places)
    for generation, story in enumerate(lineage):
        undecided: list[Place] = sorted(open_places, key=str)
        for place in undecided:
            left = story.left.get(place)
            if left is None and place[2] not in story.materialized:
                continue
            open_places.discard(place)
            if left is None or left.written.attached:
                continue
            age = max(0.0, now - left.at)
            now_seen = {dep: newest(dep) for dep in deps.get(place[2], ())}
            if age >= max_age:
                outdated[place] = "that is longer ago than poll_timeout"
            elif now_seen != left.written.seen.deps:
                updated = [dep for dep in now_seen if now_seen[dep] != left.written.seen.deps.get(dep)]
                outdated[place] = f"{few(updated) or 'what the asset depends on'} has been updated since"
            else:
                recorded = newest(place[2]) != left.written.seen.newest
                deferred = left.answered and not left.written.waits
                found[place] = EarlierAttempt(
                    left.written.record, age, deferred, recorded, generation == 0, left.written.seen
                )
        if not open_places:
            break
    return found, outdated


@dataclass
class _Newest:
    """The storage ids of the newest materializations of assets, by the event log itself.

    What Dagster keeps as an asset's newest is written a moment after the materialization.
    """

    instance: dg.DagsterInstance
    _known: dict[dg.AssetKey, int | None] = field(default_factory=dict[dg.AssetKey, "int | None"])

    def of(self, key: dg.AssetKey) -> int | None:
        """The newest of ``key``; None where it was never materialized."""
        if key not in self._known:
            records = self.instance.fetch_materializations(key, limit=1).records
            self._known[key] = records[0].storage_id if records else None
        return self._known[key]


def _lineage(context: dg.AssetExecutionContext) -> list[str]:
    """The ids of this run and of those that it was re-executed from, the nearest first."""
    lineage = [context.run.run_id]
    parent = context.run.parent_run_id
    while parent is not None and parent not in lineage and len(lineage) < MAX_ANCESTORS:
        lineage.append(parent)
        run = context.instance.get_run_by_id(parent)
        parent = run.parent_run_id if run is not None else None
    return lineage


@dataclass(frozen=True)
class RunEvent:
    """What one event of a run's own log says about its syncs.

    Attributes:
        at: when it was stored, in epoch seconds.
        step: the key of the step that it is of.
        written: the records in it.
        materialized: the asset that it materialized.
        ended: whether the step has ended with it.
    """

    at: float
    step: str | None = None
    written: tuple[AttemptRecord, ...] = ()
    materialized: str | None = None
    ended: bool = False


def run_events(instance: dg.DagsterInstance, run_id: str) -> Iterator[RunEvent]:
    """What a run has said about its syncs so far, in the order of its own log."""
    for entry in _entries(instance, run_id, _RUN_EVENTS):
        materialized = entry.asset_materialization
        yield RunEvent(
            entry.timestamp,
            entry.step_key,
            tuple(records_of(entry.asset_observation)),
            materialized.asset_key.to_user_string() if materialized is not None else None,
            ended=materialized is None and entry.asset_observation is None,
        )


@dataclass
class OpenRecord:
    """A run's latest record of a sync that it has recorded no outcome of.

    Attributes:
        at: when it was written, in epoch seconds.
        answered: whether its trigger was answered, and the outcome is not waited for.
        over: whether the step that wrote it has ended since.
    """

    at: float
    written: AttemptRecord
    step: str | None = None
    answered: bool = False
    over: bool = False


class RunStory:
    """What a run's events tell of its syncs. Pure.

    ``left`` has the syncs without a recorded outcome, ``materialized`` the assets that the run has materialized.
    """

    def __init__(self, events: Iterable[RunEvent]) -> None:
        self.left: dict[Place, OpenRecord] = {}
        self.materialized: set[str] = set()
        for event in events:
            self._add(event)

    def _add(self, event: RunEvent) -> None:
        if event.materialized is not None:
            self.materialized.add(event.materialized)
            self.left = {place: left for place, left in self.left.items() if place[2] != event.materialized}
        for written in event.written:
            if written.answered and written.place in self.left:
                self.left[written.place].answered = True
            elif written.taken and not written.answered:
                self.left[written.place] = OpenRecord(event.at, written, event.step)
            else:
                self.left.pop(written.place, None)
        if event.ended:
            for left in self.left.values():
                left.over = left.over or left.step == event.step


def _json(observation: dg.AssetObservation, name: str) -> Mapping[str, Any]:
    value = observation.metadata.get(name)
    return cast("Mapping[str, Any]", value.data) if isinstance(value, dg.JsonMetadataValue) else {}


def _entries(
    instance: dg.DagsterInstance, run_id: str, event_types: set[dg.DagsterEventType]
) -> Iterator[dg.EventLogEntry]:
    """The events of these kinds in a run's own log, in its order."""
    cursor: str | None = None
    while True:
        page = instance.get_records_for_run(run_id, cursor=cursor, of_type=event_types, limit=1000)
        for record in page.records:
            yield record.event_log_entry
        if not page.has_more:
            return
        cursor = page.cursor


def materializations_of(instance: dg.DagsterInstance, run_id: str) -> dict[dg.AssetKey, float]:
    """When a run last materialized each of its assets, in epoch seconds."""
    return {
        entry.asset_materialization.asset_key: entry.timestamp
        for entry in _entries(instance, run_id, {dg.DagsterEventType.ASSET_MATERIALIZATION})
        if entry.asset_materialization is not None
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
