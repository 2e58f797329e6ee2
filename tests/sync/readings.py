"""The looks of a sync at its cache: counted as they are sent, and held back where a test says so."""

import threading
from dataclasses import dataclass, field

from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import TRIGGERS
from tests.sync.steps import PATIENCE, wait_until


def answered(sandbox: PeakaSandbox) -> bool:
    """Whether a trigger has taken its effect, and its answer is on its way."""
    return any(record.operation in TRIGGERS and record.status for record in sandbox.requests)


@dataclass
class Readings:
    """The looks at a cache's status that are sent after its trigger: how many, and whether they may go out yet."""

    sandbox: PeakaSandbox
    sent: int = 0
    allowed: threading.Event = field(default_factory=threading.Event)

    def hold(self) -> None:
        """Before a look is sent, wait until it may be."""
        if answered(self.sandbox):
            self.sent += 1
            assert self.allowed.wait(PATIENCE), "the look was never allowed"

    def are_seen(self, number: int) -> None:
        """Wait until so many more have been sent, and the answers of all but the last one taken in."""
        before = self.sent
        wait_until(lambda: self.sent > before + number, f"{number} looks")
