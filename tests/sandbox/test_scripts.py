"""What a test writes down beforehand: databases made for it, caches by their ids, executions and their rows."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dagster_peaka.sandbox import PeakaSandbox, PeakaScript, SandboxError, ScriptedExecution
from tests.sandbox.conftest import FLIGHTS, Api

ORDERS = "shop.public.orders"


@pytest.fixture
def shop(peaka_sandbox: PeakaSandbox) -> sqlite3.Connection:
    """The database of a shop, with a table of two orders."""
    shop = peaka_sandbox.database("shop.public")
    shop.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)")
    shop.execute("INSERT INTO orders VALUES (1, 'tea'), (2, 'cake')")
    return shop


def counts(sandbox: PeakaSandbox, cache: str = ORDERS) -> list[tuple[str, int, int, int, int]]:
    """What the API says of all executions of a cache but its first, oldest first: how they ended, and their rows."""
    names = [f"numberOf{what}Records" for what in ("Inserted", "Updated", "Deleted", "Cached")]
    history = Api(sandbox).history(cache)[-2::-1]
    return [(each["status"], *(each["progress"][name] for name in names)) for each in history]


def sync(sandbox: PeakaSandbox, mode: Any = "incremental", cache: str = ORDERS) -> None:
    """One execution from its start to its end."""
    sandbox.start_execution(cache, mode)
    sandbox.wait_idle()


def test_a_sandbox_makes_the_databases_that_nobody_has_brought(
    peaka_sandbox: PeakaSandbox, shop: sqlite3.Connection
) -> None:
    """A schema that is written to for the first time is one of Peaka's from then on, and its tables can be cached."""
    peaka_sandbox.database("shop.other").execute("CREATE TABLE notes (said TEXT)")
    peaka_sandbox.create_cache(ORDERS)
    peaka_sandbox.wait_idle()
    shop.execute("UPDATE orders SET item = 'pie' WHERE id = 2")
    sync(peaka_sandbox)

    api = Api(peaka_sandbox)
    (catalog,) = [each for each in api.get("catalogs") if each["name"] == "shop"]
    schemas = [each["schemaName"] for each in api.get(f"catalogs/{catalog['id']}/schemas")]
    assert schemas == ["public", "other"]
    assert api.query(f"SELECT item FROM {ORDERS} ORDER BY id") == [["tea"], ["pie"]]
    assert counts(peaka_sandbox) == [("COMPLETED", 0, 1, 0, 2)]


def test_the_database_of_a_source_is_the_source(sandbox: PeakaSandbox, source: sqlite3.Connection) -> None:
    """Where a schema was brought, its own file is opened, not another one."""
    sandbox.database("ops.public").execute("DELETE FROM flights WHERE id = 1")

    assert source.execute("SELECT id FROM flights").fetchall() == [(2,), (3,)]


def test_databases_that_were_made_stay_beside_the_store(tmp_path: Path) -> None:
    """The next sandbox with that store has the same schemas, and syncs their caches on."""
    store = tmp_path / "store.db"
    with PeakaSandbox({}, store=store) as sandbox:
        shop = sandbox.database("ein Laden/ä.public")
        shop.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        sandbox.create_cache("ein Laden/ä.public.orders")
        sandbox.wait_idle()
        shop.execute("INSERT INTO orders VALUES (1)")
    with PeakaSandbox({}, store=store) as sandbox:
        sync(sandbox, cache="ein Laden/ä.public.orders")
        sandbox.database("ein Laden/ä.public").execute("INSERT INTO orders VALUES (2)")
        sync(sandbox, cache="ein Laden/ä.public.orders")
        assert [each[:2] for each in counts(sandbox, "ein Laden/ä.public.orders")] == [("COMPLETED", 1)] * 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["store.db-sources"]


@pytest.mark.parametrize("schema", ["shop", "shop.", ".public", "shop.public.orders", "peaka.public"])
def test_what_can_be_no_schema_is_refused(peaka_sandbox: PeakaSandbox, schema: str) -> None:
    """A name that Peaka could not have is an error which names it, and nothing is made."""
    with pytest.raises(SandboxError, match=f"^database {schema}"):
        peaka_sandbox.database(schema)


def test_a_database_is_made_by_a_sandbox_that_runs() -> None:
    """Before its start a sandbox has no place for it, and says what to do."""
    with pytest.raises(SandboxError, match=r"^database shop\.public: .*started first"):
        PeakaSandbox({}).database("shop.public")


def test_a_cache_has_the_id_that_it_is_given(peaka_sandbox: PeakaSandbox, shop: sqlite3.Connection) -> None:
    """Whatever it is: the API knows the cache by it, and ids that differ in case alone are two."""
    shop.execute("CREATE TABLE items (id INTEGER PRIMARY KEY)")
    shop.execute("CREATE TABLE guests (id INTEGER PRIMARY KEY)")
    wanted = {ORDERS: "Order-1", "shop.public.items": "order_1", "shop.public.guests": "id of/guests é"}

    for table, cache_id in wanted.items():
        assert peaka_sandbox.create_cache(table, cache_id=cache_id) == cache_id
    peaka_sandbox.wait_idle()

    api = Api(peaka_sandbox)
    assert peaka_sandbox.caches == wanted
    assert api.get("cache/Order-1/status")["tableName"] == "orders"
    assert api.get("cache/id%20of%2Fguests%20%C3%A9/status")["tableName"] == "guests"
    assert [api.query(f"SELECT count(*) FROM {table}") for table in wanted] == [[[2]], [[0]], [[0]]]


@pytest.mark.parametrize("cache_id", ["", " ", ".", "..", "new\nline", 17])
def test_an_id_that_no_address_can_hold_is_refused(
    peaka_sandbox: PeakaSandbox, shop: sqlite3.Connection, cache_id: Any
) -> None:
    """The error shows the id, and there is no cache."""
    with pytest.raises(SandboxError) as refused:
        peaka_sandbox.create_cache(ORDERS, cache_id=cache_id)

    assert repr(cache_id) in str(refused.value)
    assert peaka_sandbox.caches == {}


def test_an_id_is_given_once(peaka_sandbox: PeakaSandbox, shop: sqlite3.Connection) -> None:
    """Neither a cache nor one that was deleted leaves its id to another one."""
    shop.execute("CREATE TABLE items (id INTEGER PRIMARY KEY)")
    peaka_sandbox.create_cache(ORDERS, cache_id="5f3c")
    for _ in range(2):
        with pytest.raises(SandboxError, match=r"^cache_id 5f3c: the cache of shop\.public\.orders has it"):
            peaka_sandbox.create_cache("shop.public.items", cache_id="5f3c")
        if peaka_sandbox.caches:
            peaka_sandbox.delete_cache("5f3c")


def test_planned_rows_are_reported_and_nothing_is_copied(
    peaka_sandbox: PeakaSandbox, shop: sqlite3.Connection
) -> None:
    """The rows in the cache follow from what was reported before, unless they are given too."""
    peaka_sandbox.create_cache(ORDERS)
    peaka_sandbox.wait_idle()
    shop.execute("DELETE FROM orders")
    peaka_sandbox.plan(ORDERS, inserted=5, updated=2, deleted=1)
    peaka_sandbox.plan(ORDERS, inserted=1, total=100)
    peaka_sandbox.plan(ORDERS, deleted=3, fail="the disk is full")
    peaka_sandbox.plan(ORDERS, deleted=1)
    peaka_sandbox.plan(ORDERS, inserted=7)

    for mode in ["incremental"] * 4 + ["full_refresh"]:
        sync(peaka_sandbox, mode)

    assert counts(peaka_sandbox) == [
        ("COMPLETED", 5, 2, 1, 6),
        ("COMPLETED", 1, 0, 0, 100),
        ("FAILED", 0, 0, 3, 97),
        ("COMPLETED", 0, 0, 1, 99),
        ("COMPLETED", 7, 0, 0, 7),
    ]
    assert Api(peaka_sandbox).query(f"SELECT count(*) FROM {ORDERS}") == [[2]]
    sync(peaka_sandbox)
    assert counts(peaka_sandbox)[-1] == ("COMPLETED", 0, 0, 2, 0)


def test_a_planned_execution_keeps_its_rows_over_a_restart(ops: Any, tmp_path: Path) -> None:
    """One that was running when the sandbox ended reports, at its end in the next one, what was planned for it."""
    with PeakaSandbox(ops, [FLIGHTS], store=tmp_path / "store.db") as sandbox:
        sandbox.wait_idle()
        sandbox.plan(FLIGHTS, hold=True, inserted=4, total=40)
        sandbox.start_execution(FLIGHTS)
    with PeakaSandbox(ops, store=tmp_path / "store.db") as sandbox:
        sandbox.release(FLIGHTS)
        sandbox.wait_idle()
        assert counts(sandbox, FLIGHTS) == [("COMPLETED", 4, 0, 0, 40)]


def test_a_cancelled_execution_reports_no_planned_rows(sandbox: PeakaSandbox) -> None:
    """It has not come to the end that was planned."""
    sandbox.plan(FLIGHTS, hold=True, inserted=4)
    sandbox.start_execution(FLIGHTS)
    sandbox.cancel(FLIGHTS)
    sandbox.wait_idle()

    assert counts(sandbox, FLIGHTS) == [("CANCELLED", 0, 0, 0, 0)]


def test_an_endless_plan_gives_way_to_a_counted_one(sandbox: PeakaSandbox) -> None:
    """What is planned for ever holds only while nothing else is planned."""
    sandbox.plan(FLIGHTS, times=None, fail="always")
    sandbox.plan(FLIGHTS, times=2, inserted=1)
    for _ in range(4):
        sync(sandbox, cache=FLIGHTS)

    assert [status for status, *_ in counts(sandbox, FLIGHTS)] == ["COMPLETED"] * 2 + ["FAILED"] * 2


@pytest.mark.parametrize(
    ("name", "rows"), [("inserted", -1), ("updated", 1.0), ("deleted", "3"), ("total", True)]
)
def test_what_is_no_number_of_rows_is_refused(peaka_sandbox: PeakaSandbox, name: str, rows: Any) -> None:
    """In a plan and in a script, with the name of what was given."""
    peaka_sandbox.database("shop.public")
    for refused in (lambda **given: peaka_sandbox.plan(ORDERS, **given), ScriptedExecution):
        with pytest.raises(ValueError, match=f"^{name} is {rows!r}; "):
            refused(**{name: rows})


def test_a_script_takes_a_time_that_ends() -> None:
    """No negative one, and none without end: that is what hold is for."""
    for seconds in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="^seconds is "):
            ScriptedExecution(seconds=seconds)


def test_a_script_is_played_in_order_and_its_end_is_loud(
    peaka_sandbox: PeakaSandbox, peaka_script: PeakaScript
) -> None:
    """Each execution of either mode is the next of the script; one too many fails, and names the table."""
    executions = [
        ScriptedExecution(inserted=3),
        ScriptedExecution(fail={"message": "the disk is full"}),
        ScriptedExecution(),
        ScriptedExecution(inserted=9, updated=1),
    ]
    cache = peaka_script(ORDERS, executions)
    assert [(each.status, each.origin) for each in peaka_sandbox.executions(cache)] == [
        ("COMPLETED", "creation")
    ]

    for mode in ("incremental", "incremental", "incremental", "full_refresh", "incremental"):
        sync(peaka_sandbox, mode)

    assert counts(peaka_sandbox) == [
        ("COMPLETED", 3, 0, 0, 3),
        ("FAILED", 0, 0, 0, 3),
        ("COMPLETED", 0, 0, 0, 3),
        ("COMPLETED", 9, 1, 0, 9),
        ("FAILED", 0, 0, 0, 0),
    ]
    history = Api(peaka_sandbox).history(ORDERS)
    assert history[3]["error"] == {"message": "the disk is full"}
    assert "script of shop.public.orders is over" in history[0]["error"]["message"]


def test_a_script_can_be_continued(peaka_sandbox: PeakaSandbox, peaka_script: PeakaScript) -> None:
    """A second call adds to what is left, whether the first script is over or not; its cache stays the same."""
    cache = peaka_script(ORDERS, [])
    sync(peaka_sandbox)
    assert peaka_script(ORDERS, [ScriptedExecution(inserted=1)]) == cache
    assert peaka_script(ORDERS, [ScriptedExecution(inserted=2)], cache_id=cache) == cache
    for _ in range(3):
        sync(peaka_sandbox)

    ended = [(status, inserted) for status, inserted, *_ in counts(peaka_sandbox)]
    assert ended == [("FAILED", 0), ("COMPLETED", 1), ("COMPLETED", 2), ("FAILED", 0)]


def test_a_script_makes_only_what_is_missing(
    peaka_sandbox: PeakaSandbox, peaka_script: PeakaScript, shop: sqlite3.Connection
) -> None:
    """A table that is there keeps its columns and is copied once; its cache gets the id that is wanted."""
    assert peaka_script(ORDERS, [ScriptedExecution(total=50)], cache_id="5f3c") == "5f3c"
    sync(peaka_sandbox)

    assert Api(peaka_sandbox).query(f"SELECT * FROM {ORDERS}") == [[1, "tea"], [2, "cake"]]
    assert counts(peaka_sandbox) == [("COMPLETED", 0, 0, 0, 50)]
    with pytest.raises(SandboxError, match=r"^cache_id 77: shop\.public\.orders .* 5f3c"):
        peaka_script(ORDERS, [], cache_id="77")


def test_scripts_of_several_caches_are_independent(
    peaka_sandbox: PeakaSandbox, peaka_script: PeakaScript
) -> None:
    """One cache's execution that is held delays neither another script nor another cache."""
    peaka_script(ORDERS, [ScriptedExecution(hold=True, inserted=1)])
    peaka_sandbox.start_execution(ORDERS)
    peaka_script("shop.public.items", [ScriptedExecution(inserted=2)])
    peaka_sandbox.start_execution("shop.public.items")
    peaka_sandbox.wait_idle(cache="shop.public.items")

    assert Api(peaka_sandbox).status(ORDERS)["status"] == "RUNNING"
    with pytest.raises(TimeoutError, match="1 executions are not finished"):
        peaka_sandbox.wait_idle(0.01, cache=ORDERS)
    peaka_sandbox.release(ORDERS)
    peaka_sandbox.wait_idle(cache=ORDERS)
    assert counts(peaka_sandbox) == [("COMPLETED", 1, 0, 0, 1)]
    assert counts(peaka_sandbox, "shop.public.items") == [("COMPLETED", 2, 0, 0, 2)]


def test_a_script_can_misbehave(peaka_sandbox: PeakaSandbox, peaka_script: PeakaScript) -> None:
    """A word that no document names, an execution that is gone once it has ended, one that takes its time."""
    peaka_script(
        ORDERS,
        [ScriptedExecution(status="PAUSED"), ScriptedExecution(vanish=True), ScriptedExecution(seconds=3600)],
    )
    sync(peaka_sandbox)
    sync(peaka_sandbox)
    peaka_sandbox.start_execution(ORDERS)
    with pytest.raises(TimeoutError):
        peaka_sandbox.wait_idle(0.05)

    _, paused, _, slow = peaka_sandbox.executions(ORDERS)
    shown = [(each["id"], each["status"]) for each in Api(peaka_sandbox).history(ORDERS)]
    assert shown[:2] == [(slow.id, "RUNNING"), (paused.id, "PAUSED")]


def test_the_environment_leads_to_the_sandbox_of_a_test(peaka_sandbox: PeakaSandbox) -> None:
    """What a project reads its connection from names the sandbox, which is empty."""
    assert os.environ["PEAKA_API_KEY"] == peaka_sandbox.api_key
    assert os.environ["PEAKA_PROJECT_ID"] == peaka_sandbox.project_id
    assert os.environ["PEAKA_BASE_URL"] == peaka_sandbox.base_url
    assert peaka_sandbox.caches == {}
