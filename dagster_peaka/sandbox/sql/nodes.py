"""sqlglot's nodes: what they are called, where they stood, and what of them is understood."""

from __future__ import annotations

from sqlglot import exp

from dagster_peaka.sandbox.sql.kinds import SqlError


def check_arguments(node: exp.Expr, understood: str) -> None:
    """SqlError for a part of the node that this sandbox would have to ignore; `understood` are the others' names."""
    for name, given in node.args.items():
        if name not in understood.split() and given not in (None, False, []):
            raise SqlError(
                f"{describe(node)} with {name.strip('_').upper()} is not supported by this sandbox"
            )


def direction(item: exp.Expr, sql: str) -> str:
    """One ORDER BY item; NULLs come last unless it says otherwise, as in Trino."""
    check_arguments(item, "this desc nulls_first")
    nulls = "FIRST" if item.args.get("nulls_first") else "LAST"
    return f"{sql} {'DESC' if item.args.get('desc') else 'ASC'} NULLS {nulls}"


def function_name(node: exp.Expr) -> str:
    """A call's function, in small letters."""
    name = node.this
    return (name if isinstance(name, str) else name.name).lower()


def bare_names(node: exp.Expr) -> set[str]:
    """The names that columns in the expression have without a table's name before them."""
    return {column.name.lower() for column in node.find_all(exp.Column) if not column.args.get("table")}


def describe(node: exp.Expr) -> str:
    """What kind of thing a node is, with its text."""
    return f"{position(node)}{type(node).__name__.upper()} ({shown(node)})"


def position(node: exp.Expr) -> str:
    """'line 1:8: ' where sqlglot kept it, nothing otherwise."""
    marks = [
        (int(part.meta["line"]), int(part.meta["col"]) - int(part.meta["end"]) + int(part.meta["start"]))
        for part in (node, *node.iter_expressions())
        if "line" in part.meta
    ]
    return "line {}:{}: ".format(*min(marks)) if marks else ""


def shown(node: exp.Expr) -> str:
    """A node's text, cut."""
    text = node.sql(normalize_functions=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def qualifier(node: exp.Expr) -> list[str]:
    """What stands before a column's or a table's own name."""
    return [node.args[part].name for part in ("catalog", "db", "table") if node.args.get(part)]
