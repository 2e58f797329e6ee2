"""Expressions: each node of sqlglot's tree that is on the list becomes typed SQL for DuckDB, any other is refused.

`NODES` is that list, with the arguments of each node that are understood. What a grouped query may say outside of its
aggregates is DuckDB's to judge: it sees columns by their full names only, so no alias of a select list is mistaken for
one. Windows are in `windows`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from dagster_peaka.sandbox.sql import functions
from dagster_peaka.sandbox.sql.kinds import (
    BIGINT,
    BOOLEAN,
    DATE,
    MONTHS,
    NULL,
    SECONDS,
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
from dagster_peaka.sandbox.sql.scope import Field, Query, Scope

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
_PREDICATES = (exp.Predicate, exp.Connector, exp.Not, exp.Between, exp.In, exp.Is, exp.Like, exp.Escape)
_MONTHS = {"month": 1, "year": 12}
_EXTRACTED = frozenset(functions.FIELDS) - {"week_of_year", "millisecond"}
_BINARY = frozenset({"this", "expression"})
_UNARY = frozenset({"this"})
_LISTED = frozenset({"this", "expressions"})

HEAVIEST_STATEMENT = 100_000
"""Uses of columns in a statement, once all subqueries are written into each other."""

_COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ)
NODES: dict[type[exp.Expr], frozenset[str]] = {
    exp.Literal: frozenset({"this", "is_string"}),
    exp.HexString: _UNARY | {"is_integer"},
    exp.Null: frozenset(),
    **dict.fromkeys(
        (exp.Boolean, exp.Placeholder, exp.Paren, exp.Neg, exp.Not, exp.Subquery, exp.Exists), _UNARY
    ),
    exp.Column: frozenset({"this", "table", "db", "catalog"}),
    exp.Identifier: frozenset({"this", "quoted"}),
    exp.Dot: _BINARY,
    **dict.fromkeys((exp.CurrentDate, exp.CurrentTimestamp, exp.Localtimestamp), frozenset[str]()),
    **dict.fromkeys(
        (exp.Add, exp.Sub, exp.Mul, exp.Mod, exp.And, exp.Or, exp.Is, exp.Escape, exp.Extract), _BINARY
    ),
    exp.Div: _BINARY | {"typed", "safe"},
    **dict.fromkeys(_COMPARISONS, _BINARY),
    exp.DPipe: _BINARY | {"safe"},
    exp.Between: frozenset({"this", "low", "high"}),
    exp.In: frozenset({"this", "expressions", "query"}),
    exp.Like: _BINARY | {"negate"},
    exp.Case: frozenset({"this", "ifs", "default"}),
    exp.If: frozenset({"this", "true", "false"}),
    exp.Cast: frozenset({"this", "to"}),
    exp.TryCast: frozenset({"this", "to", "safe"}),
    exp.Interval: frozenset({"this", "unit"}),
    exp.AtTimeZone: frozenset({"this", "zone"}),
    exp.Array: frozenset({"expressions", "value_constructor", "bracket_notation"}),
    exp.Tuple: frozenset({"expressions"}),
    exp.Bracket: _LISTED,
    exp.Trim: frozenset({"this", "expression", "position"}),
    exp.Substring: frozenset({"this", "start", "length"}),
    exp.StrPosition: frozenset({"this", "substr"}),
    exp.ParseJSON: _UNARY | {"is_literal"},
    exp.Anonymous: _LISTED,
    exp.Filter: _BINARY,
    exp.WithinGroup: _BINARY,
    exp.Window: frozenset({"this", "partition_by", "order", "spec", "over", "alias"}),
}
"""The allow-list of expressions: sqlglot's node types, each with the arguments of it that are understood."""


@dataclass
class Statement:
    """What holds for the whole statement: its bindings, by where their ? stands, and the time that now() tells."""

    bindings: Mapping[str, int]
    now: str
    names: int = 0
    weight: int = 0
    columns: dict[str, str] = field(default_factory=dict[str, str])
    """The columns that were used, by their SQL."""

    def name(self, letter: str) -> str:
        """A name that nothing else in the generated SQL has."""
        self.names += 1
        return f"{letter}{self.names}"

    def carry(self, weight: int) -> None:
        """Counts a use of a column. Subqueries are written into each other, so x || x, 40 times over, is 2^40 x."""
        self.weight += weight
        if self.weight > HEAVIEST_STATEMENT:
            raise SqlError("The statement is too large for this sandbox: its subqueries multiply each other")


Subquery = Callable[[exp.Expr, Scope], Query]
Windows = Callable[["Expressions", exp.Expr], Value]


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
        self._compile = subquery
        self._aggregates = aggregates
        self._windows = windows
        self._aliases = aliases or {}

    def inside(
        self, place: str, scope: Scope | None = None, *, aggregates: bool | None = None
    ) -> Expressions:
        """The expressions of a part of this place, in which no window may stand."""
        grouped = self._aggregates if aggregates is None else aggregates
        aliases = {} if aggregates is False else self._aliases
        return Expressions(
            self.statement, scope or self.scope, self._compile, place, aggregates=grouped, aliases=aliases
        )

    def value(self, node: exp.Expr) -> Value:
        """The node's value; SqlError naming what is wrong or not supported."""
        understood = NODES.get(type(node))
        if understood is None:
            raise SqlError(f"{describe(node)} is not supported by this sandbox")
        check_arguments(node, understood)
        if isinstance(node, exp.Binary) and type(node) in _SYMBOLS:
            return self._operator(node)
        return getattr(self, f"_{type(node).__name__.lower()}")(node)

    def condition(self, node: exp.Expr) -> Value:
        """The node's value, which must be a boolean."""
        value = self.value(node)
        if not coerces(value.type, BOOLEAN):
            raise SqlError(f"{self.place} must be a boolean, but {shown(node)} is {value.type}")
        return value

    def _operand(self, node: exp.Expr) -> Value:
        """A side of an operator. Trino has no a = b = c, so a predicate there wants its parentheses."""
        if isinstance(node, _PREDICATES):
            raise SqlError(f"{shown(node)} needs parentheses around it to be part of another expression")
        return self.value(node)

    # --- Leaves

    def _literal(self, node: exp.Expr) -> Value:
        if not node.args.get("is_string"):
            return number_literal(node.this)
        return Value(f"CAST({text_literal(node.this)} AS VARCHAR)", VARCHAR, text=node.this)

    def _hexstring(self, node: exp.Expr) -> Value:
        digits = node.this.replace(" ", "")
        if not re.fullmatch(r"([0-9a-fA-F]{2})*", digits):
            raise SqlError("A binary literal is an even number of hexadecimal digits")
        return Value(f"unhex('{digits}')", functions.VARBINARY)

    def _parsejson(self, node: exp.Expr) -> Value:
        return functions.call("json_parse", [self.value(node.this)])

    def _null(self, _: exp.Expr) -> Value:
        return NULL

    def _boolean(self, node: exp.Expr) -> Value:
        return Value(str(bool(node.this)).upper(), BOOLEAN)

    def _placeholder(self, node: exp.Expr) -> Value:
        return Value(f"CAST(${self.statement.bindings[node.this] + 1} AS VARCHAR)", VARCHAR)

    def _column(self, node: exp.Expr) -> Value:
        if isinstance(node.this, exp.Star):
            raise SqlError(f"{shown(node)} cannot stand in an expression")
        qualifier = [node.args[part].name for part in ("catalog", "db", "table") if node.args.get(part)]
        if not qualifier and (alias := self._aliases.get(node.name.lower())):
            return alias
        try:
            return self._found(node.name, qualifier, f"{position(node)}Column '{dotted(node)}'")
        except SqlError:
            if len(qualifier) != 1:
                raise
            row = self._fieldless(qualifier[0])  # a.b may be the field b of a row a
            if row is None:
                raise
            return self._row_field(row, node.name)

    def _fieldless(self, name: str) -> Value | None:
        try:
            return self.scope.find(name, (), name).use()
        except SqlError:
            return None

    def _found(self, name: str, qualifier: Sequence[str], place: str) -> Value:
        found = self.scope.find(name, qualifier, place)
        self.statement.carry(found.weight)
        self.statement.columns[found.sql] = found.name
        return found.use()

    def _identifier(self, node: exp.Expr) -> Value:
        """A lambda's parameter, which sqlglot does not make a column."""
        return self._found(node.name, (), f"{position(node)}Column '{node.name}'")

    def _dot(self, node: exp.Expr) -> Value:
        if not isinstance(node.expression, exp.Identifier):
            raise SqlError(f"{describe(node)} is not supported by this sandbox")
        return self._row_field(self.value(node.this), node.expression.name)

    def _row_field(self, row: Value, name: str) -> Value:
        at = [number for number, one in enumerate(row.type.names, 1) if one.lower() == name.lower()]
        if row.type.name != "row" or len(at) != 1:
            raise SqlError(f"Column '{name}' cannot be resolved: {row.type} has no such field")
        return functions.field(row, at[0])

    def _currentdate(self, _: exp.Expr) -> Value:
        return Value(f"CAST('{self.statement.now[:10]}' AS DATE)", DATE)

    def _currenttimestamp(self, _: exp.Expr) -> Value:
        return Value(f"CAST('{self.statement.now}' AS TIMESTAMP)", ZONED)

    def _localtimestamp(self, _: exp.Expr) -> Value:
        return Value(f"CAST('{self.statement.now}' AS TIMESTAMP)", TIMESTAMP)

    def _interval(self, node: exp.Expr) -> Value:
        unit, amount = node.text("unit").lower(), node.this
        plain = isinstance(amount, exp.Literal) and re.fullmatch(r"[+-]?\d{1,9}", amount.this, re.ASCII)
        if not plain or not amount.args.get("is_string"):
            raise SqlError(f"{shown(node)}: intervals are written INTERVAL '1' and a unit in this sandbox")
        if unit in _MONTHS:
            return Value(f"CAST({int(amount.this) * _MONTHS[unit]} AS BIGINT)", MONTHS)
        if unit not in ("second", "minute", "hour", "day"):
            raise SqlError(f"{shown(node)}: of INTERVALs there are SECOND, MINUTE, HOUR, DAY, MONTH and YEAR")
        return Value(f"CAST({int(amount.this) * functions.UNITS[unit]} AS BIGINT)", SECONDS)

    # --- Operators

    def _paren(self, node: exp.Expr) -> Value:
        return self.value(node.this)

    def _operator(self, node: exp.Expr) -> Value:
        symbol = _SYMBOLS[type(node)]
        left = self._operand(node.this)
        if isinstance(node.expression, (exp.Any, exp.All)):
            return self._quantified(symbol, left, node.expression)
        right = self._operand(node.expression)
        if type(node) in _COMPARISONS:
            return functions.compare(symbol, left, right)
        return functions.arithmetic(symbol, left, right)

    def _quantified(self, symbol: str, left: Value, node: exp.Expr) -> Value:
        if not isinstance(node.this, (exp.Query, exp.Values)) or "DISTINCT" in symbol:
            raise SqlError(f"{shown(node)} is not supported by this sandbox")
        item, query = self._one_column(node.this)
        kind = common_type((left.type, item.type), f"Cannot apply operator {symbol}")
        functions.compare(symbol, left, item)
        rows = f"SELECT {coerce(item, kind).sql} FROM ({query.sql}) AS {item.sql.partition('.')[0]}"
        return Value(f"({coerce(left, kind).sql} {symbol} {type(node).__name__.upper()} ({rows}))", BOOLEAN)

    def _neg(self, node: exp.Expr) -> Value:
        if isinstance(node.this, exp.Literal) and not node.this.args.get("is_string"):
            value = number_literal(node.this.this)
            if value.constant is not None:
                sql = re.sub(r"^CAST\(('?)", r"CAST(\1-", value.sql)
                return Value(sql, value.type, -value.constant)
        return functions.negate(self._operand(node.this))

    def _and(self, node: exp.Expr) -> Value:
        """AND and OR, of a whole chain at once: a thousand of them are no thousand levels deep."""
        kind = type(node)
        terms: list[exp.Expr] = []
        left: exp.Expr = node
        while type(left) is kind:
            terms.append(left.expression)
            left = left.this
        word = " AND " if kind is exp.And else " OR "
        return Value(f"({word.join(self._term(term).sql for term in (left, *reversed(terms)))})", BOOLEAN)

    _or = _and

    def _term(self, node: exp.Expr) -> Value:
        value = self.value(node)
        if not coerces(value.type, BOOLEAN):
            raise SqlError(f"Logical expressions take booleans, but {shown(node)} is {value.type}")
        return coerce(value, BOOLEAN)

    def _not(self, node: exp.Expr) -> Value:
        return Value(f"(NOT {self._term(node.this).sql})", BOOLEAN)

    def _dpipe(self, node: exp.Expr) -> Value:
        return functions.concat("||", [self._operand(node.this), self._operand(node.expression)])

    def _between(self, node: exp.Expr) -> Value:
        value, low, high = (self._operand(node.args[part]) for part in ("this", "low", "high"))
        kind = common_type((value.type, low.type, high.type), "BETWEEN")
        functions.compare("<", value, low)
        a, b, c = (coerce(one, kind).sql for one in (value, low, high))
        return Value(f"({a} BETWEEN {b} AND {c})", BOOLEAN)

    def _is(self, node: exp.Expr) -> Value:
        if not isinstance(node.expression, exp.Null):
            raise SqlError(f"{shown(node)} is not supported: Trino has IS NULL and IS DISTINCT FROM")
        return Value(f"({self._operand(node.this).sql} IS NULL)", BOOLEAN)

    def _in(self, node: exp.Expr) -> Value:
        value = self._operand(node.this)
        if query := node.args.get("query"):
            item, rows = self._one_column(query)
            kind = common_type((value.type, item.type), "IN")
            name = item.sql.partition(".")[0]
            return Value(
                f"({coerce(value, kind).sql} IN (SELECT {coerce(item, kind).sql} FROM ({rows.sql}) AS {name}))",
                BOOLEAN,
            )
        listed = [self.value(item) for item in node.expressions]
        if not listed:
            raise SqlError("IN needs at least one value")
        kind = common_type((value.type, *(item.type for item in listed)), "IN")
        return Value(
            f"({coerce(value, kind).sql} IN ({', '.join(coerce(i, kind).sql for i in listed)}))", BOOLEAN
        )

    def _like(self, node: exp.Expr) -> Value:
        return self._like_with(node, None)

    def _escape(self, node: exp.Expr) -> Value:
        if not isinstance(node.this, exp.Like):
            raise SqlError(f"{shown(node)} is not supported by this sandbox")
        check_arguments(node.this, NODES[exp.Like])
        return self._like_with(node.this, self._operand(node.expression))

    def _like_with(self, node: exp.Expr, escape: Value | None) -> Value:
        found = functions.like(self._operand(node.this), self._operand(node.expression), escape)
        return Value(f"(NOT {found.sql})", BOOLEAN) if node.args.get("negate") else found

    def _attimezone(self, node: exp.Expr) -> Value:
        return functions.at_zone(self._operand(node.this), self.value(node.args["zone"]))

    # --- Subqueries

    def _one_column(self, node: exp.Expr) -> tuple[Value, Query]:
        """The column of a subquery that is used as a value, under a name that its SQL is to have."""
        query = self._compile(node, self.scope)
        if len(query.outputs) != 1:
            raise SqlError(f"A subquery used as a value has one column, this one has {len(query.outputs)}")
        return Value(f"{self.statement.name('q')}.o0", query.outputs[0].type), query

    def _subquery(self, node: exp.Expr) -> Value:
        item, query = self._one_column(node)
        return Value(f"({query.sql})", item.type)

    def _exists(self, node: exp.Expr) -> Value:
        return Value(f"(EXISTS ({self._compile(node.this, self.scope).sql}))", BOOLEAN)

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
        target, length = cast_target(node.args["to"])
        value = self.value(node.this)
        written = node.args["to"].sql(dialect="trino").lower()
        if (
            value.text is not None
            and isinstance(node.this, exp.Literal)
            and written == "timestamp(0)"
            and target.is_timestamp
        ):
            return functions.timestamp_literal(value.text)
        return functions.cast(value, target, isinstance(node, exp.TryCast), length)

    _trycast = _cast

    def _extract(self, node: exp.Expr) -> Value:
        name = node.name.lower()
        if name not in _EXTRACTED:
            raise SqlError(f"EXTRACT has no field {node.name[:40]} in this sandbox")
        return functions.call(name, [self.value(node.expression)])

    def _trim(self, node: exp.Expr) -> Value:
        text, gone = self.value(node.this), node.args.get("expression")
        side = node.text("position").upper() or "BOTH"
        characters = "''" if gone is None else self.value(gone).sql
        if text.type not in (VARCHAR, UNKNOWN) or side not in ("BOTH", "LEADING", "TRAILING"):
            raise functions.wrong("trim", [text], "(varchar)")
        return Value(f"t_trim({text.sql}, '{side}', {characters})", VARCHAR)

    def _substring(self, node: exp.Expr) -> Value:
        parts = [node.this, node.args.get("start"), node.args.get("length")]
        return functions.call("substr", [self.value(part) for part in parts if part is not None])

    def _strposition(self, node: exp.Expr) -> Value:
        return functions.call("strpos", [self.value(node.this), self.value(node.args["substr"])])

    def _array(self, node: exp.Expr) -> Value:
        return functions.array([self.value(item) for item in node.expressions])

    def _tuple(self, node: exp.Expr) -> Value:
        return functions.row([self.value(item) for item in node.expressions])

    def _bracket(self, node: exp.Expr) -> Value:
        if len(node.expressions) != 1:
            raise SqlError(f"{shown(node)} is not supported by this sandbox")
        return functions.subscript(self.value(node.this), self.value(node.expressions[0]))

    def _anonymous(self, node: exp.Expr) -> Value:
        name = function_name(node)
        if name in functions.AGGREGATES:
            return self._aggregate(node)
        if name == "now" and not node.expressions:
            return self._currenttimestamp(node)
        if name == "grouping" and self._aggregates:
            return Value(f"grouping({', '.join(self.value(key).sql for key in node.expressions)})", BIGINT)
        if name in functions.WINDOWED:
            raise SqlError(f"{name} needs an OVER")
        if name == "reduce" and len(node.expressions) == 4:
            return self._reduce(node.expressions)
        if name == "zip_with" and len(node.expressions) == 3:
            return self._zip_with(node.expressions)
        return functions.call(name, [self._argument(argument) for argument in node.expressions])

    def _argument(self, node: exp.Expr) -> functions.Argument:
        if not isinstance(node, exp.Lambda):
            return self.value(node)

        def of(kinds: Sequence[Type]) -> Value:
            names = [self.statement.name("l") for _ in kinds]
            body = self._body(node, [Value(name, kind) for name, kind in zip(names, kinds, strict=True)])
            return Value(f"lambda {', '.join(names)}: {body.sql}", body.type)

        return of

    def _body(self, node: exp.Expr, parameters: Sequence[Value]) -> Value:
        """What a lambda gives for parameters that have these values."""
        if not isinstance(node, exp.Lambda) or len(node.expressions) != len(parameters):
            raise SqlError(f"{shown(node)}: expected a lambda of {len(parameters)} parameters")
        check_arguments(node, _LISTED)
        pairs = zip(node.expressions, parameters, strict=True)
        scope = Scope([Field(one.name, to.sql, to.type) for one, to in pairs], self.scope, lambda_of=True)
        return self.inside("A lambda", scope, aggregates=False).value(node.this)

    def _reduce(self, nodes: Sequence[exp.Expr]) -> Value:
        """reduce(array, start, (state, element) -> state, state -> result)."""
        items, state = self.value(nodes[0]), self.value(nodes[1])
        if items.type.name != "array":
            raise SqlError("reduce takes an array, a start and two lambdas")
        # DuckDB's elements and states share a type, so each row of `pairs` has place for both.
        s, e, t = (self.statement.name("l") for _ in range(3))
        merged = self._body(nodes[2], [Value(f"{s}.s", state.type), Value(f"{e}.e", items.type.of[0])])
        if not coerces(merged.type, state.type):
            raise SqlError(f"reduce: the state is {state.type}, but the lambda gives {merged.type}")
        empty = f"CAST(NULL AS {state.type.stored})", f"CAST(NULL AS {items.type.of[0].stored})"
        pairs = f"list_transform({items.sql}, lambda {e}: struct_pack(s := {empty[0]}, e := {e}))"
        step = f"lambda {s}, {e}: struct_pack(s := {coerce(merged, state.type).sql}, e := {empty[1]})"
        whole = f"list_reduce({pairs}, {step}, struct_pack(s := {state.sql}, e := {empty[1]}))"
        result = self._body(nodes[3], [Value(t, state.type)])
        sql = f"list_transform([struct_extract({whole}, 's')], lambda {t}: {result.sql})[1]"
        return Value(f"CASE WHEN {items.sql} IS NOT NULL THEN {sql} END", result.type)

    def _zip_with(self, nodes: Sequence[exp.Expr]) -> Value:
        a, b = self.value(nodes[0]), self.value(nodes[1])
        if a.type.name != "array" or b.type.name != "array":
            raise SqlError("zip_with takes two arrays and a lambda")
        at = self.statement.name("l")
        both = [Value(f"list_extract({one.sql}, {at})", one.type.of[0]) for one in (a, b)]
        body = self._body(nodes[2], both)
        longest = (
            f"range(1, CASE WHEN len({a.sql}) > len({b.sql}) THEN len({a.sql}) ELSE len({b.sql}) END + 1)"
        )
        return Value(f"list_transform({longest}, lambda {at}: {body.sql})", functions.array_of(body.type))

    # --- Aggregates

    def _filter(self, node: exp.Expr) -> Value:
        return self._aggregate(node)

    _withingroup = _filter

    def _window(self, node: exp.Expr) -> Value:
        if self._windows is None:
            raise SqlError(f"{self.place} cannot contain the window function {shown(node)}")
        return self._windows(self, node)

    def _aggregate(self, node: exp.Expr) -> Value:
        if not self._aggregates:
            raise SqlError(f"{self.place} cannot contain the aggregate {shown(node)}")
        rows = self.inside("An aggregate", aggregates=False)
        for name in bare_names(node):
            if name in self._aliases and self._aliases[name].sql != self._visible(name):
                raise SqlError(
                    f"ORDER BY {shown(node)}: {name} is also a name of the select list; qualify it"
                )
        before = self.scope.outer_uses
        value = rows.aggregated(node, "")
        if self.scope.outer_uses != before:
            raise SqlError(f"{shown(node)} uses an outer query's column, which this sandbox does not support")
        return value

    def _visible(self, name: str) -> str | None:
        fields = [one for one in self.scope.fields if one.name.lower() == name]
        return fields[0].sql if len(fields) == 1 else None

    def aggregated(self, node: exp.Expr, over: str) -> Value:
        """The aggregate's SQL with this place's columns as its rows; DISTINCT, ORDER BY, FILTER and OVER included."""
        test = order = nulls = ""
        if isinstance(node, exp.Filter):
            check_arguments(node, _BINARY)
            test = f" FILTER (WHERE {self._term(node.expression.this).sql})"
            node = node.this
        if isinstance(node, exp.WithinGroup):
            check_arguments(node, _BINARY)
            order = f" ORDER BY {self.ordering(node.expression)}"
            node = node.this
        if isinstance(node, exp.IgnoreNulls) and over:
            nulls, node = " IGNORE NULLS", node.this
        if not isinstance(node, exp.Anonymous):
            raise SqlError(f"{describe(node)} is not supported here by this sandbox")
        check_arguments(node, _LISTED)
        name, arguments = function_name(node), list[exp.Expr](node.expressions)
        if arguments and isinstance(last := arguments[-1], exp.Order):
            order = f" ORDER BY {self.ordering(last)}"
            arguments[-1] = last.this
        arguments, distinct = _distinct(node, arguments, over)
        if order and name not in ("array_agg", "listagg", "map_agg"):
            raise SqlError(f"{shown(node)}: ORDER BY is not supported here by this sandbox")
        if name == "count" and (not arguments or isinstance(arguments[0], exp.Star)) and len(arguments) < 2:
            return Value(f"count(*){test}{over}", BIGINT)

        def native(call: str) -> str:
            function, _, rest = call.partition("(")
            return f"{function}({distinct}{rest[:-1]}{nulls}{order}){test}{over}"

        values = [self.value(argument) for argument in arguments]
        if name == "listagg":
            return self._listagg(values, native, bool(order))
        if over and name in ("lag", "lead", "nth_value", "ntile"):
            _check_offset(name, values)
        return functions.aggregate(name, values, native)

    def _listagg(self, values: Sequence[Value], native: functions.Native, ordered: bool) -> Value:
        if len(values) not in (1, 2) or any(value.type != VARCHAR for value in values) or not ordered:
            raise SqlError("listagg takes (varchar, varchar) and WITHIN GROUP (ORDER BY …)")
        separator = values[1].sql if len(values) == 2 else "''"
        return Value(native(f"string_agg({values[0].sql}, {separator})"), VARCHAR)

    def ordering(self, order: exp.Expr) -> str:
        """The items of an ORDER BY inside of an aggregate or a window."""
        return ", ".join(direction(item, self.value(item.this).sql) for item in order.expressions)


def _check_offset(name: str, values: Sequence[Value]) -> None:
    at = 0 if name == "ntile" else 1
    if len(values) > at and (
        values[at].constant is None or values[at].constant < (0 if name in ("lag", "lead") else 1)
    ):  # type: ignore[operator]
        raise SqlError(f"{name}: this sandbox takes the offset as an integer literal only, 0 or more")


def direction(item: exp.Expr, sql: str) -> str:
    """One ORDER BY item; NULLs come last unless it says otherwise, as in Trino."""
    check_arguments(item, frozenset({"this", "desc", "nulls_first"}))
    nulls = "FIRST" if item.args.get("nulls_first") else "LAST"
    return f"{sql} {'DESC' if item.args.get('desc') else 'ASC'} NULLS {nulls}"


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


_FOREIGN_TYPES = {"TEXT", "DATETIME", "CHAR", "NCHAR", "NVARCHAR", "FLOAT", "STRING", "BINARY"}


def cast_target(node: exp.Expr) -> tuple[Type, int | None]:
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


def function_name(node: exp.Expr) -> str:
    """A call's function, in small letters."""
    name = node.this
    return (name if isinstance(name, str) else name.name).lower()


def bare_names(node: exp.Expr) -> set[str]:
    """The names that columns in the expression have without a table's name before them."""
    return {column.name.lower() for column in node.find_all(exp.Column) if not column.args.get("table")}


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


def check_arguments(node: exp.Expr, understood: frozenset[str]) -> None:
    """SqlError for a part of the node that this sandbox would have to ignore."""
    for name, given in node.args.items():
        if name not in understood and given not in (None, False, []):
            raise SqlError(
                f"{describe(node)} with {name.strip('_').upper()} is not supported by this sandbox"
            )


def describe(node: exp.Expr) -> str:
    """What kind of thing a node is, with its text."""
    return f"{position(node)}{type(node).__name__.upper()} ({shown(node)})"


def position(node: exp.Expr) -> str:
    """'line 1:8: ' where sqlglot kept it, nothing otherwise."""
    marks = [
        (int(part.meta["line"]), int(part.meta["col"]) - int(part.meta["end"]) + int(part.meta["start"]))
        for part in (node, *node.iter_expressions())
        if "line" in part.meta
    ]
    return "line {}:{}: ".format(*min(marks)) if marks else ""


def shown(node: exp.Expr) -> str:
    """A node's text, cut."""
    text = node.sql(normalize_functions=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def dotted(node: exp.Expr) -> str:
    """A column's name as it was written."""
    return ".".join(
        node.args[part].name for part in ("catalog", "db", "table", "this") if node.args.get(part)
    )
