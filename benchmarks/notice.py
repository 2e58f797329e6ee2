"""How late the end of an execution is noticed, and how many polls that took, by a simulated clock.

The state machine decides when to poll, so no server and no waiting is needed: executions end at ten thousand evenly
spread moments around each length, and the worst and the mean lateness are told.

    python -m benchmarks.notice
"""

from datetime import datetime, timedelta, timezone

from dagster_peaka.api.models import CacheExecution, SyncMode
from dagster_peaka.sync.machine import Reading, Sync, Task
from dagster_peaka.sync.outcome import Posted
from dagster_peaka.sync.timing import SyncRules

START = datetime(2026, 7, 1, tzinfo=timezone.utc)
LATENCY = 0.02
"""Seconds that one request takes."""


def follow(length: float, rules: SyncRules) -> tuple[float, int]:
    """One sync of an execution of ``length`` seconds: how late its end was read, and the polls after the trigger."""
    now = 0.0
    sync = Sync(SyncMode.INCREMENTAL, rules, now)
    polls = 0
    triggered = 0.0
    while sync.result is None:
        now = max(now, sync.due)
        if sync.task is Task.TRIGGER:
            sync.posting(now)
            triggered = now
            now += LATENCY
            sync.posted(Posted.ACCEPTED, now, server_time=START + timedelta(seconds=int(now)))
            continue
        read_at = now
        execution = None
        if sync.triggers:
            over = read_at >= triggered + length
            execution = CacheExecution(
                id="ours",
                status="COMPLETED" if over else "RUNNING",
                mode=SyncMode.INCREMENTAL,
                created_at=START + timedelta(seconds=triggered),
            )
        now += LATENCY
        if sync.task is Task.HISTORY:
            sync.history_read([] if execution is None else [execution], now)
            continue
        polls += bool(sync.triggers)
        sync.polled(Reading(execution, server_time=START + timedelta(seconds=int(now))), now)
    return now - (triggered + length), polls


def main() -> None:
    """Print the table."""
    rules = SyncRules()
    print("| execution | polls | end noticed after: mean | worst | limit |")
    print("|---|---|---|---|---|")
    for length in (0.2, 2.0, 20.0, 200.0, 3600.0):
        results = [follow(length * (0.9 + 0.2 * step / 10_000), rules) for step in range(0, 10_000, 7)]
        late = [seconds for seconds, _ in results]
        limit = min(rules.poll_max_interval, max(rules.poll_interval, length / 10))
        print(
            f"| {length:g} s | {max(polls for _, polls in results)} | {sum(late) / len(late):.2f} s "
            f"| {max(late):.2f} s | {limit:g} s + a request |"
        )


if __name__ == "__main__":
    main()
