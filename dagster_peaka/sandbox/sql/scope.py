"""Names: which column a name in a query means, and where its value stands in the generated SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dagster_peaka.sandbox.sources import TableName
from dagster_peaka.sandbox.sql.kinds import SqlError, Type, Value


@dataclass(frozen=True)
class Place:
    """Where a table's rows are: a SQLite file, the table in it, and (name, Trino type) of its columns in order.

    A query sees no more than `most_rows` of them, where that is given. `version` changes when the rows do; without it
    they are read again whenever anything in the file has changed. A table of no file brings its `rows`.
    """

    path: str
    table: str
    columns: tuple[tuple[str, str], ...]
    most_rows: int | None = None
    version: str | None = None
    rows: tuple[tuple[str | int | None, ...], ...] | None = None


@dataclass(frozen=True)
class Field:
    """A column that can be named; one that has a `problem` exists but cannot be used, and the problem says why."""

    name: str
    sql: str
    type: Type
    qualifier: tuple[str, ...] = ()
    source: TableName | None = None
    problem: str = ""

    def use(self) -> Value:
        """The column's value."""
        if self.problem:
            raise SqlError(self.problem)
        return Value(self.sql, self.type)


class Scope:
    """What a place in a query sees: columns, `named` WITH entries, and what the query sees that it is a part of.

    A `clear` one is no query of its own, as a lambda: what is around it is no outer query's.
    """

    def __init__(
        self,
        fields: Sequence[Field] = (),
        outer: Scope | None = None,
        named: Mapping[str, Named] | None = None,
        *,
        clear: bool = False,
    ) -> None:
        self.fields = tuple(fields)
        self.outer = outer
        self.named: Mapping[str, Named] = named or (outer.named if outer else {})
        self.outer_uses = 0
        self._clear = clear

    def find(self, name: str, qualifier: Sequence[str] = ()) -> Field | None:
        """The column of that name, None where there is none. Raises SqlError where there are several."""
        found = [one for one in self.of_table(qualifier) if one.name.lower() == name.lower()]
        if len(found) > 1:
            raise SqlError(f"Column '{'.'.join((*qualifier, name))}' is ambiguous")
        if found or self.outer is None:
            return found[0] if found else None
        self.outer_uses += not self._clear
        return self.outer.find(name, qualifier)

    def of_table(self, qualifier: Sequence[str]) -> list[Field]:
        """The columns that table.* stands for."""
        wanted = tuple(part.lower() for part in qualifier)
        return [one for one in self.fields if one.qualifier[len(one.qualifier) - len(wanted) :] == wanted]


@dataclass(frozen=True)
class Column:
    """A column that a compiled query gives, standing in its SQL as o0, o1, …

    `source` is the table of which it is a column unchanged.
    """

    name: str
    type: Type
    source: TableName | None = None

    @property
    def data_type(self) -> str:
        """Its type's name in Trino."""
        return str(self.type)


@dataclass(frozen=True)
class Query:
    """A compiled query."""

    sql: str
    outputs: tuple[Column, ...]

    def fields(self, alias: str, *qualifier: str) -> list[Field]:
        """Its columns as seen by a query that selects from it under the SQL name `alias`."""
        under = tuple(part.lower() for part in qualifier)
        return [
            Field(output.name, f"{alias}.o{index}", output.type, under, output.source)
            for index, output in enumerate(self.outputs)
        ]

    def value(self, alias: str, index: int) -> Value:
        """The value of a column under the SQL name `alias`."""
        return Value(f"{alias}.o{index}", self.outputs[index].type)


@dataclass(frozen=True)
class Named:
    """A WITH entry: its query, and the name that it has in the generated SQL."""

    sql_name: str
    query: Query
