"""Which execution a trigger started, in generated histories that know the truth, and how these are read in pages."""

import os
import random
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import pytest

from dagster_peaka.api import CacheExecution, SyncMode
from dagster_peaka.sync.history import History
from dagster_peaka.sync.identity import ANSWER_WINDOW, LATE_TOLERANCE, Record, started_by

NOON = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
SEEDS = int(os.environ.get("PEAKA_WORLDS", "2000"))
INCREMENTAL, FULL_REFRESH = SyncMode.INCREMENTAL, SyncMode.FULL_REFRESH


@dataclass
class Story:
    """A history in Peaka's order, oldest first, and which of it our trigger started."""

    entries: list[CacheExecution]
    record: Record
    ours: str | None
    strangers_before: list[str]
    """Executions of our mode between the baseline and ours that began after the poll."""


def generated(seed: int) -> Story:
    """A history: strangers of both modes, nodes whose clocks are up to a minute apart, one trigger of ours."""
    pick = random.Random(seed)
    skew = pick.choice([0.0, 0.0, 60.0])
    shows_mode = pick.random() < 0.8
    entries: list[CacheExecution] = []
    modes: dict[str, SyncMode] = {}

    def start(at: float, mode: SyncMode) -> str:
        name = f"e{len(entries)}"
        clock = at + pick.uniform(-skew, skew)
        entries.append(
            CacheExecution(
                id=name,
                status=pick.choice(["COMPLETED", "FAILED", "RUNNING"]),
                mode=mode if shows_mode else None,
                created_at=NOON + timedelta(seconds=clock),
            )
        )
        modes[name] = mode
        return name

    for number in range(pick.randrange(5)):
        start(-300.0 + number, pick.choice([INCREMENTAL, FULL_REFRESH]))
    baseline = next((name for name in reversed(modes) if modes[name] is INCREMENTAL), None)
    late = [start(-200.0, INCREMENTAL)] if pick.random() < 0.2 and skew == 0.0 else []
    before = [start(0.5, pick.choice([INCREMENTAL, FULL_REFRESH])) for _ in range(pick.choice([0, 0, 1]))]
    ours = start(1.0, INCREMENTAL) if pick.random() < 0.9 else None
    for number in range(pick.randrange(4)):
        start(2.0 + number, pick.choice([INCREMENTAL, FULL_REFRESH]))
    polled_at = NOON if skew == 0.0 else None  # else the late rule would judge by clocks that disagree
    told = modes if pick.random() < 0.5 or not shows_mode else {}
    assert not late or late[0] in modes
    return Story(
        entries,
        Record(baseline, polled_at, NOON + timedelta(seconds=1), told),
        ours,
        [name for name in before if modes[name] is INCREMENTAL],
    )


def test_ours_is_the_oldest_above_the_baseline_whatever_the_clocks_say() -> None:
    """Order alone decides; what began between poll and trigger comes first, and what was late to show not at all."""
    for seed in range(SEEDS):
        story = generated(seed)
        found = started_by(story.entries[::-1], story.record, INCREMENTAL)
        expected = [*story.strangers_before, *([story.ours] if story.ours else [])]
        named = [execution.id for execution in found.candidates]
        assert named[: len(expected)] == expected, f"seed {seed}"
        assert story.record.baseline not in named, f"seed {seed}"


def test_without_its_mode_an_execution_makes_nothing_certain() -> None:
    """It may be ours or the other mode's: what is known of the mode is a candidate, and not certain."""
    known = CacheExecution(id="b", status="RUNNING", mode=INCREMENTAL)
    unknown, baseline = CacheExecution(id="a"), CacheExecution(id="base", mode=INCREMENTAL)
    record = Record("base")
    assert started_by([known, unknown, baseline], record, INCREMENTAL).candidates == (known,)
    assert not started_by([known, unknown, baseline], record, INCREMENTAL).certain
    assert started_by([known, baseline], record, INCREMENTAL).certain
    told = Record("base", modes={"a": INCREMENTAL})
    assert started_by([known, unknown, baseline], told, INCREMENTAL).ours == unknown


def test_where_the_baseline_has_expired_only_the_newest_can_be_ours() -> None:
    """A history without the baseline tells no order; the baseline itself never counts."""
    other, newest = CacheExecution(id="x", mode=INCREMENTAL), CacheExecution(id="y", mode=INCREMENTAL)
    record = Record("gone")
    assert started_by([newest, other], record, INCREMENTAL, newest=newest).candidates == (newest,)
    assert started_by([newest, other], record, INCREMENTAL).ours is None


def test_what_a_sync_attached_to_is_that_execution() -> None:
    """A record may name the execution itself."""
    entries = [CacheExecution(id=name, mode=INCREMENTAL) for name in ("c", "b", "a")]
    assert started_by(entries, Record("a", follows="b"), INCREMENTAL).ours == entries[1]
    assert started_by(entries, Record("a", follows="z"), INCREMENTAL).ours is None


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-LATE_TOLERANCE.total_seconds(), True),
        (-LATE_TOLERANCE.total_seconds() - 0.1, False),
        (1 + ANSWER_WINDOW.total_seconds(), True),
        (1.1 + ANSWER_WINDOW.total_seconds(), False),
    ],
)
def test_surely_ours_is_what_began_between_poll_and_answer(seconds: float, expected: bool) -> None:
    """To be cancelled an execution has to be created in that time, and the answer has to be known."""
    execution = CacheExecution(id="e", created_at=NOON + timedelta(seconds=seconds))
    record = Record("a", NOON, NOON + timedelta(seconds=1))
    assert record.is_surely_ours(execution) is expected
    assert not Record("a", NOON).is_surely_ours(execution)


def test_a_history_is_read_in_order_and_without_a_gap_whatever_its_pages() -> None:
    """Servers that give fewer entries than were asked for, histories that grow meanwhile, answers that are older."""
    for seed in range(SEEDS):
        pick = random.Random(seed)
        all_of_it = [CacheExecution(id=f"e{n}") for n in range(pick.choice([0, 1, 2, 30, 60]))]
        cap = pick.choice([10, 25, 100])
        history = History()
        older = 2
        for _ in range(500):
            if history.whole:
                break
            if pick.random() < 0.1:
                all_of_it.insert(0, CacheExecution(id=f"new{len(all_of_it)}"))
            shown = all_of_it
            if older and history.entries and pick.random() < 0.1:
                older, shown = older - 1, all_of_it[1:]
            history.add(shown[history.offset :][: min(cap, 25)])
        names = [entry.id for entry in history.entries]
        assert history.whole, f"seed {seed}"
        everything = [entry.id for entry in all_of_it]
        assert names == everything[len(everything) - len(names) :], f"seed {seed}"


def test_a_server_that_knows_of_no_offset_is_not_asked_for_ever() -> None:
    """Every page is the first one: after a few of them that is the history."""
    entries = [CacheExecution(id=f"e{number}") for number in range(25)]
    history = History()
    pages = 0
    while not history.whole:
        history.add(entries)
        pages += 1
    assert pages < 10
    assert history.entries == entries
