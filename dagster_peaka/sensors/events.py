"""What the polling sensor reports of an execution that has ended: Dagster's events, and a failure in words."""

import concurrent.futures
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import dagster as dg

from dagster_peaka.api.client import PeakaClient
from dagster_peaka.api.models import SyncMode
from dagster_peaka.caches.declared import LAST_SYNC_CHECK, MODE_METADATA, DeclaredCache, link
from dagster_peaka.caches.names import SyncTarget
from dagster_peaka.errors import sentence
from dagster_peaka.records.materializations import external_materialization, row_count, table_metadata
from dagster_peaka.sensors.cursor import ADDRESS, short
from dagster_peaka.sensors.event_log import RUN_ID_METADATA
from dagster_peaka.sensors.review import Outcome
from dagster_peaka.steps.fingerprints import Measurement
from dagster_peaka.steps.row_counts import Measurer, is_measured
from dagster_peaka.sync.outcome import Origin

EXTERNAL = "external"
"""The ``peaka/origin`` of what no run of ours has triggered."""

Event: TypeAlias = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation
"""What a sensor may report."""


@dataclass(frozen=True)
class PolledAsset:
    """An asset whose cache is polled: what its spec says, and whether it declares the last-sync check."""

    key: dg.AssetKey
    declared: DeclaredCache
    metadata: Mapping[str, Any]
    checked: bool

    @property
    def address(self) -> bytes:
        """What stands for the asset in the cursor."""
        return short(str(self.declared.reference), ADDRESS)

    def __str__(self) -> str:
        target = self.declared.target
        return target.name if target and target.name else str(self.declared.reference)


@dataclass(frozen=True)
class Reported:
    """An outcome that a tick reports, and of which cache."""

    asset: PolledAsset
    cache_id: str
    outcome: Outcome
    other_runs: bool = False
    """Whether an execution of the other mode runs: until it ends the table may hold none of its rows."""

    @property
    def is_recorded(self) -> bool:
        """False for a failure of an asset that declares no check: only the log names it."""
        return self.outcome.record or self.asset.checked

    def __str__(self) -> str:
        execution, mode, run_id = self.outcome.execution, self.outcome.mode, self.outcome.run_id
        kind = "execution" if mode is None else mode.words
        by = EXTERNAL if run_id is None else f"triggered by run {run_id}"
        return f"{self.asset}: {kind} {execution.id} {execution.status or 'unknown'} ({by})"


def measured_events(
    reported: Sequence[Reported],
    client: PeakaClient,
    log: logging.Logger,
    until: float,
    late: list[PolledAsset],
) -> Iterator[Event]:
    """The events of all that is reported; of each asset the newest one says what its table holds now, where it has to.

    Args:
        until: when no answer is waited for any more, by the monotonic clock.
        late: takes the assets whose answers did not come in time.
    """
    newest = {each.asset.key: each for each in reported if each.outcome.record}
    wanted: dict[dg.AssetKey, tuple[SyncTarget, DeclaredCache]] = {}
    for key, each in newest.items():
        declared = each.asset.declared
        if not each.other_runs:
            wanted[key] = declared.target or SyncTarget(each.cache_id, str(declared.reference)), declared
    found = measurements(client, log, until, wanted)
    late.extend(newest[key].asset for key, measured in found.items() if measured is None)
    for each in reported:
        measured = found.get(each.asset.key) if newest.get(each.asset.key) is each else None
        yield from events_of(
            each.asset, each.cache_id, each.outcome, measured, client.cache_url(each.cache_id)
        )


def measurements(
    client: PeakaClient,
    log: logging.Logger,
    until: float,
    wanted: Mapping[dg.AssetKey, tuple[SyncTarget, DeclaredCache]],
) -> dict[dg.AssetKey, Measurement | None]:
    """What tables hold now, of the assets that ask for that; None where the answer did not come in time.

    Args:
        until: when no answer is waited for any more, by the monotonic clock.
    """
    measurer = Measurer(client, log, max(1.0, until - time.monotonic()))
    asked = {
        key: measurer.start(target, declared)
        for key, (target, declared) in wanted.items()
        if is_measured(declared)
    }
    concurrent.futures.wait(asked.values(), timeout=max(0.0, until - time.monotonic()))
    measurer.close()
    return {
        key: future.result() if future.done() and not future.cancelled() else None
        for key, future in asked.items()
    }


def events_of(
    asset: PolledAsset,
    cache_id: str,
    outcome: Outcome,
    measured: Measurement | None = None,
    url: str | None = None,
) -> Iterator[Event]:
    """The events that tell Dagster of an outcome; none for a failure where no check is declared.

    Args:
        measured: the rows and the fingerprint of the table now, where they were asked for.
        url: where a person finds the cache, where that is known.
    """
    run_id = outcome.run_id
    run = {} if run_id is None else {RUN_ID_METADATA: dg.MetadataValue.dagster_run(run_id)}
    if outcome.record:
        found = measured or Measurement()
        extra: dict[str, Any] = {
            **link(url),
            **table_metadata(asset.metadata),
            **run,
            **row_count(found.rows),
        }
        if outcome.mode is None:
            extra[MODE_METADATA] = None
        yield external_materialization(
            asset.key,
            cache_id,
            # One that Peaka does not name is left out below.
            outcome.mode or SyncMode.INCREMENTAL,
            outcome.execution,
            origin=EXTERNAL if run_id is None else Origin.TRIGGERED.value,
            fingerprint=found.fingerprint,
            table=asset.declared.target.name if asset.declared.target else str(asset.declared.reference),
            extra=extra,
        )
    if asset.checked:
        mode = {} if outcome.mode is None else {MODE_METADATA: outcome.mode.value}
        yield dg.AssetCheckEvaluation(
            asset_key=asset.key,
            check_name=LAST_SYNC_CHECK,
            passed=outcome.execution.succeeded,
            severity=dg.AssetCheckSeverity.ERROR,
            description=None if outcome.execution.succeeded else failure(cache_id, outcome),
            metadata={
                "peaka/cache_id": cache_id,
                "peaka/execution_id": outcome.execution.id,
                **mode,
                **run,
                **link(url),
            },
        )


def failure(cache_id: str, outcome: Outcome) -> str:
    """What went wrong with an execution that did not succeed, and what to do."""
    execution, mode = outcome.execution, outcome.mode
    kind = "execution" if mode is None else f"{mode.words} {execution.id}"
    by = f", triggered by run {outcome.run_id}," if outcome.run_id else ""
    said = f" Peaka says: {sentence(execution.reason)}" if execution.reason else ""
    return (
        f"Peaka cache {cache_id}: {kind}{by} has ended as {execution.status or 'unknown'}.{said} Look at the cache "
        "and its source in Peaka, then materialize it again."
    )
