"""Keeps the API key out of everything that Peaka says, whoever wrote it there."""

from __future__ import annotations

import json
import re
from typing import Any, cast
from urllib.parse import quote

HIDDEN = "[the API key]"
"""What stands in place of the key."""

SHORTEST_KEY = 8
"""Characters of a key that is hidden wherever it stands; one of fewer is found in the middle of other words."""

WORD = re.compile(r"[A-Za-z]{1,15}")
"""What may be an ordinary word: a key like that is hidden only where it stands as one."""


class Redaction:
    """Replaces ``api_key`` in texts and in decoded JSON.

    A key is hidden as it is, as it stands inside JSON, and as it stands in a path. One of fewer than
    :data:`SHORTEST_KEY` characters, or that is an ordinary word, is hidden after ``Bearer`` only: anywhere else it
    cannot be told from the text around it, which would become unreadable.
    """

    def __init__(self, api_key: str) -> None:
        spellings = sorted(
            {api_key, json.dumps(api_key)[1:-1], quote(api_key, safe="")}, key=len, reverse=True
        )
        pattern = "|".join(map(re.escape, spellings))
        plain = len(api_key) < SHORTEST_KEY or WORD.fullmatch(api_key)
        self._pattern = re.compile(rf"(?<=Bearer )(?:{pattern})(?!\w)" if plain else pattern)

    def text(self, text: str) -> str:
        """``text`` without the key."""
        return self._pattern.sub(HIDDEN, text)

    def data(self, data: Any, source: str) -> Any:
        """What was decoded from the JSON ``source``, without the key in names and values.

        JSON may write any character as an escape. Where ``source`` has none, and not the key, it is not gone through.
        """
        if "\\" not in source and self._pattern.search(source) is None:
            return data
        return self._each(data)

    def _each(self, data: Any) -> Any:
        if isinstance(data, str):
            return self.text(data)
        if isinstance(data, list):
            return [self._each(entry) for entry in cast("list[Any]", data)]
        if isinstance(data, dict):
            members = cast("dict[str, Any]", data)
            return {self.text(name): self._each(value) for name, value in members.items()}
        return data
