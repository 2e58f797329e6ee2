"""How long something has lasted, by readings alone."""

from __future__ import annotations

from dataclasses import dataclass


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
    def lasts(self) -> bool:
        """Whether the latest reading said it."""
        return self._since is not None

    def over(self) -> None:
        """It is so no more, or nobody knows."""
        self._since, self.seconds = None, 0.0
