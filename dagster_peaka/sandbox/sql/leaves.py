"""Expressions' leaves: literals, columns, fields, rows and arrays, and subqueries as values."""

from __future__ import annotations

import re
from functools import partial

from sqlglot import exp

from dagster_peaka.sandbox.sql import functions, moments, operators
from dagster_peaka.sandbox.sql.expressions import Compilers, Expressions
from dagster_peaka.sandbox.sql.kinds import (
    BOOLEAN,
    DATE,
    MONTHS,
    NULL,
    SECONDS,
    TIMESTAMP,
    VARBINARY,
    VARCHAR,
    ZONED,
    SqlError,
    Type,
    Value,
    number_literal,
    text_literal,
)
from dagster_peaka.sandbox.sql.nodes import describe, dotted, position, shown

_MONTHS = {"month": 1, "year": 12}


def _literal(here: Expressions, node: exp.Expr) -> Value:
    if not node.args.get("is_string"):
        return number_literal(node.this)
    return Value(f"CAST({text_literal(node.this)} AS VARCHAR)", VARCHAR, text=node.this)


def _hexstring(here: Expressions, node: exp.Expr) -> Value:
    digits = node.this.replace(" ", "")
    if not re.fullmatch(r"([0-9a-fA-F]{2})*", digits):
        raise SqlError("A binary literal is an even number of hexadecimal digits")
    return Value(f"unhex('{digits}')", VARBINARY)


def _parsejson(here: Expressions, node: exp.Expr) -> Value:
    return functions.call("json_parse", [here.value(node.this)])


def _null(here: Expressions, _: exp.Expr) -> Value:
    return NULL


def _boolean(here: Expressions, node: exp.Expr) -> Value:
    return Value(str(bool(node.this)).upper(), BOOLEAN)


def _placeholder(here: Expressions, node: exp.Expr) -> Value:
    return Value(f"CAST(${here.statement.bindings[node.this] + 1} AS VARCHAR)", VARCHAR)


def _column(here: Expressions, node: exp.Expr) -> Value:
    if isinstance(node.this, exp.Star):
        raise SqlError(f"{shown(node)} cannot stand in an expression")
    qualifier = [node.args[part].name for part in ("catalog", "db", "table") if node.args.get(part)]
    if not qualifier and (alias := here.aliases.get(node.name.lower())):
        return alias
    try:
        return here.found(node.name, qualifier, f"{position(node)}Column '{dotted(node)}'")
    except SqlError:
        if len(qualifier) != 1:
            raise
        row = _fieldless(here, qualifier[0])  # a.b may be the field b of a row a
        if row is None:
            raise
        return _row_field(here, row, node.name)


def _fieldless(here: Expressions, name: str) -> Value | None:
    try:
        return here.scope.find(name, (), name).use()
    except SqlError:
        return None


def _identifier(here: Expressions, node: exp.Expr) -> Value:
    """A lambda's parameter, which sqlglot does not make a column."""
    return here.found(node.name, (), f"{position(node)}Column '{node.name}'")


def _dot(here: Expressions, node: exp.Expr) -> Value:
    if not isinstance(node.expression, exp.Identifier):
        raise SqlError(f"{describe(node)} is not supported by this sandbox")
    return _row_field(here, here.value(node.this), node.expression.name)


def _row_field(here: Expressions, row: Value, name: str) -> Value:
    at = [number for number, one in enumerate(row.type.names, 1) if one.lower() == name.lower()]
    if row.type.name != "row" or len(at) != 1:
        raise SqlError(f"Column '{name}' cannot be resolved: {row.type} has no such field")
    return operators.field(row, at[0])


def _now(kind: Type, here: Expressions, _: exp.Expr) -> Value:
    """The time at which the statement began; zoned ones are stored as UTC's."""
    return Value(f"CAST(TIMESTAMP '{here.statement.now}' AS {kind.stored})", kind)


def _interval(here: Expressions, node: exp.Expr) -> Value:
    unit, amount = node.text("unit").lower(), node.this
    plain = isinstance(amount, exp.Literal) and re.fullmatch(r"[+-]?\d{1,9}", amount.this, re.ASCII)
    if not plain or not amount.args.get("is_string"):
        raise SqlError(f"{shown(node)}: intervals are written INTERVAL '1' and a unit in this sandbox")
    if unit in _MONTHS:
        return Value(f"CAST({int(amount.this) * _MONTHS[unit]} AS BIGINT)", MONTHS)
    if unit not in ("second", "minute", "hour", "day"):
        raise SqlError(f"{shown(node)}: of INTERVALs there are SECOND, MINUTE, HOUR, DAY, MONTH and YEAR")
    return Value(f"CAST({int(amount.this) * moments.UNITS[unit]} AS BIGINT)", SECONDS)


def _paren(here: Expressions, node: exp.Expr) -> Value:
    return here.value(node.this)


def _array(here: Expressions, node: exp.Expr) -> Value:
    return operators.array([here.value(item) for item in node.expressions])


def _tuple(here: Expressions, node: exp.Expr) -> Value:
    return operators.row([here.value(item) for item in node.expressions])


def _bracket(here: Expressions, node: exp.Expr) -> Value:
    if len(node.expressions) != 1:
        raise SqlError(f"{shown(node)} is not supported by this sandbox")
    return operators.subscript(here.value(node.this), here.value(node.expressions[0]))


def _subquery(here: Expressions, node: exp.Expr) -> Value:
    item, query = here.one_column(node)
    return Value(f"({query.sql})", item.type)


def _exists(here: Expressions, node: exp.Expr) -> Value:
    return Value(f"(EXISTS ({here.subquery(node.this, here.scope).sql}))", BOOLEAN)


NODES: Compilers = {
    exp.Literal: (frozenset({"is_string", "this"}), _literal),
    exp.HexString: (frozenset({"is_integer", "this"}), _hexstring),
    exp.Null: (frozenset(set[str]()), _null),
    exp.Boolean: (frozenset({"this"}), _boolean),
    exp.Placeholder: (frozenset({"this"}), _placeholder),
    exp.Paren: (frozenset({"this"}), _paren),
    exp.Subquery: (frozenset({"this"}), _subquery),
    exp.Exists: (frozenset({"this"}), _exists),
    exp.Column: (frozenset({"catalog", "db", "table", "this"}), _column),
    exp.Identifier: (frozenset({"quoted", "this"}), _identifier),
    exp.Dot: (frozenset({"expression", "this"}), _dot),
    exp.CurrentDate: (frozenset(set[str]()), partial(_now, DATE)),
    exp.CurrentTimestamp: (frozenset(set[str]()), partial(_now, ZONED)),
    exp.Localtimestamp: (frozenset(set[str]()), partial(_now, TIMESTAMP)),
    exp.Interval: (frozenset({"this", "unit"}), _interval),
    exp.Array: (frozenset({"bracket_notation", "expressions", "value_constructor"}), _array),
    exp.Tuple: (frozenset({"expressions"}), _tuple),
    exp.Bracket: (frozenset({"expressions", "this"}), _bracket),
    exp.ParseJSON: (frozenset({"is_literal", "this"}), _parsejson),
}
"""Literals, names, subqueries and what is put together of values; with the arguments that are understood."""
