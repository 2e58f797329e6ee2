"""The table in the machine's docstring, held against what the machine does."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from dagster_peaka.api import SyncMode
from dagster_peaka.sync import machine
from dagster_peaka.sync.machine import FRESH_POLL, Reading, State, Sync
from dagster_peaka.sync.outcome import Posted
from dagster_peaka.sync.timing import SyncRules
from tests.sync.world import generated
from tests.worlds.world import generated as generated_whole

Change = tuple[State, State]


def listed() -> set[Change]:
    """The changes of state that the table names."""
    assert machine.__doc__ is not None
    changes: set[Change] = set()
    state = ""
    for line in machine.__doc__.split("=\n")[2].splitlines()[:-1]:
        state = line[:10].strip() or state
        follows = line[54:]
        after = [each for each in State if re.search(rf"\b{each.name}\b", follows)]
        after += [State.DONE] if re.search(r"\bfails?\b", follows) else []
        before = [State.POLL, State.IDENTIFY, State.FOLLOW] if state == "any" else [State[state]]
        changes |= {(each, then) for each in before for then in after if each is not then}
    return changes


def test_the_table_lists_the_changes_of_state_that_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change in generated worlds has its row, and the change of each row happens."""
    happened: set[Change] = set()

    def noted(event: Callable[..., Any]) -> Callable[..., Any]:
        def note(sync: Sync, *args: Any, **more: Any) -> Any:
            before = sync.state
            answer = event(sync, *args, **more)
            happened.add((before, sync.state))
            return answer

        return note

    for name in ("polled", "unreadable", "gone", "posting", "posted", "history_read"):
        monkeypatch.setattr(Sync, name, noted(getattr(Sync, name)))
    for seed in range(800):
        generated(seed).run()
    for seed in range(100):
        generated_whole(seed).tell()
    late_after_a_poll()

    assert {change for change in happened if change[0] is not change[1]} == listed()


def late_after_a_poll() -> None:
    """What no world has: the first and the repeated trigger are held up after their polls."""
    sync = Sync(SyncMode.INCREMENTAL, SyncRules(), 0.0)
    sync.polled(Reading(None), 0.0)
    assert not sync.posting(FRESH_POLL + 1.0)
    sync.polled(Reading(None), 10.0)
    assert sync.posting(10.0)
    sync.posted(Posted.UNKNOWN, 10.0)
    now = 10.0
    while sync.state is not State.TRIGGER:
        now = max(now + 1.0, sync.due)
        sync.polled(Reading(None), now)
    assert not sync.posting(now + FRESH_POLL + 1.0)
    while sync.state is not State.TRIGGER:
        now = max(now + 7.0, sync.due)
        sync.polled(Reading(None), now)
    assert sync.posting(now)
    sync.posted(Posted.NOT_TAKEN, now)
    assert sync.state is State.IDENTIFY
