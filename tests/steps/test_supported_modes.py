"""A mode that a table does not support fails before anything is triggered; what is not known stops nothing."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaSyncError, build_peaka_cache_asset
from dagster_peaka.sandbox import PeakaSandbox
from tests.fleets import fleet, recorded
from tests.materializing import failure_of, peaka_for, run_of, sqlite_tables, triggers

LISTING = "listTables_1"
NAMES = ("a", "b", "c", "d", "e")
KEYLESS = "shop.public.notes"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[PeakaSandbox]:
    """A local Peaka with six caches in one schema; `notes` has no key, so it can only be refreshed in full."""
    path = sqlite_tables(tmp_path / "shop.db", NAMES)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE notes (note TEXT)")
    with PeakaSandbox({"shop": {"public": path}}, caches=["shop.public.*"]) as sandbox:
        sandbox.wait_idle()
        sandbox.clear_requests()
        yield sandbox


def counts(sandbox: PeakaSandbox) -> Counter[str]:
    """How many requests of each kind were made."""
    return Counter(request.operation or "" for request in sandbox.requests)


def declared(sandbox: PeakaSandbox, name: str, **more: str) -> dict[str, str]:
    """What a factory writes for the cache of a table, from a snapshot."""
    with peaka_for(sandbox).get_client() as client:
        (catalog,) = [each for each in client.list_catalogs() if each.name == "shop"]
    return {
        "peaka/cache_id": sandbox.caches[f"shop.public.{name}"],
        "dagster/table_name": f"shop.public.{name}",
        "peaka/catalog_id": catalog.id,
        "peaka/schema_name": "public",
        **more,
    }


# Not supported


@pytest.mark.parametrize("by", ["table", "cache_id"])
@pytest.mark.parametrize("how", ["declared", "run config"])
def test_an_unsupported_mode_fails_before_anything_is_triggered(
    shop: PeakaSandbox, by: str, how: str
) -> None:
    """The message names cache, mode, what is supported and what to do; no retry helps, so none is tried."""
    address: dict[str, Any] = {by: KEYLESS if by == "table" else shop.caches[KEYLESS]}
    mode, config = ("incremental", None) if how == "declared" else ("full_refresh", {"mode": "incremental"})
    asset = build_peaka_cache_asset(
        **address, key="notes", mode=mode, retry_policy=dg.RetryPolicy(max_retries=2)
    )

    failure = failure_of(run_of(asset, peaka_for(shop), config=config))

    shown = f"{KEYLESS if by == 'table' else 'notes'} ({shop.caches[KEYLESS]})"
    assert failure.description == (
        f"Peaka cache {shown}: its table does not support an incremental update (incremental), only full_refresh; "
        "nothing was triggered. Set mode to 'full_refresh' where the asset is declared, or in the run's config."
    )
    assert failure.metadata == {"peaka/cache": shown, "peaka/permanent": True}
    assert failure.tries == 1
    assert triggers(shop) == 0


def test_the_other_mode_of_such_a_table_works(shop: PeakaSandbox) -> None:
    """The mode that is supported is triggered as ever."""
    assert run_of(build_peaka_cache_asset(table=KEYLESS, mode="full_refresh"), peaka_for(shop)).success


def test_a_snapshot_that_denies_a_mode_is_not_believed(shop: PeakaSandbox) -> None:
    """A table may support more by now than the definition says: Peaka is asked, and has the last word."""
    more = {"peaka/supported_modes": "full_refresh"}
    assets = fleet({"a": declared(shop, "a", **more), "notes": declared(shop, "notes", **more)})

    result = run_of(assets, peaka_for(shop))

    assert recorded(result) == ["a"]
    assert failure_of(result).description.startswith(f"Peaka cache {KEYLESS} ")


def test_one_unsupported_mode_harms_no_other_cache(shop: PeakaSandbox) -> None:
    """The others of the step are synced and recorded, and the failure names the one."""
    assets = fleet({name: {"peaka/table": f"shop.public.{name}"} for name in ("a", "notes", "b")})

    result = run_of(assets, peaka_for(shop))

    assert sorted(recorded(result)) == ["a", "b"]
    assert "its table does not support an incremental update" in failure_of(result).description
    assert triggers(shop) == 2


def test_a_sync_from_python_is_refused_as_well(shop: PeakaSandbox) -> None:
    """`PeakaResource.sync` raises the same, and it is permanent."""
    with pytest.raises(PeakaSyncError, match="only full_refresh; nothing was triggered") as raised:
        peaka_for(shop).sync(KEYLESS)

    assert raised.value.permanent
    assert triggers(shop) == 0


# What it costs


def test_what_a_snapshot_says_is_supported_costs_no_request(shop: PeakaSandbox) -> None:
    """Where the definition lists the mode, nobody is asked."""
    more = {"peaka/supported_modes": "incremental, full_refresh"}
    assets = fleet({name: declared(shop, name, **more) for name in NAMES})
    shop.clear_requests()

    assert run_of(assets, peaka_for(shop)).success

    asked = set(counts(shop)) - {"getCacheStatus"}  # of the last one alone, when the others are done
    assert asked == {"incrementalUpdateCache", "getCacheStatusByCatalog", "getCacheExecutionHistory"}


@pytest.mark.parametrize("known", [True, False])
def test_asking_costs_one_request_a_schema(shop: PeakaSandbox, known: bool) -> None:
    """Five caches of a schema cost one listing of tables; known by id only, one listing of caches more."""
    ids = {name: {"peaka/cache_id": shop.caches[f"shop.public.{name}"]} for name in NAMES}
    assets = fleet({name: declared(shop, name) for name in NAMES} if known else ids)
    shop.clear_requests()

    assert run_of(assets, peaka_for(shop)).success

    before = [request.operation for request in shop.requests]
    before = before[: before.index("incrementalUpdateCache")]
    look = "getCacheStatusByCatalog" if known else "listCacheStatuses"
    assert before == [LISTING, look] if known else [look, LISTING, look]
    assert counts(shop)[LISTING] == 1


def test_a_few_caches_known_by_id_are_asked_for_singly(shop: PeakaSandbox) -> None:
    """One cache that is known by id only costs two requests: which table it is, and what that supports."""
    asset = build_peaka_cache_asset(cache_id=shop.caches["shop.public.a"])

    assert run_of(asset, peaka_for(shop)).success

    assert [request.operation for request in shop.requests][:2] == ["getCacheSettings", LISTING]


# Not known


@pytest.mark.parametrize(
    "table",
    [
        {"supportedCacheTypes": None},
        {},
        {"supportedCacheTypes": []},
        {"supportedCacheTypes": ["FULL_REFRESH", "DELTA"]},
        {"supportedCacheTypes": ["FULL_REFRESH"], "tableName": "another"},
    ],
)
def test_what_peaka_does_not_surely_say_stops_nothing(shop: PeakaSandbox, table: Mapping[str, Any]) -> None:
    """No word, an empty list for what is cached all the same, a kind never seen, a table not listed: it is synced."""
    body = [{"schemaName": "public", "tableName": "a", **table}]
    shop.fault(LISTING, times=None, status=200, body=body)

    assert run_of(build_peaka_cache_asset(table="shop.public.a"), peaka_for(shop)).success


def test_a_source_that_is_down_stops_nothing(shop: PeakaSandbox) -> None:
    """Where its tables cannot be listed, the sync tells whether the source is there."""
    fault = shop.fault(LISTING, times=None, status=500, body={"message": "no connection to the source"})

    assert run_of(build_peaka_cache_asset(table="shop.public.a"), peaka_for(shop)).success
    assert fault.hits == 1


def test_an_answer_that_takes_long_is_not_waited_for(
    shop: PeakaSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After PATIENCE the sync goes on without the answer."""
    monkeypatch.setattr("dagster_peaka.steps.supported_modes.PATIENCE", 0.2)
    shop.fault(LISTING, times=None, status=None, delay=30.0)

    assert run_of(build_peaka_cache_asset(table="shop.public.a"), peaka_for(shop)).success


def test_a_mode_in_which_the_asset_was_synced_is_not_looked_up_again(shop: PeakaSandbox) -> None:
    """What an earlier run has recorded tells as much as Peaka would; of the other mode it tells nothing."""
    orders = build_peaka_cache_asset(table="shop.public.a")
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_of(orders, peaka_for(shop), instance=instance).success
        shop.clear_requests()

        assert run_of(orders, peaka_for(shop), instance=instance).success
        assert counts(shop)[LISTING] == 0

        other = {"mode": "full_refresh"}
        assert run_of(orders, peaka_for(shop), instance=instance, config=other).success
        assert counts(shop)[LISTING] == 1
