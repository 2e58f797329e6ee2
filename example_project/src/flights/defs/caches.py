"""The five tables as Peaka caches them: each an asset that depends on the asset that lands its table."""

import os
from pathlib import Path

import dagster as dg

from dagster_peaka import DagsterPeakaTranslator, PeakaProject, build_peaka_cache_asset
from flights.database import TABLES
from flights.defs.landing import LANDING
from flights.peaka_names import cache_key

SNAPSHOT = Path(__file__).parents[1] / "peaka_project.json"
"""What `PeakaResource.fetch_project()` answered once: of it, the columns serve with every account."""

BROKEN = "broken"
"""The group of the cache that fails on purpose."""


def cache_assets() -> list[dg.AssetsDefinition]:
    """One asset a table: materializing it asks Peaka for the delta and records what came of it."""
    project, translator = PeakaProject.load(SNAPSHOT), DagsterPeakaTranslator()
    known = {cache.table_name: translator.get_asset_spec(cache).metadata for cache in project.caches}
    return [
        build_peaka_cache_asset(
            table=".".join(cache_key(table)),
            deps=[[LANDING, table]],
            group_name="peaka",
            description=f"The copy of the table `{table}` that Peaka keeps.",
            metadata={"dagster/column_schema": known[table]["dagster/column_schema"]},
            # So that the report is made anew when rows have changed, and not after every sync; counts rows, too.
            fingerprint="checksum",
            # So that a sync fails visibly too that somebody else started.
            checks={"last_sync_succeeded": True},
        )
        for table in TABLES
    ]


def broken_cache(table: str) -> dg.AssetsDefinition:
    """A cache of which the local Peaka lets every sync fail: materialize it to see how that looks."""
    return build_peaka_cache_asset(
        table=".".join(cache_key(table)),
        group_name=BROKEN,
        description="Fails on purpose: see what its run, its step's failure and its check say.",
        checks={"last_sync_succeeded": True},
    )


@dg.definitions
def caches() -> dg.Definitions:
    """The caches of the schema that the environment names, and beside the local Peaka the one that fails."""
    table = os.environ.get("FLIGHTS_BROKEN")
    return dg.Definitions(assets=[*cache_assets(), *([broken_cache(table)] if table else [])])
