"""From what a user writes to the cache that is meant: names of any letters, few requests, helpful errors."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dagster_peaka import PeakaClient, PeakaConfigError, PeakaError, PeakaNotFoundError, PeakaServerError
from dagster_peaka.caches.lookup import find_caches
from dagster_peaka.caches.names import SyncTarget, TableName
from dagster_peaka.sandbox import PeakaSandbox
from tests.raw_server import RawServer, reply

NAMES = st.text(min_size=1).filter(str.strip)


@pytest.fixture
def client(sandbox: PeakaSandbox) -> Iterator[PeakaClient]:
    """A client of the sandbox's project."""
    with PeakaClient(sandbox.api_key, sandbox.project_id, sandbox.base_url) as client:
        yield client


def find(
    *tables: str, catalogs: list[Any], statuses: list[Any]
) -> tuple[list[SyncTarget | PeakaError], list[str]]:
    """What is found for tables in a project with these catalogs and caches, and the paths that were asked."""
    with RawServer(reply(body=json.dumps(catalogs)), reply(body=json.dumps(statuses))) as server:
        names = [TableName.parse(table) for table in tables]
        with PeakaClient("key", "p", server.base_url) as client:
            found = find_caches(client, names)
    paths = [request.target.removeprefix("/api/v1/data/projects/p/") for request in server.requests]
    return [found[name] for name in names], paths


def cache(
    cache_id: str, catalog_id: str, schema: str, table: str, status: str = "COMPLETED"
) -> dict[str, str]:
    """A cache as a listing shows it."""
    return {
        "id": cache_id,
        "catalogId": catalog_id,
        "schemaName": schema,
        "tableName": table,
        "status": status,
    }


class TestTableNames:
    """`catalog.schema.table`, with quotes where a part needs them."""

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("shop.public.orders", ("shop", "public", "orders")),
            (" shop . public . orders ", ("shop", "public", "orders")),
            ('"shop"."public"."orders"', ("shop", "public", "orders")),
            (' "shop" . public . "orders" ', ("shop", "public", "orders")),
            ('shop.public."orders.2024"', ("shop", "public", "orders.2024")),
            ('shop.public."say ""hi"""', ("shop", "public", 'say "hi"')),
            ('shop.public." blank "', ("shop", "public", " blank ")),
            ("shop.öffentlich.注文 2024", ("shop", "öffentlich", "注文 2024")),
            ("shop.public.a/b", ("shop", "public", "a/b")),
            (["shop", "public", "orders.2024"], ("shop", "public", "orders.2024")),
        ],
    )
    def test_a_name_has_three_parts(self, text, parts):
        """Parts are divided by dots; quotes protect dots, blanks and, doubled, quotes."""
        assert TableName.parse(text) == parts

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "orders",
            "public.orders",
            "a.b.c.d",
            "a..c",
            "a.b.",
            ".b.c",
            "a. .c",
            'a.b."',
            'a.b."c',
            'a.b.c"',
            'a.b.c"d"',
            'a.b."c"d',
            'a.b.""',
            'a.b." "',
            ["a", "b"],
            ["a", "b", ""],
            ["a", "b", "c", "d"],
        ],
    )
    def test_anything_else_is_refused(self, text):
        """What has not three parts is refused in words that show it and the right form."""
        with pytest.raises(PeakaConfigError, match=r"'catalog\.schema\.table'") as caught:
            TableName.parse(text)
        assert repr(text) in str(caught.value)

    @given(NAMES, NAMES, NAMES)
    @example(" a", "b\n", '"')
    @example('a"b', "c.d", "..")
    def test_a_written_name_is_read_back(self, catalog, schema, table):
        """A name of any letters survives being written and read."""
        name = TableName(catalog, schema, table)
        assert TableName.parse(str(name)) == name

    def test_a_plain_name_is_written_without_quotes(self):
        """Quotes are written only where they are needed."""
        assert str(TableName("shop", "public", "orders")) == "shop.public.orders"
        assert str(TableName("shop", "public", "orders.2024")) == 'shop.public."orders.2024"'


class TestFinding:
    """The cache behind a name."""

    def test_a_table_is_found_by_two_requests(self, sandbox, client):
        """One table costs two requests: the catalogs, and the caches of its schema."""
        name = TableName.parse("ops.public.t")
        target = find_caches(client, [name])[name]
        assert isinstance(target, SyncTarget)
        assert target.cache_id == sandbox.caches["ops.public.t"]
        assert str(target) == f"ops.public.t ({target.cache_id})"
        assert [request.operation for request in sandbox.requests] == [
            "listCatalogs",
            "getCacheStatusByCatalog",
        ]

    def test_many_tables_are_found_by_two_requests(self, sandbox, client):
        """So do many, some of which do not exist."""
        names = [TableName("ops", "public", table) for table in ("t", "u", "v")] + [
            TableName("no", "such", "t")
        ]
        found = find_caches(client, names)
        assert len(sandbox.requests) == 2
        assert [isinstance(found[name], SyncTarget) for name in names] == [True, True, False, False]

    def test_an_id_costs_no_request(self, sandbox, client):
        """An id is taken as it is."""
        assert find_caches(client, ["0b1c"]) == {"0b1c": SyncTarget("0b1c")}
        assert not sandbox.requests

    def test_of_two_catalogs_with_one_name_the_one_with_the_cache_is_meant(self):
        """Peaka lists two catalogs named `peaka`: the cache decides which one a name means."""
        catalogs = [{"id": 1, "name": "peaka"}, {"id": 2, "name": "peaka"}]
        statuses = [cache("x", "1", "table", "u"), cache("y", "2", "table", "t")]
        (found,), paths = find("peaka.table.t", catalogs=catalogs, statuses=statuses)
        assert found == SyncTarget("y", "peaka.table.t", "2", "table")
        assert paths == ["catalogs", "cache/status"]

    def test_a_name_that_means_two_caches_is_refused(self):
        """When both have such a cache, the error names both ids instead of choosing one."""
        catalogs = [{"id": 1, "name": "peaka"}, {"id": 2, "name": "peaka"}]
        statuses = [cache("x", "1", "table", "t"), cache("y", "2", "table", "t")]
        (found,), _ = find("peaka.table.t", catalogs=catalogs, statuses=statuses)
        assert isinstance(found, PeakaConfigError)
        assert "x" in str(found)
        assert "y" in str(found)
        assert "cache_id" in str(found)

    @pytest.mark.parametrize("order", [1, -1])
    def test_a_deleted_cache_hides_no_living_one(self, order):
        """A table that was cached anew is found, wherever the listing still shows its deleted cache."""
        statuses = [cache("old", "1", "s", "t", "DELETED"), cache("new", "1", "s", "t")][::order]
        (found,), _ = find("c.s.t", catalogs=[{"id": "1", "name": "c"}], statuses=statuses)
        assert found == SyncTarget("new", "c.s.t", "1", "s")

    def test_a_deleted_cache_is_not_found(self):
        """A deleted cache alone is no cache."""
        statuses = [cache("old", "1", "s", "t", "DELETED")]
        (found,), _ = find("c.s.t", catalogs=[{"id": "1", "name": "c"}], statuses=statuses)
        assert isinstance(found, PeakaNotFoundError)

    def test_names_with_dots_and_letters_of_any_script_are_found(self):
        """A name in quotes finds the table of that name."""
        (found,), paths = find(
            '"c.1"."s/ü"."t ""注"""',
            catalogs=[{"id": "1", "name": "c.1"}],
            statuses=[cache("x", "1", "s/ü", 't "注"')],
        )
        assert isinstance(found, SyncTarget)
        assert found.cache_id == "x"
        assert paths[1] == "catalog/1/cache/status"


class TestMissing:
    """Errors that help to find the mistake."""

    def test_an_unknown_catalog_shows_near_ones(self, client):
        """A catalog that does not exist is named, with those of similar names, whatever their case."""
        for written in ("opps", "OPS"):
            name = TableName(written, "public", "t")
            error = find_caches(client, [name])[name]
            assert isinstance(error, PeakaNotFoundError)
            assert f"no catalog '{written}'" in str(error)
            assert "Near matches: ops." in str(error)

    def test_an_uncached_table_shows_near_ones(self):
        """A table without a cache is named, with cached tables of similar names and what to do."""
        statuses = [cache("x", "1", "s", "Orders"), cache("y", "1", "s", "customers")]
        (error,), _ = find("c.s.order", catalogs=[{"id": "1", "name": "c"}], statuses=statuses)
        assert isinstance(error, PeakaNotFoundError)
        assert (
            "no cache of table c.s.order. Near matches: c.s.Orders, c.s.customers. Create the cache in Peaka"
            in str(error)
        )
        assert error.permanent

    def test_an_unknown_schema_is_told_like_an_unknown_table(self, client):
        """A mistake in the schema is a missing table, although Peaka has nothing to list there."""
        name = TableName("ops", "pubic", "t")
        error = find_caches(client, [name])[name]
        assert isinstance(error, PeakaNotFoundError)
        assert "no cache of table ops.pubic.t" in str(error)

    def test_unreadable_entries_hide_no_table(self):
        """Catalogs without a name and caches without an id leave the others to be found."""
        catalogs = [{"id": "9"}, {"name": "c"}, {"id": "1", "name": "c"}, {"id": "2", "name": None}]
        statuses = [{"tableName": "t"}, cache("x", "1", "s", "t"), {"id": "z"}]
        (found,), _ = find("c.s.t", catalogs=catalogs, statuses=statuses)
        assert isinstance(found, SyncTarget)

    def test_a_peaka_that_cannot_be_asked_is_an_error_of_all(self, sandbox):
        """When the listing fails, nothing is said about any single table."""
        sandbox.fault(times=None, status=500)
        with (
            PeakaClient(sandbox.api_key, sandbox.project_id, sandbox.base_url) as client,
            pytest.raises(PeakaServerError),
        ):
            find_caches(client, [TableName("ops", "public", "t")])
