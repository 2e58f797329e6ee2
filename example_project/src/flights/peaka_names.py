"""What things are called in Peaka: the five tables, in the environment's FLIGHTS_SCHEMA, and the report's query."""

import os

QUERY = "punctuality"
"""The materialized query of which the report is made."""


def cache_key(table: str) -> list[str]:
    """The asset key's parts of a table's cache: catalog, schema, table.

    Raises ValueError where FLIGHTS_SCHEMA is not of the form `catalog.schema`.
    """
    schema = os.environ.get("FLIGHTS_SCHEMA") or "ops.public"
    parts = schema.split(".")
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"FLIGHTS_SCHEMA is {schema!r}: write catalog.schema, for instance ops.public.")
    return [*parts, table]
