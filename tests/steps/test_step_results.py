"""What a step of caches must not do in silence: lose a result, take another asset's for its own, wait for a count."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
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
    peaka_cache_assets,
)
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import failure_of, peaka_for, triggers


@pytest.fixture
def project(sandbox: PeakaSandbox) -> PeakaProject:
    """A snapshot of the sandbox's two caches, after which no request is recorded."""
    project = peaka_for(sandbox).fetch_project()
    sandbox.clear_requests()
    return project


def outcome(asset: dg.AssetsDefinition, sandbox: PeakaSandbox, **settings: Any) -> dg.ExecuteInProcessResult:
    """A run of one definition, whether it succeeded or not."""
    return dg.materialize([asset], resources={"peaka": peaka_for(sandbox)}, raise_on_error=False, **settings)


# One cache, two assets


def test_two_steps_that_mean_one_cache_trigger_it_twice(sandbox: PeakaSandbox, ops_database: Path) -> None:
    """The second step began after a row had been written: what the first had triggered says nothing of that row."""
    first = build_peaka_cache_asset(table="ops.public.t", key="first")
    second = build_peaka_cache_asset(table="ops.public.t", key="second", deps=["between"])

    @dg.asset(deps=["first"])
    def between() -> None:
        with closing(sqlite3.connect(ops_database)) as database, database:
            database.execute("INSERT INTO t VALUES (9, 'late')")

    result = dg.materialize([first, between, second], resources={"peaka": peaka_for(sandbox)})

    assert triggers(sandbox) == 2
    (materialization,) = result.asset_materializations_for_node("second")
    assert materialization.metadata["peaka/origin"].value == "triggered"
    assert materialization.metadata["peaka/rows_inserted"].value == 1


# A body of one's own


def test_a_body_that_forgets_to_yield_is_a_failure(sandbox: PeakaSandbox, project: PeakaProject) -> None:
    """Dagster would take None for the only result, and the asset for materialized."""

    @peaka_cache_assets(project, selector="ops.public.t")
    def forgetful(context: dg.AssetExecutionContext, peaka: PeakaResource) -> Any:
        peaka.sync_and_poll(context)

    result = outcome(forgetful, sandbox)

    assert "yield from peaka.sync_and_poll(context)" in failure_of(result).description
    assert result.get_asset_materialization_events() == []


@pytest.mark.parametrize("how", ["swallows the failure", "drops a result"])
def test_a_selected_cache_without_a_result_is_a_failure(
    sandbox: PeakaSandbox, project: PeakaProject, how: str
) -> None:
    """Whatever a body does with the results: the step is green only when each selected cache has one."""
    if how == "swallows the failure":
        sandbox.plan("ops.public.t", fail="the disk is full")

    @peaka_cache_assets(project)
    def careless(context: dg.AssetExecutionContext, peaka: PeakaResource) -> Iterator[Any]:
        try:
            for result in peaka.sync_and_poll(context):
                if how != "drops a result" or result.asset_key != dg.AssetKey(["ops", "public", "t"]):
                    yield result
        except dg.Failure:
            pass

    result = outcome(careless, sandbox)

    assert "without a result of ops/public/t," in failure_of(result).description
    assert [
        event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key
    ] == ["u"]


def test_a_retry_of_a_body_does_not_miss_what_was_recorded_before(
    sandbox: PeakaSandbox, project: PeakaProject
) -> None:
    """The first try recorded one of two; the second one yields only the other, and succeeds."""
    sandbox.plan("ops.public.t", fail="the disk is full")

    @peaka_cache_assets(project, retry_policy=dg.RetryPolicy(max_retries=1))
    def patient(
        context: dg.AssetExecutionContext, peaka: PeakaResource, config: PeakaSyncConfig
    ) -> Iterator[Any]:
        yield from peaka.sync_and_poll(context, config)

    result = outcome(patient, sandbox)

    assert result.success
    assert triggers(sandbox) == 3


def test_specs_that_must_have_a_result_keep_what_was_recorded_of_them(sandbox: PeakaSandbox) -> None:
    """Dagster materializes a required asset that a retry leaves out by itself: it gets its own record again."""
    sandbox.plan("ops.public.t", fail="the disk is full")
    specs = [dg.AssetSpec(name, metadata={"peaka/table": f"ops.public.{name}"}) for name in ("t", "u")]

    @dg.multi_asset(specs=specs, retry_policy=dg.RetryPolicy(max_retries=1))
    def both(context: dg.AssetExecutionContext, peaka: PeakaResource) -> Iterator[Any]:
        yield from peaka.sync_and_poll(context)

    result = outcome(both, sandbox)

    assert result.success
    assert triggers(sandbox) == 3
    recorded = [
        each for each in result.asset_materializations_for_node("both") if each.asset_key.path == ["u"]
    ]
    assert len({str(each.metadata["peaka/execution_id"].value) for each in recorded}) == 1
    assert len({(each.tags or {})["dagster/data_version"] for each in recorded}) == 1


# Counting rows


def test_a_slow_count_keeps_no_other_result_waiting(sandbox: PeakaSandbox, project: PeakaProject) -> None:
    """While the rows of one cache are counted, the materialization of another, which began later, is recorded."""

    class OnlyOfT(DagsterPeakaTranslator):
        def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
            count = "query" if props.table_name == "t" else "off"
            return super().get_asset_spec(props).merge_attributes(metadata={"peaka/row_count": count})

    (assets,) = build_peaka_cache_assets(project, step_per="project", translator=OnlyOfT())
    sandbox.plan("ops.public.u", duration=0.5)
    sandbox.fault("executeQuery", delay=4.0, status=None)

    result = outcome(assets, sandbox)

    recorded = result.asset_materializations_for_node(assets.op.name)
    assert [each.asset_key.path[-1] for each in recorded] == ["u", "t"]
    assert recorded[1].metadata["dagster/row_count"].value == 3
    assert "dagster/row_count" not in recorded[0].metadata


# The check alone


@pytest.mark.parametrize("deleted", ["t", "u"])
def test_a_cache_that_is_gone_spoils_no_other_s_check(
    sandbox: PeakaSandbox, project: PeakaProject, deleted: str
) -> None:
    """A run that asks for the checks only: that of the other says how its own cache is."""
    (assets,) = build_peaka_cache_assets(project, step_per="project", checks={"last_sync_succeeded": True})
    sandbox.delete_cache(f"ops.public.{deleted}")

    result = outcome(assets, sandbox, selection=dg.AssetSelection.all_asset_checks())

    passed = {each.asset_key.path[-1]: each.passed for each in result.get_asset_check_evaluations()}
    assert passed == {"t" if deleted == "u" else "u": True}


# Refused at load


def test_caches_of_one_step_may_not_wait_for_each_other(project: PeakaProject) -> None:
    """A step syncs side by side, so a dependency inside of it would not be kept."""
    upstream = {"u": dg.AssetKey(["ops", "public", "t"])}
    translator = DagsterPeakaTranslator(source_asset_key=lambda cache: upstream.get(cache.table_name))

    assert len(build_peaka_cache_assets(project, translator=translator)) == 2
    with pytest.raises(PeakaConfigError, match="ops/public/u depends on ops/public/t.*step_per='cache'"):
        build_peaka_cache_assets(project, translator=translator, step_per="project")


ORDERS = PeakaCache(id="c", catalog_id="1", catalog_name="a", schema_name="b", table_name="t")


@pytest.mark.parametrize(
    ("given", "arguments", "said"),
    [
        ("peaka_project.json", {}, r"PeakaProject.load\(path\)"),
        (ORDERS, {}, "list of PeakaCache"),
        (
            [ORDERS, ORDERS.model_copy(update={"table_name": "other"})],
            {},
            "Cache c is given twice, as a.b.t and as a.b.other",
        ),
        ([ORDERS], {"translator": DagsterPeakaTranslator}, "translator must be an instance"),
    ],
)
def test_likely_mistakes_are_named(given: Any, arguments: dict[str, Any], said: str) -> None:
    """The message says what to write instead."""
    with pytest.raises(PeakaConfigError, match=said):
        build_peaka_cache_assets(given, **arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"kinds": "table"}, r"kinds=\['table'\]"), ({"deps": "landed"}, r"deps=\['landed'\]")],
)
def test_a_string_in_place_of_a_list_is_named(arguments: dict[str, Any], said: str) -> None:
    """Python would take each of its letters."""
    with pytest.raises(PeakaConfigError, match=said):
        build_peaka_cache_asset(table="a.b.t", **arguments)


def test_a_translator_that_answers_no_spec_is_named() -> None:
    """With the cache and the method."""

    class Forgetful(DagsterPeakaTranslator):
        def get_asset_spec(self, props: PeakaCache) -> Any:
            super().get_asset_spec(props)

    with pytest.raises(PeakaConfigError, match="Forgetful.get_asset_spec answered None for cache c"):
        build_peaka_cache_assets([ORDERS], translator=Forgetful())


def test_a_translator_may_have_an_init_of_its_own() -> None:
    """Without calling the one of its parent, as dataclasses do not."""

    class Own(DagsterPeakaTranslator):
        def __init__(self) -> None:
            self.prefix = "mine"

    (asset,) = build_peaka_cache_assets([ORDERS], translator=Own())

    assert list(asset.keys) == [dg.AssetKey(["a", "b", "t"])]


def test_the_user_s_table_name_is_shown(sandbox: PeakaSandbox, project: PeakaProject) -> None:
    """`dagster/table_name` is Dagster's: how the warehouse calls a table need not be how Peaka does."""
    (asset,) = build_peaka_cache_assets(project, selector="ops.public.t")
    asset = asset.map_asset_specs(
        lambda spec: spec.merge_attributes(metadata={"dagster/table_name": "lake.ops.t"})
    )

    (materialization,) = outcome(asset, sandbox).asset_materializations_for_node(asset.op.name)

    assert materialization.metadata["dagster/table_name"].value == "lake.ops.t"


def test_a_misspelt_run_config_is_refused() -> None:
    """In code as in the launchpad."""
    with pytest.raises(ValueError, match="modee"):
        PeakaSyncConfig.model_validate({"modee": "full_refresh"})
