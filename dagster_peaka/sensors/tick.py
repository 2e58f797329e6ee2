"""One evaluation of the polling sensor: what it polls, asks, reports, and leaves to the next one."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import dagster as dg

from dagster_peaka.api.client import PeakaClient
from dagster_peaka.api.models import CacheExecution, CacheStatus
from dagster_peaka.caches.declared import LAST_SYNC_CHECK, polled_assets
from dagster_peaka.caches.lookup import list_caches
from dagster_peaka.caches.names import TableName, few
from dagster_peaka.errors import PeakaConfigError, PeakaConnectionError, PeakaError, PeakaNotFoundError
from dagster_peaka.resource import PeakaResource
from dagster_peaka.sensors.claims import Logged
from dagster_peaka.sensors.cursor import Mark, PollingCursor, UnreadableCursor, short
from dagster_peaka.sensors.event_log import deferred, evaluated, followed, recorded
from dagster_peaka.sensors.events import Event, PolledAsset, Reported, failure, measured_events
from dagster_peaka.sensors.overlap import left_to_others, words_on_overlaps
from dagster_peaka.sensors.reading import CatalogNames, find_tables, read_histories
from dagster_peaka.sensors.review import Review, Start, Verdict
from dagster_peaka.sensors.summary import summary
from dagster_peaka.steps.row_counts import is_measured

READING_BUDGET = 25.0
"""Seconds of a tick after which nothing more is read from Peaka; Dagster gives a tick 60 by default."""

ASKING_BUDGET = 40.0
"""Seconds of a tick after which the event log is asked no more."""

MEASURING_BUDGET = 50.0
"""Seconds of a tick after which no answer on row counts and fingerprints is waited for."""

REPORTED_AT_MOST = 500
"""Executions that one tick reports at most: Dagster stores their events one by one, in milliseconds each."""

ASKED_AT_ONCE = 50
"""Caches that the event log is asked about at once, before the time is checked again."""

KEPT_FOR = 14 * 86_400
"""Seconds for which Peaka keeps an execution in the history, by its OpenAPI document."""

DEFERRED_FOR = 86_400
"""Seconds for which a trigger that nobody waits for may be queued before its execution is created."""

LOG_TOLERANCE = 300
"""Seconds by which the clocks of those who write to the event log may differ."""

NAMED_AT_MOST = 10
"""Caches that one message names at most."""


@dataclass
class _Polled:
    """One cache at one tick."""

    asset: PolledAsset
    review: Review
    asked: Sequence[CacheExecution] = ()
    """The executions that the event log is asked about."""

    @property
    def cache_id(self) -> str:
        return self.review.status.id

    @property
    def unreported(self) -> list[CacheExecution]:
        """The executions in the status of which something may have to be reported."""
        mark = self.review.mark
        over = set[bytes | None]() if mark is None else {*mark.newest.values()} - mark.unfinished
        return [execution for execution in self.review.shown if short(execution.id) not in over]


@dataclass
class Tick:
    """One evaluation of the sensor.

    Attributes:
        name: the sensor's own.
        backfill: whether a cache that is seen for the first time brings along what its history shows.
        catalogs: the names of catalogs, as earlier ticks have read them.
    """

    context: dg.SensorEvaluationContext
    name: str
    client: PeakaClient
    peaka: PeakaResource
    assets: Sequence[PolledAsset]
    backfill: bool
    catalogs: CatalogNames

    def __post_init__(self) -> None:
        self.began, self._started = time.time(), time.monotonic()
        self.last = self._last_cursor()
        self.marks: dict[bytes, Mark] = dict(self.last.marks) if self.last else {}
        self.others = left_to_others(
            self.context, self.name, (asset.key for asset in self.assets), polled_assets
        )
        self.polled: list[_Polled] = []
        self.reported: list[Reported] = []
        self.asked = 0
        self.left: list[PolledAsset] = []
        self.warnings: dict[str, list[str]] = {}
        """What goes wrong, by the beginning of the line that says it."""

    def result(self) -> dg.SensorResult:
        """What the tick returns: events, or why there are none; and the cursor."""
        try:
            answer = list_caches(self.client, timeout=READING_BUDGET)
            found = self._found(answer.value)
        except PeakaError as error:
            if error.permanent:
                raise
            problem = str(error)
        else:
            return self._evaluated(found, answer.server_time)
        return self._skipped(problem)

    def _skipped(self, problem: str) -> dg.SensorResult:
        """That Peaka could not be polled: the first tick that can poll records what ended meanwhile.

        Raises:
            PeakaConnectionError: when that has lasted for too long. A failed tick is what Dagster's alerts go by.
        """
        polled_at = self.last.evaluated_at if self.last else 0
        since = max(polled_at, self.context.last_sensor_start_time or 0)
        away, tolerance = self.began - since if since else 0.0, self.peaka.outage_tolerance
        if away <= tolerance:
            reason = f"Nothing was polled, for {away:.0f} s of {tolerance:g} s (outage_tolerance). {problem}"
            cursor = self.context.cursor if self.last is None else self.last.after_outage().encode()
            return dg.SensorResult(skip_reason=reason, cursor=cursor)
        raise PeakaConnectionError(
            f"Peaka could not be polled since {datetime.fromtimestamp(since, timezone.utc):%Y-%m-%d %H:%M:%S} UTC, "
            f"for {away:.0f} s, which is longer than outage_tolerance ({tolerance:g} s). Nothing is lost: the first "
            f"tick that can poll records what has ended. {problem}"
        )

    def _evaluated(self, found: Mapping[bytes, CacheStatus], server_time: datetime | None) -> dg.SensorResult:
        """What the caches that were found make of the tick."""
        self.polled = self._reviewed(found, server_time)
        moved = [polled for polled in self.polled if polled.review.moved]
        self._report_on([each for each in self.polled if not each.review.moved and each.review.mark is None])
        self._follow(moved)
        read = self._read(moved)
        self._report_on(read)
        events = self._events()
        for line in words_on_overlaps(self.name, self.others):
            self.context.log.warning("%s", line)
        for beginning, lines in self.warnings.items():
            self.context.log.warning("%s %s", beginning, few(lines, NAMED_AT_MOST, " "))
        recorded = [str(each) for each in self.reported if each.is_recorded]
        if recorded:
            self.context.log.info("Recorded %s.", few(recorded, NAMED_AT_MOST, "; "))
        # What is recorded now stays open until the event log is seen to hold it.
        unfinished = sum(len(mark.unfinished) for mark in self.marks.values())
        reason = summary(
            events,
            is_first=self.last is None,
            caches=len(self.polled),
            histories=len(read),
            unfinished=max(0, unfinished - sum(each.outcome.record for each in self.reported)),
            left=len(self.left),
            failed=len(self.reported) - len(recorded),
        )
        self.context.log.info("%s", reason)
        # A tick that requests no run counts as skipped in Dagster's UI, which shows this reason beside it.
        return dg.SensorResult(asset_events=events, skip_reason=reason, cursor=self._next_cursor().encode())

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
        last = self.last or PollingCursor(int(self.began) - (KEPT_FOR if self.backfill else 0))
        left = {asset.address for asset in self.left}
        polled = {polled.asset.address for polled in self.polled}
        addresses = [asset.address for asset in self.assets]
        return PollingCursor(
            int(self.began),
            self.assets.index(self.left[0]) if self.left else 0,
            {address: self.marks[address] for address in addresses if address in self.marks},
            # Where something was left, what is new about it is sought as far back the next time.
            {
                address: last.reported_until(address)
                for address in addresses
                if address in left or (address in last.behind and address not in polled)
            },
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
        of_tables = find_tables(self.client, self.catalogs, tables, listed.values())
        found: dict[bytes, CacheStatus] = {}
        unknown: PeakaError | None = None
        for asset in self.assets:
            reference = asset.declared.reference
            status = of_tables[reference] if isinstance(reference, TableName) else listed.get(reference)
            if isinstance(status, CacheStatus):
                found[asset.address] = status
            elif status is None or isinstance(status, (PeakaConfigError, PeakaNotFoundError)):
                self._warn("Not found in Peaka:", str(status or f"cache {reference}."))
            else:
                unknown = status
                self.left.append(asset)
                self._warn("The catalogs could not be read to find a cache:", f"{asset}: {status}")
        if unknown is not None and not found:
            raise unknown
        return found

    def _reviewed(self, found: Mapping[bytes, CacheStatus], server_time: datetime | None) -> list[_Polled]:
        """The caches that are there, beginning with the one whose turn it is."""
        turn = self.last.turn if self.last else 0
        start = Start.EVERYTHING if self.backfill else Start.SINCE if self.last else Start.SILENT
        # By Peaka's clock, or by ours where it does not tell its own.
        now = server_time or datetime.fromtimestamp(self.began, timezone.utc)
        return [
            _Polled(
                asset,
                Review(
                    found[asset.address],
                    self.marks.get(asset.address),
                    start,
                    since=now - timedelta(seconds=self.began - self.last.reported_until(asset.address))
                    if self.last is not None
                    else None,
                    now=now,
                    patience=self.peaka.start_timeout,
                    our_now=int(self.began),
                ),
            )
            for asset in (*self.assets[turn:], *self.assets[:turn])
            if asset.address in found
        ]

    def _read(self, moved: Sequence[_Polled]) -> list[_Polled]:
        """Those of the moved caches whose histories could be read."""
        reviews = [polled.review for polled in moved]
        results = read_histories(self.client, reviews, self._started + READING_BUDGET)
        read: list[_Polled] = []
        for polled, result in zip(moved, results, strict=True):
            if isinstance(result, PeakaError):
                self._warn(
                    "The history could not be read, and is read again at the next tick:",
                    f"{polled.asset}: {result}",
                )
                if polled.review.mark is not None:
                    self.marks[polled.asset.address] = polled.review.mark.after_outage()
            if isinstance(result, Review) or (self.last is None and not self.backfill):
                read.append(polled)  # without its history, too: a first tick only has to remember what runs
            else:
                self.left.append(polled.asset)
        return read

    # What the event log holds, and what is reported

    def _report_on(self, polled: Sequence[_Polled]) -> None:
        """Report what is new about these caches, as far as the time and the number of events allow."""
        for first in range(0, len(polled), ASKED_AT_ONCE):
            batch: list[_Polled] = []
            for each in polled[first : first + ASKED_AT_ONCE]:
                if self.asked >= REPORTED_AT_MOST or self._is_late(ASKING_BUDGET):
                    self.left.append(each.asset)
                    continue
                each.asked = each.review.choose(REPORTED_AT_MOST - self.asked)
                self.asked += len(each.asked)
                batch.append(each)
            for each, known in self._known(batch):
                self._report(each, each.review.judge(known))

    def _known(self, batch: Sequence[_Polled]) -> Iterator[tuple[_Polled, Logged]]:
        """What Dagster knows already of the executions that it is asked about."""
        asked = {each.asset.key: {execution.id for execution in each.asked} for each in batch if each.asked}
        yield from ((each, Logged()) for each in batch if not each.asked)
        if not asked:
            return
        instance = self.context.instance
        since = min(self._created_at_least(each, each.asked) for each in batch if each.asked) - LOG_TOLERANCE
        held = recorded(instance, asked, since)
        for each in batch:
            if not each.asked:
                continue
            key, record = each.asset.key, held[each.asset.key]
            missing = asked[key] - record.runs.keys()
            check = dg.AssetCheckKey(key, LAST_SYNC_CHECK)
            yield (
                each,
                Logged(
                    recorded=record.runs,
                    deferred=deferred(instance, key, each.cache_id, since - DEFERRED_FOR) if missing else (),
                    named=record.named,
                    evaluated=evaluated(instance, check) if each.asset.checked else None,
                ),
            )

    def _follow(self, moved: Sequence[_Polled]) -> None:
        """Ask which of these caches runs of ours follow, before what is recorded: an ended run has recorded all."""
        if not moved or (self.last is None and not self.backfill):
            return  # a first tick that remembers what there is reports nothing
        caches: dict[dg.AssetKey, tuple[str, float]] = {}
        for each in moved:
            until = self.last.reported_until(each.asset.address) if self.last else self.began
            oldest = min(until, self._created_at_least(each, each.unreported))
            caches[each.asset.key] = each.cache_id, oldest - LOG_TOLERANCE
        under_way = followed(self.context.instance, caches)
        for each in moved:
            each.review.followed = under_way.get(each.asset.key, ())

    def _created_at_least(self, polled: _Polled, executions: Iterable[CacheExecution]) -> float:
        """Our clock, in epoch seconds, when the first of a cache's executions was created, or before that."""
        created = [execution.created_at for execution in executions]
        ages = [polled.review.now - moment for moment in created if moment and polled.review.now]
        oldest = max(ages, default=timedelta(0)).total_seconds() if len(ages) == len(created) else KEPT_FOR
        return self.began - oldest

    def _report(self, polled: _Polled, verdict: Verdict) -> None:
        asset = polled.asset
        if verdict.mark is not None:
            self.marks[asset.address] = verdict.mark
        if not verdict.complete:
            self.left.append(asset)
        if asset.key in self.others:
            # Polled all the same: what the event log does not hold at the next tick is reported then, should the other
            # sensor be off.
            return
        until = self.last.reported_until(asset.address) if self.last else self.began
        if self.began - until > KEPT_FOR and not polled.review.reaches_back:
            then = datetime.fromtimestamp(until, timezone.utc)
            self._warn(
                f"Not polled since {then:%Y-%m-%d %H:%M} UTC, and Peaka keeps executions for 14 days: what ended "
                "before is lost to Dagster. Syncs may be missing of",
                str(asset),
            )
        for outcome in verdict.outcomes:
            other = polled.review.status.last(outcome.mode.other) if outcome.mode is not None else None
            other_runs = other is not None and not other.ended
            self.reported.append(Reported(asset, polled.cache_id, outcome, other_runs))
            if other_runs and outcome.record and is_measured(asset.declared):
                self._warn(
                    "Recorded without fingerprint and row count, because the other mode's execution still runs:",
                    str(asset),
                )
            if not outcome.execution.succeeded and not asset.checked:
                self._warn("A sync has failed:", f"{asset}: {failure(polled.cache_id, outcome)}")

    def _events(self) -> list[Event]:
        """The events of all that is reported."""
        late: list[PolledAsset] = []
        until = self._started + MEASURING_BUDGET
        events = list(measured_events(self.reported, self.client, self.context.log, until, late))
        for asset in late:
            self._warn("Recorded without fingerprint and row count, which took too long:", str(asset))
        return events
