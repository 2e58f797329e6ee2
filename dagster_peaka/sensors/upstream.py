"""Upstream assets trigger caches: a sensor that requests runs of the caches whose upstreams have new materializations.

A tick reads the newest materialization of every watched asset in bulk, decides by :mod:`dagster_peaka.sensors.updates`
which caches to request, and leaves in the cursor what it read.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
from pydantic import ValidationError

from dagster_peaka.caches.declared import given_assets, requested_assets, upstream_sensor_metadata
from dagster_peaka.caches.names import few
from dagster_peaka.errors import PeakaConfigError
from dagster_peaka.sensors.overlap import left_to_others
from dagster_peaka.sensors.updates import Newest, Rules, State, decide, run_key, short

NAMED_AT_MOST = 5
"""Assets that one message names at most."""


class Watch:
    """Which assets are requested, on updates of which others; by the short names of the cursor.

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

    def left(self, others: Mapping[dg.AssetKey, str]) -> dict[str, str]:
        """What other sensors request, with the sensor's name: also what they request only a part of."""
        return {
            cache: others[key] for cache, keys in self.keys.items() for key in reversed(keys) if key in others
        }

    @property
    def requested_keys(self) -> list[dg.AssetKey]:
        """The assets of all that is requested."""
        return [key for keys in self.keys.values() for key in keys]

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
    another one depends on is watched as well. A tick requests one run at most, of all caches whose upstreams were
    updated since their last request, by however many materializations or partitions. What arrives while a run is in
    flight leads to another run. Observations do not count.

    What was materialized before the sensor was turned on is not requested; what is materialized while it is paused is
    requested when it goes on. A cursor that cannot be read, or was cleared, is as if the sensor had just been turned
    on: it begins with what was materialized since then. A run that materializes an upstream together with its cache
    leads to one more. A run that fails, is cancelled or never starts is not requested again: Dagster's run monitoring
    ends runs that are lost, and retry policies and run retries repeat what has failed.

    Args:
        assets: the cache assets, as the factories of this package make them.
        require: ``any``: one updated upstream makes a request; ``all``: every upstream of the cache has to be updated
            since the cache's last request.
        minimum_update_interval: least seconds (or a ``timedelta``) between two requests of one cache. What is new
            before is requested when they have passed. Syncs that take longer than the upstreams' pauses pile up in
            Dagster's queue; this keeps them apart.
        run_tags: tags of the runs, such as ``{"dagster/priority": "1"}``.
        minimum_interval_seconds: least seconds between two ticks; Dagster's daemon evaluates no sensor more often than
            every 5 seconds.
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

    def request_updated_caches(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = time.time()
        last = _left_by_the_last_tick(context)
        state = last or State(evaluated_at=context.last_sensor_start_time or now)
        left = watch.left(left_to_others(context, name, watch.requested_keys, requested_assets))
        for other in sorted(set(left.values())):
            shared = [key for cache in left if left[cache] == other for key in watch.keys[cache]]
            context.log.warning(
                "Sensors %s and %s both request %s. This one leaves it to %s, or each new materialization would be two "
                "runs: give each asset to one upstream sensor.",
                other,
                name,
                _listed(shared),
                other,
            )
        newest = watch.newest(context.instance)
        requests, after = decide(state, watch.watched, newest, now, rules, left)
        cursor = after.model_dump_json()
        if not requests:
            return dg.SensorResult(skip_reason=_why_not(watch, state, after, rules, left), cursor=cursor)
        for cache, upstreams in list(requests.items())[:NAMED_AT_MOST]:
            context.log.info(
                "%s: new materializations of %s.", watch.named(cache), watch.named_upstreams(upstreams)
            )
        if len(requests) > NAMED_AT_MOST:
            context.log.info("And %d more.", len(requests) - NAMED_AT_MOST)
        request = dg.RunRequest(
            run_key=run_key(requests, after.seen),
            asset_selection=[key for cache in requests for key in watch.keys[cache]],
            tags=checked_tags,
        )
        return dg.SensorResult(run_requests=[request], cursor=cursor)

    return dg.SensorDefinition(
        name=name,
        evaluation_fn=request_updated_caches,
        asset_selection=dg.AssetSelection.assets(*watch.requested_keys),
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=description or _description(watch, rules),
        tags=tags,
        metadata=upstream_sensor_metadata(watch.requested_keys),
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


def _why_not(watch: Watch, state: State, after: State, rules: Rules, left: Mapping[str, str]) -> str:
    """Why a tick requests nothing."""
    if not after.pending:
        return (
            f"Nothing new: no upstream asset has been materialized since {_time(state.evaluated_at)} "
            f"(upstream assets: {len(watch.upstream_keys)}, caches: {len(watch.keys)})."
        )
    reasons: list[str] = []
    for cache, upstreams in list(after.pending.items())[:NAMED_AT_MOST]:
        reason = f"{watch.named(cache)} has new materializations of {watch.named_upstreams(upstreams)}"
        missing = watch.watched[cache].difference(upstreams) if rules.every_upstream else ()
        if missing:
            reason += f", but none yet of {watch.named_upstreams(missing)}"
        if cache in after.requested:
            over = after.requested[cache] + rules.minimum_interval
            reason += f", and its minimum interval ends at {_time(over)}"
        if cache in left:
            reason += f", and is left to sensor {left[cache]}"
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
    definitions = given_assets(assets, "build_peaka_upstream_sensor")
    for definition in definitions:
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
            raise PeakaConfigError(f"run_tags: {tag!r}: {value!r} is no pair of strings; quote both.")
    return tags
