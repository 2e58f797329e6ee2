"""The factories that make Peaka caches Dagster assets, and the decorator for a step with a body of one's own."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from dagster_peaka.api.models import SyncMode
from dagster_peaka.caches.declared import WAIT_METADATA
from dagster_peaka.caches.names import op_name, op_names, parted
from dagster_peaka.caches.project import PeakaCache, PeakaProject
from dagster_peaka.caches.selection import PeakaSelection
from dagster_peaka.errors import PeakaConfigError
from dagster_peaka.records.attempts import materializations_of
from dagster_peaka.resource import PeakaResource, PeakaSyncConfig
from dagster_peaka.steps.arguments import DROPPED, instead
from dagster_peaka.steps.checks import PeakaCacheChecks, step_checks
from dagster_peaka.steps.definition import StepSettings
from dagster_peaka.steps.specs import (
    AssetCondition,
    AssetDependency,
    SyncSettings,
    description_of,
    identity_of,
    is_a,
    selected,
    several,
    shown,
    specs_of,
    warn_of_schedules,
)
from dagster_peaka.steps.step import StepResult, within_run
from dagster_peaka.translator import AssetKeyLike, DagsterPeakaTranslator

STEP_PER = ("cache", "catalog", "project")


@instead({"last_sync_check": DROPPED["last_sync_check"]})
def build_peaka_cache_asset(
    *,
    cache_id: str | None = None,
    table: str | Sequence[str] | None = None,
    key: AssetKeyLike | None = None,
    mode: str = "incremental",
    deps: Iterable[AssetDependency] | None = None,
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
    checks: PeakaCacheChecks | None = None,
    wait: bool = True,
    on_schedule: str = "warn",
    resource_key: str = "peaka",
) -> dg.AssetsDefinition:
    """One Peaka cache as one asset: materializing it syncs the cache and records the execution.

    The step triggers an incremental update (or a full refresh), follows exactly that execution to its end, and
    records its id, rows and times. Nothing touches the network when this is called; a table is looked up when the
    step runs, so the same definition serves every project that caches it.

    Args:
        cache_id: the cache's id. Ids differ between projects; ``table`` does not.
        table: the cached table as ``catalog.schema.table``, or its three parts. Exactly one of the two is given.
        key: the asset key; by default the table's three parts, or ``peaka/<cache_id>``.
        mode: ``incremental`` or ``full_refresh``; run config can change it for one run.
        row_count: ``query`` records ``dagster/row_count`` after every sync, by ``count(*)`` through Peaka's SQL.
            ``off`` records none: no figure of Peaka's status is a total.
        fingerprint: what the data version of a materialization is made of. ``checksum``: a checksum over all values
            of all rows (in any order), with their number; other strings are a select list of aggregates over the
            table, such as ``count(*), max(updated_at)``. Costs one query after the sync, which scans the copy; it
            answers ``row_count`` as well. None: the version is the execution's id, so it changes with every sync, and
            ``AutomationCondition.data_version_changed()`` fires after every one.
        checks: which checks the sync's own step evaluates after the sync, also where that has failed: a dictionary
            such as ``{"last_sync_succeeded": True, "max_age": timedelta(hours=6)}``, a :class:`PeakaCacheChecks`.
        wait: False for a step that ends when the trigger is answered; :func:`build_peaka_polling_sensor` then records
            what becomes of it. It implies the check ``last_sync_succeeded``.
        on_schedule: what is done about schedules by which Peaka syncs the cache itself, besides the syncs that Dagster
            decides on. ``warn``: where a step learns of one, its log says so. ``disable``: every sync first has them
            switched off in Peaka, where there are any, and fails if Peaka keeps them; costs one request a sync.
            ``ignore``: nothing.
        resource_key: the key of the :class:`PeakaResource` in the definitions.

    The other arguments mean what they mean for ``@dg.asset``; ``kinds`` is ``{"peaka"}`` by default.

    Raises:
        PeakaConfigError: when the arguments contradict each other or cannot be understood.

    Example:
        .. code-block:: python

            orders = build_peaka_cache_asset(
                table="shop.public.orders", deps=["landed_orders"], group_name="caches"
            )
    """
    identity, default_key = identity_of(cache_id, table)
    sync = SyncSettings(mode, row_count, fingerprint, wait, on_schedule)
    spec = dg.AssetSpec(
        key=default_key if key is None else parted("key", key),
        deps=[parted("deps", dep) for dep in several("deps", deps) or ()],
        description=description or description_of(identity, SyncMode.parse(mode)),
        metadata={**shown(identity), **(metadata or {}), **identity, **sync.as_metadata()},
        skippable=True,
        tags=tags,
        owners=owners,
        kinds={"peaka"} if kinds is None else set(several("kinds", kinds)),
        group_name=group_name,
        code_version=code_version,
        automation_condition=automation_condition,
        freshness_policy=freshness_policy,
    )
    step = StepSettings(retry_policy, pool, op_tags)
    return step.definition(
        _body(resource_key), [spec], checks_of([spec], checks), op_name(spec.key), resource_key
    )


@instead()
def build_peaka_cache_assets(
    caches_or_project: PeakaProject | Iterable[PeakaCache],
    *,
    step_per: str = "cache",
    selector: PeakaSelection | None = None,
    translator: DagsterPeakaTranslator | None = None,
    mode: str | None = None,
    name: str | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    row_count: str = "off",
    fingerprint: str | None = None,
    checks: PeakaCacheChecks | None = None,
    wait: bool = True,
    on_schedule: str = "warn",
    resource_key: str = "peaka",
) -> list[dg.AssetsDefinition]:
    """Caches as assets: one step for each cache, for each catalog, or for all of them.

    Nothing touches the network when this is called: the caches come from a snapshot
    (:meth:`PeakaResource.fetch_project`, :meth:`PeakaProject.load`) or are written out as :class:`PeakaCache`. Every
    definition is subsettable, and a step syncs only the caches that were selected.

    ``step_per`` decides what is cheap and what is robust:

    - ``cache`` (default): each cache has a step of its own, with its own retries, pool slot and log. A failed cache
      stops only what depends on it. The price is a process and some requests for each of them.
    - ``catalog``, ``project``: one step syncs many caches side by side and polls all of them with one request.
      Each materialization is recorded the moment it is known, and the failed caches are named at the end. But Dagster
      runs nothing downstream of a failed step in that run, not even behind its successful caches, and a failed
      upstream of one cache keeps the whole step from starting. "Re-execute from asset failure" repeats the failed
      ones only.

    Args:
        caches_or_project: a snapshot, or caches.
        step_per: ``cache``, ``catalog`` or ``project``.
        selector: which caches: an id or ``catalog.schema.table`` with shell patterns, a predicate, several of these,
            or a :class:`PeakaCacheSelector`; by default all.
        translator: says what each asset is called and shows; by default :class:`DagsterPeakaTranslator`.
        mode: ``incremental`` or ``full_refresh``; by default incremental, and full refresh for a table that is known
            to support nothing else.
        name: the name of the step; where there are several, what their names begin with. By default steps are named
            after the cache, the catalog or the project, so a second call for the same catalogs or project needs it.
        row_count: as for :func:`build_peaka_cache_asset`, and so are ``fingerprint``, ``checks``, ``wait``,
            ``on_schedule`` and ``resource_key``. Of a cache from a snapshot, ``checksum`` covers the snapshot's
            columns, and ``warn`` says once a load which caches have schedules.

    ``retry_policy`` and ``pool`` mean what they mean for ``@dg.asset``. What an asset is called and shows is the
    translator's to say; ``dg.map_asset_specs`` changes it afterwards, for all of them.

    Raises:
        PeakaConfigError: when two caches would be one asset, when a selector matches nothing, or when an argument
            cannot be understood.

    Example:
        .. code-block:: python

            shop = build_peaka_cache_assets(
                PeakaProject.load("peaka_project.json"), selector="shop.public.*", step_per="catalog"
            )
    """
    if step_per not in STEP_PER:
        choices = ", ".join(map(repr, STEP_PER))
        raise PeakaConfigError(f"step_per must be one of {choices}, not {step_per!r}.")
    project_id = caches_or_project.project_id if isinstance(caches_or_project, PeakaProject) else None
    caches = selected(caches_or_project, selector)
    sync = SyncSettings(mode, row_count, fingerprint, wait, on_schedule)
    specs = specs_of(caches, translator, sync)
    warn_of_schedules(caches, specs)
    step = StepSettings(retry_policy, pool)
    body = _body(resource_key)
    return [
        step.definition(body, members, checks_of(members, checks), step_name, resource_key)
        for step_name, members in steps_of(step_per, caches, specs, name, project_id).items()
    ]


@instead()
def peaka_cache_assets(
    caches_or_project: PeakaProject | Iterable[PeakaCache],
    *,
    selector: PeakaSelection | None = None,
    translator: DagsterPeakaTranslator | None = None,
    mode: str | None = None,
    name: str | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, object] | None = None,
    row_count: str = "off",
    fingerprint: str | None = None,
    checks: PeakaCacheChecks | None = None,
    wait: bool = True,
    on_schedule: str = "warn",
) -> Callable[[Callable[..., Iterable[StepResult]]], dg.AssetsDefinition]:
    """Caches as the assets of one step with a body of one's own, around ``yield from peaka.sync_and_poll(context)``.

    The arguments are those of :func:`build_peaka_cache_assets`. The body takes what ``@dg.multi_asset`` gives one: a
    context, resources by their names, and a config. It may do things before, between and after the results.

    Raises:
        PeakaConfigError: as :func:`build_peaka_cache_assets`, and when no cache is left.

    Example:
        .. code-block:: python

            project = PeakaProject.load("peaka_project.json")


            @peaka_cache_assets(project, selector="shop.public.*")
            def shop(context: dg.AssetExecutionContext, peaka: PeakaResource, config: PeakaSyncConfig):
                context.log.info("The shop's caches are brought up to date.")
                yield from peaka.sync_and_poll(context, config)
    """
    caches = selected(caches_or_project, selector)
    if not caches:
        raise PeakaConfigError(
            "peaka_cache_assets was given no cache: check the project or the list of caches."
        )
    sync = SyncSettings(mode, row_count, fingerprint, wait, on_schedule)
    specs = specs_of(caches, translator, sync)
    warn_of_schedules(caches, specs)
    step = StepSettings(retry_policy, pool, op_tags)
    declared = checks_of(specs, checks)

    def decorated(body: Callable[..., Iterable[StepResult]]) -> dg.AssetsDefinition:
        return step.definition(_watched(body), specs, declared, name or body.__name__)

    return decorated


def _body(resource_key: str) -> Callable[..., Iterator[StepResult]]:
    """What the factories' steps do."""

    def peaka_sync(context: dg.AssetExecutionContext, config: PeakaSyncConfig) -> Iterator[StepResult]:
        peaka: PeakaResource = getattr(context.resources, resource_key)
        yield from peaka.sync_and_poll(context, config)

    return peaka_sync


def _watched(body: Callable[..., Iterable[StepResult]]) -> Callable[..., Iterator[StepResult]]:
    """``body``, which fails when it ends without a result of a selected cache: Dagster itself would say nothing."""

    @functools.wraps(body)
    def watched(*args: Any, **kwargs: Any) -> Iterator[StepResult]:
        results = body(*args, **kwargs)
        if not is_a(results, Iterable):
            raise dg.Failure(
                f"{body.__name__} answered {results!r} and no results: write `yield from "
                "peaka.sync_and_poll(context)` in its body.",
                allow_retries=False,
            )
        context = within_run(dg.AssetExecutionContext.get)
        left_alone = any(
            isinstance(value, PeakaSyncConfig) and value.wait is False for value in (*args, *kwargs.values())
        )
        missing = set[dg.AssetKey]() if left_alone else _awaited(context)
        for result in results:
            if isinstance(result, dg.MaterializeResult):
                missing -= {result.asset_key} if result.asset_key else missing
            yield result
        missing.difference_update(materializations_of(context.instance, context.run.run_id))
        if missing:
            named = ", ".join(sorted(key.to_user_string() for key in missing))
            raise dg.Failure(
                f"{body.__name__} has ended without a result of {named}, so nothing is recorded of it. Yield every "
                "result of sync_and_poll, and let its Failure pass."
            )

    return watched


def _awaited(context: dg.AssetExecutionContext) -> set[dg.AssetKey]:
    """The selected assets of a step whose syncs it waits for."""
    metadata = context.assets_def.metadata_by_key
    return {key for key in context.selected_asset_keys if metadata[key].get(WAIT_METADATA) is not False}


# From specs to steps


def steps_of(
    step_per: str,
    caches: Sequence[PeakaCache],
    specs: Sequence[dg.AssetSpec],
    name: str | None,
    project_id: str | None,
) -> dict[str, list[dg.AssetSpec]]:
    """The specs of each step, by the name of its op."""
    if not specs:
        return {}
    if step_per == "project":
        wanted = ("peaka", project_id or "project")
        return {name or op_names([wanted])[wanted]: list(specs)}
    if step_per == "cache":
        prefix = () if name is None else (name,)
        single: dict[str, list[dg.AssetSpec]] = {}
        for spec in specs:
            single.setdefault(op_name(dg.AssetKey([*prefix, *spec.key.path])), []).append(spec)
        return single
    catalogs = {cache.catalog_id: cache.catalog_name for cache in caches}
    shared = Counter(catalogs.values())
    steps: dict[tuple[str, ...], list[dg.AssetSpec]] = {}
    for cache, spec in zip(caches, specs, strict=True):
        # Peaka lists catalogs of its own that share a name.
        catalog = [cache.catalog_name, *([cache.catalog_id] if shared[cache.catalog_name] > 1 else [])]
        steps.setdefault((*(name or "peaka").split("__"), *catalog), []).append(spec)
    names = op_names(steps)
    return {names[parts]: members for parts, members in steps.items()}


def checks_of(specs: Sequence[dg.AssetSpec], chosen: PeakaCacheChecks | None) -> dict[str, dg.AssetCheckSpec]:
    """The checks that a step evaluates; without them nobody would see how a deferred sync has ended."""
    deferred = {spec.key for spec in specs if spec.metadata.get(WAIT_METADATA) is False}
    return step_checks(specs, chosen, last_sync=deferred)
