"""The times that a sync keeps. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

NOTICE_MARGIN = 15.0
"""Seconds in which an end that was read is recorded, besides the wait between two polls."""


@dataclass(frozen=True)
class SyncRules:
    """The times that a sync keeps, in seconds, and what it does about an execution that runs already."""

    poll_interval: float = 1.0
    poll_max_interval: float = 60.0
    start_timeout: float = 120.0
    poll_timeout: float = 86_400.0
    outage_tolerance: float = 300.0
    stuck_timeout: float | None = None
    on_running: str = "queue"
    follow: bool = True
    """False: a sync is over once its trigger was answered, or what it would adopt or attach to was seen to run."""

    @property
    def notices_within(self) -> float:
        """Seconds in which a run that lives has recorded an end that a sensor sees at the same time."""
        return self.poll_max_interval + NOTICE_MARGIN

    def polled_together(self) -> SyncRules:
        """The rules of syncs whose statuses one request reads: it is shared, so it goes out twice as often."""
        return replace(self, poll_interval=self.poll_interval / 2)

    def wait(self, elapsed: float) -> float:
        """Seconds to the next poll, ``elapsed`` seconds after the trigger: a tenth of them, within the bounds."""
        return min(self.poll_max_interval, max(self.poll_interval, elapsed / 10))
