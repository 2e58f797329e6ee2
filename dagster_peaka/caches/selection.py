"""Which caches are meant: by id, by ``catalog.schema.table`` with shell patterns, or by a predicate. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import TypeAlias, TypeVar, cast

from dagster_peaka.caches.names import NAMED_AT_MOST, TableName, few, near_matches
from dagster_peaka.caches.project import PeakaCache
from dagster_peaka.errors import PeakaConfigError

T = TypeVar("T")

PeakaCachePredicate: TypeAlias = Callable[[PeakaCache], bool]
"""Says of a cache whether it is meant."""

PeakaCacheChoice: TypeAlias = str | PeakaCachePredicate | Collection[str | PeakaCachePredicate]
"""Caches by a text, by a predicate, or by any of several."""


@dataclass(frozen=True)
class PeakaCacheSelector:
    """The caches that ``include`` means, without those that ``exclude`` means.

    A text is a cache's id or ``catalog.schema.table``. Each of its three parts may be a shell pattern: ``*`` stands
    for any letters, ``?`` for one, ``[ab]`` for one of these, never beyond the part and never for another case. A part
    that holds a dot is put in double quotes. A table whose name is the text, letter for letter, is meant alone, also
    where the text could be read as a pattern. A predicate is any function from a :class:`PeakaCache` to a bool; where
    caches are being fetched, it sees them without columns, schedules and modes.

    Args:
        include: a text, a predicate, or several of both, of which one must fit; None for all caches.
        exclude: likewise; None for no cache.

    Example:
        .. code-block:: python

            from dagster_peaka import PeakaCacheSelector

            selector = PeakaCacheSelector(
                include=["shop.public.*", lambda cache: cache.catalog_type == "postgresql"],
                exclude="shop.public.tmp_*",
            )
    """

    include: PeakaCacheChoice | None = None
    exclude: PeakaCacheChoice | None = None


PeakaSelection: TypeAlias = PeakaCacheChoice | PeakaCacheSelector
"""What ``selector=`` takes: what to include, or a :class:`PeakaCacheSelector` to exclude as well."""


def select(caches: Iterable[PeakaCache], selector: PeakaSelection | None) -> tuple[PeakaCache, ...]:
    """The caches that ``selector`` means, in the order in which they came, each once; all of them for None.

    Raises:
        PeakaConfigError: when a text to include fits no cache, when a text to exclude that is no pattern fits none,
            when nothing is left in the end, or when a predicate fails or answers anything but True or False.
    """
    caches = tuple(caches)
    if selector is None:
        return caches
    if not isinstance(selector, PeakaCacheSelector):
        selector = PeakaCacheSelector(include=selector)
    if not caches:
        raise PeakaConfigError("selector has nothing to select from: there are no caches.")
    directory = _Directory(caches)
    included = directory.meant(selector.include, INCLUDE)
    excluded = directory.meant(selector.exclude, EXCLUDE) if selector.exclude is not None else set[int]()
    if not included:
        names = [cache.name for cache in caches]
        raise PeakaConfigError(
            f"selector includes none of the caches ({few(names)}): correct it, or leave it out."
        )
    if included <= excluded:
        chosen = [caches[position].name for position in sorted(included)]
        raise PeakaConfigError(f"selector excludes all that it includes ({few(chosen)}): exclude less.")
    return tuple(caches[position] for position in sorted(included - excluded))


INCLUDE, EXCLUDE = "include", "exclude"

_WILDCARD = re.compile(r"[*?\[]")


class _Directory:
    """Caches found by id and by the parts of their names: a text costs no walk over all of them."""

    def __init__(self, caches: Sequence[PeakaCache]) -> None:
        self._caches = caches
        self._by_id: dict[str, list[int]] = defaultdict(list)
        self._tree: dict[str, dict[str, dict[str, list[int]]]] = {}
        for position, cache in enumerate(caches):
            self._by_id[cache.id].append(position)
            tables = self._tree.setdefault(cache.catalog_name, {}).setdefault(cache.schema_name, {})
            tables.setdefault(cache.table_name, []).append(position)

    def meant(self, choice: PeakaCacheChoice | None, role: str) -> set[int]:
        """The positions of the caches that a choice means."""
        if choice is None:
            return set(range(len(self._caches)))
        found: set[int] = set()
        unmatched: list[str] = []
        for entry in _entries(choice, role):
            if isinstance(entry, str):
                fitting = self._fitting_text(entry)
                if not fitting and (role == INCLUDE or not _is_pattern(entry)):
                    unmatched.append(entry)
                found.update(fitting)
            else:
                found.update(place for place, cache in enumerate(self._caches) if _says_yes(entry, cache))
        if unmatched:
            raise PeakaConfigError(self._no_match(unmatched, role))
        return found

    def _fitting_text(self, text: str) -> list[int]:
        """By id; else by the very name; else by pattern."""
        if text in self._by_id:
            return self._by_id[text]
        parts = _parts(text)
        if parts is None:
            return []
        named = self._tree.get(parts.catalog, {}).get(parts.schema, {}).get(parts.table)
        return named or list(self._fitting_parts(*map(_Part, parts)))

    def _fitting_parts(self, catalog: _Part, schema: _Part, table: _Part) -> Iterator[int]:
        for schemas in catalog.among(self._tree):
            for tables in schema.among(schemas):
                for positions in table.among(tables):
                    yield from positions

    def _no_match(self, texts: Sequence[str], role: str) -> str:
        said = [
            f"No cache fits {text!r}, which selector should {role}.{self._near(text)}"
            for text in texts[:NAMED_AT_MOST]
        ]
        if len(texts) > NAMED_AT_MOST:
            said.append(f"The same is true of {len(texts) - NAMED_AT_MOST} more.")
        said.append(
            "Write a cache's id or 'catalog.schema.table'; each of the three parts may be a pattern with *, ? and [ ]."
        )
        return " ".join(said)

    def _near(self, text: str) -> str:
        names = sorted({cache.name for cache in self._caches})
        near = near_matches(text, names if "." in text else self._by_id)
        word = text.strip("*. ").casefold()
        if near or not word:
            return near
        holding = sorted((name for name in names if word in name.casefold()), key=len)
        return f" Near matches: {', '.join(holding[:NAMED_AT_MOST])}." if holding else ""


class _Part:
    """One of a pattern's three parts."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._fits: Callable[[str], object] | None = None
        if _WILDCARD.search(text):
            try:
                self._fits = re.compile(translate(text)).match
            except re.error as error:  # before Python 3.11, for a range such as [z-a]
                raise PeakaConfigError(f"{text!r} in selector is no shell pattern: {error}.") from None

    def among(self, names: Mapping[str, T]) -> list[T]:
        """The values of the names that fit."""
        fits = self._fits
        if fits is None:
            return [names[self._text]] if self._text in names else []
        return [value for name, value in names.items() if fits(name)]


def _parts(text: str) -> TableName | None:
    try:
        return TableName.parse(text)
    except PeakaConfigError:
        return None


def _is_pattern(text: str) -> bool:
    parts = _parts(text)
    return parts is not None and any(map(_WILDCARD.search, parts))


def _entries(choice: object, role: str) -> Iterator[str | PeakaCachePredicate]:
    several: Collection[object]
    if isinstance(choice, str) or callable(choice):
        several = (choice,)
    else:
        several = cast("Collection[object]", choice) if isinstance(choice, Collection) else (choice,)
    for entry in several:
        if not (isinstance(entry, str) or callable(entry)):
            raise PeakaConfigError(
                f"selector should {role} a {type(entry).__name__}: write texts, predicates, a list of them, or one "
                "PeakaCacheSelector around all."
            )
        yield cast("str | PeakaCachePredicate", entry)


def _says_yes(predicate: PeakaCachePredicate, cache: PeakaCache) -> bool:
    what = f"The predicate {getattr(predicate, '__qualname__', type(predicate).__name__)} of selector"
    try:
        answer = cast("object", predicate(cache))
    except Exception as error:
        raise PeakaConfigError(
            f"{what} failed for cache {cache.name} ({cache.id}) with {type(error).__name__}: {error}. Columns, "
            "schedules and modes of a cache may be None."
        ) from error
    if isinstance(answer, bool):
        return answer
    raise PeakaConfigError(
        f"{what} answered with a {type(answer).__name__} for cache {cache.name} ({cache.id}): it must return True or "
        "False, for instance by bool(...)."
    )
