"""The factories that make Peaka's materialized queries Dagster assets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import dagster as dg

from dagster_peaka.caches.declared import (
    CHECKSUM,
    LAST_SYNC_CHECK,
    QUERY_METADATA,
    SOURCES_CHECK,
    SOURCES_METADATA,
    TABLE_NAME_METADATA,
    WAIT_METADATA,
)
from dagster_peaka.caches.names import TableName, near_matches, op_name, parted
from dagster_peaka.caches.project import PeakaProject, PeakaQuery
from dagster_peaka.errors import PeakaConfigError
from dagster_peaka.queries.graph import Graph
from dagster_peaka.queries.step import refresh_step
from dagster_peaka.steps.arguments import instead
from dagster_peaka.steps.definition import StepSettings
from dagster_peaka.steps.specs import (
    AssetCondition,
    AssetDependency,
    SyncSettings,
    check_distinct,
    several,
    warn_of_own_schedules,
)
from dagster_peaka.steps.step import StepResult
from dagster_peaka.translator import AssetKeyLike, DagsterPeakaTranslator

SOURCES_CHECKS = ("off", "warn", "block")


def build_peaka_query_asset(
    *,
    query: str,
    key: AssetKeyLike | None = None,
    deps: Iterable[AssetDependency] | None = None,
    sources: Iterable[str] | None = None,
    sources_check: str = "warn",
    description: str | None = None,
    metadata: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
    kinds: Iterable[str] | None = None,
    group_name: str | None = None,
    code_version: str | None = None,
    automation_condition: AssetCondition | None = None,
    freshness_policy: dg.FreshnessPolicy | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, object] | None = None,
    row_count: str = "off",
    fingerprint: str | None = None,
    wait: bool = True,
    on_schedule: str = "warn",
    cancel_on_termination: bool = False,
    resource_key: str = "peaka",
) -> dg.AssetsDefinition:
    """One materialized query as one asset: materializing it refreshes the query's snapshot and follows that.

    What Peaka tells of a refresh is its start, its word, and when that was last updated; no id. So the guarantee is
    weaker than a cache's: a materialization stands for a refresh that began after the run had polled and that Peaka
    reports as COMPLETED, but a refresh that somebody else started in the same moment cannot be told from the run's own.
    Two runs may then record the same refresh, with the same data version. Nothing touches the network when this is
    called.

    Args:
        query: the query's name in SQL, or its id.
        key: the asset key; by default ``peaka/mtquery/<query>``.
        deps: what the query reads, as assets: the caches of its tables. Dagster then refreshes it after them, which
            the order of syncs in Peaka does not.
        sources: the tables that it reads, as ``catalog.schema.table``, for the check.
        sources_check: the check ``sources_cached``, evaluated before each refresh where ``sources`` are given: each is
            cached, and the first sync of its cache is over; or it cannot be cached. ``warn``: a failed check is a
            warning. ``block``: then nothing is refreshed, and the step fails. ``off``: no check.
        row_count: ``query`` records ``dagster/row_count`` after every refresh, by ``count(*)`` through Peaka's SQL.
        fingerprint: a select list of aggregates over the snapshot, such as ``count(*), max(day)``, of which data
            versions are made. None: a version is the query's id with the refresh's start, and changes every time.
        wait: False for a step that ends when the trigger is answered; :func:`build_peaka_polling_sensor` then records
            what becomes of it. It implies the check ``last_sync_succeeded``.
        on_schedule: what is done about a schedule by which Peaka refreshes the query itself. ``warn``: where a step
            learns of one, its log says so. ``disable``: the refresh first has it switched off in Peaka, and fails if
            Peaka keeps it; costs one request a refresh. ``ignore``: nothing.
        cancel_on_termination: whether terminating a run cancels the refresh that it triggered. Peaka's cancel stops
            whatever refresh of the query runs, and a refresh of somebody else cannot always be told from ours.
        resource_key: the key of the :class:`PeakaResource` in the definitions.

    The other arguments mean what they mean for ``@dg.asset``; ``kinds`` is ``{"peaka", "sql"}`` by default.

    Raises:
        PeakaConfigError: when an argument cannot be understood.

    Example:
        .. code-block:: python

            orders = build_peaka_cache_asset(table="shop.public.orders")
            report = build_peaka_query_asset(
                query="report", deps=[orders], sources=["shop.public.orders"], sources_check="block"
            )
    """
    if not query.strip():
        raise PeakaConfigError("query is empty: write the query's name in SQL, or its id.")
    tables = [str(TableName.parse(table)) for table in several("sources", sources) or ()]
    settings = _settings(row_count, fingerprint, wait, on_schedule)
    name = TableName("peaka", "mtquery", query)
    spec = dg.AssetSpec(
        key=list(name) if key is None else parted("key", key),
        deps=[parted("deps", dep) for dep in several("deps", deps) or ()],
        description=description or f"Peaka's snapshot of the query {query}.",
        metadata={
            TABLE_NAME_METADATA: str(name),
            **(metadata or {}),
            **settings,
            QUERY_METADATA: query,
            **({SOURCES_METADATA: tables} if tables else {}),
        },
        skippable=True,
        tags=tags,
        owners=owners,
        kinds={"peaka", "sql"} if kinds is None else set(several("kinds", kinds)),
        group_name=group_name,
        code_version=code_version,
        automation_condition=automation_condition,
        freshness_policy=freshness_policy,
    )
    step = StepSettings(retry_policy, pool, op_tags)
    return _definition(spec, step, sources_check, resource_key, cancel=cancel_on_termination)


@instead()
def build_peaka_query_assets(
    project: PeakaProject,
    *,
    selector: str | Iterable[str] | None = None,
    translator: DagsterPeakaTranslator | None = None,
    sources_check: str = "warn",
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, object] | None = None,
    row_count: str = "off",
    fingerprint: str | None = None,
    wait: bool = True,
    on_schedule: str = "warn",
    cancel_on_termination: bool = False,
    resource_key: str = "peaka",
) -> list[dg.AssetsDefinition]:
    """The materialized queries of a snapshot as assets, each with a step of its own, after what they read.

    Which tables a query reads is told by its SQL, with the extra ``lineage``: a table whose cache is in the snapshot is
    that cache's asset, a query's name that query's, and anything else an asset outside of Peaka with the table's name
    as its key. Without the extra, and where a statement cannot be read, an asset has the dependencies that
    the translator gives it, and no check of its sources; a warning says so. A source that is not cached is a warning as
    well.

    Args:
        project: a snapshot with queries: :meth:`PeakaResource.fetch_project` with ``queries=True``.
        selector: names or ids, or shell patterns of names; by default all materialized queries.
        translator: says what each asset is called and shows (:meth:`DagsterPeakaTranslator.get_query_spec`), and what
            the assets of the caches are called; by default :class:`DagsterPeakaTranslator`. Give the one that the
            caches' own factory was given.
        sources_check: as for :func:`build_peaka_query_asset`, and so are ``row_count``, ``fingerprint``,
            ``wait``, ``on_schedule``, ``cancel_on_termination`` and ``resource_key``. Of a query from a snapshot,
            ``warn`` says once a load which have schedules.

    ``retry_policy``, ``pool`` and ``op_tags`` mean what they mean for ``@dg.asset``. What an asset is called and shows
    is the translator's to say; ``dg.map_asset_specs`` changes it afterwards, for all of them.

    Raises:
        PeakaConfigError: when two queries would be one asset, when a selector matches nothing, or when an argument
            cannot be understood.

    Example:
        .. code-block:: python

            project = peaka.fetch_project(queries=True)
            caches = build_peaka_cache_assets(project)
            queries = build_peaka_query_assets(project, sources_check="block", on_schedule="ignore")
    """
    settings = _settings(row_count, fingerprint, wait, on_schedule)
    chosen = _chosen(project, selector)
    graph = Graph(project, translator or DagsterPeakaTranslator())
    specs: list[dg.AssetSpec] = []
    taken: dict[str, str] = {}
    for query in chosen:
        spec = graph.spec_of(query)
        metadata = {**settings, **spec.metadata}
        specs.append(cast("Any", spec).replace_attributes(skippable=True, metadata=metadata))
        check_distinct(spec, f"query {query.name}", taken)
    graph.warn()
    warn_of_own_schedules(
        "query",
        ((query.name, query.schedule or "", spec) for query, spec in zip(chosen, specs, strict=True)),
    )
    step = StepSettings(retry_policy, pool, op_tags)
    return [
        _definition(spec, step, sources_check, resource_key, cancel=cancel_on_termination) for spec in specs
    ]


def _settings(row_count: str, fingerprint: str | None, wait: bool, on_schedule: str) -> dict[str, object]:
    """How queries are refreshed, as their specs' metadata tell the step."""
    settings = SyncSettings(None, row_count, fingerprint, wait, on_schedule)
    if fingerprint is not None and fingerprint.strip() == CHECKSUM:
        raise PeakaConfigError(
            "fingerprint='checksum' needs a table's columns, which Peaka lists of no query: write a select list of "
            "aggregates, such as 'count(*), max(day)'."
        )
    return settings.without_mode()


def _definition(
    spec: dg.AssetSpec, step: StepSettings, sources_check: str, resource_key: str, *, cancel: bool
) -> dg.AssetsDefinition:
    if sources_check not in SOURCES_CHECKS:
        choices = ", ".join(map(repr, SOURCES_CHECKS))
        raise PeakaConfigError(f"sources_check must be one of {choices}, not {sources_check!r}.")
    checks: dict[str, dg.AssetCheckSpec] = {}
    if sources_check != "off" and spec.metadata.get(SOURCES_METADATA):
        checks[f"check__{op_name(spec.key)}"] = dg.AssetCheckSpec(
            SOURCES_CHECK,
            asset=spec.key,
            blocking=sources_check == "block",
            description="What the query reads is cached, and the first sync of each cache is over.",
        )
    if spec.metadata.get(WAIT_METADATA) is False:
        # Without it nobody would see how a refresh has ended that was not waited for.
        checks[f"last_sync__{op_name(spec.key)}"] = dg.AssetCheckSpec(
            LAST_SYNC_CHECK, asset=spec.key, description="Peaka's last refresh of this query has succeeded."
        )

    def peaka_refresh(context: dg.AssetExecutionContext) -> Iterator[StepResult]:
        yield from refresh_step(context, getattr(context.resources, resource_key), cancel=cancel)

    return step.definition(peaka_refresh, [spec], checks, op_name(spec.key), resource_key)


def _chosen(project: PeakaProject, selector: str | Iterable[str] | None) -> list[PeakaQuery]:
    materialized = [query for query in project.queries if query.materialized]
    if selector is None:
        return materialized
    chosen: dict[str, PeakaQuery] = {}
    for text in [selector] if isinstance(selector, str) else selector:
        fitting = [query for query in materialized if query.id == text or fnmatchcase(query.name, text)]
        if not fitting:
            near = near_matches(text, [query.name for query in materialized])
            raise PeakaConfigError(
                f"No materialized query fits {text!r}.{near} Fetch the snapshot with queries=True, or correct the "
                "name."
            )
        chosen.update((query.id, query) for query in fitting)
    return [query for query in materialized if query.id in chosen]
