"""What the factories of checks and sensors take, and what they say of everything else."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import (
    PeakaConfigError,
    build_peaka_cache_asset,
    build_peaka_cache_checks,
    build_peaka_polling_sensor,
    build_peaka_upstream_sensor,
)

ORDERS = build_peaka_cache_asset(table="shop.public.orders", deps=["landed"])
FACTORIES: list[Callable[..., Any]] = [
    build_peaka_polling_sensor,
    build_peaka_upstream_sensor,
    lambda assets: build_peaka_cache_checks(assets, max_rows_dropped=10),
]
NAMES = ["build_peaka_polling_sensor", "build_peaka_upstream_sensor", "build_peaka_cache_checks"]


@pytest.mark.parametrize(("factory", "name"), zip(FACTORIES, NAMES, strict=True), ids=NAMES)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dg.AssetSelection.all(), "was given AllSelection"),
        ("shop/public/orders", "was given str"),
        (["shop/public/orders"], "was given str among them"),
        ([ORDERS, ORDERS.key], "was given AssetKey among them"),
        (dg.Definitions(assets=[ORDERS]), "was given Definitions"),
        (None, "was given NoneType"),
    ],
)
def test_what_is_no_asset_of_the_factories_is_refused_in_a_sentence(
    factory: Callable[..., Any], name: str, given: Any, said: str
) -> None:
    """Keys and selections name no cache."""
    with pytest.raises(PeakaConfigError) as refused:
        factory(given)
    assert str(refused.value).startswith(f"{name} takes what build_peaka_cache_asset")
    assert f"{said}." in str(refused.value)


@pytest.mark.parametrize(("factory", "name"), zip(FACTORIES[1:], NAMES[1:], strict=True), ids=NAMES[1:])
def test_specs_are_for_the_polling_sensor(factory: Callable[..., Any], name: str) -> None:
    """The others need steps; that sensor watches what has none, and says of a spec which cache it lacks."""
    spec = dg.AssetSpec("orders")
    with pytest.raises(PeakaConfigError, match=f"^{name} takes .* was given AssetSpec."):
        factory(spec)
    with pytest.raises(PeakaConfigError, match="orders"):
        build_peaka_polling_sensor(spec)


@pytest.mark.parametrize(("factory", "name"), zip(FACTORIES, NAMES, strict=True), ids=NAMES)
def test_assets_may_come_alone_in_a_list_or_from_a_generator(factory: Callable[..., Any], name: str) -> None:
    """Each form means the same."""
    for given in (ORDERS, [ORDERS], (each for each in [ORDERS])):
        assert factory(given)


def test_dagster_knows_the_library_by_its_release() -> None:
    """The UI lists it beside Dagster's own, with the version that the package says."""
    import dagster_peaka

    assert dg.DagsterLibraryRegistry.get()["dagster-peaka"] == dagster_peaka.__version__  # pyright: ignore[reportPrivateImportUsage]
