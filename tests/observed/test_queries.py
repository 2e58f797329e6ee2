"""Queries: their values, what they see, how they are sent."""

from datetime import date, datetime, timezone
from decimal import Decimal

import pytest

from dagster_peaka import PeakaClient
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
