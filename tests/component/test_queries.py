"""Materialized queries in the component's YAML."""

import dagster as dg
import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.component.projects import Project, connection_to, keys
from tests.materializing import peaka_for

QUERY = "peaka/mtquery/daily"


@pytest.fixture
def sandbox_with_query(sandbox: PeakaSandbox) -> PeakaSandbox:
    """Two caches, and a query over one of them."""
    sandbox.queries.create("daily", "SELECT id FROM ops.public.t")
    sandbox.queries.create("other", "SELECT 1 AS one")
    return sandbox


def test_queries_become_assets_after_their_caches(project: Project, sandbox_with_query: PeakaSandbox) -> None:
    """Under the keys that the component gives the caches, by its own resource; and they run."""
    project.declare(
        {
            "connection": connection_to(sandbox_with_query),
            "translation": {"key_prefix": "lake"},
            "queries": {"include": "dai*", "sources_check": "block", "row_count": "query"},
        }
    )

    definitions = project.definitions(dev=True)

    spec = definitions.resolve_asset_graph().get(dg.AssetKey(["peaka", "mtquery", "daily"]))
    assert spec.parent_keys == {dg.AssetKey(["lake", "ops", "public", "t"])}
    assert "peaka/mtquery/other" not in keys(definitions)
    (assets,) = [
        each
        for each in definitions.assets or []
        if isinstance(each, dg.AssetsDefinition) and each.key == dg.AssetKey(["peaka", "mtquery", "daily"])
    ]
    (resource,) = assets.required_resource_keys - {"io_manager"}
    result = dg.materialize([assets], resources={resource: peaka_for(sandbox_with_query)})
    (materialization,) = result.asset_materializations_for_node(assets.op.name)
    assert materialization.metadata["dagster/row_count"].value == 3


def test_without_queries_none_are_fetched(project: Project, sandbox_with_query: PeakaSandbox) -> None:
    """By default there are none, and no request for them."""
    project.declare({"connection": connection_to(sandbox_with_query)})

    assert QUERY not in keys(project.definitions(dev=True))
    assert "listQueries" not in {request.operation for request in sandbox_with_query.requests}


def test_queries_are_true_or_settings(project: Project, sandbox_with_query: PeakaSandbox) -> None:
    """True means all of them."""
    project.declare({"connection": connection_to(sandbox_with_query), "queries": True})

    assert {QUERY, "peaka/mtquery/other"} <= set(keys(project.definitions(dev=True)))


def test_caches_that_are_written_out_come_without_queries(
    project: Project, sandbox_with_query: PeakaSandbox
) -> None:
    """Nothing is fetched then."""
    project.declare(
        {"connection": connection_to(sandbox_with_query), "caches": ["ops.public.t"], "queries": True}
    )

    assert "queries: are fetched with the caches" in project.refusal()


def test_a_release_with_queries_leaves_the_state_of_one_without(
    project: Project, sandbox_with_query: PeakaSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """In a store that both share, the older finds what it can read, and the newer starts from that."""
    connection = connection_to(sandbox_with_query)
    project.declare({"connection": connection}, folder="older")
    project.declare({"connection": connection, "queries": True}, folder="newer")
    project.refresh("older")
    (state,) = project.states
    before = state.read_bytes()

    assert keys(project.definitions("newer")) == {"ops/public/t", "ops/public/u"}
    assert "holds none. `dg utils refresh-defs-state` renews it." in caplog.text

    project.refresh("newer")
    assert QUERY in keys(project.definitions("newer"))
    assert state.read_bytes() == before
    assert keys(project.definitions("older")) == {"ops/public/t", "ops/public/u"}


def test_a_state_under_a_key_of_one_s_own_is_kept_apart_as_well(
    project: Project, sandbox_with_query: PeakaSandbox
) -> None:
    """What a release without queries cannot read is not under the key that it reads."""
    state = {"management_type": "LOCAL_FILESYSTEM", "key": "mine"}
    connection = connection_to(sandbox_with_query)
    project.declare({"connection": connection, "defs_state": state}, folder="older")
    project.declare({"connection": connection, "defs_state": state, "queries": True}, folder="newer")
    project.refresh("newer")

    assert keys(project.definitions("older")) == set()
    project.refresh("older")
    assert len(project.states) == 2


def test_the_polling_sensor_covers_queries_that_nobody_waits_for(
    project: Project, sandbox_with_query: PeakaSandbox
) -> None:
    """And the schedules that are to be switched off are a matter of each query's asset."""
    connection = connection_to(
        sandbox_with_query, studio_query_url="https://peaka.example/{project_id}/{query_id}"
    )
    project.declare(
        {
            "connection": connection,
            "polling_sensor": True,
            "queries": {"include": "daily", "wait": False, "on_schedule": "disable"},
        }
    )

    definitions = project.definitions(dev=True)

    (sensor,) = list(definitions.sensors or ())
    assert isinstance(sensor, dg.SensorDefinition)
    assert QUERY in sensor.metadata["peaka/polling_sensor"].value  # pyright: ignore[reportOperatorIssue]
    metadata = definitions.resolve_asset_graph().get(dg.AssetKey(QUERY.split("/"))).metadata
    assert metadata["peaka/wait"] is False
    assert metadata["peaka/on_schedule"] == "disable"
    assert str(metadata["peaka/url"].value).startswith("https://peaka.example/")


def test_queries_that_nobody_waits_for_need_a_polling_sensor(
    project: Project, sandbox_with_query: PeakaSandbox
) -> None:
    """Nobody would learn how their refreshes end."""
    project.declare({"connection": connection_to(sandbox_with_query), "queries": {"wait": False}})

    assert "leaves it to a polling sensor" in project.refusal(dev=True)
