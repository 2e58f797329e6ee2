"""What the sandbox knows of caches and executions: plain state, and the form in which the store keeps it."""

import asyncio
import time
from collections import ChainMap
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from dagster_peaka.sandbox.behaviour import Behaviour, Mode, Plan
from dagster_peaka.sandbox.copying import Copier
from dagster_peaka.sandbox.durations import parse_duration
from dagster_peaka.sandbox.sources import TableName, trino_type
from dagster_peaka.sandbox.store import Counts, SavedExecution
from dagster_peaka.sandbox.waiting import first_of, set_within

RETENTION = 14 * 86_400
"""Seconds for which an execution stays in the history after its end (Peaka's document: 14 days)."""
Origin = Literal["api", "schedule", "stranger", "creation"]


R = TypeVar("R")


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
class Execution:
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
        self.leave = asyncio.Event()
        """Set when it has to stop early: cancelled, its cache deleted, or the sandbox closing."""
        self.released = asyncio.Event()
        self.ended = asyncio.Event()
        self.copier: Copier | None = None

    @property
    def finished(self) -> bool:
        """Whether it has come to an end."""
        return self.finished_at is not None

    def record(self) -> ExecutionRecord:
        """A copy of the truth about it."""
        return recorded(ExecutionRecord, self, self.counts)

    def stop(self) -> None:
        """Let it end early, whatever it does."""
        self.leave.set()
        if self.copier is not None:
            self.copier.interrupt()

    async def last(self, behaviour: Behaviour) -> bool:
        """Wait until it has lasted as long as it shall. False where it has to stop before."""
        lasting = self.duration + self.counts.cached * behaviour.row_seconds
        until = (self.started_at or 0.0) + lasting
        if self.mode == "FULL_REFRESH" and behaviour.full_refresh_gap:
            until = max(until, self.visible_at)  # no sync is so short that its record shows it as ended only
        left = until - time.time()
        if left > 0 and await set_within(self.leave, left):
            return False
        if self.plan.hold:
            await self.let_go()
        return not self.leave.is_set()

    async def let_go(self) -> bool:
        """Wait until it is released. False where it has to stop before."""
        await first_of(self.released, self.leave)
        return not self.leave.is_set()

    def saved(self) -> SavedExecution:
        """What the store keeps of it."""
        body = {name: value for name, value in vars(self).items() if name in _SAVED_FIELDS}
        body["plan"] = asdict(self.plan)
        return SavedExecution(
            self.id, self.cache_id, self.sequence, body, self.finished, Counts(**vars(self.counts))
        )

    @classmethod
    def load(cls, saved: SavedExecution) -> "Execution":
        """An execution as the store kept it."""
        body = dict(saved.body)
        body["plan"] = Plan(**body["plan"])
        return cls(id=saved.id, cache_id=saved.cache_id, sequence=saved.sequence, counts=saved.counts, **body)


_SAVED_FIELDS = frozenset(Execution.__dataclass_fields__) - {"id", "cache_id", "sequence", "counts", "plan"}


@dataclass
class Schedule:
    """When a cache syncs by itself: every `seconds`, counted from `since` (epoch seconds)."""

    expression: str
    seconds: float
    since: float

    @classmethod
    def of(cls, expression: str, now: float) -> "Schedule":
        """A schedule that begins now. Raises `ValueError` for what is no duration."""
        return cls(expression, parse_duration(expression), now)


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
    timers: dict[Mode, "asyncio.Task[None]"] = field(default_factory=dict[Mode, "asyncio.Task[None]"])

    def __post_init__(self) -> None:
        self.copying = asyncio.Lock()
        """Executions of both modes may run at once; their copying takes turns."""

    def release(self) -> None:
        """Let the executions that wait to be released go on."""
        for execution in self.active:
            execution.released.set()

    def running(self, mode: Mode) -> Execution | None:
        """The execution of a mode that has left the queue."""
        return next((e for e in self.active if e.mode == mode and e.started_at is not None), None)

    @property
    def created_at(self) -> float:
        """When the oldest execution that is known of was triggered, in epoch seconds: at first, by the creation."""
        return self.executions[0].created_at

    @property
    def in_first_sync(self) -> bool:
        """Whether the execution that its creation started has not come to its end."""
        return any(execution.origin == "creation" for execution in tuple(self.active))

    def saved(self) -> dict[str, Any]:
        """What the store keeps of it."""
        return {
            "id": self.id,
            "name": list(self.name),
            "modes": list(self.modes),
            "schedules": {mode: asdict(schedule) for mode, schedule in self.schedules.items()},
        }

    @classmethod
    def load(cls, body: dict[str, Any], shape: dict[str, Any] | None) -> "Cache":
        """A cache as the store kept it, with the shape of its copy."""
        cache = cls(body["id"], TableName(*body["name"]), tuple(body["modes"]))
        cache.schedules = {mode: Schedule(**schedule) for mode, schedule in body["schedules"].items()}
        if shape is not None:
            cache.copied = tuple((name, trino_type(declared)) for name, declared in shape["columns"])
        return cache
