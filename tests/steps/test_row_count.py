"""Where `dagster/row_count` comes from: a count through Peaka's SQL, or nowhere."""

import logging
from typing import Any

import dagster as dg
import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.fleets import fleet, recorded
from tests.materializing import failure_of, peaka_for, run_of, sqlite_tables

TABLE = "ops.public.t"
ROWS = {"t": 3, "u": 2}
QUERY = "executeQuery"


def rows_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The row count of each materialization of a run, None where it has none."""
    return {
        each.asset_key.to_user_string(): each.metadata["dagster/row_count"].value
        if "dagster/row_count" in each.metadata
        else None
        for each in result.asset_materializations_for_node("fleet")
    }


def queries(sandbox: PeakaSandbox) -> int:
    """How many statements were sent to Peaka's SQL."""
    return sum(request.operation == QUERY for request in sandbox.requests)


def run_with(
    sandbox: PeakaSandbox, *tables: str, **metadata: str
) -> tuple[dg.ExecuteInProcessResult, list[str]]:
    """A run of one step for some tables of `ops.public`, and the warnings in its log."""
    assets = fleet({table: {"peaka/table": f"ops.public.{table}", **metadata} for table in tables})
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_of(assets, peaka_for(sandbox), instance=instance)
        warnings = [
            entry.user_message
            for entry in instance.all_logs(result.run_id)
            if entry.dagster_event is None and int(entry.level) == logging.WARNING
        ]
    return result, warnings


@pytest.mark.parametrize("mode", ["incremental", "full_refresh"])
@pytest.mark.parametrize(
    ("row_count", "rows", "statements"), [(None, None, 0), ("query", 3, 1), ("off", None, 0)]
)
def test_the_row_count_is_counted_or_not_there(
    sandbox: PeakaSandbox, mode: str, row_count: str | None, rows: int | None, statements: int
) -> None:
    """A query asks once; no figure of Peaka's status is a total, also after a full refresh."""
    choice = {} if row_count is None else {"peaka/row_count": row_count}

    result, warnings = run_with(sandbox, "t", **{"peaka/mode": mode}, **choice)

    assert rows_of(result) == {"t": rows}
    assert queries(sandbox) == statements
    assert warnings == []


@pytest.mark.parametrize("named", [True, False])
def test_rows_are_counted_of_a_cache_that_is_known_by_id(sandbox: PeakaSandbox, named: bool) -> None:
    """The table's name is taken from the definition, or else Peaka is asked for it."""
    assets = fleet(
        {
            table: {
                "peaka/cache_id": sandbox.caches[f"ops.public.{table}"],
                "peaka/row_count": "query",
                **({"dagster/table_name": f"ops.public.{table}"} if named else {}),
            }
            for table in ROWS
        }
    )

    assert rows_of(run_of(assets, peaka_for(sandbox))) == ROWS
    assert sum(request.operation == "listCatalogs" for request in sandbox.requests) == (0 if named else 1)


def test_a_table_of_any_name_can_be_counted(tmp_path: Any) -> None:
    """Names are quoted, and quotes in them doubled."""
    source = sqlite_tables(tmp_path / "odd.db", ['the ""t"" of 2024.'])
    with PeakaSandbox({"odd name": {"öffentlich": source}}, caches=["odd name.*.*"]) as odd:
        odd.wait_idle()
        name = 'odd name.öffentlich."the ""t"" of 2024."'
        assets = fleet({"odd": {"peaka/table": name, "peaka/row_count": "query"}})

        assert rows_of(run_of(assets, peaka_for(odd))) == {"odd": 3}


@pytest.mark.parametrize(
    "body",
    [
        {"columns": ["n"], "data": []},
        {"columns": ["peaka_rows"], "data": [{"peaka_rows": "many"}]},
        {"columns": ["peaka_rows"], "data": [{"peaka_rows": -1}]},
        {"columns": ["peaka_rows"], "data": [{"peaka_rows": None}]},
        {"columns": ["peaka_rows"], "data": [{"peaka_rows": 1}, {"peaka_rows": 2}]},
        {"no": "rows"},
    ],
)
def test_an_odd_answer_is_a_warning_and_no_failure(sandbox: PeakaSandbox, body: dict[str, Any]) -> None:
    """The sync is recorded without a row count, and one warning names the cache."""
    sandbox.fault(QUERY, times=None, status=200, body=body)

    result, warnings = run_with(sandbox, "t", **{"peaka/row_count": "query"})

    assert result.success
    assert rows_of(result) == {"t": None}
    (warning,) = warnings
    assert warning.startswith(
        f"{TABLE} ({sandbox.caches[TABLE]}): synced, but its rows could not be counted. "
    )


def test_a_count_that_takes_too_long_is_given_up(
    sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The materialization is not kept waiting for longer than PATIENCE."""
    monkeypatch.setattr("dagster_peaka.steps.row_counts.Measurer.__init__.__defaults__", (1.0,))
    sandbox.fault(QUERY, times=None, status=None, delay=60.0)

    result, (warning,) = run_with(sandbox, "t", **{"peaka/row_count": "query"})

    assert rows_of(result) == {"t": None}
    assert "Peaka has not answered in the time that there was." in warning


def test_an_outage_of_the_sql_is_met_twice_and_not_once_a_cache(tmp_path: Any) -> None:
    """After two failures in a row nothing is counted any more, and the second warning says so."""
    names = [f"t{number}" for number in range(5)]
    source = sqlite_tables(tmp_path / "many.db", names)
    with PeakaSandbox({"ops": {"public": source}}, caches=["ops.public.*"]) as many:
        many.wait_idle()
        many.clear_requests()
        many.fault(QUERY, times=None, status=503)

        result, warnings = run_with(many, *names, **{"peaka/row_count": "query"})

        assert sorted(recorded(result)) == names
        assert queries(many) == 2
    assert len(warnings) == 2
    assert "No more tables are asked in this step." not in warnings[0]
    assert warnings[1].endswith("No more tables are asked in this step.")


def test_one_failure_does_not_stop_the_counting(sandbox: PeakaSandbox) -> None:
    """The next cache of the step is counted all the same."""
    sandbox.fault(QUERY, times=1, status=500)

    result, warnings = run_with(sandbox, "t", "u", **{"peaka/row_count": "query"})

    (missing,) = [table for table, rows in rows_of(result).items() if rows is None]
    assert {**rows_of(result), missing: ROWS[missing]} == ROWS
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"peaka/row_count": "sometimes"},
            "Asset t: row_count must be one of 'off', 'query', not 'sometimes'.",
        ),
        (
            {"peaka/row_count": "full_refresh"},
            (
                "Asset t: row_count='full_refresh' is gone, because Peaka's figure after a full refresh is no total of "
                "rows: write row_count='query', which asks Peaka's SQL, or leave it out."
            ),
        ),
        ({"peaka/row_count": 5}, "Asset t: metadata 'peaka/row_count' must be a string, not 5."),
        ({"peaka/wait": "no"}, "Asset t: metadata 'peaka/wait' must be True or False, not 'no'."),
        (
            {"peaka/mode": "full"},
            "Asset t: mode must be 'incremental' or 'full_refresh', not 'full'.",
        ),
    ],
)
def test_metadata_that_makes_no_sense_names_the_asset_and_the_value(
    sandbox: PeakaSandbox, metadata: dict[str, Any], message: str
) -> None:
    """A mistake in one asset's metadata fails that asset, in words that show it, and no other of its step."""
    assets = fleet({"t": {"peaka/table": TABLE, **metadata}, "u": {"peaka/table": "ops.public.u"}})

    result = run_of(assets, peaka_for(sandbox))

    assert failure_of(result).description == message
    assert recorded(result) == ["u"]
