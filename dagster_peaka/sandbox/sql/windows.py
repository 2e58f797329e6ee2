"""OVER: window functions with their partitions, orders and frames."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sqlglot import exp

from dagster_peaka.sandbox.sql import functions
from dagster_peaka.sandbox.sql.calls import aggregated, ordering
from dagster_peaka.sandbox.sql.expressions import Expressions
from dagster_peaka.sandbox.sql.kinds import DATE, MONTHS, SECONDS, SqlError, Value, coerce, common_type
from dagster_peaka.sandbox.sql.nodes import check_arguments, describe, function_name, shown

_PARTS = ("partition_by", "order", "spec")


def window(expressions: Expressions, node: exp.Expr, named: Mapping[str, exp.Expr]) -> Value:
    """A call with its OVER; `named` are the query's WINDOWs."""
    given = _resolved(node, named)
    inner = expressions.inside("A window")
    function = node.this
    while isinstance(function, (exp.Filter, exp.IgnoreNulls, exp.RespectNulls)):
        function = function.this
    name = function_name(function) if isinstance(function, exp.Anonymous) else ""
    if name not in functions.WINDOWED:
        raise SqlError(f"{describe(function)} is not supported in a window by this sandbox")
    partition: list[exp.Expr] = given["partition_by"] or []
    keys = ", ".join(inner.value(key).sql for key in partition)
    order: exp.Expr | None = given["order"]
    if order is None and name in functions.RANKINGS - {"row_number"}:
        raise SqlError(f"{name} needs an ORDER BY in its window")
    by = f"ORDER BY {ordering(inner, order)} " if order is not None else ""
    frame = _frame(given["spec"], name, order, inner)
    over = f" OVER ({f'PARTITION BY {keys} ' if keys else ''}{by}{frame})"
    called = node.this.this if isinstance(node.this, exp.RespectNulls) else node.this
    return aggregated(inner, called, over)


def _resolved(node: exp.Expr, named: Mapping[str, exp.Expr]) -> dict[str, Any]:
    """The parts of a window, those of the WINDOW that it names among them."""
    own = {part: node.args.get(part) for part in _PARTS}
    if node.args.get("alias") is None:
        return own
    base = named.get(node.text("alias").lower())
    if base is None:
        raise SqlError(f"WINDOW {node.text('alias')} cannot be resolved")
    known = _resolved(base, named)
    if not any(own.values()):
        return known
    if own["partition_by"] or (own["order"] and known["order"]) or known["spec"]:
        raise SqlError(f"{shown(node)} cannot add that to its WINDOW")
    return {part: own[part] or known[part] for part in _PARTS}


def _frame(spec: exp.Expr | None, name: str, order: exp.Expr | None, inner: Expressions) -> str:
    if spec is None:
        return ""
    if name in functions.RANKINGS:
        raise SqlError(f"Cannot specify a window frame for {name}")
    check_arguments(spec, frozenset({"kind", "start", "start_side", "end", "end_side"}))
    kind = spec.text("kind").upper()
    if kind not in ("ROWS", "RANGE", "GROUPS"):
        raise SqlError(f"{shown(spec)}: frames are ROWS, RANGE or GROUPS")
    if order is None and kind != "ROWS":
        raise SqlError("A window frame needs an ORDER BY in its window")
    start, end = (_bound(spec, which, kind, order, inner) for which in ("start", "end"))
    if start == "UNBOUNDED FOLLOWING" or end == "UNBOUNDED PRECEDING":
        raise SqlError("A window frame begins before it ends")
    return f"{kind} BETWEEN {start} AND {end}"


def _bound(spec: exp.Expr, which: str, kind: str, order: exp.Expr | None, inner: Expressions) -> str:
    bound, side = spec.args.get(which), spec.text(f"{which}_side").upper()
    if which == "end" and bound is None:
        return "CURRENT ROW"
    text = bound.upper() if isinstance(bound, str) else ""
    if text == "CURRENT ROW":
        return text
    if side in ("PRECEDING", "FOLLOWING") and text == "UNBOUNDED":
        return f"{text} {side}"
    if side not in ("PRECEDING", "FOLLOWING") or not isinstance(bound, exp.Expr):
        raise SqlError(f"{shown(spec)} is not supported by this sandbox")
    if kind != "RANGE":
        literal = isinstance(bound, exp.Literal) and re.fullmatch(r"\d{1,9}", bound.this)
        if not literal or bound.args.get("is_string"):
            raise SqlError("A window frame's bounds are UNBOUNDED, CURRENT ROW or a whole number of rows")
        return f"{bound.this} {side}"
    return f"{_distance(bound, order, inner)} {side}"


def _distance(bound: exp.Expr, order: exp.Expr | None, inner: Expressions) -> str:
    """How far RANGE n PRECEDING reaches, in the units of the one column that the window is ordered by."""
    items = order.expressions if order is not None else []
    if len(items) != 1:
        raise SqlError("RANGE with a distance needs one ORDER BY expression in its window")
    key, distance = inner.value(items[0].this), inner.value(bound)
    if (
        key.type.is_number
        and distance.type.is_number
        and distance.constant is not None
        and distance.constant >= 0
    ):
        return coerce(distance, common_type((key.type, distance.type), "RANGE")).sql
    if key.type.is_moment and distance.type == MONTHS:
        return f"to_months(CAST({distance.sql} AS INTEGER))"
    if key.type.is_moment and distance.type == SECONDS:
        return f"t_whole_days({distance.sql})" if key.type == DATE else f"to_milliseconds({distance.sql})"
    raise SqlError(f"RANGE of {distance.type} over {key.type} is not supported by this sandbox")
