"""Where a person finds a cache: `studio_url`, and the links that it makes."""

from typing import Any

import dagster as dg
import pytest

from dagster_peaka import (
    DagsterPeakaTranslator,
    PeakaClient,
    PeakaConfigError,
    PeakaProjectComponent,
    PeakaResource,
    PeakaSyncError,
    build_peaka_cache_asset,
    build_peaka_cache_assets,
    build_peaka_polling_sensor,
    build_peaka_query_asset,
    build_peaka_query_assets,
    load_peaka_cache_specs,
)
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import peaka_for

TEMPLATE = "https://peaka.example/{project_id}/caches/{cache_id}"
TABLE = "ops.public.t"


def link_of(sandbox: PeakaSandbox) -> str:
    """The address of the cache of `ops.public.t`."""
    return f"https://peaka.example/{sandbox.project_id}/caches/{sandbox.caches[TABLE]}"


@pytest.mark.parametrize("as_variable", [False, True])
def test_a_materialization_links_to_its_cache(
    sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch, as_variable: bool
) -> None:
    """`peaka/url` is a link that Dagster's UI opens, also where the template is a variable."""
    monkeypatch.setenv("STUDIO", TEMPLATE)
    peaka = peaka_for(sandbox, studio_url=dg.EnvVar("STUDIO") if as_variable else TEMPLATE)

    result = dg.materialize([build_peaka_cache_asset(table=TABLE)], resources={"peaka": peaka})

    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["peaka/url"] == dg.MetadataValue.url(link_of(sandbox))


def test_a_failure_links_to_its_cache(sandbox: PeakaSandbox) -> None:
    """In the sentence, in the failure's metadata, in the check's, and as the error's `url`."""
    peaka = peaka_for(sandbox, studio_url=TEMPLATE)
    sandbox.plan(TABLE, fail="the source is locked")
    asset = build_peaka_cache_asset(table=TABLE, checks={"last_sync_succeeded": True})

    result = dg.materialize([asset], resources={"peaka": peaka}, raise_on_error=False)

    (failed,) = [event for event in result.all_events if event.is_step_failure]
    data = failed.step_failure_data.user_failure_data
    assert data is not None
    assert data.metadata["peaka/url"] == dg.MetadataValue.url(link_of(sandbox))
    assert f"<{link_of(sandbox)}>" in (data.description or "")
    (check,) = result.get_asset_check_evaluations()
    assert check.metadata["peaka/url"] == dg.MetadataValue.url(link_of(sandbox))

    sandbox.plan(TABLE, fail="the source is locked")
    with pytest.raises(PeakaSyncError) as caught:
        peaka.sync(TABLE)
    assert caught.value.url == link_of(sandbox)


def test_what_the_polling_sensor_records_links_to_its_cache(sandbox: PeakaSandbox) -> None:
    """As what our own runs record."""
    sensor = build_peaka_polling_sensor(build_peaka_cache_asset(table=TABLE), backfill=True)
    with dg.DagsterInstance.ephemeral() as instance:
        resources = {"peaka": peaka_for(sandbox, studio_url=TEMPLATE)}
        context = dg.build_sensor_context(instance=instance, resources=resources)
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    (event,) = result.asset_events
    assert event.metadata["peaka/url"] == dg.MetadataValue.url(link_of(sandbox))


def test_an_assets_own_link_wins(sandbox: PeakaSandbox) -> None:
    """Whoever writes `peaka/url` into a spec knows better."""
    own = dg.MetadataValue.url("https://elsewhere.example/t")
    asset = build_peaka_cache_asset(table=TABLE, metadata={"peaka/url": own})
    result = dg.materialize([asset], resources={"peaka": peaka_for(sandbox, studio_url=TEMPLATE)})
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["peaka/url"] == own


def test_without_studio_url_there_is_no_link(sandbox: PeakaSandbox) -> None:
    """Nobody but its user knows where Peaka's own pages are."""
    result = dg.materialize([build_peaka_cache_asset(table=TABLE)], resources={"peaka": peaka_for(sandbox)})
    (event,) = result.get_asset_materialization_events()
    assert "peaka/url" not in event.materialization.metadata


QUERIES = "https://peaka.example/{project_id}/queries/{query_id}"


def test_a_query_links_to_its_own_page(sandbox: PeakaSandbox) -> None:
    """The materialization, a failure, its sentence, and what the polling sensor records."""
    query_id = sandbox.queries.create("report", "SELECT 1 AS one")
    link = dg.MetadataValue.url(f"https://peaka.example/{sandbox.project_id}/queries/{query_id}")
    peaka = peaka_for(sandbox, studio_query_url=QUERIES, studio_url=TEMPLATE)
    asset = build_peaka_query_asset(query="report")

    good = dg.materialize([asset], resources={"peaka": peaka})
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, resources={"peaka": peaka})
        ticked = build_peaka_polling_sensor(asset)(context)
    sandbox.queries.plan("report", fail="no room")
    bad = dg.materialize([asset], resources={"peaka": peaka}, raise_on_error=False)

    (event,) = good.get_asset_materialization_events()
    assert event.materialization.metadata["peaka/url"] == link
    assert isinstance(ticked, dg.SensorResult)
    assert [each.metadata["peaka/url"] for each in ticked.asset_events] == [link]
    (failed,) = [event for event in bad.all_events if event.is_step_failure]
    data = failed.step_failure_data.user_failure_data
    assert data is not None
    assert data.metadata["peaka/url"] == link
    assert f"<{link.value}>" in (data.description or "")


def test_specs_link_where_the_translator_is_given_the_resource(sandbox: PeakaSandbox) -> None:
    """Those of caches, whether they are synced or only watched, and those of queries."""
    query_id = sandbox.queries.create("report", "SELECT 1 AS one")
    peaka = peaka_for(sandbox, studio_url=TEMPLATE, studio_query_url=QUERIES)
    project = peaka.fetch_project(selector=TABLE, queries=True)
    translator = DagsterPeakaTranslator(pages=peaka)

    (cache,) = (
        spec for each in build_peaka_cache_assets(project, translator=translator) for spec in each.specs
    )
    (watched,) = load_peaka_cache_specs(project, translator=translator)
    (query,) = (
        spec for each in build_peaka_query_assets(project, translator=translator) for spec in each.specs
    )

    assert (
        cache.metadata["peaka/url"] == watched.metadata["peaka/url"] == dg.MetadataValue.url(link_of(sandbox))
    )
    assert query.metadata["peaka/url"].value.endswith(f"/queries/{query_id}")


def test_a_template_for_queries_names_no_cache() -> None:
    """The message names the setting, and what its template may name."""
    with pytest.raises(PeakaConfigError, match=r"studio_query_url must be .*\{query_id\}"):
        PeakaClient("k", "p", studio_query_url=TEMPLATE)
    with pytest.raises(ValueError, match="studio_query_url must be an address like"):
        PeakaResource.model_validate({"api_key": "k", "project_id": "p", "studio_query_url": TEMPLATE})


@pytest.mark.parametrize(
    ("cache", "link"),
    [({"cache_id": "1/2"}, "https://peaka.example/p/caches/1%2F2"), ({"table": "a.b.c"}, None)],
)
def test_the_components_specs_link_to_caches_whose_ids_are_known(
    cache: dict[str, str], link: str | None
) -> None:
    """By its table alone no id is known before a run begins."""
    settings: Any = {"api_key": dg.EnvVar("PEAKA_API_KEY"), "project_id": "p", "studio_url": TEMPLATE}
    component = PeakaProjectComponent(connection=PeakaResource(**settings), caches=[cache])  # pyright: ignore[reportArgumentType]

    (spec,) = [spec for asset in dg.component_defs(component=component).assets or () for spec in asset.specs]  # pyright: ignore[reportAttributeAccessIssue]

    shown = spec.metadata.get("peaka/url")
    assert shown == (None if link is None else dg.MetadataValue.url(link))


@pytest.mark.parametrize(
    "template",
    [
        "",
        "peaka.example/{cache_id}",
        "ftp://peaka.example/{cache_id}",
        "https:///{cache_id}",
        "https://peaka.example/{cache}",
        "https://peaka.example/{cache_id",
        "https://peaka.example/{cache_id.x}",
    ],
)
def test_a_template_that_makes_no_address_is_refused(template: str) -> None:
    """By client and resource alike, with an example."""
    with pytest.raises(PeakaConfigError, match=r"studio_url must be an address like .*\{cache_id\}"):
        PeakaClient("k", "p", studio_url=template)
    with pytest.raises(ValueError, match="studio_url must be an address like"):
        PeakaResource.model_validate({"api_key": "k", "project_id": "p", "studio_url": template})


@pytest.mark.parametrize("zone", ["us", "EU", " eu\n"])
def test_a_client_takes_a_zone_as_the_resource_does(zone: str) -> None:
    """Its address is then that zone's."""
    with PeakaClient("k", "p", zone=zone) as client:
        expected = (
            "https://partner.eu.peaka.studio" if "eu" in zone.lower() else "https://partner.peaka.studio"
        )
        assert expected in repr(client._connection)


def test_a_zone_that_is_none_is_refused_by_the_client() -> None:
    """With those that there are."""
    with pytest.raises(PeakaConfigError, match="zone must be one of 'us', 'eu', not 'mars'"):
        PeakaClient("k", "p", zone="mars")
