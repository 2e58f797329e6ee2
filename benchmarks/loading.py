"""What importing the package adds to importing Dagster, and what its factory adds to writing assets by hand.

python -m benchmarks.loading
"""

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from dagster_peaka import (
    DagsterPeakaTranslator,
    PeakaCache,
    PeakaSyncConfig,
    build_peaka_cache_asset,
    build_peaka_cache_assets,
)
from dagster_peaka.api import Column, SyncMode

ROUNDS = 9
RETRY = dg.RetryPolicy(max_retries=2)


def seconds(statement: str, before: str = "pass") -> float:
    """The median time of ``statement`` after ``before``, each round in a fresh interpreter."""
    program = (
        f"{before}\nimport time\nbegan = time.perf_counter()\n{statement}\nprint(time.perf_counter() - began)"
    )
    times = [
        float(
            subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        )
        for _ in range(ROUNDS)
    ]
    return statistics.median(times)


def caches(number: int) -> list[PeakaCache]:
    """So many caches of ten columns each, in six catalogs."""
    columns = tuple(Column(name=f"c{column}", data_type="bigint") for column in range(10))
    return [
        PeakaCache(
            id=f"id-{each}",
            catalog_id=str(each % 6),
            catalog_name=f"catalog{each % 6}",
            schema_name="public",
            table_name=f"t{each}",
            columns=columns,
            supported_modes=frozenset(SyncMode),
        )
        for each in range(number)
    ]


def by_factory(number: int) -> list[dg.AssetsDefinition]:
    """A project as the package makes it."""
    translator = DagsterPeakaTranslator(source_asset_key=lambda _: "landed")
    return build_peaka_cache_assets(caches(number), translator=translator, retry_policy=RETRY, pool="peaka")


def by_factory_one_by_one(number: int) -> list[dg.AssetsDefinition]:
    """Caches by the names of their tables, without a snapshot."""
    return [
        build_peaka_cache_asset(
            table=f"catalog{each % 6}.public.t{each}", deps=["landed"], retry_policy=RETRY, pool="peaka"
        )
        for each in range(number)
    ]


def by_hand(number: int) -> list[dg.AssetsDefinition]:
    """The same assets, written out."""
    return [written_out(each) for each in range(number)]


def written_out(number: int) -> dg.AssetsDefinition:
    """One cache's asset, with the same specs and arguments."""
    catalog, table = f"catalog{number % 6}", f"catalog{number % 6}.public.t{number}"
    spec = dg.AssetSpec(
        [catalog, "public", f"t{number}"],
        deps=["landed"],
        skippable=True,
        description=f"Peaka's copy of {table}.",
        metadata={
            "peaka/mode": "incremental",
            "dagster/table_name": table,
            "dagster/column_schema": dg.TableSchema(
                [
                    dg.TableColumn(
                        f"c{column}",
                        type="bigint",
                        constraints=dg.TableColumnConstraints(nullable=True, unique=False),
                    )
                    for column in range(10)
                ]
            ),
            "peaka/cache_id": f"id-{number}",
            "peaka/catalog_id": str(number % 6),
            "peaka/schema_name": "public",
            "peaka/supported_modes": "full_refresh, incremental",
        },
        group_name=catalog,
        kinds={"peaka"},
    )

    @dg.multi_asset(
        specs=[spec],
        name=f"catalog{number % 6}__public__t{number}",
        required_resource_keys={"peaka"},
        can_subset=True,
        retry_policy=RETRY,
        pool="peaka",
    )
    def cache(context: dg.AssetExecutionContext, config: PeakaSyncConfig) -> Iterator[Any]:
        yield from context.resources.peaka.sync_and_poll(context, config)

    return cache


def loading(make: Callable[[int], list[dg.AssetsDefinition]], assets: int) -> float:
    """Seconds to make so many assets and to load their definitions."""
    gc.collect()
    began = time.perf_counter()
    definitions = dg.Definitions(
        assets=make(assets), resources={"peaka": dg.ResourceDefinition.none_resource()}
    )
    definitions.get_repository_def()
    return time.perf_counter() - began


def main() -> None:
    """Print the tables."""
    dagster = seconds("import dagster")
    rows = [
        ("import dagster", dagster),
        ("import httpx, after dagster", seconds("import httpx", "import dagster")),
        ("import dagster_peaka, after dagster", seconds("import dagster_peaka", "import dagster")),
    ]
    print("| what | median of 9 | over `import dagster` |")
    print("|---|---|---|")
    for name, taken in rows:
        print(f"| `{name}` | {taken * 1000:.0f} ms | {taken / dagster:.2f} |")
    print("\n| caches | by hand | from a snapshot | ratio | by table | ratio |")
    print("|---|---|---|---|---|---|")
    for assets in (1_000, 5_000):
        loading(by_hand, 50)
        hand = loading(by_hand, assets)
        project, single = loading(by_factory, assets), loading(by_factory_one_by_one, assets)
        print(
            f"| {assets} | {hand:.2f} s | {project:.2f} s | {project / hand:.2f} "
            f"| {single:.2f} s | {single / hand:.2f} |"
        )


if __name__ == "__main__":
    main()
