"""Queries: SELECT, WITH, set operations and VALUES become DuckDB's SQL around the compiled expressions.

Every query gives its columns as o0, o1, …, so that no name of the statement's stands in the SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlglot import exp

from dagster_peaka.sandbox.sources import TableName
from dagster_peaka.sandbox.sql import clauses
from dagster_peaka.sandbox.sql.expressions import Expressions, Statement
from dagster_peaka.sandbox.sql.kinds import (
    BIGINT,
    SqlError,
    Value,
    array_of,
    coerce,
    coerces,
    common_type,
)
from dagster_peaka.sandbox.sql.nodes import check_arguments, describe, direction, position
from dagster_peaka.sandbox.sql.operators import scalar
from dagster_peaka.sandbox.sql.scope import Column, Field, Named, Place, Query, Scope

MOST_COLUMNS = 5_000
DEEPEST_RECURSION = 10
"""Rounds of a WITH RECURSIVE: Trino's own default."""

Resolve = Callable[[TableName], Place | None]
Load = Callable[[Place, TableName, str], tuple[str, list[Field]]]
"""(place, name, alias) -> the SQL that reads a table, and its columns under that alias."""
Relation = tuple[str, list[Field]]
"""What stands in FROM, and the columns that it gives."""


class Queries:
    """Compiles one statement."""

    def __init__(self, resolve: Resolve, load: Load, statement: Statement) -> None:
        self._resolve = resolve
        self._load = load
        self._statement = statement
        self._with: list[str] = []

    def compile(self, tree: exp.Expr) -> Query:
        """The whole statement's query."""
        query = self._query(tree, Scope())
        return (
            replace(query, sql=f"WITH RECURSIVE {', '.join(self._with)} {query.sql}") if self._with else query
        )

    def _at(self, scope: Scope, place: str) -> Expressions:
        return Expressions(self._statement, scope, self._query, place)

    # --- Any query

    def _query(self, node: exp.Expr, outer: Scope) -> Query:
        outer = self._with_entries(node, outer)
        if isinstance(node, exp.Select):
            return self._select(node, outer)
        if isinstance(node, (exp.Union, exp.Except, exp.Intersect)):
            return self._ordered(self._set_operation(node, outer), node, outer)
        if isinstance(node, exp.Subquery):
            check_arguments(node, "this with_ order limit offset")
            return self._ordered(self._query(node.this, outer), node, outer)
        if isinstance(node, exp.Values):
            check_arguments(node, "expressions with_ order limit offset")
            return self._ordered(self._values(node, outer), node, outer)
        raise SqlError(f"{describe(node)} is not supported by this sandbox")

    def _with_entries(self, node: exp.Expr, outer: Scope) -> Scope:
        clause = node.args.get("with_")
        if clause is None:
            return outer
        check_arguments(clause, "expressions recursive")
        named, here = dict(outer.named), set[str]()
        for entry in clause.expressions:
            check_arguments(entry, "this alias")
            key, sql_name = entry.alias.lower(), self._statement.name("w")
            if key in here:
                raise SqlError(f"WITH query name '{entry.alias}' specified more than once")
            here.add(key)
            # An entry sees no columns of the query around it, so it can stand in the statement's own WITH.
            inside, node, alias = Scope(named=named), entry.this, entry.args["alias"]
            tables = (table.name.lower() for table in node.find_all(exp.Table) if not table.args.get("db"))
            if clause.args.get("recursive") and key in tables:
                query = self._recursion(node, alias, inside, sql_name)
            else:
                query = clauses.named_as(self._query(node, inside), alias)
            self._with.append(f"{sql_name} AS ({query.sql})")
            named[key] = Named(sql_name, query)
        return Scope((), outer, named, clear=True)

    def _recursion(self, node: exp.Expr, alias: exp.Expr, inside: Scope, sql_name: str) -> Query:
        if not isinstance(node, exp.Union) or node.args.get("distinct") or node.args.get("order"):
            raise SqlError("WITH RECURSIVE is a start UNION ALL a step in this sandbox")
        if not alias.args.get("columns"):
            raise SqlError("WITH RECURSIVE needs the names of its columns")
        start = clauses.named_as(self._query(node.this, inside), alias)
        named = {**inside.named, alias.name.lower(): Named(sql_name, start)}
        step = self._query(node.expression, Scope(named=named))
        for have, want in zip(step.outputs, start.outputs, strict=False):
            if len(step.outputs) != len(start.outputs) or not coerces(have.type, want.type):
                raise SqlError(f"WITH RECURSIVE: the step's {have.type} is not the start's {want.type}")
        columns = ", ".join(f"o{index}" for index in range(len(start.outputs)))
        deeper = f"(SELECT max(depth) FROM {sql_name}) + 1"
        message = f"Recursion depth limit exceeded ({DEEPEST_RECURSION})"
        depth = f"CASE WHEN {deeper} > {DEEPEST_RECURSION} THEN error('{message}') ELSE {deeper} END"
        sql = f"SELECT {columns}, 0 AS depth FROM ({start.sql})"
        sql += f" UNION ALL SELECT {columns}, {depth} AS depth FROM ({clauses.as_types(step, start.outputs)})"
        return replace(start, sql=sql)

    def _set_operation(self, node: exp.Expr, outer: Scope) -> Query:
        check_arguments(node, "this expression distinct with_ order limit offset")
        word = type(node).__name__.upper()
        if any(node.this.args.get(part) for part in ("order", "limit", "offset")):
            raise SqlError(f"{word} comes before ORDER BY, OFFSET and LIMIT in Trino")
        word += "" if node.args.get("distinct") else " ALL"
        left, right = self._query(node.this, outer), self._query(node.expression, outer)
        if len(left.outputs) != len(right.outputs):
            raise SqlError(
                f"{word} query has different number of fields: {len(left.outputs)}, {len(right.outputs)}"
            )
        outputs = tuple(
            Column(a.name, common_type((a.type, b.type), f"Column {index} of {word}"))
            for index, (a, b) in enumerate(zip(left.outputs, right.outputs, strict=True), 1)
        )
        clauses.check_comparable([output.type for output in outputs] if "ALL" not in word else [], word)
        return Query(
            f"({clauses.as_types(left, outputs)}) {word} ({clauses.as_types(right, outputs)})", outputs
        )

    def _ordered(self, query: Query, node: exp.Expr, outer: Scope) -> Query:
        """A query of several, or in parentheses, with its ORDER BY, OFFSET and LIMIT, which see its columns only."""
        order, name = node.args.get("order"), self._statement.name("q")
        expressions = self._at(Scope(query.fields(name), outer), "ORDER BY")
        items: list[str] = []
        for item in order.expressions if order else ():
            ordinal = clauses.ordinal_of(item.this, len(query.outputs), "ORDER BY")
            value = expressions.value(item.this) if ordinal is None else query.value(name, ordinal)
            scalar(value.type, "ORDER BY")
            items.append(direction(item, value.sql))
        return clauses.sorted_query(query, name, items, node)

    def _values(self, node: exp.Expr, outer: Scope) -> Query:
        expressions = self._at(Scope((), outer), "VALUES")
        rows = [
            expressions.values(row.expressions if isinstance(row, exp.Tuple) else [row])
            for row in node.expressions
        ]
        if len({len(row) for row in rows}) > 1:
            raise SqlError("VALUES: rows have different numbers of columns")
        kinds = [
            common_type((value.type for value in column), "VALUES") for column in zip(*rows, strict=True)
        ]
        lines = ", ".join(
            f"({', '.join(coerce(cell, kind).sql for cell, kind in zip(row, kinds, strict=True))})"
            for row in rows
        )
        columns = ", ".join(f"o{index}" for index in range(len(kinds)))
        return Query(
            f"SELECT * FROM (VALUES {lines}) AS {self._statement.name('v')}({columns})",
            tuple(Column(f"_col{index}", kind) for index, kind in enumerate(kinds)),
        )

    # --- FROM

    def _from(self, node: exp.Expr, outer: Scope) -> Relation:
        clause = node.args.get("from_")
        if clause is None:
            return "", []
        check_arguments(clause, "this")
        sql, fields = self._relation(clause.this, outer, [])
        done: list[Field] = []
        joins: Sequence[exp.Expr] = node.args.get("joins") or ()
        commas = any(clauses.is_comma(join) for join in joins)
        for join in joins:
            if clauses.is_comma(
                join
            ):  # binds less than JOIN: the tables before it are out of sight of later ONs
                done, fields = [*done, *fields], []
            sql, fields = self._join(sql, done, fields, join, outer, commas)
        return f" FROM {sql}", [*done, *fields]

    def _relation(self, node: exp.Expr, outer: Scope, before: Sequence[Field]) -> Relation:
        """A table of FROM; `before` are the columns that a lateral one sees."""
        alias = node.args.get("alias")
        if isinstance(node, exp.Table):
            return self._table(node, outer)
        if isinstance(node, exp.Subquery) and not isinstance(node.this, exp.Table):
            check_arguments(node, "this alias with_")
            return self._derived(self._query(node.this, self._with_entries(node, outer)), alias)
        if isinstance(node, exp.Values):
            check_arguments(node, "expressions alias")
            return self._derived(self._values(node, outer), alias)
        scope = Scope(before, outer)
        if isinstance(node, exp.Unnest):
            query, alias = self._unnest(node, scope), _with_ordinality(node)
        elif isinstance(node, exp.Lateral) and isinstance(node.this, exp.Subquery):
            check_arguments(node, "this alias view outer")
            query = self._query(node.this, scope)
        else:
            raise SqlError(f"FROM: {describe(node)} is not supported by this sandbox")
        sql, fields = self._derived(query, alias)
        return f"LATERAL {sql}", fields

    def _derived(self, query: Query, alias: exp.Expr | None) -> Relation:
        name = self._statement.name("r")
        return f"({query.sql}) AS {name}", clauses.aliased(query.fields(name), alias)

    def _unnest(self, node: exp.Expr, scope: Scope) -> Query:
        check_arguments(node, "expressions alias offset")
        lists: list[Value] = []
        for value in self._at(scope, "UNNEST").values(node.expressions):
            of = value.type.of
            if value.type.name == "map":
                parts = zip(("map_keys", "map_values"), of, strict=True)
                lists += [Value(f"{function}({value.sql})", array_of(kind)) for function, kind in parts]
            elif value.type.name == "array" and of[0].name == "row":
                for at, kind in enumerate(of[0].of, 1):
                    part = f"list_transform({value.sql}, lambda e: struct_extract(e, 'f{at}'))"
                    lists.append(Value(part, array_of(kind)))
            elif value.type.name == "array":
                lists.append(value)
            else:
                raise SqlError(f"Cannot unnest type: {value.type}")
        if node.args.get("offset"):
            lengths = ", ".join(f"len({value.sql})" for value in lists)
            lists.append(Value(f"range(1, greatest({lengths}) + 1)", array_of(BIGINT)))
        columns = ", ".join(f"unnest({value.sql}) AS o{index}" for index, value in enumerate(lists))
        names = (Column(f"_col{index}", value.type.of[0]) for index, value in enumerate(lists))
        return Query(f"SELECT {columns}", tuple(names))

    def _table(self, node: exp.Expr, outer: Scope) -> Relation:
        check_arguments(node, "this db catalog alias")
        if not isinstance(node.this, exp.Identifier):
            raise SqlError(f"FROM: {describe(node)} is not supported by this sandbox")
        alias, name = node.args.get("alias"), self._statement.name("r")
        parts = [node.args[part].name for part in ("catalog", "db", "this") if node.args.get(part)]
        known = outer.named.get(parts[0].lower()) if len(parts) == 1 else None
        if known is not None:
            return f"{known.sql_name} AS {name}", clauses.aliased(known.query.fields(name, parts[0]), alias)
        at, shown = position(node), ".".join(parts)
        if len(parts) != 3:
            raise SqlError(f'{at}Table \'{shown}\' needs its full name here: "catalog"."schema"."table"')
        for ref in dict.fromkeys((TableName(*parts), TableName(*(part.lower() for part in parts)))):
            place = self._resolve(ref)
            if place is not None:
                sql, fields = self._load(place, ref, name)
                return sql, clauses.aliased(fields, alias)
        raise SqlError(f"{at}Table '{shown}' does not exist")

    def _join(
        self, sql: str, done: list[Field], fields: list[Field], join: exp.Expr, outer: Scope, commas: bool
    ) -> Relation:
        check_arguments(join, "this side kind on using")
        side, kind = join.text("side").upper(), join.text("kind").upper()
        unknown = kind not in ("", "INNER", "CROSS", "OUTER") or bool(side) == (kind in ("INNER", "CROSS"))
        if (kind and unknown) or (commas and side in ("RIGHT", "FULL")):
            beside = " beside a comma" if commas else ""
            raise SqlError(f"{side} {kind} JOIN{beside} is not supported by this sandbox".strip())
        right, right_fields = self._relation(join.this, outer, [*done, *fields])
        if right.startswith("LATERAL") and side in ("RIGHT", "FULL"):
            raise SqlError(f"{side} JOIN of a lateral table is not supported")
        word, both = f"{side} JOIN".strip(), [*fields, *right_fields]
        on, using = join.args.get("on"), join.args.get("using")
        if kind == "CROSS" or clauses.is_comma(join):
            if on is not None or using:
                raise SqlError("A CROSS JOIN has no ON and no USING")
            return f"{sql} CROSS JOIN {right}", both
        if using:
            test, both = clauses.joined_using([column.name for column in using], fields, right_fields, side)
        elif on is not None:
            test = self._at(Scope(both, outer), "JOIN ON").term(on, "JOIN ON").sql
        else:
            raise SqlError(f"{word} needs ON or USING")
        return f"{sql} {word} {right} ON {test}", both

    # --- SELECT

    def _select(self, node: exp.Select, outer: Scope) -> Query:
        check_arguments(
            node, "expressions from_ joins where group having order limit offset distinct with_ windows"
        )
        distinct, where, having, order = (
            node.args.get(part) for part in ("distinct", "where", "having", "order")
        )
        if distinct:
            check_arguments(distinct, "")
        if not node.expressions:
            raise SqlError("SELECT needs at least one column")
        source, fields = self._from(node, outer)
        rows = self._at(Scope(fields, outer), "WHERE")
        if where:
            source += f" WHERE {rows.term(where.this, 'WHERE').sql}"
        grouped = clauses.is_grouped(node)
        source += clauses.group_by(node, replace(rows, place="A GROUP BY")) if grouped else ""
        if having:
            source += (
                f" HAVING {replace(rows, place='HAVING', aggregates=True).term(having.this, 'HAVING').sql}"
            )
        named = {one.name.lower(): one for one in node.args.get("windows") or ()}
        select = replace(rows, place="SELECT", aggregates=grouped, windows=named)
        items = clauses.select_list(node.expressions, select)
        if distinct:
            clauses.check_comparable([item.value.type for item in items], "DISTINCT")
        if len(items) > MOST_COLUMNS:
            raise SqlError(
                f"The statement selects more than the {MOST_COLUMNS} columns that this sandbox shows"
            )
        hidden, directions, name = list[Value](), list[str](), self._statement.name("q")
        sorting = replace(select, place="ORDER BY", aliases=clauses.aliases_of(items))
        for item in order.expressions if order else ():
            column = clauses.sort_column(item.this, items, sorting, hidden, bool(distinct))
            directions.append(direction(item, f"{name}.{column}"))
        columns = [f"{item.value.sql} AS o{index}" for index, item in enumerate(items)]
        columns += [f"{value.sql} AS h{index}" for index, value in enumerate(hidden)]
        sql = f"SELECT {'DISTINCT ' if distinct else ''}{', '.join(columns)}{source}"
        query = Query(sql, tuple(Column(item.name, item.value.type, item.source) for item in items))
        return clauses.sorted_query(query, name, directions, node)


def _with_ordinality(node: exp.Expr) -> exp.Expr | None:
    """An UNNEST's alias: sqlglot keeps the ordinality's name apart."""
    alias, offset = node.args.get("alias"), node.args.get("offset")
    if alias is not None and isinstance(offset, exp.Identifier) and alias.args.get("columns"):
        alias = alias.copy()
        alias.append("columns", offset.copy())
    return alias
