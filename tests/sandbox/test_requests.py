"""What the sandbox answers to requests that are wrong, and how it reads names and bodies."""

import json
import sqlite3
from typing import Any

import httpx
import pytest

from dagster_peaka.sandbox import Behaviour, PeakaSandbox
from tests.sandbox.conftest import FLIGHTS, Api

ERROR = {"code", "message", "reason"}


@pytest.fixture
def catalog(api: Api) -> str:
    """The id of the catalog `ops`."""
    return next(catalog["id"] for catalog in api.get("catalogs") if catalog["name"] == "ops")


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "sandbox-key"}])
def test_a_missing_or_wrong_key_is_a_401(sandbox: PeakaSandbox, header: dict[str, str]) -> None:
    """Without the key nothing is answered but 401 with Peaka's error body."""
    response = httpx.get(
        f"{sandbox.base_url}/data/projects/{sandbox.project_id}/cache/status", headers=header, timeout=300
    )
    assert response.status_code == 401
    assert response.json().keys() == ERROR
    assert sandbox.api_key not in response.text


@pytest.mark.parametrize(
    "path",
    [
        "../other/cache/status",
        "nothing",
        "cache/00000000-0000-0000-0000-000000000000",
        "cache/00000000-0000-0000-0000-000000000000/status",
        "cache/..%2Fstatus",
        "cache/a%2Fb",
        "catalogs/7/schemas",
        "catalog/7/cache/status",
        "catalogs/{catalog}/schemas/nope/tables",
        "catalog/{catalog}/schema/nope/cache/status",
        "catalogs/{catalog}/schemas/public/tables/nope/columns",
        "catalogs/{catalog}/schemas/public/tables/FLIGHTS/isCached",
        "catalogs/{catalog}/schemas/public/tables/sqlite_schema/columns",
        "catalogs/{catalog}/schemas/public/tables/a%00b/isCached",
    ],
)
def test_what_does_not_exist_is_a_404(api: Api, catalog: str, path: str) -> None:
    """Another project, an unknown path, cache, catalog, schema or table: 404 with Peaka's error body."""
    response = api("GET", path.format(catalog=catalog))
    assert response.status_code == 404
    assert response.json().keys() == ERROR


def test_another_method_is_a_405(api: Api, url: str) -> None:
    """The answer names the methods that the path has."""
    response = api("PATCH", url)
    assert response.status_code == 405
    assert {"GET", "PUT", "DELETE"} <= set(response.headers["Allow"].split(", "))


def test_a_path_that_is_no_utf8_is_a_400(api: Api) -> None:
    """Bytes that are no text name nothing."""
    assert api("GET", "cache/%FF%FE/status").status_code == 400


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"null", "application/json", 400),
        (b'{"catalogId": NaN}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"catalogId": "\\ud800", "schemaName": "public", "tableName": "x"}', "application/json", 400),
        (b'{"catalogId": ' + b"1" * 5000 + b"}", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"a":' * 3_000 + b"1" + b"}" * 3_000, "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/json; charset=utf-16", 415),
        (b"{}", "", 415),
        (b" " * (17 * 2**20), "application/json", 413),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else None,
)
@pytest.mark.parametrize("path", ["cache", "queries/execute"])
def test_a_body_that_is_no_json_object_is_refused(
    api: Api, path: str, content: bytes, kind: str, status: int
) -> None:
    """Whatever arrives in place of a JSON object gets a 4xx with Peaka's error body."""
    response = api("POST", path, content=content, headers={"Content-Type": kind} if kind else {})
    assert response.status_code == status
    assert response.json().keys() == ERROR


NO_DURATIONS = [
    *[
        "",
        "6h",
        "P",
        "PT",
        "P1DT",
        "P1Y",
        "P1M",
        "PT1e9S",
        "PT\u0663H",
        "PT1H\n",
        "PT1.5H",
    ],  # unknown, or not fixed
    *["PT0S", "PT-5M", "-PT5M", "P999999999D"],  # of no use
]
GOOD = {"schemaName": "public", "tableName": "airlines"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"catalogId": None}, "catalogId"),
        ({"catalogId": 7}, "catalogId"),
        ({"catalogId": 10**400}, "catalogId"),
        ({"catalogId": "7"}, "catalogId"),
        ({"catalogId": "1"}, "catalogId"),
        ({"schemaName": ["public"]}, "schemaName"),
        ({"schemaName": "nope"}, "schemaName"),
        ({"tableName": ""}, "tableName"),
        ({"tableName": "nope"}, "tableName"),
        ({"tableName": "air\0lines"}, "tableName"),
        ({"tableName": {}}, "tableName"),
        ({"incrementalCacheSchedule": "PT6H"}, "incrementalCacheSchedule"),
        ({"incrementalCacheSchedule": {}}, "incrementalCacheSchedule.type"),
        (
            {"fullRefreshCacheSchedule": {"type": "CRON", "expression": "PT6H"}},
            "fullRefreshCacheSchedule.type",
        ),
        ({"fullRefreshCacheSchedule": {"type": "BASIC"}}, "fullRefreshCacheSchedule.expression"),
        *(
            (
                {"incrementalCacheSchedule": {"type": "BASIC", "expression": text}},
                "incrementalCacheSchedule.expression",
            )
            for text in NO_DURATIONS
        ),
    ],
)
def test_a_bad_field_is_named(
    sandbox: PeakaSandbox, api: Api, catalog: str, change: dict[str, Any], field: str
) -> None:
    """A cache that cannot be created is a 400 whose message begins with the field; in a batch, its error."""
    body = {"catalogId": catalog, **GOOD, **change}
    response = api("POST", "cache", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["message"].startswith(field)
    batch = api("POST", "cache/batch", json=[body])
    assert batch.status_code == 200
    assert batch.json() == [{"success": False, "error": response.json()["message"]}]
    assert "ops.public.airlines" not in sandbox.caches


def test_a_second_cache_of_a_table_is_a_409(api: Api, catalog: str) -> None:
    """A table has one cache."""
    response = api(
        "POST", "cache", json={"catalogId": catalog, "schemaName": "public", "tableName": "flights"}
    )
    assert response.status_code == 409
    assert FLIGHTS in response.json()["message"]


def test_a_table_that_cannot_be_cached_has_an_error_code(api: Api, catalog: str) -> None:
    """A virtual table is listed as not cacheable, and creating its cache says TABLE_NOT_CACHEABLE."""
    response = api("POST", "cache", json={"catalogId": catalog, "schemaName": "public", "tableName": "words"})
    assert (response.status_code, response.json()["errorCode"]) == (400, "TABLE_NOT_CACHEABLE")
    tables = {table["tableName"]: table for table in api.get(f"catalogs/{catalog}/schemas/public/tables")}
    assert (tables["words"]["isCacheable"], tables["words"]["supportedCacheTypes"]) == (False, [])


def test_a_batch_creates_what_it_can(sandbox: PeakaSandbox, api: Api, catalog: str) -> None:
    """Each item succeeds or fails on its own, in the order in which it was asked for."""
    names = ["airlines", "nope", "airlines", "notes"]
    body = [{"catalogId": catalog, "schemaName": "public", "tableName": name} for name in names]
    answers = api("POST", "cache/batch", json=body).json()
    assert [answer["success"] for answer in answers] == [True, False, False, True]
    assert answers[3]["cache"]["id"] == sandbox.caches["ops.public.notes"]
    assert api("POST", "cache/batch", json={}).status_code == 400


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=x", "limit=2147483648", "offset=-1", "offset=1.5"]
)
def test_bad_paging_is_a_400(api: Api, url: str, query: str) -> None:
    """Limits below 1, offsets below 0 and what is no int32 are refused by name."""
    response = api("GET", f"{url}/executionHistory?{query}")
    assert response.status_code == 400
    assert response.json()["message"].startswith(query.partition("=")[0])


def test_a_flag_that_is_no_boolean_is_a_400(api: Api, url: str) -> None:
    """`excludeLogs` is true or false."""
    assert api("GET", f"{url}/status?excludeLogs=yes").status_code == 400


def test_catalogs_schemas_tables_and_columns_are_listed(api: Api, catalog: str) -> None:
    """The built-in catalogs and the sources, their schemas, tables with what they support, columns in Trino's types."""
    assert [(c["name"], c["catalogType"]) for c in api.get("catalogs")] == [
        ("peaka", "internal"),
        ("peaka", "query"),
        ("ops", "sqlite"),
    ]
    assert api.get("catalogs/1/schemas") == []
    assert api.get(f"catalogs/{catalog}/schemas") == [
        {"catalogId": catalog, "catalogName": "ops", "schemaName": "public"}
    ]
    tables = api.get(f"catalogs/{catalog}/schemas/public/tables")
    assert {t["tableName"]: (t["isCached"], t["supportedCacheTypes"]) for t in tables} == {
        "airlines": (False, ["FULL_REFRESH", "INCREMENTAL"]),
        "flights": (True, ["FULL_REFRESH", "INCREMENTAL"]),
        "late": (False, ["FULL_REFRESH"]),
        "notes": (False, ["FULL_REFRESH"]),
        "words": (False, []),
    }
    columns = api.get(f"catalogs/{catalog}/schemas/public/tables/flights/columns")
    assert [(c["name"], c["dataType"], c["isNotNull"], c["isUnique"]) for c in columns] == [
        ("id", "bigint", True, True),
        ("carrier", "varchar", False, False),
        ("delay", "double", False, False),
        ("day", "date", False, False),
    ]
    assert (
        api.get(f"catalogs/{catalog}/schemas/public/tables/airlines/columns")[1]["defaultValue"]
        == "'unknown'"
    )
    assert api.get(f"catalogs/{catalog}/schemas/public/tables/flights/isCached")["isCached"] is True


def test_declared_types_become_trinos(api: Api, source: sqlite3.Connection, catalog: str) -> None:
    """A column's declared SQLite type decides its Trino type, by affinity where SQLite knows no such type."""
    types = {
        "INTEGER": "bigint",
        "UNSIGNED BIG INT": "bigint",
        "VARCHAR(30)": "varchar",
        "TEXT": "varchar",
        "DOUBLE PRECISION": "double",
        "DECIMAL(10,2)": "double",
        "BOOLEAN": "boolean",
        "DATE": "date",
        "DATETIME": "timestamp(3)",
        "TIMESTAMP": "timestamp(3)",
        "BLOB": "varbinary",
        "JSON": "json",
        "": "varchar",
    }
    source.execute(f"CREATE TABLE typed ({', '.join(f'c{n} {type_}' for n, type_ in enumerate(types))})")
    columns = api.get(f"catalogs/{catalog}/schemas/public/tables/typed/columns")
    assert [column["dataType"] for column in columns] == list(types.values())


@pytest.mark.parametrize("name", ["a/b", "a b", "a%b", "?#", "über", "a.b.c", 'a"b', "a\nb", "..", "cache"])
def test_any_name_of_a_table_works(
    sandbox: PeakaSandbox, api: Api, source: sqlite3.Connection, name: str
) -> None:
    """Names arrive percent-encoded, whatever is in them, and reach their table and no other endpoint."""
    quoted = '"' + name.replace('"', '""') + '"'
    source.execute(f"CREATE TABLE {quoted} (id INTEGER PRIMARY KEY)")
    source.execute(f"INSERT INTO {quoted} VALUES (1)")
    sandbox.create_cache(f"ops.public.{name}")
    sandbox.wait_idle()
    catalog = api.status(f"ops.public.{name}")["catalogId"]
    encoded = "".join(f"%{byte:02X}" for byte in name.encode())
    found = api.get(f"catalogs/{catalog}/schemas/public/tables/{encoded}/isCached")
    assert found["isCached"] is True
    assert sandbox.executions(f"ops.public.{name}")[0].inserted == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"statement": ""},
        {"statement": 7},
        {"statement": "SELECT 1", "timeout": "soon"},
        {"statement": "SELECT 1", "timeout": 0},
        {"statement": "SELECT ?", "bindings": [1]},
        {"statement": "SELECT 1", "qualifiedName": "ops.public.flights"},
        {"statement": "SELECT no"},
        {"statement": "SELECT * FROM ops.public.nope"},
        {"statement": "DELETE FROM ops.public.flights"},
        {"qualifiedName": "flights"},
        {"from": [{"catalogName": "ops", "schemaName": "public", "tableName": "flights"}]},
    ],
)
def test_a_query_that_cannot_run_is_a_400(api: Api, body: dict[str, Any]) -> None:
    """Whatever is wrong with a query is said in a message."""
    response = api("POST", "queries/execute", json=body)
    assert response.status_code == 400
    assert response.json()["message"]


def test_a_stored_query_is_a_404(api: Api) -> None:
    """The sandbox keeps no queries, so none has an id."""
    assert api("POST", "queries/execute", json={"id": "709922802836177297"}).status_code == 404
    assert api("POST", "queries/execute?format=XML", json={"id": "7"}).status_code == 400


def test_results_come_in_three_formats(api: Api) -> None:
    """Cells, objects or arrays, by `format`; both forms of a request mean the same table."""
    table = {"catalogName": "ops", "schemaName": "public", "tableName": "flights"}
    body = {"statement": "SELECT * FROM ops.public.flights ORDER BY id LIMIT 1"}
    columns = [{**table, "columnName": name} for name in ("id", "carrier", "delay", "day")]
    simple = api("POST", "queries/execute?format=SIMPLE", json=body).json()
    assert simple == {
        "columns": columns,
        "data": [{"id": 1, "carrier": "UA", "delay": 2.5, "day": "2013-01-01"}],
    }
    compact = api("POST", "queries/execute?format=COMPACT", json=body).json()
    assert compact == {"columns": columns, "data": [[1, "UA", 2.5, "2013-01-01"]]}
    cells = api("POST", "queries/execute", json=body).json()
    assert cells["data"][0][2] == {
        "name": "delay",
        "displayName": "delay",
        "dataType": "double",
        "order": 2,
        "value": 2.5,
    }
    named = api("POST", "queries/execute?format=COMPACT", json={"qualifiedName": FLIGHTS}).json()
    assert (named["columns"], len(named["data"])) == (columns, 3)


def test_a_cached_table_answers_from_its_copy(
    sandbox: PeakaSandbox, api: Api, source: sqlite3.Connection
) -> None:
    """What the source has since got shows with the next sync; a table without a cache answers from its source."""
    source.execute("INSERT INTO flights VALUES (4, 'UA', 0, NULL)")
    source.execute("INSERT INTO airlines VALUES ('B6', 'JetBlue')")
    assert api.query("SELECT count(*) FROM ops.public.flights") == [[3]]
    assert api.query("SELECT count(*) FROM ops.public.airlines") == [[3]]
    api.trigger()
    sandbox.wait_idle()
    assert api.query("SELECT count(*) FROM ops.public.flights") == [[4]]


def test_ids_as_numbers_are_taken_as_they_were_given(ops: Any) -> None:
    """Where catalog ids are numbers, a request may bring them back as numbers, without losing a digit."""
    with PeakaSandbox(ops, behaviour=Behaviour(ids_as_numbers=True)) as sandbox:
        api = Api(sandbox)
        catalog = next(catalog for catalog in api.get("catalogs") if catalog["name"] == "ops")
        assert isinstance(catalog["id"], int)
        assert catalog["id"] > 2**53
        response = api("POST", "cache", json={"catalogId": catalog["id"], **GOOD})
        assert response.json()["catalogId"] == catalog["id"]
        assert json.loads(response.text)["catalogId"] != float(catalog["id"]) or catalog["id"] % 64 == 0
