"""What the log of a run says about its syncs."""

import logging
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaResource, build_peaka_cache_asset
from dagster_peaka.api import CacheExecution, SyncMode
from dagster_peaka.caches.names import SyncTarget
from dagster_peaka.sandbox import PeakaSandbox
from dagster_peaka.sync.log import PROGRESS_INTERVAL, Progress
from dagster_peaka.sync.machine import Reading, Sync, Task
from dagster_peaka.sync.outcome import Posted
from dagster_peaka.sync.timing import SyncRules
from tests.materializing import acting_when, is_followed, log_of, peaka_for, sqlite_tables, triggers
from tests.sync.readings import Readings
from tests.sync.steps import wait_until


@pytest.fixture
def many(tmp_path: Path) -> Iterator[PeakaSandbox]:
    """A local Peaka with the caches `ops.public.t1` to `ops.public.t25`."""
    path = sqlite_tables(tmp_path / "many.db", [f"t{number}" for number in range(1, 26)])
    with PeakaSandbox({"ops": {"public": path}}, caches=["ops.public.*"]) as sandbox:
        sandbox.wait_idle()
        sandbox.clear_requests()
        yield sandbox


def fleet(size: int) -> dg.AssetsDefinition:
    """One step with a body of its own around the syncs of `ops.public.t1` and so on."""

    @dg.multi_asset(
        specs=[
            dg.AssetSpec(f"t{number}", metadata={"peaka/table": f"ops.public.t{number}"})
            for number in range(1, size + 1)
        ]
    )
    def caches(context: dg.AssetExecutionContext, peaka: PeakaResource) -> Iterator[Any]:
        yield from peaka.sync_and_poll(context)

    return caches


@contextmanager
def released_when_followed(sandbox: PeakaSandbox) -> Generator[None]:
    """In the block, let what is held go on as soon as a run has seen what its trigger started."""
    with acting_when(
        lambda: triggers(sandbox) > 0 and is_followed(sandbox), lambda: sandbox.release("ops.public.t")
    ):
        yield


def says(line: str, sandbox: PeakaSandbox, table: str = "ops.public.t") -> str:
    """A line without the cache's name and id in front, which every line has."""
    front = f"{table} ({sandbox.caches[table]}): "
    assert line.startswith(front), line
    return line.removeprefix(front)


def test_a_sync_tells_of_its_trigger_its_execution_and_its_end(sandbox: PeakaSandbox) -> None:
    """A line for each change of state, each with the cache's name and id, the executions by their ids."""
    (before,) = sandbox.executions("ops.public.t")
    sandbox.plan("ops.public.t", hold=True)

    with released_when_followed(sandbox):
        lines = log_of(build_peaka_cache_asset(table="ops.public.t"), peaka_for(sandbox))

    ours = sandbox.executions("ops.public.t")[-1].id
    told = [says(text, sandbox) for _, text in lines]
    assert told[:3] == [
        f"triggering an incremental update (the newest so far: execution {before.id})",
        "triggered; waiting for its execution to appear",
        f"following execution {ours} (RUNNING): 0 inserted, 0 updated, 0 deleted",
    ]
    assert re.fullmatch(
        rf"execution {ours} COMPLETED in [0-9.]+ s: 0 inserted, 2 updated, 0 deleted", told[3]
    )
    assert len(told) == 4
    assert {level for level, _ in lines} == {"INFO"}


def test_what_runs_already_is_named_before_another_is_triggered(sandbox: PeakaSandbox) -> None:
    """With on_running="queue" the log says behind which execution ours comes."""
    sandbox.plan("ops.public.t", hold=True)
    stranger = sandbox.start_execution("ops.public.t")

    with acting_when(lambda: triggers(sandbox) > 0, lambda: sandbox.release("ops.public.t")):
        lines = log_of(build_peaka_cache_asset(table="ops.public.t"), peaka_for(sandbox))

    assert says(lines[0][1], sandbox) == (
        f"execution {stranger} is RUNNING already; triggering an incremental update to follow it"
    )


def test_attaching_names_the_execution_that_is_followed(sandbox: PeakaSandbox) -> None:
    """With on_running="attach" the log says to which execution."""
    sandbox.plan("ops.public.t", hold=True)
    stranger = sandbox.start_execution("ops.public.t")
    asset, peaka = build_peaka_cache_asset(table="ops.public.t"), peaka_for(sandbox, on_running="attach")

    with acting_when(lambda: is_followed(sandbox), lambda: sandbox.release("ops.public.t")):
        lines = log_of(asset, peaka)

    assert says(lines[0][1], sandbox).startswith(f"attached to execution {stranger} (RUNNING)")
    assert says(lines[-1][1], sandbox).startswith(f"execution {stranger} COMPLETED")


def test_a_second_trigger_says_why(sandbox: PeakaSandbox) -> None:
    """After a coalesced trigger the log says for how long nothing appeared and that it is triggered once more."""
    sandbox.behaviour.coalesce = True
    sandbox.plan("ops.public.t", hold=True)
    sandbox.start_execution("ops.public.t")
    asset, peaka = build_peaka_cache_asset(table="ops.public.t"), peaka_for(sandbox, start_timeout=0.3)

    with acting_when(lambda: triggers(sandbox) > 0, lambda: sandbox.release("ops.public.t")):
        lines = log_of(asset, peaka)

    told = [says(text, sandbox) for _, text in lines]
    assert "no new execution has appeared for 0.3 s; triggering an incremental update once more" in told


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"lose_reply": True}, "its answer was lost"),
        ({"status": 502, "body": "bad gateway"}, "was answered with 502"),
        ({"status": 409, "body": {"message": "busy"}}, "busy"),
    ],
)
def test_a_trigger_that_was_not_confirmed_is_warned_of(
    sandbox: PeakaSandbox, fault: dict[str, Any], said: str
) -> None:
    """A lost answer, a 5xx and a refusal are each one warning, which says what is done about it."""
    sandbox.fault("incrementalUpdateCache", **fault)

    lines = log_of(build_peaka_cache_asset(table="ops.public.t"), peaka_for(sandbox, start_timeout=0.2))

    (warning,) = [text for level, text in lines if level == "WARNING"]
    assert said in warning
    assert warning.endswith(". Watching whether it started an execution all the same.")
    assert says(lines[-1][1], sandbox).startswith("execution ")


def test_a_trigger_that_was_surely_not_taken_is_warned_of_once(sandbox: PeakaSandbox) -> None:
    """Sending a trigger again and again while Peaka answers 429 takes one line, not one a second."""
    fault = sandbox.fault("incrementalUpdateCache", status=429, times=4, headers={"Retry-After": "0"})

    lines = log_of(build_peaka_cache_asset(table="ops.public.t"), peaka_for(sandbox))

    assert fault.hits == 4
    told = [says(text, sandbox) for _, text in lines]
    assert [level for level, _ in lines].count("WARNING") == 1
    assert sum(text.startswith("triggering") for text in told) == 1
    assert told[1].endswith("Trying again.")


def test_a_trigger_that_was_lost_after_others_were_not_taken_has_its_own_warning(
    sandbox: PeakaSandbox,
) -> None:
    """What is true of the last try is said, not only what was true of the first."""
    sandbox.fault("incrementalUpdateCache", status=429, times=2, headers={"Retry-After": "0"})
    sandbox.fault("incrementalUpdateCache", lose_reply=True)

    lines = log_of(build_peaka_cache_asset(table="ops.public.t"), peaka_for(sandbox))

    not_taken, lost = [text for level, text in lines if level == "WARNING"]
    assert "was answered with 429" in not_taken
    assert "its answer was lost" in lost


def test_an_outage_is_two_lines(sandbox: PeakaSandbox, looks: Readings) -> None:
    """The log says when Peaka could no longer be read, and when it answers again."""
    sandbox.plan("ops.public.t", hold=True)

    def away_for_a_while() -> None:
        sandbox.stop()
        looks.are_seen(2)
        sandbox.start()
        sandbox.release("ops.public.t")

    with acting_when(lambda: triggers(sandbox) > 0 and is_followed(sandbox), away_for_a_while):
        lines = log_of(
            build_peaka_cache_asset(table="ops.public.t"), peaka_for(sandbox, outage_tolerance=120)
        )

    told = [(level, says(text, sandbox)) for level, text in lines]
    (lost,) = [text for level, text in told if level == "WARNING"]
    assert lost.startswith("Could not connect to Peaka at 127.0.0.1:")
    assert lost.endswith("Trying again.")
    assert ("INFO", "Peaka answers again.") in told
    assert told[-1][1].startswith("execution ")


def test_a_status_never_seen_before_is_warned_of_once(sandbox: PeakaSandbox) -> None:
    """The log names the execution and the status, once, and goes on."""
    sandbox.plan("ops.public.t", status="PENDING", until_end=True, hold=True)

    with released_when_followed(sandbox):
        lines = log_of(build_peaka_cache_asset(table="ops.public.t"), peaka_for(sandbox))

    ours = sandbox.executions("ops.public.t")[-1].id
    assert [says(text, sandbox) for level, text in lines if level == "WARNING"] == [
        f"execution {ours} shows status 'PENDING', which this package does not know; waiting for one that it knows."
    ]


def test_twenty_caches_of_one_step_have_lines_of_their_own(many: PeakaSandbox) -> None:
    """Up to 20 caches each change of state of each is told."""
    lines = log_of(fleet(20), peaka_for(many))

    completed = [text for _, text in lines if " COMPLETED" in text]
    assert len(completed) == 20
    assert not any("caches after" in text for _, text in lines)


def test_above_twenty_caches_each_look_is_one_line_of_counts(many: PeakaSandbox) -> None:
    """Counts by state instead of lines a cache; a failure still has its own, and the last line says how all ended."""
    many.plan("ops.public.t7", fail="the source is locked", hold=True)
    many.plan("ops.public.t8", hold=True)
    late = ("ops.public.t7", "ops.public.t8")

    def release() -> None:
        before = len(many.requests)
        wait_until(lambda: len(many.requests) >= before + 2, "two polls")
        for cache in late:
            many.release(cache)

    with acting_when(lambda: triggers(many) == 25, release):
        lines = log_of(fleet(25), peaka_for(many, poll_interval=0.2))

    counts = [text for _, text in lines if text.startswith("25 caches after ")]
    looks = [request for request in many.requests if request.operation != "incrementalUpdateCache"]
    assert counts[-1].endswith(": 24 completed, 1 failed")
    assert 2 <= len(counts) <= len(looks)
    (failure,) = [text for _, text in lines if not text.startswith("25 caches after ")]
    assert f"Peaka cache ops.public.t7 ({many.caches['ops.public.t7']})" in failure
    assert "the source is locked" in failure


# Lines that take their time: the clock is the test's.


@dataclass
class Scene:
    """One sync and the log about it, by a clock that the test sets."""

    caches: int = 1
    now: float = 0.0
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        log = logging.getLogger(f"scene {id(self)}")
        log.setLevel(logging.INFO)
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())
        log.addHandler(handler)
        self.sync = Sync(SyncMode.INCREMENTAL, SyncRules(), 0.0)
        self.progress = Progress(log, [self.sync] * self.caches, lambda: self.now)

    def tell(self, look: Reading) -> None:
        """What the runner does after a poll."""
        self.sync.polled(look, self.now)
        if self.sync.task is Task.HISTORY and look.newest is not None:
            self.sync.history_read([look.newest], self.now)
        self.progress.polled(SyncTarget("t"), self.sync, look)

    def trigger(self, look: Reading) -> None:
        """A poll, and a trigger that is accepted."""
        self.tell(look)
        self.sync.posting(self.now)
        self.progress.polled(SyncTarget("t"), self.sync, look)
        self.sync.posted(Posted.ACCEPTED, self.now, server_time=look.server_time)
        self.progress.polled(SyncTarget("t"), self.sync, look)
        self.lines.clear()

    def every_second(self, look: Callable[[], Reading], seconds: int) -> None:
        """A poll once a second."""
        for _ in range(seconds):
            self.now += 1
            self.tell(look())


NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def execution(name: str, status: str = "RUNNING", inserted: int | None = None) -> CacheExecution:
    """An execution that was created at noon."""
    progress = {} if inserted is None else {"numberOfInsertedRecords": inserted}
    return CacheExecution.model_validate(
        {"id": name, "status": status, "createdAt": "2026-01-01T12:00:00Z", "progress": progress}
    )


def test_rows_so_far_are_told_every_thirty_seconds() -> None:
    """However often the counts change, a cache has one line of progress in 30 s, with its rows and the time."""
    scene = Scene()
    scene.trigger(Reading(None, server_time=NOON))

    scene.every_second(lambda: Reading(execution("e", inserted=int(scene.now) * 1000), server_time=NOON), 95)

    assert scene.lines == [
        "t: following execution e (RUNNING): 1,000 inserted",
        "t: execution e is RUNNING after 31 s: 31,000 inserted",
        "t: execution e is RUNNING after 61 s: 61,000 inserted",
        "t: execution e is RUNNING after 91 s: 91,000 inserted",
    ]
    assert PROGRESS_INTERVAL == 30


def test_a_long_wait_in_a_hidden_queue_is_told() -> None:
    """While no execution of ours has appeared, the log says every 30 s what runs instead."""
    scene = Scene()
    other = Reading(execution("other", inserted=5), server_time=NOON)
    scene.trigger(other)

    scene.every_second(lambda: other, 65)

    assert scene.lines == [
        "t: no new execution after 30 s; execution other is RUNNING: 5 inserted",
        "t: no new execution after 60 s; execution other is RUNNING: 5 inserted",
    ]


def test_what_peaka_did_not_count_is_not_told() -> None:
    """An execution without progress has lines without rows."""
    scene = Scene()
    scene.trigger(Reading(None, server_time=NOON))

    scene.tell(Reading(execution("e"), server_time=NOON))

    assert scene.lines == ["t: following execution e (RUNNING)"]


def test_the_last_few_of_many_are_counted_every_thirty_seconds() -> None:
    """Caches that are looked at one by one, because few of many are left, do not fall silent."""
    scene = Scene(caches=21)
    scene.trigger(Reading(None, server_time=NOON))

    scene.every_second(lambda: Reading(execution("e"), server_time=NOON), 65)

    assert scene.lines == ["21 caches after 30 s: 21 running", "21 caches after 60 s: 21 running"]


def test_an_outage_says_when_it_will_be_given_up() -> None:
    """How long Peaka has been away, and of how long that may be: the same seconds after which the step fails."""
    scene = Scene()
    scene.trigger(Reading(None, server_time=NOON))
    scene.tell(Reading(execution("e"), server_time=NOON))
    scene.lines.clear()

    for _ in range(65):
        scene.now += 1
        scene.sync.unreadable("Nobody answers.", scene.now)
        scene.progress.polled(SyncTarget("t"), scene.sync, None)

    assert scene.lines == [
        "t: Nobody answers. That may last 300 s (outage_tolerance). Trying again.",
        "t: Peaka could not be read for 29 s of 300 s (outage_tolerance)",
        "t: Peaka could not be read for 59 s of 300 s (outage_tolerance)",
    ]


def test_a_second_trigger_has_a_line_of_its_own_also_among_many() -> None:
    """Who asks why a cache was synced twice finds which, and why, in the log of a step of many."""
    scene = Scene(caches=21)
    quiet = Reading(None, server_time=NOON)
    scene.trigger(quiet)

    scene.every_second(lambda: quiet, 125)
    scene.sync.posting(scene.now)
    scene.progress.polled(SyncTarget("t"), scene.sync, quiet)
    scene.progress.polled(SyncTarget("t"), scene.sync, quiet)

    assert [line for line in scene.lines if line.startswith("t: ")] == [
        "t: no new execution has appeared for 120 s; triggering an incremental update once more"
    ]
