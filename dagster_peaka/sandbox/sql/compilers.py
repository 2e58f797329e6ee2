"""Each node of sqlglot's tree that is on the list, `NODES`, becomes typed SQL for DuckDB; any other is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from sqlglot import exp

from dagster_peaka.sandbox.sql import calls, casts, functions, moments, operators
from dagster_peaka.sandbox.sql.expressions import Compiler, Expressions, Nodes
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
    coerce,
    common_type,
    number_literal,
    parse_type,
    text_literal,
)
from dagster_peaka.sandbox.sql.nodes import check_arguments, describe, position, qualifier, shown

# --- Leaves


def _literal(here: Expressions, node: exp.Expr) -> Value:
    if not node.args.get("is_string"):
        return number_literal(node.this)
    return Value(f"CAST({text_literal(node.this)} AS VARCHAR)", VARCHAR, text=node.this)


def _hexstring(here: Expressions, node: exp.Expr) -> Value:
    digits = node.this.replace(" ", "")
    if not re.fullmatch(r"([0-9a-fA-F]{2})*", digits):
        raise SqlError("A binary literal is an even number of hexadecimal digits")
    return Value(f"unhex('{digits}')", VARBINARY)


def _column(here: Expressions, node: exp.Expr) -> Value:
    """A column, or a lambda's parameter, which sqlglot has as an identifier."""
    if isinstance(node.this, exp.Star):
        raise SqlError(f"{shown(node)} cannot stand in an expression")
    under = qualifier(node)
    if not under and (alias := here.aliases.get(node.name.lower())):
        return alias
    found = here.scope.find(node.name, under)
    if found is None and len(under) == 1 and (row := here.scope.find(under[0])):
        return _row_field(here.use(row), node.name)  # a.b may be the field b of a row a
    if found is None:
        raise SqlError(f"{position(node)}Column '{'.'.join((*under, node.name))}' cannot be resolved")
    return here.use(found)


def _dot(here: Expressions, node: exp.Expr) -> Value:
    if not isinstance(node.expression, exp.Identifier):
        raise SqlError(f"{describe(node)} is not supported by this sandbox")
    return _row_field(here.value(node.this), node.expression.name)


def _row_field(row: Value, name: str) -> Value:
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
    if unit not in ("second", "minute", "hour", "day", "month", "year"):
        raise SqlError(f"{shown(node)}: of INTERVALs there are SECOND, MINUTE, HOUR, DAY, MONTH and YEAR")
    of_months = unit in ("month", "year")
    each = (moments.MONTHS_OF if of_months else moments.UNITS)[unit]
    return Value(f"CAST({int(amount.this) * each} AS BIGINT)", MONTHS if of_months else SECONDS)


def _bracket(here: Expressions, node: exp.Expr) -> Value:
    if len(node.expressions) != 1:
        raise SqlError(f"{shown(node)} is not supported by this sandbox")
    return operators.subscript(here.value(node.this), here.value(node.expressions[0]))


def _subquery(here: Expressions, node: exp.Expr) -> Value:
    item, rows = here.one_column(node)
    return Value(f"(SELECT {item.sql} {rows})", item.type)


# --- Operators


def _compared(symbol: str, here: Expressions, node: exp.Expr) -> Value:
    quantifier = node.expression
    if not isinstance(quantifier, (exp.Any, exp.All)):
        return operators.compare(symbol, *here.operands(node))
    if not isinstance(quantifier.this, (exp.Query, exp.Values)) or "DISTINCT" in symbol:
        raise SqlError(f"{shown(node)} is not supported by this sandbox")
    left, rows = _beside_rows(here, node.this, quantifier.this, symbol)
    return Value(f"({left} {symbol} {type(quantifier).__name__.upper()} ({rows}))", BOOLEAN)


def _beside_rows(here: Expressions, side: exp.Expr, node: exp.Expr, symbol: str) -> tuple[str, str]:
    """A value, and a subquery's rows that it is compared with, of one type."""
    left, (item, rows) = here.operand(side), here.one_column(node)
    operators.compare(symbol, left, item)
    kind = operators.scalar(common_type((left.type, item.type), symbol), "A comparison with a subquery")
    return coerce(left, kind).sql, f"SELECT {coerce(item, kind).sql} {rows}"


def _connected(word: str, here: Expressions, node: exp.Expr) -> Value:
    """AND and OR, of a whole chain at once: a thousand of them are no thousand levels deep."""
    terms: list[exp.Expr] = []
    left: exp.Expr = node
    while type(left) is type(node):
        terms.append(left.expression)
        left = left.this
    return Value(f"({f' {word} '.join(here.term(term).sql for term in (left, *reversed(terms)))})", BOOLEAN)


def _between(here: Expressions, node: exp.Expr) -> Value:
    value, low, high = (here.operand(node.args[part]) for part in ("this", "low", "high"))
    kind = operators.scalar(common_type((value.type, low.type, high.type), "BETWEEN"), "BETWEEN")
    operators.compare("<", value, low)
    a, b, c = (coerce(one, kind).sql for one in (value, low, high))
    return Value(f"({a} BETWEEN {b} AND {c})", BOOLEAN)


def _is(here: Expressions, node: exp.Expr) -> Value:
    if not isinstance(node.expression, exp.Null):
        raise SqlError(f"{shown(node)} is not supported: Trino has IS NULL and IS DISTINCT FROM")
    return Value(f"({here.operand(node.this).sql} IS NULL)", BOOLEAN)


def _in(here: Expressions, node: exp.Expr) -> Value:
    if query := node.args.get("query"):
        return Value("({} IN ({}))".format(*_beside_rows(here, node.this, query, "=")), BOOLEAN)
    if not node.expressions:
        raise SqlError("IN needs at least one value")
    value, listed = here.operand(node.this), here.values(node.expressions)
    kind = operators.scalar(common_type((value.type, *(item.type for item in listed)), "IN"), "IN")
    return Value(
        f"({coerce(value, kind).sql} IN ({', '.join(coerce(i, kind).sql for i in listed)}))", BOOLEAN
    )


def _like(here: Expressions, node: exp.Expr) -> Value:
    escape = [here.operand(node.expression)] if isinstance(node, exp.Escape) else []
    like = node.this if escape else node
    if not isinstance(like, exp.Like):
        raise SqlError(f"{shown(node)} is not supported by this sandbox")
    check_arguments(like, NODES[exp.Like][0])
    found = operators.like(*here.operands(like), *escape)
    return Value(f"(NOT {found.sql})", BOOLEAN) if like.args.get("negate") else found


def _case(here: Expressions, node: exp.Expr) -> Value:
    """CASE, and IF, which is one of one WHEN."""
    whens: Sequence[exp.Expr] = [node] if isinstance(node, exp.If) else node.args["ifs"]
    default = node.args.get("false" if isinstance(node, exp.If) else "default")
    for when in whens:
        check_arguments(when, "this true false")
    results = here.values([*(when.args["true"] for when in whens), *([default] if default else [])])
    kind = common_type((value.type for value in results), "CASE")
    subject, tests = _case_tests(
        here, node.this if whens[0] is not node else None, [when.this for when in whens]
    )
    branches = [
        f"WHEN {test} THEN {coerce(result, kind).sql}" for test, result in zip(tests, results, strict=False)
    ]
    other = coerce(results[-1] if default else NULL, kind).sql
    return Value(f"CASE {subject} {' '.join(branches)} ELSE {other} END", kind)


def _case_tests(
    here: Expressions, subject: exp.Expr | None, tests: Sequence[exp.Expr]
) -> tuple[str, list[str]]:
    if subject is None:
        return "", [here.term(test).sql for test in tests]
    value, compared = here.value(subject), here.values(tests)
    kind = operators.scalar(common_type((value.type, *(test.type for test in compared)), "CASE"), "CASE")
    return coerce(value, kind).sql, [coerce(test, kind).sql for test in compared]


# --- Casts and functions with a grammar of their own

_FOREIGN_TYPES = {"TEXT", "DATETIME", "CHAR", "NCHAR", "NVARCHAR", "FLOAT", "STRING", "BINARY"}
_EXTRACTED = frozenset(moments.FIELDS) - {"week_of_year", "millisecond"}
_TRIMS = {"": "trim", "BOTH": "trim", "LEADING": "ltrim", "TRAILING": "rtrim"}


def _cast(here: Expressions, node: exp.Expr) -> Value:
    to: exp.Expr = node.args["to"]
    for part in to.find_all(exp.DataType):
        word = part.this.name if isinstance(part.this, exp.DType) else ""
        if word in _FOREIGN_TYPES:
            name = "REAL" if word == "FLOAT" else shown(part)
            raise SqlError(f"CAST to {name} is not supported by this sandbox")
    written = to.sql(dialect="trino").lower()
    target, value = parse_type(written), here.value(node.this)
    if written == "timestamp(0)" and value.text is not None and isinstance(node.this, exp.Literal):
        return moments.timestamp_literal(value.text)
    length = re.fullmatch(r"varchar\((\d{1,9})\)", written)
    return casts.cast(value, target, isinstance(node, exp.TryCast), int(length[1]) if length else None)


def _extract(here: Expressions, node: exp.Expr) -> Value:
    if node.name.lower() not in _EXTRACTED:
        raise SqlError(f"EXTRACT has no field {node.name[:40]} in this sandbox")
    return functions.call(node.name.lower(), [here.value(node.expression)])


def _trim(here: Expressions, node: exp.Expr) -> Value:
    name = _TRIMS.get(node.text("position").upper(), "")
    return functions.call(
        name, here.values([part for part in (node.this, node.args.get("expression")) if part])
    )


def _called(name: str, parts: str, here: Expressions, node: exp.Expr) -> Value:
    given = (node.args.get(part) for part in parts.split())
    return functions.call(name, here.values([one for one in given if one is not None]))


_ARITHMETIC = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%"}
_COMPARISONS = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM", exp.NullSafeNEQ: "IS DISTINCT FROM",
}  # fmt: skip


def _arithmetic(symbol: str) -> Compiler:
    return lambda here, node: operators.arithmetic(symbol, *here.operands(node))


NODES: Nodes = {
    exp.Literal: ("is_string this", _literal),
    exp.HexString: ("is_integer this", _hexstring),
    exp.Null: ("", lambda here, node: NULL),
    exp.Boolean: ("this", lambda here, node: Value(str(bool(node.this)).upper(), BOOLEAN)),
    exp.Placeholder: (
        "this",
        lambda here, node: Value(f"CAST(${here.statement.bindings[node.this] + 1} AS VARCHAR)", VARCHAR),
    ),
    exp.Paren: ("this", lambda here, node: here.value(node.this)),
    exp.Subquery: ("this", _subquery),
    exp.Exists: (
        "this",
        lambda here, node: Value(f"(EXISTS ({here.subquery(node.this, here.scope).sql}))", BOOLEAN),
    ),
    exp.Column: ("catalog db table this", _column),
    exp.Identifier: ("quoted this", _column),
    exp.Dot: ("expression this", _dot),
    exp.CurrentDate: ("", partial(_now, DATE)),
    exp.CurrentTimestamp: ("", partial(_now, ZONED)),
    exp.Localtimestamp: ("", partial(_now, TIMESTAMP)),
    exp.Interval: ("this unit", _interval),
    exp.Array: (
        "bracket_notation expressions value_constructor",
        lambda here, node: operators.array(here.values(node.expressions)),
    ),
    exp.Tuple: ("expressions", lambda here, node: operators.row(here.values(node.expressions))),
    exp.Bracket: ("expressions this", _bracket),
    exp.Neg: ("this", lambda here, node: operators.negate(here.operand(node.this))),
    **{kind: ("expression safe this typed", _arithmetic(symbol)) for kind, symbol in _ARITHMETIC.items()},
    **{kind: ("expression this", partial(_compared, symbol)) for kind, symbol in _COMPARISONS.items()},
    exp.Not: ("this", lambda here, node: Value(f"(NOT {here.term(node.this).sql})", BOOLEAN)),
    exp.And: ("expression this", partial(_connected, "AND")),
    exp.Or: ("expression this", partial(_connected, "OR")),
    exp.Is: ("expression this", _is),
    exp.Between: ("high low this", _between),
    exp.In: ("expressions query this", _in),
    exp.Like: ("expression negate this", _like),
    exp.Escape: ("expression this", _like),
    exp.Case: ("default ifs this", _case),
    exp.If: ("false this true", _case),
    exp.DPipe: (
        "expression safe this",
        lambda here, node: operators.concat("||", here.operands(node)),
    ),
    exp.AtTimeZone: (
        "this zone",
        lambda here, node: moments.at_zone(here.operand(node.this), here.value(node.args["zone"])),
    ),
    exp.Cast: ("this to", _cast),
    exp.TryCast: ("safe this to", _cast),
    exp.Extract: ("expression this", _extract),
    exp.Trim: ("expression position this", _trim),
    exp.Substring: ("length start this", partial(_called, "substr", "this start length")),
    exp.StrPosition: ("substr this", partial(_called, "strpos", "this substr")),
    exp.ParseJSON: ("is_literal this", partial(_called, "json_parse", "this")),
    exp.Anonymous: ("expressions this", calls.anonymous),
    exp.Filter: ("expression this", calls.aggregate),
    exp.WithinGroup: ("expression this", calls.aggregate),
    exp.Window: ("alias order over partition_by spec this", calls.window),
}
"""The allow-list: node types, each with the arguments of it that are understood, and what compiles it."""
