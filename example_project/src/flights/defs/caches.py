"""The five tables as Peaka caches them: each an asset that depends on the asset that lands its table."""

import dagster as dg

from dagster_peaka import build_peaka_cache_asset
from flights.database import TABLES
from flights.defs.landing import LANDING
from flights.peaka_names import cache_key


def cache_assets() -> list[dg.AssetsDefinition]:
    """One asset a table: materializing it asks Peaka for the delta and records what came of it."""
    return [
        build_peaka_cache_asset(
            table=".".join(cache_key(table)),
            deps=[[LANDING, table]],
            group_name="peaka",
            description=f"The copy of the table `{table}` that Peaka keeps.",
            # So that the report is made anew when rows have changed, and not after every sync.
            fingerprint="checksum",
            # So that a sync fails visibly too that somebody else started.
            checks={"last_sync_succeeded": True},
        )
        for table in TABLES
    ]


@dg.definitions
def caches() -> dg.Definitions:
    """The caches of the schema that the environment names."""
    return dg.Definitions(assets=cache_assets())
