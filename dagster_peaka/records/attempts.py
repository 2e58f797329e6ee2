"""What a step writes down before its triggers, and how a later attempt finds it: nothing starts twice after a crash.

The record is one ``AssetObservation`` a step, in the run's event log: it is written before the first POST, survives
the death of the process, and starts no automation. A step retry reads its own run; a re-execution also reads the runs
that it descends from (``parent_run_id``).

What a step triggers without waiting for it has another observation, of its own asset, once the trigger was answered:
by that the polling sensor finds the run, and a retry of the step knows that there is nothing left to do.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import dagster as dg

from dagster_peaka.api.models import SyncMode
from dagster_peaka.caches.names import SyncTarget
from dagster_peaka.sync.machine import Baseline
from dagster_peaka.sync.runner import SyncJob

ATTEMPT_METADATA = "peaka/triggering"
"""The key of the record in the observation's metadata."""

TRIGGERED_METADATA = "peaka/triggered"
"""The key in the observation of what was triggered and is not waited for."""

MAX_ANCESTORS = 20
"""Runs that are searched at most, the nearest first."""


@dataclass(frozen=True)
class Attempt:
    """What an earlier attempt wrote down before its trigger: the baseline, and how many seconds ago that was.

    ``handed_over`` is True where its trigger was answered and it did not wait for more; ``ours`` where it was an
    attempt at this very step, in the same run.
    """

    baseline: Baseline
    age: float
    handed_over: bool = False
    ours: bool = False


@dataclass(frozen=True)
class Record:
    """What a step wrote down about one trigger: of which cache, in which mode, for which asset, and the baseline.

    ``waits`` is False where the step does not wait for the outcome, ``answered`` True once its trigger was answered.
    """

    cache_id: str
    mode: SyncMode
    asset: str
    baseline: Baseline
    waits: bool
    answered: bool


def records_of(observation: dg.AssetObservation | None) -> Iterator[Record]:
    """The records in an observation, also in those that release 0.1 has written; none in other observations."""
    if observation is None:
        return
    for cache_id, written in _json(observation, ATTEMPT_METADATA).items():
        record = _record(cache_id, written, str(written.get("asset")), answered=False)
        if record is not None:
            yield record
    written = _json(observation, TRIGGERED_METADATA)
    record = _record(
        str(written.get("cache_id")), written, observation.asset_key.to_user_string(), answered=True
    )
    if record is not None:
        yield record


def _record(cache_id: str, written: Mapping[str, Any], asset: str, *, answered: bool) -> Record | None:
    mode = SyncMode.recognize(written.get("mode"))
    if mode is None:
        return None
    baseline = Baseline(
        written.get("baseline"), _instant(written.get("created_at")), _instant(written.get("looked_at"))
    )
    waits = not answered and written.get("wait") is not False
    return Record(cache_id, mode, asset, baseline, waits, answered)


def write_down(
    context: dg.AssetExecutionContext, jobs: Sequence[tuple[dg.AssetKey, SyncJob, Baseline]]
) -> None:
    """Record durably, as an observation of the first of these assets, that their syncs are about to be triggered."""
    caches = {
        job.target.cache_id: {
            **_written(job, baseline),
            # Another step of the run may sync the same cache for an asset of its own.
            "asset": key.to_user_string(),
            **({} if job.rules.follow else {"wait": False}),
        }
        for key, job, baseline in jobs
    }
    context.log_event(
        dg.AssetObservation(
            asset_key=jobs[0][0],
            description="About to trigger these caches; the newest execution of each so far is its baseline.",
            metadata={ATTEMPT_METADATA: dg.MetadataValue.json(caches)},
        )
    )


def write_down_handed_over(
    context: dg.AssetExecutionContext, key: dg.AssetKey, job: SyncJob, baseline: Baseline, *, sure: bool
) -> None:
    """Record, as an observation of ``key``, that its cache was triggered and this run does not wait for the outcome.

    Args:
        sure: whether Peaka has accepted the trigger; its answer may have been lost.
    """
    trigger = {
        "cache_id": job.target.cache_id,
        **_written(job, baseline),
        "answer": "accepted" if sure else "unknown",
    }
    context.log_event(
        dg.AssetObservation(
            asset_key=key,
            description="Triggered, and not waited for: a polling sensor records how it ends.",
            metadata={TRIGGERED_METADATA: dg.MetadataValue.json(trigger)},
        )
    )


def _written(job: SyncJob, baseline: Baseline) -> dict[str, str | None]:
    return {
        "mode": job.mode.value,
        "baseline": baseline.id,
        "created_at": _text(baseline.created_at),
        "looked_at": _text(baseline.looked_at),
    }


def earlier_attempts(
    context: dg.AssetExecutionContext,
    caches: Mapping[dg.AssetKey, tuple[SyncTarget, SyncMode]],
    deps: Mapping[dg.AssetKey, Sequence[dg.AssetKey]],
    max_age: float,
) -> dict[dg.AssetKey, Attempt]:
    """For each asset, the earlier attempt whose trigger this step must follow up instead of sending another.

    An attempt counts when it triggered the same cache for the same asset in the same mode less than ``max_age``
    seconds ago, recorded no materialization of the asset, and none of ``deps`` has been materialized since. What an
    earlier run did not wait for is settled as well when the asset has been materialized since, by whomever.
    """
    found: dict[dg.AssetKey, Attempt] = {}
    settled: set[dg.AssetKey] = set()
    for run_id in _lineage(context):
        ours = run_id == context.run.run_id
        records = _records(context.instance, run_id)
        materialized = materializations_of(context.instance, run_id)
        for key, (target, mode) in caches.items():
            if key in settled:
                continue
            record = records.get((target.cache_id, mode, key.to_user_string()))
            if key in materialized and (record is None or materialized[key] >= record.at):
                settled.add(key)  # what an earlier run had triggered has been recorded since
            if record is None or key in settled:
                continue
            settled.add(key)
            age = max(0.0, time.time() - record.at)
            told = () if record.record.waits or ours else (key,)
            if age >= max_age or any(
                _materialized_since(context.instance, each, record.at) for each in (*told, *deps.get(key, ()))
            ):
                continue
            found[key] = Attempt(
                record.record.baseline, age, record.answered and not record.record.waits, ours
            )
        if len(settled) == len(caches):
            break
    return found


def _lineage(context: dg.AssetExecutionContext) -> list[str]:
    """The ids of this run and of those that it was re-executed from, the nearest first."""
    lineage = [context.run.run_id]
    parent = context.run.parent_run_id
    while parent is not None and parent not in lineage and len(lineage) < MAX_ANCESTORS:
        lineage.append(parent)
        run = context.instance.get_run_by_id(parent)
        parent = run.parent_run_id if run is not None else None
    return lineage


@dataclass
class _Found:
    """A run's latest record of a trigger, and when it was written (epoch seconds)."""

    at: float
    record: Record
    answered: bool = False


def _records(instance: dg.DagsterInstance, run_id: str) -> dict[tuple[str, SyncMode, str], _Found]:
    """The run's latest record of each cache, mode and asset."""
    found: dict[tuple[str, SyncMode, str], _Found] = {}
    for entry in _events(instance, run_id, dg.DagsterEventType.ASSET_OBSERVATION):
        for record in records_of(entry.asset_observation):
            place = record.cache_id, record.mode, record.asset
            if not record.answered:
                found[place] = _Found(entry.timestamp, record)
            elif place in found:
                found[place].answered = True
    return found


def _json(observation: dg.AssetObservation, name: str) -> Mapping[str, Any]:
    value = observation.metadata.get(name)
    return cast("Mapping[str, Any]", value.data) if isinstance(value, dg.JsonMetadataValue) else {}


def _events(
    instance: dg.DagsterInstance, run_id: str, event_type: dg.DagsterEventType
) -> Iterator[dg.EventLogEntry]:
    cursor: str | None = None
    while True:
        page = instance.get_records_for_run(run_id, cursor=cursor, of_type=event_type, limit=1000)
        for record in page.records:
            yield record.event_log_entry
        if not page.has_more:
            return
        cursor = page.cursor


def materializations_of(instance: dg.DagsterInstance, run_id: str) -> dict[dg.AssetKey, float]:
    """When a run last materialized each of its assets, in epoch seconds."""
    return {
        entry.asset_materialization.asset_key: entry.timestamp
        for entry in _events(instance, run_id, dg.DagsterEventType.ASSET_MATERIALIZATION)
        if entry.asset_materialization is not None
    }


def _materialized_since(instance: dg.DagsterInstance, key: dg.AssetKey, moment: float) -> bool:
    event = instance.get_latest_materialization_event(key)
    return event is not None and event.timestamp > moment


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
