"""Queries: their values, what they see, how they are sent."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest

from dagster_peaka import (
    PeakaApiError,
    PeakaClient,
    PeakaServerError,
    build_peaka_cache_asset,
    build_peaka_cache_checks,
)
from dagster_peaka.sandbox import PeakaSandbox
from tests.graphql import until
from tests.materializing import acting_when, peaka_for, run_of, triggers
from tests.observed.conftest import TABLE, asked
from tests.raw_server import RawServer, reply


def test_values_have_the_types_of_their_columns(client: PeakaClient) -> None:
    """Whether Peaka sends JSON's types or every value as a string."""
    statement = """
        SELECT id, v, 1.5E0 * id AS half, CAST(id AS decimal(10, 2)) AS money, id > 1 AS big,
               DATE '2026-07-01' AS day, TIMESTAMP '2026-07-01 10:00:00.5' AS at, CAST(NULL AS bigint) AS nothing
        FROM "ops"."public"."t" WHERE id = 2
    """
    result = client.execute_query(statement)

    assert result.rows == [
        {
            "id": 2,
            "v": "b",
            "half": 3.0,
            "money": Decimal("2.00"),
            "big": True,
            "day": date(2026, 7, 1),
            "at": datetime(2026, 7, 1, 10, 0, 0, 500_000),  # noqa: DTZ001 - a timestamp without a zone
            "nothing": None,
        }
    ]
    assert {type(value) for value in result.rows[0].values()} >= {int, str, float, Decimal, bool}
    kinds = {column.name: column.data_type for column in result.columns}
    assert (kinds["id"], kinds["half"], kinds["money"]) == ("bigint", "double", "decimal(10,2)")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("1.254740786E7", "double", 12547407.86),
        ("NaN", "double", None),
        (12547407.86, "double", 12547407.86),
        ("9223372036854775807", "bigint", 2**63 - 1),
        ("123456789012345678901234567890.12", "decimal(38,2)", Decimal("123456789012345678901234567890.12")),
        ("true", "boolean", True),
        (
            "2026-07-01 10:00:00.000 UTC",
            "timestamp(3) with time zone",
            datetime(2026, 7, 1, 10, tzinfo=timezone.utc),
        ),
        (
            "2026-07-01T10:00:00Z",
            "timestamp(3) with time zone",
            datetime(2026, 7, 1, 10, tzinfo=timezone.utc),
        ),
        (
            "2026-07-01 12:00:00 +02:00",
            "timestamp with time zone",
            datetime(2026, 7, 1, 10, tzinfo=timezone.utc),
        ),
        ("2026-07-01 10:00:00.1234567", "timestamp(7)", "2026-07-01 10:00:00.1234567"),
        ("yes", "boolean", "yes"),
        ("many", "bigint", "many"),
        ("10:00:00", "time(3)", "10:00:00"),
        ("{1, 2}", "array(integer)", "{1, 2}"),
        ("2026-07-01", "varchar", "2026-07-01"),
        ("5", "", "5"),
    ],
)
def test_a_value_is_read_by_its_type_and_stays_as_it_is_otherwise(
    value: object, kind: str, expected: object
) -> None:
    """What does not read as its type says is not guessed at."""
    answer = f"""{{"columns": [{{"columnName": "x"}}], "data": [[{{"name": "x", "dataType": "{kind}", "order": 0,
        "value": {f'"{value}"' if isinstance(value, str) else value}}}]]}}"""
    with RawServer(reply(body=answer)) as server, PeakaClient("key", "p", server.base_url) as client:
        (row,) = client.execute_query("SELECT 1").rows

    found = row["x"]
    if value == "NaN":
        assert isinstance(found, float)
        assert found != found
    else:
        assert (found, type(found)) == (expected, type(expected))


def test_a_statement_that_writes_is_refused_at_once(client: PeakaClient, peaka: PeakaSandbox) -> None:
    """So every query is a read, and one whose answer is lost is asked again."""
    with pytest.raises(PeakaApiError, match="Statement type 'Insert' is not allowed") as caught:
        client.execute_query(f"INSERT INTO {TABLE} VALUES (9, 'z')")

    assert (caught.value.status_code, caught.value.permanent) == (400, True)
    assert asked(peaka) == ["executeQuery"]
    assert client.execute_query(f"SELECT count(*) AS n FROM {TABLE}").rows == [{"n": 3}]


def test_a_query_whose_answer_is_lost_is_asked_again(peaka: PeakaSandbox) -> None:
    """As any read, within `request_max_retries`; an error of Peaka's own, 500, is told at once."""
    with peaka_for(peaka, request_max_retries=1).get_client() as client:
        peaka.fault("executeQuery", lose_reply=True)
        assert client.execute_query("SELECT 1 AS n").rows == [{"n": 1}]
        peaka.fault("executeQuery", status=500)
        with pytest.raises(PeakaServerError):
            client.execute_query("SELECT 1 AS n")

    assert [request.status for request in peaka.requests] == [0, 200, 500]


def test_a_query_that_was_deleted_is_refused_for_good(client: PeakaClient, peaka: PeakaSandbox) -> None:
    """With 404, or, as was seen, with 400; as a query, and in all that is about a materialized one."""
    query = peaka.queries.create("report", "SELECT 1 AS n")
    peaka.queries.delete("report")

    for ask in (client.queries.get, client.queries.get_status, client.queries.refresh, client.queries.cancel):
        with pytest.raises(PeakaApiError, match="There is no query") as refused:
            ask(query)
        assert refused.value.status_code == (400 if peaka.profile == "observed" else 404)
        assert refused.value.permanent
    assert client.queries.list() == []


def test_twenty_queries_side_by_side_get_their_own_answers(peaka: PeakaSandbox) -> None:
    """All of them 200, each by one request, whatever the order in which they are answered."""
    with (
        peaka_for(peaka, max_concurrent_requests=20).get_client() as client,
        ThreadPoolExecutor(20) as threads,
    ):
        answers = threads.map(
            lambda number: client.execute_query("SELECT CAST(? AS bigint) AS n", bindings=[str(number)]).rows,
            range(20),
        )
        assert list(answers) == [[{"n": number}] for number in range(20)]

    assert [request.status for request in peaka.requests] == [200] * 20


def test_a_query_during_the_first_sync_is_answered_as_it_is(peaka: PeakaSandbox) -> None:
    """Seen: no rows, which is a result like any other and no error; afterwards all of them."""
    peaka.delete_cache(TABLE)
    peaka.plan(TABLE, hold=True)
    peaka.create_cache(TABLE)
    until(lambda: peaka.executions(peaka.caches[TABLE])[0].cached == 3, what="copied row")
    with peaka_for(peaka).get_client() as client:
        during = client.execute_query(f"SELECT id FROM {TABLE}")
        counted = client.execute_query(f"SELECT count(*) AS n FROM {TABLE}")
        peaka.release(TABLE)
        peaka.wait_idle()
        after = client.execute_query(f"SELECT id FROM {TABLE}")

    seen = 0 if peaka.profile == "observed" else 3
    assert (len(during.rows), counted.rows) == (seen, [{"n": seen}])
    assert len(after.rows) == 3


def test_a_cache_makes_the_answers_about_a_paged_table_true(peaka: PeakaSandbox, ops_database: Path) -> None:
    """Without one a query sees 100 rows, without a word; the count behind a materialization is of the whole copy."""
    peaka.behaviour.capped_reads = True
    with closing(sqlite3.connect(ops_database)) as source, source:
        source.execute("CREATE TABLE paged (id INTEGER PRIMARY KEY)")
        source.executemany("INSERT INTO paged VALUES (?)", [(number,) for number in range(150)])
    statement = "SELECT count(*) AS n FROM ops.public.paged"
    with peaka_for(peaka).get_client() as client:
        (uncached,) = client.execute_query(statement).rows
        rows = client.execute_query("SELECT id FROM ops.public.paged").rows
        peaka.create_cache("ops.public.paged")
        peaka.wait_idle()
        asset = build_peaka_cache_asset(table="ops.public.paged", key="paged", row_count="query")
        (event,) = run_of(asset, peaka_for(peaka)).asset_materializations_for_node("paged")
        (cached,) = client.execute_query(statement).rows

    assert (uncached, len(rows)) == ({"n": 100}, 100)
    assert event.metadata["dagster/row_count"].value == 150
    assert cached == {"n": 150}


def test_what_a_first_sync_hides_is_not_taken_for_a_count(peaka: PeakaSandbox) -> None:
    """A full refresh that ends beside it: the table answers no rows, and neither count nor fingerprint is recorded."""
    peaka.delete_cache(TABLE)
    peaka.plan(TABLE, mode="incremental", hold=True)
    peaka.create_cache(TABLE)
    until(lambda: bool(peaka.executions(peaka.caches[TABLE])), what="first sync")
    asset = build_peaka_cache_asset(
        table=TABLE, key="beside", mode="full_refresh", row_count="query", fingerprint="count(*)"
    )
    (event,) = run_of(asset, peaka_for(peaka)).asset_materializations_for_node("beside")
    execution_id = event.metadata["peaka/execution_id"].value
    peaka.release(TABLE)

    assert "dagster/row_count" not in event.metadata
    assert (event.tags or {})["dagster/data_version"] == execution_id


def test_a_check_of_dropped_rows_is_not_fooled_by_a_first_sync(peaka: PeakaSandbox) -> None:
    """A table that is cached anew answers 0 rows for a while; what is compared was counted after syncs that ended."""
    asset = build_peaka_cache_asset(table=TABLE, key="t", row_count="query")
    check = build_peaka_cache_checks(asset, max_rows_dropped=10)
    resources = {"peaka": peaka_for(peaka)}
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([asset, *check], resources=resources, instance=instance)
        peaka.delete_cache(TABLE)
        peaka.clear_requests()
        peaka.plan(TABLE, hold=True)
        peaka.create_cache(TABLE)
        with acting_when(lambda: triggers(peaka) == 1, lambda: peaka.release(TABLE)):
            again = dg.materialize([asset, *check], resources=resources, instance=instance)

    (evaluation,) = again.get_asset_check_evaluations()
    assert evaluation.passed
    assert (evaluation.description or "").startswith("3 rows before, 3 now")
