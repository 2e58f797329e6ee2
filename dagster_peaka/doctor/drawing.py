"""What the terminal shows: a table that grows by a row a reading, and the line that helps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from rich.console import Console
from rich.prompt import Confirm
from rich.status import Status
from rich.table import Table
from rich.text import Text

from dagster_peaka.doctor.readings import Level, Reading, first_of, worst_of
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


def heading(console: Console) -> None:
    """The names of the columns."""
    _row(console, "", "asked", "found", "whose", Text("what it means, and what to set"), "bold")


def show(console: Console, reading: Reading) -> None:
    """A row."""
    mark, style = MARKS[reading.level]
    meaning = Text(reading.meaning)
    if reading.setting:
        meaning.append(" " * bool(reading.meaning) + reading.setting, "bold")
    if reading.said and (reading.level != "ok" or len(reading.said) <= SHORT):
        meaning.append(" " * bool(meaning) + shortened(reading.said, LONGEST_SAID), "dim")
    found = " ".join(filter(None, [_written(reading.value), reading.names]))
    _row(console, mark, reading.title, found, reading.whose, meaning, style)


def end(console: Console, readings: Sequence[Reading]) -> None:
    """The one line that helps first."""
    worst = worst_of(readings)
    line = Text("\nFirst: ", MARKS[worst.level][1]) if worst else Text("\n", MARKS["ok"][1])
    console.print(line.append(first_of(readings), "not bold"), soft_wrap=True)


def confirmed(console: Console, status: Status, question: str) -> bool:
    """Whether the user says yes. Where nobody can be asked, nobody does."""
    status.stop()
    try:
        return Confirm.ask(Text(question), console=console, default=False)
    except EOFError:
        console.print()
        return False
    finally:
        status.start()


def _row(console: Console, mark: str, asked: str, found: str, whose: str, meaning: Text, style: str) -> None:
    """A table of one row, as wide as all others: one that is drawn as a whole could not grow while it is read."""
    row = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for width, ratio in ((1, None), (None, 3), (None, 3), (8, None), (None, 6)):
        row.add_column(width=width, ratio=ratio, overflow="fold")
    row.add_row(Text(mark, style), Text(asked), Text(found), Text(whose, "dim"), meaning)
    console.print(row)


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = [f"{rows} {what}" for what, rows in cast("dict[str, object]", value).items()]
    if isinstance(value, list):
        return ", ".join(map(str, cast("list[object]", value))) or "none"
    return str(value)
