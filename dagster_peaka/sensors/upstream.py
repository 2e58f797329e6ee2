"""Upstream assets trigger caches: a sensor that requests runs of the caches whose upstreams have new materializations.

A tick reads the newest materialization of every watched asset in bulk, decides, and leaves in the cursor what it saw.
The decision is pure: :func:`decide` turns what the last tick left, and what is newest now, into requests and into
what this tick leaves.

Why nothing is lost and nothing requested twice: news are "another newest materialization than at the last look", so
ten partitions at once are one piece of news, and what is recorded while a run is in flight is news to the next tick.
News that may not be requested yet stay in the cursor. The run key is made of what triggered the run: a tick that is
repeated because its cursor was lost asks for the run that is there already.
"""

import hashlib
import json
import math
import time
from base64 import urlsafe_b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError

from dagster_peaka.caches.names import few
from dagster_peaka.errors import PeakaConfigError

NAMED_AT_MOST = 5
"""Assets that one message names at most."""

LOST_AFTER = 300.0
"""Seconds after which a run that is still starting counts as lost: a daemon that died has left it so, for ever."""

NEVER = ""
"""Stands for the newest materialization of an asset that has none."""


class State(BaseModel):
    """What one tick leaves to the next, as the cursor holds it: 22 characters for each upstream asset.

    Assets and materializations go by :func:`short` names; ``looked_at`` and ``requested`` are epoch seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    version: Literal[1] = 1
    looked_at: float
    seen: dict[str, str] = {}  # upstream: the newest of its materializations at the last look
    pending: dict[str, list[str]] = {}  # cache: upstreams with news that have not led to a request yet
    requested: dict[
        str, float
    ] = {}  # cache: its last request, while that is younger than the minimum interval
    lost: list[str] = []  # runs of this sensor that never start, and whose caches are requested once more


@dataclass(frozen=True)
class Newest:
    """An asset's newest materialization: which one it is, and when it was recorded (epoch seconds)."""

    token: str
    at: float


@dataclass(frozen=True)
class Rules:
    """Whether news of every upstream are needed, and the least seconds between two requests of one cache."""

    every_upstream: bool = False
    minimum_interval: float = 0.0


def decide(
    state: State,
    watched: Mapping[str, frozenset[str]],
    newest: Mapping[str, Newest],
    now: float,
    rules: Rules,
) -> tuple[dict[str, frozenset[str]], State]:
    """Which caches to request now, each with the upstreams that are news to it; and what this tick leaves.

    Args:
        watched: for each cache, the upstreams that it depends on.
        newest: for each upstream that was ever materialized, the newest time; read after ``now``.
        now: epoch seconds.
    """
    news = {upstream for upstream, latest in newest.items() if _is_news(state, upstream, latest)}
    # A clock that is set back holds nothing up.
    held = {
        cache: at
        for cache, at in state.requested.items()
        if cache in watched and 0 <= now - at < rules.minimum_interval
    }
    requests: dict[str, frozenset[str]] = {}
    pending: dict[str, list[str]] = {}
    for cache, upstreams in watched.items():
        new = (upstreams & news) | upstreams.intersection(state.pending.get(cache, ()))
        if not new:
            continue
        if cache in held or (rules.every_upstream and new != upstreams):
            pending[cache] = sorted(new)
        else:
            requests[cache] = new
    seen = {
        upstream: newest[upstream].token if upstream in newest else NEVER
        for upstream in frozenset[str]().union(*watched.values())
    }
    requested = {**held, **(dict.fromkeys(requests, now) if rules.minimum_interval else {})}
    return requests, State(looked_at=now, seen=seen, pending=pending, requested=requested, lost=state.lost)


def _is_news(state: State, upstream: str, latest: Newest) -> bool:
    if upstream in state.seen:
        # Another one, whatever its id: ids start anew in an event log that was wiped, and writers overtake each other.
        return latest.token != state.seen[upstream]
    # Watched for the first time, and that may have begun at any moment since the last look.
    return latest.at > state.looked_at


def short(*parts: object) -> str:
    """Eight characters that stand for texts and numbers: Dagster stores the cursor with every tick."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).digest()
    return urlsafe_b64encode(digest).decode()


def with_lost(
    state: State, watched: Mapping[str, frozenset[str]], lost: Mapping[str, Collection[str]]
) -> State:
    """The state in which the caches of runs that never start have news again, once for each run.

    Args:
        lost: for each such run that there is, its caches.
    """
    pending = {cache: set(upstreams) for cache, upstreams in state.pending.items()}
    for run in lost.keys() - state.lost:
        for cache in lost[run]:
            if cache in watched:
                pending.setdefault(cache, set()).update(watched[cache])
    kept = {cache: sorted(upstreams) for cache, upstreams in pending.items()}
    return state.model_copy(update={"pending": kept, "lost": sorted(lost)})


def run_key(requests: Mapping[str, frozenset[str]], seen: Mapping[str, str], lost: Sequence[str] = ()) -> str:
    """The same key for the same caches and the same materializations of their upstreams, and for nothing else.

    ``lost`` are runs that never start: Dagster knows their keys already.
    """
    triggers = {
        cache: {upstream: seen[upstream] for upstream in upstreams} for cache, upstreams in requests.items()
    }
    text = json.dumps([triggers, *lost], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Watch:
    """Which assets are requested, on the news of which others; by the short names of the cursor.

    What is requested is a key, or all the keys of a definition that only runs as a whole.
    """

    def __init__(self, definitions: Iterable[dg.AssetsDefinition]) -> None:
        self.keys: dict[str, tuple[dg.AssetKey, ...]] = {}
        self.upstream_keys: dict[str, dg.AssetKey] = {}
        self.watched: dict[str, frozenset[str]] = {}
        self.without_upstreams: list[dg.AssetKey] = []
        for definition in definitions:
            specs = list(definition.specs)
            for together in [[spec] for spec in specs] if definition.can_subset else [specs]:
                self._add(together)

    def _add(self, specs: Sequence[dg.AssetSpec]) -> None:
        keys = tuple(sorted(spec.key for spec in specs))
        upstreams = {dep.asset_key for spec in specs for dep in spec.deps}.difference(keys)
        if not upstreams:
            self.without_upstreams.extend(keys)
            return
        names = {_short_of(key): key for key in upstreams}
        name = _short_of(*keys)
        self.keys[name] = keys
        self.upstream_keys.update(names)
        self.watched[name] = frozenset(names)

    def newest(self, instance: dg.DagsterInstance) -> dict[str, Newest]:
        """The newest materialization of each upstream that has one, read at once."""
        newest: dict[str, Newest] = {}
        for asset in instance.get_asset_records(list(self.upstream_keys.values())):
            record = asset.asset_entry.last_materialization_record
            if record is not None:
                at = record.event_log_entry.timestamp
                newest[_short_of(asset.asset_entry.asset_key)] = Newest(short(record.storage_id, at), at)
        return newest

    def lost(self, instance: dg.DagsterInstance, sensor: str, now: float) -> dict[str, list[str]]:
        """The runs of this sensor that have been starting for too long, each with what it was requested for."""
        starting = dg.RunsFilter(
            tags={"dagster/sensor_name": sensor}, statuses=[dg.DagsterRunStatus.STARTING]
        )
        lost: dict[str, list[str]] = {}
        for record in instance.get_run_records(starting):
            if now - record.update_timestamp.timestamp() >= LOST_AFTER:
                selected = record.dagster_run.asset_selection or frozenset()
                caches = [cache for cache, keys in self.keys.items() if not selected.isdisjoint(keys)]
                lost[short(record.dagster_run.run_id)] = caches
        return lost

    def named(self, cache: str) -> str:
        """What is requested, in words."""
        return _listed(self.keys[cache])

    def named_upstreams(self, upstreams: Iterable[str]) -> str:
        """Upstreams in words."""
        return _listed(sorted(self.upstream_keys[upstream] for upstream in upstreams))


def _short_of(*keys: dg.AssetKey) -> str:
    return short(*(list(key.path) for key in keys))


def _listed(keys: Sequence[dg.AssetKey]) -> str:
    return few([key.to_user_string() for key in keys], NAMED_AT_MOST)


def build_peaka_upstream_sensor(
    assets: dg.AssetsDefinition | Sequence[dg.AssetsDefinition],
    *,
    name: str = "peaka_upstream_sensor",
    require: str = "any",
    minimum_update_interval: float | timedelta | None = None,
    run_tags: Mapping[str, str] | None = None,
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.SensorDefinition:
    """A sensor that requests a run of exactly those caches whose upstreams have new materializations.

    It watches the assets that the caches depend on (``deps``), in whatever code location they are; a cache that
    another one depends on is watched as well. A tick makes one run at most, of all caches that have news since their
    last request: however many materializations or partitions the news are. What arrives while a run is in flight
    leads to another run. Observations are no news.

    What was materialized before the sensor was turned on is not requested; what is materialized while it is paused is
    requested when it goes on. A cursor that cannot be read, or was cleared, is as if the sensor had just been turned
    on: it begins with what was materialized since then. A failed run is not requested again (that is for retry
    policies and run retries), and a run that materializes an upstream together with its cache leads to one more. A run
    that has been starting for five minutes was lost with the daemon that launched it: its caches are requested again.

    Args:
        assets: the cache assets, as the factories of this package make them.
        require: ``any``: one upstream with news makes a request; ``all``: every upstream of the cache needs news since
            the cache's last request.
        minimum_update_interval: least seconds (or a ``timedelta``) between two requests of one cache. What is new
            before is requested when they have passed. Syncs that take longer than the upstreams' pauses pile up in
            Dagster's queue; this keeps them apart.
        run_tags: tags of the runs, such as ``{"dagster/priority": "1"}``.
        minimum_interval_seconds: least seconds between two ticks; Dagster's daemon looks every 5 seconds at most.
        tags: tags of the sensor itself.

    Raises:
        PeakaConfigError: when an argument makes no sense, or when no cache depends on anything.

    Example:
        .. code-block:: python

            from datetime import timedelta

            import dagster as dg
            from dagster_peaka import build_peaka_cache_asset, build_peaka_upstream_sensor

            orders = build_peaka_cache_asset(table="shop.public.orders", deps=["landed_orders"])

            defs = dg.Definitions(
                assets=[orders],
                sensors=[build_peaka_upstream_sensor(orders, minimum_update_interval=timedelta(minutes=10))],
            )
    """
    rules = Rules(_every_upstream(require), _seconds(minimum_update_interval))
    watch = Watch(_definitions(assets))
    if not watch.watched:
        raise PeakaConfigError(
            f"{name} has nothing to watch, because none of its assets depends on another: "
            f"{_listed(watch.without_upstreams)}. Say with deps=[...] which assets fill the tables that they copy."
        )
    checked_tags = _checked_tags(run_tags)

    def request_caches_with_news(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = time.time()
        left = _left_by_the_last_tick(context)
        state = left or State(looked_at=context.last_sensor_start_time or now)
        lost = watch.lost(context.instance, name, now)
        if lost.keys() - state.lost:
            context.log.warning(
                "Runs of this sensor have been starting for %g minutes, as a daemon that died leaves them: their "
                "caches are requested once more. Terminate those runs in Dagster's UI.",
                LOST_AFTER / 60,
            )
        state = with_lost(state, watch.watched, lost)
        requests, after = decide(state, watch.watched, watch.newest(context.instance), now, rules)
        cursor = after.model_dump_json()
        if not requests:
            return dg.SensorResult(skip_reason=_why_not(watch, state, after, rules), cursor=cursor)
        for cache, upstreams in list(requests.items())[:NAMED_AT_MOST]:
            context.log.info("%s: news from %s.", watch.named(cache), watch.named_upstreams(upstreams))
        if len(requests) > NAMED_AT_MOST:
            context.log.info("And %d more.", len(requests) - NAMED_AT_MOST)
        request = dg.RunRequest(
            run_key=run_key(requests, after.seen, after.lost),
            asset_selection=[key for cache in requests for key in watch.keys[cache]],
            tags=checked_tags,
        )
        return dg.SensorResult(run_requests=[request], cursor=cursor)

    return dg.SensorDefinition(
        name=name,
        evaluation_fn=request_caches_with_news,
        asset_selection=dg.AssetSelection.assets(*(key for keys in watch.keys.values() for key in keys)),
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=description or _description(watch, rules),
        tags=tags,
    )


def _left_by_the_last_tick(context: dg.SensorEvaluationContext) -> State | None:
    if not context.cursor:
        return None
    try:
        return State.model_validate_json(context.cursor)
    except ValidationError:
        context.log.warning(
            "This sensor's cursor cannot be read, so it starts anew: with every cache whose upstreams have been "
            "materialized since the sensor was turned on. The cursor was: %.200s",
            context.cursor,
        )
        return None


def _why_not(watch: Watch, state: State, after: State, rules: Rules) -> str:
    """Why a tick requests nothing."""
    if not after.pending:
        return (
            f"Nothing new: no upstream asset has been materialized since {_time(state.looked_at)} "
            f"(upstream assets: {len(watch.upstream_keys)}, caches: {len(watch.keys)})."
        )
    reasons: list[str] = []
    for cache, upstreams in list(after.pending.items())[:NAMED_AT_MOST]:
        reason = f"{watch.named(cache)} has news from {watch.named_upstreams(upstreams)}"
        missing = watch.watched[cache].difference(upstreams) if rules.every_upstream else ()
        if missing:
            reason += f", but none yet from {watch.named_upstreams(missing)}"
        if cache in after.requested:
            over = after.requested[cache] + rules.minimum_interval
            reason += f", and its minimum interval ends at {_time(over)}"
        reasons.append(f"{reason}.")
    more = len(after.pending) - len(reasons)
    return " ".join(["Waiting.", *reasons, *([f"{more} more wait as well."] if more else [])])


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _description(watch: Watch, rules: Rules) -> str:
    which = (
        "every asset that it depends on has" if rules.every_upstream else "an asset that it depends on has"
    )
    text = f"Requests a run of a Peaka cache when {which} a new materialization"
    if rules.minimum_interval:
        text += f", at least {rules.minimum_interval:g} seconds after its last request"
    idle = watch.without_upstreams
    return f"{text}." + (f" Never of those that depend on nothing: {_listed(idle)}." if idle else "")


def _definitions(assets: dg.AssetsDefinition | Sequence[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    definitions: list[Any] = [assets] if isinstance(assets, dg.AssetsDefinition) else list(assets)
    for definition in definitions:
        if not isinstance(definition, dg.AssetsDefinition):
            raise PeakaConfigError(
                f"assets: {definition!r} is no AssetsDefinition. Give what build_peaka_cache_asset and "
                "build_peaka_cache_assets return."
            )
        if definition.partitions_def is not None:
            raise PeakaConfigError(
                f"assets: {_listed(sorted(definition.keys))} has partitions, and a Peaka cache has none: a run of "
                "it could not say which partition it is for."
            )
    if not definitions:
        raise PeakaConfigError(
            "assets: there is none. Give the cache assets of which runs are to be requested."
        )
    return definitions


def _every_upstream(require: str) -> bool:
    if require not in ("any", "all"):
        raise PeakaConfigError(f"require is {require!r}: write 'any' or 'all'.")
    return require == "all"


def _seconds(interval: float | timedelta | None) -> float:
    if interval is None:
        return 0.0
    seconds: Any = interval.total_seconds() if isinstance(interval, timedelta) else interval
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
        raise PeakaConfigError(
            f"minimum_update_interval is {interval!r}: write a number of seconds, or a timedelta; neither can be "
            "negative or endless."
        )
    return float(seconds)


def _checked_tags(run_tags: Mapping[str, str] | None) -> dict[str, str]:
    tags: dict[Any, Any] = dict(run_tags or {})
    for tag, value in tags.items():
        if not (isinstance(tag, str) and tag and isinstance(value, str)):
            raise PeakaConfigError(
                f"run_tags: {tag!r}: {value!r} is no pair of texts; write both as strings."
            )
    return tags
