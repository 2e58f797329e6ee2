"""Asset checks of caches: rows that are missing, columns that have changed, copies that are stale.

What a check goes by stands in its spec's metadata. Evaluating reads the status of the caches by one request, whatever
their number; what the definitions and Dagster's own records already tell costs no request at all.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple, TypeAlias, TypedDict, TypeVar, cast

import dagster as dg

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Answer, Call
from dagster_peaka.api.client import NOT_LISTED, PeakaClient
from dagster_peaka.api.models import CacheExecution, CacheStatus, Column, SyncMode
from dagster_peaka.caches.declared import LAST_SYNC_CHECK, DeclaredCache, column_types, declared_cache
from dagster_peaka.caches.lookup import find_caches, list_caches
from dagster_peaka.caches.names import CacheReference, TableName, few, near_matches, op_name, table_of
from dagster_peaka.errors import PeakaConfigError, PeakaError, PeakaNotFoundError, PeakaResponseError
from dagster_peaka.translator import column_schema

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

ROWS_CHECK = "rows_not_dropped"
COLUMNS_CHECK = "columns_unchanged"
AGE_CHECK = "not_stale"

CHECKS = (ROWS_CHECK, COLUMNS_CHECK, AGE_CHECK)
"""Those that are evaluated here. The check of the last sync is the sync's own: :mod:`records.last_sync`."""

MAX_ROWS_DROPPED = "peaka/max_rows_dropped"
"""The key, in a check's metadata, of the percentage of rows that may be gone."""

MAX_AGE = "peaka/max_age_seconds"
"""The key, in a check's metadata, of the age that the newest completed sync may have."""

SEVERITY = "peaka/severity"
"""The key, in a check's metadata, of the severity of a failure; WARN when absent, and ERROR for blocking checks."""

HISTORY = 100
"""Entries of a history that one request asks for."""

RECORDS = 50
"""Materializations of an asset among which the newest two counted totals are sought."""

NAMED_AT_MOST = 10
"""Assets that one message names at most."""

UNKNOWN_TYPE = "unknown"
"""What stands for a type that Peaka did not give."""


class PeakaCacheChecks(TypedDict, total=False):
    """Which checks of caches there are, as ``checks=`` of the factories takes them.

    ``last_sync_succeeded`` (bool): the sync's own end; it names the execution, and is evaluated only where one was
    seen. ``max_rows_dropped`` (percent), ``columns_unchanged`` (bool), ``max_age`` (timedelta), ``blocking`` (bool) and
    ``severity`` are those of :func:`build_peaka_cache_checks`.

    Example:
        .. code-block:: python

            checks: PeakaCacheChecks = {"last_sync_succeeded": True, "max_rows_dropped": 10}
            orders = build_peaka_cache_asset(
                table="shop.public.orders", row_count="query", checks=checks
            )
    """

    last_sync_succeeded: bool
    max_rows_dropped: float | None
    columns_unchanged: bool
    max_age: timedelta | None
    blocking: bool
    severity: dg.AssetCheckSeverity | None


def step_checks(
    specs: Sequence[dg.AssetSpec], chosen: PeakaCacheChecks | None, last_sync: Collection[dg.AssetKey] = ()
) -> dict[str, dg.AssetCheckSpec]:
    """The checks that a sync's step evaluates of its assets, by the names of their outputs.

    Args:
        last_sync: assets that get the check of the last sync in any case.

    Raises:
        PeakaConfigError: as :func:`build_peaka_cache_checks`, and for a check that there is not.
    """
    if not isinstance(cast("object", chosen), (Mapping, type(None))):
        raise PeakaConfigError(
            f"checks must be a dictionary such as {{'max_rows_dropped': 10}}, not {chosen!r}."
        )
    rest = dict(chosen or {})
    always = bool(rest.pop("last_sync_succeeded", False))
    for name in rest:
        if name not in PeakaCacheChecks.__annotations__:
            near = near_matches(name, list(PeakaCacheChecks.__annotations__))
            raise PeakaConfigError(f"checks has no {name!r}.{near}")
    declared = {
        f"check__{op_name(spec.key)}": dg.AssetCheckSpec(
            LAST_SYNC_CHECK, asset=spec.key, description="Peaka's last sync of this cache has succeeded."
        )
        for spec in specs
        if always or spec.key in last_sync
    }
    if rest:
        declared.update(cache_checks(specs, **cast("Any", rest)))
    return declared


def cache_checks(
    assets: Iterable[dg.AssetSpec],
    *,
    max_rows_dropped: float | None = None,
    columns_unchanged: bool = False,
    max_age: timedelta | None = None,
    blocking: bool = False,
    severity: dg.AssetCheckSeverity | None = None,
) -> dict[str, dg.AssetCheckSpec]:
    """The chosen checks of each asset, by the names of their outputs.

    Raises:
        PeakaConfigError: when no check is chosen, or a choice makes no sense.
    """
    if blocking and severity is dg.AssetCheckSeverity.WARN:
        raise PeakaConfigError(
            "blocking=True with severity WARN would stop nothing, because Dagster blocks on ERROR only: leave "
            "severity out, or set it to ERROR."
        )
    chosen = _chosen(max_rows_dropped, columns_unchanged, max_age)
    caches = {spec.key: declared_cache(spec) for spec in assets}
    if columns_unchanged:
        _check_columns_are_known(caches)
    said = {} if severity is None else {SEVERITY: severity.value}
    return {
        f"{check}__{op_name(key)}": dg.AssetCheckSpec(
            check, asset=key, description=description, blocking=blocking, metadata={**bound, **said}
        )
        for key in caches
        for check, (description, bound) in chosen.items()
    }


def _chosen(
    max_rows_dropped: float | None, columns_unchanged: bool, max_age: timedelta | None
) -> dict[str, tuple[str, dict[str, float]]]:
    """The descriptions of the chosen checks, and the bounds by which they go."""
    if max_rows_dropped is not None and not 0 <= max_rows_dropped < 100:
        raise PeakaConfigError(
            f"max_rows_dropped must be a percentage from 0 to below 100, not {max_rows_dropped!r}."
        )
    age = cast("object", max_age)  # numbers are the likely mistake
    if age is not None and not (isinstance(age, timedelta) and age > timedelta()):
        raise PeakaConfigError(
            f"max_age must be a datetime.timedelta above zero, such as timedelta(hours=6), not {age!r}."
        )
    chosen: dict[str, tuple[str, dict[str, float]]] = {}
    if max_rows_dropped is not None:
        most = f"{max_rows_dropped:g} % of its rows"
        description = f"The table has lost no more than {most} since the materialization before."
        chosen[ROWS_CHECK] = description, {MAX_ROWS_DROPPED: float(max_rows_dropped)}
    if columns_unchanged:
        chosen[COLUMNS_CHECK] = "The table has the columns that it had when the snapshot was taken.", {}
    if max_age is not None:
        description = f"Peaka has completed a sync of this cache within the last {max_age}."
        chosen[AGE_CHECK] = description, {MAX_AGE: max_age.total_seconds()}
    if not chosen:
        raise PeakaConfigError("No check is chosen: set max_rows_dropped, columns_unchanged or max_age.")
    return chosen


def _place_of(declared: DeclaredCache) -> tuple[str, str, str] | None:
    """The table's catalog (by id), schema and name, where the definition has them."""
    target = declared.target
    table = table_of(target) if target else None
    if target is None or table is None or target.catalog_id is None or target.schema_name is None:
        return None
    return target.catalog_id, target.schema_name, table.table


def _check_columns_are_known(caches: Mapping[dg.AssetKey, DeclaredCache]) -> None:
    unknown = [key.to_user_string() for key, cache in caches.items() if cache.columns is None]
    if unknown:
        raise PeakaConfigError(
            f"columns_unchanged compares with the columns of a snapshot, and {few(unknown, NAMED_AT_MOST)} "
            "have none: build them by build_peaka_cache_assets from PeakaResource.fetch_project(), take a new "
            "snapshot if their columns could not be read then, or leave them out of assets."
        )


# What came out


class _Outcome(NamedTuple):
    passed: bool
    description: str
    metadata: Mapping[str, dg.MetadataValue] = {}


_Outcomes: TypeAlias = dict[dg.AssetKey, _Outcome | PeakaError]
"""How a check came out for each asset, or why it could not be evaluated."""


def evaluations(
    client: PeakaClient,
    instance: dg.DagsterInstance,
    caches: Mapping[dg.AssetKey, DeclaredCache],
    checks: Iterable[dg.AssetCheckSpec],
) -> Iterator[tuple[dg.AssetCheckResult, PeakaError | None]]:
    """How the checks of these caches came out; with the reason where one could not be evaluated, which fails it.

    Checks of other kinds, and of other assets, are passed over.
    """
    wanted = {check.key: check for check in checks if check.asset_key in caches}

    def about(name: str) -> dict[dg.AssetKey, dg.AssetCheckSpec]:
        return {key.asset_key: check for key, check in wanted.items() if key.name == name}

    rows, columns, ages = about(ROWS_CHECK), about(COLUMNS_CHECK), about(AGE_CHECK)
    unplaced = [caches[key] for key in columns if _place_of(caches[key]) is None]
    poll = _poll(client, [*(caches[key] for key in ages), *unplaced])
    outcomes: dict[str, _Outcomes] = {
        COLUMNS_CHECK: _column_outcomes(client, poll, {key: caches[key] for key in columns}),
        ROWS_CHECK: {
            key: _rows_outcome(*_last_counts(instance, key), check.metadata[MAX_ROWS_DROPPED])
            for key, check in rows.items()
        },
        AGE_CHECK: _age_outcomes(
            client,
            poll,
            {key: (caches[key], timedelta(seconds=check.metadata[MAX_AGE])) for key, check in ages.items()},
        ),
    }
    for name, by_asset in outcomes.items():
        for key, outcome in by_asset.items():
            yield _result(wanted[dg.AssetCheckKey(key, name)], outcome)


def _result(
    check: dg.AssetCheckSpec, outcome: _Outcome | PeakaError
) -> tuple[dg.AssetCheckResult, PeakaError | None]:
    error = outcome if isinstance(outcome, PeakaError) else None
    if isinstance(outcome, PeakaError):
        outcome = _Outcome(passed=False, description=f"Could not be evaluated. {outcome}")
    severity = dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN
    said = check.metadata.get(SEVERITY)
    result = dg.AssetCheckResult(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=outcome.passed,
        severity=severity if said is None else dg.AssetCheckSeverity(said),
        description=outcome.description,
        metadata=outcome.metadata,
    )
    return result, error


# Asking Peaka


@dataclass(frozen=True)
class _Poll:
    """What one reading of the status showed, and the time of it by Peaka's clock."""

    found: Mapping[CacheReference, CacheStatus | PeakaError]
    now: datetime


def _poll(client: PeakaClient, caches: Collection[DeclaredCache]) -> _Poll:
    """The status of all of these caches, by one request.

    Caches that are addressed by table cost one request more, for the names of the catalogs.
    """
    now = datetime.now(timezone.utc)
    if not caches:
        return _Poll({}, now)
    try:
        names = any(isinstance(cache.reference, TableName) for cache in caches)
        catalogs = {catalog.id: catalog.name for catalog in client.list_catalogs()} if names else {}
        answer = _read_statuses(client, caches, catalogs)
    except PeakaError as error:
        return _Poll({cache.reference: error for cache in caches}, now)
    return _Poll(_matched(client, caches, catalogs, answer.value), answer.server_time or now)


def _read_statuses(
    client: PeakaClient, caches: Collection[DeclaredCache], catalogs: Mapping[str, str]
) -> Answer[list[CacheStatus]]:
    """The status of one cache, or the smallest listing that has all of these."""
    (reference, *others) = {cache.reference for cache in caches}
    if isinstance(reference, str) and not others:
        answer = client.start(calls.get_cache_status(reference)).result()
        return Answer([answer.value], answer.server_time)
    try:
        return list_caches(client, {catalog for cache in caches for catalog in _catalogs(cache, catalogs)})
    except NOT_LISTED:
        if not all(isinstance(cache.reference, str) for cache in caches):
            raise
    # Where no listing is to be had, each cache is asked by itself; what has no answer is found missing.
    asked = client.collect(
        (cache.reference, calls.get_cache_status(str(cache.reference))) for cache in caches
    )
    answers = [answer for _, answer in asked if not isinstance(answer, PeakaError)]
    return Answer([answer.value for answer in answers], answers[0].server_time if answers else None)


def _catalogs(cache: DeclaredCache, catalogs: Mapping[str, str]) -> Iterator[str | None]:
    """The ids of the catalogs in which a cache may be; None where that is not known."""
    if isinstance(cache.reference, TableName):
        yield from (catalog_id for catalog_id, name in catalogs.items() if name == cache.reference.catalog)
    else:
        yield cache.target.catalog_id if cache.target else None


def _matched(
    client: PeakaClient,
    caches: Collection[DeclaredCache],
    catalogs: Mapping[str, str],
    statuses: Iterable[CacheStatus],
) -> dict[CacheReference, CacheStatus | PeakaError]:
    """The status of each cache, or why there is none."""
    listed: dict[CacheReference, list[CacheStatus]] = defaultdict(list)
    for status in statuses:
        if not status.deleted:
            catalog = catalogs.get(status.catalog_id or "", "")
            listed[status.id].append(status)
            listed[TableName(catalog, status.schema_name or "", status.table_name or "")].append(status)
    found: dict[CacheReference, CacheStatus | PeakaError] = {
        cache.reference: listed[cache.reference][0]
        if len(listed[cache.reference]) == 1
        else _missing(client, cache)
        for cache in caches
    }
    lost = [table for table in found if isinstance(table, TableName) and len(listed[table]) != 1]
    try:
        reasons = find_caches(client, lost)
    except PeakaError as error:
        reasons = dict.fromkeys(lost, error)
    found.update({table: why for table, why in reasons.items() if isinstance(why, PeakaError)})
    return found


def _missing(client: PeakaClient, cache: DeclaredCache) -> PeakaNotFoundError:
    return PeakaNotFoundError(
        f"Project {client.project_id} lists no cache {cache.target or cache.reference}: it was deleted, or belongs to "
        "another project. Correct its id or project_id, or create it again in Peaka and take a new snapshot.",
        status_code=404,
    )


def _answers(client: PeakaClient, questions: Mapping[K, Call[T]]) -> dict[K, T | PeakaError]:
    """The answers to questions that are put side by side, or why there is none."""
    return {
        key: answer if isinstance(answer, PeakaError) else answer.value
        for key, answer in client.collect(questions.items())
    }


# Rows


def _last_counts(instance: dg.DagsterInstance, key: dg.AssetKey) -> tuple[int | None, int | None, bool]:
    """The total of the newest materialization, that of the newest execution before it, and whether there is one.

    One execution may stand in several runs: of those that triggered, attached to or polled it.
    """
    records = instance.fetch_materializations(key, limit=RECORDS).records
    found = [record.asset_materialization for record in records if record.asset_materialization]
    if not found:
        return None, None, False
    execution_id = _written(found[0], "peaka/execution_id")
    earlier = [
        each
        for each in found[1:]
        if execution_id is None or _written(each, "peaka/execution_id") != execution_id
    ]
    counts = (rows for each in earlier if (rows := _counted(each)) is not None)
    return _counted(found[0]), next(counts, None), bool(earlier)


def _counted(materialized: dg.AssetMaterialization) -> int | None:
    """The total that a materialization recorded; until release 0.1 that of a full refresh was not counted."""
    rows = _written(materialized, "dagster/row_count")
    uncounted = "peaka/rows_cached" in materialized.metadata and (
        _written(materialized, "peaka/mode") == SyncMode.FULL_REFRESH.value
    )
    return rows if isinstance(rows, int) and not uncounted else None


def _written(materialized: dg.AssetMaterialization, name: str) -> object:
    value = materialized.metadata.get(name)
    return value.value if isinstance(value, (dg.TextMetadataValue, dg.IntMetadataValue)) else None


def _rows_outcome(after: int | None, before: int | None, has_earlier: bool, most: float) -> _Outcome:
    if not has_earlier:
        return _Outcome(True, "There is no earlier materialization to compare with.")
    if before is None or after is None:
        which = "The newest materialization has" if after is None else "No earlier materialization has"
        return _Outcome(
            False,
            f"{which} no counted total of rows, so nothing can be compared. Let every sync of this asset count its "
            "rows: row_count='query' in the factory.",
        )
    dropped = 100 * max(0, before - after) / before if before else 0.0
    return _Outcome(
        dropped <= most,
        f"{before:,} rows before, {after:,} now: {dropped:.3g} % have gone, {most:g} % may.",
        {
            "peaka/rows_before": dg.MetadataValue.int(before),
            "peaka/rows_after": dg.MetadataValue.int(after),
            "peaka/rows_dropped_percent": dg.MetadataValue.float(dropped),
        },
    )


# Columns


def _column_outcomes(
    client: PeakaClient, poll: _Poll, caches: Mapping[dg.AssetKey, DeclaredCache]
) -> _Outcomes:
    """Whether each table has the columns of the snapshot."""
    places = {key: _place_of(cache) or _place(poll.found[cache.reference]) for key, cache in caches.items()}
    now = _answers(
        client,
        {
            key: calls.list_columns(*place)
            for key, place in places.items()
            if not isinstance(place, PeakaError)
        },
    )
    outcomes: _Outcomes = {key: place for key, place in places.items() if isinstance(place, PeakaError)}
    for key, columns in now.items():
        outcomes[key] = (
            columns
            if isinstance(columns, PeakaError)
            else _columns_outcome(caches[key].columns or {}, columns)
        )
    return outcomes


def _place(status: CacheStatus | PeakaError) -> tuple[str, str, str] | PeakaError:
    if isinstance(status, PeakaError):
        return status
    if not (status.catalog_id and status.schema_name and status.table_name):
        return PeakaResponseError(f"Peaka does not say which table cache {status.id} copies.")
    return status.catalog_id, status.schema_name, status.table_name


def _columns_outcome(before: Mapping[str, str], columns: Sequence[Column]) -> _Outcome:
    schema = column_schema(columns)
    now = column_types(schema)
    added = [f"{name} ({kind})" for name, kind in now.items() if name not in before]
    removed = [f"{name} ({kind})" for name, kind in before.items() if name not in now]
    changed = [
        f"{name} (from {kind} to {now[name]})"
        for name, kind in before.items()
        if name in now and now[name] != kind and UNKNOWN_TYPE not in (kind, now[name])
    ]
    changes = {"added": added, "removed": removed, "changed": changed}
    metadata: dict[str, dg.MetadataValue] = {
        f"peaka/columns_{what}": dg.MetadataValue.text(", ".join(names))
        for what, names in changes.items()
        if names
    }
    if not metadata:
        return _Outcome(True, f"The same {len(before)} columns as in the snapshot.")
    listed = " ".join(f"{what.capitalize()}: {', '.join(names)}." for what, names in changes.items() if names)
    return _Outcome(
        False,
        f"Columns have changed since the snapshot. {listed} Take a new snapshot when that was meant.",
        {**metadata, "peaka/columns_now": dg.MetadataValue.table_schema(schema)},
    )


# Age


def _age_outcomes(
    client: PeakaClient, poll: _Poll, caches: Mapping[dg.AssetKey, tuple[DeclaredCache, timedelta]]
) -> _Outcomes:
    """Whether the newest completed sync of each cache has ended within the time that goes with it."""
    outcomes: _Outcomes = {}
    hidden: dict[dg.AssetKey, Call[list[CacheExecution]]] = {}
    for key, (cache, most) in caches.items():
        status = poll.found[cache.reference]
        if isinstance(status, PeakaError):
            outcomes[key] = status
            continue
        shown = [each for each in (status.last_incremental, status.last_full_refresh) if each]
        outcome = outcomes[key] = _age_outcome(shown, poll.now, most)
        if not outcome.passed and not all(each.succeeded for each in shown):
            # The status shows the newest execution of a mode only: one that completed may be behind it.
            hidden[key] = calls.get_execution_history(status.id, HISTORY)
    for key, history in _answers(client, hidden).items():
        outcomes[key] = (
            history if isinstance(history, PeakaError) else _age_outcome(history, poll.now, caches[key][1])
        )
    return outcomes


def _age_outcome(executions: Iterable[CacheExecution], now: datetime, most: timedelta) -> _Outcome:
    ends = [
        (end, execution.id)
        for execution in executions
        if execution.succeeded
        and (end := execution.finished_at or execution.updated_at or execution.created_at)
    ]
    if not ends:
        return _Outcome(
            False, "Peaka shows no completed sync with a time: look at the cache's history in Peaka."
        )
    end, execution_id = max(ends)
    age = max(timedelta(), now - end)
    return _Outcome(
        age <= most,
        f"The newest completed sync ended {timedelta(seconds=round(age.total_seconds()))} ago; {most} may go by.",
        {
            "peaka/execution_id": dg.MetadataValue.text(execution_id),
            "peaka/finished_at": dg.MetadataValue.timestamp(end),
            "peaka/age_seconds": dg.MetadataValue.float(age.total_seconds()),
        },
    )
