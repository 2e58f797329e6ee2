"""Generated expressions against a model in Python, and generated text against the promise that it only fails.

`PEAKA_EXAMPLES` sets how many of each (default 6).
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dagster_peaka.sandbox.sql import QueryResult, SqlError, run
from tests.examples import EXAMPLES

MANY = settings(max_examples=EXAMPLES)
INTEGERS = st.integers(-(1 << 31) + 1, (1 << 31) - 1)


def _outcome(statement: str) -> QueryResult | str:
    try:
        return run(statement, lambda _: None, timeout=60)
    except SqlError as error:
        return str(error)


def _ask(statement: str) -> QueryResult:
    return run(statement, lambda _: None)


def _one(expression: str) -> object:
    return _ask(f"SELECT {expression}").rows[0][0]


def _or_error(expression: str) -> object:
    try:
        return _one(expression)
    except SqlError:
        return SqlError


@MANY
@given(INTEGERS, INTEGERS, st.sampled_from("+-*/%"))
def test_integer_arithmetic(a: int, b: int, symbol: str) -> None:
    """Bigint arithmetic is exact, truncates towards zero, and fails on overflow and on division by zero."""
    wide, other = a * 2_147_483_647, b
    quotient = abs(wide) // abs(other) * (1 if (wide < 0) == (other < 0) else -1) if other else 0
    model = {
        "+": wide + other,
        "-": wide - other,
        "*": wide * other,
        "/": quotient,
        "%": wide - other * quotient,
    }[symbol]
    fits = -(1 << 63) <= model < 1 << 63 and (other != 0 or symbol not in "/%")
    assert _or_error(f"CAST({wide} AS bigint) {symbol} ({other})") == (model if fits else SqlError)


DECIMALS = st.tuples(st.integers(-(10**8), 10**8), st.integers(0, 4))


@MANY
@given(DECIMALS, DECIMALS, st.sampled_from("+-*/"))
def test_decimal_arithmetic(first: tuple[int, int], second: tuple[int, int], symbol: str) -> None:
    """Decimals are exact; a quotient has the larger scale and rounds half away from zero."""
    (a, s), (b, t) = first, second
    x, y = Decimal(a).scaleb(-s), Decimal(b).scaleb(-t)
    left, right = f"CAST('{x:f}' AS decimal(12,{s}))", f"CAST('{y:f}' AS decimal(12,{t}))"
    with localcontext() as context:
        context.prec = 60
        if symbol == "/":
            assume(y != 0)
            unit = Decimal(1).scaleb(-max(s, t))
            # a quotient of 60 digits is no tie unless the true one is: the dividends have at most 14
            model = (x / y).quantize(unit, ROUND_HALF_UP)
        else:
            model = {"+": x + y, "-": x - y, "*": x * y}[symbol]
    found = _or_error(f"CAST({left} {symbol} {right} AS varchar)")
    if found is SqlError:
        assert abs(model.scaleb(max(s, t, s + t if symbol == "*" else 0))) >= 1 << 62
    else:
        assert Decimal(str(found)) == model


DOUBLES = st.floats(-1e15, 1e15, allow_nan=False, width=64)


def _double(number: float) -> str:
    return f"CAST('{number!r}' AS double)"


@MANY
@given(DOUBLES, DOUBLES, st.sampled_from("+-*/"))
def test_double_arithmetic(a: float, b: float, symbol: str) -> None:
    """Doubles are IEEE's, to the last bit, and division by zero is refused."""
    assume(symbol != "/" or b != 0)
    model = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else 0.0}[symbol]
    assume(abs(model) != float("inf"))
    assert _one(f"{_double(a)} {symbol} {_double(b)}") == model


@MANY
@given(DOUBLES, st.integers(0, 3))
def test_round_is_half_away_from_zero_of_the_scaled_double(number: float, digits: int) -> None:
    """round(x, n) rounds x times 10^n, halves away from zero."""
    scaled = Fraction(abs(number) * 10.0**digits)
    model = float(int(scaled + Fraction(1, 2))) / 10.0**digits
    assert _one(f"round({_double(number)}, {digits})") == (model if number >= 0 else -model)


VALUES = st.one_of(st.none(), st.integers(-5, 5))


@MANY
@given(VALUES, VALUES, st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), st.booleans(), st.booleans())
def test_comparisons_and_nulls(
    a: int | None, b: int | None, symbol: str, as_double: bool, negated: bool
) -> None:
    """A comparison with NULL is NULL, and mixed numbers compare by value."""
    left = "NULL" if a is None else str(a)
    right = ("NULL" if b is None else f"({b})") if not as_double or b is None else f"CAST({b} AS double)"
    expression = f"{left} {symbol} {right}"
    if a is None or b is None:
        model = None
    else:
        model = {"=": a == b, "<>": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[
            symbol
        ] != negated
    assert _one(f"NOT ({expression})" if negated else expression) == model


@MANY
@given(
    st.lists(VALUES, min_size=1, max_size=8),
    st.booleans(),
    st.sampled_from(["", "NULLS FIRST", "NULLS LAST"]),
)
def test_sorting(numbers: list[int | None], descending: bool, nulls: str) -> None:
    """NULLs come last in both directions, unless the statement says first."""
    rows = ", ".join(f"({'CAST(NULL AS integer)' if number is None else number})" for number in numbers)
    found = _ask(
        f"SELECT x FROM (VALUES {rows}) t (x) ORDER BY x {'DESC' if descending else ''} {nulls}"
    ).rows
    some = sorted((number for number in numbers if number is not None), reverse=descending)
    none = [None] * (len(numbers) - len(some))
    assert [number for (number,) in found] == ([*none, *some] if nulls == "NULLS FIRST" else [*some, *none])


@MANY
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=10))
def test_groups(rows: list[tuple[int | None, int | None]]) -> None:
    """Groups, their counts, sums and averages are those of the rows, NULL being a group of its own."""
    listed = ", ".join(
        f"(CAST({'NULL' if a is None else a} AS bigint), CAST({'NULL' if b is None else b} AS bigint))"
        for a, b in rows
    )
    found = _ask(
        "SELECT k, count(*), count(v), sum(v), avg(v), count_if(v > 0), count(DISTINCT v)"
        f" FROM (VALUES {listed}) t (k, v) GROUP BY k"
    ).rows
    model: dict[int | None, list[int | None]] = {}
    for key, value in rows:
        model.setdefault(key, []).append(value)
    expected = {}
    for key, members in model.items():
        some = [value for value in members if value is not None]
        mean = sum(some) / len(some) if some else None
        expected[key] = (
            len(members),
            len(some),
            sum(some) if some else None,
            mean,
            sum(v > 0 for v in some),
            len(set(some)),
        )
    assert {row[0]: row[1:] for row in found} == expected


Row = tuple[int | None, int]
SIDE = st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 3)), st.integers(0, 9)), min_size=1, max_size=5)
JOINS = st.sampled_from(["", "LEFT", "RIGHT", "FULL"])


def _relation(rows: list[Row], name: str) -> str:
    listed = ", ".join(f"(CAST({'NULL' if key is None else key} AS integer), {value})" for key, value in rows)
    return f"(SELECT k, v, 1 AS one FROM (VALUES {listed}) t (k, v)) AS {name}"


def _joined(left: list[tuple[object, ...]], right: list[Row], kind: str) -> list[tuple[object, ...]]:
    """The rows of a join on the first column of both, a NULL key matching nothing."""
    sides = [(*row, 1) for row in right]
    pairs = [(a, b) for a in left for b in sides if a[0] is not None and a[0] == b[0]]
    found = [(*a, *b) for a, b in pairs]
    if kind in ("LEFT", "FULL"):
        found += [
            (*a, None, None, None) for a in left if not any(a[0] is not None and a[0] == b[0] for b in sides)
        ]
    if kind in ("RIGHT", "FULL"):
        width = len(left[0]) if left else 3
        found += [
            (*[None] * width, *b) for b in sides if not any(a[0] is not None and a[0] == b[0] for a in left)
        ]
    return found


@MANY
@given(SIDE, SIDE, SIDE, JOINS, JOINS)
def test_joins(a: list[Row], b: list[Row], c: list[Row], first: str, second: str) -> None:
    """Inner and outer joins of two and three relations have the rows that they should, constants included."""
    statement = (
        f"SELECT * FROM {_relation(a, 'a')} {first} JOIN {_relation(b, 'b')} ON a.k = b.k"
        f" {second} JOIN {_relation(c, 'c')} ON a.k = c.k"
    )
    model = _joined(_joined([(*row, 1) for row in a], b, first) or [(None,) * 6], c, second)
    if not _joined([(*row, 1) for row in a], b, first):
        model = (
            [row for row in model if any(cell is not None for cell in row)]
            if second in ("RIGHT", "FULL")
            else []
        )
    assert sorted(_ask(statement).rows, key=repr) == sorted(model, key=repr)


@MANY
@given(st.text("ab%_\n😀", max_size=8), st.text("ab%_!\n😀", max_size=6))
def test_like(text: str, pattern: str) -> None:
    """LIKE is the regular expression with .* for % and . for _."""
    expression = re.sub(
        r"!(.)|(%)|(_)|(.)",
        lambda m: ".*" if m[2] else "." if m[3] else re.escape(m[1] or m[4]),
        pattern,
        flags=re.DOTALL,
    )
    valid = re.fullmatch(r"(![%_!]|[^!])*", pattern) is not None
    model = bool(re.fullmatch(expression, text, re.DOTALL)) if valid else SqlError
    assert _or_error(f"'{text}' LIKE '{pattern}' ESCAPE '!'") == model


@MANY
@given(st.text("aé😀b", max_size=6), st.integers(-8, 8), st.integers(-2, 8))
def test_substr(text: str, start: int, length: int) -> None:
    """Substr counts characters from 1, from the end when negative, and gives nothing outside of the text."""
    at = start - 1 if start > 0 else len(text) + start
    inside = start != 0 and 0 <= at < len(text) and length > 0
    assert _one(f"substr('{text}', {start}, {length})") == (text[at : at + length] if inside else "")


MOMENTS = st.datetimes(datetime.fromisoformat("1600-01-01"), datetime.fromisoformat("2400-01-01")).map(
    lambda m: m.replace(microsecond=m.microsecond // 1000 * 1000)
)


def _literal(moment: datetime) -> str:
    return f"TIMESTAMP '{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}'"


def _plus_months(moment: datetime, months: int) -> datetime:
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    for day in range(moment.day, 27, -1):
        try:
            return moment.replace(year=year, month=month + 1, day=day)
        except ValueError:
            continue
    return moment.replace(year=year, month=month + 1)


def _whole_months(start: datetime, end: datetime) -> int:
    """The most months that can be added to `start` without passing `end`."""
    if end < start:
        return -_whole_months(end, start)
    months = (end.year - start.year) * 12 + end.month - start.month
    return months - (_plus_months(start, months) > end)


@MANY
@given(MOMENTS, MOMENTS)
def test_date_diff(start: datetime, end: datetime) -> None:
    """date_diff counts whole units, towards zero; months as they are added."""
    months, seconds = _whole_months(start, end), (end - start) / timedelta(milliseconds=1)
    model = {
        "millisecond": int(seconds),
        "second": int(seconds / 1000),
        "minute": int(seconds / 60_000),
        "hour": int(seconds / 3_600_000),
        "day": int(seconds / 86_400_000),
        "week": int(seconds / 604_800_000),
        "month": months,
        "quarter": int(months / 3),
        "year": int(months / 12),
    }
    listed = ", ".join(f"date_diff('{unit}', {_literal(start)}, {_literal(end)})" for unit in model)
    assert dict(zip(model, _ask(f"SELECT {listed}").rows[0], strict=True)) == model


def _text(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="milliseconds")


@MANY
@given(MOMENTS, st.integers(-1000, 1000))
def test_date_add(moment: datetime, amount: int) -> None:
    """date_add moves by whole units; a day that the month lacks becomes its last."""
    model = {
        "second": moment + timedelta(seconds=amount),
        "minute": moment + timedelta(minutes=amount),
        "hour": moment + timedelta(hours=amount),
        "day": moment + timedelta(days=amount),
        "week": moment + timedelta(weeks=amount),
        "month": _plus_months(moment, amount),
        "quarter": _plus_months(moment, 3 * amount),
        "year": _plus_months(moment, 12 * amount),
    }
    listed = ", ".join(f"date_add('{unit}', {amount}, {_literal(moment)})" for unit in model)
    assert dict(zip(model, _ask(f"SELECT {listed}").rows[0], strict=True)) == {
        u: _text(m) for u, m in model.items()
    }


@MANY
@given(MOMENTS)
def test_date_trunc_and_fields(moment: datetime) -> None:
    """date_trunc gives the start of the unit, and fields are those of the calendar."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    starts = {
        "second": moment.replace(microsecond=0),
        "minute": moment.replace(second=0, microsecond=0),
        "hour": moment.replace(minute=0, second=0, microsecond=0),
        "day": midnight,
        "week": midnight - timedelta(days=moment.weekday()),
        "month": midnight.replace(day=1),
        "quarter": midnight.replace(day=1, month=(moment.month - 1) // 3 * 3 + 1),
        "year": midnight.replace(day=1, month=1),
    }
    listed = ", ".join(f"date_trunc('{unit}', {_literal(moment)})" for unit in starts)
    assert dict(zip(starts, _ask(f"SELECT {listed}").rows[0], strict=True)) == {
        u: _text(m) for u, m in starts.items()
    }
    fields = {
        "year": moment.year, "month": moment.month, "day": moment.day, "hour": moment.hour, "minute": moment.minute,
        "second": moment.second, "millisecond": moment.microsecond // 1000, "quarter": (moment.month + 2) // 3,
        "week": moment.isocalendar()[1], "year_of_week": moment.isocalendar()[0], "day_of_week": moment.isoweekday(),
        "day_of_year": (moment.date() - date(moment.year, 1, 1)).days + 1,
    }  # fmt: skip
    listed = ", ".join(f"{field}({_literal(moment)})" for field in fields)
    assert dict(zip(fields, _ask(f"SELECT {listed}").rows[0], strict=True)) == fields


_WORDS = (
    "SELECT FROM WHERE GROUP BY HAVING ORDER LIMIT OFFSET WITH AS VALUES UNION ALL EXCEPT INTERSECT DISTINCT JOIN"
    " LEFT ON USING AND OR NOT IN LIKE ESCAPE BETWEEN IS NULL TRUE CASE WHEN THEN ELSE END CAST TRY_CAST EXTRACT"
    " EXISTS OVER PARTITION ROWS UNBOUNDED PRECEDING FILTER INTERVAL DATE TIMESTAMP DAY count sum avg min max lag"
    " rank round abs x y t 1 0 2.5 1e3 'a' '' \"x\" ( ) ( ) , , . * + - / % = <> < > || ? ; -- /* */ [ ] :: ->"
    " @ # $ \\ ` ' \" \x01 é 😀"
)
WORDS = st.sampled_from(_WORDS.split(" "))
SEEDS = st.sampled_from(
    [
        "SELECT x, count(*) AS n FROM (VALUES (1, 'a'), (2, NULL)) AS t (x, y) WHERE x > 0 GROUP BY x ORDER BY n DESC",
        "WITH a AS (SELECT 1 AS x) SELECT CASE WHEN x = 1 THEN 'a' ELSE 'b' END FROM a UNION ALL SELECT 'c' LIMIT 3",
        "SELECT date_diff('day', DATE '2020-01-01', DATE '2020-02-01') + INTERVAL '1' DAY, round(2.5, 1), 1 / 3.0",
        "SELECT sum(x) OVER (PARTITION BY x ORDER BY x ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM (VALUES 1) t (x)",
        "SELECT a.x FROM (VALUES 1) a (x) LEFT JOIN (VALUES 1) b (x) ON a.x = b.x WHERE a.x IN (1, 2) OR a.x IS NULL",
    ]
)


@st.composite
def _mutated(draw: st.DrawFn) -> str:
    words = re.findall(r"\w+|'[^']*'|\S", draw(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(words) - 1))
        words[at : at + draw(st.integers(0, 2))] = draw(st.lists(WORDS, max_size=2))
        assume(words)
    return " ".join(words)


@settings(max_examples=5 * EXAMPLES)
@given(
    st.one_of(
        _mutated(),
        st.lists(WORDS, max_size=25).map(lambda words: "SELECT " + " ".join(words)),
        st.text(max_size=60),
    )
)
def test_any_text_is_answered_or_a_sql_error(statement: str) -> None:
    """Whatever arrives, the outcome is a result or a SqlError, whose message is one text."""
    outcome = _outcome(statement)
    if isinstance(outcome, str):
        assert outcome.strip()
    else:
        assert all(len(row) == len(outcome.columns) for row in outcome.rows)
