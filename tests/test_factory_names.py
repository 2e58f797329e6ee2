"""Names of assets, steps and groups from whatever Peaka calls its catalogs, schemas and tables.

`PEAKA_NAMES` sets how many sets of names are generated (default 500).
"""

import os
import string

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_peaka import PeakaCache, PeakaConfigError, PeakaProject, PeakaResource, build_peaka_cache_assets

NAMES = int(os.environ.get("PEAKA_NAMES", "500"))
NOWHERE = PeakaResource(api_key=dg.EnvVar("PEAKA_API_KEY"), project_id="p")

WORDS = st.one_of(
    st.text(max_size=12),
    st.text(alphabet="ab_/. -", max_size=6),
    st.sampled_from(
        ["", "class", "None", "config", "context", "a/b", "a__b", "x" * 500, "ü", "表", "T", "t", "\ud800"]
    ),
    st.text(alphabet=string.ascii_letters, min_size=1, max_size=4),
)


def caches_of(tables: list[tuple[str, str, str]]) -> list[PeakaCache]:
    """A cache of each table, given catalog, schema and table."""
    return [
        PeakaCache(
            id=f"id-{n}",
            catalog_id=f"of {catalog}",
            catalog_name=catalog,
            schema_name=schema,
            table_name=table,
        )
        for n, (catalog, schema, table) in enumerate(tables)
    ]


@settings(max_examples=NAMES)
@given(
    st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=3, unique=True),
    st.sampled_from(["cache", "catalog", "project"]),
)
def test_any_names_load_or_are_refused_with_both_ids(
    tables: list[tuple[str, str, str]], step_per: str
) -> None:
    """Whatever Peaka calls things: names are valid, stable and unique, or an error names both caches."""
    caches = caches_of(tables)
    keys = ["/".join(table) for table in tables]
    alike = [(a, b) for b in range(len(keys)) for a in range(b) if keys[a] == keys[b]]
    if alike:
        with pytest.raises(PeakaConfigError, match=f"id-{alike[0][0]} .* id-{alike[0][1]} "):
            build_peaka_cache_assets(caches, step_per=step_per)
        return
    assets = build_peaka_cache_assets(caches, step_per=step_per, checks={"last_sync_succeeded": True})
    names = [asset.op.name for asset in assets]
    assert len(set(names)) == len(names)
    groups = {
        spec.metadata["dagster/table_name"]: spec.group_name for asset in assets for spec in asset.specs
    }
    assert len(set(groups.values())) == len({catalog for catalog, _, _ in tables})
    definitions = dg.Definitions(assets=assets, resources={"peaka": NOWHERE})
    assert len(definitions.get_repository_def().assets_defs_by_key) == len(caches)


@settings(max_examples=max(1, NAMES // 5))
@given(
    st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=2, max_size=6, unique_by="/".join),
    st.sampled_from(["cache", "catalog", "project"]),
)
def test_names_depend_on_no_order(tables: list[tuple[str, str, str]], step_per: str) -> None:
    """The same caches in another order have the same steps: retries and run config go on working."""
    caches = caches_of(tables)

    one = build_peaka_cache_assets(caches, step_per=step_per)
    other = build_peaka_cache_assets(reversed(caches), step_per=step_per)

    assert {asset.op.name: asset.keys for asset in one} == {asset.op.name: asset.keys for asset in other}


@pytest.mark.parametrize("prefix", [None, "my__own"])
def test_steps_of_catalogs_have_readable_names(prefix: str | None) -> None:
    """A catalog with blanks, dots or hyphens in its name needs no hash, unless another one reads the same."""
    caches = caches_of([(name, "s", "t") for name in ("my-shop", "v1.2 of it", "a-b", "a_b", "\u8868")])
    project = PeakaProject(project_id="8f14e45f-ceea-467a", caches=tuple(caches))

    by_catalog = [
        asset.op.name for asset in build_peaka_cache_assets(caches, step_per="catalog", name=prefix)
    ]
    (whole,) = build_peaka_cache_assets(project, step_per="project")

    begin = prefix or "peaka"
    assert by_catalog[0] == f"{begin}__my_shop"
    assert by_catalog[1] == f"{begin}__v1_2_of_it"
    assert by_catalog[2].startswith(f"{begin}__a_b_")
    assert by_catalog[3] == f"{begin}__a_b"
    assert by_catalog[4].startswith(f"{begin}____")
    assert len(set(by_catalog)) == 5
    assert whole.op.name == "peaka__8f14e45f_ceea_467a"
