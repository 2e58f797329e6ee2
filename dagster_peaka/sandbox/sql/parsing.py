"""From the text of a statement to sqlglot's tree, refusing what is not one statement of Trino's plain query language.

sqlglot reads many dialects at once and is lenient. So its tables are cut down here to what Trino has and the
sandbox answers: function calls stay as they are written (the allow-list of functions is by Trino's names),
operators of other dialects are refused as tokens, and nesting is bounded before the recursive parser starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any, ClassVar, cast

from sqlglot import Token, TokenType, exp
from sqlglot.dialects.trino import Trino
from sqlglot.errors import SqlglotError

from dagster_peaka.sandbox.sql.kinds import SqlError
from dagster_peaka.sandbox.sql.show import as_select

LONGEST_STATEMENT = 100_000
"""Characters of a statement."""

DEEPEST_NESTING = 40
"""Parentheses and CASEs inside each other."""

_SYMBOLS = frozenset({*"()[],.*+-/%=<>?", "<>", "!=", "<=", ">=", "||", "->"})
_LITERALS = frozenset({TokenType.STRING, TokenType.NUMBER, TokenType.HEX_STRING})
_GRAMMATICAL = ("CAST", "TRY_CAST", "EXTRACT", "TRIM", "POSITION", "SUBSTRING")
"""Functions with a grammar of their own."""
_FOREIGN_WORDS = frozenset(
    {"ISNULL", "NOTNULL", "DIV", "RLIKE", "REGEXP", "GLOB", "ILIKE", "QUALIFY", "SIMILAR"}
)
_WITH_FROM = ("EXTRACT", "TRIM", "SUBSTRING")
"""Of them, those that have a FROM."""
_STATEMENTS = frozenset({"SELECT", "WITH", "VALUES", "("})


_Parsers = dict[Any, Callable[..., Any]]


def _only(parsers: object, *kept: object) -> _Parsers:
    return {key: parser for key, parser in cast("_Parsers", parsers).items() if key in kept}


def _placeholder(parser: Any) -> exp.Expr:
    """A ?, with where it stands in the text: that says which binding it takes, in whatever order it is compiled."""
    return exp.Placeholder(this=str(parser._prev.start))  # noqa: SLF001 - how sqlglot's dialects are written


class _Subset(Trino):
    """Trino, with calls left as written and no operator that Trino does not have."""

    INDEX_OFFSET = 0  # an array's subscripts stay as they are written

    class Parser(Trino.Parser):
        FUNCTIONS: ClassVar[_Parsers] = {}
        FUNCTION_PARSERS: ClassVar[_Parsers] = _only(
            cast("object", Trino.Parser.FUNCTION_PARSERS), *_GRAMMATICAL
        )
        RANGE_PARSERS: ClassVar[_Parsers] = _only(
            cast("object", Trino.Parser.RANGE_PARSERS),
            TokenType.BETWEEN,
            TokenType.IN,
            TokenType.IS,
            TokenType.LIKE,
        )
        PLACEHOLDER_PARSERS: ClassVar[_Parsers] = {TokenType.PLACEHOLDER: _placeholder}


_DIALECT = _Subset()


def parse(statement: str) -> exp.Expr:
    """The tree of the one query in `statement`; SqlError for anything else.

    >>> parse("SELECT 1").key
    'select'
    """
    if len(statement) > LONGEST_STATEMENT:
        raise SqlError(
            f"The statement is longer than the {LONGEST_STATEMENT} characters that this sandbox reads"
        )
    bad = next((c for c in statement if c == "\0" or "\ud800" <= c <= "\udfff"), None)
    if bad is not None:
        raise SqlError(f"The statement holds the character U+{ord(bad):04X}, which is no text")
    try:
        tokens = _DIALECT.tokenize(statement)
        shown = tokens
        if tokens and tokens[0].text.upper() == "SHOW":  # sqlglot leaves the rest of it as one text
            shown = [tokens[0], *_DIALECT.tokenize(statement[tokens[0].end + 1 :])]
        select = as_select([token for token in shown if token.token_type != TokenType.SEMICOLON])
        if select is not None:
            statement, tokens = select, _DIALECT.tokenize(select)
        tokens = _checked(tokens)
        trees = _DIALECT.parser().parse(tokens, statement)
    except SqlError:
        raise
    except RecursionError:
        raise SqlError("The statement is nested too deeply for this sandbox") from None
    except SqlglotError as error:
        raise SqlError(_first_line(error)) from None
    except Exception as error:  # a parser that trips over nonsense must not become a server error
        raise SqlError(f"The statement cannot be read: {type(error).__name__}") from None
    if len(trees) != 1 or trees[0] is None:
        raise SqlError("Expected one statement")
    return trees[0]


def placeholders(statement: str) -> dict[str, int]:
    """Where each ? of a statement stands, as the parser notes it, and which binding it takes, from 0."""
    marks = [token for token in _DIALECT.tokenize(statement) if token.token_type == TokenType.PLACEHOLDER]
    return {str(token.start): index for index, token in enumerate(marks)}


def _first_line(error: SqlglotError) -> str:
    details: list[dict[str, object]] = getattr(error, "errors", [])
    if not details:
        return f"Syntax error: {str(error).splitlines()[0][:200]}"
    first = details[0]
    near = f" near {first['highlight']!r}"[:200] if first.get("highlight") else ""
    return f"line {first.get('line')}:{first.get('col')}: Syntax error{near}: {first.get('description')}"


def _checked(tokens: list[Token]) -> list[Token]:
    while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        tokens = tokens[:-1]
    if not tokens:
        raise SqlError("The statement is empty")
    first = tokens[0].text.upper()
    kind = _writing(tokens)
    if kind is not None:
        raise SqlError(f"Statement type '{kind}' is not allowed")
    if first not in _STATEMENTS:
        raise SqlError(
            f"{_place(tokens[0])}: {first[:40]} is not supported: only SELECT, WITH, VALUES, SHOW and DESCRIBE are"
        )
    for token in tokens:
        _check_token(token)
    _check_neighbours(tokens)
    _check_nesting(tokens)
    _check_clauses(tokens)
    return tokens


def _writing(tokens: list[Token]) -> str | None:
    """What Trino calls a statement that writes, None for any other."""
    words = [token.text.upper() for token in tokens[:2]]
    if words[0] in ("INSERT", "UPDATE", "DELETE", "MERGE"):
        return words[0].title()
    if words[0] in ("CREATE", "DROP", "ALTER", "TRUNCATE") and len(words) > 1:
        return "".join(word.title() for word in words if word.isalpha())
    return None


def _place(token: Token) -> str:
    return f"line {token.line}:{token.col - (token.end - token.start)}"


def _check_token(token: Token) -> None:
    kind, text = token.token_type, token.text
    if kind == TokenType.SEMICOLON:
        raise SqlError(f"{_place(token)}: only one statement at a time")
    if kind in _LITERALS or kind == TokenType.IDENTIFIER:
        return
    is_word = text[:1].isalpha() or text[:1] == "_"
    if (not is_word and text not in _SYMBOLS) or kind == TokenType.HINT:
        raise SqlError(f"{_place(token)}: {text[:40]!r} is not supported by this sandbox")
    if text.upper() in _FOREIGN_WORDS:
        raise SqlError(f"{_place(token)}: {text.upper()} is not an operator of Trino")
    if kind.name.endswith("_STRING"):
        name = kind.name.replace("_", " ").lower()
        raise SqlError(f"{_place(token)}: a {name} literal is not supported by this sandbox")


def _check_neighbours(tokens: list[Token]) -> None:
    for left, right in pairwise(tokens):
        touching = left.end + 1 == right.start and left.token_type == TokenType.NUMBER
        if touching and (right.text not in _SYMBOLS or right.text == "."):
            raise SqlError(f"{_place(left)}: {left.text}{right.text[:40]} is neither a number nor a name")
        if left.token_type == right.token_type == TokenType.STRING:
            raise SqlError(f"{_place(right)}: two strings in a row")


def _check_nesting(tokens: list[Token]) -> None:
    depth = prefixes = 0
    for token in tokens:
        word = (
            ""
            if token.token_type in _LITERALS or token.token_type == TokenType.IDENTIFIER
            else token.text.upper()
        )
        depth += word in ("(", "CASE")
        depth -= word in (")", "END")
        prefixes = prefixes + 1 if word in ("NOT", "-", "+") else 0
        if depth > DEEPEST_NESTING or prefixes > DEEPEST_NESTING:
            raise SqlError(
                f"{_place(token)}: nested deeper than the {DEEPEST_NESTING} levels that this sandbox reads"
            )


_CLAUSES = {
    TokenType.SELECT: 0,
    TokenType.FROM: 1,
    TokenType.WHERE: 2,
    TokenType.GROUP_BY: 3,
    TokenType.HAVING: 4,
    TokenType.WINDOW: 5,
    TokenType.ORDER_BY: 6,
    TokenType.OFFSET: 7,
    TokenType.LIMIT: 8,
    TokenType.FETCH: 8,
}
_SETS = frozenset({TokenType.UNION, TokenType.INTERSECT, TokenType.EXCEPT})


@dataclass
class _Level:
    """What stands between one pair of parentheses: the word before them, the last clause's rank, open JOINs."""

    opener: str = ""
    rank: int = -1
    joins: int = 0


def _check_clauses(tokens: list[Token]) -> None:
    """What sqlglot takes and Trino does not: clauses out of order, JOIN without a condition, loose commas."""
    levels = [_Level()]
    seen = [*levels]
    previous = ""
    for token, after in zip_longest(tokens, tokens[1:]):
        kind, level = token.token_type, levels[-1]
        if kind == TokenType.L_PAREN:
            levels.append(_Level(previous))
            seen.append(levels[-1])
        elif kind == TokenType.R_PAREN and len(levels) > 1:
            levels.pop()
        elif kind == TokenType.COMMA:
            if after is None or after.token_type in (*_CLAUSES, TokenType.R_PAREN):
                raise SqlError(f"{_place(token)}: nothing follows the comma")
            if level.rank == _CLAUSES[TokenType.LIMIT]:
                raise SqlError(f"{_place(token)}: a comma cannot follow LIMIT n in Trino")
        elif kind == TokenType.JOIN:
            level.joins += previous not in ("CROSS", "NATURAL")
        elif kind in (TokenType.ON, TokenType.USING):
            level.joins -= 1
        elif kind != TokenType.FROM or (previous != "DISTINCT" and level.opener not in _WITH_FROM):
            level.rank = _rank(token, level.rank)
        previous = "" if kind == TokenType.IDENTIFIER else token.text.upper()
    if any(level.joins > 0 for level in seen):
        raise SqlError("A JOIN needs ON or USING; without a condition it is a CROSS JOIN")


def _rank(token: Token, before: int) -> int:
    """The rank of the clause that a token is in, behind one of rank `before`. Raises SqlError."""
    kind, word = token.token_type, token.text.upper()
    if kind in _SETS:
        if before >= _CLAUSES[TokenType.ORDER_BY]:
            raise SqlError(f"{_place(token)}: {word} comes before ORDER BY, OFFSET and LIMIT in Trino")
        return -1
    rank = _CLAUSES.get(kind)
    if rank is None:
        return before
    if kind == TokenType.FROM and before != 0:
        raise SqlError(f"{_place(token)}: FROM needs a SELECT before it")
    if rank <= before:
        raise SqlError(f"{_place(token)}: {word} comes earlier in Trino: … ORDER BY, OFFSET, LIMIT")
    return rank
