"""Names: which column a name in a query means, and where its value stands in the generated SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dagster_peaka.sandbox.trino_types import SqlError, Type, Value


@dataclass(frozen=True)
class TableRef:
    """A table's full name as a statement writes it."""

    catalog: str
    schema: str
    table: str

    def __str__(self) -> str:
        return f"{self.catalog}.{self.schema}.{self.table}"


@dataclass(frozen=True)
class Place:
    """Where a table's rows are: a SQLite file, the table in it, and (name, Trino type) of its columns in order.

    A query sees no more than `most_rows` of them, where that is given.
    """

    path: str
    table: str
    columns: tuple[tuple[str, str], ...]
    most_rows: int | None = None


@dataclass
class Scan:
    """A table that the statement reads, once however often it is named, and which of its columns it needs."""

    place: Place
    name: str
    used: set[int] = field(default_factory=set[int])


@dataclass(frozen=True)
class Field:
    """A column that can be named; one that has a `problem` exists but cannot be used, and the problem says why.

    `weight` counts the columns that its value is made of once all subqueries are written into each other.
    """

    name: str
    sql: str
    type: Type
    qualifier: tuple[str, ...] = ()
    source: TableRef | None = None
    problem: str = ""
    weight: int = 1
    origin: tuple[Scan, int] | None = None

    def use(self) -> Value:
        """The column's value, noting that its table must be read for it."""
        if self.problem:
            raise SqlError(self.problem)
        if self.origin is not None:
            self.origin[0].used.add(self.origin[1])
        return Value(self.sql, self.type)

    def under(self, *qualifier: str) -> Field:
        """The same column under another table name."""
        return replace(self, qualifier=tuple(part.lower() for part in qualifier))


class Scope:
    """The columns that a place in a query sees, and around it those of the query that it is a part of."""

    def __init__(self, fields: Sequence[Field], outer: Scope | None = None) -> None:
        self.fields = tuple(fields)
        self.outer = outer
        self.outer_uses = 0

    def find(self, name: str, qualifier: Sequence[str], shown: str) -> Field:
        """The column of that name; `shown` is how an error names it."""
        found = self._matching(name.lower(), tuple(part.lower() for part in qualifier))
        if len(found) > 1:
            raise SqlError(f"{shown} is ambiguous")
        if found:
            return found[0]
        if self.outer is None:
            raise SqlError(f"{shown} cannot be resolved")
        self.outer_uses += 1
        return self.outer.find(name, qualifier, shown)

    def of_table(self, qualifier: Sequence[str], shown: str) -> list[Field]:
        """The columns that table.* stands for."""
        found = [
            one for one in self.fields if _ends_with(one.qualifier, tuple(part.lower() for part in qualifier))
        ]
        if not found:
            raise SqlError(f"{shown}: unable to resolve the table")
        return found

    def _matching(self, name: str, qualifier: tuple[str, ...]) -> list[Field]:
        return [
            one for one in self.fields if one.name.lower() == name and _ends_with(one.qualifier, qualifier)
        ]


def _ends_with(qualifier: tuple[str, ...], end: tuple[str, ...]) -> bool:
    return not end or qualifier[-len(end) :] == end


@dataclass(frozen=True)
class Column:
    """A column of a result: its name, its Trino type, and the table if it is a table's column unchanged."""

    name: str
    data_type: str
    source: TableRef | None


@dataclass(frozen=True)
class Output:
    """A column that a compiled query gives, standing in its SQL as o0, o1, …"""

    name: str
    type: Type
    source: TableRef | None = None
    weight: int = 1


@dataclass(frozen=True)
class Query:
    """A compiled query."""

    sql: str
    outputs: tuple[Output, ...]

    def fields(self, alias: str, *qualifier: str) -> list[Field]:
        """Its columns as seen by a query that selects from it under the SQL name `alias`."""
        under = tuple(part.lower() for part in qualifier)
        return [
            Field(output.name, f"{alias}.o{index}", output.type, under, output.source, weight=output.weight)
            for index, output in enumerate(self.outputs)
        ]
