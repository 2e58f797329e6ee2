"""Keys and ids as they are given: read from secret files and ``--env-file``, they bring line ends and quotes along."""

from __future__ import annotations

from dagster_peaka.errors import PeakaConfigError


def bare(text: str) -> str:
    """``text`` without blanks and line ends around it, and without quotes around all of it.

    No key and no id of Peaka has them. For texts that may be a name of the user's own, such as a table's, they count.
    """
    text = text.strip().removeprefix("\ufeff")  # the mark by which some editors begin a file
    while len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return text


def checked_key(api_key: object) -> str:
    """An API key that can be sent.

    Raises:
        PeakaConfigError: when it is empty or holds what no key has.
    """
    key = bare(api_key) if isinstance(api_key, str) else ""
    if not key:
        raise PeakaConfigError("api_key is empty: set it to a Partner or Project API key of Peaka.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise PeakaConfigError("api_key holds characters that no API key has (spaces, line ends, non-ASCII).")
    return key


def checked_project_id(project_id: object) -> str:
    """A project's id that can be part of a path.

    Raises:
        PeakaConfigError: when it is empty or holds what no id has.
    """
    known = bare(project_id) if isinstance(project_id, str) else ""
    if not known:
        raise PeakaConfigError("project_id is empty: set it to the id in the project's address in Peaka.")
    if not known.isprintable():
        raise PeakaConfigError(f"project_id holds a line end or another control character: {known!r}.")
    return known
