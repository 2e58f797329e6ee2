"""What Dagster knows already of the executions that the polling sensor has found: its event log, read in bulk.

The order of reading matters: first the runs under way, then what is recorded. A run that is seen to have ended has
recorded all that it ever will.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from dagster_peaka.records.attempts import records_of
from dagster_peaka.sensors.review import Trigger

EXECUTION_ID_METADATA = "peaka/execution_id"
CACHE_ID_METADATA = "peaka/cache_id"
RUN_ID_METADATA = "peaka/run_id"
"""The key under which an event names the run that triggered its execution without waiting for it."""

PAGE = 100
"""Records of one asset that one query asks for."""

UNDER_WAY = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
"""A run in any other state has triggered nothing yet, or has recorded all that it will."""


@dataclass
class Recorded:
    """The materializations of one asset: the newest, and by the ids of their executions the run of each."""

    newest: dg.EventLogEntry | None = None
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
    instance: dg.DagsterInstance, caches: Mapping[dg.AssetKey, str], written_after: float
) -> dict[dg.AssetKey, list[Trigger]]:
    """For each asset, what runs that are under way will tell about its cache themselves.

    One query, and another for each run under way that may materialize one of the assets. What was written down before
    ``written_after`` (epoch seconds) counts no more: its run has given up, or died without a trace.

    Args:
        caches: the assets and the ids of their caches.
    """
    found: dict[dg.AssetKey, list[Trigger]] = {}
    for record in instance.get_run_records(filters=dg.RunsFilter(statuses=UNDER_WAY)):
        run = record.dagster_run
        # A run of a whole job names no assets.
        if not run.asset_selection or not run.asset_selection.isdisjoint(caches):
            progress = _Progress(run.run_id, written_after)
            for entry in _events_of(instance, run.run_id):
                progress.add(entry)
            for key, cache_id in caches.items():
                trigger = progress.trigger(key, cache_id)
                if trigger is not None:
                    found.setdefault(key, []).append(trigger)
    return found


class _Progress:
    """How far a run has come with its caches, by its events."""

    def __init__(self, run_id: str, written_after: float) -> None:
        self._run_id = run_id
        self._written_after = written_after
        self._steps: dict[dg.AssetKey, str | None] = {}
        self._under_way: set[str | None] = set()
        self._triggers: dict[tuple[str, str], Trigger] = {}
        self._settled: set[tuple[str, str]] = set()

    def add(self, entry: dg.EventLogEntry) -> None:
        """Take in the next event."""
        event = entry.dagster_event
        if event is None or entry.timestamp <= self._written_after:
            return
        if entry.asset_materialization is not None:
            cache_id = _text(entry.asset_materialization.metadata, CACHE_ID_METADATA) or ""
            self._settled.add((cache_id, entry.asset_materialization.asset_key.to_user_string()))
        elif entry.asset_observation is not None:
            for record in records_of(entry.asset_observation):
                place = record.cache_id, record.asset
                self._triggers[place] = Trigger(self._run_id, record.mode, record.record)
                if record.answered or not record.taken:
                    self._settled.add(place)
                else:
                    self._settled.discard(place)
        elif event.asset_key is not None:
            self._steps[event.asset_key] = entry.step_key
        elif event.event_type is dg.DagsterEventType.STEP_START:
            self._under_way.add(entry.step_key)
        else:
            self._under_way.discard(entry.step_key)

    def trigger(self, key: dg.AssetKey, cache_id: str) -> Trigger | None:
        """What the run will tell about a cache; None where it has told it, or has nothing to do with it."""
        place = cache_id, key.to_user_string()
        if place in self._settled or self._steps.get(key) not in self._under_way:
            return None
        return self._triggers.get(place)


RUN_EVENTS = {
    dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.ASSET_OBSERVATION,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
}
"""The events that tell how far a run has come; those planned name each asset's step."""


def _events_of(instance: dg.DagsterInstance, run_id: str) -> Iterator[dg.EventLogEntry]:
    cursor: str | None = None
    while True:
        page = instance.get_records_for_run(run_id, cursor=cursor, of_type=RUN_EVENTS, limit=1000)
        for record in page.records:
            yield record.event_log_entry
        if not page.has_more:
            return
        cursor = page.cursor


def recorded(
    instance: dg.DagsterInstance, wanted: Mapping[dg.AssetKey, Collection[str]], since: float
) -> dict[dg.AssetKey, Recorded]:
    """What the log holds of each asset's wanted executions, among its materializations since then (epoch seconds).

    One query for all assets; those that have been materialized since, by something else than what is wanted of them,
    take another.
    """
    found = {key: Recorded() for key in wanted}
    for record in instance.get_asset_records(list(wanted)):
        entry = record.asset_entry.last_materialization
        if entry is not None:
            found[record.asset_entry.asset_key].newest = entry
            found[record.asset_entry.asset_key].add(entry)
    for key, record in found.items():
        if record.newest is not None and record.newest.timestamp > since:
            _read_back(instance, key, record, set(wanted[key]), since)
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
    """The execution that the latest evaluation of a check tells about, where it names one."""
    record = instance.get_latest_asset_check_evaluation_record(check)
    event = record.event.dagster_event if record is not None and record.event is not None else None
    evaluation = event.event_specific_data if event is not None else None
    if not isinstance(evaluation, dg.AssetCheckEvaluation):
        return None
    return _text(evaluation.metadata, EXECUTION_ID_METADATA)


def handed_over(instance: dg.DagsterInstance, key: dg.AssetKey, cache_id: str) -> list[Trigger]:
    """The triggers, oldest first, of the runs of an asset that did not wait for the outcome."""
    triggers: list[Trigger] = []
    for record in instance.fetch_observations(key, limit=PAGE).records:
        entry = record.event_log_entry
        triggers.extend(
            Trigger(entry.run_id, written.mode, written.record)
            for written in records_of(entry.asset_observation)
            if written.answered and written.cache_id == cache_id
        )
    return triggers[::-1]


def _text(metadata: Mapping[str, Any], name: str) -> str | None:
    value = metadata.get(name)
    return value.value if isinstance(value, dg.TextMetadataValue) else None
