"""Expressions of one place in a query: their values, by the compilers of their nodes, and what may stand there.

What a grouped query may say outside of its aggregates is DuckDB's to judge: it sees columns by
their full names only, so no alias of a select list is mistaken for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from sqlglot import exp

from dagster_peaka.sandbox.sql.kinds import (
    BOOLEAN,
    SqlError,
    Value,
    coerce,
    coerces,
)
from dagster_peaka.sandbox.sql.nodes import check_arguments, describe, shown
from dagster_peaka.sandbox.sql.scope import Field, Query, Scope

_PREDICATES = (exp.Predicate, exp.Connector, exp.Not, exp.Between, exp.In, exp.Is, exp.Like, exp.Escape)

Subquery = Callable[[exp.Expr, Scope], Query]
Compiler: TypeAlias = "Callable[[Expressions, exp.Expr], Value]"
Nodes: TypeAlias = Mapping[type[exp.Expr], tuple[str, Compiler]]
"""For each node that is understood the arguments that are, and what compiles it."""


@dataclass
class Statement:
    """What holds for the whole statement: its bindings, by where their ? stands, and the time that now() tells."""

    bindings: Mapping[str, int]
    now: str
    nodes: Nodes
    names: int = 0
    columns: dict[str, str] = field(default_factory=dict[str, str])
    """The columns that were used, by their SQL."""

    def name(self, letter: str) -> str:
        """A name that nothing else in the generated SQL has."""
        self.names += 1
        return f"{letter}{self.names}"


@dataclass(frozen=True)
class Expressions:
    """Compiles the expressions of one place in a query.

    `place` names it in errors. `aggregates` says whether those may stand here; `windows` are those that a WINDOW
    clause names, None where there can be none; `aliases` are the select list's names, which ORDER BY sees first.
    """

    statement: Statement
    scope: Scope
    subquery: Subquery
    place: str
    aggregates: bool = False
    windows: Mapping[str, exp.Expr] | None = None
    aliases: Mapping[str, Value] = field(default_factory=dict[str, Value])

    def inside(self, place: str) -> Expressions:
        """The expressions of a part of this place, in which no window may stand."""
        return replace(self, place=place, windows=None)

    def rows(self, place: str, scope: Scope | None = None) -> Expressions:
        """The expressions of a part that sees single rows, not groups."""
        return Expressions(self.statement, scope or self.scope, self.subquery, place)

    def value(self, node: exp.Expr) -> Value:
        """The node's value; SqlError naming what is wrong or not supported."""
        understood, compiler = self.statement.nodes.get(type(node), ("", None))
        if compiler is None:
            raise SqlError(f"{describe(node)} is not supported by this sandbox")
        check_arguments(node, understood)
        return compiler(self, node)

    def values(self, nodes: Sequence[exp.Expr]) -> list[Value]:
        """The values of several nodes."""
        return [self.value(node) for node in nodes]

    def operand(self, node: exp.Expr) -> Value:
        """A side of an operator. Trino has no a = b = c, so a predicate there wants its parentheses."""
        if isinstance(node, _PREDICATES):
            raise SqlError(f"{shown(node)} needs parentheses around it to be part of another expression")
        return self.value(node)

    def operands(self, node: exp.Expr) -> tuple[Value, Value]:
        """Both sides of an operator."""
        return self.operand(node.this), self.operand(node.expression)

    def term(self, node: exp.Expr, place: str = "A condition") -> Value:
        """The value of a condition. Raises SqlError where it is no boolean."""
        value = self.value(node)
        if not coerces(value.type, BOOLEAN):
            raise SqlError(f"{place} must be a boolean, but {shown(node)} is {value.type}")
        return coerce(value, BOOLEAN)

    def use(self, found: Field) -> Value:
        """A column's value."""
        self.statement.columns[found.sql] = found.name
        return found.use()

    def one_column(self, node: exp.Expr) -> tuple[Value, str]:
        """The column of a subquery that is used as a value, and FROM with the subquery that has it."""
        query = self.subquery(node, self.scope)
        if len(query.outputs) != 1:
            raise SqlError(f"A subquery used as a value has one column, this one has {len(query.outputs)}")
        name = self.statement.name("q")
        return query.value(name, 0), f"FROM ({query.sql}) AS {name}"
