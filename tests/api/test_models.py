"""What Peaka's answers become: nothing that may arrive is an error, but an object that cannot be named."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ValidationError

from dagster_peaka import PeakaConfigError
from dagster_peaka.api import (
    CacheCreation,
    CacheExecution,
    CacheRequest,
    CacheSchedule,
    CacheSettings,
    CacheStatus,
    Catalog,
    Column,
    ExecutionProgress,
    QueryResult,
    Schema,
    SyncMode,
    Table,
)
from dagster_peaka.api.models import error_words

TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
"""Any text that a JSON answer can hold: lone surrogates too."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just("message"), inner, max_size=3),
    max_leaves=8,
)

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

NAMED: dict[type[BaseModel], dict[str, Any]] = {
    ExecutionProgress: {},
    CacheExecution: {"id": "e1"},
    CacheStatus: {"id": "c1"},
    CacheSchedule: {},
    CacheSettings: {"id": "c1"},
    CacheCreation: {},
    Catalog: {"id": "1"},
    Schema: {"schemaName": "public"},
    Table: {"schemaName": "public", "tableName": "t"},
    Column: {"name": "id"},
}
"""Every model that is read from an answer, with the least that names such an object."""


def execution(**fields: Any) -> CacheExecution:
    """An execution as it arrives, with these fields."""
    return CacheExecution.model_validate({"id": "1", **fields})


def wire_names(model: type[BaseModel]) -> set[str]:
    """The names under which a model's fields arrive."""
    names: set[str] = set()
    for name, field in model.model_fields.items():
        alias = field.validation_alias or field.alias
        names |= set(map(str, alias.choices)) if isinstance(alias, AliasChoices) else {str(alias or name)}
    return names


@pytest.mark.parametrize("model", NAMED, ids=lambda model: model.__name__)
@given(data=st.data())
def test_any_value_in_any_field_is_read(model, data):
    """Whatever JSON stands in the fields of an object that has a name, the object is read and keeps its name."""
    fields = st.fixed_dictionaries(
        {}, optional=dict.fromkeys(sorted(wire_names(model) - set(NAMED[model])), JSON)
    )
    read = model.model_validate({**data.draw(fields), **NAMED[model], "unknown": data.draw(JSON)})
    for name, value in NAMED[model].items():
        assert (
            getattr(read, {"schemaName": "schema_name", "tableName": "table_name"}.get(name, name)) == value
        )
    repr(read)


@pytest.mark.parametrize(
    ("model", "name"), [(model, name) for model, named in NAMED.items() for name in named], ids=str
)
@pytest.mark.parametrize("value", [None, "", True, 1.5, [], {}], ids=repr)
def test_an_object_without_a_name_is_refused(model, name, value):
    """An object whose id or name is missing or no text is refused as a whole: nothing can be done with it."""
    with pytest.raises(ValidationError):
        model.model_validate({**NAMED[model], name: value})
    with pytest.raises(ValidationError):
        model.model_validate({key: kept for key, kept in NAMED[model].items() if key != name})


@given(st.integers(2**53, 2**63))
def test_ids_as_numbers_are_exact(number):
    """An id that arrives as a JSON number keeps every digit."""
    data = json.loads(json.dumps({"id": number, "catalogId": number, "tableName": number}))
    assert Catalog.model_validate(data).id == str(number)
    status = CacheStatus.model_validate(data)
    assert (status.id, status.catalog_id, status.table_name) == (str(number),) * 3


class TestModes:
    """How a mode may be spelled."""

    @pytest.mark.parametrize(
        "spelling", ["FULL_REFRESH", "full_refresh", "full-refresh", "FullRefresh", "Full refresh"]
    )
    def test_full_refresh_in_any_spelling(self, spelling):
        """A full refresh is recognized however its words are joined and whatever their case."""
        assert execution(executionMode=spelling).mode is SyncMode.FULL_REFRESH

    @pytest.mark.parametrize("spelling", ["INCREMENTAL", "incremental", "Incremental", "incre-mental"])
    def test_incremental_in_any_spelling(self, spelling):
        """So is an incremental update."""
        assert execution(executionMode=spelling).mode is SyncMode.INCREMENTAL

    @given(JSON)
    def test_anything_else_is_no_mode(self, value):
        """A mode that is absent, no text or unheard of is None, so that nothing is taken for the wrong mode."""
        assert CacheExecution.model_validate({"id": "1", "executionMode": value}).mode in (None, *SyncMode)
        assert CacheExecution.model_validate({"id": "1", "executionMode": "SNAPSHOT"}).mode is None
        assert CacheExecution.model_validate({"id": "1"}).mode is None

    def test_a_users_mode_must_be_one_of_two(self):
        """A user's mistake is answered with the two words to choose from."""
        assert SyncMode.parse("full_refresh") is SyncMode.FULL_REFRESH
        for word in ("both", "fullrefresh", "full-refresh", "FULL_REFRESH"):
            with pytest.raises(PeakaConfigError, match=f"'incremental' or 'full_refresh', not '{word}'"):
                SyncMode.parse(word)

    def test_the_place_in_the_status_decides_the_mode(self):
        """The last executions in a status are of the mode that their place says, whatever they say themselves."""
        last = {"id": "e", "executionMode": "FULL_REFRESH"}
        status = CacheStatus.model_validate({"id": "c", "lastIncrementalCacheExecution": last})
        found = status.last(SyncMode.INCREMENTAL)
        assert found is not None
        assert found.mode is SyncMode.INCREMENTAL
        assert status.last(SyncMode.FULL_REFRESH) is None


class TestStatuses:
    """What an execution's state means."""

    @pytest.mark.parametrize("status", ["COMPLETED", "completed", "Completed", " completed "])
    def test_success_in_any_case(self, status):
        """COMPLETED is a success in any letter case."""
        found = execution(status=status)
        assert found.succeeded
        assert found.ended

    @pytest.mark.parametrize(
        "status", ["PENDING", "QUEUED", "TIMED_OUT", "TERMINATED", "COMPLETED_WITH_ERRORS", ""]
    )
    def test_an_unknown_state_is_never_a_success_nor_an_end(self, status):
        """A state that nobody has seen is neither a success nor an end, unless the execution shows when it ended."""
        found = execution(status=status)
        assert not found.succeeded
        assert not found.ended
        assert execution(status=status, finishedAt="2026-07-01T10:00:00Z").ended

    def test_running_with_an_end_is_still_running(self):
        """RUNNING counts more than a time of end."""
        assert not execution(status="running", finishedAt="2026-07-01T10:00:00Z").ended

    @given(JSON)
    def test_an_execution_without_an_id_is_not_there_yet(self, value):
        """A last execution that has no usable id leaves the rest of the status readable."""
        last = {"id": value, "status": "RUNNING"}
        status = CacheStatus.model_validate(
            {"id": "c", "tableName": "t", "lastFullRefreshCacheExecution": last}
        )
        assert status.table_name == "t"
        if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
            assert status.last_full_refresh is None

    def test_deleted_in_any_case(self):
        """A deleted cache is known by its top-level status."""
        assert CacheStatus(id="c", status="Deleted").deleted
        assert not CacheStatus(id="c", status="FAILED").deleted


class TestTimes:
    """Timestamps in every documented form."""

    @pytest.mark.parametrize(
        "text",
        [
            "2026-07-01T10:00:00Z",
            "2026-07-01T10:00:00z",
            "2026-07-01t10:00:00Z",
            "2026-07-01 10:00:00Z",
            "2026-07-01T10:00:00",
            "2026-07-01T10:00:00.000Z",
            "2026-07-01T10:00:00.000000000Z",
            "2026-07-01T12:00:00+02:00",
            "2026-07-01T12:00:00+0200",
            "2026-07-01T12:00:00+02",
            "2026-07-01T04:30:00.0-05:30",
        ],
    )
    def test_every_documented_form_is_the_same_moment(self, text):
        """With Z or an offset, with or without fractions: the same moment, in UTC."""
        moment = execution(createdAt=text).created_at
        assert moment == datetime(2026, 7, 1, 10, tzinfo=timezone.utc)
        assert moment is not None
        assert moment.utcoffset() == timedelta(0)

    @given(st.integers(-62_135_500_000_000_000, 253_402_200_000_000_000), st.integers(-14 * 60, 14 * 60))
    def test_a_moment_survives_in_any_offset(self, microseconds, minutes):
        """A moment written in any offset, to the microsecond, is read back exactly."""
        utc = EPOCH + timedelta(microseconds=microseconds)
        text = utc.astimezone(timezone(timedelta(minutes=minutes))).isoformat()
        assert execution(createdAt=text).created_at == utc

    @given(st.text(alphabet="0123456789-+:.,TZ ٣", max_size=32) | JSON)
    def test_what_is_no_time_is_none(self, value):
        """Anything else is None, and the execution stays readable."""
        read = CacheExecution.model_validate({"id": "1", "finishedAt": value}).finished_at
        assert read is None or read.tzinfo is not None

    def test_the_duration_is_by_peakas_clock(self):
        """The duration is None while an execution runs, and never negative."""
        start, end = "2026-07-01T10:00:00.25Z", "2026-07-01T12:00:01+02:00"
        assert execution(createdAt=start, finishedAt=end).duration_seconds == 0.75
        assert execution(createdAt=end, finishedAt=start).duration_seconds == 0.0
        assert execution(createdAt=start).duration_seconds is None


class TestReasons:
    """Peaka's own words on a failure."""

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (None, ""),
            ({}, ""),
            ([], ""),
            (" no space left ", "no space left"),
            ({"message": "no space left"}, "no space left"),
            ({"message": "sync failed", "cause": {"message": "no space left"}}, "sync failed: no space left"),
            ({"code": 7}, '{"code": 7}'),
            (["a", "b"], '["a", "b"]'),
        ],
    )
    def test_the_message_is_found_in_any_shape(self, error, words):
        """The words are those of a message inside, or else the whole error as JSON."""
        assert execution(error=error).reason == words

    @given(JSON)
    @example("\ud800")
    @example({"message": "\ud800"})
    @example({"\ud800": 1})
    def test_any_error_has_words_that_can_be_written(self, error):
        """The words of any error can be written to a UTF-8 log."""
        execution(error=error).reason.encode()

    def test_an_endless_error_is_cut(self):
        """A stack trace of a megabyte becomes 4,096 characters."""
        reason = execution(error={"message": "x" * 2**20}).reason
        assert len(reason) <= 4096
        assert reason.endswith("(cut short)")

    def test_a_bottomless_error_has_words(self):
        """An error nested deeper than Python can write is no reason to fail over."""
        error: Any = {"a": 1}
        for _ in range(100_000):
            error = [error]
        assert error_words(error) == "an error nested too deeply to show"


class TestQueries:
    """A query's answer."""

    def test_columns_come_in_order_by_name(self):
        """Columns are named in the query's order, whether Peaka describes them by objects or by names."""
        data = {
            "columns": [{"columnName": "b"}, {"columnName": "a"}, "c", {"columnName": None}],
            "data": [{"b": 1}],
        }
        result = QueryResult.model_validate(data)
        assert [column.name for column in result.columns] == ["b", "a", "c", ""]
        assert result.rows == [{"b": 1}]

    @pytest.mark.parametrize(
        "data", [{}, {"data": None}, {"data": {}}, {"data": [[1]]}, {"message": "no"}], ids=repr
    )
    def test_no_rows_are_made_up(self, data):
        """An answer without rows of the asked form is refused, since an empty result would be a false one."""
        with pytest.raises(ValidationError):
            QueryResult.model_validate(data)


def test_what_peaka_did_not_report_is_none():
    """Counts that are absent or not integers are None, never zero."""
    progress = ExecutionProgress.model_validate(
        {"numberOfInsertedRecords": 5, "numberOfUpdatedRecords": "7", "numberOfDeletedRecords": None}
    )
    assert progress == ExecutionProgress(inserted=5, updated=7)
    assert (progress.deleted, progress.cached) == (None, None)


def test_the_supported_modes_tell_unknown_from_none():
    """Absent means that Peaka could not tell; an empty list means that the table cannot be cached."""
    table = {"schemaName": "s", "tableName": "t"}
    assert Table.model_validate(table).supported_modes is None
    assert Table.model_validate({**table, "supportedCacheTypes": []}).supported_modes == frozenset()
    both = Table.model_validate({**table, "supportedCacheTypes": ["full-refresh", "INCREMENTAL", "NEW", 5]})
    assert both.supported_modes == frozenset(SyncMode)


def test_requests_leave_out_what_is_not_set():
    """A schedule that is None is absent from a request, because Peaka's document knows no null."""
    request = CacheRequest(catalog_id="1", schema_name="s", table_name="t", full_refresh_schedule="P1D")
    assert request.as_json() == {
        "catalogId": "1",
        "schemaName": "s",
        "tableName": "t",
        "fullRefreshCacheSchedule": {"type": "BASIC", "expression": "P1D"},
    }
    assert CacheSchedule.every(None).as_json() == {"type": "NONE"}
