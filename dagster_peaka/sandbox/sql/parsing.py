"""From the text of a statement to sqlglot's tree, refusing what is not one statement of Trino's plain query language.

sqlglot reads many dialects at once and is lenient. So its tables are cut down here to what Trino has and the
sandbox answers: function calls stay as they are written (the allow-list of functions is by Trino's names),
operators of other dialects are refused as tokens, and nesting is bounded before the recursive parser starts.
"""

from __future__ import annotations

from collections.abc import Callable
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
_CLAUSES = {
    *(TokenType.SELECT, TokenType.WHERE, TokenType.GROUP_BY, TokenType.HAVING, TokenType.WINDOW),
    *(TokenType.ORDER_BY, TokenType.OFFSET, TokenType.LIMIT, TokenType.FETCH, TokenType.JOIN),
    *(TokenType.UNION, TokenType.INTERSECT, TokenType.EXCEPT),
}
_BEHIND_LISTS = {*_CLAUSES, TokenType.FROM, TokenType.R_PAREN}
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

        def _values_to_select(self, values: exp.Values) -> Any:
            return values  # beside a UNION, too

    class Generator(Trino.Generator):
        TRANSFORMS: ClassVar[_Parsers] = {  # what is written again is what was read
            node: write for node, write in Trino.Generator.TRANSFORMS.items() if node is not exp.Select
        }


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
        statement = as_select(statement) or statement
        tokens = _checked(_DIALECT.tokenize(statement))
        (tree,) = _DIALECT.parser().parse(tokens, statement)
        assert tree is not None, "there are tokens, and no semicolon"
        _check_clauses(tokens, tree)
        return tree
    except SqlError:
        raise
    except RecursionError:
        raise SqlError("The statement is nested too deeply for this sandbox") from None
    except SqlglotError as error:
        raise SqlError(_first_line(error)) from None
    except Exception as error:  # a parser that trips over nonsense must not become a server error
        raise SqlError(f"The statement cannot be read: {type(error).__name__}") from None


def placeholders(tree: exp.Expr) -> dict[str, int]:
    """Where each ? of a statement stands, as the parser notes it, and which binding it takes, from 0."""
    marks = {int(mark.name) for mark in tree.find_all(exp.Placeholder)}
    return {str(start): index for index, start in enumerate(sorted(marks))}


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
        if left.token_type == TokenType.COMMA and right.token_type in _BEHIND_LISTS:
            raise SqlError(f"{_place(left)}: nothing follows the comma")


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


def _check_clauses(tokens: list[Token], tree: exp.Expr) -> None:
    """Sqlglot takes clauses in any order, or leaves them out; what it writes has Trino's."""
    written = [token for token in tokens if token.token_type in _CLAUSES]
    wanted = [token for token in _DIALECT.tokenize(tree.sql(_DIALECT)) if token.token_type in _CLAUSES]
    for token, other in zip_longest(written, wanted):
        if token is None or other is None or token.token_type != other.token_type:
            words = [one.text.upper() if one else "the end" for one in (token, other)]
            words[0] += " without ON or USING" if words[0] == "JOIN" else ""
            raise SqlError(f"{_place(token or tokens[-1])}: {words[0]} stands where Trino has {words[1]}")
