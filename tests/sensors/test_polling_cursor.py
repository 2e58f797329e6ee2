"""The polling sensor's cursor: what is put in comes out, it can be read, it is small, and no damage goes unnoticed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_peaka.api.models import SyncMode
from dagster_peaka.sensors.cursor import ADDRESS, CACHE, Mark, PollingCursor, UnreadableCursor, short

ids = st.binary(min_size=4, max_size=4).filter(any)


@st.composite
def marks(draw: st.DrawFn) -> Mark:
    """What may be known of one cache."""
    newest = {mode: draw(st.none() | ids) for mode in SyncMode}
    shown = [found for found in newest.values() if found is not None]
    unfinished = draw(st.frozensets(ids | st.sampled_from(shown) if shown else ids, max_size=20))
    held = draw(st.dictionaries(ids, seconds, max_size=3))
    return Mark(
        draw(st.binary(min_size=CACHE, max_size=CACHE)), newest, unfinished, held, missed=draw(st.booleans())
    )


addresses = st.sampled_from([short(str(number), ADDRESS) for number in range(6)])
seconds = st.integers(0, 2**32 - 1)
cursors = st.builds(
    PollingCursor,
    seconds,
    st.integers(0, 2**16 - 1),
    st.dictionaries(addresses, marks(), max_size=5),
    st.dictionaries(addresses, seconds, max_size=5),
)


@given(cursors)
def test_what_is_put_in_comes_out(cursor: PollingCursor) -> None:
    """Everything that a tick leaves is there for the next one."""
    assert PollingCursor.decode(cursor.encode()) == cursor


@given(cursors, st.data())
def test_no_damage_goes_unnoticed(cursor: PollingCursor, data: st.DataObject) -> None:
    """A character that is missing, added or changed makes the cursor unreadable."""
    text = cursor.encode()
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters())
    damaged = data.draw(
        st.sampled_from([text[:place], text + other, text[:place] + other + text[place + 1 :]])
    )
    if damaged != text:
        with pytest.raises(UnreadableCursor):
            PollingCursor.decode(damaged)


def test_a_person_can_read_the_version_the_time_and_the_counts() -> None:
    """They stand before what is packed, as Dagster's UI shows the cursor."""
    running = Mark(short("c", CACHE), dict.fromkeys(SyncMode, short("e")), frozenset({short("e")}))
    marks = {short(name, ADDRESS): running for name in ("orders", "items")}
    text = PollingCursor(1_795_000_000, 1, marks, {short("new", ADDRESS): 1_794_000_000}).encode()
    assert text.startswith(
        '{"version":3,"evaluated_at":"2026-11-18T11:06:40+00:00","caches":2,"open_executions":2,"caches_left":1,'
    )
    assert json.loads(text)["version"] == 3


def test_a_cache_takes_32_characters_at_most_while_both_modes_run_and_it_is_left() -> None:
    """What is queued besides takes more."""

    def length(caches: int) -> int:
        busy = {}
        for number in range(caches):
            newest = {mode: short(f"{number} {mode}") for mode in SyncMode}
            busy[short(str(number), ADDRESS)] = Mark(short("c", CACHE), newest, frozenset(newest.values()))
        return len(PollingCursor(1_795_000_000, 0, busy, dict.fromkeys(busy, 1_795_000_000)).encode())

    for caches in (2, 10, 1000):
        assert length(caches) - length(0) <= 32 * caches
    assert length(0) <= 160


@pytest.mark.parametrize("version", ["0", "4", '{"version":4,"marks":""}'])
def test_a_cursor_of_another_version_is_none(version: str) -> None:
    """A package that is older than the cursor says so."""
    with pytest.raises(UnreadableCursor):
        PollingCursor.decode(version)


def test_a_cursor_of_version_2_is_read() -> None:
    """It knew one time for all caches. (Version 1 is that of the first release, among what that has left.)"""
    cursor = PollingCursor.decode("2A2qzZABq_YbAAAGa_9PH61WVd4tRcgIAAAAAHQFTYuyuAVNi7K5qsTuA")
    modes = {SyncMode.INCREMENTAL: short("e-2"), SyncMode.FULL_REFRESH: None}
    unfinished = frozenset({short("e-1"), short("e-2")})
    mark = Mark(short("c-1", CACHE), modes, unfinished, {short("e-1"): 1_790_000_000}, missed=True)
    assert cursor == PollingCursor(1_795_000_000, 1, {short("orders", ADDRESS): mark})
