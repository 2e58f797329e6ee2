"""The JSON that Peaka speaks: the shapes of its OpenAPI document, bent as `Behaviour` says; absent values left out."""

import time
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

from dagster_peaka.sandbox.behaviour import Behaviour, Mode
from dagster_peaka.sandbox.caches import RETENTION, Cache, Execution
from dagster_peaka.sandbox.sources import Column, Table, TableName, catalog_id

Json = dict[str, Any]

SCHEDULE_FIELDS: dict[Mode, str] = {
    "INCREMENTAL": "incrementalCacheSchedule",
    "FULL_REFRESH": "fullRefreshCacheSchedule",
}
_EXECUTION_FIELDS: dict[Mode, str] = {
    "INCREMENTAL": "lastIncrementalCacheExecution",
    "FULL_REFRESH": "lastFullRefreshCacheExecution",
}
_DOCUMENTED_ENDS = ("COMPLETED", "FAILED", "CANCELLED")
_INT32 = 2**31 - 1
_LOGGED = 50
"""Entries of a cache's action log that a status carries."""
_ELSEWHERE = timezone(timedelta(hours=2))


class Wire:
    """Turns what the engine knows into answers, for one project."""

    def __init__(self, project_id: str, project_name: str, behaviour: Behaviour) -> None:
        self._project_id, self._project_name = project_id, project_name
        self._behaviour = behaviour

    def catalog_id(self, catalog: str) -> str | int:
        return int(catalog_id(catalog)) if self._behaviour.ids_as_numbers else catalog_id(catalog)

    def info(self) -> Json:
        return self._shown(projectId=self._project_id, projectName=self._project_name)

    def catalog(self, name: str, kind: str, number: str, connection: str | None) -> Json:
        shown_id = int(number) if self._behaviour.ids_as_numbers else number
        connected = {} if connection is None else {"connectionId": connection}
        return self._shown(id=shown_id, name=name, displayName=name, catalogType=kind, **connected)

    def schema(self, catalog: str, schema: str) -> Json:
        return self._shown(catalogId=self.catalog_id(catalog), catalogName=catalog, schemaName=schema)

    def table(self, name: TableName, table: Table, is_cached: bool) -> Json:
        within, caching = self.schema(name.catalog, name.schema), self.caching(table, is_cached)
        return {**within, "tableName": table.name, "isDynamicTable": False, **caching}

    def caching(self, table: Table, is_cached: bool) -> Json:
        modes = list(table.modes)
        return self._shown(isCached=is_cached, isCacheable=bool(modes), supportedCacheTypes=modes)

    def column(self, column: Column) -> Json:
        default = {} if column.default is None else {"defaultValue": column.default}
        return self._shown(
            name=column.name,
            dataType=column.trino_type,
            displayName=column.name,
            isNotNull=column.not_null,
            isUnique=column.unique,
            **default,
        )

    def cache(self, cache: Cache) -> Json:
        schedules = {
            SCHEDULE_FIELDS[mode]: self._shown(type="BASIC", expression=schedule.expression)
            for mode, schedule in cache.schedules.items()
        }
        return self._shown(id=cache.id, **self._table_of(cache), **schedules)

    def visible(self, cache: Cache) -> list[Execution]:
        now, hide_queued = time.time(), self._behaviour.hide_queued
        return [
            e
            for e in cache.executions
            if e.visible_at <= now
            and not (e.started_at is None and (hide_queued or e.finished))
            and not (e.plan.vanish and e.finished)
        ]

    def history(self, cache: Cache, limit: int, offset: int) -> list[Json]:
        """A page of a cache's executions of the last 14 days, newest first."""
        old = time.time() - RETENTION
        lately = [e for e in reversed(self.visible(cache)) if e.finished_at is None or e.finished_at >= old]
        return [self.execution(execution) for execution in lately[offset : offset + limit]]

    def status(self, cache: Cache, logs: bool = True) -> Json:
        visible = self.visible(cache)
        overall = "RUNNING" if self._behaviour.status_ahead and cache.active else _overall(visible)
        answer: Json = {"id": cache.id, "status": self._status(overall), **self._table_of(cache)}
        last: dict[Mode, Execution] = {execution.mode: execution for execution in visible}
        for mode, execution in last.items():
            answer[_EXECUTION_FIELDS[mode]] = self.execution(execution)
        if logs:
            entries = [entry for execution in visible[-_LOGGED:] for entry in self._log(execution)]
            answer["cacheActionLogs"] = entries[-_LOGGED:]
        return self._shown(**answer)

    def execution(self, execution: Execution) -> Json:
        behaviour = self._behaviour
        answer: Json = {"id": execution.id, "status": self._status(shown_status(execution, behaviour))}
        if behaviour.mode_spelling != "absent":
            answer["executionMode"] = self._mode(execution.mode)
        waiting = execution.plan.never_picked_up and not (execution.finished or execution.released.is_set())
        if execution.error is not None or waiting:
            answer["error"] = _error(execution.error, behaviour.error_shape)
        if not behaviour.drop_progress:
            answer["progress"] = None if waiting else self._progress(execution)
        for name, moment in (
            ("createdAt", execution.created_at),
            ("updatedAt", (None if waiting else execution.updated_at) or execution.created_at),
            ("finishedAt", execution.finished_at),
        ):
            if behaviour.timestamps == "null":
                answer[name] = None
            elif moment is not None and behaviour.timestamps != "absent":
                answer[name] = self._time(moment)
        return self._shown(**answer)

    def triggered(self, mode: Mode) -> Json:
        """The opaque answer to a trigger. Peaka's document wants an object of objects."""
        return self._shown(result={"status": "STARTED", "message": f"{mode} sync requested."})

    def _progress(self, execution: Execution) -> Json:
        counts = execution.counts
        inserted, updated, deleted = self._reported(execution)
        cached = counts.cached
        if self._behaviour.cached_records == "handled" and execution.mode == "INCREMENTAL":
            cached = counts.inserted + counts.updated + counts.deleted
        elif self._behaviour.cached_records == "reported" and execution.plan.total is None:
            cached = inserted + updated
        return self._shown(
            numberOfCachedRecords=min(cached, _INT32),
            numberOfInsertedRecords=min(inserted, _INT32),
            numberOfUpdatedRecords=min(updated, _INT32),
            numberOfDeletedRecords=min(deleted, _INT32),
        )

    def _reported(self, execution: Execution) -> tuple[int, int, int]:
        """The rows that were inserted, updated and deleted, as Peaka tells them. What a test has scripted stays so."""
        counts, behaviour = execution.counts, self._behaviour
        inserted, updated, deleted = counts.inserted, counts.updated, counts.deleted
        if execution.plan.scripted:
            return inserted, updated, deleted
        if behaviour.silent_deletions and deleted and not inserted and not updated:
            return 0, 0, 0
        if behaviour.updated_records == "inflated":
            if execution.origin == "creation":
                updated += inserted * 2 // 5
            elif execution.status == "COMPLETED":  # figures that were seen: 2 for no updated row, 2 for one
                updated = max(updated + 1, 2)
        return inserted, updated, 0 if behaviour.deleted_records == "zero" else deleted

    def _log(self, execution: Execution) -> list[Json]:
        moments = [("QUEUED", execution.created_at), ("STARTED", execution.started_at)]
        moments.append((execution.status, execution.finished_at))
        entries: list[Json] = []
        for action, moment in moments:
            if moment is not None:
                entry: Json = {
                    "action": action,
                    "message": f"{execution.mode} execution {execution.id}: {action.lower()}",
                    "cacheType": execution.mode,
                    "isScheduled": execution.origin == "schedule",
                }
                if self._behaviour.timestamps not in ("null", "absent"):
                    entry["timestamp"] = self._time(moment)
                entries.append(entry)
        return entries

    def _table_of(self, cache: Cache) -> Json:
        return {
            "catalogId": self.catalog_id(cache.name.catalog),
            "schemaName": cache.name.schema,
            "tableName": cache.name.table,
            "projectId": self._project_id,
        }

    def _status(self, status: str) -> str:
        case = {"upper": str.upper, "lower": str.lower, "title": str.title}[self._behaviour.status_case]
        return case(status)

    def _mode(self, mode: Mode) -> str:
        return {"upper": mode, "lower": mode.lower(), "kebab": mode.lower().replace("_", "-")}[
            self._behaviour.mode_spelling
        ]

    def _time(self, moment: float) -> str:
        return written_time(moment + self._behaviour.clock_offset, self._behaviour.timestamps)

    def _shown(self, **answer: Any) -> Json:
        if self._behaviour.extra_fields:
            answer["somethingNew"] = {"reason": "fields may be added at any time", "values": [1, None, "two"]}
        return answer


# A listing of 1,000 caches writes 10,000 times, nearly all of them again and again.
@lru_cache(maxsize=50_000)
def written_time(moment: float, style: str) -> str:
    """A moment in epoch seconds as `Behaviour.timestamps` wants it: `2013-01-01T00:00:00.000Z`."""
    when = datetime.fromtimestamp(moment, _ELSEWHERE if style == "offset" else timezone.utc)
    written = when.isoformat(timespec="seconds" if style == "no_fraction" else "milliseconds")
    return written.replace("+00:00", "Z")


def shown_status(execution: Execution, behaviour: Behaviour) -> str:
    plan = execution.plan
    if execution.status == "QUEUED":
        return behaviour.queued_status
    if plan.status is not None and not (execution.finished and plan.until_end):
        return plan.status
    return execution.status


def _overall(visible: list[Execution]) -> str:
    """The status of a cache, computed from its executions as Peaka's document says."""
    if not visible:
        return "NOT_INITIALIZED"
    if any(not execution.finished for execution in visible):
        return "RUNNING"
    newest = max(visible, key=lambda execution: execution.finished_at or 0.0)
    return newest.status if newest.status in _DOCUMENTED_ENDS else "FAILED"


def _error(error: dict[str, Any] | str | None, shape: str) -> Json | str | None:
    if shape == "null" or error is None:
        return None
    if shape == "string":
        return error if isinstance(error, str) else str(error.get("message", error))
    return {"message": error} if isinstance(error, str) else error
