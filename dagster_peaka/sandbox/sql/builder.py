"""The query builder's form of a query (an object of columns, tables, filters) as Trino's SQL."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import cast

from dagster_peaka.sandbox.sql.kinds import SqlError

_SORT = re.compile(r"\s*(.*?)(?:\s+(asc|desc))?\s*", re.IGNORECASE | re.DOTALL)
_COMPARISONS = frozenset({"=", "!=", "<>", "<", "<=", ">", ">="})
_FIELDS = frozenset({"columns", "from", "limit", "offset", "orderBy", "filters", "timeout"})
_DEEPEST_FILTER = 20


def query_builder_to_sql(body: Mapping[str, object]) -> str:
    """The SELECT that a query builder object stands for; SqlError naming the field that is wrong.

    Columns of `columns`, `orderBy` and `filters` are names, not expressions.

    >>> table = {"catalogName": "ops", "schemaName": "public", "tableName": "flights"}
    >>> query_builder_to_sql({"columns": ["carrier"], "from": [table], "limit": 3})
    'SELECT "carrier" FROM "ops"."public"."flights" LIMIT 3'
    """
    unknown = sorted(set(body) - _FIELDS)
    if unknown:
        raise SqlError(f"{unknown[0]}: not a field of the query builder")
    columns = ", ".join(
        _column_name(name, f"columns[{index}]") for index, name in enumerate(_list(body, "columns"))
    )
    tables = [_table(table, f"from[{index}]") for index, table in enumerate(_list(body, "from"))]
    if not tables:
        raise SqlError("from: at least one table is needed")
    sql = f"SELECT {columns or '*'} FROM {', '.join(tables)}"
    if body.get("filters"):
        sql += f" WHERE {_filter(body['filters'], 'filters', 0)}"
    order = [_sort(item, f"orderBy[{index}]") for index, item in enumerate(_list(body, "orderBy"))]
    if order:
        sql += f" ORDER BY {', '.join(order)}"
    for field, word in (("offset", "OFFSET"), ("limit", "LIMIT")):
        if body.get(field) is not None:
            sql += f" {word} {_count(body[field], field)}"
    return sql


def _list(body: Mapping[str, object], field: str) -> Sequence[object]:
    value = body.get(field)
    if value is None:
        return []
    if not isinstance(value, list):
        raise SqlError(f"{field}: must be a list")
    return cast("list[object]", value)


def _object(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise SqlError(f"{where}: must be an object")
    return cast("dict[str, object]", value)


def _quoted(name: object, where: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise SqlError(f"{where}: must be a name")
    return '"' + name.replace('"', '""') + '"'


def _column_name(name: object, where: str) -> str:
    if name == "*":
        return "*"
    if isinstance(name, str) and len(name) > 2 and name[0] == name[-1] == '"':
        name = name[1:-1].replace('""', '"')
    return _quoted(name, where)


def _table(value: object, where: str) -> str:
    table = _object(value, where)
    return ".".join(_quoted(table.get(f), f"{where}.{f}") for f in ("catalogName", "schemaName", "tableName"))


def _sort(value: object, where: str) -> str:
    match = _SORT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise SqlError(f'{where}: must be a column name, then nothing, ASC or DESC ("amount DESC")')
    return f"{_column_name(match[1], where)} {(match[2] or 'ASC').upper()}"


def _count(value: object, field: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise SqlError(f"{field}: must be a whole number, 0 or more")
    return value


def _filter(value: object, where: str, depth: int) -> str:
    """{"and": [...]} or {"or": [...]}, or [{"column": {...}}, operator, [values]]."""
    if depth > _DEEPEST_FILTER:
        raise SqlError(f"{where}: nested deeper than {_DEEPEST_FILTER} levels")
    if isinstance(value, list):
        return _condition(cast("list[object]", value), where)
    group = _object(value, where)
    if len(group) != 1 or next(iter(group)) not in ("and", "or"):
        raise SqlError(f'{where}: must be {{"and": [...]}}, {{"or": [...]}} or [column, operator, values]')
    word = next(iter(group))
    members = _list(group, word)
    if not members:
        raise SqlError(f"{where}.{word}: needs at least one condition")
    parts = [_filter(member, f"{where}.{word}[{index}]", depth + 1) for index, member in enumerate(members)]
    return f"({f' {word.upper()} '.join(parts)})"


def _condition(parts: Sequence[object], where: str) -> str:
    if len(parts) not in (2, 3) or not isinstance(parts[1], str):
        raise SqlError(f"{where}: must be [column, operator, values]")
    column = _filter_column(parts[0], f"{where}[0]")
    operator = " ".join(parts[1].lower().split())
    given = parts[2] if len(parts) == 3 else None
    listed = cast("list[object]", given) if isinstance(given, list) else [] if given is None else [given]
    values = [_literal(value, f"{where}[2]") for value in listed]
    if operator in ("is null", "is not null"):
        _expect(not values, where, operator, "no value")
        return f"{column} {operator.upper()}"
    if operator in ("in", "not in"):
        _expect(bool(values), where, operator, "at least one value")
        return f"{column} {operator.upper()} ({', '.join(values)})"
    if operator == "between":
        _expect(len(values) == 2, where, operator, "two values")
        return f"{column} BETWEEN {values[0]} AND {values[1]}"
    if operator in _COMPARISONS or operator in ("like", "not like"):
        _expect(len(values) == 1, where, operator, "one value")
        return f"{column} {operator.upper()} {values[0]}"
    raise SqlError(f"{where}[1]: {operator[:40]!r} is not an operator of the query builder")


def _expect(holds: bool, where: str, operator: str, what: str) -> None:
    if not holds:
        raise SqlError(f"{where}[2]: {operator} takes {what}")


def _filter_column(value: object, where: str) -> str:
    outer = _object(value, where)
    column = _object(outer.get("column"), f"{where}.column")
    parts = [_quoted(column.get("columnName"), f"{where}.column.columnName")]
    for field in ("tableName", "schemaName", "catalogName"):
        if column.get(field) is None:
            break
        parts.insert(0, _quoted(column[field], f"{where}.column.{field}"))
    return ".".join(parts)


def _literal(value: object, where: str) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, (int, float)):
        text = json.dumps(value)
        if re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", text):
            return text
    raise SqlError(f"{where}: values are texts, numbers and booleans")
