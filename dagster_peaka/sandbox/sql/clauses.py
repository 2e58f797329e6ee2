"""The clauses of a query: select lists, groups, orders, limits, aliases and USING."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from dagster_peaka.sandbox.sources import TableName
from dagster_peaka.sandbox.sql.calls import contains_aggregate
from dagster_peaka.sandbox.sql.expressions import Expressions, Statement
from dagster_peaka.sandbox.sql.kinds import SqlError, Type, Value, coerce, common_type
from dagster_peaka.sandbox.sql.nodes import bare_names, check_arguments, describe, position
from dagster_peaka.sandbox.sql.operators import scalar
from dagster_peaka.sandbox.sql.scope import Column, Field, Query, Scope

NO_LIMITS = ("", "", False)


def is_grouped(node: exp.Select) -> bool:
    """Whether a SELECT has groups: by GROUP BY, HAVING or an aggregate."""
    order = node.args.get("order")
    places = [*node.expressions, *(order.expressions if order else ())]
    return bool(node.args.get("group") or node.args.get("having")) or any(map(contains_aggregate, places))


def group_by(node: exp.Select, rows: Expressions) -> str:
    """GROUP BY with its keys, or nothing."""
    clause = node.args.get("group")
    if clause is None:
        return ""
    check_arguments(clause, frozenset({"expressions"}))

    def key(one: exp.Expr) -> str:
        ordinal = ordinal_of(one, len(node.expressions), "GROUP BY")
        chosen = one if ordinal is None else node.expressions[ordinal].unalias()
        if contains_aggregate(chosen) or chosen.find(exp.Window, exp.Query):
            raise SqlError(f"GROUP BY cannot contain {describe(chosen)}")
        value = rows.value(chosen)
        check_comparable([value.type], "GROUP BY")
        return value.sql

    def keys(one: exp.Expr) -> str:
        return f"({', '.join(map(key, one.expressions if isinstance(one, exp.Tuple) else [one.unnest()]))})"

    parts: list[str] = []
    for one in clause.expressions:
        if isinstance(one, (exp.Rollup, exp.Cube, exp.GroupingSets)):
            check_arguments(one, frozenset({"expressions"}))
            word = "GROUPING SETS" if isinstance(one, exp.GroupingSets) else type(one).__name__.upper()
            parts.append(f"{word} ({', '.join(map(keys, one.expressions))})")
        elif isinstance(one, exp.Tuple):
            parts += map(key, one.expressions)
        else:
            parts.append(key(one))
    return f" GROUP BY {', '.join(parts) or '()'}"


def check_comparable(types: Sequence[Type], place: str) -> None:
    """Raises SqlError for a type whose values this sandbox does not compare."""
    for kind in types:
        if any(part.name == "map" for part in kind.parts):
            raise SqlError(f"{place} of {kind} is not supported by this sandbox")


@dataclass(frozen=True)
class Item:
    """One column of a select list."""

    name: str
    value: Value
    source: TableName | None


def select_list(node: exp.Select, select: Expressions, statement: Statement) -> list[Item]:
    """The columns of a SELECT, * spelled out."""
    items: list[Item] = []
    for expression in node.expressions:
        if isinstance(expression, exp.Star) or isinstance(expression.this, exp.Star):
            for one in _starred(expression, select.scope):
                statement.columns[one.sql] = one.name
                items.append(Item(one.name, one.use(), one.source))
            continue
        name, plain = f"_col{len(items)}", expression
        if isinstance(expression, exp.Alias):
            check_arguments(expression, frozenset({"this", "alias"}))
            name, plain = expression.alias, expression.this
        elif isinstance(expression, (exp.Column, exp.Dot)):
            name = expression.name
        items.append(Item(name, select.value(plain), _source(plain, select.scope)))
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


def _source(node: exp.Expr, scope: Scope) -> TableName | None:
    if not isinstance(node, exp.Column):
        return None
    qualifier = [node.args[part].name for part in ("catalog", "db", "table") if node.args.get(part)]
    try:
        return scope.find(node.name, qualifier, node.name).source
    except SqlError:  # a row's field
        return None


def aliases_of(items: Sequence[Item]) -> dict[str, Value]:
    """The values that ORDER BY may name, by their names in the select list."""
    found: dict[str, Value] = {}
    for item in items:
        found.setdefault(item.name.lower(), item.value)
    return found


def sort_column(
    node: exp.Expr, items: Sequence[Item], sorting: Expressions, hidden: list[Value], distinct: bool
) -> str:
    """The column of the inner query to sort by: one of the select list, or a further one, put into `hidden`."""
    ordinal = ordinal_of(node, len(items), "ORDER BY")
    if ordinal is not None:
        return f"o{ordinal}"
    for name in bare_names(node):
        if len({item.value.sql for item in items if item.name.lower() == name}) > 1:
            raise SqlError(f"ORDER BY: Column '{name}' is ambiguous")
    value = sorting.value(node)
    scalar(value.type, "ORDER BY")
    shown = [item.value.sql for item in items]
    if value.sql in shown:
        return f"o{shown.index(value.sql)}"
    if distinct:
        raise SqlError("For SELECT DISTINCT, ORDER BY expressions must appear in select list")
    hidden.append(value)
    return f"h{len(hidden) - 1}"


def sorted_query(query: Query, name: str, order: Sequence[str], limits: tuple[str, str, bool]) -> Query:
    columns = ", ".join(f"{name}.o{index} AS o{index}" for index in range(len(query.outputs)))
    by = f" ORDER BY {', '.join(order)}" if order else ""
    count, offset, ties = limits
    if ties:
        if not order or offset:
            raise SqlError("FETCH FIRST … WITH TIES needs an ORDER BY, and no OFFSET in this sandbox")
        return Query(
            f"SELECT {columns} FROM ({query.sql}) AS {name} QUALIFY rank() OVER ({by}) <= {count}{by}",
            query.outputs,
        )
    limit = (f" LIMIT {count}" if count else "") + (f" OFFSET {offset}" if offset else "")
    return Query(f"SELECT {columns} FROM ({query.sql}) AS {name}{by}{limit}", query.outputs)


def ordinal_of(node: exp.Expr, width: int, place: str) -> int | None:
    """The place in the select list, from 0, that a bare integer means."""
    if not isinstance(node, exp.Literal) or node.args.get("is_string") or not node.this.isdecimal():
        return None
    if not 1 <= int(node.this[:9]) <= width:
        raise SqlError(f"{place} position {node.this[:20]} is not in select list")
    return int(node.this) - 1


def limits_of(node: exp.Expr) -> tuple[str, str, bool]:
    """How many rows, from which on, and whether with ties."""
    limit, offset = node.args.get("limit"), node.args.get("offset")
    count, ties = "", False
    if isinstance(limit, exp.Fetch):
        check_arguments(limit, frozenset({"direction", "count", "limit_options"}))
        options = limit.args.get("limit_options")
        ties = bool(options and options.args.get("with_ties"))
        if options and options.args.get("percent"):
            raise SqlError("FETCH FIRST … PERCENT is not in Trino")
        count = _row_count(limit.args["count"], "FETCH FIRST") if limit.args.get("count") else "1"
    elif limit is not None:
        check_arguments(limit, frozenset({"expression"}))
        is_all = isinstance(limit.expression, exp.Var) and limit.expression.name.upper() == "ALL"
        count = "" if is_all else _row_count(limit.expression, "LIMIT")
    if offset is None:
        return count, "", ties
    check_arguments(offset, frozenset({"expression"}))
    return count, _row_count(offset.expression, "OFFSET"), ties


def _row_count(node: exp.Expr, word: str) -> str:
    if not isinstance(node, exp.Literal) or node.args.get("is_string") or not node.this.isdecimal():
        raise SqlError(f"{word} takes a whole number")
    if len(node.this) > 18:
        raise SqlError(f"{word} {node.this[:30]} is too large")
    return node.this


def mentions(node: exp.Expr, name: str) -> bool:
    """Whether a query reads a table of that name."""
    return any(table.name.lower() == name and not table.args.get("db") for table in node.find_all(exp.Table))


def is_comma(join: exp.Expr) -> bool:
    """Whether a join is a comma."""
    return not any(join.args.get(part) for part in ("side", "kind", "on", "using", "method"))


def renamed(query: Query, alias: exp.Expr | None) -> Query:
    """The query with the column names that an alias such as t(a, b) gives."""
    return query.renamed(_alias_columns(alias, len(query.outputs)))


def renamed_fields(fields: Sequence[Field], alias: exp.Expr) -> list[Field]:
    """The columns under the names that an alias such as t(a, b) gives."""
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


def joined_using(
    names: Sequence[str], left: Sequence[Field], right: Sequence[Field], side: str
) -> tuple[str, list[Field]]:
    """The join's condition, and its columns: those of USING once, in front, then the others of both sides."""
    tests: list[str] = []
    merged: list[Field] = []
    gone: set[str] = set()
    for name in names:
        a, b = (Scope(fields).find(name, (), f"Column '{name}' of USING") for fields in (left, right))
        kind = scalar(common_type((a.type, b.type), f"USING ({name})"), "USING")
        x, y = coerce(a.use(), kind).sql, coerce(b.use(), kind).sql
        tests.append(f"{x} = {y}")
        sql = {"": x, "LEFT": x, "RIGHT": y}.get(side, f"coalesce({x}, {y})")
        merged.append(Field(a.name, sql, kind, source=a.source if sql == a.sql else None))
        gone |= {a.sql, b.sql}
    return " AND ".join(tests), [*merged, *(one for one in (*left, *right) if one.sql not in gone)]


def as_types(query: Query, outputs: Sequence[Column]) -> str:
    """The query with its columns as these types."""
    columns = ", ".join(
        f"{coerce(Value(f'o{index}', have.type), want.type).sql} AS o{index}"
        for index, (have, want) in enumerate(zip(query.outputs, outputs, strict=True))
    )
    return f"SELECT {columns} FROM ({query.sql})"
