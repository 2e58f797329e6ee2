"""What the terminal shows: a table that grows by a row a reading, a spinner where it waits, and the line that helps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from rich.console import Console
from rich.prompt import Confirm
from rich.status import Status
from rich.table import Table
from rich.text import Text

from dagster_peaka.doctor.readings import LEVELS, Level, Reading, first_of
from dagster_peaka.errors import shortened

MARKS: dict[Level, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "note": ("·", "cyan"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "bold red"),
}
LONGEST_SAID = 400
"""Characters of Peaka's words in the table; the JSON has all."""
SHORT = 60
"""Characters of Peaka's words that are shown also where there is nothing to do."""


class Drawing:
    """The readings on a console, as they come. As a context manager it takes the spinner away at its end."""

    def __init__(self, console: Console, *, table: bool = True) -> None:
        self._console = console
        self._table = table
        self._status: Status | None = None
        if table:
            self._row("", "asked", "found", "whose", Text("what it means, and what to set"), "bold")

    def __enter__(self) -> Drawing:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def waiting(self, text: str) -> None:
        """Say what is being waited for."""
        if self._status is not None:
            self._status.update(Text(f"{text} …"))

    def show(self, reading: Reading) -> None:
        """Add a row."""
        if not self._table:
            return
        mark, style = MARKS[reading.level]
        meaning = Text(reading.meaning)
        if reading.setting:
            meaning.append(" " * bool(reading.meaning) + reading.setting, "bold")
        if reading.said and (reading.level != "ok" or len(reading.said) <= SHORT):
            meaning.append(" " * bool(meaning) + shortened(reading.said, LONGEST_SAID), "dim")
        names = ", ".join(name.text for name in reading.about)
        found = f"{_written(reading.value)}{f' ({names})' if names else ''}"
        self._row(mark, reading.title, found, reading.whose, meaning, style)

    def confirmed(self, question: str) -> bool:
        """Whether the user says yes. Where nobody can be asked, nobody does."""
        if self._status is not None:
            self._status.stop()
        try:
            return Confirm.ask(Text(question), console=self._console, default=False)
        except EOFError:
            self._console.print()
            return False
        finally:
            if self._status is not None:
                self._status.start()

    def end(self, readings: Sequence[Reading]) -> None:
        """The one line that helps first."""
        worst = LEVELS[max((LEVELS.index(reading.level) for reading in readings), default=0)]
        line = Text("\nFirst: " if worst in ("problem", "warning") else "\n", MARKS[worst][1])
        self._console.print(line.append(first_of(list(readings)), "not bold"), soft_wrap=True)

    def _row(self, mark: str, asked: str, found: str, whose: str, meaning: Text, style: str) -> None:
        """A table of one row, as wide as all others: one that is drawn as a whole could not grow while it is read."""
        row = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for width, ratio in ((1, None), (None, 3), (None, 3), (8, None), (None, 6)):
            row.add_column(width=width, ratio=ratio, overflow="fold")
        row.add_row(Text(mark, style), Text(asked), Text(found), Text(whose, "dim"), meaning)
        self._console.print(row)


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, cast("list[object]", value))) or "none"
    if isinstance(value, dict):
        return (
            ", ".join(f"{rows} {what}" for what, rows in cast("dict[str, object]", value).items()) or "none"
        )
    return str(value)
