"""Many caches as Dagster assets: their names, what their definitions say, and what a step of them syncs."""

import inspect
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import (
    DagsterPeakaTranslator,
    PeakaCache,
    PeakaConfigError,
    PeakaProject,
    PeakaResource,
    PeakaSyncConfig,
    build_peaka_cache_asset,
    build_peaka_cache_assets,
    load_peaka_cache_specs,
    peaka_cache_assets,
)
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import TRIGGERS, peaka_for

NOWHERE = PeakaResource(api_key=dg.EnvVar("PEAKA_API_KEY"), project_id="p")


def cache(number: int, catalog: str = "shop", schema: str = "public", **more: Any) -> PeakaCache:
    """The cache of a table `t<number>`."""
    return PeakaCache(
        id=f"id-{number}",
        catalog_id=more.pop("catalog_id", f"of-{catalog}"),
        catalog_name=catalog,
        schema_name=schema,
        table_name=more.pop("table", f"t{number}"),
        **more,
    )


def specs_of(assets: list[dg.AssetsDefinition]) -> dict[str, dg.AssetSpec]:
    """The specs by the last part of their keys."""
    return {spec.key.path[-1]: spec for asset in assets for spec in asset.specs}


def load(assets: list[dg.AssetsDefinition]) -> dg.RepositoryDefinition:
    """The definitions as a code location loads them."""
    return dg.Definitions(assets=assets, resources={"peaka": NOWHERE}).get_repository_def()


# What the definitions are


def test_each_cache_has_a_step_of_its_own_by_default() -> None:
    """Three caches are three definitions, named after their keys."""
    assets = build_peaka_cache_assets([cache(1), cache(2), cache(3, "crm")])

    assert [asset.op.name for asset in assets] == ["shop__public__t1", "shop__public__t2", "crm__public__t3"]
    assert {group for asset in assets for group in asset.group_names_by_key.values()} == {"shop", "crm"}


def test_a_step_can_serve_a_catalog_or_the_project() -> None:
    """`step_per` groups by the catalog's id; every definition can be subset."""
    caches = [cache(1), cache(2), cache(3, "crm"), cache(4, "crm", catalog_id="a-namesake")]
    project = PeakaProject(project_id="p1", caches=tuple(caches))

    by_catalog = build_peaka_cache_assets(caches, step_per="catalog")
    (whole,) = build_peaka_cache_assets(project, step_per="project")

    assert [sorted(key.path[-1] for key in asset.keys) for asset in by_catalog] == [
        ["t1", "t2"],
        ["t3"],
        ["t4"],
    ]
    assert len({asset.op.name for asset in by_catalog}) == 3
    assert by_catalog[0].op.name == "peaka__shop"
    assert whole.op.name == "peaka__p1"
    assert len(list(whole.keys)) == 4
    assert all(asset.can_subset for asset in [*by_catalog, whole])
    load(by_catalog)
    load([whole])


def test_the_translator_says_what_the_asset_shows() -> None:
    """Key, group, kinds, table, columns with Peaka's types and descriptions, schedules, source table."""
    orders = PeakaCache.model_validate(
        {
            "id": "c1",
            "catalog_id": "17",
            "catalog_name": "shop",
            "schema_name": "public",
            "table_name": "orders",
            "catalog_type": "PostgreSQL",
            "incremental_schedule": "PT6H",
            "columns": [
                {"name": "id", "dataType": "bigint", "isNotNull": True, "isUnique": True},
                {"name": "note", "dataType": "varchar(20)", "desc": "what the guest said"},
            ],
        }
    )
    translator = DagsterPeakaTranslator(source_asset_key=lambda cache: ["landed", cache.table_name])

    (asset,) = build_peaka_cache_assets([orders], translator=translator)

    (spec,) = asset.specs
    assert spec.key == dg.AssetKey(["shop", "public", "orders"])
    assert spec.group_name == "shop"
    assert spec.kinds == {"peaka", "postgresql"}
    assert [dep.asset_key for dep in spec.deps] == [dg.AssetKey(["landed", "orders"])]
    assert spec.metadata["dagster/table_name"] == "shop.public.orders"
    assert spec.metadata["peaka/incremental_schedule"] == "PT6H"
    assert "peaka/full_refresh_schedule" not in spec.metadata
    assert spec.metadata["dagster/column_schema"] == dg.TableSchema(
        [
            dg.TableColumn(
                "id", "bigint", constraints=dg.TableColumnConstraints(nullable=False, unique=True)
            ),
            dg.TableColumn("note", "varchar(20)", description="what the guest said"),
        ]
    )


def test_a_translator_of_ones_own_changes_what_it_likes() -> None:
    """Keys, groups and even the mode come from an override of get_asset_spec."""

    class Lake(DagsterPeakaTranslator):
        def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
            spec = super().get_asset_spec(props)
            mode = {"peaka/mode": "full_refresh"} if props.id == "id-2" else {}
            return spec.replace_attributes(
                key=spec.key.with_prefix("lake"), group_name="lake", metadata={**spec.metadata, **mode}
            )

    specs = specs_of(build_peaka_cache_assets([cache(1), cache(2)], translator=Lake()))

    assert specs["t1"].key == dg.AssetKey(["lake", "shop", "public", "t1"])
    assert specs["t1"].group_name == "lake"
    assert [specs[name].metadata["peaka/mode"] for name in ("t1", "t2")] == ["incremental", "full_refresh"]


def test_a_table_that_can_only_be_refreshed_is_refreshed_unless_somebody_says_otherwise() -> None:
    """Without `mode`, the snapshot decides; with it, the user does."""
    caches = [
        cache(1, supported_modes={"full_refresh"}),
        cache(2, supported_modes={"incremental", "full_refresh"}),
    ]

    chosen = specs_of(build_peaka_cache_assets(caches))
    told = specs_of(build_peaka_cache_assets(caches, mode="incremental"))

    assert [chosen[name].metadata["peaka/mode"] for name in ("t1", "t2")] == ["full_refresh", "incremental"]
    assert [told[name].metadata["peaka/mode"] for name in ("t1", "t2")] == ["incremental", "incremental"]


@pytest.mark.parametrize("step_per", ["cache", "catalog", "project"])
def test_what_an_asset_may_declare_reaches_every_form(step_per: str) -> None:
    """By arguments for one cache; for many by `dg.map_asset_specs`, on top of what the translator says."""
    condition, freshness = (
        dg.AutomationCondition.eager(),
        dg.FreshnessPolicy.cron("0 9 * * *", timedelta(hours=1)),
    )
    retry = dg.RetryPolicy(max_retries=2)
    shared: dict[str, Any] = {
        "deps": ["landed", dg.AssetDep("other")],
        "metadata": {"owner": "me"},
        "tags": {"tier": "gold"},
        "owners": ["team:data"],
        "kinds": {"table"},
        "group_name": "caches",
        "code_version": "7",
        "automation_condition": condition,
        "freshness_policy": freshness,
        "retry_policy": retry,
        "pool": "peaka",
        "checks": {"last_sync_succeeded": True},
        "resource_key": "their_peaka",
    }
    translator = DagsterPeakaTranslator(source_asset_key=lambda cache: ["src", cache.table_name])
    of_step = {name: shared.pop(name) for name in ("retry_policy", "pool", "checks", "resource_key")}

    def changed(spec: dg.AssetSpec) -> dg.AssetSpec:
        merged = {name: shared[name] for name in ("deps", "metadata", "tags")}
        rest = {name: value for name, value in shared.items() if name not in merged}
        replaced: Any = spec.replace_attributes(**rest)
        return replaced.merge_attributes(**merged)

    assets = build_peaka_cache_assets(
        [cache(1), cache(2)], step_per=step_per, translator=translator, **of_step
    )
    assets = list(dg.map_asset_specs(changed, assets))
    dg.Definitions(assets=assets, resources={"their_peaka": NOWHERE}).get_repository_def()
    single = build_peaka_cache_asset(table="a.b.c", **shared, **of_step)

    for asset in [*assets, single]:
        assert asset.op.retry_policy == retry
        assert asset.op.pool == "peaka"
        assert "their_peaka" in asset.required_resource_keys
        assert {spec.name for spec in asset.check_specs} == {"last_sync_succeeded"}
        for spec in asset.specs:
            assert {"landed", "other"} <= {dep.asset_key.path[-1] for dep in spec.deps}
            assert spec.metadata["owner"] == "me"
            assert spec.tags["tier"] == "gold"
            assert list(spec.owners) == ["team:data"]
            assert spec.kinds == {"table"}
            assert spec.group_name == "caches"
            assert spec.code_version == "7"
            assert spec.automation_condition == condition
            assert spec.freshness_policy == freshness
    assert ["src", "t1"] in [
        dep.asset_key.path for asset in assets for spec in asset.specs for dep in spec.deps
    ]


# Refused


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"step_per": "schema"}, "step_per must be one of 'cache', 'catalog', 'project', not 'schema'"),
        ({"mode": "full"}, "mode must be 'incremental' or 'full_refresh', not 'full'"),
        ({"row_count": "count"}, "row_count must be one of"),
        ({"selector": "shop.public.t7"}, "shop.public.t7"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(arguments: dict[str, Any], named: str) -> None:
    """The error names the argument and its choices."""
    with pytest.raises(PeakaConfigError, match=named):
        build_peaka_cache_assets([cache(1)], **arguments)


@pytest.mark.parametrize("factory", [build_peaka_cache_assets, peaka_cache_assets, load_peaka_cache_specs])
@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("deps", "merge_attributes(deps=…)"),
        ("tags", "merge_attributes(tags=…)"),
        ("owners", "replace_attributes(owners=…)"),
        ("group_name", "replace_attributes(group_name=…)"),
        ("automation_condition", "replace_attributes(automation_condition=…)"),
        ("last_sync_check", 'checks={"last_sync_succeeded": True}'),
        ("key", "get_asset_spec"),
    ],
)
def test_arguments_that_went_name_what_to_write_instead(factory: Any, name: str, instead: str) -> None:
    """What is an AssetSpec's own business is said once, by the translator or afterwards."""
    with pytest.raises(TypeError) as refused:
        factory([cache(1)], **{name: "x"})
    assert f"{factory.__name__} takes no {name}: " in str(refused.value)
    assert instead in str(refused.value)


@pytest.mark.parametrize(
    ("factory", "most"),
    [(build_peaka_cache_assets, 14), (peaka_cache_assets, 14), (load_peaka_cache_specs, 14)],
)
def test_a_factory_for_many_caches_has_14_arguments_at_most(factory: Any, most: int) -> None:
    """And so do those that are not an AssetSpec's own of the factory for one."""
    assert len(inspect.signature(factory).parameters) <= most
    of_specs = set(inspect.signature(dg.AssetSpec).parameters)
    assert len(inspect.signature(build_peaka_cache_asset).parameters.keys() - of_specs) <= most


def test_a_partitioned_spec_is_refused() -> None:
    """A cache is synced as a whole, so a translator cannot make its asset partitioned."""

    class Daily(DagsterPeakaTranslator):
        def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
            daily = dg.DailyPartitionsDefinition("2026-01-01")
            return super().get_asset_spec(props).replace_attributes(partitions_def=daily)

    with pytest.raises(PeakaConfigError, match="id-1.*partitions_def"):
        build_peaka_cache_assets([cache(1)], translator=Daily())


def test_a_spec_that_dagster_refuses_names_its_cache() -> None:
    """Of hundreds of caches, Dagster's own words about a group's name do not say which has it."""

    class Grouped(DagsterPeakaTranslator):
        def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
            return super().get_asset_spec(props).replace_attributes(group_name=f"of {props.table_name}")

    with pytest.raises(
        PeakaConfigError, match=r"Grouped\.get_asset_spec .* id-1 \(shop\.public\.t1\): .*\"of t1\""
    ):
        build_peaka_cache_assets([cache(1), cache(2)], translator=Grouped())


@pytest.mark.parametrize("step_per", ["cache", "project"])
def test_a_cache_that_is_given_twice_is_one_asset(step_per: str) -> None:
    """Lists of caches may overlap; what differs under one id is refused."""
    caches = [cache(1), cache(2), cache(1)]

    assets = build_peaka_cache_assets(caches, step_per=step_per)

    assert [spec.key.path[-1] for asset in assets for spec in asset.specs] == ["t1", "t2"]
    with pytest.raises(PeakaConfigError, match=r"Cache id-1 is given twice, as shop\.public\.t1 and as"):
        build_peaka_cache_assets([*caches, cache(1, table="t3")])


@pytest.mark.parametrize("step_per", ["cache", "project"])
def test_dependencies_may_be_added_to_what_the_factory_made(step_per: str) -> None:
    """`dg.map_asset_specs` may say what lands a table, also where a step had no upstream before."""
    assets = build_peaka_cache_assets([cache(1), cache(2)], step_per=step_per)

    with_deps = list(
        dg.map_asset_specs(lambda spec: spec.merge_attributes(deps=[["landed", spec.key.path[-1]]]), assets)
    )

    load(with_deps)
    deps = {name: [dep.asset_key.path for dep in spec.deps] for name, spec in specs_of(with_deps).items()}
    assert deps == {"t1": [["landed", "t1"]], "t2": [["landed", "t2"]]}


# What a step syncs


@pytest.mark.parametrize("step_per", ["cache", "project"])
def test_hooks_of_a_job_hear_why_a_sync_failed(sandbox: PeakaSandbox, step_per: str) -> None:
    """Also where the hook has a resource of its own, and a whole project is one step."""
    told: list[str] = []

    @dg.failure_hook(required_resource_keys={"notifier"})
    def on_failure(context: dg.HookContext) -> None:
        context.resources.notifier.append(str(context.op_exception))

    sandbox.plan("ops.public.u", fail="no disk")
    peaka = peaka_for(sandbox)
    definitions = dg.Definitions(
        assets=build_peaka_cache_assets(peaka.fetch_project(), step_per=step_per),
        jobs=[dg.define_asset_job("syncs", hooks={on_failure})],
        resources={"peaka": peaka, "notifier": told},
    )

    definitions.resolve_job_def("syncs").execute_in_process(raise_on_error=False)

    (reason,) = told
    assert "Peaka cache ops.public.u (" in reason
    assert "no disk" in reason


def test_a_job_of_what_an_asset_needs_syncs_part_of_a_shared_step(sandbox: PeakaSandbox) -> None:
    """`AssetSelection….upstream()` takes one cache of a step, and only that one is triggered."""
    peaka = peaka_for(sandbox)
    (shared,) = build_peaka_cache_assets(peaka.fetch_project(), step_per="project")
    report = dg.asset(name="report", deps=[dg.AssetKey(["ops", "public", "t"])])(lambda: None)
    job = dg.define_asset_job("reports", selection=dg.AssetSelection.assets(report).upstream())
    definitions = dg.Definitions(assets=[shared, report], jobs=[job], resources={"peaka": peaka})

    assert definitions.resolve_job_def("reports").execute_in_process().success
    triggered = [request.path for request in sandbox.requests if request.operation in TRIGGERS]
    assert len(triggered) == 1
    assert sandbox.caches["ops.public.t"] in triggered[0]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeakaSandbox]:
    """A local Peaka with six catalogs, five of 12 caches and one of 60."""
    folder = tmp_path_factory.mktemp("fleet")
    sources: dict[str, dict[str, Path]] = {}
    for number in range(6):
        path = folder / f"source{number}.db"
        with closing(sqlite3.connect(path)) as database, database:
            for table in range(60 if number == 3 else 12):
                database.execute(f"CREATE TABLE t{table} (id INTEGER PRIMARY KEY, v TEXT)")
                database.execute(f"INSERT INTO t{table} VALUES (1, 'one')")
        sources[f"cat{number}"] = {"public": path}
    with PeakaSandbox(sources, caches=["*.*.*"]) as sandbox:
        sandbox.wait_idle()
        yield sandbox


def test_a_fleet(fleet: PeakaSandbox, tmp_path: Path) -> None:
    """From a saved snapshot nothing is asked; 40 selected caches are 40 triggers; 3 failures harm no other."""
    peaka = peaka_for(fleet)
    peaka.fetch_project().save(tmp_path / "project.json")
    fleet.clear_requests()

    assets = build_peaka_cache_assets(PeakaProject.load(tmp_path / "project.json"), step_per="catalog")
    load(assets)

    assert len(assets) == 6
    assert sum(len(list(asset.keys)) for asset in assets) == 120
    assert fleet.requests == []

    chosen = [f"t{number}" for number in range(20, 60)]
    keys = [dg.AssetKey(["cat3", "public", table]) for table in chosen]
    broken = {"t21", "t30", "t59"}
    for table in broken:
        fleet.plan(f"cat3.public.{table}", fail="the disk is full")
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            assets,
            selection=dg.AssetSelection.assets(*keys),
            resources={"peaka": peaka},
            raise_on_error=False,
            instance=instance,
        )
    triggered = {request.path.split("/")[-2] for request in fleet.requests if request.operation in TRIGGERS}
    assert triggered == {fleet.caches[f"cat3.public.{table}"] for table in chosen}
    assert sum(request.operation in TRIGGERS for request in fleet.requests) == 40
    done = {
        event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key
    }
    assert done == set(chosen) - broken
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.user_failure_data is not None
    description = failure.step_failure_data.user_failure_data.description or ""
    assert all(f"cat3.public.{table} " in description for table in broken)
    assert description.count("the disk is full") == 3


# A body of one's own


def test_the_decorator_wraps_a_body_of_ones_own(fleet: PeakaSandbox, tmp_path: Path) -> None:
    """The body gets context, resource and config by name, and what it does around the syncs happens."""
    project = peaka_for(fleet).fetch_project("cat5.public.t1?")
    seen: list[str] = []

    @peaka_cache_assets(project, selector=["*.*.t10", "*.*.t11"], checks={"last_sync_succeeded": True})
    def mine(
        context: dg.AssetExecutionContext, peaka: PeakaResource, config: PeakaSyncConfig
    ) -> Iterator[Any]:
        seen.append("before")
        yield from peaka.sync_and_poll(context, config)
        seen.append("after")

    fleet.clear_requests()
    result = dg.materialize([mine], resources={"peaka": peaka_for(fleet)})

    assert mine.op.name == "mine"
    assert seen == ["before", "after"]
    assert {
        event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key
    } == {
        "t10",
        "t11",
    }
    assert len(result.get_asset_check_evaluations()) == 2
    assert sum(request.operation in TRIGGERS for request in fleet.requests) == 2
