"""What the sandbox knows of caches and executions: plain state, and the form in which the store keeps it."""

import asyncio
import json
import re
import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from dagster_peaka.sandbox.behaviour import Behaviour, Mode, Plan
from dagster_peaka.sandbox.errors import bad_request
from dagster_peaka.sandbox.sources import TableName, trino_type
from dagster_peaka.sandbox.store import Counts

RETENTION = 14 * 86_400
"""Seconds for which an execution stays in the history after its end (Peaka's document: 14 days)."""
_DURATION = re.compile(
    "P(?=[0-9T])(?:([0-9]{1,9})W)?(?:([0-9]{1,9})D)?"
    r"(?:T(?=[0-9])(?:([0-9]{1,9})H)?(?:([0-9]{1,9})M)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)S)?)?"
)
_UNITS = (604_800, 86_400, 3_600, 60, 1)
"""The seconds of a week, a day, an hour, a minute and a second."""
SHORTEST = 0.1
"""Seconds below which a schedule would only keep the machine busy."""
LONGEST = 366 * 86_400
"""Seconds above which a duration is taken for a mistake."""
Origin = Literal["api", "schedule", "stranger", "creation"]
R = TypeVar("R")


def release(held: Iterable["Stoppable"]) -> None:
    for one in held:
        one.released.set()


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:  # on Python 3.10 not yet the built-in one
        return False
    return True


class Stoppable:
    """What lasts as its plan says, unless somebody stops it."""

    plan: Plan

    def __post_init__(self) -> None:
        self.leave = asyncio.Event()
        self.released = asyncio.Event()

    def stop(self) -> None:
        """Let it end early, whatever it does."""
        self.leave.set()
        self.released.set()

    async def lasted(self, seconds: float) -> bool:
        """Wait for so long, then, where that is planned, to be released. False where it has to stop before."""
        if seconds > 0 and await set_within(self.leave, seconds):
            return False
        if self.plan.hold:
            await self.released.wait()
        return not self.leave.is_set()


def recorded(kind: type[R], *states: object) -> R:
    """A record of states as they now are: each of its fields from the first of them that has it."""
    known = ChainMap(*map(vars, states))
    return kind(**{name: known[name] for name in kind.__annotations__})


@dataclass
class ExecutionRecord:
    """The truth about an execution, whatever the API shows of it. Times are epoch seconds by the true clock."""

    id: str
    cache_id: str
    mode: Mode
    status: str
    origin: Origin
    request_number: int | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    inserted: int
    updated: int
    deleted: int
    cached: int
    error: dict[str, Any] | str | None


@dataclass(eq=False)
class Execution(Stoppable):
    """One run of a cache's sync. `status` is QUEUED, RUNNING, COMPLETED, FAILED or CANCELLED."""

    id: str
    cache_id: str
    mode: Mode
    origin: Origin
    sequence: int
    request_number: int | None
    created_at: float
    visible_at: float
    duration: float
    plan: Plan
    status: str = "QUEUED"
    started_at: float | None = None
    updated_at: float | None = None
    finished_at: float | None = None
    error: dict[str, Any] | str | None = None
    stopping: bool = False
    """Whether somebody has cancelled it: that outlives a restart."""
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ended = asyncio.Event()
        self.interrupt: Callable[[], None] | None = None
        """Ends the statement that copies right now, from any thread."""

    @property
    def finished(self) -> bool:
        return self.finished_at is not None

    def record(self) -> ExecutionRecord:
        return recorded(ExecutionRecord, self, self.counts)

    def stop(self) -> None:
        super().stop()
        if self.interrupt is not None:
            self.interrupt()

    async def last(self, behaviour: Behaviour) -> bool:
        """Wait until it has lasted as long as it shall. False where it has to stop before."""
        until = (self.started_at or 0.0) + self.duration + self.counts.cached * behaviour.row_seconds
        if self.mode == "FULL_REFRESH" and behaviour.full_refresh_gap:
            until = max(until, self.visible_at)  # no sync is so short that its record shows it as ended only
        return await self.lasted(until - time.time())

    def saved(self) -> tuple[Any, ...]:
        body = {name: value for name, value in vars(self).items() if name in _SAVED_FIELDS}
        body["plan"] = asdict(self.plan)
        counts = vars(self.counts).values()
        return self.id, self.cache_id, self.sequence, json.dumps(body), self.finished, *counts

    @classmethod
    def load(cls, row: tuple[Any, ...]) -> "Execution":
        execution_id, cache_id, sequence, text, _, *counts = row
        body = json.loads(text)
        plan = Plan(**body.pop("plan"))
        known = {"id": execution_id, "cache_id": cache_id, "sequence": sequence, **body}
        return cls(plan=plan, counts=Counts(*counts), **known)


_SAVED_FIELDS = frozenset(Execution.__dataclass_fields__) - {"id", "cache_id", "sequence", "counts", "plan"}


def parse_duration(text: str) -> float:
    """The seconds of a duration: `parse_duration("P1DT6H") == 108_000`.

    Raises `ValueError` with a sentence for anything else, years and months included: they have no fixed length.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text[:60]!a} is no ISO-8601 duration of weeks, days, hours, minutes and seconds, such as PT6H or P1D"
        )
    seconds = sum(float(amount or 0) * unit for amount, unit in zip(match.groups(), _UNITS, strict=True))
    if seconds < SHORTEST:
        raise ValueError(f"{text[:60]!a} is too short: a schedule needs at least PT{SHORTEST}S")
    if seconds > LONGEST:
        raise ValueError(f"{text[:60]!a} is too long: a schedule may wait P366D at most")
    return seconds


@dataclass
class Schedule:
    """When a cache syncs by itself: every `seconds`, counted from `since` (epoch seconds)."""

    expression: str
    seconds: float
    since: float


@dataclass(eq=False)
class Cache:
    """A table that is kept as a copy. `copied` holds the columns of its copy, once there is one."""

    id: str
    name: TableName
    modes: tuple[Mode, ...]
    schedules: dict[Mode, Schedule] = field(default_factory=dict[Mode, Schedule])
    copied: tuple[tuple[str, str], ...] | None = None
    deltas: int = 0
    executions: list[Execution] = field(default_factory=list[Execution])
    active: list[Execution] = field(default_factory=list[Execution])
    timers: list["asyncio.Task[None]"] = field(default_factory=list["asyncio.Task[None]"])

    def __post_init__(self) -> None:
        self.copying = asyncio.Lock()
        """Executions of both modes may run at once; their copying takes turns."""

    def reschedule(self, expressions: Mapping[Mode, str | None]) -> None:
        """Set the schedules of the modes named, None for none. Raises `ApiError`."""
        if expressions.get("INCREMENTAL") is not None and "INCREMENTAL" not in self.modes:
            raise bad_request(f"incrementalCacheSchedule: {no_key(self.name)}")
        for mode, text in expressions.items():
            self.schedules.pop(mode, None)
            if text is not None:
                self.schedules[mode] = Schedule(text, parse_duration(text), time.time())

    def running(self, mode: Mode) -> Execution | None:
        return next((e for e in self.active if e.mode == mode and e.started_at is not None), None)

    @property
    def created_at(self) -> float:
        """When the oldest execution that is known of was triggered, in epoch seconds: at first, by the creation."""
        return self.executions[0].created_at

    @property
    def in_first_sync(self) -> bool:
        """Whether the execution that its creation started has not come to its end."""
        return any(execution.origin == "creation" for execution in tuple(self.active))

    def saved(self) -> tuple[str, str]:
        schedules = {mode: asdict(schedule) for mode, schedule in self.schedules.items()}
        body = {"id": self.id, "name": self.name, "modes": self.modes, "schedules": schedules}
        return self.id, json.dumps(body)

    @classmethod
    def load(cls, text: str, shapes: Mapping[str, str]) -> "Cache":
        """A cache as the store kept it, with the shape of its copy, if it has one."""
        body = json.loads(text)
        cache = cls(body["id"], TableName(*body["name"]), tuple(body["modes"]))
        cache.schedules = {mode: Schedule(**schedule) for mode, schedule in body["schedules"].items()}
        if cache.id in shapes:
            columns = json.loads(shapes[cache.id])["columns"]
            cache.copied = tuple((name, trino_type(declared)) for name, declared in columns)
        return cache


def no_key(name: TableName) -> str:
    return f"The table {name} has no primary key, so it cannot be synced incrementally, only by FULL_REFRESH."
