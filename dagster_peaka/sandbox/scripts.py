"""Scripts: the next executions of a cache as a test writes them down, without rows to copy."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dagster_peaka.sandbox.behaviour import check_rows
from dagster_peaka.sandbox.sources import SandboxError, TableName, quoted

if TYPE_CHECKING:  # what a test writes down can be read without the extra
    from dagster_peaka.sandbox.server import PeakaSandbox


@dataclass(frozen=True, kw_only=True)
class ScriptedExecution:
    """How one execution goes. By default it completes at once and has found nothing to do.

    `inserted`, `updated`, `deleted` are the rows that it reports at its end, `total` those that the cache then holds:
    by default what follows from the executions before it. It lasts `seconds`; with `hold` also until
    `PeakaSandbox.release`. With `fail`, a text or Peaka's JSON object, it ends FAILED with that error. `status` is a
    word that it shows in place of its own, for ever; with `vanish` nothing shows it any more once it has ended.

    Raises `ValueError` for what is no number of rows or of seconds.

    Example: `ScriptedExecution(inserted=3, updated=1)`
    """

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    total: int | None = None
    seconds: float = 0.0
    hold: bool = False
    fail: dict[str, Any] | str | None = None
    status: str | None = None
    vanish: bool = False

    def __post_init__(self) -> None:
        check_rows(self)
        if not 0 <= self.seconds < math.inf:
            raise ValueError(f"seconds is {self.seconds!r}; it must be a number of seconds, 0 or more.")


class PeakaScript:
    """Lets the executions of caches in a sandbox go as a test has written them down.

    Called with a table, `catalog.schema.table`, and the executions, it makes what is missing: the table, with a column
    `id` alone, and the cache, with `cache_id` where a project names it so, whose first sync it lets end. From then on
    each new execution of the cache, whoever starts it in whichever mode, is the next of the script. One that the
    script has not foreseen fails, and says so. Called again for the same table, it adds to the script.

    Scripted executions copy nothing: SQL finds in the cache only what was really copied.

    Returns the cache's id.

    Raises `SandboxError` for a name or an id that cannot be one, or where the cache has another id.

    Example::

        script = PeakaScript(sandbox)
        script("shop.public.orders", [ScriptedExecution(inserted=3), ScriptedExecution(fail="the disk is full")])
    """

    def __init__(self, sandbox: "PeakaSandbox") -> None:
        self._sandbox = sandbox

    def __call__(
        self, table: str, executions: Iterable[ScriptedExecution], *, cache_id: str | None = None
    ) -> str:
        script = list(executions)
        found = self._cache(TableName.parse(table), cache_id)
        self._sandbox.plan(
            found,
            times=None,
            fail=f"The script of {table} is over: all its executions have been played, and this is one more. "
            "Add it to the script, or find out why the cache is synced again.",
        )
        for each in script:
            planned = dict(vars(each))
            self._sandbox.plan(found, duration=planned.pop("seconds"), **planned)
        return found

    def _cache(self, name: TableName, wanted: str | None) -> str:
        """The id of the table's cache, which is made and synced once where there is none."""
        known = self._sandbox.caches.get(str(name))
        if known is None:
            database = self._sandbox.database(f"{name.catalog}.{name.schema}")
            database.execute(f"CREATE TABLE IF NOT EXISTS {quoted(name.table)} (id INTEGER PRIMARY KEY)")
            known = self._sandbox.create_cache(str(name), cache_id=wanted)
            self._sandbox.wait_idle(cache=known)
        if wanted not in (None, known):
            raise SandboxError(f"cache_id {wanted}: {name} is cached already, under the id {known}.")
        return known
