"""`make demo`: land the next day of flights, sync the caches, refresh the query, make the report, print all that."""

import argparse
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_peaka.errors import PeakaError
from flights.commands.processes import ProcessError, Processes, heed_interrupts
from flights.commands.surroundings import CommandError, State, peaka
from flights.database import TABLES, DatabaseError
from flights.peaka_names import QUERY, cache_key

_COLUMNS = {
    "execution": "peaka/execution_id",
    "mode": "peaka/mode",
    "inserted": "peaka/rows_inserted",
    "updated": "peaka/rows_updated",
    "deleted": "peaka/rows_deleted",
    "seconds": "peaka/duration_seconds",
}


def main() -> int:
    """Run the demo once, and return the exit code."""
    heed_interrupts()
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--state", type=Path, default=Path(".demo"), help="folder for everything that is kept"
    )
    state = State(parser.parse_args().state)
    try:
        with state.held(), Processes() as processes:
            environment, description = peaka(processes, state)
            os.environ.update({**environment, **state.environment()})
            print(description, flush=True)
            with dg.DagsterInstance.get() as instance:
                run_next_day(instance)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except (CommandError, DatabaseError, PeakaError, ProcessError) as error:
        print(f"make demo: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        log = state.folder / "demo.log"
        log.write_text(traceback.format_exc(), encoding="utf-8")
        print(
            f"make demo: {type(error).__name__}, a bug in the demo: the details are in {log}.",
            file=sys.stderr,
        )
        return 1
    return 0


def run_next_day(instance: dg.DagsterInstance) -> None:
    """Land the first day that the instance has not materialized, sync, report and print, if one is left.

    Raises CommandError where a step fails, PeakaError where Peaka cannot be asked.
    """
    # Imported only now: the definitions read the environment when they load.
    from flights.definitions import defs
    from flights.defs.landing import next_day

    day = next_day(instance)
    if day is None:
        print("Every day of 2013 has landed. `make clean` starts over.")
        return
    _check_peaka()
    print(
        f"\nLanding {day}, syncing {len(TABLES)} caches, refreshing the query, making the report:", flush=True
    )
    definitions = dg.Definitions.merge(defs(), dg.Definitions(loggers={"brief": _brief_logger}))
    result = definitions.resolve_job_def("chain").execute_in_process(
        instance=instance,
        partition_key=day,
        asset_selection=_selection(instance),
        run_config={"loggers": {"brief": {}}},
        raise_on_error=False,
    )
    metadata = {
        event.asset_key: event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    _print_caches(metadata)
    if not result.success:
        raise _failure(result)
    print(f"\nPunctuality of the flights up to {day}, by a query that Peaka keeps materialized:\n")
    print(metadata[dg.AssetKey("punctuality")]["report"].value)


def _check_peaka() -> None:
    """Ask Peaka for something: a wrong key or a server that is down shows before anything lands."""
    from flights.defs.resources import peaka_resource

    with dg.build_resources({"peaka": peaka_resource()}) as resources, resources.peaka.get_client() as client:
        client.list_cache_statuses()


def _selection(instance: dg.DagsterInstance) -> list[dg.AssetKey]:
    """The flights, the caches, the query and the report each time; the four small tables until they have landed once.

    So a row that somebody changes in one of them stays changed, and shows up in its cache.
    """
    from flights.defs.landing import LANDING

    landings = [dg.AssetKey([LANDING, table]) for table in TABLES if table != "flights"]
    missing = [key for key in landings if instance.get_latest_materialization_event(key) is None]
    caches = [dg.AssetKey(cache_key(table)) for table in TABLES]
    query = dg.AssetKey(["peaka", "mtquery", QUERY])
    return [*missing, dg.AssetKey([LANDING, "flights"]), *caches, query, dg.AssetKey("punctuality")]


@dg.logger
def _brief_logger(_: dg.InitLoggerContext) -> logging.Logger:
    """Print a line for each materialization, and warnings. The rest of a run's log is in Dagster's UI."""
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.DEBUG)
    logger.handlers = [_BriefHandler()]
    logger.propagate = False
    return logger


class _BriefHandler(logging.Handler):
    """Keeps what an asset says until it fails, warns, or takes long; a materialized asset needs no words."""

    _SILENCE = 10.0  # seconds after which somebody wonders what goes on

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[str] = []
        self._printed_at = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        meta: Mapping[str, Any] = getattr(record, "dagster_meta", {})
        event: dg.DagsterEvent | None = meta.get("dagster_event")
        if event is None:
            self._kept.append(str(meta.get("orig_message", record.getMessage())))
            if record.levelno >= logging.WARNING or time.monotonic() - self._printed_at > self._SILENCE:
                self._print_kept()
        elif event.is_step_materialization and event.asset_key:
            self._kept = [f"materialized {event.asset_key.to_user_string()}"]
            self._print_kept()
        elif event.is_step_failure:
            self._print_kept()

    def _print_kept(self) -> None:
        for line in self._kept:
            print(f"  {line}", flush=True)
        self._kept = []
        self._printed_at = time.monotonic()


def _print_caches(metadata: Mapping[dg.AssetKey, Mapping[str, dg.MetadataValue]]) -> None:
    rows = [["cache", *_COLUMNS]]
    for table in TABLES:
        key = dg.AssetKey(cache_key(table))
        if key in metadata:
            rows.append(
                [key.to_user_string(), *(_cell(metadata[key].get(name)) for name in _COLUMNS.values())]
            )
    if len(rows) == 1:
        return
    print()
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(
                _aligned(cell, width, column)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )


def _cell(value: dg.MetadataValue | None) -> str:
    if value is None:
        return "-"  # Peaka did not say
    return f"{value.value:.3f}" if isinstance(value, dg.FloatMetadataValue) else str(value.value)


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 3 else cell.rjust(width)


def _failure(result: dg.ExecuteInProcessResult) -> CommandError | KeyboardInterrupt:
    """Why steps failed, each in a line; an interrupt reaches a step as an error of Dagster's."""
    reasons: list[str] = []
    for event in result.filter_events(lambda event: event.is_step_failure):
        failure = event.step_failure_data
        if failure.user_failure_data and failure.user_failure_data.description:
            reasons.append(failure.user_failure_data.description)
        elif failure.error:
            cause = failure.error
            while cause.cause:
                cause = cause.cause
            if cause.cls_name == dg.DagsterExecutionInterruptedError.__name__:
                return KeyboardInterrupt()
            reasons.append(re.sub(r"^[\w.]+: ", "", cause.message.strip()))  # without the class
    return CommandError(
        "\n".join(reasons) or "the run failed, and said nothing: see it in the UI, `make dev`."
    )


if __name__ == "__main__":
    sys.exit(main())
