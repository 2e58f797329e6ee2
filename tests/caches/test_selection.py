"""Which caches `selector=` means: texts, patterns, predicates, includes and excludes, and what is said of a mistake."""

import re
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dagster_peaka.caches.names import TableName
from dagster_peaka.caches.project import PeakaCache
from dagster_peaka.caches.selection import PeakaCacheSelector, PeakaSelection, select
from dagster_peaka.errors import PeakaConfigError


def cache(name: str, cache_id: str | None = None, **details: Any) -> PeakaCache:
    """A cache of the table that `name` names; its id is the table's unless one is given."""
    catalog, schema, table = TableName.parse(name)
    return PeakaCache(
        id=cache_id or table,
        catalog_id=f"id of {catalog}",
        catalog_name=catalog,
        schema_name=schema,
        table_name=table,
        **details,
    )


SHOP = [
    cache("shop.public.orders", "c1", catalog_type="postgresql"),
    cache("shop.public.order_items", "c2", catalog_type="postgresql"),
    cache("shop.archive.orders", "c3", catalog_type="postgresql"),
    cache('crm.public."orders.2024"', "c4", catalog_type="hubspot"),
    cache("crm.Public.orders_a", "c5", catalog_type="hubspot"),
    cache("crm.public.a[1]", "c6", catalog_type="hubspot"),
    cache("crm.public.a1", "c7", catalog_type="hubspot"),
]


def chosen(selector: PeakaSelection | None, caches: list[PeakaCache] = SHOP) -> str:
    """The ids of the selected caches, in their order."""
    return " ".join(cache.id for cache in select(caches, selector))


def refusal(selector: Any, caches: list[PeakaCache] = SHOP) -> str:
    """What is said of a selector that makes no sense."""
    with pytest.raises(PeakaConfigError, match="selector") as raised:
        select(caches, selector)
    return str(raised.value)


@pytest.mark.parametrize(
    ("selector", "ids"),
    [
        (None, "c1 c2 c3 c4 c5 c6 c7"),
        ("c3", "c3"),
        ("shop.public.orders", "c1"),
        (' shop . "public" . orders ', "c1"),
        ("shop.public.*", "c1 c2"),
        ("shop.*.orders", "c1 c3"),
        ("*.*.orders", "c1 c3"),
        ("*.*.*", "c1 c2 c3 c4 c5 c6 c7"),
        ("shop.*.order?", "c1 c3"),
        ("[a-d]rm.public.*", "c4 c6 c7"),
        ("crm.[!p]*.*", "c5"),
        ("crm.public.orders*", "c4"),
        ('crm.public."orders.*"', "c4"),
        ("crm.public.a[1]", "c6"),
        ("crm.public.a[[]1]", "c6"),
        ("crm.*.a[1]", "c7"),
        (["shop.public.*", "c7", "*.*.orders"], "c1 c2 c3 c7"),
        (("c7", "c1"), "c1 c7"),
        ({"c7", "c1"}, "c1 c7"),
        (lambda cache: cache.catalog_type == "hubspot" and "a" in cache.table_name, "c5 c6 c7"),
        (["c1", lambda cache: cache.schema_name == "archive"], "c1 c3"),
        (PeakaCacheSelector(), "c1 c2 c3 c4 c5 c6 c7"),
        (PeakaCacheSelector(include="shop.*.*", exclude="*.*.order_*"), "c1 c3"),
        (PeakaCacheSelector(exclude=["c1", lambda cache: cache.catalog_name == "crm"]), "c2 c3"),
        (PeakaCacheSelector(exclude="nothing.like.it_*"), "c1 c2 c3 c4 c5 c6 c7"),
        (PeakaCacheSelector(exclude=[]), "c1 c2 c3 c4 c5 c6 c7"),
        (PeakaCacheSelector(include="shop.public.orders", exclude="crm.public.a1"), "c1"),
    ],
)
def test_what_is_meant(selector: PeakaSelection | None, ids: str) -> None:
    """Ids, names, patterns part by part in their letter case, predicates, and all of these without some."""
    assert chosen(selector) == ids


def test_catalogs_that_share_a_name_are_told_apart_by_id() -> None:
    """A name means the tables of both; an id means one."""
    twins = [cache("peaka.s.t", "c1"), cache("peaka.s.t", "c2")]
    assert chosen("peaka.s.t", twins) == "c1 c2"
    assert chosen("c2", twins) == "c2"


# Mistakes


@pytest.mark.parametrize(
    ("selector", "text", "near"),
    [
        ("shop.public.ordrs", "shop.public.ordrs", "shop.public.orders"),
        ("Shop.Public.Orders", "Shop.Public.Orders", "shop.public.orders"),
        ("shop.pubic.*", "shop.pubic.*", "shop.public.orders"),
        ("orders", "orders", "shop.public.orders, crm.Public.orders_a, shop.archive.orders"),
        ("orders*", "orders*", "shop.public.orders"),
        ("shop.orders", "shop.orders", "shop.public.orders"),
        ("c11", "c11", "c1"),
        (["shop.public.*", "crm.public.a2"], "crm.public.a2", "crm.public.a1"),
        (PeakaCacheSelector(exclude="shop.public.ordrs"), "shop.public.ordrs", "shop.public.orders"),
        (PeakaCacheSelector(exclude="shop.order_*"), "shop.order_*", "shop.archive.orders"),
    ],
)
def test_a_text_that_fits_nothing_lists_near_matches(selector: PeakaSelection, text: str, near: str) -> None:
    """A misspelt text is an error that shows it, what reads like it, and how caches are written."""
    said = refusal(selector)
    assert f"No cache fits {text!r}" in said
    listed = re.search(r" Near matches: (.*?)\. ", said)
    assert listed is not None
    assert near in listed[1]
    assert "'catalog.schema.table'" in said


def test_what_nothing_reads_like_has_no_near_matches() -> None:
    """Where nothing is near, nothing is suggested."""
    for text in ("qqq.zzz.www", "*", "", "...", "?.?"):
        said = refusal(text)
        assert f"No cache fits {text!r}" in said
        assert "Near" not in said


def test_a_range_that_is_none_is_refused() -> None:
    """A pattern that no Python, or not each, can read ends in an error that shows it."""
    assert "[z-a]" in refusal("shop.public.[z-a]")


def test_many_mistakes_are_not_all_told_at_length() -> None:
    """The first five are told, the others counted."""
    said = refusal([f"shop.public.orders{number}" for number in range(40)])
    assert said.count("No cache fits") == 5
    assert "35 more" in said


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        (lambda cache: cache.schema_name == "nowhere", "includes none of the caches (shop.public.orders,"),
        ([], "includes none of the caches"),
        (lambda cache: cache.catalog_name == "nowhere", " and 2 more)"),
        (
            PeakaCacheSelector("shop.public.*", "shop.*.*"),
            "all that it includes (shop.public.orders, shop.public.ord",
        ),
        (PeakaCacheSelector(exclude="*.*.*"), "excludes all that it includes"),
    ],
)
def test_a_selection_of_nothing_is_an_error(selector: PeakaSelection, said: str) -> None:
    """A selector that leaves no cache is told as such, with what there was."""
    assert said in refusal(selector)


def test_without_caches_there_is_nothing_to_select_from() -> None:
    """Of no caches a selector can select none; without a selector that is no mistake."""
    assert "there are no caches" in refusal("shop.public.orders", [])
    assert select([], None) == ()


@pytest.mark.parametrize(
    "selector",
    [
        3,
        0,
        b"shop.public.*",
        object(),
        SHOP[0],
        ["c1", None],
        [["c1"]],
        ["c1", PeakaCacheSelector("c2")],
        PeakaCacheSelector(include=3),  # pyright: ignore[reportArgumentType]
    ],
)
def test_another_kind_of_selector_is_refused(selector: Any) -> None:
    """What is neither text nor predicate nor several of them is told by its type."""
    assert "write texts, predicates, a list of them, or one PeakaCacheSelector" in refusal(selector)


def test_a_predicate_that_fails_is_named_with_the_cache() -> None:
    """The error tells which predicate failed, for which cache and how; the original error is its cause."""

    def wide(cache: PeakaCache) -> bool:
        return len(cache.columns or []) / 0 > 3

    with pytest.raises(
        PeakaConfigError, match=r"wide of selector failed for cache shop\.public\.orders \(c1\)"
    ) as raised:
        select(SHOP, wide)
    assert "ZeroDivisionError: division by zero" in str(raised.value)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("answer", [None, 1, "yes", [], re.match("a", "a")])
def test_a_predicate_answers_true_or_false(answer: Any) -> None:
    """Any other answer is more likely a mistake than a meaning."""

    class Odd:
        def __call__(self, cache: PeakaCache) -> Any:
            return answer

    said = refusal(Odd())
    assert f"Odd of selector answered with a {type(answer).__name__}" in said
    assert "True or False" in said


# Laws

NAMES = st.text('ab[]*?!-^.\\"\n é', min_size=1, max_size=4).filter(str.strip)
TABLES = st.builds(TableName, NAMES, NAMES, NAMES)
CACHES = st.lists(TABLES, min_size=1, max_size=8).map(
    lambda names: [cache(str(name), f"id-{number}") for number, name in enumerate(names)]
)
TEXTS = (
    TABLES.map(str) | NAMES | st.text(max_size=12) | st.sampled_from(["*.*.*", "id-0", "a*.*.?", "*.[ab].*"])
)


def fits(text: str, one: PeakaCache, caches: list[PeakaCache]) -> bool:
    """The rule, written down once more and slowly."""
    if text in [other.id for other in caches]:
        return one.id == text
    try:
        parts = TableName.parse(text)
    except PeakaConfigError:
        return False
    if parts in [other.table for other in caches]:
        return one.table == parts
    return all(fnmatchcase(name, part) for name, part in zip(one.table, parts, strict=True))


@given(CACHES, st.lists(TEXTS, min_size=1, max_size=3), st.lists(TEXTS, max_size=3))
@example([cache("a.b.*", "c1"), cache("a.b.c", "c2")], ["a.b.*"], [])
def test_selecting_keeps_the_rule(caches: list[PeakaCache], include: list[str], exclude: list[str]) -> None:
    """What is selected is what the rule says, in its order; or, where a text fits nothing, the error tells that."""
    fitting = {text: [one for one in caches if fits(text, one, caches)] for text in include + exclude}
    expected = tuple(
        one
        for one in caches
        if any(one in fitting[text] for text in include) and not any(one in fitting[text] for text in exclude)
    )
    try:
        found = select(caches, PeakaCacheSelector(include, exclude))
    except PeakaConfigError as error:
        found, said = (), str(error)
        lost = [text for text in include if not fitting[text]]
        mistaken = lost or not expected or any(not fitting[text] for text in exclude)
        assert mistaken, said
    else:
        assert found == expected
        assert all(fitting[text] for text in include)


@given(CACHES, st.data())
def test_every_cache_can_be_named(caches: list[PeakaCache], data: st.DataObject) -> None:
    """A cache's own id means it alone, and its name all caches of that name, whatever letters it holds."""
    one = data.draw(st.sampled_from(caches))
    assert select(caches, one.id) == (one,)
    assert select(caches, one.name) == tuple(other for other in caches if other.table == one.table)


@given(CACHES, st.data())
def test_excluding_is_the_rest_of_including(caches: list[PeakaCache], data: st.DataObject) -> None:
    """What a selector includes and what the same, excluded, leaves are all caches, each once."""
    ids = data.draw(st.sets(st.sampled_from([one.id for one in caches]), min_size=1))
    included = select(caches, ids)
    assert [one.id for one in included] == [one.id for one in caches if one.id in ids]
    if len(ids) < len(caches):
        left = select(caches, PeakaCacheSelector(exclude=ids))
        assert sorted(included + left, key=caches.index) == caches
        assert select(caches, PeakaCacheSelector(exclude=lambda one: one.id in ids)) == left


@given(CACHES, st.text() | st.lists(st.text(), max_size=12))
def test_no_text_breaks_an_error(caches: list[PeakaCache], selector: str | list[str]) -> None:
    """Whatever is written, what comes back are caches or the one kind of error."""
    try:
        found = select(caches, selector)
    except PeakaConfigError as error:
        found, said = (), str(error)
        assert "selector" in said
    assert set(found) <= set(caches)
