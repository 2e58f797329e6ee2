"""What one sync costs Peaka, by the simulated clock of `make bench`."""

from benchmarks.notice import follow
from dagster_peaka.sync.timing import SyncRules


def test_a_sync_of_five_seconds_costs_eight_requests_at_most() -> None:
    """The poll before the trigger, the trigger, the history, and the polls until the end is seen."""
    late, polls = follow(5.0, SyncRules())

    assert 3 + polls <= 8
    assert late <= 1.1
