"""The rewritings of the sandbox's SQL, for the mutation check: what DuckDB would compute otherwise than Trino.

Each is taken away alone, and a known answer has to notice: `python -m tests.mutations sql`.
"""

import duckdb

FUNCTIONS = "tests/sandbox/test_sql_functions.py"
ANALYSTS = "tests/sandbox/test_sql_analysts.py"

CATALOGUE = {
    "NaN and Infinity": (
        "t_finite(x) AS CASE WHEN x IS NULL OR isfinite(x) THEN x",
        "t_finite(x) AS CASE WHEN true THEN x",
    ),
    "years after 9999": ("t_in_years(d) AS CASE WHEN d IS NULL OR", "t_in_years(d) AS CASE WHEN true OR"),
    "hours on a date": ("CASE WHEN ms % 86400000 = 0 THEN", "CASE WHEN true THEN"),
    "fewer digits of a second": (
        "t_round_time(t, unit) AS make_timestamp(epoch_us(t) + unit // 2 - ",
        "t_round_time(t, unit) AS make_timestamp(epoch_us(t) - ",
    ),
    "any_match beside NULL": ("WHEN t_has(l, NULL) THEN NULL ELSE false END", "ELSE false END"),
    "array_distinct of NULL": (
        "t_distinct(l) AS list_filter(",
        "t_distinct(l) AS list_sort(list_distinct(l)) || list_filter(",
    ),
    "a subscript beyond the end": ("WHEN i > len(l) THEN error(", "WHEN false THEN error("),
    "a key that a map lacks": ("t_key(m, k) AS CASE WHEN m IS NULL OR", "t_key(m, k) AS CASE WHEN true OR"),
    "cbrt of a cube": ("t_cbrt(r, x) AS CASE WHEN", "t_cbrt(r, x) AS CASE WHEN false AND"),
    "letters beyond ASCII in a pattern": (
        "WHEN text IS NULL OR strlen(text) = length(text) THEN",
        "WHEN true THEN",
    ),
    "$ before a last newline": ("CASE WHEN ends_with(text, chr(10)) THEN", "CASE WHEN false THEN"),
    "sum of integers": (
        "sum(bigint) bigint: CAST(<<sum({0})>> AS BIGINT)",
        "sum(bigint) bigint: <<sum({0})>>",
    ),
    "greatest beside NULL": (
        "CASE WHEN t_has([{*}], NULL) THEN NULL ELSE greatest({*}) END",
        "greatest({*})",
    ),
    "max_by of NULL": ("<<arg_max_null({0}, {1})>>", "<<arg_max({0}, {1})>>"),
    "array_max of NULL": ("CASE WHEN NOT t_has({0}, NULL) THEN list_max({0}) END", "list_max({0})"),
    "substr before the first": ("t_substr({0}, {1}, {2})", "substring({0}, {1}, {2})"),
    "split_part behind the last": ("t_split_part({0}, {1}, {2})", "split_part({0}, {1}, {2})"),
    "replace of nothing": ("t_replace({0}, {1}, {2})", "replace({0}, {1}, {2})"),
    "a text that only DuckDB reads": (
        "CASE WHEN regexp_full_match(text, form) AND value IS NOT NULL THEN value",
        "CASE WHEN value IS NOT NULL THEN value",
    ),
    "a text that Trino may read": ("OR NOT regexp_full_match(text, more)", "OR true"),
    "an empty text to pad with": ("WHEN pad = '' THEN error(", "WHEN false THEN error("),
    "an escape before nothing": ("|| '_', ''), e) THEN error(", "|| '_', ''), e) AND false THEN error("),
    "the rest of a split": (
        "WHEN len(t_parts(t, d)) <= most THEN t_parts(t, d)",
        "WHEN true THEN t_parts(t, d)",
    ),
    "what is a space": ("varchar: ltrim({0}, t_spaces())", "varchar: ltrim({0}, ' ')"),
    "capitals of sharp s": ("varchar: t_upper({0})", "varchar: upper({0})"),
    "regexp_extract of nothing": (
        "CASE WHEN regexp_matches({0}, {1}) THEN regexp_extract({0}, {1}) END",
        "regexp_extract({0}, {1})",
    ),
    "reverse by characters": ("varchar: t_reverse({0})", "varchar: reverse({0})"),
    "round with digits": ("t_round({0}, {1})", "round({0}, CAST({1} AS INTEGER))"),
    "last_day_of_month": (
        "last_day_of_month(timestamp) date: last_day({0})",
        "last_day_of_month(timestamp) date: {0}",
    ),
    "array_position of nothing": (
        "CAST(coalesce(list_position({0}, {1}), 0) AS BIGINT)",
        "list_position({0}, {1})",
    ),
    "array_sort with NULL": ("list_sort({0}, 'ASC', 'NULLS LAST')", "list_sort({0}, 'ASC', 'NULLS FIRST')"),
    "contains beside NULL": (
        "contains(array(E), E) boolean: t_any(list_transform({0}, lambda e: e = {1}))",
        "contains(array(E), E) boolean: list_contains({0}, {1})",
    ),
}
"""Texts of `catalogue`, and what they become."""

CODE = {
    "division of decimals": (
        "operators",
        'f"t_decimal_div({texts}, {scale})" if symbol == "/" else',
        'f"{a.sql} / {b.sql}" if symbol == "/" else',
    ),
    "= of rows with NULL": ("operators", 'if a.type.name == "row":', "if False:"),
    "= of arrays with NULL": (
        "operators",
        'nulls = f"t_has({a.sql}, NULL) OR t_has({b.sql}, NULL)"',
        'nulls = "false"',
    ),
    "LIKE with ESCAPE": ("operators", 'return Value(f"t_like({', 'return Value(f"like_escape({'),
    "doubles to integers": (
        "casts",
        'f"round({value.sql})" if source == DOUBLE else',
        'f"trunc({value.sql})" if source == DOUBLE else',
    ),
    "a decimal without whole digits as a text": (
        "casts",
        "kind.precision == kind.scale < 38",
        "kind.precision == kind.scale < 0",
    ),
    "a double as a text": (
        "casts",
        'return f"t_double_to_text({value.sql})"',
        'return f"CAST({value.sql} AS VARCHAR)"',
    ),
    "a timestamp as a text": ("casts", 'text = f"t_timestamp_to_text(', 'text = f"concat('),
    "average of decimals": (
        "functions",
        'if name in ("sum", "avg") and first.name == "decimal"',
        'if name in ("sum",) and first.name == "decimal"',
    ),
    "whole units between dates": ("moments", "date_sub('{unit}'", "date_diff('{unit}'"),
    "dates that become timestamps": (
        "moments",
        'return Value(f"CAST({sql} AS {kind.stored})", kind)',
        "return Value(sql, kind)",
    ),
    "milliseconds of a second": ("moments", 'f"CAST({sql} % 1000 AS BIGINT)"', 'f"CAST({sql} AS BIGINT)"'),
    "a day of a zone": ("moments", "if b.type == MONTHS:", "if True:"),
    "a zone's clock": (
        "moments",
        "return Value(f\"timezone({text_literal(zone)}, timezone('UTC', {moment.sql}))\", plain)",
        "return Value(moment.sql, plain)",
    ),
    "NULLs last": ("nodes", '"FIRST" if item.args.get("nulls_first") else "LAST"', '"FIRST"'),
    "depth of WITH RECURSIVE": ("queries", "DEEPEST_RECURSION = 10", "DEEPEST_RECURSION = 1000"),
    "types of the result": ("database", "and UNKNOWN not in kind.parts:", "and False:"),
}
"""The same in other modules."""

DUCKDB_1 = {
    "integers divided by zero": (
        "catalogue",
        "CASE WHEN b = 0 THEN error('Division by zero') ELSE a // b END",
        "a // b",
    ),
    "rests of a division by zero": (
        "catalogue",
        "CASE WHEN b = 0 THEN error('Division by zero') ELSE a % b END",
        "a % b",
    ),
    "a decimal's double": (
        "kinds",
        "target == DOUBLE and source.precision > 15",
        "target == DOUBLE and source.precision > 99",
    ),
    "the type of what is NULL for sure": (
        "operators",
        'if unknown else f"({joined})"',
        'if False else f"({joined})"',
    ),
}
"""What DuckDB 2 does by itself, and DuckDB 1, the newest for Python 3.10, does not."""

SQL = [
    *((name, "catalogue", old, new) for name, (old, new) in CATALOGUE.items()),
    *((name, *change) for name, change in CODE.items()),
    *((name, *change) for name, change in DUCKDB_1.items() if duckdb.__version__.startswith("1.")),
]
"""All of them: a name, a module of `sandbox.sql`, and its text before and after."""
