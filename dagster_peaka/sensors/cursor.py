"""What one tick of the polling sensor leaves to the next, as its cursor holds it.

The cursor is JSON, for whoever opens it in Dagster's UI: its version, when the last tick was that could list the
caches, and counts. What is known of each cache is packed, in 23 characters for a quiet one and 28 for one that is left
to the next tick. Ids are kept as short hashes, because a cursor is stored with every tick and only has to recognize
what it has seen. ``marks`` is base64 of what follows; numbers are big-endian:

=========  ====================================================================================================
bytes      meaning
=========  ====================================================================================================
4          CRC-32 of all the rest: the JSON without ``marks``, and what follows
17         for each cache: its address (5), its id (3), the newest execution of each mode (4 + 4), a byte of flags
1 + 4 n    where a flag says so: how many unfinished executions are the newest of neither mode, and these
1 + 8 n    where a flag says so: how many are held back for a run, and each with the epoch second since which
4          where a flag says so: the epoch second up to which all of the cache is reported, before ``evaluated_at``
=========  ====================================================================================================

Versions 1 and 2 were their version's digit and base64 of CRC-32 (4), time (5), turn (2) and caches. They knew one time
for all caches; in version 1 none was held back, and the flags counted the unfinished ones.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from io import BytesIO
from typing import Any

from dagster_peaka.api.models import SyncMode

VERSION = 3

ADDRESS, CACHE, EXECUTION = 5, 3, 4
"""Bytes of the three kinds of short hashes."""

_HEADER = 4 + 5 + 2
"""Bytes before the caches in versions 1 and 2."""
_NONE = bytes(EXECUTION)
_NEWEST_UNFINISHED = {SyncMode.INCREMENTAL: 1, SyncMode.FULL_REFRESH: 2}
_MISSED, _BENEATH, _HELD, _BEHIND, _UNSEEN = 4, 8, 16, 32, 64
_COUNT_SHIFT = 3

MOST_UNFINISHED = 255
"""Unfinished executions of one cache, beside the newest of each mode, that a cursor can hold."""


class UnreadableCursor(ValueError):
    """A cursor that is damaged, or of a version that this package does not know."""


def short(text: str, size: int = EXECUTION) -> bytes:
    """The short hash of an id; ``size`` is in bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


@dataclass(frozen=True)
class Mark:
    """How far one cache is reported; executions go by their :func:`short` hashes.

    Attributes:
        cache: the cache's id, :data:`CACHE` bytes of it.
        newest: the newest execution of each mode that was seen; None where there was none.
        unfinished: those that are not reported yet: they had not ended, or were left to a run of ours.
        held: those of them that have ended and are left to a run of ours, and the epoch second of the first tick that
            saw them ended.
        missed: whether Peaka showed one of these no more at the last poll.
    """

    cache: bytes
    newest: Mapping[SyncMode, bytes | None]
    unfinished: frozenset[bytes] = frozenset()
    held: Mapping[bytes, int] = field(default_factory=dict[bytes, int])
    missed: bool = False

    @property
    def beneath(self) -> frozenset[bytes]:
        """The unfinished executions that a status does not show, because others of their mode are newer."""
        return self.unfinished - {newest for newest in self.newest.values() if newest is not None}

    def after_outage(self) -> Mark:
        """The same, but that the time for which an execution is left to its run begins anew: that run was as blind."""
        return replace(self, held={})

    @property
    def fits(self) -> bool:
        """Whether a cursor can hold this."""
        return max(len(self.beneath), len(self.held)) <= MOST_UNFINISHED


@dataclass(frozen=True)
class PollingCursor:
    """What was seen of every cache, by the :func:`short` hash of how its asset addresses it.

    Attributes:
        evaluated_at: when the last tick listed the caches, in epoch seconds by our clock.
        turn: the place of the asset whose turn it is first.
        behind: the caches that were left to the next tick, each with the time up to which all of it is reported. One of
            them keeps no other one back.
    """

    evaluated_at: int
    turn: int = 0
    marks: Mapping[bytes, Mark] = field(default_factory=dict[bytes, Mark])
    behind: Mapping[bytes, int] = field(default_factory=dict[bytes, int])

    def after_outage(self) -> PollingCursor:
        """What a tick leaves that could poll nothing."""
        return replace(self, marks={address: mark.after_outage() for address, mark in self.marks.items()})

    def reported_until(self, address: bytes) -> int:
        """The time up to which all of a cache is reported, in epoch seconds by our clock."""
        return self.behind.get(address, self.evaluated_at)

    def encode(self) -> str:
        """The text of the cursor."""
        head: dict[str, Any] = {
            "version": VERSION,
            "evaluated_at": datetime.fromtimestamp(self.evaluated_at, timezone.utc).isoformat(),
            "caches": len(self.marks),
            "open_executions": sum(len(mark.unfinished) for mark in self.marks.values()),
            "caches_left": len(self.behind),
            "turn": self.turn,
        }
        unseen = self.behind.keys() - self.marks.keys()
        body = b"".join(
            address + _packed(self.marks.get(address), self.behind.get(address))
            for address in (*self.marks, *(address for address in self.behind if address in unseen))
        )
        checksum = binascii.crc32(json.dumps(head).encode() + body).to_bytes(4, "big")
        return json.dumps(
            {**head, "marks": base64.urlsafe_b64encode(checksum + body).decode()}, separators=(",", ":")
        )

    @classmethod
    def decode(cls, text: str) -> PollingCursor:
        """The cursor of a text, also of one that an earlier version of this package has left.

        Raises:
            UnreadableCursor: when this is no cursor of a known version, or no whole one.
        """
        if text[:1] in ("1", "2"):
            return cls(*_decoded_first(text))
        try:
            head: Any = json.loads(text)
            if head["version"] != VERSION:
                raise UnreadableCursor("it is of a version that this package does not know")
            body = base64.b64decode(head["marks"], altchars=b"-_", validate=True)[4:]
            evaluated_at = int(datetime.fromisoformat(head["evaluated_at"]).timestamp())
            marks, behind = _unpacked(BytesIO(body))
            cursor = cls(evaluated_at, head["turn"], marks, behind)
            whole = cursor.encode() == text
        except (LookupError, OverflowError, TypeError, ValueError) as error:
            raise (
                error if isinstance(error, UnreadableCursor) else UnreadableCursor("it is damaged")
            ) from None
        if not whole:  # its checksum is another one
            raise UnreadableCursor("it is damaged")
        return cursor


def _decoded_first(text: str) -> tuple[int, int, dict[bytes, Mark]]:
    """Time, turn and marks of versions 1 and 2."""
    try:
        data = base64.b64decode(text[1:].encode(), altchars=b"-_", validate=True)
    except ValueError:
        raise UnreadableCursor("it is damaged") from None
    if base64.urlsafe_b64encode(data).decode() != text[1:]:  # more padding than there should be
        raise UnreadableCursor("it is damaged")
    checksum, body = data[:4], data[4:]
    if len(data) < _HEADER or binascii.crc32(body) != int.from_bytes(checksum, "big"):
        raise UnreadableCursor("it is damaged")
    stream = BytesIO(body[7:])
    marks = dict(_unpacked_first(stream)) if text[0] == "1" else _unpacked(stream)[0]
    return int.from_bytes(body[:5], "big"), int.from_bytes(body[5:7], "big"), marks


def _packed(mark: Mark | None, behind: int | None) -> bytes:
    flags = 0 if behind is None else _BEHIND
    until = b"" if behind is None else behind.to_bytes(4, "big")
    if mark is None:
        return bytes(CACHE + 2 * EXECUTION) + bytes([flags | _UNSEEN]) + until
    beneath, held = sorted(mark.beneath), sorted(mark.held.items())
    flags |= (_MISSED if mark.missed else 0) | (_BENEATH if beneath else 0) | (_HELD if held else 0)
    for mode, flag in _NEWEST_UNFINISHED.items():
        if mark.newest.get(mode) in mark.unfinished:
            flags |= flag
    newest = [mark.newest.get(mode) or _NONE for mode in SyncMode]
    packed = b"".join([mark.cache, *newest, bytes([flags])])
    if beneath:
        packed += bytes([len(beneath)]) + b"".join(beneath)
    if held:
        packed += bytes([len(held)]) + b"".join(each + since.to_bytes(4, "big") for each, since in held)
    return packed + until


def _unpacked(stream: BytesIO) -> tuple[dict[bytes, Mark], dict[bytes, int]]:
    marks: dict[bytes, Mark] = {}
    behind: dict[bytes, int] = {}
    while address := stream.read(ADDRESS):
        cache, newest, flags = _unpacked_head(stream)
        beneath = stream.read(1)[0] if flags & _BENEATH else 0
        unfinished = _unfinished(stream, beneath, newest, flags)
        held = stream.read(1)[0] if flags & _HELD else 0
        since = {stream.read(EXECUTION): int.from_bytes(stream.read(4), "big") for _ in range(held)}
        if not flags & _UNSEEN:
            marks[address] = Mark(cache, newest, unfinished, since, missed=bool(flags & _MISSED))
        if flags & _BEHIND:
            behind[address] = int.from_bytes(stream.read(4), "big")
    return marks, behind


def _unpacked_first(stream: BytesIO) -> Iterator[tuple[bytes, Mark]]:
    while address := stream.read(ADDRESS):
        cache, newest, flags = _unpacked_head(stream)
        unfinished = _unfinished(stream, flags >> _COUNT_SHIFT, newest, flags)
        yield address, Mark(cache, newest, unfinished, missed=bool(flags & _MISSED))


def _unpacked_head(stream: BytesIO) -> tuple[bytes, dict[SyncMode, bytes | None], int]:
    cache = stream.read(CACHE)
    newest = {mode: stream.read(EXECUTION) for mode in SyncMode}
    flags = stream.read(1)[0]
    return cache, {mode: None if found == _NONE else found for mode, found in newest.items()}, flags


def _unfinished(
    stream: BytesIO, beneath: int, newest: Mapping[SyncMode, bytes | None], flags: int
) -> frozenset[bytes]:
    unfinished = {stream.read(EXECUTION) for _ in range(beneath)}
    for mode, flag in _NEWEST_UNFINISHED.items():
        execution = newest[mode]
        if flags & flag and execution is not None:
            unfinished.add(execution)
    return frozenset(unfinished)
