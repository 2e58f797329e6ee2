"""What a step writes down before its triggers, and how a later attempt finds it: nothing starts twice after a crash.

The record is one ``AssetObservation`` a step, in the run's event log: it is written before the first POST, survives
the death of the process, and starts no automation. A step retry reads its own run; a re-execution also reads the runs
that it descends from (``parent_run_id``).
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from dagster_peaka.models import SyncMode
from dagster_peaka.runner import SyncJob, SyncTarget
from dagster_peaka.sync import Baseline

ATTEMPT_METADATA = "peaka/triggering"
"""The key of the record in the observation's metadata."""

MAX_ANCESTORS = 20
"""Runs that are searched at most, the nearest first."""


@dataclass(frozen=True)
class Attempt:
    """What an earlier attempt wrote down before its trigger: the baseline, and how many seconds ago that was."""

    baseline: Baseline
    age: float


def write_down(
    context: dg.AssetExecutionContext, key: dg.AssetKey, jobs: Iterable[tuple[SyncJob, Baseline]]
) -> None:
    """Record durably, as an observation of ``key``, that these syncs are about to be triggered."""
    caches = {
        job.target.cache_id: {
            "mode": job.mode.value,
            "baseline": baseline.id,
            "created_at": _text(baseline.created_at),
            "looked_at": _text(baseline.looked_at),
        }
        for job, baseline in jobs
    }
    context.log_event(
        dg.AssetObservation(
            asset_key=key,
            description="About to trigger these caches; the newest execution of each so far is its baseline.",
            metadata={ATTEMPT_METADATA: dg.MetadataValue.json(caches)},
        )
    )


def earlier_attempts(
    context: dg.AssetExecutionContext,
    caches: Mapping[dg.AssetKey, tuple[SyncTarget, SyncMode]],
    deps: Mapping[dg.AssetKey, Sequence[dg.AssetKey]],
    max_age: float,
) -> dict[dg.AssetKey, Attempt]:
    """For each asset, the earlier attempt whose trigger this step must follow up instead of sending another.

    An attempt counts when it triggered the same cache in the same mode less than ``max_age`` seconds ago, recorded
    no materialization of the asset, and none of ``deps`` has been materialized since.
    """
    found: dict[dg.AssetKey, Attempt] = {}
    settled: set[dg.AssetKey] = set()
    for run_id in _lineage(context):
        records = _records(context.instance, run_id)
        materialized = materializations_of(context.instance, run_id)
        for key, (target, mode) in caches.items():
            if key in settled:
                continue
            record = _latest(records, target, mode)
            if key in materialized and (record is None or materialized[key] >= record[0]):
                settled.add(key)  # what an earlier run had triggered has been recorded since
            if record is None or key in settled:
                continue
            settled.add(key)
            written_at, baseline = record
            if time.time() - written_at >= max_age:
                continue
            if not any(_materialized_since(context.instance, dep, written_at) for dep in deps.get(key, ())):
                found[key] = Attempt(baseline, max(0.0, time.time() - written_at))
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


def _records(
    instance: dg.DagsterInstance, run_id: str
) -> list[tuple[float, Mapping[str, Mapping[str, str | None]]]]:
    """The run's records, oldest first: when each was written (epoch seconds), and its caches."""
    records: list[tuple[float, Mapping[str, Mapping[str, str | None]]]] = []
    for entry in _events(instance, run_id, dg.DagsterEventType.ASSET_OBSERVATION):
        observation = entry.asset_observation
        value = observation.metadata.get(ATTEMPT_METADATA) if observation is not None else None
        if isinstance(value, dg.JsonMetadataValue):
            records.append((entry.timestamp, json.loads(json.dumps(value.data))))
    return records


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


def _latest(
    records: Sequence[tuple[float, Mapping[str, Mapping[str, str | None]]]],
    target: SyncTarget,
    mode: SyncMode,
) -> tuple[float, Baseline] | None:
    for written_at, caches in reversed(records):
        entry = caches.get(target.cache_id)
        if entry is not None and entry.get("mode") == mode.value:
            return written_at, Baseline(
                entry["baseline"], _instant(entry["created_at"]), _instant(entry["looked_at"])
            )
    return None


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
