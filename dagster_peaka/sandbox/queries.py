"""`queries/execute`: which SQL a request asks for, where its tables are, and the three formats of its result."""

from collections.abc import Mapping, Sequence
from typing import Any

from dagster_peaka.sandbox import bodies, trino
from dagster_peaka.sandbox.behaviour import Behaviour
from dagster_peaka.sandbox.errors import bad_request, not_found
from dagster_peaka.sandbox.executions import Engine
from dagster_peaka.sandbox.sources import TableName, quoted
from dagster_peaka.sandbox.wire import Json

FORMATS = ("CELL_TYPED", "SIMPLE", "COMPACT")
_CAP = 100
"""Rows of a table behind a paged API that a query sees, unless the table is cached."""
_FORMS = ("statement", "qualifiedName", "from", "id")


Request = tuple[str, list[str], int]
"""The SQL that is asked for, its bind arguments and its timeout in seconds."""


def requested(body: Json, behaviour: Behaviour, saved: Mapping[str, str]) -> Request:
    """What a body asks for, in any of its forms; `saved` has saved queries' SQL by their ids. Raises `ApiError`."""
    forms = [form for form in _FORMS if body.get(form) is not None]
    if len(forms) != 1:
        raise bad_request(f"The body must have exactly one of {', '.join(_FORMS)}.")
    timeout = body.get("timeout")
    seconds = 60 if timeout is None else bodies.whole_number(timeout, "timeout", 1)
    bindings = bodies.texts(body, "bindings")
    if forms[0] == "id":
        if (query_id := bodies.text(body, "id")) in saved:
            return saved[query_id], [], seconds
        missing = f"There is no query {ascii(query_id)[:100]} in this project."
        raise not_found(missing) if behaviour.missing_query == "404" else bad_request(missing)
    if forms[0] == "qualifiedName":
        parts = bodies.text(body, "qualifiedName").split(".", 2)
        if len(parts) != 3 or not all(parts):
            raise bad_request("qualifiedName must be catalog.schema.table.")
        return f"SELECT * FROM {'.'.join(quoted(part) for part in parts)}", [], seconds
    if forms[0] == "from":
        try:
            return trino.query_builder_to_sql(body), [], seconds
        except trino.SqlError as error:
            raise bad_request(str(error)) from None
    return bodies.text(body, "statement"), bindings, seconds


def run(
    engine: Engine, statement: str, bindings: Sequence[str], seconds: float, texts: bool
) -> trino.QueryResult:
    """The result of a statement, read from copies where there are any, its values as texts or of JSON's types. Blocks.

    Raises `ApiError`.
    """

    def resolve(table: trino.TableRef) -> trino.Place | None:
        return place_of(engine, TableName(table.catalog, table.schema, table.table))

    try:
        return trino.run(statement, resolve, bindings=bindings, timeout=seconds, texts=texts)
    except trino.SqlError as error:
        raise bad_request(str(error)) from None


def place_of(engine: Engine, name: TableName) -> trino.Place | None:
    """Where a table's rows are: in its copy once it is cached, in its source otherwise."""
    if name in engine.left_behind:
        raise bad_request(f"The copy of {name} cannot be read.")
    if name in engine.snapshots:
        file, table, columns = engine.snapshots[name]
        return trino.Place(str(file), table, columns)
    cache = engine.by_table.get(name)
    copy = engine.columns_of(name)
    empty = cache is not None and cache.in_first_sync and engine.behaviour.first_sync_rows == "none"
    if copy is not None and not empty:
        file, table, columns = copy
        return trino.Place(str(file), table, columns)
    file = engine.sources.file(name)
    table = engine.sources.table(name)
    if file is None or table is None:
        return None
    most = _CAP if cache is None and engine.behaviour.capped_reads else None
    columns = tuple((c.name, c.trino_type) for c in table.columns)
    return trino.Place(str(file), table.name, columns, 0 if empty else most)


def shaped(result: trino.QueryResult, form: str) -> Json:
    """A result as JSON, in one of `FORMATS`."""
    names = [column.name for column in result.columns]
    rows = result.rows
    data: list[Any] = [list(row) for row in rows]
    if form == "SIMPLE":
        data = [dict(zip(names, row, strict=True)) for row in rows]
    elif form == "CELL_TYPED":
        data = [
            [
                {
                    "name": c.name,
                    "displayName": c.name,
                    "dataType": c.data_type,
                    "order": order,
                    "value": value,
                }
                for order, (c, value) in enumerate(zip(result.columns, row, strict=True))
            ]
            for row in rows
        ]
    return {"columns": [_column(column) for column in result.columns], "data": data}


def _column(column: trino.Column) -> Json:
    if column.source is None:
        return {"columnName": column.name}
    table = column.source
    return {
        "catalogName": table.catalog,
        "schemaName": table.schema,
        "tableName": table.table,
        "columnName": column.name,
    }
