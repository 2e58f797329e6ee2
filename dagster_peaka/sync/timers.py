"""How long something has lasted, by readings alone."""

from __future__ import annotations

from dataclasses import dataclass

HANGING = 300.0
"""Seconds without a sign of life after which an execution is said to hang: as a job does that nobody picks up."""


@dataclass
class Lasting:
    """For how long something has been so, by readings alone: from the first to the latest in a row that said it.

    A reading that says otherwise, and one that fails where it is evidence, ends it (:meth:`over`).
    """

    _what: object = None
    _since: float | None = None
    readings: int = 0
    seconds: float = 0.0
    """From the first to the latest of these readings."""

    def seen(self, now: float, what: object = None) -> float:
        """Take in a reading that says it; where ``what`` is another than before, it begins anew."""
        if self._since is None or what != self._what:
            self._what, self._since, self.readings = what, now, 0
        self.readings += 1
        self.seconds = now - self._since
        return self.seconds

    @property
    def surely(self) -> float:
        """The seconds, where three readings at least have said so; 0.0 otherwise."""
        return self.seconds if self.readings >= 3 else 0.0

    @property
    def lasts(self) -> bool:
        """Whether the latest reading said it."""
        return self._since is not None

    def over(self) -> None:
        """It is so no more, or nobody knows."""
        self._since, self.seconds, self.readings = None, 0.0, 0
