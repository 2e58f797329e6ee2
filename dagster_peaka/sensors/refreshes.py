"""What the polling sensor records of materialized queries: the newest refresh of each, as one status tells it.

Nothing is kept in the cursor: what the event log holds already is its newest materialization's start. So what another
refresh has replaced between two ticks is lost, as Peaka keeps no history of refreshes.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import dagster as dg

from dagster_peaka.api import calls
from dagster_peaka.api.client import PeakaClient
from dagster_peaka.api.models import CacheExecution, CacheStatus
from dagster_peaka.api.query_models import QueryStatus
from dagster_peaka.caches.declared import LAST_SYNC_CHECK, DeclaredCache, polled_assets, query_target
from dagster_peaka.caches.names import SyncTarget, few
from dagster_peaka.errors import PeakaError
from dagster_peaka.records.materializations import DATA_VERSION_TAG, row_count
from dagster_peaka.records.refreshes import refresh_check, refresh_metadata, refresh_version
from dagster_peaka.resource import PeakaResource
from dagster_peaka.sensors.claims import Claims, Logged, Trigger
from dagster_peaka.sensors.cursor import short
from dagster_peaka.sensors.entries import Entries
from dagster_peaka.sensors.event_log import RUN_ID_METADATA, deferred, evaluated, followed
from dagster_peaka.sensors.events import EXTERNAL, measurements
from dagster_peaka.sensors.overlap import left_to_others, words_on_overlaps
from dagster_peaka.steps.fingerprints import Measurement
from dagster_peaka.sync.outcome import Origin

SOUGHT_FOR = timedelta(days=1)
"""How far back runs and their triggers are sought."""

MEASURING = 20.0
"""Seconds of a tick for row counts and fingerprints of snapshots."""


@dataclass(frozen=True)
class PolledQuery:
    """An asset whose materialized query is polled, and whether it declares the last-sync check."""

    spec: dg.AssetSpec
    declared: DeclaredCache
    checked: bool

    @property
    def key(self) -> dg.AssetKey:
        """The asset's key."""
        return self.spec.key

    @property
    def name(self) -> str:
        """The query's name, or its id, as the spec has it."""
        return str(self.declared.reference)

    def is_meant(self, status: QueryStatus) -> bool:
        """Whether a status is that of this query, which its spec names by id or name."""
        names = {self.name, self.declared.target.cache_id if self.declared.target else None}
        return not names.isdisjoint({status.query_id, status.query_name})


@dataclass(frozen=True)
class _Ended:
    """A refresh that has ended, and of which asset's query."""

    query: PolledQuery
    target: SyncTarget
    refresh: CacheExecution

    @property
    def key(self) -> dg.AssetKey:
        return self.query.key


def refresh_events(
    context: dg.SensorEvaluationContext,
    name: str,
    client: PeakaClient,
    peaka: PeakaResource,
    queries: Sequence[PolledQuery],
) -> list[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """What is to be recorded of the newest refresh of each query, where it has ended and no run is about to record it.

    Args:
        name: the sensor's own.
    """
    if not queries:
        return []
    others = left_to_others(context, name, (query.key for query in queries), polled_assets)
    for line in words_on_overlaps(name, others):
        context.log.warning("%s", line)
    ((_, answer),) = client.collect([(None, calls.list_query_statuses())])
    if isinstance(answer, PeakaError):
        context.log.warning("The statuses of materialized queries could not be read: %s", answer)
        return []
    found = {
        query.key: (query, status) for query in queries for status in answer.value if query.is_meant(status)
    }
    missing = [query.name for query in queries if query.key not in found]
    if missing:
        context.log.warning("Not found in Peaka: the materialized queries %s.", few(missing))
    over = [
        _Ended(query, query_target(status.query_id, status.query_name), refresh)
        for query, status in found.values()
        if query.key not in others and (refresh := status.ended(answer.server_time)) is not None
    ]
    # By Peaka's clock, or by ours where it does not tell its own.
    now = answer.server_time or datetime.now(timezone.utc)
    return list(_events(context, client, peaka, over, now))


def _events(
    context: dg.SensorEvaluationContext,
    client: PeakaClient,
    peaka: PeakaResource,
    over: Sequence[_Ended],
    now: datetime,
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    instance = context.instance
    unseen = _unrecorded(instance, over)
    since = time.time() - SOUGHT_FOR.total_seconds()
    wanted = {each.key: (each.target.cache_id, since) for each in unseen}
    runs = followed(instance, wanted) if wanted else {}
    open_ones = [each for each in unseen if not _is_held(each, runs.get(each.key, ()), peaka, now)]
    # Asked again: a run that is seen to follow nothing any more may have recorded it meanwhile.
    new = _unrecorded(instance, open_ones)
    measured = measurements(
        client,
        context.log,
        time.monotonic() + MEASURING,
        {each.key: (each.target, each.query.declared) for each in new},
    )
    for each in new:
        triggers = deferred(instance, each.key, each.target.cache_id, since)
        by = _claims(each, runs.get(each.key, ()), now).runs([0], Logged(deferred=triggers))
        found, run_id = measured.get(each.key) or Measurement(), by.get(each.refresh.id)
        metadata = {
            **refresh_metadata(
                each.target.cache_id,
                each.refresh,
                each.query.spec.metadata,
                origin=EXTERNAL if run_id is None else Origin.TRIGGERED.value,
                url=client.query_url(each.target.cache_id),
            ),
            **row_count(found.rows),
            **({} if run_id is None else {RUN_ID_METADATA: dg.MetadataValue.dagster_run(run_id)}),
        }
        version = found.fingerprint or refresh_version(each.target.cache_id, each.refresh.id)
        yield dg.AssetMaterialization(each.key, metadata=metadata, tags={DATA_VERSION_TAG: version})
    for each in over:
        check = dg.AssetCheckKey(each.key, LAST_SYNC_CHECK)
        if each.query.checked and evaluated(instance, check) != each.refresh.id:
            url = client.query_url(each.target.cache_id)
            yield refresh_check(dg.AssetCheckEvaluation, each.key, str(each.target), each.refresh, url)


def _unrecorded(instance: dg.DagsterInstance, over: Sequence[_Ended]) -> list[_Ended]:
    """The refreshes that succeeded and of which, or of a later one, their assets have no materialization yet."""
    return [each for each in over if each.refresh.succeeded and not _holds(instance, each)]


def _holds(instance: dg.DagsterInstance, ended: _Ended) -> bool:
    records = instance.fetch_materializations(ended.key, limit=1).records
    event = records[0].asset_materialization if records else None
    started = None if event is None else event.metadata.get("peaka/started_at")
    begun = ended.refresh.created_at
    return (
        begun is not None
        and isinstance(started, dg.TimestampMetadataValue)
        and started.value >= begun.timestamp()
    )


def _is_held(ended: _Ended, followed_by: Sequence[Trigger], peaka: PeakaResource, now: datetime) -> bool:
    """Whether a refresh is left to the run that follows it, as long as that may be alive.

    Where no time tells the end, that is as long as such a run would poll.
    """
    refresh = ended.refresh
    begun = refresh.created_at or now
    end = refresh.finished_at or begun + timedelta(seconds=peaka.poll_timeout)
    since = {short(refresh.id): int(end.timestamp())}
    return bool(_claims(ended, followed_by, now).held([0], {}, since))


def _claims(ended: _Ended, followed_by: Sequence[Trigger], now: datetime) -> Claims:
    """Which runs a refresh is of, as if the query were a cache with this one execution."""
    status = CacheStatus(id=ended.target.cache_id, last_full_refresh=ended.refresh)
    entries = Entries(status, None)
    entries.order([ended.refresh], trusted=True)
    return Claims(entries, followed_by, int(now.timestamp()))
