"""What is known of each reading, what the raw answers tell, and what a report holds."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from dagster_peaka.api.models import CacheExecution
from dagster_peaka.doctor import shapes
from dagster_peaka.doctor.readings import KNOWN, LEVELS, take
from dagster_peaka.sandbox import Behaviour, PeakaSandbox
from dagster_peaka.sandbox.behaviour import PROFILES
from tests.doctor.conftest import Doctor

TABLE = "ops.public.t"


def test_what_is_known_of_the_two_peakas_is_what_the_sandbox_plays() -> None:
    """A reading that is named like a switch has its values, in each profile where that says anything of it."""
    switches = {field.name for field in fields(Behaviour)} & set(KNOWN)
    assert len(switches) > 20
    for name in switches:
        known = KNOWN[name]
        if known.document is not None:
            assert known.document == PROFILES["documented"][name], name
        if known.observed is not None:
            assert known.observed == PROFILES["observed"][name], name
        different = PROFILES["documented"][name] != PROFILES["observed"][name]
        assert not different or None not in (known.document, known.observed), name


@pytest.mark.parametrize("name", KNOWN)
def test_a_problem_says_what_to_do(name: str) -> None:
    """By a setting, unless Peaka's own words or the setting's error follow."""
    for value, (level, meaning, setting) in KNOWN[name].says.items():
        assert level in LEVELS
        if level == "problem" and value not in ("not possible", "refused", "*"):
            assert setting.endswith((".", ")")), (value, setting)
        assert not meaning or meaning.endswith("."), (value, meaning)


def execution(number: int, **fields: Any) -> dict[str, Any]:
    """An execution as Peaka sends it."""
    counts = fields.pop("counts", {})
    progress = {f"numberOf{name.title()}Records": rows for name, rows in counts.items()}
    usual = {"id": str(number), "status": "COMPLETED", "executionMode": "INCREMENTAL", "progress": progress}
    return {**usual, "createdAt": f"2026-07-01T00:00:{number:02}.5Z", **fields}


def told(*executions: dict[str, Any]) -> dict[str, Any]:
    """What the answers with these executions tell."""
    return {reading.name: reading.value for reading in shapes.of_answers([], [], [list(executions)])}


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"status": "completed"}, "status_case", "lower"),
        ({"status": "Completed"}, "status_case", "title"),
        ({"status": "coMpleted"}, "status_case", "mixed"),
        ({"status": "TIMED_OUT"}, "status_words", ["TIMED_OUT"]),
        ({"status": "PENDING"}, "queued_status", "PENDING"),
        ({"executionMode": "full-refresh"}, "mode_spelling", "kebab"),
        ({"executionMode": "incremental"}, "mode_spelling", "lower"),
        ({"executionMode": "Delta"}, "mode_spelling", "Delta"),
        ({"executionMode": None}, "mode_spelling", "absent"),
        ({"createdAt": "2026-07-01T02:00:00+02:00"}, "timestamps", "offset"),
        ({"createdAt": "2026-07-01T00:00:00Z"}, "timestamps", "no_fraction"),
        ({"createdAt": "2026-07-01T00:00:00"}, "timestamps", "without a zone"),
        ({"createdAt": 1782864000}, "timestamps", "a number"),
        ({"createdAt": None}, "timestamps", "null"),
        ({"status": "FAILED", "error": "no"}, "error_shape", "string"),
        ({"status": "FAILED", "error": {}}, "error_shape", "object"),
        ({"status": "FAILED"}, "error_shape", "null"),
        ({"owner": "somebody"}, "extra_fields", True),
    ],
)
def test_what_an_execution_tells(fields: dict[str, Any], name: str, value: Any) -> None:
    """Its spellings and types, in the words of the sandbox's switches; also those that no switch has."""
    assert told(execution(1, **fields))[name] == value


@pytest.mark.parametrize(
    ("numbers", "pair", "second", "order", "pages"),
    [
        ([3, 2, 1], [3, 2], [2], "newest first", "as asked"),
        ([1, 2, 3], [1, 2], [2], "oldest first", "as asked"),
        ([3, 1, 2], [3, 1], [1], "mixed", "as asked"),
        ([3, 2, 1], [3], [2], "newest first", "short"),
        ([3, 2, 1], [3, 2], [3], "newest first", "otherwise"),
        ([3, 2, 1], [3, 2, 1], [2], "newest first", "otherwise"),
    ],
)
def test_how_a_history_orders_and_pages(
    numbers: list[int], pair: list[int], second: list[int], order: str, pages: str
) -> None:
    """By the dates of its executions, and by two more pages of it."""
    full, two, one = ([execution(number) for number in page] for page in (numbers, pair, second))
    found = {reading.name: reading.value for reading in shapes.of_history(full, two, one, {"3"})}
    assert (found["history_order"], found["history_pages"]) == (order, pages)


def test_a_history_that_lags_behind_the_status_is_told() -> None:
    """The status shows an execution that the history does not hold."""
    (lags, *_) = shapes.of_history([execution(1)], [execution(1)], [], {"2"})
    assert (lags.name, lags.value, lags.level) == ("history_current", False, "warning")


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        (
            {"cached": 2, "inserted": 0, "updated": 2, "deleted": 0},
            {"cached_records": "reported", "updated_records": "inflated"},
        ),
        (
            {"cached": 9, "inserted": 0, "updated": 0, "deleted": 0},
            {"cached_records": "total", "updated_records": "exact"},
        ),
        (
            {"cached": 3, "inserted": 1, "updated": 1, "deleted": 1},
            {"cached_records": "handled", "updated_records": "exact", "deleted_records": "exact"},
        ),
        ({}, {}),
    ],
)
def test_what_counters_tell(counts: dict[str, int], told: dict[str, str]) -> None:
    """Of all executions but the oldest, which may be the first sync."""
    history = [CacheExecution.model_validate(execution(number, counts=counts)) for number in (2, 1)]
    assert {reading.name: reading.value for reading in shapes.of_counters([history])} == told


def test_a_new_reading_is_worth_knowing() -> None:
    """It is neither the document's nor an observed one, and a note at least."""
    reading = take("timestamps", "a number")
    assert (reading.whose, reading.level) == ("new", "note")


def test_a_report_holds_no_name_and_no_id(doctor: Doctor) -> None:
    """Of project, catalogs, schemas, tables, caches, hosts; the same name is the same everywhere."""
    private = ["acme-project", "Acme Inc", "warehouse", "confidential", "salaries"]
    with PeakaSandbox({}, project_id=private[0], project_name=private[1]) as peaka:
        source = peaka.database(f"{private[2]}.{private[3]}")
        source.execute("CREATE TABLE salaries (id INTEGER PRIMARY KEY, confidential TEXT)")
        cache = peaka.create_cache("warehouse.confidential.salaries", "PT6H")
        peaka.wait_idle()
        peaka.plan(
            "warehouse.confidential.salaries", fail=f"cannot read 'ceo' of {cache}, ask ann@acme.example"
        )

        ran = doctor(
            peaka, "warehouse.confidential.missing", "--sync", "warehouse.confidential.salaries", "--yes"
        )

    catalogs = [
        each["about"] for each in json.loads(ran.report)["readings"] if each["name"] in ("table", "sync")
    ]
    assert catalogs[1] == catalogs[2] == ["table-2"]
    for text in [*private, cache, "127.0.0.1", "ceo", "acme", "missing.", peaka.api_key]:
        assert text.lower() not in ran.report.lower(), text
    assert "cannot read" in ran.report


def test_what_is_in_a_report_is_shown(sandbox: PeakaSandbox, doctor: Doctor) -> None:
    """Before it is sent anywhere: word for word."""
    ran = doctor(sandbox)
    assert "The key is not in it" in ran.out
    assert ran.report.strip() in ran.out


def test_a_report_that_cannot_be_written_is_told(
    sandbox: PeakaSandbox, doctor: Doctor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its place, and as an option that is wrong."""
    from dagster_peaka.doctor.command import main

    doctor(sandbox)
    options = ["--base-url", sandbox.base_url, "--report", str(tmp_path / "no" / "folder")]
    assert main(options) == 2
    assert "cannot be written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "value", "code"),
    [
        ("ops.public.t", "cached", 0),
        ("ops.public.fresh", "can be cached", 1),
        ("ops.public.words", "cannot be cached", 1),
        ("ops.public.nothing", "missing", 1),
        ("nowhere.public.t", "missing", 1),
    ],
)
def test_a_table(sandbox: PeakaSandbox, doctor: Doctor, table: str, value: str, code: int) -> None:
    """Whether it is there, is cached, can be cached."""
    source = sandbox.database("ops.public")
    source.execute("CREATE TABLE fresh (id INTEGER PRIMARY KEY)")
    source.execute("CREATE VIRTUAL TABLE words USING fts5(word)")

    ran = doctor(sandbox, table)

    assert (ran.readings["table"], ran.code) == (value, code)


@pytest.mark.parametrize(("rows", "capped"), [(150, True), (100, True), (99, None)])
def test_an_uncached_table_of_100_rows_is_named(
    sandbox: PeakaSandbox, doctor: Doctor, rows: int, capped: bool | None
) -> None:
    """It is what a table behind a paged API was seen to answer, without a word."""
    sandbox.behaviour.capped_reads = True
    source = sandbox.database("ops.public")
    source.execute("CREATE TABLE paged (id INTEGER PRIMARY KEY)")
    source.executemany("INSERT INTO paged VALUES (?)", [(number,) for number in range(rows)])

    assert doctor(sandbox, "ops.public.paged").readings.get("capped_reads") == capped


def test_a_job_that_nobody_has_picked_up_for_long_is_named(sandbox: PeakaSandbox, doctor: Doctor) -> None:
    """It looks healthy, and only the time tells."""
    sandbox.plan(TABLE, never_picked_up=True)
    sandbox.start_execution(TABLE)
    assert "stuck" not in doctor(sandbox).readings

    shown = {"id": "e", "status": "RUNNING", "progress": None, "error": None}
    shown |= dict.fromkeys(("createdAt", "updatedAt"), "2026-01-01T00:00:00.000Z")
    status = {"id": sandbox.caches[TABLE], "status": "RUNNING", "lastIncrementalCacheExecution": shown}
    sandbox.fault("getCacheStatusByProject", times=None, status=200, body=[status])
    ran = doctor(sandbox)

    assert ran.readings["stuck"] == 1
    assert "stuck_timeout" in ran.first


def test_schedules_beside_dagster_are_named(sandbox: PeakaSandbox, doctor: Doctor) -> None:
    """With the caches, and what records such syncs."""
    sandbox.database("ops.public").execute("CREATE TABLE timed (id INTEGER PRIMARY KEY)")
    sandbox.create_cache("ops.public.timed", "PT6H")
    sandbox.wait_idle()

    ran = doctor(sandbox)

    assert ran.readings["schedules"] == 1
    assert "ops.public.timed" in ran.out
    assert "build_peaka_polling_sensor" in ran.out
