"""The example and a fleet under `dagster dev`: what the daemon does by itself, and what the UI shows in a browser.

One file, so that `dagster dev` starts once. Each test has tables of its own, and can run alone.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, expect

from dagster_peaka.sandbox import RequestRecord
from flights.database import TABLES
from tests.e2e.serving import THRICE, Served
from tests.graphql import GraphQL, Materialization, Tick, until

# The first test waits for Dagster to start, and each waits for processes that others start.
pytestmark = pytest.mark.timeout(900)

FLIGHTS_OF_THE_FIRST_DAY = 842
AN_AIRPORT = "('ZZZ', 'Nowhere', 0.0, 0.0, 0, 0, 'N', NULL)"


def graph_of(selection: str) -> str:
    """The path of the asset graph of a selection."""
    return f"/asset-groups~{quote(selection, safe='')}"


# The daemon


def test_rows_that_land_reach_the_report_by_themselves(
    dagster_dev: Served, page: Page, pictures: Path
) -> None:
    """After a landing by the button, the UI shows what followed: a tick, its run, one trigger's result, the report."""
    ui, sandbox = dagster_dev.example, dagster_dev.sandbox
    assert sandbox.profile == "observed"
    for sensor in ("new_report", "after_landing"):
        switch_on(page, ui.url, sensor)
    assert "Nothing new" in (ui.ticks("after_landing")[-1].skip_reason or "")
    before = sandbox.requests[-1].number

    page.goto(f"{ui.url}/assets/operational/flights")
    page.get_by_role("button", name="Materialize").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox").fill("2013-01-01")
    dialog.get_by_role("textbox").press("Enter")
    dialog.get_by_role("button", name="Launch 1 run").click()
    landed = launched(page, ui)
    page.goto(f"{ui.url}/runs/{landed}")
    expect(page.get_by_text("Success", exact=True)).to_be_visible()

    leave(page)
    until(lambda: requested(ui.ticks("after_landing")), what="request of a sync")
    page.goto(f"{ui.url}/locations/flights/sensors/after_landing")
    page.get_by_role("button", name="All ticks").click()
    page.get_by_role("menuitem", name="Requested").click()
    tick = page.get_by_role("row").filter(has=page.get_by_role("button", name="View logs"))
    expect(tick).to_have_count(1)
    expect(tick).to_contain_text("1 run requested")
    page.get_by_role("button", name="Requested arrow_drop_down").click()
    page.get_by_role("menuitem", name="All ticks").click()
    page.set_viewport_size({"width": 1320, "height": 1140})  # for the picture: with ticks that found nothing
    expect(tick.filter(has_text="1 run requested")).to_have_count(1)
    expect(tick.filter(has_text="0 runs requested").nth(1)).to_be_visible()
    take(page, pictures / "upstream-sensor.png", height=1140)
    page.set_viewport_size({"width": 1320, "height": 900})
    leave(page)

    # The page stays on the event that it has found when it was opened.
    (requested_run,) = requested(ui.ticks("after_landing"))
    assert ui.ended(requested_run).status == "SUCCESS"
    page.goto(f"{ui.url}/assets/ops/public/flights?view=events")
    expect(row(page, "peaka/rows_inserted")).to_contain_text(str(FLIGHTS_OF_THE_FIRST_DAY))
    synced = materialized_in(page)
    (trigger,) = triggers(dagster_dev, "ops.public.flights", after=before)
    (execution,) = [e for e in sandbox.executions("ops.public.flights") if e.request_number == trigger.number]
    for key, value in {
        "peaka/cache_id": sandbox.caches["ops.public.flights"],
        "peaka/execution_id": execution.id,
        "peaka/mode": "incremental",
        "peaka/origin": "triggered",
        "peaka/rows_updated": "2",  # though none was: so Peaka was seen to count
        "peaka/rows_deleted": "0",
        "peaka/rows_processed": str(FLIGHTS_OF_THE_FIRST_DAY + 2),
        "dagster/table_name": "ops.public.flights",
        "dagster/row_count": str(FLIGHTS_OF_THE_FIRST_DAY),
    }.items():
        expect(row(page, key)).to_contain_text(value)
    take(page, pictures / "cache-asset.png", height=868)
    run = ui.run(synced)
    assert (run.status, run.assets) == ("SUCCESS", [["ops", "public", "flights"]])

    leave(page)
    report_run, query_run = until(lambda: query_and_report(ui), what="request of the query and the report")
    assert ui.ended(report_run).status == "SUCCESS"
    page.goto(f"{ui.url}/assets/punctuality?view=events")
    expect(row(page, "flights")).to_contain_text(str(FLIGHTS_OF_THE_FIRST_DAY))
    reported = materialized_in(page)
    row(page, "report").get_by_text("[Show Markdown]").click()
    expect(page.get_by_role("dialog").get_by_role("row", name="United Air Lines")).to_be_visible()

    leave(page)
    for sensor, requests in {"after_landing": [synced], "new_report": [reported, query_run]}.items():
        ui.wait_for_ticks(sensor)
        assert requested(ui.ticks(sensor)) == requests
    assert triggers(dagster_dev, "ops.public.flights", after=before) == [trigger]


def test_the_asset_graph_leads_from_landings_to_the_report(
    dagster_dev: Served, page: Page, pictures: Path
) -> None:
    """The graph has a node for each table, for its cache and for the report, in their three groups.

    Before a test lets a sync fail: the picture shows how it should be.
    """
    page.set_viewport_size({"width": 2300, "height": 1440})  # for the picture: nodes as large as they get
    page.goto(dagster_dev.example.url + graph_of('code_location:"flights"'))
    for _ in ("operational", "peaka", "reports"):
        page.get_by_role("img", name="unfold_more").first.click()
        expect(page.get_by_role("img", name="unfold_less").first).to_be_visible()
        page.reload()  # which fits all of it into the window: what is outside of that is not there
    expect(page.get_by_role("img", name="unfold_less")).to_have_count(3)
    for table in TABLES:
        expect(page.get_by_text(table, exact=True)).to_have_count(2)
    expect(page.get_by_text("punctuality", exact=True)).to_have_count(2)  # the query, and the report
    expect(page.get_by_text("Loading...")).to_have_count(0)
    expect(page.get_by_text("Latest event")).to_have_count(2 * len(TABLES) + 2)
    page.screenshot(
        path=pictures / "asset-graph.png", clip={"x": 590, "y": 120, "width": 1660, "height": 1240}
    )


def test_the_report_is_made_once_for_a_changed_row_and_not_for_a_sync_without_any(
    dagster_dev: Served,
) -> None:
    """By data versions, which are fingerprints: Peaka's counters are the same after both syncs."""
    ui = dagster_dev.example
    ui.switch_on("new_report")
    before = requested(ui.ticks("new_report"))

    assert sync_airlines(ui).metadata["peaka/rows_updated"] == 2
    ui.wait_for_ticks("new_report")
    assert requested(ui.ticks("new_report")) == before

    assert dagster_dev.change("ops", "UPDATE airlines SET name = 'American' WHERE carrier = 'AA'") == 1
    assert sync_airlines(ui).metadata["peaka/rows_updated"] == 2
    ui.wait_for_ticks("new_report")
    runs = until(lambda: query_and_report(ui, before), what="request of the query and the report")
    assert [ui.ended(run).assets for run in runs] == [
        [["punctuality"]],
        [["peaka", "mtquery", "punctuality"]],
    ]
    ui.wait_for_ticks("new_report")
    assert requested(ui.ticks("new_report")) == [*runs, *before]


def test_what_somebody_else_syncs_shows_up(dagster_dev: Served, page: Page, pictures: Path) -> None:
    """A stranger's execution becomes a materialization without a run, and one that fails a failed check."""
    ui, sandbox = dagster_dev.example, dagster_dev.sandbox
    ui.switch_on("synced_elsewhere")
    before = len(ui.materializations("ops", "public", "airports"))
    inserted = dagster_dev.change("ops", f"INSERT INTO airports VALUES {AN_AIRPORT}")
    synced = sandbox.start_execution("ops.public.airports")
    sandbox.plan("ops.public.weather", fail="the disk is full")
    sandbox.start_execution("ops.public.weather")

    def seen() -> list[Materialization] | None:
        found = ui.materializations("ops", "public", "airports")
        return found if len(found) > before else None

    newest, *others = until(seen, what="materialization of a stranger's execution")
    assert len(others) == before
    assert (newest.run_id, newest.metadata["peaka/execution_id"]) == (None, synced)
    assert (newest.metadata["peaka/origin"], newest.metadata["peaka/rows_inserted"]) == ("external", inserted)

    page.goto(f"{ui.url}/assets/ops/public/weather?view=checks&checkDetail=last_sync_succeeded")
    expect(page.get_by_text("has ended as FAILED. Peaka says: the disk is full.")).to_be_visible()
    # In the list of checks, and beside the result.
    expect(page.get_by_text("Failed", exact=True)).to_have_count(2)
    expect(row(page, "peaka/execution_id")).to_be_visible()
    take(page, pictures / "failed-check.png", height=650)


def sync_airlines(ui: GraphQL) -> Materialization:
    """What the airlines' cache shows after a run that synced it."""
    run = ui.launch(["ops", "public", "airlines"])
    assert ui.ended(run).status == "SUCCESS"
    newest = ui.materializations("ops", "public", "airlines")[0]
    assert newest.run_id == run
    return newest


def triggers(dagster_dev: Served, cache: str, *, after: int) -> list[RequestRecord]:
    """The requests after one of that number that asked for an incremental update of a cache."""
    cache_id = dagster_dev.sandbox.caches[cache]
    return [
        request
        for request in dagster_dev.sandbox.requests
        if request.number > after
        and request.operation == "incrementalUpdateCache"
        and cache_id in request.path
    ]


def query_and_report(ui: GraphQL, before: Sequence[str] = ()) -> list[str] | None:
    """The runs of the report and of its query, the newer first, when both are requested; without those before."""
    runs = requested(ui.ticks("new_report"))
    return runs[:2] if len(runs) == len(before) + 2 else None


def requested(ticks: list[Tick]) -> list[str]:
    """The runs that ticks requested."""
    return [run_id for tick in ticks for run_id in tick.run_ids]


# The browser


def test_a_cache_materialized_by_the_button_shows_what_its_execution_did(
    dagster_dev: Served, page: Page
) -> None:
    """Materialize starts a sync; the materialization that it leads to shows what Peaka reports of it."""
    updated = dagster_dev.change("ops", "UPDATE planes SET seats = seats + 1 WHERE year = 2004")
    deleted = dagster_dev.change("ops", "DELETE FROM planes WHERE manufacturer = 'CESSNA'")
    assert (updated, deleted) == (192, 9)  # which Peaka was seen to report as one more, and as none
    page.goto(dagster_dev.example.url + "/assets/ops/public/planes")
    page.get_by_role("button", name="Materialize").click()
    run = launched(page, dagster_dev.example)
    page.goto(f"{dagster_dev.example.url}/runs/{run}")
    expect(page.get_by_text("Success", exact=True)).to_be_visible()

    page.goto(dagster_dev.example.url + "/assets/ops/public/planes?view=events")
    expect(page.get_by_role("link", name=run[:8])).to_be_visible()
    (execution,) = [e for e in dagster_dev.sandbox.executions("ops.public.planes") if e.updated]
    for key, value in {
        "peaka/execution_id": execution.id,
        "peaka/mode": "incremental",
        "peaka/rows_inserted": "0",
        "peaka/rows_updated": str(updated + 1),
        "peaka/rows_deleted": "0",
        "dagster/table_name": "ops.public.planes",
    }.items():
        expect(row(page, key)).to_contain_text(value)


def test_the_page_of_the_resource_says_what_it_is(dagster_dev: Served, page: Page, pictures: Path) -> None:
    """Its class and its description, although the key is a variable, whose name is shown."""
    page.goto(dagster_dev.example.url + "/locations/flights/resources/peaka")
    expect(page.get_by_text("PeakaResource", exact=True)).to_be_visible()
    expect(page.get_by_text("A connection to one project of Peaka.")).to_be_visible()
    expect(page.get_by_text("PEAKA_API_KEY", exact=True)).to_have_count(1)


def test_the_launchpad_offers_the_mode(dagster_dev: Served, page: Page, pictures: Path) -> None:
    """The launchpad completes and explains `mode`; a run with `mode: full_refresh` rebuilds the cache."""
    page.goto(dagster_dev.example.url + "/assets/ops/public/airports")
    page.get_by_role("button", name="Materialize").click(modifiers=["Shift"])
    launchpad = page.get_by_role("dialog")
    expect(launchpad).to_contain_text("PEAKA_API_KEY")  # the defaults are in the editor
    launchpad.get_by_role("textbox").last.focus()
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.insert_text("ops:\n  ops__public__airports:\n    config:\n      ")
    page.keyboard.press("Control+Space")
    mode = page.get_by_role("option", name=re.compile("^mode "))
    expect(mode).to_contain_text("'incremental' or 'full_refresh', for this run")
    expect(launchpad).to_contain_text("must not be None")  # what was typed has been read
    launchpad.screenshot(path=pictures / "launchpad.png")

    mode.click()
    expect(launchpad).to_contain_text("No errors")
    # The button launches what was read last, and without its value the mode is no error: this one has to be seen.
    page.keyboard.insert_text("full_refresh\n      wait: 7")
    expect(launchpad).not_to_contain_text("No errors")
    page.keyboard.press("Backspace")
    page.keyboard.insert_text("true")
    expect(launchpad).to_contain_text("No errors")
    launchpad.get_by_role("button", name="Materialize").click()
    executions = dagster_dev.sandbox.executions

    def refreshed() -> bool:
        newest = executions("ops.public.airports")[-1]
        return (newest.mode, newest.status) == ("FULL_REFRESH", "COMPLETED")

    until(refreshed, what="full refresh")
    expect(page.get_by_text("Success", exact=True)).to_be_visible()


def test_a_cache_of_the_fleet_shows_its_table_and_what_its_syncs_did_over_time(
    dagster_dev: Served, page: Page, pictures: Path
) -> None:
    """After three syncs, the page has the table's name and columns, and plots of rows inserted, updated, deleted."""
    page.set_viewport_size({"width": 1320, "height": 1640})  # for the picture of all of it
    page.goto(dagster_dev.example.url + "/assets/" + THRICE.replace(".", "/"))
    expect(page.get_by_text(THRICE).first).to_be_visible()
    for column, kind in (("id", "bigint"), ("item", "varchar"), ("price", "double")):
        expect(row(page, column)).to_contain_text(kind)
    page.get_by_role("button", name="Plots").click()
    for what in ("inserted", "updated", "deleted"):
        expect(page.get_by_text(f"peaka/rows_{what}", exact=True)).to_be_visible()
    take(page, pictures / "columns-and-plots.png", height=1570)


def test_a_query_shows_its_columns_and_stands_behind_its_caches(
    dagster_dev: Served, page: Page, pictures: Path
) -> None:
    """After a run by the button: the snapshot's columns, and its place in the graph.

    Of which columns they are made, only Dagster+ draws.
    """
    url = dagster_dev.fleet.url + "/assets/peaka/mtquery/dearest"
    page.goto(url)
    page.get_by_role("button", name="Materialize").click()
    page.get_by_role("button", name="Confirm").click()  # one of its caches was not synced yet
    run = launched(page, dagster_dev.fleet)
    page.goto(f"{dagster_dev.fleet.url}/runs/{run}")
    expect(page.get_by_text("Success", exact=True)).to_be_visible()

    page.goto(url)
    for column in ("item", "in_oslo", "in_rome", "dearer"):
        expect(row(page, column)).to_be_visible()
    page.goto(f"{url}?view=lineage")
    for table in ("shop_oslo", "shop_rome"):
        expect(page.get_by_text(table).first).to_be_visible()
    expect(page.get_by_text("Loading...")).to_have_count(0)
    take(page, pictures / "query-lineage.png", height=900)


def test_a_failed_run_says_which_caches_failed_and_why(
    dagster_dev: Served, page: Page, pictures: Path
) -> None:
    """Of twelve caches in one step, two fail: the run's page names them with Peaka's reason and what to do."""
    failing = [f"shop_berlin.public.orders_2010_{month}" for month in ("02", "07")]
    for cache in failing:
        dagster_dev.sandbox.plan(cache, fail="the disk is full")
    page.goto(dagster_dev.example.url + graph_of('key:"shop_berlin/public/orders_2010_*"'))
    page.get_by_role("button", name="Materialize all").click()
    run = launched(page, dagster_dev.fleet)
    page.goto(f"{dagster_dev.example.url}/runs/{run}")
    expect(page.get_by_text("Failure", exact=True)).to_be_visible()
    error = page.get_by_text("2 caches failed").last
    expect(error).to_be_visible()
    for cache in failing:
        expect(error).to_contain_text(f"Peaka cache {cache} (")
    expect(error).to_contain_text("FAILED. Peaka says: the disk is full.")
    expect(error).to_contain_text("Look at the cache and its source in Peaka, then materialize again.")
    take(page, pictures / "failed-run.png", height=832)
    materialized = [
        month
        for month in range(1, 13)
        if dagster_dev.fleet.materializations("shop_berlin", "public", f"orders_2010_{month:02}")
    ]
    assert materialized == [1, 3, 4, 5, 6, 8, 9, 10, 11, 12]


def switch_on(page: Page, url: str, sensor: str) -> None:
    """Switch a sensor on by the switch on its page, and wait until that shows a first tick."""
    page.goto(f"{url}/locations/flights/sensors/{sensor}")
    switch = page.get_by_role("row", name="Running")
    expect(switch).to_be_visible()
    if not switch.get_by_role("checkbox").is_checked():
        switch.locator("label").click()
    expect(page.get_by_role("row", name="Latest tick")).to_contain_text("requested")


def materialized_in(page: Page) -> str:
    """The run that an asset's page of events names for the newest materialization."""
    path = (
        page.get_by_text("Materialized in run").locator("xpath=..").get_by_role("link").get_attribute("href")
    )
    assert path
    return path.removeprefix("/runs/").partition("?")[0]


def leave(page: Page) -> None:
    """Show nothing while something else is waited for: a page of Dagster's that shows what goes on takes much CPU."""
    page.goto("about:blank")


def launched(page: Page, ui: GraphQL) -> str:
    """The id of the run that the UI says it has launched, when that has ended."""
    link = page.get_by_role("listitem").filter(has_text="Launched run").get_by_role("link", name="View")
    path = link.get_attribute("href")
    assert path
    leave(page)
    run = path.removeprefix("/runs/")
    ui.ended(run)
    return run


def row(page: Page, first: str) -> Locator:
    """The row of a table whose first cell reads so."""
    return page.get_by_role("row").filter(has=page.get_by_role("cell", name=first, exact=True)).first


def take(page: Page, picture: Path, *, height: int) -> None:
    """Keep a picture for the documentation: what the page shows beside Dagster's navigation."""
    page.screenshot(path=picture, clip={"x": 240, "y": 0, "width": 1080, "height": height})
