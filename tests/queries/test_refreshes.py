"""What a query's status proves of its refreshes, reading by reading."""

from datetime import datetime, timedelta, timezone

import pytest

from dagster_peaka.api.query_models import QueryStatus
from dagster_peaka.queries.refreshes import REPLACED, UNPROVEN, Refreshes

NOON = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
PATIENCE = 20.0


def at(seconds: float) -> datetime:
    """A moment after noon."""
    return NOON + timedelta(seconds=seconds)


def status(word: str, start: float | None, updated: float | None = None) -> QueryStatus:
    """A status with its times as seconds after noon."""
    return QueryStatus(
        query_id="7",
        status=word,
        started_at=None if start is None else at(start),
        updated_at=None if updated is None else at(updated),
    )


def told(refreshes: Refreshes) -> list[tuple[str, float]]:
    """What is known of the refreshes, newest first: the word, and the start."""
    return [
        (each.status, (each.created_at - NOON).total_seconds())
        for each in refreshes.history
        if each.created_at
    ]


def read(*readings: QueryStatus, apart: float = 1.0) -> Refreshes:
    """What readings have told, that many seconds apart."""
    refreshes = Refreshes("7", PATIENCE)
    for number, reading in enumerate(readings):
        refreshes.read(reading, number * apart)
    return refreshes


OLD = status("COMPLETED", 0, 5)
"""What is there when a step begins."""


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        pytest.param([status("COMPLETED", None)], [], id="a fresh query says COMPLETED of nothing"),
        pytest.param([OLD], [("COMPLETED", 0)], id="the baseline is as it is"),
        pytest.param([status("COMPLETED", 0)], [("COMPLETED", 0)], id="and without an update, too"),
        pytest.param(
            [OLD, status("RUNNING", 60, 60)], [("RUNNING", 60), ("COMPLETED", 0)], id="another begins"
        ),
        pytest.param(
            [OLD, status("COMPLETED", 60, 5)],
            [("RUNNING", 60), ("COMPLETED", 0)],
            id="the start moves before the old word goes",
        ),
        pytest.param(
            [OLD, status("COMPLETED", 60, 61)],
            [("COMPLETED", 60), ("COMPLETED", 0)],
            id="updated after the start",
        ),
        pytest.param(
            [OLD, status("COMPLETED", 60)],
            [("RUNNING", 60), ("COMPLETED", 0)],
            id="one word without an update",
        ),
        pytest.param(
            [OLD, status("COMPLETED", 60), status("COMPLETED", 60)],
            [("RUNNING", 60), ("COMPLETED", 0)],
            id="the same word twice, and no other since the start: perhaps the old one",
        ),
        pytest.param(
            [OLD, status("RUNNING", 60), status("COMPLETED", 60), status("COMPLETED", 60)],
            [("COMPLETED", 60), ("COMPLETED", 0)],
            id="the same word twice, after another one",
        ),
        pytest.param(
            [OLD, *[status("COMPLETED", 60)] * 32],
            [("COMPLETED", 60), ("COMPLETED", 0)],
            id="the same word for half a minute",
        ),
        pytest.param(
            [OLD, status("RUNNING", 60, 60), status("COMPLETED", 60, 60), status("COMPLETED", 60, 60)],
            [("COMPLETED", 60), ("COMPLETED", 0)],
            id="updated at the start, twice, after another word",
        ),
        pytest.param(
            [OLD, status("COMPLETED", 60), status("FAILED", 60)],
            [("RUNNING", 60), ("COMPLETED", 0)],
            id="two words, and none of them twice",
        ),
        pytest.param(
            [OLD, status("COMPLETED", 60), status("RUNNING", 60), status("COMPLETED", 60)],
            [("RUNNING", 60), ("COMPLETED", 0)],
            id="twice, but not in a row",
        ),
        pytest.param(
            [OLD, status("CANCELED", 60, 61)],
            [("CANCELLED", 60), ("COMPLETED", 0)],
            id="cancelled, with one L",
        ),
        pytest.param(
            [OLD, status("PENDING", 60, 61)],
            [("PENDING", 60), ("COMPLETED", 0)],
            id="a word that nobody knows",
        ),
        pytest.param(
            [OLD, status("COMPLETED", 60, 61), OLD],
            [("COMPLETED", 60), ("COMPLETED", 0)],
            id="an answer from before",
        ),
        pytest.param(
            [OLD, status("COMPLETED", 60, 61), status("COMPLETED", None)],
            [("COMPLETED", 60), ("COMPLETED", 0)],
            id="an answer without a start",
        ),
        pytest.param(
            [status("RUNNING", 0, 0), status("RUNNING", 60, 60)],
            [("RUNNING", 60), (REPLACED, 0)],
            id="what ran before has ended when another begins",
        ),
        pytest.param(
            [OLD, status("RUNNING", 60, 60), status("RUNNING", 70, 70)],
            [("RUNNING", 70), ("RUNNING", 60), ("COMPLETED", 0)],
            id="replaced, its end unseen",
        ),
        pytest.param(
            [OLD, status("RUNNING", 60, 60), status("COMPLETED", 70, 71)],
            [("COMPLETED", 70), ("COMPLETED", 0)],
            id="forgotten, when what replaced it has ended",
        ),
    ],
)
def test_what_readings_tell(readings: list[QueryStatus], expected: list[tuple[str, float]]) -> None:
    """One reading a second."""
    assert told(read(*readings)) == expected


@pytest.mark.parametrize(
    ("word", "then"), [("COMPLETED", UNPROVEN), ("FAILED", "FAILED"), ("CANCELED", "CANCELLED")]
)
def test_a_word_that_stays_from_before_the_start_is_never_a_success(word: str, then: str) -> None:
    """After the patience for it: a failure counts."""
    readings = [OLD, *[status(word, 60, 5)] * 4]

    assert told(read(*readings, apart=PATIENCE / 4))[0] == ("RUNNING", 60)
    assert told(read(*readings, apart=PATIENCE / 2))[0] == (then, 60)
    assert all(each.ended for each in read(*readings, apart=PATIENCE).history)


def test_a_reading_that_fails_confirms_nothing() -> None:
    """What is said before and after an outage is not said twice in a row."""
    refreshes = read(OLD, status("RUNNING", 60), status("COMPLETED", 60))
    refreshes.unreadable()
    refreshes.read(status("COMPLETED", 60), 4)

    assert told(refreshes)[0] == ("RUNNING", 60)
    refreshes.read(status("COMPLETED", 60), 5)
    assert told(refreshes)[0] == ("COMPLETED", 60)


def test_what_an_earlier_attempt_saw_is_the_baseline() -> None:
    """Also where the first reading shows a later refresh: that is none from before."""
    refreshes = Refreshes("7", PATIENCE, at(0).isoformat())
    refreshes.read(status("COMPLETED", 60), 0)

    assert told(refreshes) == [("RUNNING", 60), ("COMPLETED", 0)]


@pytest.mark.parametrize(
    ("reading", "after", "expected"),
    [
        pytest.param(status("COMPLETED", None), 99, None, id="a fresh query"),
        pytest.param(status("RUNNING", 60, 60), 999, None, id="it runs"),
        pytest.param(status("PENDING", 60, 61), 999, None, id="a word that nobody knows"),
        pytest.param(status("COMPLETED", 60, 61), 61, "COMPLETED", id="updated after the start"),
        pytest.param(status("CANCELED", 60, 61), 61, "CANCELLED", id="cancelled, with one L"),
        pytest.param(status("COMPLETED", 60, 5), 999, None, id="the word of the one before, however long"),
        pytest.param(status("FAILED", 60, 5), 999, None, id="and where that failed"),
        pytest.param(status("COMPLETED", 60, 60), 89, None, id="updated at the start, and young"),
        pytest.param(
            status("COMPLETED", 60, 60), 90, "COMPLETED", id="updated at the start, and it has stood"
        ),
        pytest.param(status("COMPLETED", 60), 89, None, id="no update, and young"),
        pytest.param(status("FAILED", 60), 90, "FAILED", id="no update, and it has stood"),
        pytest.param(status("COMPLETED", 60), None, None, id="no update, and no clock of Peaka's"),
    ],
)
def test_what_one_status_proves_to_have_ended(
    reading: QueryStatus, after: float | None, expected: str | None
) -> None:
    """Alone, by Peaka's own clock so many seconds after noon: what the polling sensor goes by."""
    ended = reading.ended(None if after is None else at(after))

    assert (None if ended is None else ended.status) == expected
    assert ended is None or ended.id == at(60).isoformat()
