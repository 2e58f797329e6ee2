"""Queries: SELECT, WITH, set operations and VALUES become SQLite's SQL around the compiled expressions.

Every query gives its columns as o0, o1, … A grouped query is two layers: the inner one computes its keys k0, k1, …
and aggregates a0, a1, …, the outer one everything made of them. So SQLite's own lenience about columns beside
aggregates, about names and about GROUP BY never comes into play. Tables are read through one WITH entry each
(`Scan`), which checks that the stored values are of the declared types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from dagster_peaka.sandbox.trino_expressions import (
    Expressions,
    Grouping,
    Statement,
    check_arguments,
    contains_aggregate,
    describe,
    direction,
    position,
)
from dagster_peaka.sandbox.trino_scope import Field, Output, Place, Query, Scan, Scope, TableRef
from dagster_peaka.sandbox.trino_types import (
    UNKNOWN,
    SqlError,
    Value,
    coerce,
    common_type,
    parse_type,
    read_column,
)

MOST_TABLES = 60
"""Tables that a statement may name, those of each WITH entry counted at every use of it."""

Resolve = Callable[[TableRef], Place | None]


@dataclass(frozen=True)
class _Named:
    """A WITH entry: its query, the name that it has in the generated SQL, and how many tables are behind it."""

    sql_name: str
    query: Query
    tables: int


@dataclass(frozen=True)
class _Item:
    """One column of a select list."""

    name: str
    value: Value
    source: TableRef | None
    weight: int


@dataclass(frozen=True)
class _Around:
    """What surrounds a query: the WITH entries that it may name, and the columns of the query that it is part of."""

    named: Mapping[str, _Named]
    outer: Scope | None


class Queries:
    """Compiles one statement. Afterwards `sql(query)` is the whole text, `paths` the files that it reads."""

    def __init__(self, resolve: Resolve, statement: Statement) -> None:
        self._resolve = resolve
        self._statement = statement
        self._tables = 0
        self._scans: dict[tuple[str, str], Scan] = {}
        self._with: list[tuple[str, str]] = []

    @property
    def paths(self) -> list[str]:
        """The SQLite files to attach, as s0, s1, …"""
        return list(dict.fromkeys(scan.place.path for scan in self._scans.values()))

    def compile(self, tree: exp.Expr) -> Query:
        """The whole statement's query."""
        return self._query(tree, _Around({}, None))

    def sql(self, query: Query) -> str:
        """The query with all that it reads."""
        # Once read, a table that is joined is kept, so that SQLite can index it; a lone one is streamed.
        kept = "MATERIALIZED" if self._tables > 1 else "NOT MATERIALIZED"
        scans = [f"{scan.name} AS {kept} ({self._scan_sql(scan)})" for scan in self._scans.values()]
        entries = [*scans, *(f"{name} AS ({text})" for name, text in self._with)]
        return f"WITH {', '.join(entries)} {query.sql}" if entries else query.sql

    def _scan_sql(self, scan: Scan) -> str:
        columns = [
            f"{read_column('s.' + quote(name), parse_type(kind), name)} AS c{index}"
            for index, (name, kind) in enumerate(scan.place.columns)
            if index in scan.used
        ]
        schema = f"s{self.paths.index(scan.place.path)}"
        limit = "" if scan.place.most_rows is None else f" LIMIT {scan.place.most_rows}"
        return f"SELECT {', '.join(columns or ['1'])} FROM {schema}.{quote(scan.place.table)} AS s{limit}"

    def _name(self, letter: str) -> str:
        return self._statement.name(letter)

    # --- Any query

    def _query(self, node: exp.Expr, around: _Around) -> Query:
        around = self._with_entries(node, around)
        if isinstance(node, exp.Select):
            return self._select(node, around)
        if isinstance(node, (exp.Union, exp.Except, exp.Intersect)):
            return self._set_operation(node, around)
        if isinstance(node, exp.Subquery):
            return self._in_parentheses(node, around)
        if isinstance(node, exp.Values):
            check_arguments(node, frozenset({"expressions", "with_", "order", "limit", "offset"}))
            return self._ordered(self._values(node, around), node, around)
        raise SqlError(f"{describe(node)} is not supported by this sandbox")

    def _with_entries(self, node: exp.Expr, around: _Around) -> _Around:
        clause = node.args.get("with_")
        if clause is None:
            return around
        check_arguments(clause, frozenset({"expressions"}))
        named, here = dict(around.named), set[str]()
        for entry in clause.expressions:
            check_arguments(entry, frozenset({"this", "alias"}))
            before = self._tables
            # An entry sees no columns of the query around it, so it can stand in the statement's own WITH.
            query = _renamed(self._query(entry.this, _Around(named, None)), entry.args["alias"])
            sql_name = self._name("w")
            self._with.append((sql_name, query.sql))
            if entry.alias.lower() in here:
                raise SqlError(f"WITH query name '{entry.alias}' specified more than once")
            here.add(entry.alias.lower())
            named[entry.alias.lower()] = _Named(sql_name, query, self._tables - before)
        return _Around(named, around.outer)

    def _in_parentheses(self, node: exp.Expr, around: _Around) -> Query:
        check_arguments(node, frozenset({"this", "with_", "order", "limit", "offset"}))
        inner = self._query(node.this, around)
        return self._ordered(inner, node, around)

    def _set_operation(self, node: exp.Expr, around: _Around) -> Query:
        check_arguments(
            node, frozenset({"this", "expression", "distinct", "with_", "order", "limit", "offset"})
        )
        word = type(node).__name__.upper()
        if not node.args.get("distinct"):
            if word != "UNION":
                raise SqlError(f"{word} ALL is not supported by this sandbox")
            word = "UNION ALL"
        if isinstance(node.expression, exp.SetOperation) or (
            word == "INTERSECT"
            and isinstance(node.this, exp.SetOperation)
            and not isinstance(node.this, exp.Intersect)
        ):  # a parser that does not bind INTERSECT more tightly than the others
            raise SqlError(f"{word} beside other set operations needs parentheses")
        left, right = self._query(node.this, around), self._query(node.expression, around)
        if len(left.outputs) != len(right.outputs):
            raise SqlError(
                f"{word} query has different number of fields: {len(left.outputs)}, {len(right.outputs)}"
            )
        outputs = tuple(
            Output(
                a.name,
                common_type((a.type, b.type), f"Column {index} of {word}"),
                weight=max(a.weight, b.weight),
            )
            for index, (a, b) in enumerate(zip(left.outputs, right.outputs, strict=True), 1)
        )
        both = f"{_as_types(left, outputs)} {word} {_as_types(right, outputs)}"
        return self._ordered(Query(both, outputs), node, around)

    def _ordered(self, query: Query, node: exp.Expr, around: _Around) -> Query:
        """A query of several, or in parentheses, with its ORDER BY, OFFSET and LIMIT, which see its columns only."""
        order, limits = node.args.get("order"), _limits(node)
        if order is None and not limits:
            return query
        name = self._name("q")
        scope = Scope(query.fields(name), around.outer)
        expressions = Expressions(self._statement, scope, self._subquery(around), "ORDER BY")
        items: list[str] = []
        for item in order.expressions if order else ():
            ordinal = _ordinal(item.this, len(query.outputs), "ORDER BY")
            sql = f"{name}.o{ordinal}" if ordinal is not None else expressions.value(item.this).sql
            items.append(direction(item, sql))
        return _sorted(query, name, items, limits)

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
        sql, fields = self._relation(clause.this, around)
        done: list[Field] = []
        joins: Sequence[exp.Expr] = node.args.get("joins") or ()
        commas = any(_is_comma(join) for join in joins)
        for join in joins:
            if _is_comma(join):  # binds less than JOIN: the tables before it are out of sight of later ONs
                done, fields = [*done, *fields], []
            sql, fields = self._join(sql, fields, join, around, commas)
        return f" FROM {sql}", [*done, *fields]

    def _relation(self, node: exp.Expr, around: _Around) -> tuple[str, list[Field]]:
        if isinstance(node, exp.Table):
            return self._table(node, around)
        if isinstance(node, exp.Subquery) and not isinstance(node.this, exp.Table):
            check_arguments(node, frozenset({"this", "alias", "with_"}))
            inner = self._query(node.this, self._with_entries(node, around))
            return self._derived(inner, node.args.get("alias"))
        if isinstance(node, exp.Values):
            check_arguments(node, frozenset({"expressions", "alias"}))
            return self._derived(self._values(node, around), node.args.get("alias"))
        raise SqlError(f"FROM: {describe(node)} is not supported by this sandbox")

    def _derived(self, query: Query, alias: exp.Expr | None) -> tuple[str, list[Field]]:
        name = self._name("r")
        fields = _renamed(query, alias).fields(name, *([alias.name] if alias and alias.name else []))
        return f"({query.sql}) AS {name}", fields

    def _table(self, node: exp.Expr, around: _Around) -> tuple[str, list[Field]]:
        check_arguments(node, frozenset({"this", "db", "catalog", "alias"}))
        if not isinstance(node.this, exp.Identifier):
            raise SqlError(f"FROM: {describe(node)} is not supported by this sandbox")
        alias, name = node.args.get("alias"), self._name("r")
        parts = [node.args[part].name for part in ("catalog", "db", "this") if node.args.get(part)]
        known = around.named.get(parts[0].lower()) if len(parts) == 1 else None
        if known is not None:
            self._count_tables(known.tables)
            shown = alias.name if alias and alias.name else parts[0]
            return f"{known.sql_name} AS {name}", _renamed(known.query, alias).fields(name, shown)
        self._count_tables(1)
        scan, ref = self._scan(parts, position(node))
        fields = _table_fields(scan, ref, name)
        if alias is not None:
            fields = _renamed_fields(fields, alias)
        return f"{scan.name} AS {name}", fields

    def _count_tables(self, tables: int) -> None:
        self._tables += max(1, tables)
        if self._tables > MOST_TABLES:
            raise SqlError(f"The statement reads more than the {MOST_TABLES} tables that this sandbox joins")

    def _scan(self, parts: Sequence[str], at: str) -> tuple[Scan, TableRef]:
        shown = ".".join(parts)
        if len(parts) != 3:
            raise SqlError(f'{at}Table \'{shown}\' needs its full name here: "catalog"."schema"."table"')
        ref = TableRef(*parts)
        place = self._resolve(ref)
        if place is None:
            ref = TableRef(*(part.lower() for part in parts))
            place = self._resolve(ref)
        if place is None:
            raise SqlError(f"{at}Table '{shown}' does not exist")
        key = (place.path, place.table)
        return self._scans.setdefault(key, Scan(place, f"t{len(self._scans)}")), ref

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
        columns = ", ".join(f"column{index + 1} AS o{index}" for index in range(width))
        return Query(
            f"SELECT {columns} FROM (VALUES {lines})",
            tuple(Output(f"_col{index}", kind) for index, kind in enumerate(kinds)),
        )

    def _join(
        self, sql: str, fields: list[Field], join: exp.Expr, around: _Around, commas: bool
    ) -> tuple[str, list[Field]]:
        check_arguments(join, frozenset({"this", "side", "kind", "on", "using"}))
        side, kind = join.text("side").upper(), join.text("kind").upper()
        unknown = kind not in ("", "INNER", "CROSS", "OUTER") or bool(side) == (kind in ("INNER", "CROSS"))
        if (kind and unknown) or (commas and side in ("RIGHT", "FULL")):
            beside = " beside a comma" if commas else ""
            raise SqlError(f"{side} {kind} JOIN{beside} is not supported by this sandbox".strip())
        right, right_fields = self._relation(join.this, around)
        word = f"{side} JOIN".strip()
        on, using = join.args.get("on"), join.args.get("using")
        if kind == "CROSS" or _is_comma(join):
            if on is not None or using:
                raise SqlError("A CROSS JOIN has no ON and no USING")
            return f"{sql} JOIN {right}", [*fields, *right_fields]
        if using:
            test, fields = _using([column.name for column in using], fields, right_fields, side)
            return f"{sql} {word} {right} ON {test}", fields
        if on is None:
            raise SqlError(f"{word} needs ON or USING")
        fields = [*fields, *right_fields]
        scope = Scope(fields, around.outer)
        test = Expressions(self._statement, scope, self._subquery(around), "JOIN ON").condition(on).sql
        return f"{sql} {word} {right} ON {test}", fields

    # --- SELECT

    def _select(self, node: exp.Select, around: _Around) -> Query:
        understood = "expressions from_ joins where group having order limit offset distinct with_"
        check_arguments(node, frozenset(understood.split()))
        if distinct := node.args.get("distinct"):
            check_arguments(distinct, frozenset())
        if not node.expressions:
            raise SqlError("SELECT needs at least one column")
        source, fields = self._from(node, around)
        rows = self._expressions(Scope(fields, around.outer), around, "WHERE")
        if where := node.args.get("where"):
            source += f" WHERE {rows.condition(where.this).sql}"
        grouped = self._expressions(rows.scope, around, "A GROUP BY or an aggregate")
        grouping = self._grouping(node, grouped) if _is_grouped(node) else None
        scope = rows.scope if grouping is None else _grouped_scope(rows.scope, grouping)
        select = self._expressions(scope, around, "SELECT", grouping=grouping, windows=True)
        items = _select_list(node, select, self._statement)
        having = ""
        if clause := node.args.get("having"):
            test = self._expressions(scope, around, "HAVING", grouping=grouping).condition(clause.this)
            having = f" WHERE {test.sql}"
        hidden: list[Value] = []
        order: list[str] = []
        name = self._name("q")
        if clause := node.args.get("order"):
            sorting = self._expressions(
                scope, around, "ORDER BY", grouping=grouping, windows=True, aliases=_aliases(items)
            )
            order = [
                direction(item, f"{name}.{_sort_column(item.this, items, sorting, hidden, bool(distinct))}")
                for item in clause.expressions
            ]
        if grouping is not None:
            source = f" FROM ({_groups(grouping, source)}) AS {grouping.alias}{having}"
        columns = [f"{item.value.sql} AS o{index}" for index, item in enumerate(items)]
        columns += [f"{value.sql} AS h{index}" for index, value in enumerate(hidden)]
        sql = f"SELECT {'DISTINCT ' if distinct else ''}{', '.join(columns)}{source}"
        query = Query(
            sql, tuple(Output(item.name, item.value.type, item.source, item.weight) for item in items)
        )
        limits = _limits(node)
        return _sorted(query, name, order, limits) if order else Query(f"{sql}{limits}", query.outputs)

    def _expressions(
        self,
        scope: Scope,
        around: _Around,
        place: str,
        *,
        grouping: Grouping | None = None,
        windows: bool = False,
        aliases: Mapping[str, Value] | None = None,
    ) -> Expressions:
        inside = self._subquery(around)
        return Expressions(
            self._statement, scope, inside, place, grouping=grouping, windows=windows, aliases=aliases
        )

    def _grouping(self, node: exp.Select, rows: Expressions) -> Grouping:
        grouping = Grouping(self._name("g"), rows)
        clause = node.args.get("group")
        if clause is None:
            return grouping
        check_arguments(clause, frozenset({"expressions"}))
        for key in clause.expressions:
            ordinal = _ordinal(key, len(node.expressions), "GROUP BY")
            chosen = key if ordinal is None else node.expressions[ordinal].unalias()
            if contains_aggregate(chosen) or chosen.find(exp.Window, exp.Query):
                raise SqlError(f"GROUP BY cannot contain {describe(chosen)}")
            grouping.add_key(rows.value(chosen))
        return grouping


# --- The parts of a SELECT


def _is_grouped(node: exp.Select) -> bool:
    order = node.args.get("order")
    places = [*node.expressions, *(order.expressions if order else ())]
    return bool(node.args.get("group") or node.args.get("having")) or any(map(contains_aggregate, places))


def _grouped_scope(scope: Scope, grouping: Grouping) -> Scope:
    """The columns as they are seen from outside of aggregates: the keys, and the others as an error."""
    seen: list[Field] = []
    for one in scope.fields:
        key = None if one.problem else grouping.keys.get(one.sql)
        problem = one.problem or f"'{one.name}' must be an aggregate expression or appear in GROUP BY clause"
        seen.append(
            replace(one, problem=problem) if key is None else replace(one, sql=key.sql, origin=None, weight=1)
        )
    return Scope(seen, scope.outer)


def _groups(grouping: Grouping, source: str) -> str:
    columns = [f"{sql} AS k{index}" for index, sql in enumerate(grouping.keys)]
    columns += [f"{sql} AS a{index}" for index, sql in enumerate(grouping.aggregates)]
    by = ", ".join(str(index + 1) for index in range(len(grouping.keys)))
    return f"SELECT {', '.join(columns) or 'count(*)'}{source}{' GROUP BY ' + by if by else ''}"


def _select_list(node: exp.Select, select: Expressions, statement: Statement) -> list[_Item]:
    items: list[_Item] = []
    for expression in node.expressions:
        if isinstance(expression, exp.Star) or isinstance(expression.this, exp.Star):
            for one in _starred(expression, select.scope):
                statement.carry(one.weight)
                items.append(_Item(one.name, one.use(), one.source, one.weight))
            continue
        name, plain = f"_col{len(items)}", expression
        if isinstance(expression, exp.Alias):
            check_arguments(expression, frozenset({"this", "alias"}))
            name, plain = expression.alias, expression.this
        elif isinstance(expression, exp.Column):
            name = expression.name
        before = statement.weight
        value = select.value(plain)
        items.append(_Item(name, value, _source(plain, select.scope), 1 + statement.weight - before))
    return items


def _starred(node: exp.Expr, scope: Scope) -> Sequence[Field]:
    if isinstance(node, exp.Star):
        check_arguments(node, frozenset())
        if not scope.fields:
            raise SqlError("SELECT * not allowed in queries without FROM clause")
        return scope.fields
    if not isinstance(node, exp.Column):
        raise SqlError(f"{describe(node)} is not supported by this sandbox")
    check_arguments(node.this, frozenset())
    qualifier = [node.args[part].name for part in ("catalog", "db", "table") if node.args.get(part)]
    return scope.of_table(qualifier, f"{position(node)}{'.'.join(qualifier)}.*")


def _source(node: exp.Expr, scope: Scope) -> TableRef | None:
    if not isinstance(node, exp.Column):
        return None
    qualifier = [node.args[part].name for part in ("catalog", "db", "table") if node.args.get(part)]
    return scope.find(node.name, qualifier, node.name).source


def _aliases(items: Sequence[_Item]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for item in items:
        found.setdefault(item.name.lower(), item.value)
    return found


def _sort_column(
    node: exp.Expr, items: Sequence[_Item], sorting: Expressions, hidden: list[Value], distinct: bool
) -> str:
    """The column of the inner query to sort by: one of the select list, or a further one, put into `hidden`."""
    ordinal = _ordinal(node, len(items), "ORDER BY")
    if ordinal is not None:
        return f"o{ordinal}"
    for column in node.find_all(exp.Column):
        meant = {item.value.sql for item in items if item.name.lower() == column.name.lower()}
        if not column.args.get("table") and len(meant) > 1:
            raise SqlError(f"ORDER BY: Column '{column.name}' is ambiguous")
    value = sorting.value(node)
    shown = [item.value.sql for item in items]
    if value.sql in shown:
        return f"o{shown.index(value.sql)}"
    if distinct:
        raise SqlError("For SELECT DISTINCT, ORDER BY expressions must appear in select list")
    hidden.append(value)
    return f"h{len(hidden) - 1}"


def _sorted(query: Query, name: str, order: Sequence[str], limits: str) -> Query:
    columns = ", ".join(f"{name}.o{index} AS o{index}" for index in range(len(query.outputs)))
    by = f" ORDER BY {', '.join(order)}" if order else ""
    return Query(f"SELECT {columns} FROM ({query.sql}) AS {name}{by}{limits}", query.outputs)


def _ordinal(node: exp.Expr, width: int, place: str) -> int | None:
    """The place in the select list, from 0, that a bare integer means."""
    if not isinstance(node, exp.Literal) or node.args.get("is_string") or not node.this.isdecimal():
        return None
    if not 1 <= int(node.this[:9]) <= width:
        raise SqlError(f"{place} position {node.this[:20]} is not in select list")
    return int(node.this) - 1


def _limits(node: exp.Expr) -> str:
    limit, offset = node.args.get("limit"), node.args.get("offset")
    if limit is None and offset is None:
        return ""
    count = "-1"
    if limit is not None:
        if not isinstance(limit, exp.Limit):
            raise SqlError(f"{describe(limit)} is not supported by this sandbox; use LIMIT")
        check_arguments(limit, frozenset({"expression"}))
        is_all = isinstance(limit.expression, exp.Var) and limit.expression.name.upper() == "ALL"
        count = "-1" if is_all else _row_count(limit.expression, "LIMIT")
    if offset is None:
        return f" LIMIT {count}"
    check_arguments(offset, frozenset({"expression"}))
    return f" LIMIT {count} OFFSET {_row_count(offset.expression, 'OFFSET')}"


def _row_count(node: exp.Expr, word: str) -> str:
    if not isinstance(node, exp.Literal) or node.args.get("is_string") or not node.this.isdecimal():
        raise SqlError(f"{word} takes a whole number")
    if len(node.this) > 18:
        raise SqlError(f"{word} {node.this[:30]} is too large")
    return node.this


# --- The parts of FROM


def quote(name: str) -> str:
    """A name as SQLite's identifier."""
    return '"' + name.replace('"', '""') + '"'


def _is_comma(join: exp.Expr) -> bool:
    return not any(join.args.get(part) for part in ("side", "kind", "on", "using", "method"))


def _table_fields(scan: Scan, ref: TableRef, alias: str) -> list[Field]:
    fields: list[Field] = []
    under = (ref.catalog.lower(), ref.schema.lower(), ref.table.lower())
    for index, (name, declared) in enumerate(scan.place.columns):
        kind, problem = UNKNOWN, ""
        try:
            kind = parse_type(declared)
        except SqlError as error:
            problem = f"Column '{name}' of {ref}: {error}"
        fields.append(Field(name, f"{alias}.c{index}", kind, under, ref, problem, origin=(scan, index)))
    return fields


def _renamed(query: Query, alias: exp.Expr | None) -> Query:
    """The query with the column names that an alias such as t(a, b) gives."""
    names = _alias_columns(alias, len(query.outputs))
    if not names:
        return query
    outputs = (replace(output, name=name) for output, name in zip(query.outputs, names, strict=True))
    return Query(query.sql, tuple(outputs))


def _renamed_fields(fields: Sequence[Field], alias: exp.Expr) -> list[Field]:
    names = _alias_columns(alias, len(fields)) or [one.name for one in fields]
    under = (alias.name.lower(),)
    return [replace(one, name=name, qualifier=under) for one, name in zip(fields, names, strict=True)]


def _alias_columns(alias: exp.Expr | None, width: int) -> list[str]:
    if alias is None:
        return []
    check_arguments(alias, frozenset({"this", "columns"}))
    names = [column.name for column in alias.args.get("columns") or ()]
    if names and len(names) != width:
        raise SqlError(f"Column alias list has {len(names)} entries but '{alias.name}' has {width} columns")
    return names


def _using(
    names: Sequence[str], left: Sequence[Field], right: Sequence[Field], side: str
) -> tuple[str, list[Field]]:
    """The join's condition, and its columns: those of USING once, in front, then the others of both sides."""
    tests: list[str] = []
    merged: list[Field] = []
    gone: set[str] = set()
    for name in names:
        a, b = (Scope(fields).find(name, (), f"Column '{name}' of USING") for fields in (left, right))
        kind = common_type((a.type, b.type), f"USING ({name})")
        x, y = coerce(a.use(), kind).sql, coerce(b.use(), kind).sql
        tests.append(f"{x} = {y}")
        sql = {"": x, "LEFT": x, "RIGHT": y}.get(side, f"coalesce({x}, {y})")
        merged.append(Field(a.name, sql, kind, source=a.source if sql == a.sql else None))
        gone |= {a.sql, b.sql}
    return " AND ".join(tests), [*merged, *(one for one in (*left, *right) if one.sql not in gone)]


def _as_types(query: Query, outputs: Sequence[Output]) -> str:
    columns = ", ".join(
        f"{coerce(Value(f'o{index}', have.type), want.type).sql} AS o{index}"
        for index, (have, want) in enumerate(zip(query.outputs, outputs, strict=True))
    )
    return f"SELECT {columns} FROM ({query.sql})"
