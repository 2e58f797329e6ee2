"""The command ``python -m dagster_peaka doctor``: its options, what is printed where, and how it ends."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.status import Status
from rich.text import Text

from dagster_peaka.api.redaction import Redaction
from dagster_peaka.caches.names import TableName
from dagster_peaka.doctor import account, drawing, report, trial
from dagster_peaka.doctor.asking import Asking
from dagster_peaka.doctor.connection import Settings, reach
from dagster_peaka.doctor.readings import Reading, take
from dagster_peaka.errors import PeakaConfigError

WIDTH = 150
"""Columns of a table that no terminal bounds."""

PART_OF_ALL = 6
"""A single request has so small a part of all the time: others are to be asked, too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, print, and return the exit code: 1 when something will keep syncs from working, 2 for wrong options."""
    options = _parser().parse_args(arguments)
    settings = Settings(
        os.environ.get(options.api_key_variable, ""),
        options.project_id or os.environ.get("PEAKA_PROJECT_ID", ""),
        options.zone or os.environ.get("PEAKA_ZONE") or "us",
        options.base_url or os.environ.get("PEAKA_BASE_URL") or None,
        options.timeout / PART_OF_ALL,
    )
    console = Console(stderr=options.json, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH
    readings: list[Reading] = []

    def found(*several: Reading) -> None:
        for reading in several:
            readings.append(_without_key(reading, settings.api_key))
            if not options.json:
                drawing.show(console, readings[-1])

    if not options.json:
        drawing.heading(console)
    try:
        with console.status("") as status:
            names = _examine(options, settings, found, console, status)
    except KeyboardInterrupt:
        console.print("Interrupted. What was triggered, if anything, goes on in Peaka.")
        return 130
    if options.json:
        sys.stdout.write(report.written(report.as_json(readings)))
    else:
        drawing.end(console, readings)
    if options.report is not None:
        private = report.without_names(readings, names)
        if not _save(options.report, private, console, shown=not options.json):
            return 2
    return int(any(reading.level == "problem" for reading in readings))


def _examine(
    options: argparse.Namespace,
    settings: Settings,
    found: Callable[..., None],
    console: Console,
    status: Status,
) -> Mapping[str, str]:
    """Have all readings told; returns the names that a report has to replace."""
    try:
        client = settings.new_client()
    except PeakaConfigError as error:
        found(take("settings", "cannot work", said=str(error)))
        return {}
    with client:
        asking = Asking(client, options.timeout, found, lambda text: status.update(Text(f"{text} …")))
        catalogs = reach(asking, settings)
        if catalogs is None:
            return asking.names
        tables: list[TableName] = [*options.tables, *([options.sync] if options.sync else [])]
        examined = account.examine(asking, catalogs, list(dict.fromkeys(tables)))
        cache = trial.possible(asking, examined, options.sync) if options.sync else None
        if cache is None:
            return asking.names
        question = f"Trigger one incremental update of {options.sync} now?"
        if options.yes or drawing.confirmed(console, status, question):
            asking.more_time(options.sync_timeout)
            trial.sync(asking, cache, options.sync)
        else:
            asking.take("sync", "not triggered", asking.name("table", options.sync))
        return asking.names


def _without_key(reading: Reading, key: str) -> Reading:
    """The reading with the key in no text of it, whoever put it there, and with nothing that moves a cursor."""
    redaction = Redaction(key.strip())

    def safe(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(safe, cast("list[object]", value)))
        if isinstance(value, str):
            return "".join(letter if letter.isprintable() else " " for letter in redaction.text(value))
        return value

    texts = {name: safe(getattr(reading, name)) for name in ("value", "meaning", "said")}
    return replace(reading, **texts, about=tuple(map(safe, reading.about)))


def _save(path: Path, readings: Sequence[Reading], console: Console, *, shown: bool) -> bool:
    text = report.written(report.as_json(readings))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        console.print(f"The report cannot be written to {path}: {error.strerror}.")
        return False
    console.print(
        f"\nThe report is in {path}. The key is not in it; names and ids are replaced (table-1, cache-1, project-1). "
        "Read it before you attach it to an issue:",
        soft_wrap=True,
    )
    if shown:
        console.print(text, soft_wrap=True, style="dim")
    return True


def _table(text: str) -> TableName:
    try:
        return TableName.parse(text)
    except PeakaConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0.")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dagster_peaka doctor",
        description="Tells whether syncs will work with an account of Peaka, why not, and what to set. It changes "
        "nothing, unless --sync is given.",
        epilog="The key is read from PEAKA_API_KEY and is no option, because other users of a machine see options. "
        "Exit code: 0, or 1 when something will keep syncs from working.",
        allow_abbrev=False,
    )
    add, table = parser.add_argument, "CATALOG.SCHEMA.TABLE"
    add("tables", nargs="*", type=_table, metavar=table, help="can it be cached, and in which modes?")
    add("--project-id", metavar="ID", help="the project; by default PEAKA_PROJECT_ID")
    add("--zone", help="us or eu; by default PEAKA_ZONE, or us")
    add("--base-url", metavar="URL", help="another address of the API; by default PEAKA_BASE_URL")
    add(
        "--api-key-variable", default="PEAKA_API_KEY", metavar="NAME", help="what holds the key (%(default)s)"
    )
    seconds: dict[str, Any] = {"type": _seconds, "metavar": "SECONDS"}
    add("--timeout", default=120.0, help="for all that is read (%(default)g)", **seconds)
    add("--sync", type=_table, metavar=table, help="also trigger one incremental update of it, and watch it")
    add("--yes", action="store_true", help="trigger it without asking")
    add("--sync-timeout", default=600.0, help="for that update (%(default)g)", **seconds)
    add("--json", action="store_true", help="print the readings as JSON, with their names")
    add(
        "--report",
        type=Path,
        metavar="FILE",
        help="write them to a file to be sent in, without names and key",
    )
    return parser
