"""One Peaka cache as one Dagster asset: what it is made of, and what materializing it records."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest

from dagster_peaka import (
    PeakaConfigError,
    PeakaResource,
    PeakaSyncConfig,
    build_peaka_cache_asset,
    peaka_cache_assets,
)
from dagster_peaka.sandbox import Behaviour, PeakaSandbox
from tests.materializing import TRIGGERS, acting_when, is_followed, peaka_for, run_of, sqlite_tables

TABLE = "ops.public.t"
NOWHERE = PeakaResource(api_key=dg.EnvVar("PEAKA_API_KEY"), project_id="p")


def change(ops_database: Path) -> None:
    """Two rows more, one changed, one gone."""
    with closing(sqlite3.connect(ops_database)) as database, database:
        database.execute("INSERT INTO t VALUES (4, 'd'), (5, 'e')")
        database.execute("UPDATE t SET v = 'B' WHERE id = 2")
        database.execute("DELETE FROM t WHERE id = 1")


def materialized(asset: dg.AssetsDefinition, peaka: PeakaResource, **config: Any) -> dg.AssetMaterialization:
    """The only materialization of a run of `asset`."""
    result = run_of(asset, peaka, config=config)
    assert result.success
    (materialization,) = result.asset_materializations_for_node(asset.op.name)
    return materialization


def kinds_of(materialization: dg.AssetMaterialization) -> dict[str, type[dg.MetadataValue[Any]]]:
    """The type of each entry of the metadata."""
    return {name: type(value) for name, value in materialization.metadata.items()}


def values_of(materialization: dg.AssetMaterialization) -> dict[str, Any]:
    """The value of each entry of the metadata."""
    return {name: value.value for name, value in materialization.metadata.items()}


# Materializing


@pytest.mark.parametrize("by", ["table", "cache_id"])
def test_a_materialization_stands_for_the_execution_that_its_trigger_started(
    sandbox: PeakaSandbox, ops_database: Path, by: str
) -> None:
    """One trigger; the metadata names the execution that this POST started, with its rows, times and mode."""
    sandbox.behaviour = Behaviour.documented()  # whose counters are exact
    change(ops_database)
    address: dict[str, Any] = {by: TABLE if by == "table" else sandbox.caches[TABLE]}

    materialization = materialized(build_peaka_cache_asset(**address, key="t"), peaka_for(sandbox))

    (trigger,) = [request for request in sandbox.requests if request.operation in TRIGGERS]
    (ours,) = [each for each in sandbox.executions(TABLE) if each.request_number == trigger.number]
    assert ours.finished_at is not None
    values = values_of(materialization)
    assert values.pop("peaka/started_at") == pytest.approx(ours.created_at, abs=0.002)
    assert values.pop("peaka/finished_at") == pytest.approx(ours.finished_at, abs=0.002)
    assert values.pop("peaka/duration_seconds") == pytest.approx(
        ours.finished_at - ours.created_at, abs=0.004
    )
    assert values == {
        "peaka/cache_id": sandbox.caches[TABLE],
        "peaka/execution_id": ours.id,
        "peaka/mode": "incremental",
        "peaka/origin": "triggered",
        "peaka/rows_inserted": 2,
        "peaka/rows_updated": 1,
        "peaka/rows_deleted": 1,
        "peaka/rows_processed": 4,
        **({"dagster/table_name": TABLE} if by == "table" else {}),
    }
    assert materialization.tags is not None
    assert materialization.tags["dagster/data_version"] == ours.id


def test_every_number_is_a_number_and_every_time_a_time(sandbox: PeakaSandbox) -> None:
    """The types of the metadata: Dagster plots numbers and shows times in the reader's zone."""
    asset = build_peaka_cache_asset(table=TABLE, mode="full_refresh", row_count="query")

    assert kinds_of(materialized(asset, peaka_for(sandbox))) == {
        "peaka/cache_id": dg.TextMetadataValue,
        "peaka/execution_id": dg.TextMetadataValue,
        "peaka/mode": dg.TextMetadataValue,
        "peaka/origin": dg.TextMetadataValue,
        "peaka/rows_inserted": dg.IntMetadataValue,
        "peaka/rows_updated": dg.IntMetadataValue,
        "peaka/rows_deleted": dg.IntMetadataValue,
        "peaka/rows_processed": dg.IntMetadataValue,
        "dagster/row_count": dg.IntMetadataValue,
        "peaka/started_at": dg.TimestampMetadataValue,
        "peaka/finished_at": dg.TimestampMetadataValue,
        "peaka/duration_seconds": dg.FloatMetadataValue,
        "dagster/table_name": dg.TextMetadataValue,
    }


@pytest.mark.parametrize("timestamps", ["null", "absent"])
def test_what_peaka_did_not_report_is_left_out(sandbox: PeakaSandbox, timestamps: Any) -> None:
    """Without progress and times in Peaka's answers, the metadata has no rows and no times, and no zeros."""
    sandbox.behaviour.drop_progress = True
    sandbox.behaviour.timestamps = timestamps

    materialization = materialized(build_peaka_cache_asset(table=TABLE), peaka_for(sandbox))

    assert set(materialization.metadata) == {
        "peaka/cache_id",
        "peaka/execution_id",
        "peaka/mode",
        "peaka/origin",
        "dagster/table_name",
    }
    ours = sandbox.executions(TABLE)[-1]
    assert materialization.metadata["peaka/execution_id"].value == ours.id


@pytest.mark.parametrize("how", ["factory", "run config"])
def test_the_mode_is_chosen_in_code_or_for_one_run(
    sandbox: PeakaSandbox, ops_database: Path, how: str
) -> None:
    """The full refresh is what runs; its figure is no total, so there is no dagster/row_count."""
    sandbox.behaviour = Behaviour.documented()  # whose counters are exact
    change(ops_database)
    declared, config = ("full_refresh", {}) if how == "factory" else ("incremental", {"mode": "full_refresh"})

    materialization = materialized(
        build_peaka_cache_asset(table=TABLE, mode=declared), peaka_for(sandbox), **config
    )

    values = values_of(materialization)
    assert values["peaka/mode"] == "full_refresh"
    assert "dagster/row_count" not in values
    assert values["peaka/rows_processed"] == 4
    assert [each.mode for each in sandbox.executions(TABLE)] == ["INCREMENTAL", "FULL_REFRESH"]


def test_a_run_can_attach_where_the_resource_queues(sandbox: PeakaSandbox) -> None:
    """on_running in run config counts for that run; the metadata says that the execution was not triggered by it."""
    sandbox.plan(TABLE, hold=True)
    stranger = sandbox.start_execution(TABLE)
    asset = build_peaka_cache_asset(table=TABLE)

    with acting_when(lambda: is_followed(sandbox), lambda: sandbox.release(TABLE)):
        materialization = materialized(asset, peaka_for(sandbox), on_running="attach")

    assert materialization.metadata["peaka/execution_id"].value == stranger
    assert materialization.metadata["peaka/origin"].value == "attached"
    assert [request for request in sandbox.requests if request.operation in TRIGGERS] == []


@pytest.mark.parametrize(
    ("field", "wrong", "choices"),
    [
        ("mode", "fullrefresh", ["incremental", "full_refresh"]),
        ("mode", "FULL_REFRESH", ["incremental", "full_refresh"]),
        ("on_running", "wait", ["queue", "attach", "fail"]),
    ],
)
def test_run_config_that_is_no_choice_is_refused_at_launch(
    sandbox: PeakaSandbox, field: str, wrong: str, choices: list[str]
) -> None:
    """Dagster itself refuses a misspelt choice, and its launchpad offers what there is."""
    asset = build_peaka_cache_asset(table=TABLE)
    config = {"ops": {asset.op.name: {"config": {field: wrong}}}}

    with pytest.raises(dg.DagsterInvalidConfigError) as refused:
        dg.materialize([asset], resources={"peaka": peaka_for(sandbox)}, run_config=config)

    (error,) = cast("list[Any]", refused.value.errors)
    assert f":config:{field} not in enum type" in error.message
    assert [value.value for value in error.error_data.config_type_snap.enum_values] == choices
    assert sandbox.requests == []
    with pytest.raises(ValueError, match="Input should be"):
        PeakaSyncConfig.model_validate({field: wrong})


@pytest.mark.parametrize("mode", ["incremental", "full_refresh"])
def test_a_choice_is_written_alike_in_yaml_and_in_python(sandbox: PeakaSandbox, mode: str) -> None:
    """`mode: full_refresh` in the launchpad, and `PeakaSyncConfig(mode="full_refresh")` in code."""
    asset = build_peaka_cache_asset(table=TABLE)
    in_python = dg.RunConfig(
        ops={asset.op.name: PeakaSyncConfig.model_validate({"mode": mode, "on_running": "attach"})}
    )
    for config in (in_python, {"ops": {asset.op.name: {"config": {"mode": mode, "on_running": "attach"}}}}):
        result = dg.materialize([asset], resources={"peaka": peaka_for(sandbox)}, run_config=config)

        (materialization,) = result.asset_materializations_for_node(asset.op.name)
        assert materialization.metadata["peaka/mode"].value == mode


def test_two_projects_in_one_code_location(sandbox: PeakaSandbox, tmp_path: Path) -> None:
    """Each asset syncs through the resource that its resource_key names."""
    other_source = sqlite_tables(tmp_path / "other.db", ["t"])
    with PeakaSandbox(
        {"ops": {"public": other_source}}, caches=[TABLE], project_id="other", api_key="other-key"
    ) as other:
        other.wait_idle()
        here = build_peaka_cache_asset(table=TABLE)
        there = build_peaka_cache_asset(table=TABLE, key="there", resource_key="peaka_eu")

        result = dg.materialize(
            [here, there], resources={"peaka": peaka_for(sandbox), "peaka_eu": peaka_for(other)}
        )

        for asset, project in ((here, sandbox), (there, other)):
            (materialization,) = result.asset_materializations_for_node(asset.op.name)
            assert materialization.metadata["peaka/execution_id"].value == project.executions(TABLE)[-1].id


@pytest.mark.parametrize(
    "name", ["order items", "größe", "日本", "a.b", 'the "t"', "x" * 300, "select", "a__b"]
)
def test_a_table_of_any_name_can_be_synced(tmp_path: Path, name: str) -> None:
    """Spaces, umlauts, dots, quotes, keywords and length get in nobody's way, in Peaka's names or in Dagster's."""
    source = sqlite_tables(tmp_path / "odd.db", [name.replace('"', '""')])
    with PeakaSandbox({"ops": {"public": source}}, caches=["ops.public.*"]) as sandbox:
        sandbox.wait_idle()
        asset = build_peaka_cache_asset(table=["ops", "public", name])

        materialization = materialized(asset, peaka_for(sandbox))

        assert asset.key == dg.AssetKey(["ops", "public", name])
        assert materialization.metadata["peaka/cache_id"].value == next(iter(sandbox.caches.values()))
        quoted = '"' + name.replace('"', '""') + '"' if set(name) & set('."') else name
        assert materialization.metadata["dagster/table_name"].value == f"ops.public.{quoted}"


# What the definition holds


def test_what_an_asset_may_declare_reaches_the_definitions() -> None:
    """Everything that `@dg.asset` takes is where Dagster looks for it."""
    automation = dg.AutomationCondition.eager()
    freshness = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=6))
    retry = dg.RetryPolicy(max_retries=2, delay=30)
    asset = build_peaka_cache_asset(
        table="shop.public.orders",
        key=["caches", "orders"],
        deps=["landed_orders", dg.AssetKey(["land", "customers"])],
        description="All orders.",
        metadata={"sla": "gold"},
        tags={"team": "shop"},
        owners=["team:shop"],
        kinds=["peaka", "postgres"],
        group_name="caches",
        code_version="7",
        automation_condition=automation,
        freshness_policy=freshness,
        retry_policy=retry,
        pool="peaka",
        op_tags={"queue": "slow"},
    )

    defs = dg.Definitions(assets=[asset], resources={"peaka": NOWHERE})
    dg.Definitions.validate_loadable(defs)
    (spec,) = [
        spec for spec in defs.resolve_all_asset_specs() if spec.key == dg.AssetKey(["caches", "orders"])
    ]

    assert {dep.asset_key for dep in spec.deps} == {
        dg.AssetKey("landed_orders"),
        dg.AssetKey(["land", "customers"]),
    }
    assert spec.description == "All orders."
    assert spec.metadata["sla"] == "gold"
    assert spec.metadata["dagster/table_name"] == "shop.public.orders"
    assert spec.tags["team"] == "shop"
    assert spec.owners == ["team:shop"]
    assert spec.kinds == {"peaka", "postgres"}
    assert spec.group_name == "caches"
    assert spec.code_version == "7"
    assert spec.automation_condition == automation
    assert spec.freshness_policy == freshness
    op = asset.op
    assert (op.retry_policy, op.pool, op.tags) == (retry, "peaka", {"queue": "slow"})
    assert "peaka" in asset.required_resource_keys


def test_the_defaults_say_what_the_asset_is() -> None:
    """Key, kind and description come from the table and the mode."""
    spec = build_peaka_cache_asset(table="shop.public.orders").get_asset_spec()
    rebuilt = build_peaka_cache_asset(cache_id="f00", mode="full_refresh").get_asset_spec()

    assert spec.key == dg.AssetKey(["shop", "public", "orders"])
    assert spec.kinds == {"peaka"}
    assert (
        spec.description == "Peaka's copy of shop.public.orders, brought up to date by an incremental update."
    )
    assert rebuilt.key == dg.AssetKey(["peaka", "f00"])
    assert rebuilt.description == "Peaka's copy of cache f00, rebuilt by a full refresh."


def test_loading_definitions_asks_peaka_nothing(sandbox: PeakaSandbox) -> None:
    """Definitions load without a request, so an outage of Peaka takes no code location down."""
    assets = [build_peaka_cache_asset(table=TABLE), build_peaka_cache_asset(cache_id=sandbox.caches[TABLE])]

    dg.Definitions.validate_loadable(dg.Definitions(assets=assets, resources={"peaka": peaka_for(sandbox)}))

    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (["shop", "public", "orders"], "shop__public__orders"),
        (["class"], "class_"),
        (["config"], "config_"),
        (["input"], "input_"),
        (["None"], "None_"),
        (["größe", "x y"], "gr__e__x_y_"),
        (["a.b", "c/d", "e-f"], "a_b__c_d__e_f_"),
        (["日本"], "___"),
        (["x" * 600], "x" * 100 + "_"),
        (["a__b", "c"], "a__b__c_"),
        (["a", "b__c"], "a__b__c_"),
    ],
)
def test_any_key_has_a_readable_step(key: list[str], name: str) -> None:
    """The step is named after the key, with a short hash where that alone would be ambiguous or not allowed."""
    asset = build_peaka_cache_asset(table="a.b.c", key=key)

    dg.Definitions.validate_loadable(dg.Definitions(assets=[asset], resources={"peaka": NOWHERE}))

    assert asset.key == dg.AssetKey(key)
    assert asset.op.name.startswith(name)
    assert len(asset.op.name) == len(name) + (12 if name.endswith("_") else 0)


def test_keys_that_read_alike_have_steps_of_their_own() -> None:
    """Two assets whose names would become one are still two steps."""
    keys = [["a__b", "c"], ["a", "b__c"], ["a", "b", "c"], ["a.b", "c"], ["a-b", "c"], ["a_", "_b", "c"]]

    assets = [build_peaka_cache_asset(table="a.b.c", key=key) for key in keys]

    assert len({asset.op.name for asset in assets}) == len(keys)
    dg.Definitions.validate_loadable(dg.Definitions(assets=assets, resources={"peaka": NOWHERE}))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "cache_id or table"),
        ({"cache_id": "f00", "table": "a.b.c"}, "cache_id or table"),
        ({"table": "orders"}, "'catalog.schema.table'"),
        ({"table": ["a", "b"]}, "'catalog.schema.table'"),
        ({"table": "a..c"}, "'catalog.schema.table'"),
        ({"cache_id": " "}, "cache_id"),
        ({"cache_id": ".."}, "cache_id"),
        ({"cache_id": "f00", "mode": "full"}, "mode"),
        ({"cache_id": "f00", "key": "lake/orders"}, r"key names .* such as \['lake', 'orders'\]"),
        ({"cache_id": "f00", "deps": ["landed/orders"]}, r"deps names .* such as \['landed', 'orders'\]"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(arguments: dict[str, Any], named: str) -> None:
    """The error names the argument and what to write."""
    with pytest.raises(PeakaConfigError, match=named):
        build_peaka_cache_asset(**arguments)


@pytest.mark.parametrize("decorated", [False, True])
def test_an_asset_that_is_called_like_a_function_says_what_to_write(
    sandbox: PeakaSandbox, decorated: bool
) -> None:
    """As a user's test may do; without a run nothing could be written down, so nothing is triggered."""
    peaka = peaka_for(sandbox)
    asset = build_peaka_cache_asset(table=TABLE)
    if decorated:

        @peaka_cache_assets(peaka.fetch_project(TABLE))
        def own(context: dg.AssetExecutionContext, peaka: PeakaResource) -> Iterator[Any]:
            yield from peaka.sync_and_poll(context)

        asset = own
    sandbox.clear_requests()

    with pytest.raises(PeakaConfigError, match=r"write dg\.materialize\(\[asset\], resources"):
        list(cast("Any", asset)(dg.build_asset_context(resources={"peaka": peaka})))

    assert sandbox.requests == []


@pytest.mark.parametrize("table", ["order items", "anlægsnummer"])
def test_an_asset_of_any_name_can_be_depended_on_as_its_page_says(table: str) -> None:
    """Dagster's own decorators make names of keys: a key of one's own, or a named input, gets by."""
    odd = build_peaka_cache_asset(table=["ops", "public", table])
    renamed = build_peaka_cache_asset(table=["ops", "public", table], key=["ops", "t"])

    with pytest.raises(dg.DagsterInvalidDefinitionError, match="is not a valid name in Dagster"):
        dg.asset(name="refused", deps=[odd])(lambda: None)

    by_key = dg.asset(name="by_key", deps=[renamed])(lambda: None)
    by_input = dg.asset(name="by_input", ins={"i": dg.AssetIn(odd.key, dagster_type=dg.Nothing)})(
        lambda: None
    )
    assets = [odd, renamed, by_key, by_input]
    dg.Definitions.validate_loadable(dg.Definitions(assets=assets, resources={"peaka": NOWHERE}))
    assert [dep.asset_key for dep in next(iter(by_input.specs)).deps] == [odd.key]


def test_a_sync_works_where_an_event_loop_runs(sandbox: PeakaSandbox) -> None:
    """In notebooks and async assets there is a loop already, which the client's own does not meet."""

    @dg.asset
    async def refreshed(peaka: PeakaResource) -> None:
        assert peaka.sync(TABLE).succeeded

    assert dg.materialize([refreshed], resources={"peaka": peaka_for(sandbox)}).success


@pytest.mark.parametrize("by_variable", [False, True])
def test_the_resource_can_be_given_with_a_run(
    sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    """`RunConfig(resources=…)` takes a PeakaResource, in place of the one that the definitions have."""
    monkeypatch.setenv("PEAKA_API_KEY", sandbox.api_key)
    key: Any = dg.EnvVar("PEAKA_API_KEY") if by_variable else sandbox.api_key
    here = PeakaResource(api_key=key, project_id=sandbox.project_id, base_url=sandbox.base_url)
    job = dg.define_asset_job("syncs")
    assets = [build_peaka_cache_asset(table=TABLE)]
    for before in (PeakaResource.configure_at_launch(), here.model_copy(update={"project_id": "none"})):
        definitions = dg.Definitions(assets=assets, jobs=[job], resources={"peaka": before})
        config = dg.RunConfig(resources={"peaka": here})
        assert definitions.resolve_job_def("syncs").execute_in_process(run_config=config).success
