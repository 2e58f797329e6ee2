"""`queries/execute`: which SQL a request asks for, where its tables are, and the three formats of its result."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from dagster_peaka.sandbox import bodies, sql
from dagster_peaka.sandbox.errors import bad_request, no_query
from dagster_peaka.sandbox.executions import Engine
from dagster_peaka.sandbox.sources import TableName, quoted
from dagster_peaka.sandbox.wire import Json

FORMATS = ("CELL_TYPED", "SIMPLE", "COMPACT")
_CAP = 100
"""Rows of a table behind a paged API that a query sees, unless the table is cached."""
_FORMS = ("statement", "qualifiedName", "id")
_TABLE = "table_catalog table_schema table_name"
_DESCRIPTIONS = {
    "catalogs": "catalog_name",
    "schemata": "catalog_name schema_name",
    "tables": f"{_TABLE} table_type",
    "columns": f"{_TABLE} column_name ordinal_position column_default is_nullable data_type",
}


Request = tuple[str, list[str], int]
"""The SQL that is asked for, its bind arguments and its timeout in seconds."""


def requested(body: Json, engine: Engine) -> Request:
    """What a body asks for, in any of its forms. Raises `ApiError`."""
    if body.get("from") is not None:
        raise bad_request("from: the sandbox does not offer the query builder, only SQL in statement.")
    forms = [form for form in _FORMS if body.get(form) is not None]
    if len(forms) != 1:
        raise bad_request(f"The body must have exactly one of {', '.join(_FORMS)}.")
    timeout = body.get("timeout")
    seconds = 60 if timeout is None else bodies.whole_number(timeout, "timeout", 1)
    bindings = bodies.texts(body, "bindings")
    if forms[0] == "id":
        if (query_id := bodies.text(body, "id")) in engine.saved_sql:
            return engine.saved_sql[query_id], [], seconds
        raise no_query(query_id, engine.behaviour.missing_query)
    if forms[0] == "qualifiedName":
        parts = bodies.text(body, "qualifiedName").split(".", 2)
        if len(parts) != 3 or not all(parts):
            raise bad_request("qualifiedName must be catalog.schema.table.")
        return f"SELECT * FROM {'.'.join(quoted(part) for part in parts)}", [], seconds
    return bodies.text(body, "statement"), bindings, seconds


def run(
    engine: Engine, statement: str, bindings: Sequence[str], seconds: float, texts: bool
) -> sql.QueryResult:
    """The result of a statement, read from copies where there are any, its values as texts or of JSON's types. Blocks.

    Raises `ApiError`.
    """
    try:
        return sql.run(statement, partial(place_of, engine), bindings=bindings, timeout=seconds, texts=texts)
    except sql.SqlError as error:
        raise bad_request(str(error)) from None


def place_of(engine: Engine, name: TableName) -> sql.Place | None:
    if name in engine.left_behind:
        raise bad_request(f"The copy of {name} cannot be read.")
    if name in engine.snapshots:
        return engine.snapshots[name]
    cache = engine.by_table.get(name)
    copy = engine.copy_of(name)
    empty = cache is not None and cache.in_first_sync and engine.behaviour.first_sync_rows == "none"
    if copy is not None and not empty:
        return copy
    if name.schema.lower() == "information_schema" or name == ("system", "metadata", "catalogs"):
        return _described(engine, name)
    file = engine.sources.file(name)
    table = engine.sources.table(name)
    if file is None or table is None:
        return None
    most = _CAP if cache is None and engine.behaviour.capped_reads else None
    columns = tuple((c.name, c.trino_type) for c in table.columns)
    return sql.Place(str(file), table.name, columns, 0 if empty else most)


def _described(engine: Engine, name: TableName) -> sql.Place | None:
    """What the sources hold, as a table of information_schema, or of system.metadata."""
    sources, catalog, asked = engine.sources, name.catalog, name.table.lower()
    rows: list[tuple[str | int | None, ...]]
    if name.schema == "metadata":
        rows = [(known,) for known in (*sources.catalogs, "system")]
    elif catalog not in sources.catalogs or asked not in ("schemata", "tables", "columns"):
        return None
    elif asked == "schemata":
        rows = [(catalog, schema) for schema in (*sources.schemas(catalog), "information_schema")]
    else:
        found = [(schema, t) for schema in sources.schemas(catalog) for t in sources.tables(catalog, schema)]
        rows = [
            (catalog, schema, t.name, "VIEW" if t.kind == "view" else "BASE TABLE") for schema, t in found
        ]
        if asked == "columns":
            rows = [
                (catalog, schema, t.name, c.name, at, c.default, "NO" if c.not_null else "YES", c.trino_type)
                for schema, t in found
                for at, c in enumerate(t.columns, 1)
            ]
    names = _DESCRIPTIONS[asked].split()
    columns = tuple((column, "bigint" if column == "ordinal_position" else "varchar") for column in names)
    return sql.Place("", name.table, columns, rows=tuple(rows))


def shaped(result: sql.QueryResult, form: str) -> Json:
    """A result as JSON, in one of `FORMATS`."""
    columns, rows = result.columns, result.rows
    data: list[Any] = [list(row) for row in rows]
    if form == "SIMPLE":
        names = [column.name for column in columns]
        data = [dict(zip(names, row, strict=True)) for row in rows]
    elif form == "CELL_TYPED":
        data = [[_cell(at, *cell) for at, cell in enumerate(zip(columns, row, strict=True))] for row in rows]
    return {"columns": [_column(column) for column in columns], "data": data}


def _cell(order: int, column: sql.Column, value: Any) -> Json:
    name, kind = column.name, column.data_type
    return {"name": name, "displayName": name, "dataType": kind, "order": order, "value": value}


def _column(column: sql.Column) -> Json:
    if column.source is None:
        return {"columnName": column.name}
    catalog, schema, table = column.source
    return {"catalogName": catalog, "schemaName": schema, "tableName": table, "columnName": column.name}
