"""What Dagster knows already of the executions that the polling sensor has found: its event log, read in bulk.

The order of reading matters: first the runs under way, then what is recorded. A run that is seen to have ended has
recorded all that it ever will.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import dagster as dg

from dagster_peaka.records.attempts import RunStory, records_of, run_events
from dagster_peaka.sensors.claims import Trigger

EXECUTION_ID_METADATA = "peaka/execution_id"
CACHE_ID_METADATA = "peaka/cache_id"
RUN_ID_METADATA = "peaka/run_id"
"""The key under which an event names the run that triggered its execution without waiting for it."""

PAGE = 100
"""Records of one asset that one query asks for."""

UNDER_WAY = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
"""A run in any other state has triggered nothing yet, or has ended."""


@dataclass
class Recorded:
    """The materializations of one asset, by the ids of their executions the run of each."""

    runs: dict[str, str] = field(default_factory=dict[str, str])
    """Empty text: recorded by a sensor, without a run."""
    named: dict[str, str] = field(default_factory=dict[str, str])
    """By the ids of executions, the runs that a sensor has named."""

    def add(self, entry: dg.EventLogEntry) -> None:
        """Note the execution that a materialization stands for."""
        materialized = entry.asset_materialization
        execution_id = _text(materialized.metadata, EXECUTION_ID_METADATA) if materialized else None
        if execution_id:
            self.runs.setdefault(execution_id, entry.run_id)
            run_id = materialized.metadata.get(RUN_ID_METADATA) if materialized else None
            if isinstance(run_id, dg.DagsterRunMetadataValue) and run_id.value:
                self.named[execution_id] = run_id.value


def followed(
    instance: dg.DagsterInstance, caches: Mapping[dg.AssetKey, tuple[str, float]]
) -> dict[dg.AssetKey, list[Trigger]]:
    """For each asset, what runs will record of its cache themselves, as far as their steps have not ended.

    Two queries, and another for each run that may materialize one of the assets. A run's status says little: a dead
    one stays STARTED, and the step of one that was marked as failed may go on.

    Args:
        caches: the assets, each with its cache's id and the time (epoch seconds) before which runs that have ended
            are not asked about it.
    """
    under_way = instance.get_run_records(filters=dg.RunsFilter(statuses=UNDER_WAY))
    oldest = datetime.fromtimestamp(max(0.0, min(since for _, since in caches.values())), timezone.utc)
    recent = instance.get_run_records(filters=dg.RunsFilter(updated_after=oldest))
    going_on = {record.dagster_run.run_id for record in under_way}
    found: dict[dg.AssetKey, list[Trigger]] = {}
    for record in {record.dagster_run.run_id: record for record in (*recent, *under_way)}.values():
        run, updated_at = record.dagster_run, record.update_timestamp.timestamp()
        wanted = {
            key: cache_id
            for key, (cache_id, since) in caches.items()
            # A run of a whole job names no assets.
            if (not run.asset_selection or key in run.asset_selection)
            and (run.run_id in going_on or updated_at >= since)
        }
        if wanted:
            story = RunStory(run_events(instance, run.run_id))
            for key, cache_id in wanted.items():
                found.setdefault(key, []).extend(
                    triggers_of(run.run_id, story, cache_id, key.to_user_string())
                )
    return found


def triggers_of(run_id: str, story: RunStory, cache_id: str, asset: str) -> list[Trigger]:
    """What a run will record of an asset's cache itself, unless it is dead.

    One that does not wait will record nothing, but its trigger is known before it has written down that it was
    answered.
    """
    return [
        Trigger(
            run_id,
            left.written.mode,
            left.written.record,
            left.written.notices_within if left.written.waits else 0.0,
        )
        for place, left in story.left.items()
        if (place[0], place[2]) == (cache_id, asset) and not (left.answered or left.over)
    ]


def recorded(
    instance: dg.DagsterInstance, wanted: Mapping[dg.AssetKey, Collection[str]], since: float
) -> dict[dg.AssetKey, Recorded]:
    """What the log holds of each asset's wanted executions, among its materializations since then (epoch seconds).

    The materializations themselves are read: what Dagster keeps as an asset's newest comes a moment after them.
    """
    found: dict[dg.AssetKey, Recorded] = {}
    for key, executions in wanted.items():
        found[key] = Recorded()
        _read_back(instance, key, found[key], set(executions), since)
    return found


def _read_back(
    instance: dg.DagsterInstance, key: dg.AssetKey, record: Recorded, wanted: set[str], since: float
) -> None:
    cursor: str | None = None
    records_filter = dg.AssetRecordsFilter(asset_key=key, after_timestamp=since)
    while not wanted <= record.runs.keys():
        page = instance.fetch_materializations(records_filter, limit=PAGE, cursor=cursor)
        for found in page.records:
            record.add(found.event_log_entry)
        if not page.has_more:
            return
        cursor = page.cursor


def evaluated(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> str | None:
    """The execution that the latest evaluation of a check is about, where it names one."""
    record = instance.get_latest_asset_check_evaluation_record(check)
    event = record.event.dagster_event if record is not None and record.event is not None else None
    evaluation = event.event_specific_data if event is not None else None
    if not isinstance(evaluation, dg.AssetCheckEvaluation):
        return None
    return _text(evaluation.metadata, EXECUTION_ID_METADATA)


def deferred(instance: dg.DagsterInstance, key: dg.AssetKey, cache_id: str, since: float) -> list[Trigger]:
    """The triggers since then (epoch seconds), oldest first, of an asset's runs that did not wait for the outcome."""
    triggers: list[Trigger] = []
    cursor: str | None = None
    records_filter = dg.AssetRecordsFilter(asset_key=key, after_timestamp=since)
    while True:
        page = instance.fetch_observations(records_filter, limit=PAGE, cursor=cursor)
        for record in page.records:
            entry = record.event_log_entry
            triggers.extend(
                Trigger(entry.run_id, written.mode, written.record)
                for written in records_of(entry.asset_observation)
                if written.answered and written.cache_id == cache_id
            )
        if not page.has_more:
            return triggers[::-1]
        cursor = page.cursor


def _text(metadata: Mapping[str, Any], name: str) -> str | None:
    value = metadata.get(name)
    return value.value if isinstance(value, dg.TextMetadataValue) else None
