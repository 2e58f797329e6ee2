"""Expressions: each node of sqlglot's tree that is on the list becomes typed SQL for DuckDB, any other is refused.

The list is `NODES` of `leaves`, `predicates` and `calls`. What a grouped query may say outside of its aggregates is
DuckDB's to judge: it sees columns by their full names only, so no alias of a select list is mistaken for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from dagster_peaka.sandbox.sql.kinds import BOOLEAN, SqlError, Value, coerce, coerces
from dagster_peaka.sandbox.sql.nodes import check_arguments, describe, shown
from dagster_peaka.sandbox.sql.scope import Query, Scope

_PREDICATES = (exp.Predicate, exp.Connector, exp.Not, exp.Between, exp.In, exp.Is, exp.Like, exp.Escape)

Subquery = Callable[[exp.Expr, Scope], Query]
Windows = Callable[["Expressions", exp.Expr], Value]
Compilers = Mapping[type[exp.Expr], tuple[frozenset[str], Callable[["Expressions", exp.Expr], Value]]]
"""The allow-list: sqlglot's node types, each with the arguments of it that are understood, and what compiles it."""


@dataclass
class Statement:
    """What holds for the whole statement: its bindings, by where their ? stands, and the time that now() tells."""

    bindings: Mapping[str, int]
    now: str
    compilers: Compilers
    names: int = 0
    columns: dict[str, str] = field(default_factory=dict[str, str])
    """The columns that were used, by their SQL."""

    def name(self, letter: str) -> str:
        """A name that nothing else in the generated SQL has."""
        self.names += 1
        return f"{letter}{self.names}"


class Expressions:
    """Compiles the expressions of one place in a query.

    `place` names it in errors. `aggregates` and `windows` say whether those may stand here; `aliases` are the select
    list's names, which ORDER BY sees first.
    """

    def __init__(
        self,
        statement: Statement,
        scope: Scope,
        subquery: Subquery,
        place: str,
        *,
        aggregates: bool = False,
        windows: Windows | None = None,
        aliases: Mapping[str, Value] | None = None,
    ) -> None:
        self.statement, self.scope, self.place = statement, scope, place
        self.subquery = subquery
        self.aggregates = aggregates
        self.windows = windows
        self.aliases = aliases or {}

    def inside(
        self, place: str, scope: Scope | None = None, *, aggregates: bool | None = None
    ) -> Expressions:
        """The expressions of a part of this place, in which no window may stand."""
        grouped = self.aggregates if aggregates is None else aggregates
        aliases = {} if aggregates is False else self.aliases
        return Expressions(
            self.statement, scope or self.scope, self.subquery, place, aggregates=grouped, aliases=aliases
        )

    def value(self, node: exp.Expr) -> Value:
        """The node's value; SqlError naming what is wrong or not supported."""
        compiler = self.statement.compilers.get(type(node))
        if compiler is None:
            raise SqlError(f"{describe(node)} is not supported by this sandbox")
        check_arguments(node, compiler[0])
        return compiler[1](self, node)

    def condition(self, node: exp.Expr) -> Value:
        """The node's value, which must be a boolean."""
        value = self.value(node)
        if not coerces(value.type, BOOLEAN):
            raise SqlError(f"{self.place} must be a boolean, but {shown(node)} is {value.type}")
        return value

    def operand(self, node: exp.Expr) -> Value:
        """A side of an operator. Trino has no a = b = c, so a predicate there wants its parentheses."""
        if isinstance(node, _PREDICATES):
            raise SqlError(f"{shown(node)} needs parentheses around it to be part of another expression")
        return self.value(node)

    def found(self, name: str, qualifier: Sequence[str], place: str) -> Value:
        """A column's value; `place` is how an error names it."""
        found = self.scope.find(name, qualifier, place)
        self.statement.columns[found.sql] = found.name
        return found.use()

    def term(self, node: exp.Expr) -> Value:
        """The value of a side of AND, OR or NOT."""
        value = self.value(node)
        if not coerces(value.type, BOOLEAN):
            raise SqlError(f"Logical expressions take booleans, but {shown(node)} is {value.type}")
        return coerce(value, BOOLEAN)

    def one_column(self, node: exp.Expr) -> tuple[Value, Query]:
        """The column of a subquery that is used as a value, under a name that its SQL is to have."""
        query = self.subquery(node, self.scope)
        if len(query.outputs) != 1:
            raise SqlError(f"A subquery used as a value has one column, this one has {len(query.outputs)}")
        return Value(f"{self.statement.name('q')}.o0", query.outputs[0].type), query
