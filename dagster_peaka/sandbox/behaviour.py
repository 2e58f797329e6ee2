"""How the sandbox behaves where Peaka's contract is open, and how a test makes it misbehave.

`Behaviour` holds one field for each open question, `PROFILES` how they are answered by Peaka's document and by the
live service as people saw it. `Fault` answers chosen requests otherwise than asked, and `Plan` decides how a cache's
next executions go. All are plain data: the rooms above read them when they act.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

Mode = Literal["INCREMENTAL", "FULL_REFRESH"]
MODES: tuple[Mode, Mode] = ("INCREMENTAL", "FULL_REFRESH")
Profile = Literal["documented", "observed"]

DEFAULT_PROFILE: Profile = "observed"


class _Given:
    """Which fields somebody has set: a profile answers the others."""

    __slots__ = ("given",)
    given: "set[str] | frozenset[str]"


@dataclass(kw_only=True, slots=True)
class Behaviour(_Given):
    """One reading of Peaka's contract. Every field may be assigned while the sandbox runs, and counts from then on.

    A field that nobody sets is as Peaka's document says, until a sandbox takes it: then it is as the sandbox's profile
    says, `observed` for the live service as people saw it. `Behaviour.observed()` and `Behaviour.documented()` are
    whole readings, which leave nothing to a profile.

    Raises `ValueError` for a value that is no choice of its field, `AttributeError` for an unknown field.

    Example: `sandbox.behaviour.coalesce = True`
    """

    execution_seconds: float = 0.0
    """Least duration of every execution, in seconds."""
    visible_after: float = 0.0
    """Seconds until a new execution shows in status and history."""
    hide_queued: bool = False
    """An execution shows only when it leaves the queue."""
    queued_status: str = "RUNNING"
    """The status that a queued execution shows. Peaka's document has no word of its own for it."""
    coalesce: bool = False
    """A trigger while an execution of that mode runs or is queued starts nothing."""
    other_mode: Literal["parallel", "queue", "coalesce", "refuse"] = "parallel"
    """What a trigger does while the cache's other mode runs: go beside it, behind it, nowhere, or answer 409."""
    first_sync_mode: Literal["incremental", "full_refresh"] = "incremental"
    """The mode of the first sync of a cache that has no schedule. A table without a key is always refreshed."""
    trigger_answer: Literal["object", "empty", "text"] = "object"
    """The body that a trigger answers: a JSON object, nothing, or something that is not JSON."""
    status_case: Literal["upper", "lower", "title"] = "upper"
    """The letter case of every status."""
    mode_spelling: Literal["upper", "lower", "kebab", "absent"] = "upper"
    """How `executionMode` is spelled: FULL_REFRESH, full_refresh, full-refresh, or left out."""
    cached_records: Literal["total", "handled", "reported"] = "total"
    """`numberOfCachedRecords` of an incremental: the rows of the table, or the rows that this execution handled; or,
    of either mode, the sum of those that it reports as inserted and updated."""
    timestamps: Literal["z", "offset", "no_fraction", "null", "absent"] = "z"
    """How an execution's times are written. `null` breaks Peaka's document, which knows no null."""
    error_shape: Literal["object", "string", "null"] = "object"
    """What the `error` of a failed execution is. `string` and `null` break Peaka's document."""
    ids_as_numbers: bool = False
    """Catalog ids are JSON numbers (beyond 2^53), not strings. Breaks Peaka's document."""
    clock_offset: float = 0.0
    """Seconds by which the server's clock is ahead: in every time that it reports and in the Date header."""
    date_header: bool = True
    """Answers carry a Date header."""
    schedule_update: Literal["patch", "replace"] = "patch"
    """An update of a cache changes only the schedules that it names, or replaces both."""
    extra_fields: bool = False
    """Every object of an answer carries fields that no document names."""
    drop_progress: bool = False
    """Executions carry no `progress`."""
    error_body: Literal["documented", "observed"] = "documented"
    """The body of an error: `code`, `message`, `reason`, or what was seen: `error`, `message`, `errorCode` of a 400,
    `errorCode` (a number) and `message` of any other."""
    schema_statuses: Literal["list", "fail"] = "list"
    """The statuses of one schema's caches: a list, or always a 500."""
    catalog_statuses: Literal["list", "fail"] = "list"
    """The statuses of one catalog's caches: a list, or always a 500."""
    project_statuses: Literal["list", "fail"] = "list"
    """The statuses of all caches of the project: a list, or always a 500."""
    missing_cache_trigger: Literal["404", "400"] = "404"
    """What a trigger of a cache that does not exist answers."""
    missing_query: Literal["404", "400"] = "404"
    """What a stored query that does not exist answers."""
    cancel_in_gap: Literal["cancel", "fail"] = "cancel"
    """A cancel of a full refresh whose record does not show yet works, or answers 500 in vain."""
    create_existing: Literal["refuse", "keep"] = "refuse"
    """Creating a cache that exists: 409, or 500 during its first sync and then 200, which changes nothing."""
    create_at_once: Literal["one", "both"] = "one"
    """A creation that arrived before another one made the table's cache: as if that existed, or 200 like it."""
    uncacheable: Literal["code", "message"] = "code"
    """Creating a cache of a table that has none: 400 with TABLE_NOT_CACHEABLE, or with a message only."""
    deletion_seconds: float = 0.0
    """Seconds after a cache's deletion in which creating it again answers 500."""
    left_behind: bool = False
    """A table whose cache is deleted in the middle of a sync stays `isCached`, without a cache: reading it answers
    400, creating its cache 500, for good."""
    bad_schedule: Literal["refuse", "ignore"] = "refuse"
    """An update with a malformed schedule: 400, or 200 with the old schedule in its place."""
    full_refresh_gap: float = 0.0
    """Seconds from the answer to a full refresh's trigger until its record shows; it does not end before."""
    status_ahead: bool = False
    """The overall status is RUNNING as soon as something runs, before its record shows."""
    updated_records: Literal["exact", "inflated"] = "exact"
    """`numberOfUpdatedRecords`: what was updated, or 40 % of the rows of a first sync and 2 or more of any other."""
    deleted_records: Literal["exact", "zero"] = "exact"
    """`numberOfDeletedRecords`: what was deleted, or always 0."""
    silent_deletions: bool = False
    """A sync that only deleted rows reports 0 rows inserted, 0 updated and 0 deleted."""
    query_values: Literal["json", "text"] = "json"
    """Values in SIMPLE and CELL_TYPED answers: of JSON's types, or all of them texts."""
    first_sync_rows: Literal["so_far", "none"] = "so_far"
    """What a query finds in a table during its cache's first sync: what is copied so far, or no rows."""
    capped_reads: bool = False
    """A query sees only the first 100 rows of a table without a cache."""
    trigger_seconds: float = 0.0
    """Seconds until a trigger is answered; it takes its effect at once. 2.3 were seen of a full refresh."""
    row_seconds: float = 0.0
    """Seconds that every row of the cache adds to an execution. 0.07 fit what was seen, beside 2.5 for none."""
    query_start_gap: float = 0.0
    """Seconds until a refresh of a materialized query starts; its status shows the one before until then."""
    query_word_lag: float = 0.0
    """Seconds after the start of such a refresh for which the status shows the word of the one before."""
    query_updates: Literal["moves", "ends", "absent"] = "moves"
    """`lastUpdateTime`: moves when a refresh starts and ends, or only when it ends, or is null."""
    never_picked_up: bool = False
    """A new execution is a job that nobody picks up: RUNNING, `progress` and `error` null, `updatedAt` as created."""

    info: Literal["answer", "missing"] = "answer"
    """`GET /info`, which Peaka's document does not name, tells whose key it is, or answers 404."""

    def __new__(cls, **given: Any) -> "Behaviour":
        made = object.__new__(cls)
        made.given = frozenset(given)  # frozen while the defaults are being assigned, too
        return made

    def __post_init__(self) -> None:
        self.given = set(self.given)

    @classmethod
    def documented(cls, **readings: Any) -> "Behaviour":
        """All of it as Peaka's document says, but for the readings given."""
        return cls(**PROFILES["documented"] | readings)

    @classmethod
    def observed(cls, **readings: Any) -> "Behaviour":
        """All of it as the live service was seen, but for the readings given.

        Example: `Behaviour.observed(query_values="json")`
        """
        return cls(**PROFILES["observed"] | readings)

    def complete(self, readings: Mapping[str, Any]) -> None:
        """Let a profile's readings, such as `PROFILES["observed"]`, answer what nobody has."""
        for name, value in readings.items():
            if name not in self.given:
                object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        choices = CHOICES.get(name)
        if choices is not None and value not in choices:
            raise ValueError(f"Behaviour.{name} is {value!r}; it must be one of {', '.join(choices)}.")
        if name in _SECONDS and not 0 <= value < math.inf:
            raise ValueError(f"Behaviour.{name} is {value!r}; it must be a number of seconds, 0 or more.")
        object.__setattr__(self, name, value)
        if name != "given" and isinstance(self.given, set):
            self.given.add(name)


_SECONDS = {one.name for one in fields(Behaviour) if type(one.default) is float} - {"clock_offset"}

CHOICES: dict[str, tuple[str, ...]] = {
    name: get_args(hint) for name, hint in get_type_hints(Behaviour).items() if get_origin(hint) is Literal
}
"""The fields of `Behaviour` that are a choice, with what there is to choose from."""

_DOCUMENTED: dict[str, Any] = {reading.name: reading.default for reading in fields(Behaviour)}

OBSERVED: dict[str, Any] = {
    "cached_records": "reported",
    "error_body": "observed",
    "schema_statuses": "fail",
    "missing_cache_trigger": "400",
    "missing_query": "400",
    "cancel_in_gap": "fail",
    "create_existing": "keep",
    "create_at_once": "both",
    "uncacheable": "message",
    "bad_schedule": "ignore",
    "full_refresh_gap": 0.3,
    "status_ahead": True,
    "updated_records": "inflated",
    "deleted_records": "zero",
    "query_values": "text",
    "first_sync_rows": "none",
    "query_start_gap": 0.1,
}
"""Where the live service, as people saw it, differs from the document. What was seen only now and then, or at some
tables, is not among it: slow triggers and syncs, jobs that nobody picks up, reads that end after 100 rows, tables that
stay `isCached` without a cache.
"""

PROFILES: dict[Profile, dict[str, Any]] = {"documented": _DOCUMENTED, "observed": _DOCUMENTED | OBSERVED}
"""Every field of `Behaviour` as each profile reads it."""


@dataclass(slots=True)
class Fault:
    """What `PeakaSandbox.fault` installed: `hits` counts the requests that it met, `remove()` ends it."""

    operation: str | None
    cache: str | None
    times: int | None
    status: int | None
    body: Any
    headers: dict[str, str]
    delay: float
    lose_reply: bool
    refuse: bool
    hits: int = 0
    removed: bool = False

    @property
    def takes_effect(self) -> bool:
        """Whether what is asked is done, however it is answered."""
        return not self.refuse and (self.lose_reply or self.status is None)

    def remove(self) -> None:
        """Let the requests that it matched be answered as usual again."""
        self.removed = True

    @property
    def spent(self) -> bool:
        """Whether it meets no further request."""
        return self.removed or (self.times is not None and self.hits >= self.times)


COUNTS = ("inserted", "updated", "deleted", "total")
"""The rows that a plan, and so a scripted execution, may report."""


def check_rows(reported: object) -> None:
    """Raises `ValueError` for a count that is no number of rows."""
    for name in COUNTS:
        rows = getattr(reported, name)
        if rows is not None and (type(rows) is not int or rows < 0):
            raise ValueError(f"{name} is {rows!r}; it must be a number of rows, 0 or more.")


@dataclass(slots=True)
class Plan:
    """How executions of a cache are to go. `times` counts down with every execution that takes it.

    With any of the counts given it is scripted: it copies nothing, and its end reports these rows. `total`, the rows
    that the cache then holds, follows from the executions before it where it is None.

    Raises `ValueError` for a count that is no number of rows.
    """

    mode: Mode | None = None
    times: int | None = 1
    duration: float | None = None
    hold: bool = False
    fail: dict[str, Any] | str | None = None
    status: str | None = None
    until_end: bool = False
    vanish: bool = False
    inserted: int | None = None
    updated: int | None = None
    deleted: int | None = None
    total: int | None = None
    never_picked_up: bool = False

    def __post_init__(self) -> None:
        check_rows(self)

    @property
    def scripted(self) -> bool:
        """Whether it reports rows that were given, instead of copying."""
        return any(getattr(self, name) is not None for name in COUNTS)
