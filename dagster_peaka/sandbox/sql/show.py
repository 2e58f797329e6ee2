"""SHOW and DESCRIBE as the SELECTs over information_schema that they are."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import Token, TokenType

from dagster_peaka.sandbox.sql.kinds import SqlError, text_literal

_KINDS = {"CATALOGS": 0, "SCHEMAS": 1, "TABLES": 2, "COLUMNS": 3}
"""What SHOW shows, with the parts of the name behind FROM."""


def as_select(tokens: Sequence[Token]) -> str | None:
    """The SELECT that a SHOW or DESCRIBE stands for, None for any other statement. Raises SqlError."""
    words = [token.text.upper() for token in tokens]
    if words[:1] in (["DESCRIBE"], ["DESC"]):
        return _select("COLUMNS", _names(tokens[1:]), None)
    if words[:1] != ["SHOW"]:
        return None
    kind = words[1] if len(words) > 1 else ""
    if kind not in _KINDS:
        raise SqlError(f"SHOW {kind[:40]} is not supported: there are SHOW {', '.join(_KINDS)}")
    rest = list(tokens[2:])
    pattern = None
    if len(rest) > 1 and rest[-2].text.upper() == "LIKE" and rest[-1].token_type == TokenType.STRING:
        pattern = rest[-1].text
        rest = rest[:-2]
    if rest and rest[0].text.upper() in ("FROM", "IN"):
        return _select(kind, _names(rest[1:]), pattern)
    if rest or kind != "CATALOGS":
        raise SqlError(f"SHOW {kind} needs FROM and a name here, as there is no session with a schema")
    return _select(kind, [], pattern)


def _names(tokens: Sequence[Token]) -> list[str]:
    names = [
        token.text if token.token_type == TokenType.IDENTIFIER else token.text.lower()
        for token in tokens[::2]
    ]
    if any(token.text != "." for token in tokens[1::2]) or len(tokens) % 2 == 0:
        raise SqlError("SHOW: the name has to be catalog.schema.table, or as much of it as is asked for")
    return names


def _select(kind: str, names: Sequence[str], pattern: str | None) -> str:
    if len(names) != _KINDS[kind]:
        raise SqlError(f"SHOW {kind} takes a name of {_KINDS[kind]} parts here")
    column, title, table, order = {
        "CATALOGS": ("catalog_name", "Catalog", "system.metadata.catalogs", "1"),
        "SCHEMAS": ("schema_name", "Schema", "information_schema.schemata", "1"),
        "TABLES": ("table_name", "Table", "information_schema.tables", "1"),
        "COLUMNS": ("column_name", "Column", "information_schema.columns", "ordinal_position"),
    }[kind]
    if names:
        catalog = names[0].replace('"', '""')
        table = f'"{catalog}".{table}'
    wanted = [
        f"{name} = {text_literal(value)}"
        for name, value in zip(("table_schema", "table_name"), names[1:], strict=False)
    ]
    wanted += [f"{column} LIKE {text_literal(pattern)}"] if pattern is not None else []
    more = ', data_type AS "Type", \'\' AS "Extra", \'\' AS "Comment"' if kind == "COLUMNS" else ""
    where = f" WHERE {' AND '.join(wanted)}" if wanted else ""
    return f'SELECT {column} AS "{title}"{more} FROM {table}{where} ORDER BY {order}'
