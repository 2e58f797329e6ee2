"""A project's caches as plain data: what definitions are built from, and the file that keeps it while Peaka is away."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import dagster as dg
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
)

from dagster_peaka.api.fields import Id
from dagster_peaka.api.models import Column, SyncMode, duration_seconds
from dagster_peaka.caches.names import TableName
from dagster_peaka.errors import PeakaConfigError, shortened

FORMAT = "dagster-peaka project"
"""What a snapshot's file calls itself."""

VERSIONS = (1, 2)
"""The versions of the file's layout that are read. A field more or less is another version.

With queries it is 2; without them the file is what it was before there were any, and an older release reads it.
"""

ANEW = "Make a new one: PeakaResource.fetch_project(), then .save(path) on what it returns."


class PeakaCache(BaseModel):
    """One cache: which table it copies, and what is known of it. What is not known is None.

    ``columns`` carry Trino's types; schedules are ISO-8601 durations such as ``PT6H``, None where Peaka starts no sync
    of that mode by itself or where that is not known. ``supported_modes`` are those in which Peaka can sync the table.

    Raises:
        pydantic.ValidationError: a ``ValueError`` that names the field, for one that is missing, unknown or no text.

    Example:
        .. code-block:: python

            from dagster_peaka import PeakaCache

            cache = PeakaCache(
                id="5f3c", catalog_id="17", catalog_name="shop", schema_name="public", table_name="orders"
            )
            print(cache.name)  # shop.public.orders
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Id
    catalog_id: Id
    catalog_name: str
    schema_name: str
    table_name: str
    catalog_type: str | None = None
    columns: tuple[Column, ...] | None = None
    incremental_schedule: str | None = None
    full_refresh_schedule: str | None = None
    supported_modes: frozenset[SyncMode] | None = None

    @property
    def table(self) -> TableName:
        """The table's full name, as its three parts."""
        return TableName(self.catalog_name, self.schema_name, self.table_name)

    @property
    def name(self) -> str:
        """The table as ``catalog.schema.table``; a part that holds a dot is quoted."""
        return str(self.table)

    @property
    def scheduled_freshness(self) -> dg.FreshnessPolicy | None:
        """The policy that fails after twice the shorter of the schedules' intervals; None without a schedule."""
        return _scheduled_freshness(self.incremental_schedule, self.full_refresh_schedule)

    @field_serializer("supported_modes")
    def _modes_in_order(self, modes: frozenset[SyncMode] | None) -> list[str] | None:
        return None if modes is None else sorted(mode.value for mode in modes)


class PeakaQuery(BaseModel):
    """A query that is saved in a project. ``schedule`` is how often Peaka refreshes it by itself, None for never.

    In SQL it is ``"peaka"."query"."<name>"``; the snapshot of a materialized one is ``"peaka"."mtquery"."<name>"``.

    Raises:
        pydantic.ValidationError: a ``ValueError`` that names the field, for one that is missing, unknown or no text.

    Example:
        .. code-block:: python

            from dagster_peaka import PeakaQuery

            query = PeakaQuery(id="7099", name="report", sql='SELECT * FROM "shop"."public"."orders"')
            print(query.table)  # peaka.mtquery.report
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Id
    name: str
    sql: str
    materialized: bool = True
    schedule: str | None = None

    @property
    def table(self) -> TableName:
        """What stands for the query in SQL, its snapshot or, where it has none, its result."""
        return TableName("peaka", "mtquery" if self.materialized else "query", self.name)

    @property
    def scheduled_freshness(self) -> dg.FreshnessPolicy | None:
        """The policy that fails after twice the schedule's interval; None without a schedule."""
        return _scheduled_freshness(self.schedule)


def _scheduled_freshness(*schedules: str | None) -> dg.FreshnessPolicy | None:
    intervals = [seconds for schedule in schedules if (seconds := duration_seconds(schedule))]
    if not intervals:
        return None
    window = timedelta(seconds=2 * min(intervals))
    return dg.FreshnessPolicy.time_window(fail_window=max(window, timedelta(minutes=1)))  # Dagster's least


class PeakaProject(BaseModel):
    """A snapshot of a project's caches, in order of their tables' names, with the time (UTC) at which it was taken.

    ``queries`` holds its saved queries, in order of their names, where they were asked for.

    Taken by :meth:`PeakaResource.fetch_project` and kept in a file, it lets definitions load without Peaka.

    Raises:
        pydantic.ValidationError: a ``ValueError``, when two caches have the same id.

    Example:
        .. code-block:: python

            from dagster_peaka import PeakaCache, PeakaProject

            orders = PeakaCache(
                id="5f3c", catalog_id="17", catalog_name="shop", schema_name="public", table_name="orders"
            )
            PeakaProject(project_id="8d1f", caches=(orders,)).save("peaka_project.json")
            for cache in PeakaProject.load("peaka_project.json").caches:
                print(cache.name, cache.id)  # shop.public.orders 5f3c
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    project_id: str
    caches: tuple[PeakaCache, ...]
    queries: tuple[PeakaQuery, ...] = ()
    taken_at: AwareDatetime = Field(default_factory=lambda: datetime.now(timezone.utc))

    @field_validator("caches")
    @classmethod
    def _in_order_of_name(cls, caches: tuple[PeakaCache, ...]) -> tuple[PeakaCache, ...]:
        if twice := [
            cache_id for cache_id, count in Counter(cache.id for cache in caches).items() if count > 1
        ]:
            raise ValueError(f"cache {twice[0]} is there twice")
        return tuple(sorted(caches, key=lambda cache: (cache.table, cache.id)))

    @field_validator("queries")
    @classmethod
    def _queries_in_order(cls, queries: tuple[PeakaQuery, ...]) -> tuple[PeakaQuery, ...]:
        return tuple(sorted(queries, key=lambda query: (query.name, query.id)))

    @field_validator("taken_at")
    @classmethod
    def _in_utc(cls, moment: datetime) -> datetime:
        try:
            return moment.astimezone(timezone.utc)
        except OverflowError:
            raise ValueError("it lies outside of the calendar") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the snapshot to a file: wholly, or the file stays as it was. Its folder must exist.

        The file is JSON, the same bytes for the same snapshot, with a line for each fact, so that version control
        shows what changed. It holds no credential.

        Raises:
            PeakaConfigError: when there is no such folder, or the path is one.
            OSError: when the file cannot be written.

        Example:
            .. code-block:: python

                peaka.fetch_project().save("peaka_project.json")
        """
        target = Path(path).resolve()  # behind a link, what the link names is replaced
        if not target.parent.is_dir():
            raise PeakaConfigError(f"The snapshot cannot be saved to {target}: create its folder first.")
        if target.is_dir():
            raise PeakaConfigError(
                f"The snapshot cannot be saved to {target}: that is a folder, name a file in it."
            )
        _write_whole(target, self.to_json().encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PeakaProject:
        """Read the snapshot that :meth:`save` wrote. The file is never changed, and Peaka is not asked.

        Raises:
            PeakaConfigError: when there is no such file, or it is not what :meth:`save` wrote: damaged, edited, or of
                a version that this release does not know. The message says what is wrong where, and what to do.

        Example:
            .. code-block:: python

                project = PeakaProject.load("peaka_project.json")
        """
        try:
            content = Path(path).read_bytes()
        except FileNotFoundError:
            raise PeakaConfigError(f"There is no project snapshot {Path(path).absolute()}. {ANEW}") from None
        except (OSError, ValueError) as error:  # ValueError: a path that no file can have
            raise PeakaConfigError(
                f"The project snapshot {os.fspath(path)!r} cannot be read: {error}. Check path and permissions."
            ) from None
        return cls.from_json(content, source=str(Path(path).absolute()))

    def to_json(self) -> str:
        """The snapshot as the text that a file of it holds, for those who keep it elsewhere.

        Example:
            .. code-block:: python

                text = project.to_json()
        """
        without = None if self.queries else {"queries"}
        project = self.model_dump(mode="json", exclude_none=True, exclude=without)
        whole = {
            "format": FORMAT,
            "version": 2 if self.queries else 1,
            "sha256": _digest(project),
            "project": project,
        }
        text = json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
        # JSON can hold half of a surrogate pair, and an answer of Peaka may; UTF-8 cannot, but an escape can.
        return text.encode("utf-8", "backslashreplace").decode()

    @classmethod
    def from_json(cls, content: str | bytes, *, source: str = "given") -> PeakaProject:
        """The snapshot in a text that :meth:`to_json` made; ``source`` says in messages where that came from.

        Raises:
            PeakaConfigError: as :meth:`load` does.

        Example:
            .. code-block:: python

                text = project.to_json()
                assert PeakaProject.from_json(text, source="kept in a bucket") == project
        """
        try:
            with _collecting_nothing():
                digest, content_of_project = _opened(content)
                project = cls.model_validate(content_of_project)
                if digest != _digest(content_of_project):
                    raise _UnusableError(
                        "it was edited or damaged after it was saved, its checksum does not fit"
                    )
                return project
        except ValidationError as error:
            problem = _first_problem(error)
        except _UnusableError as error:
            problem = str(error)
        raise PeakaConfigError(f"The project snapshot {source} cannot be used: {problem}. {ANEW}")


class _UnusableError(Exception):
    """Why a text is no snapshot, in words that end no sentence."""


@contextmanager
def _collecting_nothing() -> Generator[None, None, None]:
    """Keep the garbage collector away.

    While a hundred thousand columns come into being, all of them to stay, it would look through Dagster's objects over
    and over: three quarters of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _opened(content: str | bytes) -> tuple[Any, Any]:
    """The checksum in a snapshot's text, and the project, neither of them checked."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _UnusableError(f"it is damaged or cut off, it is not JSON ({error})") from None
    whole = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    if whole.get("format") != FORMAT:
        raise _UnusableError(f"it is no snapshot of a project, its field 'format' is not {FORMAT!r}")
    version = whole.get("version")
    if isinstance(version, bool) or version not in VERSIONS:
        raise _UnusableError(
            f"its version is {shortened(json.dumps(version), 50)}, and this release of dagster-peaka reads "
            f"versions {' and '.join(map(str, VERSIONS))} only: upgrade dagster-peaka where a newer one wrote it"
        )
    return whole.get("sha256"), whole.get("project")


def _digest(project: Any) -> str:
    """A checksum of what a snapshot says, however its lines are broken."""
    return hashlib.sha256(json.dumps(project, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _first_problem(error: ValidationError) -> str:
    """What is wrong with which field: ``cache 3, column 1, name: Field required``."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ["project"]
    for part in first["loc"]:
        if isinstance(part, int):
            place[-1] = f"{ONE_OF.get(place[-1], place[-1])} {part + 1}"
        else:
            place.append(part)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{', '.join(place[1:] or place)}: {first['msg'].removeprefix('Value error, ')}{more}"


ONE_OF = {"caches": "cache", "columns": "column", "queries": "query"}
"""What an entry of a list is called in messages."""


def _write_whole(target: Path, content: bytes) -> None:
    beside = target.with_name(f".peaka-{secrets.token_hex(8)}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
