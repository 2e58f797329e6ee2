"""A polling sensor as Dagster's daemon evaluates it: events stored one by one, then the cursor."""

import logging
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import sqlalchemy.event

from dagster_peaka import PeakaResource
from dagster_peaka.sandbox import PeakaSandbox
from dagster_peaka.sandbox.server import ModeName


@dataclass
class Watch:
    """A sensor, the instance that keeps its events, and its cursor between two ticks."""

    sensor: dg.SensorDefinition
    peaka: PeakaResource
    instance: dg.DagsterInstance
    cursor: str | None = None
    skipped: str | None = None
    """The reason that Dagster's UI shows beside the last tick."""
    logged: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """What the last tick logged, each line with its level."""
    began: list[float] = field(default_factory=list[float])
    """When each tick began."""
    started_at: float | None = None
    """When it was switched on."""
    definitions: dg.Definitions | None = None
    """The code location that the sensor is of, with other sensors in it."""

    def tick(self, *, dies_after: int | None = None, drops_events: bool = False) -> list[Any]:
        """One tick; the events that it had. It dies after it has stored so many of them, its cursor is lost then.

        With ``drops_events`` the cursor is stored and the events are not, as of a preview that is committed.
        """
        self.began.append(time.time())
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={"peaka": self.peaka},
            definitions=self.definitions,
            last_sensor_start_time=self.started_at,
        )
        with lines_of(context.log) as self.logged:
            data = self.sensor.evaluate_tick(context)
        events = list(data.asset_events)
        self.skipped = data.skip_message
        for event in [] if drops_events else events[:dies_after]:
            self.instance.report_runless_asset_event(event)
        if dies_after is None:
            self.cursor = data.cursor
        return events

    @property
    def warnings(self) -> list[str]:
        """What the last tick warned of."""
        return [line for level, line in self.logged if level >= logging.WARNING]


@contextmanager
def lines_of(log: logging.Logger) -> Generator[list[tuple[int, str]], None, None]:
    """The lines that are logged inside the block, each with its level."""
    lines: list[tuple[int, str]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((record.levelno, record.getMessage()))

    handler = Keep()
    log.addHandler(handler)
    try:
        yield lines
    finally:
        log.removeHandler(handler)


def values(event: Any) -> dict[str, Any]:
    """The metadata of an event, as plain values."""
    return {name: value.value for name, value in event.metadata.items()}


def recorded(instance: dg.DagsterInstance, key: dg.AssetKey) -> list[str]:
    """The executions that an asset has materializations of, oldest first."""
    records = instance.fetch_materializations(key, limit=1000, ascending=True).records
    found = [record.asset_materialization for record in records]
    return [str(event.metadata["peaka/execution_id"].value) for event in found if event is not None]


def completed(sandbox: PeakaSandbox, cache: str) -> list[str]:
    """The executions of a cache that completed, in the order of their ends."""
    ended = [each for each in sandbox.executions(cache) if each.status == "COMPLETED"]
    return [each.id for each in sorted(ended, key=lambda each: each.finished_at or 0.0)]


def requests_of(sandbox: PeakaSandbox) -> Counter[str]:
    """How many requests were answered since the last clearing, by operation."""
    return Counter(str(request.operation) for request in sandbox.requests)


@contextmanager
def queries() -> Generator[list[str], None, None]:
    """The statements that any database was given inside the block."""
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def sync_by_others(sandbox: PeakaSandbox, caches: Sequence[str], mode: ModeName = "incremental") -> list[str]:
    """Executions that others start, and that are over: one of each cache; returns their ids."""
    ids = [sandbox.start_execution(cache, mode) for cache in caches]
    sandbox.wait_idle()
    return ids
