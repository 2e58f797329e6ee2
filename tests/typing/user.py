"""A user's file: every public name, used as its documentation says. A test has a strict type checker read it."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

import dagster as dg

from dagster_peaka import (
    DagsterPeakaTranslator,
    PeakaApiError,
    PeakaAuthenticationError,
    PeakaCache,
    PeakaCacheChecks,
    PeakaCacheSelector,
    PeakaClient,
    PeakaConfigError,
    PeakaConnectionError,
    PeakaError,
    PeakaNotFoundError,
    PeakaPermissionError,
    PeakaProject,
    PeakaProjectComponent,
    PeakaQuery,
    PeakaRateLimitError,
    PeakaResource,
    PeakaResponseError,
    PeakaServerError,
    PeakaSyncConfig,
    PeakaSyncError,
    PeakaUnknownOutcomeError,
    build_peaka_cache_asset,
    build_peaka_cache_assets,
    build_peaka_cache_checks,
    build_peaka_polling_sensor,
    build_peaka_query_asset,
    build_peaka_query_assets,
    build_peaka_upstream_sensor,
    load_peaka_cache_specs,
    peaka_cache_assets,
)
from dagster_peaka.api import (
    CacheCreation,
    CacheExecution,
    CacheRequest,
    CacheSchedule,
    CacheSettings,
    CacheStatus,
    Catalog,
    Column,
    ExecutionProgress,
    QueryResult,
    Schema,
    SyncMode,
    Table,
)
from dagster_peaka.component import (
    PeakaCacheEntry,
    PeakaCacheOverride,
    PeakaCheckSettings,
    PeakaOpSettings,
    PeakaPollingSensorSettings,
    PeakaQuerySettings,
    PeakaUpstreamSensorSettings,
)
from dagster_peaka.sandbox import (
    Behaviour,
    ExecutionRecord,
    PeakaSandbox,
    PeakaScript,
    Profile,
    RefreshRecord,
    RequestRecord,
    SandboxError,
    ScriptedExecution,
)

resource = PeakaResource(
    api_key=dg.EnvVar("PEAKA_API_KEY"), project_id=dg.EnvVar("PEAKA_PROJECT_ID"), zone="eu", poll_interval=2.0
)


class Tiered(DagsterPeakaTranslator):
    """Tags caches by what they copy."""

    def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
        """The spec, with a tag."""
        tier = "raw" if props.schema_name == "public" else "core"
        return super().get_asset_spec(props).merge_attributes(tags={"tier": tier})


def is_wanted(cache: PeakaCache) -> bool:
    """A predicate over caches."""
    return cache.catalog_type == "postgresql" and not cache.table_name.startswith("tmp_")


selector = PeakaCacheSelector(include=["shop.*.*", is_wanted], exclude="shop.public.old_?")
project: PeakaProject = PeakaProject.load("peaka_project.json")
orders: dg.AssetsDefinition = build_peaka_cache_asset(
    table="shop.public.orders",
    deps=["landed_orders", dg.AssetKey("other")],
    automation_condition=dg.AutomationCondition.eager(),
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=1)),
    retry_policy=dg.RetryPolicy(max_retries=2),
    metadata={"owner": "shop"},
    op_tags={"size": 1},
)
chosen: PeakaCacheChecks = {
    "last_sync_succeeded": True,
    "max_rows_dropped": 10,
    "max_age": timedelta(hours=6),
}
caches: list[dg.AssetsDefinition] = build_peaka_cache_assets(
    project,
    step_per="catalog",
    selector=selector,
    translator=Tiered(source_asset_key=lambda cache: ["landed", cache.table_name]),
    checks=chosen,
)


@peaka_cache_assets(project, selector="crm.*.*", mode="full_refresh")
def crm(
    context: dg.AssetExecutionContext, peaka: PeakaResource, config: PeakaSyncConfig
) -> Iterator[dg.MaterializeResult[object] | dg.AssetCheckResult]:
    """A body of one's own."""
    context.log.info("%d caches", len(context.selected_asset_keys))
    yield from peaka.sync_and_poll(context, config)


@dg.op
def refresh(context: dg.OpExecutionContext, peaka: PeakaResource) -> None:
    """A sync in an op."""
    execution: CacheExecution = peaka.sync("shop.public.orders", mode=SyncMode.FULL_REFRESH.value)
    progress: ExecutionProgress = execution.progress
    context.log.info("%s rows in %s s", progress.cached, execution.duration_seconds)


def look_around() -> None:
    """The client, without Dagster."""
    with PeakaClient(os.environ["PEAKA_API_KEY"], "project") as client:
        catalogs: list[Catalog] = client.list_catalogs()
        schemas: list[Schema] = client.list_schemas(catalogs[0].id)
        tables: list[Table] = client.list_tables(catalogs[0].id, schemas[0].schema_name)
        columns: list[Column] = client.list_columns(
            catalogs[0].id, schemas[0].schema_name, tables[0].table_name
        )
        request = CacheRequest(
            catalog_id=catalogs[0].id, schema_name="public", table_name="t", incremental_schedule="PT6H"
        )
        created: list[CacheCreation] = client.create_caches([request])
        settings: CacheSettings | None = created[0].cache
        schedule: CacheSchedule | None = settings.incremental_schedule if settings else None
        statuses: list[CacheStatus] = client.list_cache_statuses()
        result: QueryResult = client.execute_query("SELECT 1 AS one")
        dg.get_dagster_logger().info("%s %s %s %s", columns, schedule, statuses, result.rows[0]["one"])


def worth_trying_again(attempt: Callable[[], None]) -> bool:
    """The errors, from the most particular to the most general."""
    try:
        attempt()
    except (PeakaConfigError, PeakaAuthenticationError, PeakaPermissionError, PeakaNotFoundError):
        return False
    except (PeakaConnectionError, PeakaRateLimitError, PeakaServerError):
        return True
    except PeakaUnknownOutcomeError as error:
        return error.status_code is None
    except PeakaApiError as error:
        return error.status_code >= 500
    except PeakaSyncError as error:
        return error.state == "FAILED" and not error.permanent
    except PeakaResponseError:
        return False
    except PeakaError as error:
        return not error.permanent
    return False


checks: list[dg.AssetChecksDefinition] = build_peaka_cache_checks(
    caches, max_rows_dropped=10, columns_unchanged=True, max_age=timedelta(hours=6), blocking=True
)
polling: dg.SensorDefinition = build_peaka_polling_sensor([orders, *caches], backfill=True)
queries: list[dg.AssetsDefinition] = build_peaka_query_assets(project, sources_check="block")
report: dg.AssetsDefinition = build_peaka_query_asset(query="report", deps=[orders])
saved: tuple[PeakaQuery, ...] = project.queries
watched: list[dg.AssetSpec] = load_peaka_cache_specs(project, selector="shop.public.*")
watching: dg.SensorDefinition = build_peaka_polling_sensor(watched, name="watching")
upstream: dg.SensorDefinition = build_peaka_upstream_sensor(
    [orders, *caches], require="all", minimum_update_interval=timedelta(minutes=10)
)
defs = dg.Definitions(
    assets=[orders, *caches, crm],
    asset_checks=checks,
    sensors=[upstream, polling],
    resources={"peaka": resource},
)


class Announced(PeakaProjectComponent):
    """A component of one's own."""

    def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
        """The usual spec, with a tag more."""
        return super().get_asset_spec(props).merge_attributes(tags={"schema": props.schema_name})

    def execute(
        self, context: dg.AssetExecutionContext, peaka: PeakaResource
    ) -> Iterable[dg.MaterializeResult[object] | dg.AssetCheckResult]:
        """The usual syncs, announced."""
        context.log.info("The shop's caches are brought up to date.")
        yield from super().execute(context, peaka)


component = Announced(
    connection=resource,
    caches=[PeakaCacheEntry(table="shop.public.orders", deps=[dg.AssetKey("landed_orders")])],
    op=PeakaOpSettings(pool="peaka", retry_policy=dg.RetryPolicy(max_retries=2)),
    translation=lambda spec, props: spec.merge_attributes(tags={"table": props.table_name}),
    source_asset_key=lambda props: ["landed", props.table_name],
    overrides=[PeakaCacheOverride(match="shop.public.*", mode="full_refresh", wait=False)],
    checks=PeakaCheckSettings(max_rows_dropped=10, max_age=timedelta(hours=6)),
    upstream_sensor=PeakaUpstreamSensorSettings(minimum_update_interval=timedelta(minutes=10)),
    polling_sensor=PeakaPollingSensorSettings(default_status="RUNNING", backfill=True),
)
with_queries = PeakaProjectComponent(
    connection=resource, queries=PeakaQuerySettings(include="report_*", sources_check="block")
)


def test_orders(peaka_sandbox: PeakaSandbox, peaka_script: PeakaScript) -> None:
    """A test of one's own, on the fixtures."""
    peaka_sandbox.database("shop.public").execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    cache: str = peaka_script(
        "shop.public.orders", [ScriptedExecution(inserted=1), ScriptedExecution(fail="full")]
    )
    behaviour: Behaviour = peaka_sandbox.behaviour
    profile: Profile = peaka_sandbox.profile
    assert profile == "observed"
    behaviour.coalesce = True
    assert dg.materialize([orders], resources={"peaka": resource}).success
    executions: list[ExecutionRecord] = peaka_sandbox.executions(cache)
    requests: list[RequestRecord] = peaka_sandbox.requests
    query_id: str = peaka_sandbox.queries.create("report", "SELECT 1 AS one")
    refreshes: list[RefreshRecord] = peaka_sandbox.queries.refreshes(query_id)
    assert [refresh.status for refresh in refreshes] == []
    assert len(executions) < len(requests)
    with contextlib.suppress(SandboxError):
        peaka_sandbox.create_cache("shop.public.items", cache_id=cache)
