"""Statuses of many caches: which listing is read, and what replaces one that fails."""

import logging
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from dagster_peaka import (
    build_peaka_cache_asset,
    build_peaka_cache_checks,
    build_peaka_polling_sensor,
)
from dagster_peaka.sandbox import PeakaSandbox
from dagster_peaka.sync.runner import RUN_STATUS_INTERVAL
from tests.fleets import fleet, recorded
from tests.materializing import acting_when, clock_of_syncs, peaka_for, run_of, sqlite_tables
from tests.observed.conftest import PROFILES, TABLE, Profile, asked
from tests.sensors.polling import Watch, sync_by_others


def test_the_first_example_of_the_readme_syncs_by_table(peaka: PeakaSandbox) -> None:
    """A schema's statuses, which answer 500 every time, are not asked for."""
    execution = peaka_for(peaka).sync(TABLE)

    assert execution.id == peaka.executions(TABLE)[-1].id
    assert "getCacheStatusBySchema" not in asked(peaka)


LISTINGS = ["getCacheStatusByCatalog", "getCacheStatusByProject"]


def many(tmp_path: Path, profile: Profile) -> PeakaSandbox:
    """A local Peaka with eight caches of one schema."""
    source = sqlite_tables(tmp_path / "many.db", [f"t{number}" for number in range(8)])
    return PeakaSandbox({"ops": {"public": source}}, caches=["ops.public.*"], profile=profile)


def logged_run(peaka: PeakaSandbox) -> tuple[list[str], list[str]]:
    """What a step of all eight caches by their tables records, and the warnings in its log."""
    assets = fleet({f"t{number}": {"peaka/table": f"ops.public.t{number}"} for number in range(8)})
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_of(assets, peaka_for(peaka), instance=instance)
        logs = instance.all_logs(result.run_id)
    warnings = [
        entry.user_message
        for entry in logs
        if entry.dagster_event is None and int(entry.level) >= logging.WARNING
    ]
    return sorted(recorded(result)), warnings


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("broken", "then"),
    [
        ([], None),
        (["getCacheStatusByCatalog"], "the project's listing is read"),
        (["getCacheStatusByCatalog", "getCacheStatusByProject"], "each cache's own status is read"),
    ],
)
def test_a_listing_that_fails_is_replaced_by_the_next_wider_one(
    tmp_path: Path, profile: Profile, broken: list[str], then: str | None
) -> None:
    """At once, for the rest of the step, with a warning each; in the end each cache is asked by itself."""
    with many(tmp_path, profile) as peaka:
        peaka.wait_idle()
        asset = fleet(by_id(peaka))
        for operation in broken:
            peaka.fault(operation, times=None, status=500)
        peaka.clear_requests()
        with dg.DagsterInstance.ephemeral() as instance:
            result = run_of(asset, peaka_for(peaka), instance=instance)
            warnings = [
                entry.user_message
                for entry in instance.all_logs(result.run_id)
                if entry.dagster_event is None and int(entry.level) >= logging.WARNING
            ]
        operations = asked(peaka)

    assert sorted(recorded(result)) == [f"t{number}" for number in range(8)]
    assert [operations.count(operation) for operation in broken] == [1] * len(broken)
    assert "getCacheStatusByCatalog" in operations  # the narrowest, and the only one where it answers
    assert broken or not {"getCacheStatusByProject", "getCacheStatusBySchema"} & set(operations)
    assert len(warnings) == len(broken)
    assert then is None or then in warnings[-1]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("broken", [["getCacheStatusByCatalog"], ["getCacheStatusByProject"], LISTINGS])
def test_a_terminated_step_cancels_what_is_its_own_where_a_listing_fails(
    tmp_path: Path, profile: Profile, broken: list[str]
) -> None:
    """All of it, as where the listing answers."""
    names = [f"ops.public.t{number}" for number in range(8)]
    with many(tmp_path, profile) as peaka, dg.DagsterInstance.ephemeral() as instance:
        peaka.wait_idle()
        asset = fleet(by_id(peaka))
        for name in names:
            peaka.plan(name, hold=True)
        for operation in broken:
            peaka.fault(operation, times=None, status=500)

        def terminate() -> None:
            (run,) = instance.get_runs()
            instance.report_run_canceling(run)
            clock.ahead += RUN_STATUS_INTERVAL

        followed = lambda: asked(peaka).count("getCacheExecutionHistory") >= len(names)  # noqa: E731
        with clock_of_syncs() as clock, acting_when(followed, terminate):
            run_of(asset, peaka_for(peaka), instance=instance)
        peaka.wait_idle()
        ends = [peaka.executions(name)[-1].status for name in names]

    assert ends == ["CANCELLED"] * len(names)


def by_id(peaka: PeakaSandbox) -> dict[str, dict[str, str]]:
    """The metadata of assets of all its caches, as a snapshot tells it: by id, with catalog and modes."""
    with peaka_for(peaka).get_client() as client:
        (catalog,) = [each.id for each in client.list_catalogs() if each.name == "ops"]
    known = {"peaka/catalog_id": catalog, "peaka/supported_modes": "incremental, full_refresh"}
    return {name[-2:]: {"peaka/cache_id": cache_id, **known} for name, cache_id in peaka.caches.items()}


@pytest.mark.parametrize("profile", PROFILES)
def test_many_caches_are_found_and_synced_by_their_tables(tmp_path: Path, profile: Profile) -> None:
    """Also where the catalog's listing fails as well: the project's serves the look-up."""
    with many(tmp_path, profile) as peaka:
        peaka.wait_idle()
        peaka.fault("getCacheStatusByCatalog", times=None, status=500)

        names, _ = logged_run(peaka)

    assert names == [f"t{number}" for number in range(8)]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("broken", [["getCacheStatusByCatalog"], ["getCacheStatusByProject"], LISTINGS])
def test_checks_read_what_is_to_be_had_where_a_listing_fails(
    tmp_path: Path, profile: Profile, broken: list[str]
) -> None:
    """Those of a step of their own, and those of a step that syncs nothing: at once, and in the end by each cache."""
    with many(tmp_path, profile) as peaka, dg.DagsterInstance.ephemeral() as instance:
        peaka.wait_idle()
        asset = fleet(by_id(peaka), checks=True)
        for operation in broken:
            peaka.fault(operation, times=None, status=500)
        result = dg.materialize(
            [asset, *build_peaka_cache_checks(asset, max_age=timedelta(days=1))],
            selection=dg.AssetSelection.all_asset_checks(),
            resources={"peaka": peaka_for(peaka)},
            instance=instance,
        )

    evaluations = result.get_asset_check_evaluations()
    assert {each.check_name for each in evaluations} == {"last_sync_succeeded", "not_stale"}
    assert [each.passed for each in evaluations] == [True] * 16


@pytest.mark.parametrize("profile", PROFILES)
def test_a_project_s_listing_that_fails_is_put_together_from_its_catalogs(
    tmp_path: Path, profile: Profile
) -> None:
    """By the polling sensor and by a snapshot, which have nothing wider to read."""
    with many(tmp_path, profile) as peaka, dg.DagsterInstance.ephemeral() as instance:
        peaka.wait_idle()
        peaka.fault("getCacheStatusByProject", times=None, status=500)
        asset = build_peaka_cache_asset(table="ops.public.t1", key="t1")
        watch = Watch(build_peaka_polling_sensor([asset]), peaka_for(peaka), instance)
        watch.tick()
        (execution,) = sync_by_others(peaka, ["ops.public.t1"])

        assert [event.metadata["peaka/execution_id"].value for event in watch.tick()] == [execution]
        assert len(peaka_for(peaka).fetch_project().caches) == 8
