"""Asset checks of caches: rows that are missing, columns that have changed, copies that have grown old.

All checks of one call are one step. It reads the status of its caches by one request, whatever their number; what the
definitions and Dagster's own records already tell costs no request at all.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import NamedTuple, TypeAlias, TypeVar, cast

import dagster as dg

from dagster_peaka.api import calls
from dagster_peaka.api.calls import Answer, Call
from dagster_peaka.api.client import NOT_LISTED, PeakaClient
from dagster_peaka.api.models import CacheExecution, CacheStatus, Column, SyncMode
from dagster_peaka.caches.lookup import find_caches, list_caches
from dagster_peaka.caches.names import CacheReference, TableName, few, op_name, table_of
from dagster_peaka.declared import DeclaredCache, column_types, declared_cache, given_assets
from dagster_peaka.errors import PeakaConfigError, PeakaError, PeakaNotFoundError, PeakaResponseError
from dagster_peaka.resource import PeakaResource
from dagster_peaka.translator import column_schema

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

ROWS_CHECK = "rows_not_dropped"
COLUMNS_CHECK = "columns_unchanged"
AGE_CHECK = "not_stale"

HISTORY = 100
"""Entries of a history that one request asks for."""

RECORDS = 50
"""Materializations of an asset among which the newest two counted totals are sought."""

NAMED_AT_MOST = 10
"""Assets that one message names at most."""

UNKNOWN_TYPE = "unknown"
"""What stands for a type that Peaka did not give."""


def build_peaka_cache_checks(
    assets: dg.AssetsDefinition | Iterable[dg.AssetsDefinition],
    *,
    max_rows_dropped: float | None = None,
    columns_unchanged: bool = False,
    max_age: timedelta | None = None,
    blocking: bool = False,
    severity: dg.AssetCheckSeverity | None = None,
    name: str | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, object] | None = None,
    resource_key: str = "peaka",
) -> list[dg.AssetChecksDefinition]:
    """Checks of cache assets, as one step for all of them. At least one check has to be chosen.

    - ``max_rows_dropped`` makes the check ``rows_not_dropped``: the newest materialization against the one before it.
      It compares counted totals only, so the assets need ``row_count="query"``; without them the check fails and
      says so. It asks Peaka nothing.
    - ``columns_unchanged`` makes the check ``columns_unchanged``: names and types of the table's columns now, one
      request a cache, against ``dagster/column_schema`` of the asset's definition, which comes from the snapshot.
    - ``max_age`` makes the check ``not_stale``: the end of the newest COMPLETED execution of either mode against
      Peaka's own clock. It sees the syncs of Peaka's schedules, too. To be told when Dagster has not materialized an
      asset for too long, give the asset a ``freshness_policy``: that needs neither a request nor a run.

    A check that cannot be evaluated fails and says why; those of other caches are evaluated all the same.

    Dagster starts the step when all of its assets that the run materializes are done, and not at all when one of them
    failed; when a blocking check fails, nothing downstream of any of them runs. Call this once for each asset
    definition where one cache must not hold up the checks of another.

    Args:
        assets: what the factories made: one definition or several.
        max_rows_dropped: percent of the rows that may be gone, from 0 to below 100.
        columns_unchanged: whether to compare the columns; every asset must come from a snapshot that has them.
        max_age: how long ago the newest completed sync may have ended.
        blocking: whether a failed check keeps everything downstream of the asset from running in the same run.
        severity: of a failed check; WARN by default, and ERROR for blocking checks, because nothing else blocks.
        name: the name of the step.
        retry_policy: how often the step tries again while Peaka cannot be read. By default it does not, beyond the
            resource's ``request_max_retries``.
        pool, op_tags: as in ``@dg.multi_asset_check``.
        resource_key: the key of the :class:`PeakaResource` in the definitions.

    Raises:
        PeakaConfigError: when no check is chosen, when an argument makes no sense, when an asset is no Peaka cache, or
            when the columns of one are not known.

    Example:
        .. code-block:: python

            from datetime import timedelta

            checks = build_peaka_cache_checks(
                [orders], max_rows_dropped=10, max_age=timedelta(hours=6)
            )
            defs = dg.Definitions(assets=[orders], asset_checks=checks)

        A step for each definition, so that no cache holds up another one:

        .. code-block:: python

            shop = build_peaka_cache_assets(project)
            checks = [
                check
                for definition in shop
                for check in build_peaka_cache_checks(
                    definition, columns_unchanged=True, blocking=True
                )
            ]
    """
    rules = _Rules(max_rows_dropped, columns_unchanged, max_age)
    if blocking and severity is dg.AssetCheckSeverity.WARN:
        raise PeakaConfigError(
            "blocking=True with severity WARN would stop nothing, because Dagster blocks on ERROR only: leave "
            "severity out, or set it to ERROR."
        )
    definitions = given_assets(assets, "build_peaka_cache_checks")
    caches = {spec.key: declared_cache(spec) for definition in definitions for spec in definition.specs}
    if columns_unchanged:
        _check_columns_are_known(caches)
    if not caches:
        return []
    failed_as = severity or (dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN)
    specs = {
        f"{check}__{op_name(key)}": dg.AssetCheckSpec(
            check, asset=key, description=description, blocking=blocking
        )
        for key in caches
        for check, description in rules.chosen.items()
    }

    def peaka_cache_checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        peaka: PeakaResource = getattr(context.resources, resource_key)
        with peaka.get_client() as client:
            outcomes = _evaluated(client, context.instance, rules, caches, context.selected_asset_check_keys)
        unread = [
            error for error in outcomes.values() if isinstance(error, PeakaError) and not error.permanent
        ]
        if unread and retry_policy and context.op_execution_context.retry_number < retry_policy.max_retries:
            raise dg.Failure(f"{len(unread)} checks could not be evaluated, trying again. {unread[0]}")
        for key, outcome in outcomes.items():
            yield _result(key, outcome, failed_as)

    # Not by `@dg.multi_asset_check`, which makes up names of inputs and outputs from keys, whatever is in them.
    inputs = {f"checked__{op_name(key)}": key for key in caches}
    op = dg.op(
        name=name or _step_name(specs.values()),
        ins={input_name: dg.In(dg.Nothing) for input_name in inputs},
        out={output: dg.Out(dg.Nothing, is_required=False) for output in specs},
        required_resource_keys={resource_key},
        retry_policy=retry_policy,
        pool=pool,
        tags=op_tags,
    )(peaka_cache_checks)
    definition = dg.AssetChecksDefinition.create(
        keys_by_input_name=inputs, node_def=op, check_specs_by_output_name=specs, can_subset=True
    )
    return [definition]


# What is checked


@dataclass(frozen=True)
class _Rules:
    """Which checks are chosen, and by which bounds they go."""

    max_rows_dropped: float | None
    columns_unchanged: bool
    max_age: timedelta | None

    def __post_init__(self) -> None:
        if self.max_rows_dropped is not None and not 0 <= self.max_rows_dropped < 100:
            raise PeakaConfigError(
                f"max_rows_dropped must be a percentage from 0 to below 100, not {self.max_rows_dropped!r}."
            )
        age = cast("object", self.max_age)  # numbers are the likely mistake
        if age is not None and not (isinstance(age, timedelta) and age > timedelta()):
            raise PeakaConfigError(
                f"max_age must be a datetime.timedelta above zero, such as timedelta(hours=6), not {age!r}."
            )
        if not self.chosen:
            raise PeakaConfigError(
                "build_peaka_cache_checks was asked for no check: set max_rows_dropped, columns_unchanged or max_age."
            )

    @property
    def chosen(self) -> dict[str, str]:
        """The names of the chosen checks, with their descriptions."""
        chosen: dict[str, str] = {}
        if self.max_rows_dropped is not None:
            chosen[ROWS_CHECK] = (
                f"The table has lost no more than {self.max_rows_dropped:g} % of its rows since the materialization "
                "before."
            )
        if self.columns_unchanged:
            chosen[COLUMNS_CHECK] = "The table has the columns that it had when the snapshot was taken."
        if self.max_age is not None:
            chosen[AGE_CHECK] = f"Peaka has completed a sync of this cache within the last {self.max_age}."
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


def _step_name(specs: Iterable[dg.AssetCheckSpec]) -> str:
    """The same name for the same checks of the same assets."""
    checks = sorted(f"{spec.asset_key.to_user_string()}:{spec.name}" for spec in specs)
    digest = hashlib.sha256("\0".join(checks).encode("utf-8", "surrogatepass")).hexdigest()
    return f"peaka_cache_checks_{digest[:8]}"


# What came out


class _Outcome(NamedTuple):
    passed: bool
    description: str
    metadata: Mapping[str, dg.MetadataValue] = {}


_Outcomes: TypeAlias = dict[dg.AssetKey, _Outcome | PeakaError]
"""How a check came out for each asset, or why it could not be evaluated."""


def _result(
    key: dg.AssetCheckKey, outcome: _Outcome | PeakaError, severity: dg.AssetCheckSeverity
) -> dg.AssetCheckResult:
    if isinstance(outcome, PeakaError):
        outcome = _Outcome(passed=False, description=f"Could not be evaluated. {outcome}")
    return dg.AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=outcome.passed,
        severity=severity,
        description=outcome.description,
        metadata=outcome.metadata,
    )


def _evaluated(
    client: PeakaClient,
    instance: dg.DagsterInstance,
    rules: _Rules,
    caches: Mapping[dg.AssetKey, DeclaredCache],
    selected: Collection[dg.AssetCheckKey],
) -> dict[dg.AssetCheckKey, _Outcome | PeakaError]:
    """How each selected check came out."""
    rows, columns, ages = (
        {key: cache for key, cache in caches.items() if dg.AssetCheckKey(key, check) in selected}
        for check in (ROWS_CHECK, COLUMNS_CHECK, AGE_CHECK)
    )
    unplaced = [cache for cache in columns.values() if _place_of(cache) is None]
    look = _look(client, [*ages.values(), *unplaced])
    outcomes: dict[str, _Outcomes] = {COLUMNS_CHECK: _column_outcomes(client, look, columns)}
    if rules.max_rows_dropped is not None:
        outcomes[ROWS_CHECK] = _rows_outcomes(instance, rows, rules.max_rows_dropped)
    if rules.max_age is not None:
        outcomes[AGE_CHECK] = _age_outcomes(client, look, ages, rules.max_age)
    return {
        dg.AssetCheckKey(key, check): outcome
        for check, by_asset in outcomes.items()
        for key, outcome in by_asset.items()
    }


# Asking Peaka


@dataclass(frozen=True)
class _Look:
    """What one reading of the status showed, and the time of it by Peaka's clock."""

    found: Mapping[CacheReference, CacheStatus | PeakaError]
    now: datetime


def _look(client: PeakaClient, caches: Collection[DeclaredCache]) -> _Look:
    """The status of all of these caches, by one request.

    Caches that are addressed by table cost one request more, for the names of the catalogs.
    """
    now = datetime.now(timezone.utc)
    if not caches:
        return _Look({}, now)
    try:
        names = any(isinstance(cache.reference, TableName) for cache in caches)
        catalogs = {catalog.id: catalog.name for catalog in client.list_catalogs()} if names else {}
        answer = _read_statuses(client, caches, catalogs)
    except PeakaError as error:
        return _Look({cache.reference: error for cache in caches}, now)
    return _Look(_matched(client, caches, catalogs, answer.value), answer.server_time or now)


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


def _rows_outcomes(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey], most: float) -> _Outcomes:
    """Whether each table has lost no more than ``most`` percent of its rows: by counted totals, and nothing else."""
    return {key: _rows_outcome(*_last_counts(instance, key), most) for key in keys}


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
    client: PeakaClient, look: _Look, caches: Mapping[dg.AssetKey, DeclaredCache]
) -> _Outcomes:
    """Whether each table has the columns of the snapshot."""
    places = {key: _place_of(cache) or _place(look.found[cache.reference]) for key, cache in caches.items()}
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
    client: PeakaClient, look: _Look, caches: Mapping[dg.AssetKey, DeclaredCache], most: timedelta
) -> _Outcomes:
    """Whether the newest completed sync of each cache has ended within ``most``."""
    outcomes: _Outcomes = {}
    hidden: dict[dg.AssetKey, Call[list[CacheExecution]]] = {}
    for key, cache in caches.items():
        status = look.found[cache.reference]
        if isinstance(status, PeakaError):
            outcomes[key] = status
            continue
        shown = [each for each in (status.last_incremental, status.last_full_refresh) if each]
        outcome = outcomes[key] = _age_outcome(shown, look.now, most)
        if not outcome.passed and not all(each.succeeded for each in shown):
            # The status shows the newest execution of a mode only: one that completed may be behind it.
            hidden[key] = calls.get_execution_history(status.id, HISTORY)
    for key, history in _answers(client, hidden).items():
        outcomes[key] = history if isinstance(history, PeakaError) else _age_outcome(history, look.now, most)
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
