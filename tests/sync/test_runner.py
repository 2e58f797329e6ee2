"""Guarantees 5 to 7 of the runner's loop: answers late, lost, wrong or incomplete, on a simulated clock."""

import logging
import os
import random
from collections import Counter
from concurrent.futures import Future
from typing import Any

import pytest

from dagster_peaka import (
    PeakaConnectionError,
    PeakaError,
    PeakaPermissionError,
    PeakaRateLimitError,
    PeakaServerError,
    PeakaUnknownOutcomeError,
)
from dagster_peaka.api import CacheExecution, SyncMode
from dagster_peaka.api.calls import Answer, Call
from dagster_peaka.caches.names import SyncTarget
from dagster_peaka.sync.identity import Record
from dagster_peaka.sync.jobs import SyncJob
from dagster_peaka.sync.outcome import Trouble
from dagster_peaka.sync.runner import Runner
from dagster_peaka.sync.timing import SyncRules
from tests.sync.scripted import NOON, Script, Scripted, execution, status

WORLDS = int(os.environ.get("PEAKA_WORLDS", "4000")) // 10
FIRST = int(os.environ.get("PEAKA_FIRST_SEED", "0"))
SILENT = logging.getLogger("tests.silent")
SILENT.setLevel(logging.CRITICAL + 1)


def runner(scripted: Scripted, jobs: list[SyncJob], log: logging.Logger = SILENT) -> Runner:
    """A runner whose client, clock and events are scripted."""
    made = Runner(scripted, jobs, log=log, clock=scripted.clock)
    made._events = scripted  # pyright: ignore[reportAttributeAccessIssue] - the one thing that waits for time
    return made


def generated(seed: int) -> tuple[list[str], Script, random.Random]:
    """Caches, and a Peaka of many troubles for them."""
    pick = random.Random(seed)
    caches = [f"c{number}" for number in range(pick.choice([1, 2, 3, 4, 5, 8]))]
    started: dict[str, list[tuple[str, float, float]]] = {
        cache: [(f"{cache}-old", -100.0, 0.0)] for cache in caches
    }
    errors, omitted = pick.choice([0.0, 0.1, 0.3, 0.6]), pick.choice([0.0, 0.0, 0.1, 0.5])
    slow, failing = pick.choice([0.0, 0.1, 0.4]), pick.choice([0.0, 0.3])
    doomed = {(cache, number) for cache in caches for number in range(1, 4) if pick.random() < failing}

    def delay() -> float:
        return pick.uniform(2, 45) if pick.random() < slow else pick.uniform(0.02, 0.5)

    def error(*, post: bool = False) -> PeakaError:
        kind = pick.random()
        if kind < 0.3:
            return PeakaConnectionError("no connection")
        if kind < 0.4:
            return PeakaRateLimitError("too many", status_code=429)
        if kind < 0.42:
            return PeakaPermissionError("not allowed", status_code=403)
        return PeakaUnknownOutcomeError("lost") if post else PeakaServerError("bad gateway", status_code=502)

    def shown(cache: str, number: int, now: float) -> CacheExecution:
        name, created, end = started[cache][number]
        over = "FAILED" if (cache, number) in doomed else "COMPLETED"
        return execution(name, created, over if end <= now else "RUNNING")

    def newest(cache: str, now: float) -> CacheExecution:
        return shown(cache, max(n for n, one in enumerate(started[cache]) if one[1] <= now), now)

    def script(call: Call[Any], now: float) -> tuple[float, Any]:
        if call.method == "POST":
            lost = pick.random() < errors
            if lost and pick.random() < 0.5:
                return delay(), error(post=True)
            cache = call.segments[1]
            begin = max(now, started[cache][-1][2])
            name = f"{cache}-{len(started[cache])}"
            started[cache].append((name, now, begin + pick.choice([0.1, 5.0, 30.0])))
            return delay(), PeakaUnknownOutcomeError("lost") if lost else None
        if pick.random() < errors:
            return delay(), error()
        if call.segments == ("cache", "status"):
            return delay(), [
                status(cache, newest(cache, now)) for cache in caches if pick.random() >= omitted
            ]
        cache = call.segments[1]
        if call.segments[-1] == "status":
            return delay(), status(cache, newest(cache, now))
        numbers = [number for number, one in enumerate(started[cache]) if one[1] <= now]
        return delay(), [shown(cache, number, now) for number in reversed(numbers)]

    return caches, script, pick


def test_every_sync_ends_once_whatever_is_answered() -> None:
    """No answer, in whatever order and however late, leaves a sync waiting for ever, or lets it end twice."""
    for seed in range(FIRST, FIRST + max(1, WORLDS)):
        caches, script, pick = generated(seed)
        rules = SyncRules(
            start_timeout=pick.choice([10, 60]),
            outage_tolerance=pick.choice([15, 60]),
            poll_timeout=pick.choice([100, 2000]),
        )
        jobs = [
            SyncJob(
                SyncTarget(cache),
                SyncMode.INCREMENTAL,
                rules,
                earlier=Record(f"{cache}-old", NOON) if pick.random() < 0.2 else None,
                earlier_age=3.0,
            )
            for cache in caches
        ]
        scripted = Scripted(script)
        ended = Counter(job.target.cache_id for job, _ in runner(scripted, jobs).run())
        assert ended == dict.fromkeys(caches, 1), f"seed {seed}"
        assert scripted.now <= rules.poll_timeout + 120, f"seed {seed} ended late"
        assert len(scripted.calls) <= 300 * len(caches), f"seed {seed} asked {len(scripted.calls)} times"


def quiet(caches: list[str], ends: float = 5.0) -> tuple[Script, dict[str, float]]:
    """A Peaka without troubles; returns it and when each cache was triggered."""
    triggered: dict[str, float] = {}

    def newest(cache: str, now: float) -> CacheExecution:
        if cache not in triggered:
            return execution(f"{cache}-old", -100)
        over = now >= triggered[cache] + ends
        return execution(f"{cache}-new", triggered[cache], "COMPLETED" if over else "RUNNING")

    def script(call: Call[Any], now: float) -> tuple[float, Any]:
        if call.method == "POST":
            triggered[call.segments[1]] = now
            return 0.05, None
        if call.segments == ("cache", "status"):
            return 0.05, [status(cache, newest(cache, now)) for cache in caches]
        cache = call.segments[1]
        if call.segments[-1] == "executionHistory":
            shown = {each.id: each for each in (newest(cache, now), execution(f"{cache}-old", -100))}
            return 0.05, list(shown.values()) if call.query["offset"] == "0" else []
        return 0.05, status(cache, newest(cache, now))

    return script, triggered


def jobs_for(caches: list[str]) -> list[SyncJob]:
    """A job with the default rules for each cache."""
    return [SyncJob(SyncTarget(cache), SyncMode.INCREMENTAL, SyncRules()) for cache in caches]


def test_polls_depend_on_time_and_not_on_the_number_of_caches() -> None:
    """However many caches run, each poll is one listing, and polls become rarer; each history is read once."""
    asked: dict[int, list[str]] = {}
    for size in (10, 200):
        caches = [f"c{number}" for number in range(size)]
        scripted = Scripted(quiet(caches, ends=600.0)[0])
        assert all(result.ok for _, result in runner(scripted, jobs_for(caches)).run())
        asked[size] = ["/".join(call.segments) for call in scripted.calls if call.method == "GET"]
    polls = {size: paths.count("cache/status") for size, paths in asked.items()}
    assert polls[10] <= polls[200] <= polls[10] + 2
    assert polls[200] <= 70
    histories = sorted(f"cache/c{number}/executionHistory" for number in range(200))
    assert sorted(path for path in asked[200] if path != "cache/status") == histories


def test_a_listing_that_shows_an_end_is_followed_by_another_soon() -> None:
    """What was triggered together ends together: once one has ended, the others' ends are noticed in half the time."""
    caches = [f"c{number}" for number in range(200)]
    script, triggered = quiet(caches)
    scripted = Scripted(script)
    noticed = {job.target.cache_id: scripted.clock() for job, _ in runner(scripted, jobs_for(caches)).run()}
    ended = {cache: began + 5.0 for cache, began in triggered.items()}
    after_the_first = [cache for cache in caches if ended[cache] > min(noticed.values())]
    assert after_the_first
    # A quarter of `poll_interval`, the listing under way meanwhile, and this one's answer.
    assert max(noticed[cache] - ended[cache] for cache in after_the_first) < 0.25 + 2 * 0.05 + 0.01


def test_many_triggers_are_written_down_at_once() -> None:
    """However few go out side by side, a step of two hundred leaves one record before them, and no more."""
    caches = [f"c{number}" for number in range(200)]
    written: list[list[str]] = []
    scripted = Scripted(quiet(caches)[0])
    made = Runner(
        scripted,
        jobs_for(caches),
        log=SILENT,
        clock=scripted.clock,
        write_down=lambda notes: written.append([note.job.target.cache_id for note in notes]),
    )
    made._events = scripted  # pyright: ignore[reportAttributeAccessIssue]
    assert all(result.ok for _, result in made.run())
    assert [sorted(each) for each in written] == [sorted(caches)]


def test_a_bad_id_harms_no_other_cache() -> None:
    """An id that no path can carry fails its own sync; the others go on."""
    caches = ["a", "b", ".."]
    script, _ = quiet(caches)
    scripted = Scripted(script)
    real = scripted.start

    def start(call: Call[Any]) -> Future[Any]:
        call.path("project")
        return real(call)

    scripted.start = start
    results = {job.target.cache_id: result for job, result in runner(scripted, jobs_for(caches)).run()}
    assert [results["a"].ok, results["b"].ok] == [True, True]
    assert results[".."].trouble is Trouble.NOT_ALLOWED


def test_a_request_that_is_dropped_under_way_is_an_unknown_outcome() -> None:
    """A future that somebody else cancelled does not leave its sync waiting."""
    script, _ = quiet(["a"])
    dropped: list[str] = []

    def dropping(call: Call[Any], now: float) -> tuple[float, Any]:
        if call.segments[-1] == "status" and len(dropped) < 2:
            dropped.append("look")
            return 0.1, Future
        return script(call, now)

    ((_, result),) = runner(Scripted(dropping), jobs_for(["a"])).run()
    assert result.ok
    assert len(dropped) == 2


@pytest.mark.parametrize("answer", [[], PeakaPermissionError("not the listing", status_code=403)])
def test_one_bad_listing_costs_one_look_at_each_cache(answer: Any) -> None:
    """Caches that a listing leaves out are asked by themselves, and listed again after that."""
    caches = [f"c{number}" for number in range(50)]
    script, _ = quiet(caches, ends=600.0)
    listings: list[float] = []

    def incomplete(call: Call[Any], now: float) -> tuple[float, Any]:
        if call.segments == ("cache", "status"):
            listings.append(now)
            if len(listings) == 5:
                return 0.05, answer
        return script(call, now)

    scripted = Scripted(incomplete)
    assert all(result.ok for _, result in runner(scripted, jobs_for(caches)).run())
    singles = sum(call.segments[-1] == "status" and len(call.segments) == 3 for call in scripted.calls)
    assert singles == len(caches)


class Terminated(Scripted):
    """A run of two caches that is terminated while it follows both, and then a Peaka that answers at once.

    It keeps back only the history of `slow`, until the other cache has been asked to stop.
    """

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self._script = script
        self._terminated = False
        self._slow: Future[Any] = Future()

    def get(self, timeout: float | None = None) -> Any:
        """The next event, until the interrupt comes."""
        if self.now > 20.0:
            self._terminated = True
            raise KeyboardInterrupt
        return super().get(timeout)

    def start(self, call: Call[Any]) -> Future[Any]:
        """Begin a call; after the interrupt it is answered at once."""
        if not self._terminated:
            return super().start(call)
        self.calls.append(call)
        cache, answered = call.segments[1], Future[Any]()
        if call.method == "POST":
            answered.set_result(Answer(None, NOON))
            if not self._slow.done():
                self._slow.set_exception(PeakaServerError("bad gateway", status_code=502))
        elif call.segments[-1] == "status":
            answered.set_result(Answer(self._script(call, self.now)[1], NOON))
        elif cache == "slow":
            return self._slow
        else:
            entries = [execution(f"{cache}-new", 0.05, "RUNNING"), execution(f"{cache}-old", -100)]
            answered.set_result(Answer(entries, NOON))
        return answered


def test_one_slow_history_stops_no_other_cancel(caplog: pytest.LogCaptureFixture) -> None:
    """Each cancel goes out as soon as its own cache is known to run ours."""
    caches = ["slow", "quick"]
    script, _ = quiet(caches, ends=600.0)
    terminated = Terminated(script)
    caplog.set_level(logging.INFO)
    stopped = runner(terminated, jobs_for(caches), log=logging.getLogger("tests.terminated"))
    with pytest.raises(KeyboardInterrupt):
        list(stopped.run())
    triggers = [call for call in terminated.calls if call.method == "POST"]

    stopped.stop(cancel=True, terminated=lambda: True)

    (cancel,) = [call for call in terminated.calls if call.method == "POST" and call not in triggers]
    assert cancel.segments[1] == "quick"
    told = [record.message for record in caplog.records]
    assert any("asked to cancel" in line and "quick" in line for line in told)
    assert any("left alone" in line and "slow" in line for line in told)
