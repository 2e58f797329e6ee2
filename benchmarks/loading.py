"""What importing the package adds to importing Dagster, and what its factory adds to writing assets by hand.

python -m benchmarks.loading
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from dagster_peaka import PeakaSyncConfig, build_peaka_cache_asset

ROUNDS = 9


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


def by_factory(number: int) -> dg.AssetsDefinition:
    """One cache as the package makes it."""
    return build_peaka_cache_asset(table=f"shop.public.t{number}", deps=["landed"])


def by_hand(number: int) -> dg.AssetsDefinition:
    """The same asset, written out."""
    table = f"shop.public.t{number}"
    spec = dg.AssetSpec(
        ["shop", "public", f"t{number}"],
        deps=["landed"],
        skippable=True,
        description=f"Peaka's copy of {table}, brought up to date by an incremental update.",
        metadata={"peaka/table": table, "dagster/table_name": table, "peaka/mode": "incremental"},
        kinds={"peaka"},
    )

    @dg.multi_asset(specs=[spec], name=f"shop__public__t{number}", required_resource_keys={"peaka"})
    def cache(context: dg.AssetExecutionContext, config: PeakaSyncConfig) -> Iterator[Any]:
        yield from context.resources.peaka.sync_and_poll(context, config)

    return cache


def loading(make: Callable[[int], dg.AssetsDefinition], assets: int) -> float:
    """Seconds to make so many assets and to load their definitions."""
    began = time.perf_counter()
    definitions = dg.Definitions(
        assets=[make(number) for number in range(assets)],
        resources={"peaka": dg.ResourceDefinition.none_resource()},
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
    print("\n| caches | by hand | by factory | ratio |")
    print("|---|---|---|---|")
    for assets in (1_000, 5_000):
        loading(by_hand, 50)
        hand, factory = loading(by_hand, assets), loading(by_factory, assets)
        print(f"| {assets} | {hand:.2f} s | {factory:.2f} s | {factory / hand:.2f} |")


if __name__ == "__main__":
    main()
