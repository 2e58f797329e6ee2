"""Queries: SELECT, WITH, set operations and VALUES become DuckDB's SQL around the compiled expressions.

Every query gives its columns as o0, o1, …, so that no name of the statement's stands in the SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sqlglot import exp

from dagster_peaka.sandbox.sources import TableName
from dagster_peaka.sandbox.sql.clauses import (
    NO_LIMITS,
    aliases_of,
    as_types,
    check_comparable,
    group_by,
    is_comma,
    is_grouped,
    joined_using,
    limits_of,
    mentions,
    ordinal_of,
    renamed,
    renamed_fields,
    select_list,
    sort_column,
    sorted_query,
)
from dagster_peaka.sandbox.sql.expressions import Expressions, Statement
from dagster_peaka.sandbox.sql.kinds import BIGINT, SqlError, Type, Value, coerce, coerces, common_type
from dagster_peaka.sandbox.sql.nodes import check_arguments, describe, direction, position
from dagster_peaka.sandbox.sql.operators import scalar
from dagster_peaka.sandbox.sql.scope import Column, Field, Place, Query, Scope
from dagster_peaka.sandbox.sql.windows import window

MOST_TABLES = 60
"""Tables that a statement may name, those of each WITH entry counted at every use of it."""
MOST_COLUMNS = 5_000
DEEPEST_RECURSION = 10
"""Rounds of a WITH RECURSIVE: Trino's own default."""

Resolve = Callable[[TableName], Place | None]
Load = Callable[[Place, TableName, str], tuple[str, list[Field]]]
"""(place, name, alias) -> the SQL that reads a table, and its columns under that alias."""


@dataclass(frozen=True)
class _Named:
    """A WITH entry: its query, the name that it has in the generated SQL, and how many tables are behind it."""

    sql_name: str
    query: Query
    tables: int


@dataclass(frozen=True)
class _Around:
    """What surrounds a query: the WITH entries that it may name, and the columns of the query that it is part of."""

    named: Mapping[str, _Named]
    outer: Scope | None


class Queries:
    """Compiles one statement."""

    def __init__(self, resolve: Resolve, load: Load, statement: Statement) -> None:
        self._resolve = resolve
        self._load = load
        self._statement = statement
        self._tables = 0
        self._with: list[str] = []
        self._recursive = False

    def compile(self, tree: exp.Expr) -> Query:
        """The whole statement's query."""
        query = self._query(tree, _Around({}, None))
        word = "WITH RECURSIVE" if self._recursive else "WITH"
        return replace(query, sql=f"{word} {', '.join(self._with)} {query.sql}") if self._with else query

    # --- Any query

    def _query(self, node: exp.Expr, around: _Around) -> Query:
        around = self._with_entries(node, around)
        if isinstance(node, exp.Select):
            return self._select(node, around)
        if isinstance(node, (exp.Union, exp.Except, exp.Intersect)):
            return self._set_operation(node, around)
        if isinstance(node, exp.Subquery):
            check_arguments(node, frozenset({"this", "with_", "order", "limit", "offset"}))
            return self._ordered(self._query(node.this, around), node, around)
        if isinstance(node, exp.Values):
            check_arguments(node, frozenset({"expressions", "with_", "order", "limit", "offset"}))
            return self._ordered(self._values(node, around), node, around)
        raise SqlError(f"{describe(node)} is not supported by this sandbox")

    def _with_entries(self, node: exp.Expr, around: _Around) -> _Around:
        clause = node.args.get("with_")
        if clause is None:
            return around
        check_arguments(clause, frozenset({"expressions", "recursive"}))
        named, here = dict(around.named), set[str]()
        for entry in clause.expressions:
            check_arguments(entry, frozenset({"this", "alias"}))
            key = entry.alias.lower()
            if key in here:
                raise SqlError(f"WITH query name '{entry.alias}' specified more than once")
            here.add(key)
            before, sql_name = self._tables, self._statement.name("w")
            if clause.args.get("recursive") and mentions(entry.this, key):
                query = self._recursion(entry, named, sql_name)
            else:
                # An entry sees no columns of the query around it, so it can stand in the statement's own WITH.
                query = renamed(self._query(entry.this, _Around(named, None)), entry.args["alias"])
                self._with.append(f"{sql_name} AS ({query.sql})")
            named[key] = _Named(sql_name, query, self._tables - before)
        return _Around(named, around.outer)

    def _recursion(self, entry: exp.Expr, named: Mapping[str, _Named], sql_name: str) -> Query:
        node, alias = entry.this, entry.args["alias"]
        if not isinstance(node, exp.Union) or node.args.get("distinct") or node.args.get("order"):
            raise SqlError("WITH RECURSIVE is a start UNION ALL a step in this sandbox")
        if not alias.args.get("columns"):
            raise SqlError("WITH RECURSIVE needs the names of its columns")
        self._recursive = True
        start = renamed(self._query(node.this, _Around(named, None)), alias)
        inside = {**named, entry.alias.lower(): _Named(sql_name, start, 1)}
        step = self._query(node.expression, _Around(inside, None))
        for have, want in zip(step.outputs, start.outputs, strict=False):
            if len(step.outputs) != len(start.outputs) or not coerces(have.type, want.type):
                raise SqlError(f"WITH RECURSIVE: the step's {have.type} is not the start's {want.type}")
        columns = ", ".join(f"o{index}" for index in range(len(start.outputs)))
        deeper = f"(SELECT max(depth) FROM {sql_name}) + 1"
        message = f"Recursion depth limit exceeded ({DEEPEST_RECURSION})"
        depth = f"CASE WHEN {deeper} > {DEEPEST_RECURSION} THEN error('{message}') ELSE {deeper} END"
        self._with.append(
            f"{sql_name} AS (SELECT {columns}, 0 AS depth FROM ({start.sql})"
            f" UNION ALL SELECT {columns}, {depth} AS depth FROM ({as_types(step, start.outputs)}))"
        )
        return start

    def _set_operation(self, node: exp.Expr, around: _Around) -> Query:
        check_arguments(
            node, frozenset({"this", "expression", "distinct", "with_", "order", "limit", "offset"})
        )
        word = type(node).__name__.upper()
        if isinstance(node.expression, exp.SetOperation) or (
            word == "INTERSECT"
            and isinstance(node.this, exp.SetOperation)
            and not isinstance(node.this, exp.Intersect)
        ):  # a parser that does not bind INTERSECT more tightly than the others
            raise SqlError(f"{word} beside other set operations needs parentheses")
        if any(node.this.args.get(part) for part in ("order", "limit", "offset")):
            raise SqlError(f"{word} comes before ORDER BY, OFFSET and LIMIT in Trino")
        word += "" if node.args.get("distinct") else " ALL"
        left, right = self._query(node.this, around), self._query(node.expression, around)
        if len(left.outputs) != len(right.outputs):
            raise SqlError(
                f"{word} query has different number of fields: {len(left.outputs)}, {len(right.outputs)}"
            )
        outputs = tuple(
            Column(a.name, common_type((a.type, b.type), f"Column {index} of {word}"))
            for index, (a, b) in enumerate(zip(left.outputs, right.outputs, strict=True), 1)
        )
        check_comparable([output.type for output in outputs] if "ALL" not in word else [], word)
        both = f"({as_types(left, outputs)}) {word} ({as_types(right, outputs)})"
        return self._ordered(Query(both, outputs), node, around)

    def _ordered(self, query: Query, node: exp.Expr, around: _Around) -> Query:
        """A query of several, or in parentheses, with its ORDER BY, OFFSET and LIMIT, which see its columns only."""
        order, limits = node.args.get("order"), limits_of(node)
        if order is None and limits == NO_LIMITS:
            return query
        name = self._statement.name("q")
        scope = Scope(query.fields(name), around.outer)
        expressions = Expressions(self._statement, scope, self._subquery(around), "ORDER BY")
        items: list[str] = []
        for item in order.expressions if order else ():
            ordinal = ordinal_of(item.this, len(query.outputs), "ORDER BY")
            value = expressions.value(item.this) if ordinal is None else query.value(name, ordinal)
            scalar(value.type, "ORDER BY")
            items.append(direction(item, value.sql))
        return sorted_query(query, name, items, limits)

    def _subquery(self, around: _Around) -> Callable[[exp.Expr, Scope], Query]:
        def compile_inside(node: exp.Expr, scope: Scope) -> Query:
            return self._query(node, _Around(around.named, scope))

        return compile_inside

    # --- FROM

    def _from(self, node: exp.Expr, around: _Around) -> tuple[str, list[Field]]:
        clause = node.args.get("from_")
        if clause is None:
            return "", []
        check_arguments(clause, frozenset({"this"}))
        sql, fields = self._relation(clause.this, around, [])
        done: list[Field] = []
        joins: Sequence[exp.Expr] = node.args.get("joins") or ()
        commas = any(is_comma(join) for join in joins)
        for join in joins:
            if is_comma(join):  # binds less than JOIN: the tables before it are out of sight of later ONs
                done, fields = [*done, *fields], []
            sql, fields = self._join(sql, done, fields, join, around, commas)
        return f" FROM {sql}", [*done, *fields]

    def _relation(self, node: exp.Expr, around: _Around, before: Sequence[Field]) -> tuple[str, list[Field]]:
        """A table of FROM; `before` are the columns that a lateral one sees."""
        if isinstance(node, exp.Table):
            return self._table(node, around)
        if isinstance(node, exp.Subquery) and not isinstance(node.this, exp.Table):
            check_arguments(node, frozenset({"this", "alias", "with_"}))
            inner = self._query(node.this, self._with_entries(node, around))
            return self._derived(inner, node.args.get("alias"))
        if isinstance(node, exp.Values):
            check_arguments(node, frozenset({"expressions", "alias"}))
            return self._derived(self._values(node, around), node.args.get("alias"))
        scope = Scope(before, around.outer)
        if isinstance(node, exp.Unnest):
            return self._unnest(node, Expressions(self._statement, scope, self._subquery(around), "UNNEST"))
        if isinstance(node, exp.Lateral) and isinstance(node.this, exp.Subquery):
            check_arguments(node, frozenset({"this", "alias", "view", "outer"}))
            inner = self._query(node.this, _Around(around.named, scope))
            sql, fields = self._derived(inner, node.args.get("alias"))
            return f"LATERAL {sql}", fields
        raise SqlError(f"FROM: {describe(node)} is not supported by this sandbox")

    def _derived(self, query: Query, alias: exp.Expr | None) -> tuple[str, list[Field]]:
        name = self._statement.name("r")
        fields = renamed(query, alias).fields(name, *([alias.name] if alias and alias.name else []))
        return f"({query.sql}) AS {name}", fields

    def _unnest(self, node: exp.Expr, expressions: Expressions) -> tuple[str, list[Field]]:
        check_arguments(node, frozenset({"expressions", "alias", "offset"}))
        lists: list[Value] = []
        for value in (expressions.value(one) for one in node.expressions):
            if value.type.name == "map":
                parts = zip(("map_keys", "map_values"), value.type.of, strict=True)
                lists += [
                    Value(f"{function}({value.sql})", Type("array", of=(kind,))) for function, kind in parts
                ]
            elif value.type.name == "array" and value.type.of[0].name == "row":
                for at, kind in enumerate(value.type.of[0].of, 1):
                    part = f"list_transform({value.sql}, lambda e: struct_extract(e, 'f{at}'))"
                    lists.append(Value(part, Type("array", of=(kind,))))
            elif value.type.name == "array":
                lists.append(value)
            else:
                raise SqlError(f"Cannot unnest type: {value.type}")
        if node.args.get("offset"):
            lengths = ", ".join(f"len({value.sql})" for value in lists)
            lists.append(Value(f"range(1, greatest({lengths}) + 1)", Type("array", of=(BIGINT,))))
        columns = ", ".join(f"unnest({value.sql}) AS o{index}" for index, value in enumerate(lists))
        query = Query(
            f"SELECT {columns}",
            tuple(Column(f"_col{index}", value.type.of[0]) for index, value in enumerate(lists)),
        )
        alias, offset = node.args.get("alias"), node.args.get("offset")
        if alias is not None and isinstance(offset, exp.Identifier) and alias.args.get("columns"):
            alias = alias.copy()  # sqlglot keeps the ordinality's name apart
            alias.append("columns", offset.copy())
        sql, fields = self._derived(query, alias)
        return f"LATERAL {sql}", fields

    def _table(self, node: exp.Expr, around: _Around) -> tuple[str, list[Field]]:
        check_arguments(node, frozenset({"this", "db", "catalog", "alias"}))
        if not isinstance(node.this, exp.Identifier):
            raise SqlError(f"FROM: {describe(node)} is not supported by this sandbox")
        alias, name = node.args.get("alias"), self._statement.name("r")
        parts = [node.args[part].name for part in ("catalog", "db", "this") if node.args.get(part)]
        known = around.named.get(parts[0].lower()) if len(parts) == 1 else None
        if known is not None:
            self._count_tables(known.tables)
            shown = alias.name if alias and alias.name else parts[0]
            return f"{known.sql_name} AS {name}", renamed(known.query, alias).fields(name, shown)
        self._count_tables(1)
        sql, fields = self._scan(parts, position(node), name)
        return sql, fields if alias is None else renamed_fields(fields, alias)

    def _count_tables(self, tables: int) -> None:
        self._tables += max(1, tables)
        if self._tables > MOST_TABLES:
            raise SqlError(f"The statement reads more than the {MOST_TABLES} tables that this sandbox joins")

    def _scan(self, parts: Sequence[str], at: str, name: str) -> tuple[str, list[Field]]:
        shown = ".".join(parts)
        if len(parts) != 3:
            raise SqlError(f'{at}Table \'{shown}\' needs its full name here: "catalog"."schema"."table"')
        for ref in dict.fromkeys((TableName(*parts), TableName(*(part.lower() for part in parts)))):
            place = self._resolve(ref)
            if place is not None:
                return self._load(place, ref, name)
        raise SqlError(f"{at}Table '{shown}' does not exist")

    def _values(self, node: exp.Expr, around: _Around) -> Query:
        expressions = Expressions(self._statement, Scope((), around.outer), self._subquery(around), "VALUES")
        rows = [
            [expressions.value(cell) for cell in (row.expressions if isinstance(row, exp.Tuple) else [row])]
            for row in node.expressions
        ]
        width = len(rows[0])
        if any(len(row) != width for row in rows):
            raise SqlError("VALUES: rows have different numbers of columns")
        kinds = [common_type((row[index].type for row in rows), "VALUES") for index in range(width)]
        lines = ", ".join(
            f"({', '.join(coerce(cell, kind).sql for cell, kind in zip(row, kinds, strict=True))})"
            for row in rows
        )
        columns = ", ".join(f"o{index}" for index in range(width))
        return Query(
            f"SELECT * FROM (VALUES {lines}) AS {self._statement.name('v')}({columns})",
            tuple(Column(f"_col{index}", kind) for index, kind in enumerate(kinds)),
        )

    def _join(
        self, sql: str, done: list[Field], fields: list[Field], join: exp.Expr, around: _Around, commas: bool
    ) -> tuple[str, list[Field]]:
        check_arguments(join, frozenset({"this", "side", "kind", "on", "using"}))
        side, kind = join.text("side").upper(), join.text("kind").upper()
        unknown = kind not in ("", "INNER", "CROSS", "OUTER") or bool(side) == (kind in ("INNER", "CROSS"))
        if (kind and unknown) or (commas and side in ("RIGHT", "FULL")):
            beside = " beside a comma" if commas else ""
            raise SqlError(f"{side} {kind} JOIN{beside} is not supported by this sandbox".strip())
        right, right_fields = self._relation(join.this, around, [*done, *fields])
        if right.startswith("LATERAL") and side in ("RIGHT", "FULL"):
            raise SqlError(f"{side} JOIN of a lateral table is not supported")
        word = f"{side} JOIN".strip()
        on, using = join.args.get("on"), join.args.get("using")
        if kind == "CROSS" or is_comma(join):
            if on is not None or using:
                raise SqlError("A CROSS JOIN has no ON and no USING")
            return f"{sql} CROSS JOIN {right}", [*fields, *right_fields]
        if using:
            test, fields = joined_using([column.name for column in using], fields, right_fields, side)
            return f"{sql} {word} {right} ON {test}", fields
        if on is None:
            raise SqlError(f"{word} needs ON or USING")
        fields = [*fields, *right_fields]
        test = Expressions(
            self._statement, Scope(fields, around.outer), self._subquery(around), "JOIN ON"
        ).condition(on)
        return f"{sql} {word} {right} ON {test.sql}", fields

    # --- SELECT

    def _select(self, node: exp.Select, around: _Around) -> Query:
        understood = "expressions from_ joins where group having order limit offset distinct with_ windows"
        check_arguments(node, frozenset(understood.split()))
        if distinct := node.args.get("distinct"):
            check_arguments(distinct, frozenset())
        if not node.expressions:
            raise SqlError("SELECT needs at least one column")
        source, fields = self._from(node, around)
        scope = Scope(fields, around.outer)
        inside = self._subquery(around)
        rows = Expressions(self._statement, scope, inside, "WHERE")
        if where := node.args.get("where"):
            source += f" WHERE {rows.condition(where.this).sql}"
        grouped = is_grouped(node)
        source += group_by(node, rows.inside("A GROUP BY")) if grouped else ""
        named = {one.name.lower(): one for one in node.args.get("windows") or ()}
        over = partial(window, named=named)
        select = Expressions(self._statement, scope, inside, "SELECT", aggregates=grouped, windows=over)
        items = select_list(node, select, self._statement)
        if distinct:
            check_comparable([item.value.type for item in items], "DISTINCT")
        if clause := node.args.get("having"):
            test = Expressions(self._statement, scope, inside, "HAVING", aggregates=True).condition(
                clause.this
            )
            source += f" HAVING {test.sql}"
        hidden, order, name = list[Value](), list[str](), self._statement.name("q")
        if clause := node.args.get("order"):
            aliases = aliases_of(items)
            sorting = Expressions(
                self._statement, scope, inside, "ORDER BY", aggregates=grouped, windows=over, aliases=aliases
            )
            for item in clause.expressions:
                column = sort_column(item.this, items, sorting, hidden, bool(distinct))
                order.append(direction(item, f"{name}.{column}"))
        if len(items) > MOST_COLUMNS:
            raise SqlError(
                f"The statement selects more than the {MOST_COLUMNS} columns that this sandbox shows"
            )
        columns = [f"{item.value.sql} AS o{index}" for index, item in enumerate(items)]
        columns += [f"{value.sql} AS h{index}" for index, value in enumerate(hidden)]
        sql = f"SELECT {'DISTINCT ' if distinct else ''}{', '.join(columns)}{source}"
        query = Query(sql, tuple(Column(item.name, item.value.type, item.source) for item in items))
        limits = limits_of(node)
        return sorted_query(query, name, order, limits) if order or limits != NO_LIMITS else query
