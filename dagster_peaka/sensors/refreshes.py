"""What the polling sensor records of materialized queries: the newest refresh of each, as one status tells it.

Nothing is kept in the cursor: what the event log holds already is its newest materialization's start. So what another
refresh has replaced between two ticks is lost, as Peaka keeps no history of refreshes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg

from dagster_peaka.api.client import PeakaClient
from dagster_peaka.api.fields import COMPLETED
from dagster_peaka.api.models import CacheExecution, SyncMode
from dagster_peaka.api.query_models import QueryStatus
from dagster_peaka.caches.declared import QUERY_ID_METADATA, QUERY_METADATA
from dagster_peaka.caches.names import few
from dagster_peaka.errors import PeakaError
from dagster_peaka.records.materializations import DATA_VERSION_TAG
from dagster_peaka.records.refreshes import refresh_metadata, refresh_version
from dagster_peaka.sensors.event_log import followed
from dagster_peaka.sensors.events import EXTERNAL


@dataclass(frozen=True)
class PolledQuery:
    """An asset whose materialized query is polled."""

    key: dg.AssetKey
    metadata: Mapping[str, Any]

    def is_meant(self, status: QueryStatus) -> bool:
        """Whether a status is that of this query, which its spec names by id or name."""
        names = {self.metadata.get(QUERY_ID_METADATA), self.metadata.get(QUERY_METADATA)}
        return not names.isdisjoint({status.query_id, status.query_name})


def refresh_events(
    context: dg.SensorEvaluationContext, client: PeakaClient, queries: Sequence[PolledQuery]
) -> list[dg.AssetMaterialization]:
    """The newest refresh of each query, where it has completed and no run has recorded it or is about to."""
    if not queries:
        return []
    try:
        statuses = client.queries.list_statuses()
    except PeakaError as error:
        context.log.warning("The statuses of materialized queries could not be read: %s", error)
        return []
    found = {query.key: (query, status) for query in queries for status in statuses if query.is_meant(status)}
    missing = [str(query.metadata.get(QUERY_METADATA)) for query in queries if query.key not in found]
    if missing:
        context.log.warning("Not found in Peaka: the materialized queries %s.", few(missing))
    over = [
        (query, status.query_id, refresh)
        for query, status in found.values()
        if (refresh := completed(status)) is not None
    ]
    return list(_recorded(context, over))


def completed(status: QueryStatus) -> CacheExecution | None:
    """The refresh that a status shows, when that alone proves its success: it was updated after its start."""
    start, updated = status.started_at, status.updated_at
    if status.status != COMPLETED or start is None or updated is None or updated <= start:
        return None
    return CacheExecution(
        id=start.isoformat(),
        status=COMPLETED,
        mode=SyncMode.FULL_REFRESH,
        created_at=start,
        finished_at=updated,
    )


def _recorded(
    context: dg.SensorEvaluationContext, over: Sequence[tuple[PolledQuery, str, CacheExecution]]
) -> Iterator[dg.AssetMaterialization]:
    if not over:
        return
    records = context.instance.get_asset_records([query.key for query, _, _ in over])
    last = {record.asset_entry.asset_key: record.asset_entry.last_materialization for record in records}
    new = [each for each in over if not _holds(last.get(each[0].key), each[2])]
    if not new:
        return
    since = time.time() - timedelta(days=1).total_seconds()
    runs = followed(context.instance, {query.key: (query_id, since) for query, query_id, _ in new})
    for query, query_id, refresh in new:
        assert refresh.finished_at is not None
        age = time.time() - refresh.finished_at.timestamp()
        if any(age < trigger.notices_within for trigger in runs.get(query.key, ())):
            continue  # its run records it, if it lives
        yield dg.AssetMaterialization(
            asset_key=query.key,
            metadata=refresh_metadata(query_id, refresh, query.metadata, origin=EXTERNAL),
            tags={DATA_VERSION_TAG: refresh_version(query_id, refresh.id)},
        )


def _holds(last: dg.EventLogEntry | None, refresh: CacheExecution) -> bool:
    """Whether an asset's newest materialization is of this refresh or a later one."""
    event = last.asset_materialization if last is not None else None
    started = None if event is None else event.metadata.get("peaka/started_at")
    assert refresh.created_at is not None
    return isinstance(started, dg.TimestampMetadataValue) and started.value >= refresh.created_at.timestamp()
