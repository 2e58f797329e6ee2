"""Errors cross a process's border as what they are: pools, queues and other orchestrators pickle them."""

import copy
import pickle

import pytest

from dagster_peaka import PeakaConfigError, PeakaError, PeakaNotFoundError, PeakaSyncError
from dagster_peaka.errors import PeakaConnectionError


@pytest.mark.parametrize(
    "error",
    [
        PeakaNotFoundError("There is none.", status_code=404, reason="gone", error_code="NO_CACHE"),
        PeakaSyncError(
            "It failed.", cache="c", execution_id="e", state="FAILED", advice="Look.", url="https://x"
        ),
        PeakaConnectionError("Away.", permanent=True),
        PeakaConfigError("Write it otherwise."),
    ],
)
def test_an_error_can_be_pickled_and_copied(error: PeakaError) -> None:
    """Its text and all that it knows come back."""
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
        assert again.permanent == error.permanent
