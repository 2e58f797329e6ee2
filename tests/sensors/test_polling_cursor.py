"""The polling sensor's cursor: what is put in comes out, it is small, and no damage goes unnoticed."""

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
    return Mark(
        draw(st.binary(min_size=CACHE, max_size=CACHE)), newest, unfinished, missed=draw(st.booleans())
    )


cursors = st.builds(
    PollingCursor,
    st.integers(0, 2**40 - 1),
    st.integers(0, 2**16 - 1),
    st.dictionaries(st.binary(min_size=ADDRESS, max_size=ADDRESS), marks(), max_size=5),
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


def test_a_cache_takes_32_characters_at_most_while_both_modes_run() -> None:
    """The header included, from two caches on; what is queued besides takes more."""
    for caches in (2, 10, 1000):
        busy = {}
        for number in range(caches):
            newest = {mode: short(f"{number} {mode}") for mode in SyncMode}
            busy[short(str(number), ADDRESS)] = Mark(short("c", CACHE), newest, frozenset(newest.values()))
        assert len(PollingCursor(1_795_000_000, 0, busy).encode()) <= 32 * caches
