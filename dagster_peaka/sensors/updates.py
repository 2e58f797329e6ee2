"""Which caches to request, because their upstreams were updated: pure, over what the last tick left and what is newest.

Why nothing is lost and nothing requested twice: an asset is updated when its newest materialization is another one
than at the last tick, so ten partitions at once are one update, and what is recorded while a run is in flight is one
to the next tick. An update that may not be requested yet stays in the cursor. Dagster stores the cursor only when the
tick's run exists, and the run key is made of what triggered the run: a tick that is repeated, because its cursor was
not stored, requests the run that is there already.

What becomes of a run that exists is not asked: Dagster's run monitoring ends the lost ones, and run retries repeat
them. A sensor that asks again makes a cluster that is slow to start pods slower.
"""

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

NEVER = ""
"""Stands for the newest materialization of an asset that has none."""


class State(BaseModel):
    """What one tick leaves to the next, as the cursor holds it: 22 characters for each upstream asset.

    Assets and materializations go by :func:`short` names; ``evaluated_at`` and ``requested`` are epoch seconds.
    """

    # The first release's cursors hold one field more, `lost`, and have another name for `evaluated_at`.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    version: Literal[1] = 1
    evaluated_at: float = Field(validation_alias=AliasChoices("evaluated_at", "looked_at"))
    seen: dict[str, str] = {}  # upstream: the newest of its materializations at that tick
    pending: dict[str, list[str]] = {}  # cache: updated upstreams that have not led to a request yet
    requested: dict[
        str, float
    ] = {}  # cache: its last request, while that is younger than the minimum interval


@dataclass(frozen=True)
class Newest:
    """An asset's newest materialization: which one it is, and when it was recorded (epoch seconds)."""

    token: str
    at: float


@dataclass(frozen=True)
class Rules:
    """Whether every upstream has to be updated, and the least seconds between two requests of one cache."""

    every_upstream: bool = False
    minimum_interval: float = 0.0


def decide(
    state: State,
    watched: Mapping[str, frozenset[str]],
    newest: Mapping[str, Newest],
    now: float,
    rules: Rules,
    left: Collection[str] = (),
) -> tuple[dict[str, frozenset[str]], State]:
    """Which caches to request now, each with its updated upstreams; and what this tick leaves.

    Args:
        watched: for each cache, the upstreams that it depends on.
        newest: for each upstream that was ever materialized, the newest time; read after ``now``.
        now: epoch seconds.
        left: caches that another sensor requests; what is new to them stays here until it no longer does.
    """
    updated = {upstream for upstream, latest in newest.items() if _is_updated(state, upstream, latest)}
    # A clock that is set back holds nothing up.
    held = {
        cache: at
        for cache, at in state.requested.items()
        if cache in watched and 0 <= now - at < rules.minimum_interval
    }
    requests: dict[str, frozenset[str]] = {}
    pending: dict[str, list[str]] = {}
    for cache, upstreams in watched.items():
        new = (upstreams & updated) | upstreams.intersection(state.pending.get(cache, ()))
        if not new:
            continue
        if cache in left or cache in held or (rules.every_upstream and new != upstreams):
            pending[cache] = sorted(new)
        else:
            requests[cache] = new
    seen = {
        upstream: newest[upstream].token if upstream in newest else NEVER
        for upstream in frozenset[str]().union(*watched.values())
    }
    requested = {**held, **(dict.fromkeys(requests, now) if rules.minimum_interval else {})}
    return requests, State(evaluated_at=now, seen=seen, pending=pending, requested=requested)


def _is_updated(state: State, upstream: str, latest: Newest) -> bool:
    if upstream in state.seen:
        # Another one, whatever its id: ids start anew in an event log that was wiped, and writers overtake each other.
        return latest.token != state.seen[upstream]
    # Watched for the first time, and that may have begun at any moment since the last tick.
    return latest.at > state.evaluated_at


def short(*parts: object) -> str:
    """Eight characters that stand for strings and numbers: Dagster stores the cursor with every tick."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).digest()
    return urlsafe_b64encode(digest).decode()


def run_key(requests: Mapping[str, frozenset[str]], seen: Mapping[str, str]) -> str:
    """The same key for the same caches and the same materializations of their upstreams, and for nothing else."""
    triggers = {
        cache: {upstream: seen[upstream] for upstream in upstreams} for cache, upstreams in requests.items()
    }
    text = json.dumps(
        [triggers], sort_keys=True
    )  # as in the first release: a tick may be repeated by the next one
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
