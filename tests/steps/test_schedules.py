"""Peaka's own schedules of a cache that Dagster syncs: said, switched off, or left alone."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaConfigError, PeakaProject, build_peaka_cache_asset, build_peaka_cache_assets
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import failure_of, log_of, peaka_for, run_of, sqlite_tables, triggers

SCHEDULED = "shop.public.orders"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[PeakaSandbox]:
    """A local Peaka that syncs the orders by itself, every six hours and every day; the items it leaves alone."""
    path = sqlite_tables(tmp_path / "shop.db", ["orders", "items"])
    with PeakaSandbox({"shop": {"public": path}}, caches=["shop.public.items"]) as sandbox:
        sandbox.create_cache(SCHEDULED, "PT6H", "P1D")
        sandbox.wait_idle()
        sandbox.clear_requests()
        yield sandbox


def schedules(sandbox: PeakaSandbox) -> list[str | None]:
    """What Peaka keeps for the orders: the incremental schedule, and that of full refreshes."""
    with peaka_for(sandbox).get_client() as client:
        settings = client.get_cache(sandbox.caches[SCHEDULED])
    both = (settings.incremental_schedule, settings.full_refresh_schedule)
    return [each.expression if each else None for each in both]


def requests(sandbox: PeakaSandbox) -> Counter[str]:
    """How many requests of each kind were made."""
    return Counter(request.operation or "" for request in sandbox.requests)


def disabling(**more: Any) -> dg.AssetsDefinition:
    """The orders, whose syncs are Dagster's alone."""
    return build_peaka_cache_asset(table=SCHEDULED, on_schedule="disable", **more)


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of a run's only materialization."""
    (event,) = result.get_asset_materialization_events()
    metadata = event.step_materialization_data.materialization.metadata
    return {name: value.value for name, value in metadata.items()}


# Switched off


def test_a_sync_switches_schedules_off_and_says_so(shop: PeakaSandbox) -> None:
    """In Peaka, in the materialization and in the log; the next sync finds nothing left to switch off."""
    first = run_of(disabling(), peaka_for(shop))

    assert metadata_of(first)["peaka/schedules_disabled"] == "incremental PT6H, full refresh P1D"
    assert schedules(shop) == [None, None]

    shop.clear_requests()
    second = run_of(disabling(), peaka_for(shop))

    assert "peaka/schedules_disabled" not in metadata_of(second)
    assert requests(shop)["getCacheSettings"] == 1
    assert requests(shop)["updateCacheSettings"] == 0


def test_what_was_switched_off_is_in_the_log(shop: PeakaSandbox) -> None:
    """With the reason."""
    lines = log_of(disabling(), peaka_for(shop))

    (line,) = [text for _, text in lines if "switched off" in text]
    assert SCHEDULED in line
    assert "incremental PT6H, full refresh P1D" in line


def test_schedules_that_peaka_keeps_are_an_error(shop: PeakaSandbox) -> None:
    """It answers 200, and goes on syncing: nothing is triggered, and the failure says what is to be done."""
    shop.fault("updateCacheSettings", times=1, status=200, body={"id": shop.caches[SCHEDULED]})

    failure = failure_of(run_of(disabling(), peaka_for(shop)))

    assert "keeps incremental PT6H, full refresh P1D; nothing was triggered" in failure.description
    assert "Switch them off in Peaka" in failure.description
    assert triggers(shop) == 0


def test_a_key_that_may_not_change_schedules_is_an_error(shop: PeakaSandbox) -> None:
    """No later sync would do better."""
    shop.fault("updateCacheSettings", status=403)

    failure = failure_of(run_of(disabling(), peaka_for(shop)))

    assert "could not be switched off (on_schedule='disable'); nothing was triggered" in failure.description
    assert failure.metadata["peaka/permanent"] is True
    assert triggers(shop) == 0


@pytest.mark.parametrize("fault", [{"status": 500}, {"lose_reply": True}, {"refuse": True}], ids=str)
def test_what_fails_half_way_is_tried_again_by_the_next_sync(
    shop: PeakaSandbox, fault: dict[str, Any]
) -> None:
    """An outage is no reason to leave the cache alone; whatever Peaka has made of the change, it is made in the end."""
    shop.fault("updateCacheSettings", times=1, **fault)

    assert run_of(disabling(), peaka_for(shop)).success
    assert run_of(disabling(), peaka_for(shop)).success

    assert schedules(shop) == [None, None]


def test_settings_that_cannot_be_read_stop_no_sync(shop: PeakaSandbox) -> None:
    """The materialization says nothing of schedules, and the next sync switches them off."""
    fault = shop.fault("getCacheSettings", times=None, status=503)

    result = run_of(disabling(), peaka_for(shop))

    assert result.success
    assert "peaka/schedules_disabled" not in metadata_of(result)
    fault.remove()
    assert run_of(disabling(), peaka_for(shop)).success
    assert schedules(shop) == [None, None]


def test_one_cache_that_keeps_its_schedules_harms_no_other(shop: PeakaSandbox) -> None:
    """In one step for both."""
    project = peaka_for(shop).fetch_project()
    (assets,) = build_peaka_cache_assets(project, step_per="project", on_schedule="disable")
    shop.fault("updateCacheSettings", times=1, status=200, body={"id": shop.caches[SCHEDULED]})

    result = run_of(assets, peaka_for(shop))

    assert [
        event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key
    ] == ["items"]
    assert "keeps incremental PT6H" in failure_of(result).description


# Said


def test_a_load_from_a_snapshot_says_once_which_caches_have_schedules(
    shop: PeakaSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """And only where nothing was chosen."""
    project = peaka_for(shop).fetch_project()

    with caplog.at_level(logging.WARNING):
        build_peaka_cache_assets(project)
    (line,) = [
        record.getMessage() for record in caplog.records if "schedules of its own" in record.getMessage()
    ]
    assert "shop.public.orders (incremental PT6H, full refresh P1D)" in line
    assert "items" not in line

    caplog.clear()
    for choice in ("ignore", "disable"):
        build_peaka_cache_assets(project, on_schedule=choice)
    assert "schedules of its own" not in caplog.text


def test_a_step_that_learns_of_a_schedule_says_so(shop: PeakaSandbox) -> None:
    """Of a cache that is named by its id alone, the settings are read anyway."""
    cache_id = shop.caches[SCHEDULED]

    warned = log_of(build_peaka_cache_asset(cache_id=cache_id, key="orders"), peaka_for(shop))
    silent = log_of(
        build_peaka_cache_asset(cache_id=cache_id, key="orders", on_schedule="ignore"), peaka_for(shop)
    )

    assert [level for level, text in warned if "Peaka syncs by schedules of its own" in text] == ["WARNING"]
    assert not [text for _, text in silent if "schedules" in text]
    assert requests(shop)["updateCacheSettings"] == 0


def test_on_schedule_is_one_of_three_words() -> None:
    """At load, with the choices."""
    with pytest.raises(PeakaConfigError, match="on_schedule must be one of 'ignore', 'warn', 'disable'"):
        build_peaka_cache_asset(table=SCHEDULED, on_schedule="off")
    with pytest.raises(PeakaConfigError, match="on_schedule must be one of"):
        build_peaka_cache_assets(PeakaProject(project_id="p", caches=()), on_schedule="off")
