"""Operators, conditions, CASE and casts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlglot import exp

from dagster_peaka.sandbox.sql import casts, functions, moments, operators
from dagster_peaka.sandbox.sql.expressions import Compilers, Expressions
from dagster_peaka.sandbox.sql.kinds import (
    BOOLEAN,
    NULL,
    SqlError,
    Type,
    Value,
    coerce,
    common_type,
    number_literal,
    parse_type,
)
from dagster_peaka.sandbox.sql.nodes import check_arguments, shown

_SYMBOLS: dict[type[exp.Expr], str] = {
    exp.Add: "+",
    exp.Sub: "-",
    exp.Mul: "*",
    exp.Div: "/",
    exp.Mod: "%",
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM",
    exp.NullSafeNEQ: "IS DISTINCT FROM",
}
_EXTRACTED = frozenset(moments.FIELDS) - {"week_of_year", "millisecond"}
_FOREIGN_TYPES = {"TEXT", "DATETIME", "CHAR", "NCHAR", "NVARCHAR", "FLOAT", "STRING", "BINARY"}


def _operator(here: Expressions, node: exp.Expr) -> Value:
    symbol = _SYMBOLS[type(node)]
    left = here.operand(node.this)
    if isinstance(node.expression, (exp.Any, exp.All)):
        return _quantified(here, symbol, left, node.expression)
    right = here.operand(node.expression)
    apply = operators.arithmetic if symbol in "+-*/%" else operators.compare
    return apply(symbol, left, right)


def _quantified(here: Expressions, symbol: str, left: Value, node: exp.Expr) -> Value:
    if not isinstance(node.this, (exp.Query, exp.Values)) or "DISTINCT" in symbol:
        raise SqlError(f"{shown(node)} is not supported by this sandbox")
    item, query = here.one_column(node.this)
    kind = operators.scalar(
        common_type((left.type, item.type), f"Cannot apply operator {symbol}"), "ANY and ALL"
    )
    operators.compare(symbol, left, item)
    rows = f"SELECT {coerce(item, kind).sql} FROM ({query.sql}) AS {item.sql.partition('.')[0]}"
    return Value(f"({coerce(left, kind).sql} {symbol} {type(node).__name__.upper()} ({rows}))", BOOLEAN)


def _neg(here: Expressions, node: exp.Expr) -> Value:
    if isinstance(node.this, exp.Literal) and not node.this.args.get("is_string"):
        value = number_literal(node.this.this)
        if value.constant is not None:
            sql = re.sub(r"^CAST\(('?)", r"CAST(\1-", value.sql)
            return Value(sql, value.type, -value.constant)
    return operators.negate(here.operand(node.this))


def _and(here: Expressions, node: exp.Expr) -> Value:
    """AND and OR, of a whole chain at once: a thousand of them are no thousand levels deep."""
    kind = type(node)
    terms: list[exp.Expr] = []
    left: exp.Expr = node
    while type(left) is kind:
        terms.append(left.expression)
        left = left.this
    word = " AND " if kind is exp.And else " OR "
    return Value(f"({word.join(here.term(term).sql for term in (left, *reversed(terms)))})", BOOLEAN)


def _not(here: Expressions, node: exp.Expr) -> Value:
    return Value(f"(NOT {here.term(node.this).sql})", BOOLEAN)


def _dpipe(here: Expressions, node: exp.Expr) -> Value:
    return operators.concat("||", [here.operand(node.this), here.operand(node.expression)])


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
    value = here.operand(node.this)
    if query := node.args.get("query"):
        item, rows = here.one_column(query)
        kind = operators.scalar(common_type((value.type, item.type), "IN"), "IN")
        name = item.sql.partition(".")[0]
        return Value(
            f"({coerce(value, kind).sql} IN (SELECT {coerce(item, kind).sql} FROM ({rows.sql}) AS {name}))",
            BOOLEAN,
        )
    listed = [here.value(item) for item in node.expressions]
    if not listed:
        raise SqlError("IN needs at least one value")
    kind = operators.scalar(common_type((value.type, *(item.type for item in listed)), "IN"), "IN")
    return Value(
        f"({coerce(value, kind).sql} IN ({', '.join(coerce(i, kind).sql for i in listed)}))", BOOLEAN
    )


def _like(here: Expressions, node: exp.Expr) -> Value:
    return _like_with(here, node, None)


def _escape(here: Expressions, node: exp.Expr) -> Value:
    if not isinstance(node.this, exp.Like):
        raise SqlError(f"{shown(node)} is not supported by this sandbox")
    check_arguments(node.this, NODES[exp.Like][0])
    return _like_with(here, node.this, here.operand(node.expression))


def _like_with(here: Expressions, node: exp.Expr, escape: Value | None) -> Value:
    found = operators.like(here.operand(node.this), here.operand(node.expression), escape)
    return Value(f"(NOT {found.sql})", BOOLEAN) if node.args.get("negate") else found


def _attimezone(here: Expressions, node: exp.Expr) -> Value:
    return moments.at_zone(here.operand(node.this), here.value(node.args["zone"]))


def _case(here: Expressions, node: exp.Expr) -> Value:
    whens: list[exp.Expr] = node.args.get("ifs") or []
    for when in whens:
        check_arguments(when, frozenset({"this", "true"}))
    results = [here.value(when.args["true"]) for when in whens]
    default = here.value(node.args["default"]) if node.args.get("default") else NULL
    kind = common_type((value.type for value in (*results, default)), "CASE")
    subject, tests = _case_tests(here, node.this, [when.this for when in whens])
    branches = " ".join(
        f"WHEN {test} THEN {coerce(result, kind).sql}" for test, result in zip(tests, results, strict=True)
    )
    return Value(f"CASE {subject} {branches} ELSE {coerce(default, kind).sql} END", kind)


def _case_tests(
    here: Expressions, subject: exp.Expr | None, tests: Sequence[exp.Expr]
) -> tuple[str, list[str]]:
    if subject is None:
        return "", [here.term(test).sql for test in tests]
    value, compared = here.value(subject), [here.value(test) for test in tests]
    kind = operators.scalar(common_type((value.type, *(test.type for test in compared)), "CASE"), "CASE")
    return coerce(value, kind).sql, [coerce(test, kind).sql for test in compared]


def _if(here: Expressions, node: exp.Expr) -> Value:
    test = here.term(node.this)
    yes = here.value(node.args["true"])
    no = here.value(node.args["false"]) if node.args.get("false") else NULL
    kind = common_type((yes.type, no.type), "IF")
    return Value(f"CASE WHEN {test.sql} THEN {coerce(yes, kind).sql} ELSE {coerce(no, kind).sql} END", kind)


def _cast(here: Expressions, node: exp.Expr) -> Value:
    target, length = _cast_target(node.args["to"])
    value = here.value(node.this)
    written = node.args["to"].sql(dialect="trino").lower()
    if (
        value.text is not None
        and isinstance(node.this, exp.Literal)
        and written == "timestamp(0)"
        and target.is_timestamp
    ):
        return moments.timestamp_literal(value.text)
    return casts.cast(value, target, isinstance(node, exp.TryCast), length)


def _extract(here: Expressions, node: exp.Expr) -> Value:
    name = node.name.lower()
    if name not in _EXTRACTED:
        raise SqlError(f"EXTRACT has no field {node.name[:40]} in this sandbox")
    return functions.call(name, [here.value(node.expression)])


def _cast_target(node: exp.Expr) -> tuple[Type, int | None]:
    """The type that a CAST names, with the length of a varchar(length)."""
    word = node.this.name if isinstance(node.this, exp.DType) else ""
    if any(
        kind.this.name in _FOREIGN_TYPES
        for kind in node.find_all(exp.DataType)
        if isinstance(kind.this, exp.DType)
    ):
        raise SqlError(
            f"CAST to {'REAL' if word == 'FLOAT' else shown(node)} is not supported by this sandbox"
        )
    written = node.sql(dialect="trino").lower()
    match = re.fullmatch(r"varchar\((\d{1,9})\)", written)
    return parse_type(written), int(match[1]) if match else None


NODES: Compilers = {
    exp.Neg: (frozenset({"this"}), _neg),
    exp.Not: (frozenset({"this"}), _not),
    **dict.fromkeys(_SYMBOLS, (frozenset({"expression", "this"}), _operator)),
    **dict.fromkeys((exp.And, exp.Or), (frozenset({"expression", "this"}), _and)),
    exp.Is: (frozenset({"expression", "this"}), _is),
    exp.Escape: (frozenset({"expression", "this"}), _escape),
    exp.Extract: (frozenset({"expression", "this"}), _extract),
    exp.Div: (frozenset({"expression", "safe", "this", "typed"}), _operator),
    exp.DPipe: (frozenset({"expression", "safe", "this"}), _dpipe),
    exp.Between: (frozenset({"high", "low", "this"}), _between),
    exp.In: (frozenset({"expressions", "query", "this"}), _in),
    exp.Like: (frozenset({"expression", "negate", "this"}), _like),
    exp.Case: (frozenset({"default", "ifs", "this"}), _case),
    exp.If: (frozenset({"false", "this", "true"}), _if),
    exp.Cast: (frozenset({"this", "to"}), _cast),
    exp.TryCast: (frozenset({"safe", "this", "to"}), _cast),
    exp.AtTimeZone: (frozenset({"this", "zone"}), _attimezone),
}
"""Operators, conditions and casts; with the arguments that are understood."""
