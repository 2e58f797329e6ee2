"""The clauses of a query: select lists, groups, orders, limits, aliases and USING."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from dagster_peaka.sandbox.sources import TableName
from dagster_peaka.sandbox.sql.calls import contains_aggregate
from dagster_peaka.sandbox.sql.expressions import Expressions
from dagster_peaka.sandbox.sql.kinds import SqlError, Type, Value, coerce, common_type
from dagster_peaka.sandbox.sql.nodes import (
    bare_names,
    check_arguments,
    describe,
    position,
    qualifier,
)
from dagster_peaka.sandbox.sql.operators import scalar
from dagster_peaka.sandbox.sql.scope import Column, Field, Query, Scope


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
    check_arguments(clause, "expressions")

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
            check_arguments(one, "expressions")
            word = "GROUPING SETS" if isinstance(one, exp.GroupingSets) else type(one).__name__.upper()
            parts.append(f"{word} ({', '.join(map(keys, one.expressions))})")
        else:
            parts += map(key, one.expressions if isinstance(one, exp.Tuple) else [one])
    return f" GROUP BY {', '.join(parts) or '()'}"


def check_comparable(types: Sequence[Type], place: str) -> None:
    """Raises SqlError for a type whose values this sandbox does not compare."""
    for kind in types:
        if any(part.name == "map" for part in kind.parts):
            raise SqlError(f"{place} of {kind} is not supported by this sandbox")


# --- Select lists


@dataclass(frozen=True)
class Item:
    """One column of a select list."""

    name: str
    value: Value
    source: TableName | None


def select_list(nodes: Sequence[exp.Expr], select: Expressions) -> list[Item]:
    """The columns of a SELECT, * spelled out."""
    items: list[Item] = []
    for node in nodes:
        if isinstance(node, exp.Star) or isinstance(node.this, exp.Star):
            items += [Item(one.name, select.use(one), one.source) for one in _starred(node, select.scope)]
            continue
        name, plain = f"_col{len(items)}", node
        if isinstance(node, exp.Alias):
            check_arguments(node, "this alias")
            name, plain = node.alias, node.this
        elif isinstance(node, (exp.Column, exp.Dot)):
            name = node.name
        field = select.scope.find(plain.name, qualifier(plain)) if isinstance(plain, exp.Column) else None
        items.append(Item(name, select.value(plain), field and field.source))
    return items


def _starred(node: exp.Expr, scope: Scope) -> Sequence[Field]:
    star = node.this if isinstance(node, exp.Column) else node
    if not isinstance(star, exp.Star):
        raise SqlError(f"{describe(node)} is not supported by this sandbox")
    check_arguments(star, "")
    under = qualifier(node)
    found = scope.of_table(under)
    if not found and not under:
        raise SqlError("SELECT * not allowed in queries without FROM clause")
    if not found:
        raise SqlError(f"{position(node)}{'.'.join(under)}.*: unable to resolve the table")
    return found


# --- ORDER BY and LIMIT


def aliases_of(items: Sequence[Item]) -> dict[str, Value]:
    """The values that ORDER BY may name, by their names in the select list: of several, the first."""
    return {item.name.lower(): item.value for item in reversed(items)}


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


def ordinal_of(node: exp.Expr, width: int, place: str) -> int | None:
    """The place in the select list, from 0, that a bare integer means."""
    if not isinstance(node, exp.Literal) or node.args.get("is_string") or not node.this.isdecimal():
        return None
    if not 1 <= int(node.this[:9]) <= width:
        raise SqlError(f"{place} position {node.this[:20]} is not in select list")
    return int(node.this) - 1


def sorted_query(query: Query, name: str, order: Sequence[str], node: exp.Expr) -> Query:
    """The query in its order, by items that call it `name`, and what OFFSET and LIMIT of `node` leave of it."""
    by = f" ORDER BY {', '.join(order)}" if order else ""
    limit, offset = node.args.get("limit"), node.args.get("offset")
    if not by and limit is None and offset is None:
        return query
    columns = ", ".join(f"{name}.o{index} AS o{index}" for index in range(len(query.outputs)))
    start = f" OFFSET {_row_count(offset, 'expression', 'OFFSET')}" if offset else ""
    sql = f"SELECT {columns} FROM ({query.sql}) AS {name}"
    if isinstance(limit, exp.Fetch):
        check_arguments(limit, "direction count limit_options")
        options = limit.args.get("limit_options")
        if options and options.args.get("percent"):
            raise SqlError("FETCH FIRST … PERCENT is not in Trino")
        count = _row_count(limit, "count", "FETCH FIRST") if limit.args.get("count") else "1"
        if options and options.args.get("with_ties"):
            if not order or offset:
                raise SqlError("FETCH FIRST … WITH TIES needs an ORDER BY, and no OFFSET in this sandbox")
            return replace(query, sql=f"{sql} QUALIFY rank() OVER ({by}) <= {count}{by}")
        return replace(query, sql=f"{sql}{by} LIMIT {count}{start}")
    count = ""
    if limit is not None and not (
        isinstance(limit.expression, exp.Var) and limit.expression.name.upper() == "ALL"
    ):
        count = f" LIMIT {_row_count(limit, 'expression', 'LIMIT')}"
    return replace(query, sql=f"{sql}{by}{count}{start}")


def _row_count(clause: exp.Expr, part: str, word: str) -> str:
    check_arguments(clause, f"{part} direction limit_options")
    node = clause.args[part]
    if not isinstance(node, exp.Literal) or node.args.get("is_string") or not node.this.isdecimal():
        raise SqlError(f"{word} takes a whole number")
    if len(node.this) > 18:
        raise SqlError(f"{word} {node.this[:30]} is too large")
    return node.this


# --- FROM


def is_comma(join: exp.Expr) -> bool:
    """Whether a join is a comma."""
    return not any(join.args.get(part) for part in ("side", "kind", "on", "using", "method"))


def named_as(query: Query, alias: exp.Expr) -> Query:
    """The query with the column names that an alias such as t(a, b) gives."""
    fields = aliased(query.fields(""), alias)
    return replace(
        query,
        outputs=tuple(replace(had, name=one.name) for had, one in zip(query.outputs, fields, strict=True)),
    )


def aliased(fields: Sequence[Field], alias: exp.Expr | None) -> list[Field]:
    """The columns under the names that an alias such as t(a, b) gives."""
    if alias is None:
        return list(fields)
    check_arguments(alias, "this columns")
    names = [column.name for column in alias.args.get("columns") or fields]
    if len(names) != len(fields):
        raise SqlError(
            f"Column alias list has {len(names)} entries but '{alias.name}' has {len(fields)} columns"
        )
    return [
        replace(one, name=name, qualifier=(alias.name.lower(),) if alias.name else one.qualifier)
        for one, name in zip(fields, names, strict=True)
    ]


def joined_using(
    names: Sequence[str], left: Sequence[Field], right: Sequence[Field], side: str
) -> tuple[str, list[Field]]:
    """The join's condition, and its columns: those of USING once, in front, then the others of both sides."""
    tests: list[str] = []
    merged: list[Field] = []
    gone: set[str] = set()
    for name in names:
        a, b = Scope(left).find(name), Scope(right).find(name)
        if a is None or b is None:
            raise SqlError(f"Column '{name}' of USING cannot be resolved")
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
