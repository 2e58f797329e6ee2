"""`dagster dev` as a user starts it, with the example project and a fleet of caches, and a sandbox in this process.

The sandbox copies the example's operational database and six catalogs of twelve tables each. It is in this process so
that tests can play the stranger: start executions, let some fail, change rows.
"""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from dagster_peaka import PeakaProject, build_peaka_cache_assets
from dagster_peaka.sandbox import PeakaSandbox
from flights.database import create_tables
from flights.defs import landing
from flights.defs.caches import cache_assets
from flights.peaka_names import QUERY
from flights.punctuality import statement
from tests.dagster_dev import dagster_dev, write_settings
from tests.graphql import GraphQL
from tests.materializing import peaka_for

SHOPS = [f"shop_{city}" for city in ("berlin", "lisbon", "oslo", "paris", "rome", "vienna")]
MONTHS = [f"orders_2010_{month:02}" for month in range(1, 13)]
THRICE = "shop_oslo.public.orders_2010_01"
DEAREST = """
WITH oslo AS (SELECT item, max(price) AS price FROM shop_oslo.public.orders_2010_01 GROUP BY item)
SELECT r.item, oslo.price AS in_oslo, r.price AS in_rome, oslo.price - r.price AS dearer
FROM oslo JOIN shop_rome.public.orders_2010_01 r ON r.item = oslo.item
"""
"""The materialized query of the fleet."""

WORKSPACE_YAML = f"""\
load_from:
  - python_file: {{relative_path: {Path(__file__).with_name("example.py")}, location_name: flights}}
  - python_file: {{relative_path: {Path(__file__).with_name("fleet.py")}, location_name: fleet}}
"""


@dataclass(frozen=True)
class Folder:
    """Where everything is kept: the sources that the sandbox copies, the fleet's snapshot, Dagster's home."""

    path: Path

    def source(self, catalog: str) -> Path:
        """The database that a catalog's caches copy."""
        return self.path / f"{catalog}.db"

    @property
    def snapshot(self) -> Path:
        """The snapshot of the fleet's project."""
        return self.path / "fleet.json"

    @property
    def home(self) -> Path:
        """Dagster's home."""
        return self.path / "home"


@dataclass(frozen=True)
class Served:
    """Dagster with its two code locations, and the sandbox behind both."""

    example: GraphQL
    fleet: GraphQL
    sandbox: PeakaSandbox
    folder: Folder

    def change(self, catalog: str, statement: str) -> int:
        """Change rows of a catalog's source, and say how many."""
        return change_rows(self.folder.source(catalog), statement)


@contextmanager
def served(path: Path) -> Generator[Served]:
    """Everything up, in an empty folder, until the block ends.

    Before Dagster starts, the example's caches have been synced once, and THRICE, one of the fleet's, three times.
    """
    folder = Folder(path)
    create_tables(folder.source("ops"))
    for shop in SHOPS:
        _create_shop(folder.source(shop))
    sources = {catalog: {"public": folder.source(catalog)} for catalog in ("ops", *SHOPS)}
    with PeakaSandbox(sources, caches=[f"{catalog}.public.*" for catalog in sources]) as sandbox:
        sandbox.wait_idle()
        sandbox.queries.create(QUERY, statement())
        sandbox.queries.create("dearest", DEAREST)
        peaka_for(sandbox).fetch_project(queries=True).save(folder.snapshot)
        write_settings(folder.home)
        with pytest.MonkeyPatch.context() as here:
            here.setenv("FLIGHTS_DATABASE", str(folder.source("ops")))
            landings = [landing.airlines, landing.airports, landing.planes, landing.weather]
            _materialize([*landings, *cache_assets()], folder, sandbox)
        _sync_thrice(folder, sandbox)
        workspace = path / "workspace.yaml"
        workspace.write_text(WORKSPACE_YAML)
        environment = {
            "FLEET_SNAPSHOT": str(folder.snapshot),
            "FLIGHTS_DATABASE": str(folder.source("ops")),
            "MPLCONFIGDIR": str(path / "matplotlib"),
        }
        serving = dagster_dev(
            folder.home, "--workspace", str(workspace), sandbox=sandbox, environment=environment
        )
        with serving as port:
            yield Served(GraphQL(port, "flights"), GraphQL(port, "fleet"), sandbox, folder)


def _create_shop(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for table in MONTHS:
            database.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, item TEXT NOT NULL, price REAL)")
            database.execute(f"INSERT INTO {table} VALUES (1, 'tea', 3.5), (2, 'cake', 4.0)")


def _sync_thrice(folder: Folder, sandbox: PeakaSandbox) -> None:
    catalog, _, table = THRICE.split(".")
    caches = build_peaka_cache_assets(PeakaProject.load(folder.snapshot), selector=THRICE)
    for change in (
        f"INSERT INTO {table} VALUES (3, 'coffee', 3.0), (4, 'juice', 2.5), (5, 'pie', 4.5)",
        f"UPDATE {table} SET price = price + 1 WHERE id < 3",
        f"DELETE FROM {table} WHERE id = 1",
    ):
        change_rows(folder.source(catalog), change)
        _materialize(caches, folder, sandbox)


def change_rows(database: Path, statement: str) -> int:
    """Change rows as a stranger would, and say how many."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        return connection.execute(statement).rowcount


def _materialize(assets: Sequence[dg.AssetsDefinition], folder: Folder, sandbox: PeakaSandbox) -> None:
    with dg.DagsterInstance.from_config(str(folder.home)) as instance:
        assert dg.materialize(assets, instance=instance, resources={"peaka": peaka_for(sandbox)}).success
