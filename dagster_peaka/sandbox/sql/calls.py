"""Calls: scalar functions with their lambdas, and aggregates with DISTINCT, ORDER BY, FILTER and OVER."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sqlglot import exp

from dagster_peaka.sandbox.sql import functions, operators
from dagster_peaka.sandbox.sql.expressions import Expressions
from dagster_peaka.sandbox.sql.kinds import (
    BIGINT,
    DATE,
    MONTHS,
    SECONDS,
    SqlError,
    Type,
    Value,
    array_of,
    coerce,
    coerces,
    common_type,
)
from dagster_peaka.sandbox.sql.nodes import (
    bare_names,
    check_arguments,
    describe,
    direction,
    function_name,
    shown,
)
from dagster_peaka.sandbox.sql.scope import Field, Scope

_WRAPPED = (exp.Filter, exp.IgnoreNulls, exp.RespectNulls)


def anonymous(here: Expressions, node: exp.Expr) -> Value:
    """A call as it is written."""
    name = function_name(node)
    if name in functions.AGGREGATES:
        return aggregate(here, node)
    if name == "now" and not node.expressions:
        return here.value(exp.CurrentTimestamp())
    if name == "grouping" and here.aggregates:
        return Value(f"grouping({', '.join(key.sql for key in here.values(node.expressions))})", BIGINT)
    if name in functions.WINDOWED:
        raise SqlError(f"{name} needs an OVER")
    if name == "reduce" and len(node.expressions) == 4:
        return _reduce(here, node.expressions)
    if name == "zip_with" and len(node.expressions) == 3:
        return _zip_with(here, node.expressions)
    return functions.call(name, [_argument(here, argument) for argument in node.expressions])


def _argument(here: Expressions, node: exp.Expr) -> functions.Argument:
    if not isinstance(node, exp.Lambda):
        return here.value(node)

    def of(kinds: Sequence[Type]) -> Value:
        names = [here.statement.name("l") for _ in kinds]
        body = _body(here, node, [Value(name, kind) for name, kind in zip(names, kinds, strict=True)])
        return Value(f"lambda {', '.join(names)}: {body.sql}", body.type)

    return of


def _body(here: Expressions, node: exp.Expr, parameters: Sequence[Value]) -> Value:
    """What a lambda gives for parameters that have these values."""
    if not isinstance(node, exp.Lambda) or len(node.expressions) != len(parameters):
        raise SqlError(f"{shown(node)}: expected a lambda of {len(parameters)} parameters")
    check_arguments(node, "this expressions")
    pairs = zip(node.expressions, parameters, strict=True)
    scope = Scope([Field(one.name, to.sql, to.type) for one, to in pairs], here.scope, clear=True)
    return here.rows("A lambda", scope).value(node.this)


def _reduce(here: Expressions, nodes: Sequence[exp.Expr]) -> Value:
    """reduce(array, start, (state, element) -> state, state -> result)."""
    items, state = here.values(nodes[:2])
    if items.type.name != "array":
        raise SqlError("reduce takes an array, a start and two lambdas")
    # DuckDB's elements and states share a type, so each row of `pairs` has place for both.
    s, e, t = (here.statement.name("l") for _ in range(3))
    merged = _body(here, nodes[2], [Value(f"{s}.s", state.type), Value(f"{e}.e", items.type.of[0])])
    if not coerces(merged.type, state.type):
        raise SqlError(f"reduce: the state is {state.type}, but the lambda gives {merged.type}")
    empty = f"CAST(NULL AS {state.type.stored})", f"CAST(NULL AS {items.type.of[0].stored})"
    pairs = f"list_transform({items.sql}, lambda {e}: struct_pack(s := {empty[0]}, e := {e}))"
    step = f"lambda {s}, {e}: struct_pack(s := {coerce(merged, state.type).sql}, e := {empty[1]})"
    whole = f"list_reduce({pairs}, {step}, struct_pack(s := {state.sql}, e := {empty[1]}))"
    result = _body(here, nodes[3], [Value(t, state.type)])
    sql = f"list_transform([struct_extract({whole}, 's')], lambda {t}: {result.sql})[1]"
    return Value(f"CASE WHEN {items.sql} IS NOT NULL THEN {sql} END", result.type)


def _zip_with(here: Expressions, nodes: Sequence[exp.Expr]) -> Value:
    a, b = here.values(nodes[:2])
    if a.type.name != "array" or b.type.name != "array":
        raise SqlError("zip_with takes two arrays and a lambda")
    at = here.statement.name("l")
    body = _body(here, nodes[2], [Value(f"list_extract({x.sql}, {at})", x.type.of[0]) for x in (a, b)])
    longest = f"range(1, CASE WHEN len({a.sql}) > len({b.sql}) THEN len({a.sql}) ELSE len({b.sql}) END + 1)"
    return Value(f"list_transform({longest}, lambda {at}: {body.sql})", array_of(body.type))


# --- Aggregates


def contains_aggregate(node: exp.Expr) -> bool:
    """Whether the expression holds an aggregate of its own query: not a window's, not a subquery's."""
    return any(
        isinstance(one, exp.Anonymous) and function_name(one) in functions.AGGREGATES and not _has_over(one)
        for one in node.walk(prune=lambda inner: isinstance(inner, exp.Query))
    )


def _has_over(node: exp.Expr) -> bool:
    while isinstance(node.parent, _WRAPPED) and node.arg_key == "this":
        node = node.parent
    return isinstance(node.parent, exp.Window) and node.arg_key == "this"


def aggregate(here: Expressions, node: exp.Expr) -> Value:
    """An aggregate over the rows of a group."""
    if not here.aggregates:
        raise SqlError(f"{here.place} cannot contain the aggregate {shown(node)}")
    for name in bare_names(node):
        field = here.scope.find(name)
        if name in here.aliases and (field is None or here.aliases[name].sql != field.sql):
            raise SqlError(f"ORDER BY {shown(node)}: {name} is also a name of the select list; qualify it")
    before = here.scope.outer_uses
    value = _over_rows(here.rows("An aggregate"), node, "")
    if here.scope.outer_uses != before:
        raise SqlError(f"{shown(node)} uses an outer query's column, which this sandbox does not support")
    return value


def _over_rows(here: Expressions, node: exp.Expr, over: str) -> Value:
    """The aggregate's SQL with this place's columns as its rows; DISTINCT, ORDER BY, FILTER and OVER included."""
    test = order = nulls = distinct = ""
    if isinstance(node, exp.Filter):
        check_arguments(node, "this expression")
        test, node = f" FILTER (WHERE {here.term(node.expression.this).sql})", node.this
    if isinstance(node, exp.WithinGroup):
        check_arguments(node, "this expression")
        order, node = f" ORDER BY {_ordering(here, node.expression)}", node.this
    if isinstance(node, (exp.IgnoreNulls, exp.RespectNulls)) and over:
        nulls, node = " IGNORE NULLS" if isinstance(node, exp.IgnoreNulls) else "", node.this
    if not isinstance(node, exp.Anonymous):
        raise SqlError(f"{describe(node)} is not supported here by this sandbox")
    check_arguments(node, "this expressions")
    name, arguments = function_name(node), list[exp.Expr](node.expressions)
    if arguments and isinstance(last := arguments[-1], exp.Order):
        order = f" ORDER BY {_ordering(here, last)}"
        arguments[-1] = last.this
    if arguments and isinstance(first := arguments[0], exp.Distinct):
        takes = ("count", "sum", "avg", "min", "max", "array_agg", "listagg")
        if (
            len(first.expressions) != 1
            or isinstance(first.expressions[0], exp.Star)
            or over
            or name not in takes
        ):
            raise SqlError(f"{shown(node)}: DISTINCT takes one argument, of an aggregate that has it")
        check_arguments(first, "expressions")
        distinct, arguments[0] = "DISTINCT ", first.expressions[0]
    if order and name not in ("array_agg", "listagg", "map_agg"):
        raise SqlError(f"{shown(node)}: ORDER BY is not supported here by this sandbox")
    if name == "listagg" and not order:
        raise SqlError("listagg needs WITHIN GROUP (ORDER BY …)")
    if name == "count" and (not arguments or isinstance(arguments[0], exp.Star)) and len(arguments) < 2:
        return Value(f"count(*){test}{over}", BIGINT)

    def native(call: str) -> str:
        function, _, rest = call.partition("(")
        return f"{function}({distinct}{rest[:-1]}{nulls}{order}){test}{over}"

    values = here.values(arguments)
    if over and name in ("lag", "lead", "nth_value", "ntile"):
        _check_offset(name, values)
    return functions.aggregate(name, values, native)


def _ordering(here: Expressions, order: exp.Expr) -> str:
    """The items of an ORDER BY inside of an aggregate or a window."""
    items: list[str] = []
    for item in order.expressions:
        value = here.value(item.this)
        operators.scalar(value.type, "ORDER BY")
        items.append(direction(item, value.sql))
    return ", ".join(items)


def _check_offset(name: str, values: Sequence[Value]) -> None:
    at, least = (0 if name == "ntile" else 1), (0 if name in ("lag", "lead") else 1)
    constant = values[at].constant if len(values) > at else least
    if constant is None or constant < least:
        raise SqlError(f"{name}: this sandbox takes the offset as an integer literal only, {least} or more")


# --- Windows

_PARTS = ("partition_by", "order", "spec")


def window(here: Expressions, node: exp.Expr) -> Value:
    """A call with its OVER."""
    if here.windows is None:
        raise SqlError(f"{here.place} cannot contain the window function {shown(node)}")
    given = _resolved(node, here.windows)
    inner, function = here.inside("A window"), node.this
    while isinstance(function, _WRAPPED):
        function = function.this
    name = function_name(function) if isinstance(function, exp.Anonymous) else ""
    if name not in functions.WINDOWED:
        raise SqlError(f"{describe(function)} is not supported in a window by this sandbox")
    order: exp.Expr | None = given["order"]
    if order is None and name in functions.RANKINGS - {"row_number"}:
        raise SqlError(f"{name} needs an ORDER BY in its window")
    keys = ", ".join(key.sql for key in inner.values(given["partition_by"] or []))
    by = f"ORDER BY {_ordering(inner, order)} " if order is not None else ""
    frame = _frame(given["spec"], name, order, inner)
    return _over_rows(inner, node.this, f" OVER ({f'PARTITION BY {keys} ' if keys else ''}{by}{frame})")


def _resolved(node: exp.Expr, named: Mapping[str, exp.Expr]) -> dict[str, Any]:
    """The parts of a window, those of the WINDOW that it names among them."""
    own = {part: node.args.get(part) for part in _PARTS}
    if node.args.get("alias") is None:
        return own
    base = named.get(node.text("alias").lower())
    if base is None:
        raise SqlError(f"WINDOW {node.text('alias')} cannot be resolved")
    known = _resolved(base, named)
    if own["partition_by"] or (own["order"] and known["order"]) or (any(own.values()) and known["spec"]):
        raise SqlError(f"{shown(node)} cannot add that to its WINDOW")
    return {part: own[part] or known[part] for part in _PARTS}


def _frame(spec: exp.Expr | None, name: str, order: exp.Expr | None, inner: Expressions) -> str:
    if spec is None:
        return ""
    if name in functions.RANKINGS:
        raise SqlError(f"Cannot specify a window frame for {name}")
    check_arguments(spec, "kind start start_side end end_side")
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
    bound: Any = spec.args.get(which) or {"end": "CURRENT ROW"}.get(which)
    side = spec.text(f"{which}_side").upper()
    if isinstance(bound, str):  # UNBOUNDED or CURRENT ROW
        return f"{bound} {side}".upper().strip()
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
        and (-1 if distance.constant is None else distance.constant) >= 0
    ):
        return coerce(distance, common_type((key.type, distance.type), "RANGE")).sql
    if key.type.is_moment and distance.type == MONTHS:
        return f"to_months(CAST({distance.sql} AS INTEGER))"
    if key.type.is_moment and distance.type == SECONDS:
        return f"t_whole_days({distance.sql})" if key.type == DATE else f"to_milliseconds({distance.sql})"
    raise SqlError(f"RANGE of {distance.type} over {key.type} is not supported by this sandbox")
