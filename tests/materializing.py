"""Runs of cache assets against a sandbox, and what they left in Dagster."""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg

from dagster_peaka import PeakaResource
from dagster_peaka.sandbox import PeakaSandbox
from dagster_peaka.sync.runner import Runner


def peaka_for(sandbox: PeakaSandbox, **settings: Any) -> PeakaResource:
    """A resource for `sandbox` that is quick to look and quick to give up."""
    quick: dict[str, Any] = {
        "api_key": sandbox.api_key,
        "project_id": sandbox.project_id,
        "base_url": sandbox.base_url,
        "poll_interval": 0.05,
        "start_timeout": 20.0,
        "poll_timeout": 240.0,
        "request_max_retries": 0,
    }
    return PeakaResource(**{**quick, **settings})


def run_of(
    asset: dg.AssetsDefinition,
    peaka: PeakaResource,
    *,
    config: Mapping[str, Any] | None = None,
    instance: dg.DagsterInstance | None = None,
) -> dg.ExecuteInProcessResult:
    """The finished run of one asset, whether it succeeded or not."""
    run_config = {"ops": {asset.op.name: {"config": dict(config)}}} if config else None
    return dg.materialize(
        [asset], resources={"peaka": peaka}, run_config=run_config, raise_on_error=False, instance=instance
    )


@dataclass(frozen=True)
class Failed:
    """What Dagster recorded of a failed step."""

    description: str
    metadata: dict[str, Any]
    tries: int


def failure_of(result: dg.ExecuteInProcessResult) -> Failed:
    """The only failed step of a run, and how many times its retry policy let it try."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None, event.step_failure_data.error
    metadata = {name: value.value for name, value in failure.metadata.items()}
    retries = [event for event in result.all_events if event.is_step_up_for_retry]
    return Failed(failure.description or "", metadata, 1 + len(retries))


def log_of(asset: dg.AssetsDefinition, peaka: PeakaResource) -> list[tuple[str, str]]:
    """The lines, each with its level, that a run of `asset` wrote to its log beside Dagster's own events."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_of(asset, peaka, instance=instance)
        return [
            (logging.getLevelName(int(entry.level)), entry.user_message)
            for entry in instance.all_logs(result.run_id)
            if entry.dagster_event is None
        ]


@dataclass
class Clock:
    """The monotonic clock of all syncs, which a test may put forward."""

    ahead: float = 0.0

    def __call__(self) -> float:
        """Seconds of a monotonic clock."""
        return time.monotonic() + self.ahead


@contextmanager
def clock_of_syncs() -> Generator[Clock, None, None]:
    """A clock that the syncs in the block go by: what takes an hour is over when a test says so."""
    clock = Clock()
    with patch.dict(Runner.__init__.__kwdefaults__ or {}, clock=clock):
        yield clock


@contextmanager
def acting_when(condition: Callable[[], bool], act: Callable[[], object]) -> Generator[None, None, None]:
    """Beside the block, wait for `condition` and then `act`; the block is over when that is, and raises what it did."""
    given_up = threading.Event()
    raised: list[Exception] = []

    def watch() -> None:
        while not condition():
            if given_up.wait(0.01):
                return
        try:
            act()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        given_up.set()
        thread.join()
    if raised:
        raise raised[0]


def triggers(sandbox: PeakaSandbox) -> int:
    """How many triggers were answered."""
    return sum(request.operation in TRIGGERS and request.status > 0 for request in sandbox.requests)


def is_followed(sandbox: PeakaSandbox) -> bool:
    """Whether somebody has seen what runs: a second reading of the status shows that the first one's answer came."""
    operations = [request.operation for request in sandbox.requests]
    since = max((number for number, name in enumerate(operations) if name in TRIGGERS), default=-1)
    return operations[since + 1 :].count("getCacheStatus") >= 2


TRIGGERS = ("incrementalUpdateCache", "fullRefreshCache")


def sqlite_tables(path: Path, names: Iterable[str]) -> Path:
    """A SQLite file with tables of these names, each of three rows."""
    with closing(sqlite3.connect(path)) as database, database:
        for name in names:
            database.execute(f'CREATE TABLE "{name}" (id INTEGER PRIMARY KEY, v TEXT)')
            database.executemany(f'INSERT INTO "{name}" VALUES (?, ?)', [(1, "a"), (2, "b"), (3, "c")])
    return path
