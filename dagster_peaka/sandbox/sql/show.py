"""SHOW and DESCRIBE as the SELECTs over information_schema that they are."""

from __future__ import annotations

import re

from dagster_peaka.sandbox.sql.kinds import SqlError, text_literal

_PART = r'("(?:[^"]|"")*"|\w+)'
_SHOW = re.compile(
    rf"\s*(?:SHOW\s+(\w+)|DESC(?:RIBE)?\b)(?:\s+(?:(?:FROM|IN)\s+)?{_PART}(?:\s*\.\s*{_PART})?(?:\s*\.\s*{_PART})?)??"
    r"(?:\s+LIKE\s+('(?:[^']|'')*'))?\s*;?\s*",
    re.IGNORECASE,
)
_SHOWN = {
    "CATALOGS": ("catalog_name", '"Catalog"', "system.metadata.catalogs", "1"),
    "SCHEMAS": ("schema_name", '"Schema"', "{}.information_schema.schemata", "1"),
    "TABLES": ("table_name", '"Table"', "{}.information_schema.tables", "1"),
    "COLUMNS": (
        "column_name",
        '"Column", data_type AS "Type", \'\' AS "Extra", \'\' AS "Comment"',
        "{}.information_schema.columns",
        "ordinal_position",
    ),
}
"""What is shown, of what table; the name behind FROM has as many parts as there are lines above."""


def as_select(statement: str) -> str | None:
    """The SELECT that a SHOW or DESCRIBE stands for, None for any other statement. Raises SqlError."""
    words = statement.split(maxsplit=2)
    if not words or words[0].upper() not in ("SHOW", "DESCRIBE", "DESC"):
        return None
    kind = words[1].upper() if words[0].upper() == "SHOW" and len(words) > 1 else "COLUMNS"
    match = _SHOW.fullmatch(statement)
    if kind not in _SHOWN:
        raise SqlError(f"SHOW {kind[:40]} is not supported: there are SHOW {', '.join(_SHOWN)}")
    names = [_name(part) for part in match.group(2, 3, 4) if part] if match else []
    if match is None or len(names) != list(_SHOWN).index(kind):
        raise SqlError(
            f"SHOW {kind} needs FROM and as much of catalog.schema.table as it is about, then LIKE"
        )
    column, title, table, order = _SHOWN[kind]
    wanted = [
        f"{part} = {text_literal(name)}"
        for part, name in zip(("table_schema", "table_name"), names[1:], strict=False)
    ]
    wanted += [f"{column} LIKE {match[5]}"] if match[5] else []
    where = f" WHERE {' AND '.join(wanted)}" if wanted else ""
    return f"SELECT {column} AS {title} FROM {table.format(match[2])}{where} ORDER BY {order}"


def _name(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part.lower()
