"""Expressions: each node of sqlglot's tree that is on the list becomes typed SQL for SQLite, any other is refused.

`NODES` is that list, with the arguments of each node that are understood. A grouped query has two kinds of
places: inside aggregates, where the rows' columns are seen, and outside, where only groups are (`Grouping`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from dagster_peaka.sandbox import trino_dates as dates
from dagster_peaka.sandbox import trino_functions as functions
from dagster_peaka.sandbox.trino_scope import Query, Scope
from dagster_peaka.sandbox.trino_types import (
    BIGINT,
    BOOLEAN,
    DATE,
    NULL,
    TIMESTAMP,
    UNKNOWN,
    VARCHAR,
    ZONED,
    SqlError,
    Type,
    Value,
    coerce,
    coerces,
    common_type,
    number_literal,
    parse_type,
    text_literal,
)

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
    exp.NullSafeEQ: "IS",
    exp.NullSafeNEQ: "IS NOT",
}
_PREDICATES = (exp.Predicate, exp.Connector, exp.Not, exp.Between, exp.In, exp.Is, exp.Like, exp.Escape)
_INTERVALS = ("second", "minute", "hour", "day", "month", "year")
_EXTRACTED = frozenset(functions.FIELDS) - {"week_of_year", "millisecond"}


_BINARY = frozenset({"this", "expression"})
_UNARY = frozenset({"this"})

HEAVIEST_STATEMENT = 100_000
"""Uses of columns in a statement, once all subqueries are written into each other."""

NODES: dict[type[exp.Expr], frozenset[str]] = {
    exp.Literal: frozenset({"this", "is_string"}),
    exp.Null: frozenset(),
    exp.Boolean: _UNARY,
    exp.Placeholder: _UNARY,
    exp.Column: frozenset({"this", "table", "db", "catalog"}),
    exp.CurrentDate: frozenset(),
    exp.CurrentTimestamp: frozenset(),
    exp.Localtimestamp: frozenset(),
    exp.Paren: _UNARY,
    **dict.fromkeys((exp.Add, exp.Sub, exp.Mul, exp.Mod), _BINARY),
    exp.Div: _BINARY | {"typed", "safe"},
    exp.Neg: _UNARY,
    **dict.fromkeys(
        (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ), _BINARY
    ),
    **dict.fromkeys((exp.And, exp.Or), _BINARY),
    exp.Not: _UNARY,
    exp.DPipe: _BINARY | {"safe"},
    exp.Between: frozenset({"this", "low", "high"}),
    exp.Is: _BINARY,
    exp.In: frozenset({"this", "expressions", "query"}),
    exp.Like: _BINARY | {"negate"},
    exp.Escape: _BINARY,
    exp.Subquery: _UNARY,
    exp.Exists: _UNARY,
    exp.Case: frozenset({"this", "ifs", "default"}),
    exp.If: frozenset({"this", "true", "false"}),
    exp.Cast: frozenset({"this", "to"}),
    exp.TryCast: frozenset({"this", "to", "safe"}),
    exp.Extract: _BINARY,
    exp.Anonymous: frozenset({"this", "expressions"}),
    exp.Filter: _BINARY,
    exp.Window: frozenset({"this", "partition_by", "order", "spec", "over"}),
}
"""The allow-list of expressions: sqlglot's node types, each with the arguments of it that are understood."""


@dataclass
class Statement:
    """What holds for the whole statement: its bindings, by where their ? stands, and the time that now() tells."""

    bindings: Mapping[str, int]
    now: int
    names: int = 0
    weight: int = 0

    def name(self, letter: str) -> str:
        """A name that nothing else in the generated SQL has."""
        self.names += 1
        return f"{letter}{self.names}"

    def carry(self, weight: int) -> None:
        """Counts a use of a column. SQLite writes subqueries into each other, so x || x, 40 times over, is 2^40 x."""
        self.weight += weight
        if self.weight > HEAVIEST_STATEMENT:
            raise SqlError("The statement is too large for this sandbox: its subqueries multiply each other")


@dataclass
class Grouping:
    """A grouped query: its keys and aggregates by their SQL over the rows, and the names that they get."""

    alias: str
    rows: Expressions
    keys: dict[str, Value] = field(default_factory=dict[str, Value])
    aggregates: dict[str, Value] = field(default_factory=dict[str, Value])

    def add_key(self, value: Value) -> None:
        """One GROUP BY expression, compiled over the rows."""
        self.keys.setdefault(value.sql, Value(f"{self.alias}.k{len(self.keys)}", value.type))

    def aggregate(self, value: Value) -> Value:
        """An aggregate, compiled over the rows, as seen from outside."""
        name = f"{self.alias}.a{len(self.aggregates)}"
        return self.aggregates.setdefault(value.sql, Value(name, value.type))


Subquery = Callable[[exp.Expr, Scope], Query]


class Expressions:
    """Compiles the expressions of one place in a query.

    `place` names it in errors. `grouping` is set outside of a grouped query's aggregates; `windows` says whether
    window functions may stand here; `aliases` are the select list's names, which ORDER BY sees first.
    """

    def __init__(
        self,
        statement: Statement,
        scope: Scope,
        subquery: Subquery,
        place: str,
        *,
        grouping: Grouping | None = None,
        windows: bool = False,
        aliases: Mapping[str, Value] | None = None,
    ) -> None:
        self.scope = scope
        self._statement = statement
        self._subquery = subquery
        self._place = place
        self._grouping = grouping
        self._windows = windows
        self._aliases = aliases or {}
        self._compilers: dict[type[exp.Expr], Callable[[exp.Expr], Value]] = {
            **dict.fromkeys((exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod), self._arithmetic),
            **dict.fromkeys((exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE), self._comparison),
            **dict.fromkeys((exp.NullSafeEQ, exp.NullSafeNEQ), self._comparison),
            **dict.fromkeys((exp.And, exp.Or), self._logic),
            **dict.fromkeys((exp.Cast, exp.TryCast), self._cast),
            exp.Literal: self._literal,
            exp.Null: self._null,
            exp.Boolean: self._boolean,
            exp.Placeholder: self._placeholder,
            exp.Column: self._column,
            exp.CurrentDate: self._current_date,
            exp.CurrentTimestamp: self._current_timestamp,
            exp.Localtimestamp: self._localtimestamp,
            exp.Paren: self._parentheses,
            exp.Neg: self._negation,
            exp.Not: self._not,
            exp.DPipe: self._concat,
            exp.Between: self._between,
            exp.Is: self._is,
            exp.In: self._in,
            exp.Like: self._like,
            exp.Escape: self._escape,
            exp.Subquery: self._scalar_subquery,
            exp.Exists: self._exists,
            exp.Case: self._case,
            exp.If: self._if,
            exp.Extract: self._extract,
            exp.Anonymous: self._function,
            exp.Filter: self._aggregate,
            exp.Window: self._window,
        }

    def value(self, node: exp.Expr) -> Value:
        """The node's value; SqlError naming what is wrong or not supported."""
        understood = NODES.get(type(node))
        if understood is None:
            raise SqlError(f"{describe(node)} is not supported by this sandbox")
        check_arguments(node, understood)
        if self._grouping is not None and (key := self._group_key(node, self._grouping)):
            return key
        return self._compilers[type(node)](node)

    def condition(self, node: exp.Expr) -> Value:
        """The node's value, which must be a boolean."""
        value = self.value(node)
        if not coerces(value.type, BOOLEAN):
            raise SqlError(f"{self._place} must be a boolean, but {_shown(node)} is {value.type}")
        return value

    def _group_key(self, node: exp.Expr, grouping: Grouping) -> Value | None:
        """The key that the node is, if the query is grouped by just this expression."""
        if (
            not grouping.keys
            or isinstance(node, (exp.Literal, exp.Null, exp.Boolean))
            or contains_aggregate(node)
        ):
            return None
        if any(True for _ in node.find_all(exp.Select, exp.Window, exp.SetOperation)):
            return None
        if any(name in self._aliases for name in _bare_names(node)):
            return None
        return grouping.keys.get(grouping.rows.value(node).sql)

    def _operand(self, node: exp.Expr) -> Value:
        """A side of an operator. Trino has no a = b = c, so a predicate there wants its parentheses."""
        if isinstance(node, _PREDICATES):
            raise SqlError(f"{_shown(node)} needs parentheses around it to be part of another expression")
        return self.value(node)

    # --- Leaves

    def _literal(self, node: exp.Expr) -> Value:
        if not node.args.get("is_string"):
            return number_literal(node.this)
        return Value(text_literal(node.this), VARCHAR, text=node.this)

    def _null(self, _: exp.Expr) -> Value:
        return NULL

    def _boolean(self, node: exp.Expr) -> Value:
        return Value(str(int(node.this)), BOOLEAN)

    def _placeholder(self, node: exp.Expr) -> Value:
        return Value(f"?{self._statement.bindings[node.this] + 1}", VARCHAR)

    def _column(self, node: exp.Expr) -> Value:
        if isinstance(node.this, exp.Star):
            raise SqlError(f"{_shown(node)} cannot stand in an expression")
        qualifier = [node.args[part].name for part in ("catalog", "db", "table") if node.args.get(part)]
        if not qualifier and (alias := self._aliases.get(node.name.lower())):
            return alias
        found = self.scope.find(node.name, qualifier, f"{position(node)}Column '{_dotted(node)}'")
        self._statement.carry(found.weight)
        return found.use()

    def _current_date(self, _: exp.Expr) -> Value:
        return Value(str(self._statement.now // dates.DAY), DATE)

    def _current_timestamp(self, _: exp.Expr) -> Value:
        return Value(str(self._statement.now), ZONED)

    def _localtimestamp(self, _: exp.Expr) -> Value:
        return Value(str(self._statement.now), TIMESTAMP)

    # --- Operators

    def _parentheses(self, node: exp.Expr) -> Value:
        return self.value(node.this)

    def _arithmetic(self, node: exp.Expr) -> Value:
        symbol = _SYMBOLS[type(node)]
        left, right = node.this, node.expression
        if isinstance(right, exp.Interval) and symbol in "+-":
            return self._shifted(self._operand(left), right, 1 if symbol == "+" else -1)
        if isinstance(left, exp.Interval) and symbol == "+":
            return self._shifted(self._operand(right), left, 1)
        return functions.arithmetic(symbol, self._operand(left), self._operand(right))

    def _shifted(self, moment: Value, interval: exp.Interval, sign: int) -> Value:
        check_arguments(interval, frozenset({"this", "unit"}))
        unit = interval.text("unit").lower()
        amount = interval.this
        is_plain = isinstance(amount, exp.Literal) and re.fullmatch(r"-?\d{1,9}", amount.this, re.ASCII)
        if not is_plain or not amount.args.get("is_string") or unit not in _INTERVALS:
            raise SqlError(
                f"{_shown(interval)}: intervals are written INTERVAL '1' and one of {', '.join(_INTERVALS)}"
            )
        if moment.type != DATE and not moment.type.is_timestamp:
            raise SqlError(f"Cannot apply operator: {moment.type} + interval")
        if moment.type == DATE and unit not in dates.DATE_UNITS:
            raise SqlError("Cannot add hours, minutes or seconds to a date")
        shifted = functions.date_add(unit, str(sign * int(amount.this)), moment)
        if moment.type.is_timestamp and unit in dates.FIXED_UNITS:
            return Value(shifted.sql, Type(moment.type.name, max(3, moment.type.precision)))
        return shifted

    def _negation(self, node: exp.Expr) -> Value:
        return functions.negate(self._operand(node.this))

    def _comparison(self, node: exp.Expr) -> Value:
        return functions.compare(
            _SYMBOLS[type(node)], self._operand(node.this), self._operand(node.expression)
        )

    def _logic(self, node: exp.Expr) -> Value:
        """AND and OR, of a whole chain at once: a thousand of them are no thousand levels deep."""
        kind = type(node)
        terms: list[exp.Expr] = []
        left: exp.Expr = node
        while type(left) is kind:
            terms.append(left.expression)
            left = left.this
        word = " AND " if kind is exp.And else " OR "
        return Value(f"({word.join(self._term(term).sql for term in (left, *reversed(terms)))})", BOOLEAN)

    def _term(self, node: exp.Expr) -> Value:
        value = self.value(node)
        if not coerces(value.type, BOOLEAN):
            raise SqlError(f"Logical expressions take booleans, but {_shown(node)} is {value.type}")
        return value

    def _not(self, node: exp.Expr) -> Value:
        return Value(f"(NOT {self._term(node.this).sql})", BOOLEAN)

    def _concat(self, node: exp.Expr) -> Value:
        return functions.concat("||", [self._operand(node.this), self._operand(node.expression)])

    def _between(self, node: exp.Expr) -> Value:
        values = [self._operand(node.args[part]) for part in ("this", "low", "high")]
        kind = common_type((value.type for value in values), "BETWEEN")
        value, low, high = (coerce(value, kind).sql for value in values)
        return Value(f"({value} BETWEEN {low} AND {high})", BOOLEAN)

    def _is(self, node: exp.Expr) -> Value:
        if not isinstance(node.expression, exp.Null):
            raise SqlError(f"{_shown(node)} is not supported: Trino has IS NULL and IS DISTINCT FROM")
        return Value(f"({self._operand(node.this).sql} IS NULL)", BOOLEAN)

    def _in(self, node: exp.Expr) -> Value:
        value = self._operand(node.this)
        if query := node.args.get("query"):
            return self._in_query(value, query)
        listed = [self.value(item) for item in node.expressions]
        if not listed:
            raise SqlError("IN needs at least one value")
        kind = common_type((value.type, *(item.type for item in listed)), "IN")
        return Value(
            f"({coerce(value, kind).sql} IN ({', '.join(coerce(i, kind).sql for i in listed)}))", BOOLEAN
        )

    def _in_query(self, value: Value, node: exp.Expr) -> Value:
        query = self._one_column(node)
        name = self._statement.name("q")
        item = Value(f"{name}.o0", query.outputs[0].type)
        kind = common_type((value.type, item.type), "IN")
        rows = f"SELECT {coerce(item, kind).sql} FROM ({query.sql}) AS {name}"
        return Value(f"({coerce(value, kind).sql} IN ({rows}))", BOOLEAN)

    def _like(self, node: exp.Expr) -> Value:
        return self._like_with(node, None)

    def _escape(self, node: exp.Expr) -> Value:
        inner = node.this
        if not isinstance(inner, exp.Like):
            raise SqlError(f"{_shown(node)} is not supported by this sandbox")
        check_arguments(inner, NODES[exp.Like])
        return self._like_with(inner, self._operand(node.expression))

    def _like_with(self, node: exp.Expr, escape: Value | None) -> Value:
        found = functions.like(self._operand(node.this), self._operand(node.expression), escape)
        return Value(f"(NOT {found.sql})", BOOLEAN) if node.args.get("negate") else found

    # --- Subqueries

    def _one_column(self, node: exp.Expr) -> Query:
        query = self._subquery(node, self.scope)
        if len(query.outputs) != 1:
            raise SqlError(f"A subquery used as a value has one column, this one has {len(query.outputs)}")
        return query

    def _scalar_subquery(self, node: exp.Expr) -> Value:
        query = self._one_column(node)
        name = self._statement.name("q")
        one = f"SELECT t_one_row(count(*) OVER (), {name}.o0) FROM ({query.sql}) AS {name} LIMIT 1"
        return Value(f"({one})", query.outputs[0].type)

    def _exists(self, node: exp.Expr) -> Value:
        return Value(f"(EXISTS ({self._subquery(node.this, self.scope).sql}))", BOOLEAN)

    # --- Functions

    def _case(self, node: exp.Expr) -> Value:
        whens: list[exp.Expr] = node.args.get("ifs") or []
        for when in whens:
            check_arguments(when, frozenset({"this", "true"}))
        results = [self.value(when.args["true"]) for when in whens]
        default = self.value(node.args["default"]) if node.args.get("default") else NULL
        kind = common_type((value.type for value in (*results, default)), "CASE")
        subject, tests = self._case_tests(node.this, [when.this for when in whens])
        branches = " ".join(
            f"WHEN {test} THEN {coerce(result, kind).sql}"
            for test, result in zip(tests, results, strict=True)
        )
        return Value(f"CASE {subject} {branches} ELSE {coerce(default, kind).sql} END", kind)

    def _case_tests(self, subject: exp.Expr | None, tests: Sequence[exp.Expr]) -> tuple[str, list[str]]:
        if subject is None:
            return "", [self._term(test).sql for test in tests]
        value, compared = self.value(subject), [self.value(test) for test in tests]
        kind = common_type((value.type, *(test.type for test in compared)), "CASE")
        return coerce(value, kind).sql, [coerce(test, kind).sql for test in compared]

    def _if(self, node: exp.Expr) -> Value:
        test = self._term(node.this)
        yes = self.value(node.args["true"])
        no = self.value(node.args["false"]) if node.args.get("false") else NULL
        kind = common_type((yes.type, no.type), "IF")
        return Value(
            f"CASE WHEN {test.sql} THEN {coerce(yes, kind).sql} ELSE {coerce(no, kind).sql} END", kind
        )

    def _cast(self, node: exp.Expr) -> Value:
        target, length = _cast_target(node.args["to"])
        return functions.cast(self.value(node.this), target, isinstance(node, exp.TryCast), length)

    def _extract(self, node: exp.Expr) -> Value:
        field_name = node.name.lower()
        if field_name not in _EXTRACTED:
            raise SqlError(f"EXTRACT has no field {node.name[:40]} in this sandbox")
        return functions.date_field(functions.FIELDS[field_name], self.value(node.expression))

    def _function(self, node: exp.Expr) -> Value:
        name = _function_name(node)
        if name in functions.AGGREGATES:
            return self._aggregate(node)
        if name == "now" and not node.expressions:
            return self._current_timestamp(node)
        build = functions.SCALARS.get(name)
        if build is None:
            raise SqlError(f"Function {name[:60]} is not supported by this sandbox")
        return build(name, [self.value(argument) for argument in node.expressions])

    def _aggregate(self, node: exp.Expr) -> Value:
        """An aggregate of a grouped query, with or without FILTER."""
        if self._grouping is None:
            raise SqlError(f"{self._place} cannot contain the aggregate {_shown(node)}")
        rows = self._grouping.rows
        before = rows.scope.outer_uses
        for name in _bare_names(node):
            if name in self._aliases and self._aliases[name].sql != self._visible(name):
                raise SqlError(
                    f"ORDER BY {_shown(node)}: {name} is also a name of the select list; qualify it"
                )
        value = rows.aggregate_over_rows(node, "")
        if rows.scope.outer_uses != before:
            raise SqlError(
                f"{_shown(node)} uses an outer query's column, which this sandbox does not support"
            )
        return self._grouping.aggregate(value)

    def _visible(self, name: str) -> str | None:
        fields = [one for one in self.scope.fields if one.name.lower() == name]
        return fields[0].sql if len(fields) == 1 else None

    def aggregate_over_rows(self, node: exp.Expr, over: str) -> Value:
        """The aggregate's SQL with this place's columns as its rows, FILTER and OVER included."""
        test = ""
        if isinstance(node, exp.Filter):
            check_arguments(node, frozenset({"this", "expression"}))
            test = f" FILTER (WHERE {self._term(node.expression.this).sql})"
            node = node.this
        name = _function_name(node)
        if name not in functions.AGGREGATES or (over and name not in functions.WINDOW_AGGREGATES):
            raise SqlError(f"{_shown(node)} is not supported here by this sandbox")
        arguments, distinct = _distinct(node, over)
        if name == "count" and (not arguments or isinstance(arguments[0], exp.Star)) and len(arguments) < 2:
            return Value(f"count(*){test}{over}", BIGINT)

        def native(sqlite_name: str, argument: str) -> str:
            return f"{sqlite_name}({distinct}{argument}){test}{over}"

        values = [self._row_or_value(argument, name) for argument in arguments]
        return functions.AGGREGATES[name](name, values, native)

    def _row_or_value(self, node: exp.Expr, aggregate: str) -> Value:
        """An aggregate's argument. A row has no form to compare or show it in, so only checksum takes one."""
        if aggregate == "checksum" and isinstance(node, exp.Anonymous) and _function_name(node) == "row":
            check_arguments(node, NODES[exp.Anonymous])
            return functions.row([self.value(field_node) for field_node in node.expressions])
        return self.value(node)

    # --- Windows

    def _window(self, node: exp.Expr) -> Value:
        if not self._windows:
            raise SqlError(f"{self._place} cannot contain the window function {_shown(node)}")
        inner = Expressions(
            self._statement,
            self.scope,
            self._subquery,
            "A window",
            grouping=self._grouping,
            aliases=self._aliases,
        )
        function = node.this
        called = function.this if isinstance(function, exp.Filter) else function
        name = _function_name(called) if isinstance(called, exp.Anonymous) else ""
        order = node.args.get("order")
        over = f" OVER ({inner.partition(node)}{inner.ordering(order) if order else ''}{_frame(node, name)})"
        if name in functions.AGGREGATES:
            value = inner.aggregate_over_rows(function, over)
            _check_sliding(node, value)
            return value
        if not isinstance(function, exp.Anonymous):
            raise SqlError(f"{describe(function)} is not supported in a window by this sandbox")
        check_arguments(function, frozenset({"this", "expressions"}))
        return inner.window_function(name, function.expressions, over, ordered=order is not None)

    def partition(self, node: exp.Expr) -> str:
        """PARTITION BY, or nothing."""
        listed: list[exp.Expr] = node.args.get("partition_by") or []
        keys = [self.value(key).sql for key in listed]
        return f"PARTITION BY {', '.join(keys)} " if keys else ""

    def ordering(self, order: exp.Expr) -> str:
        """ORDER BY inside a window."""
        return (
            f"ORDER BY {', '.join(direction(item, self.value(item.this).sql) for item in order.expressions)} "
        )

    def window_function(self, name: str, nodes: Sequence[exp.Expr], over: str, ordered: bool) -> Value:
        """row_number, rank, lag, first_value … with its OVER."""
        if name in functions.RANKINGS and not nodes:
            if name != "row_number" and not ordered:
                raise SqlError(f"{name} needs an ORDER BY in its window")
            return Value(f"{name}(){over}", BIGINT)
        if name in functions.ENDS and len(nodes) == 1:
            value = self.value(nodes[0])
            return Value(f"{name}({value.sql}){over}", value.type)
        if name in functions.NEIGHBOURS and 1 <= len(nodes) <= 3:
            return self._neighbour(name, nodes, over, ordered)
        raise SqlError(
            f"Window function {name[:60] or 'of this form'} with {len(nodes)} arguments is not supported"
        )

    def _neighbour(self, name: str, nodes: Sequence[exp.Expr], over: str, ordered: bool) -> Value:
        if not ordered:
            raise SqlError(f"{name} needs an ORDER BY in its window")
        values = [self.value(node) for node in nodes]
        offset = values[1].constant if len(values) > 1 and values[1].type.is_integer else None
        if len(values) > 1 and (offset is None or offset < 0):
            raise SqlError(f"{name}: this sandbox takes the offset as an integer literal only, 0 or more")
        kind = common_type((values[0].type, values[2].type if len(values) > 2 else UNKNOWN), name)
        typed = [coerce(values[0], kind), *values[1:2], *(coerce(value, kind) for value in values[2:])]
        return Value(f"{name}({', '.join(value.sql for value in typed)}){over}", kind)


def _frame(node: exp.Expr, name: str) -> str:
    spec = node.args.get("spec")
    if spec is None:
        return ""
    if name in functions.RANKINGS | functions.NEIGHBOURS:
        raise SqlError(f"Cannot specify a window frame for {name}")
    check_arguments(spec, frozenset({"kind", "start", "start_side", "end", "end_side"}))
    if spec.text("kind").upper() != "ROWS" and not _is_default_frame(spec):
        raise SqlError("Of window frames, this sandbox has ROWS …, and RANGE UNBOUNDED PRECEDING")
    if node.args.get("order") is None:
        raise SqlError("A window frame needs an ORDER BY in its window")
    return f"{spec.text('kind').upper()} BETWEEN {_bound(spec, 'start')} AND {_bound(spec, 'end')}"


def _is_default_frame(spec: exp.Expr) -> bool:
    unmoving = _bound(spec, "end") in ("CURRENT ROW", "UNBOUNDED FOLLOWING")
    return (
        spec.text("kind").upper() == "RANGE" and _bound(spec, "start") == "UNBOUNDED PRECEDING" and unmoving
    )


def _bound(spec: exp.Expr, which: str) -> str:
    bound, side = spec.args.get(which), spec.text(f"{which}_side").upper()
    if which == "end" and bound is None:
        return "CURRENT ROW"
    text = bound.upper() if isinstance(bound, str) else ""
    if isinstance(bound, exp.Literal) and not bound.args.get("is_string"):
        text = str(bound.this)
    if text == "CURRENT ROW":
        return text
    if side not in ("PRECEDING", "FOLLOWING") or not (text == "UNBOUNDED" or re.fullmatch(r"\d{1,9}", text)):
        raise SqlError("A window frame's bounds are UNBOUNDED, CURRENT ROW or a whole number of rows")
    return f"{text} {side}"


def _check_sliding(node: exp.Expr, value: Value) -> None:
    """A frame whose start moves makes SQLite subtract, which is exact for integers alone."""
    spec = node.args.get("spec")
    moving = spec is not None and _bound(spec, "start") != "UNBOUNDED PRECEDING"
    if moving and value.type.name == "double":
        raise SqlError("A frame of double values must start with UNBOUNDED PRECEDING in this sandbox")


def direction(item: exp.Expr, sql: str) -> str:
    """One ORDER BY item; NULLs come last unless it says otherwise, as in Trino."""
    check_arguments(item, frozenset({"this", "desc", "nulls_first"}))
    nulls = "FIRST" if item.args.get("nulls_first") else "LAST"
    return f"{sql} {'DESC' if item.args.get('desc') else 'ASC'} NULLS {nulls}"


def _distinct(node: exp.Expr, over: str) -> tuple[Sequence[exp.Expr], str]:
    arguments: Sequence[exp.Expr] = node.expressions
    if not any(isinstance(argument, exp.Distinct) for argument in arguments):
        return arguments, ""
    listed = arguments[0].expressions
    if len(arguments) != 1 or len(listed) != 1 or isinstance(listed[0], exp.Star):
        raise SqlError(f"{_shown(node)}: DISTINCT takes one argument")
    check_arguments(arguments[0], frozenset({"expressions"}))
    if over or _function_name(node) not in ("count", "sum", "avg", "min", "max"):
        raise SqlError(f"{_shown(node)}: DISTINCT is not supported here by this sandbox")
    return listed, "DISTINCT "


_CAST_TYPES = frozenset(
    {
        exp.DType.TINYINT,
        exp.DType.SMALLINT,
        exp.DType.INT,
        exp.DType.BIGINT,
        exp.DType.DECIMAL,
        exp.DType.DOUBLE,
        exp.DType.BOOLEAN,
        exp.DType.VARCHAR,
        exp.DType.DATE,
        exp.DType.TIMESTAMP,
        exp.DType.TIMESTAMPTZ,
    }
)


def _cast_target(node: exp.Expr) -> tuple[Type, int | None]:
    if node.this not in _CAST_TYPES:
        written = "REAL" if node.this == exp.DType.FLOAT else _shown(node)
        raise SqlError(f"CAST to {written} is not supported by this sandbox")
    shown = node.sql(dialect="trino").lower()
    match = re.fullmatch(r"varchar\((\d{1,9})\)", shown)
    return parse_type(shown), int(match[1]) if match else None


def _function_name(node: exp.Expr) -> str:
    name = node.this
    return (name if isinstance(name, str) else name.name).lower()


def _bare_names(node: exp.Expr) -> set[str]:
    """The names that columns in the expression have without a table's name before them."""
    return {column.name.lower() for column in node.find_all(exp.Column) if not column.args.get("table")}


def contains_aggregate(node: exp.Expr) -> bool:
    """Whether the expression holds an aggregate of its own query: not a window's, not a subquery's."""
    return any(
        isinstance(found, exp.Anonymous) and _function_name(found) in functions.AGGREGATES
        for found in _own(node)
    )


def _own(node: exp.Expr) -> Iterator[exp.Expr]:
    """The nodes of this expression, without the functions that windows belong to and without subqueries."""
    waiting: list[exp.Expr] = [node]
    while waiting:
        found = waiting.pop()
        if isinstance(found, exp.Query):
            continue
        if isinstance(found, exp.Window):
            function = found.this.this if isinstance(found.this, exp.Filter) else found.this
            waiting.extend(function.iter_expressions())
            waiting.extend(part for part in found.iter_expressions() if part is not found.this)
            continue
        yield found
        waiting.extend(found.iter_expressions())


def check_arguments(node: exp.Expr, understood: frozenset[str]) -> None:
    """SqlError for a part of the node that this sandbox would have to ignore."""
    for name, given in node.args.items():
        if name not in understood and given not in (None, False, []):
            raise SqlError(
                f"{describe(node)} with {name.strip('_').upper()} is not supported by this sandbox"
            )


def describe(node: exp.Expr) -> str:
    """What kind of thing a node is, with its text."""
    return f"{position(node)}{type(node).__name__.upper()} ({_shown(node)})"


def position(node: exp.Expr) -> str:
    """'line 1:8: ' where sqlglot kept it, nothing otherwise."""
    marks = [
        (int(part.meta["line"]), int(part.meta["col"]) - int(part.meta["end"]) + int(part.meta["start"]))
        for part in (node, *node.iter_expressions())
        if "line" in part.meta
    ]
    return "line {}:{}: ".format(*min(marks)) if marks else ""


def _shown(node: exp.Expr) -> str:
    text = node.sql(normalize_functions=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _dotted(node: exp.Expr) -> str:
    return ".".join(
        node.args[part].name for part in ("catalog", "db", "table", "this") if node.args.get(part)
    )
