"""Calls: scalar functions with their lambdas, and aggregates with DISTINCT, ORDER BY, FILTER and OVER."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlglot import exp

from dagster_peaka.sandbox.sql import functions, operators
from dagster_peaka.sandbox.sql.expressions import Compilers, Expressions
from dagster_peaka.sandbox.sql.kinds import (
    BIGINT,
    UNKNOWN,
    VARCHAR,
    SqlError,
    Type,
    Value,
    array_of,
    coerce,
    coerces,
    wrong,
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

_BINARY = frozenset({"this", "expression"})
_LISTED = frozenset({"this", "expressions"})


_TRIMS = {"": "trim", "BOTH": "trim", "LEADING": "ltrim", "TRAILING": "rtrim"}


def _trim(here: Expressions, node: exp.Expr) -> Value:
    text, gone = here.value(node.this), node.args.get("expression")
    side = node.text("position").upper()
    if text.type not in (VARCHAR, UNKNOWN) or side not in _TRIMS:
        raise wrong("trim", [text], "(varchar)")
    return Value(
        f"{_TRIMS[side]}({text.sql}, {'t_spaces()' if gone is None else here.value(gone).sql})", VARCHAR
    )


def _substring(here: Expressions, node: exp.Expr) -> Value:
    parts = [node.this, node.args.get("start"), node.args.get("length")]
    return functions.call("substr", [here.value(part) for part in parts if part is not None])


def _strposition(here: Expressions, node: exp.Expr) -> Value:
    return functions.call("strpos", [here.value(node.this), here.value(node.args["substr"])])


def _anonymous(here: Expressions, node: exp.Expr) -> Value:
    name = function_name(node)
    if name in functions.AGGREGATES:
        return _aggregate(here, node)
    if name == "now" and not node.expressions:
        return here.value(exp.CurrentTimestamp())
    if name == "grouping" and here.aggregates:
        return Value(f"grouping({', '.join(here.value(key).sql for key in node.expressions)})", BIGINT)
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
    check_arguments(node, _LISTED)
    pairs = zip(node.expressions, parameters, strict=True)
    scope = Scope([Field(one.name, to.sql, to.type) for one, to in pairs], here.scope, lambda_of=True)
    return here.inside("A lambda", scope, aggregates=False).value(node.this)


def _reduce(here: Expressions, nodes: Sequence[exp.Expr]) -> Value:
    """reduce(array, start, (state, element) -> state, state -> result)."""
    items, state = here.value(nodes[0]), here.value(nodes[1])
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
    a, b = here.value(nodes[0]), here.value(nodes[1])
    if a.type.name != "array" or b.type.name != "array":
        raise SqlError("zip_with takes two arrays and a lambda")
    at = here.statement.name("l")
    both = [Value(f"list_extract({one.sql}, {at})", one.type.of[0]) for one in (a, b)]
    body = _body(here, nodes[2], both)
    longest = f"range(1, CASE WHEN len({a.sql}) > len({b.sql}) THEN len({a.sql}) ELSE len({b.sql}) END + 1)"
    return Value(f"list_transform({longest}, lambda {at}: {body.sql})", array_of(body.type))


def _filter(here: Expressions, node: exp.Expr) -> Value:
    return _aggregate(here, node)


def _window(here: Expressions, node: exp.Expr) -> Value:
    if here.windows is None:
        raise SqlError(f"{here.place} cannot contain the window function {shown(node)}")
    return here.windows(here, node)


def _aggregate(here: Expressions, node: exp.Expr) -> Value:
    if not here.aggregates:
        raise SqlError(f"{here.place} cannot contain the aggregate {shown(node)}")
    rows = here.inside("An aggregate", aggregates=False)
    for name in bare_names(node):
        if name in here.aliases and here.aliases[name].sql != _visible(here, name):
            raise SqlError(f"ORDER BY {shown(node)}: {name} is also a name of the select list; qualify it")
    before = here.scope.outer_uses
    value = aggregated(rows, node, "")
    if here.scope.outer_uses != before:
        raise SqlError(f"{shown(node)} uses an outer query's column, which this sandbox does not support")
    return value


def _visible(here: Expressions, name: str) -> str | None:
    fields = [one for one in here.scope.fields if one.name.lower() == name]
    return fields[0].sql if len(fields) == 1 else None


def aggregated(here: Expressions, node: exp.Expr, over: str) -> Value:
    """The aggregate's SQL with this place's columns as its rows; DISTINCT, ORDER BY, FILTER and OVER included."""
    test = order = nulls = ""
    if isinstance(node, exp.Filter):
        check_arguments(node, _BINARY)
        test = f" FILTER (WHERE {here.term(node.expression.this).sql})"
        node = node.this
    if isinstance(node, exp.WithinGroup):
        check_arguments(node, _BINARY)
        order = f" ORDER BY {ordering(here, node.expression)}"
        node = node.this
    if isinstance(node, exp.IgnoreNulls) and over:
        nulls, node = " IGNORE NULLS", node.this
    if not isinstance(node, exp.Anonymous):
        raise SqlError(f"{describe(node)} is not supported here by this sandbox")
    check_arguments(node, _LISTED)
    name, arguments = function_name(node), list[exp.Expr](node.expressions)
    if arguments and isinstance(last := arguments[-1], exp.Order):
        order = f" ORDER BY {ordering(here, last)}"
        arguments[-1] = last.this
    arguments, distinct = _distinct(node, arguments, over)
    if order and name not in ("array_agg", "listagg", "map_agg"):
        raise SqlError(f"{shown(node)}: ORDER BY is not supported here by this sandbox")
    if name == "count" and (not arguments or isinstance(arguments[0], exp.Star)) and len(arguments) < 2:
        return Value(f"count(*){test}{over}", BIGINT)

    def native(call: str) -> str:
        function, _, rest = call.partition("(")
        return f"{function}({distinct}{rest[:-1]}{nulls}{order}){test}{over}"

    values = [here.value(argument) for argument in arguments]
    if name == "listagg":
        return _listagg(here, values, native, bool(order))
    if over and name in ("lag", "lead", "nth_value", "ntile"):
        _check_offset(name, values)
    return functions.aggregate(name, values, native)


def _listagg(here: Expressions, values: Sequence[Value], native: functions.Native, ordered: bool) -> Value:
    if len(values) not in (1, 2) or any(value.type != VARCHAR for value in values) or not ordered:
        raise SqlError("listagg takes (varchar, varchar) and WITHIN GROUP (ORDER BY …)")
    separator = values[1].sql if len(values) == 2 else "''"
    return Value(native(f"string_agg({values[0].sql}, {separator})"), VARCHAR)


def ordering(here: Expressions, order: exp.Expr) -> str:
    """The items of an ORDER BY inside of an aggregate or a window."""
    values = [here.value(item.this) for item in order.expressions]
    for value in values:
        operators.scalar(value.type, "ORDER BY")
    return ", ".join(
        direction(item, value.sql) for item, value in zip(order.expressions, values, strict=True)
    )


def _check_offset(name: str, values: Sequence[Value]) -> None:
    at, least = (0 if name == "ntile" else 1), (0 if name in ("lag", "lead") else 1)
    constant = values[at].constant if len(values) > at else least
    if constant is None or constant < least:
        raise SqlError(f"{name}: this sandbox takes the offset as an integer literal only, {least} or more")


def _distinct(node: exp.Expr, arguments: Sequence[exp.Expr], over: str) -> tuple[Sequence[exp.Expr], str]:
    if not any(isinstance(argument, exp.Distinct) for argument in arguments):
        return arguments, ""
    listed = arguments[0].expressions
    if len(listed) != 1 or isinstance(listed[0], exp.Star):
        raise SqlError(f"{shown(node)}: DISTINCT takes one argument")
    check_arguments(arguments[0], frozenset({"expressions"}))
    if over or function_name(node) not in ("count", "sum", "avg", "min", "max", "array_agg", "listagg"):
        raise SqlError(f"{shown(node)}: DISTINCT is not supported here by this sandbox")
    return [*listed, *arguments[1:]], "DISTINCT "


def contains_aggregate(node: exp.Expr) -> bool:
    """Whether the expression holds an aggregate of its own query: not a window's, not a subquery's."""
    return any(
        isinstance(one, exp.Anonymous) and function_name(one) in functions.AGGREGATES for one in _own(node)
    )


def _own(node: exp.Expr) -> Iterator[exp.Expr]:
    """The nodes of this expression, without the functions that windows belong to and without subqueries."""
    waiting: list[exp.Expr] = [node]
    while waiting:
        found = waiting.pop()
        if isinstance(found, exp.Query):
            continue
        if isinstance(found, exp.Window):
            function = found.this
            while isinstance(function, (exp.Filter, exp.IgnoreNulls, exp.RespectNulls)):
                function = function.this
            waiting.extend(function.iter_expressions())
            waiting.extend(part for part in found.iter_expressions() if part is not found.this)
            continue
        yield found
        waiting.extend(found.iter_expressions())


NODES: Compilers = {
    exp.Trim: (frozenset({"expression", "position", "this"}), _trim),
    exp.Substring: (frozenset({"length", "start", "this"}), _substring),
    exp.StrPosition: (frozenset({"substr", "this"}), _strposition),
    exp.Anonymous: (frozenset({"expressions", "this"}), _anonymous),
    **dict.fromkeys((exp.Filter, exp.WithinGroup), (frozenset({"expression", "this"}), _filter)),
    exp.Window: (frozenset({"alias", "order", "over", "partition_by", "spec", "this"}), _window),
}
"""Calls; with the arguments that are understood."""
