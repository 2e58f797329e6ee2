"""The sensor that turns syncs which Peaka or others started into materializations of the cache assets.

A tick reads the statuses of all caches by one listing. Only for caches that moved since the last tick it reads the
history, and only about executions that have ended it asks Dagster's event log. What follows from that is decided in
:mod:`dagster_peaka.sensors.review`.
"""

import concurrent.futures
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import dagster as dg

from dagster_peaka.api.client import PeakaClient
from dagster_peaka.api.models import CacheExecution, CacheStatus
from dagster_peaka.caches.lookup import list_caches
from dagster_peaka.caches.names import SyncTarget, TableName, few
from dagster_peaka.declared import LAST_SYNC_CHECK, declared_cache, polling_sensor_metadata
from dagster_peaka.errors import PeakaConfigError, PeakaError
from dagster_peaka.resource import PeakaResource
from dagster_peaka.sensors.cursor import Mark, PollingCursor, UnreadableCursor
from dagster_peaka.sensors.event_log import evaluated, followed, handed_over, recorded
from dagster_peaka.sensors.events import Event, PolledAsset, events_of, failure
from dagster_peaka.sensors.reading import find_tables, read_histories
from dagster_peaka.sensors.review import Outcome, Review, Start, Told, Verdict
from dagster_peaka.steps.fingerprints import Measurement
from dagster_peaka.steps.row_counts import Measurer, is_measured

READING_BUDGET = 25.0
"""Seconds of a tick after which nothing more is read from Peaka; Dagster gives a tick 60 by default."""

ASKING_BUDGET = 40.0
"""Seconds of a tick after which the event log is asked no more."""

MEASURING_BUDGET = 50.0
"""Seconds of a tick after which no answer on row counts and fingerprints is waited for."""

TOLD_AT_MOST = 500
"""Executions that one tick reports at most: Dagster stores their events one by one, in milliseconds each."""

ASKED_AT_ONCE = 50
"""Caches that the event log is asked about at once, before a look at the time."""

KEPT_FOR = 14 * 86_400
"""Seconds for which Peaka keeps an execution in the history, by its OpenAPI document."""

DEFERRED_FOR = 86_400
"""Seconds for which a trigger that nobody waits for may be queued before its execution is created."""

LOG_TOLERANCE = 300
"""Seconds by which the clocks of those who write to the event log may differ."""

NAMED_AT_MOST = 10
"""Caches that one message names at most."""


def build_peaka_polling_sensor(
    assets: dg.AssetsDefinition | dg.AssetSpec | Iterable[dg.AssetsDefinition | dg.AssetSpec],
    *,
    name: str = "peaka_polling_sensor",
    resource_key: str = "peaka",
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
    backfill: bool = False,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.SensorDefinition:
    """A sensor by which Dagster learns of the syncs that Peaka's schedules, its UI or other clients started.

    Each execution that completes becomes a materialization of its cache's asset, once, with the same metadata and by
    the same data version as those of our own runs; ``peaka/origin`` is ``external``. What a run of ours
    records itself is left to that run. What a step with ``wait=False`` has triggered is recorded with that run's id
    (``peaka/run_id``, origin ``triggered``). A failed or cancelled execution becomes a failed evaluation of the check
    ``last_sync_succeeded`` where the asset declares it, and a warning in the tick's log otherwise.

    A tick with nothing new makes one request, whatever the number of caches, and asks no database. The first tick
    reports nothing: it remembers what there is. Peaka keeps executions for 14 days; a sensor that was off for longer
    says so in its log.

    Args:
        assets: the caches' assets, as the factories of this package make them, or their specs, where Dagster only
            watches (:func:`load_peaka_cache_specs`).
        resource_key: the key of the :class:`PeakaResource` in the definitions.
        minimum_interval_seconds: seconds between two ticks at least.
        default_status: whether it runs without being switched on in Dagster's UI.
        backfill: whether a cache that is seen for the first time brings along the completed executions that Peaka
            still shows, 14 days of them, as far as Dagster does not hold them yet.

    Raises:
        PeakaConfigError: when an asset names no cache, or two name the same.

    Example:
        .. code-block:: python

            orders = build_peaka_cache_asset(table="shop.public.orders", last_sync_check=True)

            defs = dg.Definitions(
                assets=[orders],
                sensors=[build_peaka_polling_sensor([orders])],
                resources={"peaka": peaka},
            )
    """
    polled = _polled([assets] if isinstance(assets, (dg.AssetsDefinition, dg.AssetSpec)) else assets)

    def peaka_polling_sensor(context: dg.SensorEvaluationContext, **_: object) -> dg.SensorResult:
        # Called directly, as tests do, a sensor gets its resources as arguments besides.
        peaka: PeakaResource = getattr(context.resources, resource_key)
        with peaka.get_client() as client:
            return _Tick(context, client, peaka, polled, backfill).result()

    return dg.SensorDefinition(
        name,
        evaluation_fn=peaka_polling_sensor,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=description or f"Records what Peaka and others have synced of {len(polled)} caches.",
        required_resource_keys={resource_key},
        tags=tags,
        metadata=polling_sensor_metadata(asset.key for asset in polled),
    )


def _polled(assets: Iterable[dg.AssetsDefinition | dg.AssetSpec]) -> list[PolledAsset]:
    polled: dict[bytes, PolledAsset] = {}
    for each in assets:
        alone = isinstance(each, dg.AssetSpec)
        checks = () if alone else each.check_keys
        checked = {check.asset_key for check in checks if check.name == LAST_SYNC_CHECK}
        for spec in [each] if alone else each.specs:
            asset = PolledAsset(spec.key, declared_cache(spec), spec.metadata, spec.key in checked)
            other = polled.setdefault(asset.address, asset)
            if other is not asset:
                raise PeakaConfigError(
                    f"Assets {other.key.to_user_string()} and {asset.key.to_user_string()} mean the same Peaka cache "
                    f"{asset}: give the polling sensor one of them."
                )
    if not polled:
        raise PeakaConfigError("The polling sensor was given no asset: there would be nothing to poll.")
    return list(polled.values())


@dataclass
class _Look:
    """One cache at one tick."""

    asset: PolledAsset
    review: Review
    asked: Sequence[CacheExecution] = ()
    """The executions that the event log is asked about."""

    @property
    def cache_id(self) -> str:
        return self.review.status.id


@dataclass
class _Tick:
    """One evaluation of the sensor."""

    context: dg.SensorEvaluationContext
    client: PeakaClient
    peaka: PeakaResource
    assets: Sequence[PolledAsset]
    backfill: bool

    def __post_init__(self) -> None:
        self.began, self._started = time.time(), time.monotonic()
        self.last = self._last_cursor()
        self.marks: dict[bytes, Mark] = dict(self.last.marks) if self.last else {}
        self.events: list[Event] = []
        self.outcomes: list[tuple[_Look, Outcome]] = []
        self.asked = 0
        self.left: list[PolledAsset] = []
        self.warnings: dict[str, list[str]] = {}
        """What goes wrong, by the beginning of the line that tells it."""

    def result(self) -> dg.SensorResult:
        """What the tick returns: events, or why there are none; and the cursor."""
        try:
            answer = list_caches(self.client, timeout=READING_BUDGET)
            found = self._found(answer.value)
        except PeakaError as error:
            if error.permanent:
                raise
            return dg.SensorResult(skip_reason=f"Nothing was looked at. {error}", cursor=self.context.cursor)
        looks = self._looks(found, answer.server_time)
        moved = [look for look in looks if look.review.moved]
        self._tell([look for look in looks if not look.review.moved and look.review.mark is None])
        self._follow(moved)
        self._tell(self._read(moved))
        self.events.extend(self._events())
        for beginning, lines in self.warnings.items():
            self.context.log.warning("%s %s", beginning, few(lines, NAMED_AT_MOST, " "))
        # A tick that requests no run counts as skipped in Dagster's UI, which shows this reason beside it.
        summary = self._summary(len(looks), len(moved))
        return dg.SensorResult(
            asset_events=self.events, skip_reason=summary, cursor=self._next_cursor().encode()
        )

    def _warn(self, beginning: str, line: str) -> None:
        self.warnings.setdefault(beginning, []).append(line)

    def _is_late(self, budget: float) -> bool:
        return time.monotonic() > self._started + budget

    # The cursor

    def _last_cursor(self) -> PollingCursor | None:
        if not self.context.cursor:
            return None
        try:
            return PollingCursor.decode(self.context.cursor)
        except UnreadableCursor as error:
            problem = str(error)
        then = (
            "with a backfill"
            if self.backfill
            else "and does not report what has ended since its last tick; with backfill=True it would"
        )
        self.context.log.warning("The sensor's cursor cannot be used: %s. It begins anew, %s.", problem, then)
        return None

    def _next_cursor(self) -> PollingCursor:
        # Where something was left, what is new about it is sought as far back the next time.
        told_until = int(self.began)
        if self.left and self.last is not None:
            told_until = self.last.looked_at
        elif self.left and self.backfill:
            told_until -= KEPT_FOR
        addresses = [asset.address for asset in self.assets if asset.address in self.marks]
        return PollingCursor(
            told_until,
            self.assets.index(self.left[0]) if self.left else 0,
            {address: self.marks[address] for address in addresses},
        )

    # What Peaka says

    def _found(self, statuses: Sequence[CacheStatus]) -> dict[bytes, CacheStatus]:
        """The status of each asset's cache, by the asset's address; what has none is a warning."""
        listed = {status.id: status for status in statuses if not status.deleted}
        tables = {
            asset.declared.reference: self.marks[asset.address].cache if asset.address in self.marks else None
            for asset in self.assets
            if isinstance(asset.declared.reference, TableName)
        }
        of_tables = find_tables(self.client, tables, listed.values())
        found: dict[bytes, CacheStatus] = {}
        for asset in self.assets:
            reference = asset.declared.reference
            status = of_tables[reference] if isinstance(reference, TableName) else listed.get(reference)
            if isinstance(status, CacheStatus):
                found[asset.address] = status
            else:
                self._warn("Not found in Peaka:", str(status or f"cache {reference}."))
        return found

    def _looks(self, found: Mapping[bytes, CacheStatus], server_time: datetime | None) -> list[_Look]:
        """The caches that are there, beginning with the one whose turn it is."""
        turn = self.last.turn if self.last else 0
        start = Start.EVERYTHING if self.backfill else Start.SINCE if self.last else Start.SILENT
        # By Peaka's clock, or by ours where it does not tell its own.
        now = server_time or datetime.fromtimestamp(self.began, timezone.utc)
        since = now - timedelta(seconds=self.began - self.last.looked_at) if self.last is not None else None
        return [
            _Look(
                asset,
                Review(
                    found[asset.address],
                    self.marks.get(asset.address),
                    start,
                    since=since,
                    now=now,
                    patience=self.peaka.start_timeout,
                    our_now=int(self.began),
                ),
            )
            for asset in (*self.assets[turn:], *self.assets[:turn])
            if asset.address in found
        ]

    def _read(self, moved: Sequence[_Look]) -> list[_Look]:
        """Those of the moved caches whose histories could be read."""
        reviews = [look.review for look in moved]
        results = read_histories(self.client, reviews, self._started + READING_BUDGET)
        read: list[_Look] = []
        for look, result in zip(moved, results, strict=True):
            if isinstance(result, PeakaError):
                self._warn(
                    "The history could not be read, and is read again at the next tick:",
                    f"{look.asset}: {result}",
                )
            if isinstance(result, Review) or (self.last is None and not self.backfill):
                read.append(look)  # without its history, too: a first tick only has to remember what runs
            else:
                self.left.append(look.asset)
        return read

    # What Dagster is told

    def _tell(self, looks: Sequence[_Look]) -> None:
        """Report what is new about these caches, as far as the time and the number of events allow."""
        for first in range(0, len(looks), ASKED_AT_ONCE):
            batch: list[_Look] = []
            for look in looks[first : first + ASKED_AT_ONCE]:
                if self.asked >= TOLD_AT_MOST or self._is_late(ASKING_BUDGET):
                    self.left.append(look.asset)
                    continue
                look.asked = look.review.choose(TOLD_AT_MOST - self.asked)
                self.asked += len(look.asked)
                batch.append(look)
            for look, told in self._told(batch):
                self._report(look, look.review.judge(told))

    def _told(self, looks: Sequence[_Look]) -> Iterator[tuple[_Look, Told]]:
        """What Dagster knows already of the executions that it is asked about."""
        asked = {look.asset.key: {execution.id for execution in look.asked} for look in looks if look.asked}
        yield from ((look, Told()) for look in looks if not look.asked)
        if not asked:
            return
        instance = self.context.instance
        since = min(self._began_at_most(look, look.asked) for look in looks if look.asked) - LOG_TOLERANCE
        held = recorded(instance, asked, since)
        for look in looks:
            if not look.asked:
                continue
            key, record = look.asset.key, held[look.asset.key]
            missing = asked[key] - record.runs.keys()
            check = dg.AssetCheckKey(key, LAST_SYNC_CHECK)
            yield (
                look,
                Told(
                    recorded=record.runs,
                    handed_over=handed_over(instance, key, look.cache_id, since - DEFERRED_FOR)
                    if missing
                    else (),
                    named=record.named,
                    evaluated=evaluated(instance, check) if look.asset.checked else None,
                ),
            )

    def _follow(self, looks: Sequence[_Look]) -> None:
        """Ask which of these caches runs of ours follow, before what is recorded: an ended run has told all."""
        if not looks or (self.last is None and not self.backfill):
            return  # a first tick that remembers what there is reports nothing
        since = [self._began_at_most(look, look.review.shown) for look in looks]
        caches = {look.asset.key: look.cache_id for look in looks}
        oldest = min([self.last.looked_at if self.last else self.began, *since]) - LOG_TOLERANCE
        under_way = followed(self.context.instance, caches, oldest)
        for look in looks:
            look.review.followed = under_way.get(look.asset.key, ())

    def _began_at_most(self, look: _Look, executions: Iterable[CacheExecution]) -> float:
        """Our clock, in epoch seconds, when the first of a cache's executions was created."""
        created = [execution.created_at for execution in executions]
        ages = [look.review.now - moment for moment in created if moment and look.review.now]
        oldest = max(ages, default=timedelta(0)).total_seconds() if len(ages) == len(created) else KEPT_FOR
        return self.began - oldest

    def _report(self, look: _Look, verdict: Verdict) -> None:
        asset = look.asset
        if verdict.mark is not None:
            self.marks[asset.address] = verdict.mark
        if not verdict.complete:
            self.left.append(asset)
        if self.last and self.began - self.last.looked_at > KEPT_FOR and not look.review.reaches_back:
            then = datetime.fromtimestamp(self.last.looked_at, timezone.utc)
            self._warn(
                f"The sensor last looked at Peaka on {then:%Y-%m-%d %H:%M} UTC, and Peaka keeps executions for 14 "
                "days: what ended before is lost to Dagster. Syncs may be missing of",
                str(asset),
            )
        for outcome in verdict.outcomes:
            self.outcomes.append((look, outcome))
            if not outcome.execution.succeeded and not asset.checked:
                self._warn("A sync has failed:", f"{asset}: {failure(look.cache_id, outcome)}")

    def _events(self) -> Iterator[Event]:
        """The events of all outcomes; of each asset the newest one tells what its table holds now, where it says so."""
        newest = {id(look): outcome for look, outcome in self.outcomes if outcome.record}
        until = self._started + MEASURING_BUDGET
        measurer = Measurer(self.client, self.context.log, max(1.0, until - time.monotonic()))
        asked: dict[int, Future[Measurement]] = {}
        for look, outcome in self.outcomes:
            if newest.get(id(look)) is outcome and is_measured(look.asset.declared):
                declared = look.asset.declared
                target = declared.target or SyncTarget(look.cache_id, str(declared.reference))
                asked[id(outcome)] = measurer.start(target, declared)
        concurrent.futures.wait(asked.values(), timeout=max(0.0, until - time.monotonic()))
        measurer.close()
        for look, outcome in self.outcomes:
            future = asked.get(id(outcome))
            if future is not None and not future.done():
                self._warn(
                    "Recorded without fingerprint and row count, which took too long:", str(look.asset)
                )
            measured = (
                future.result() if future is not None and future.done() and not future.cancelled() else None
            )
            yield from events_of(look.asset, look.cache_id, outcome, measured)

    def _summary(self, caches: int, moved: int) -> str:
        """What the tick has seen, or why there is nothing to report."""
        told = [event.asset_key for event in self.events]
        unfinished = sum(len(mark.unfinished) for mark in self.marks.values())
        if told:
            first = f"{len(told)} events of {len(set(told))} caches are recorded"
        elif self.last is None:
            first = f"The first look at {caches} caches: what ends from now on is recorded"
        else:
            first = f"No sync has ended since the last tick ({caches} caches, {moved} of them moved)"
        parts = [
            first,
            f"{unfinished} executions are unfinished" if unfinished else "",
            f"{len(self.left)} caches are left to the next tick" if self.left else "",
        ]
        return "; ".join(part for part in parts if part) + "."
