"""The snapshot of a project as plain data, and the file that keeps it."""

import json
import os
import resource
import threading
from collections.abc import Callable
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dagster_peaka.api.models import Column, SyncMode
from dagster_peaka.caches.project import PeakaCache, PeakaProject, PeakaQuery
from dagster_peaka.errors import PeakaConfigError

TAKEN_AT = datetime(2026, 7, 1, 12, 30, tzinfo=timezone.utc)


def cache(cache_id: str, table: str, **details: Any) -> PeakaCache:
    """A cache of `shop.public`."""
    return PeakaCache(
        id=cache_id,
        catalog_id="17",
        catalog_name="shop",
        schema_name="public",
        table_name=table,
        **details,
    )


PROJECT = PeakaProject(
    project_id="8d1f",
    taken_at=TAKEN_AT,
    caches=(
        cache(
            "c1",
            "orders",
            catalog_type="postgresql",
            columns=(
                Column(name="id", data_type="bigint", is_not_null=True),
                Column(name="größe", description="cm"),
            ),
            incremental_schedule="PT15M",
            supported_modes=frozenset(SyncMode),
        ),
        cache("c2", "returns", columns=(), supported_modes=frozenset()),
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with `PROJECT`."""
    path = tmp_path / "peaka-project.json"
    PROJECT.save(path)
    return path


def edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> bytes:
    """The file's new content, after `edit` had the JSON in it."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    edit(whole)
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path.read_bytes()


def refusal(path: Path) -> str:
    """What is said of a file that cannot be used, which is left as it was."""
    before = path.read_bytes()
    with pytest.raises(PeakaConfigError) as raised:
        PeakaProject.load(path)
    assert path.read_bytes() == before
    assert str(path) in str(raised.value)
    assert "PeakaResource.fetch_project()" in str(raised.value)
    return str(raised.value)


# Any project

# What a JSON text can bring: any character, also one half of a surrogate pair.
TEXTS = st.text(st.characters(exclude_categories=())).map(lambda text: json.loads(json.dumps(text)))
MAYBE = st.none() | TEXTS
COLUMNS = st.builds(
    Column,
    name=TEXTS.filter(bool),
    data_type=TEXTS,
    display_name=MAYBE,
    default_value=MAYBE,
    is_not_null=st.none() | st.booleans(),
    is_unique=st.none() | st.booleans(),
    description=MAYBE,
)
CACHES = st.builds(
    PeakaCache,
    id=TEXTS.filter(bool),
    catalog_id=TEXTS.filter(bool),
    catalog_name=TEXTS,
    schema_name=TEXTS,
    table_name=TEXTS,
    catalog_type=MAYBE,
    columns=st.none() | st.lists(COLUMNS, max_size=3).map(tuple),
    incremental_schedule=MAYBE,
    full_refresh_schedule=MAYBE,
    supported_modes=st.none() | st.frozensets(st.sampled_from(SyncMode)),
)
OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
PROJECTS = st.builds(
    PeakaProject,
    project_id=TEXTS,
    caches=st.lists(CACHES, max_size=4, unique_by=lambda cache: cache.id).map(tuple),
    taken_at=st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=OFFSETS),  # noqa: DTZ001
)


@given(project=PROJECTS)
def test_any_project_is_loaded_as_it_was_saved(project: PeakaProject, tmp_path: Path) -> None:
    """What is saved and loaded is equal, whatever letters it holds, and saved anew gives the same bytes."""
    path = tmp_path / "project.json"
    project.save(path)
    loaded = PeakaProject.load(path)
    assert loaded == project
    assert PeakaProject.from_json(project.to_json()) == project

    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first
    assert first.decode("utf-8") == project.to_json()


def test_the_file_is_made_to_be_compared() -> None:
    """The order in which caches and modes were found leaves no trace, and each fact has its line."""
    turned = PeakaProject(
        project_id=PROJECT.project_id, taken_at=TAKEN_AT, caches=tuple(reversed(PROJECT.caches))
    )
    lines = turned.to_json().splitlines()

    assert turned.to_json() == PROJECT.to_json()
    assert [line.strip(' ",') for line in lines if "refresh" in line or 'incremental"' in line] == [
        "full_refresh",
        "incremental",
    ]
    assert sum('"name": "größe"' in line for line in lines) == 1


def test_caches_come_in_order_of_their_names() -> None:
    """By catalog, schema and table; by id where two catalogs share a name."""
    found = PeakaProject(
        project_id="p", caches=(cache("2", "b"), cache("3", "a"), cache("1", "b"), cache("0", "ab"))
    )
    assert [(one.table_name, one.id) for one in found.caches] == [
        ("a", "3"),
        ("ab", "0"),
        ("b", "1"),
        ("b", "2"),
    ]


def test_a_cache_is_in_a_project_once() -> None:
    """Two caches of one id are refused with that id."""
    with pytest.raises(ValidationError, match="cache c7 is there twice"):
        PeakaProject(project_id="p", caches=(cache("c7", "a"), cache("c7", "b")))


@pytest.mark.parametrize(
    "taken_at",
    [datetime(2026, 7, 1), datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2)))],  # noqa: DTZ001
    ids=["no zone", "no such day in UTC"],
)
def test_a_snapshot_is_of_a_known_time(taken_at: datetime) -> None:
    """A time without zone, or beyond the calendar, is refused by name."""
    with pytest.raises(ValidationError, match="taken_at"):
        PeakaProject(project_id="p", caches=(), taken_at=taken_at)


# Files that cannot be used


def test_a_missing_file_says_what_makes_one(tmp_path: Path) -> None:
    """Where there is no snapshot, the error names the file and both calls, and makes nothing."""
    path = tmp_path / "nowhere" / "peaka-project.json"
    with pytest.raises(PeakaConfigError) as raised:
        PeakaProject.load(path)

    assert str(path) in str(raised.value)
    assert "PeakaResource.fetch_project()" in str(raised.value)
    assert ".save(path)" in str(raised.value)
    assert not path.parent.exists()


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A folder in the file's place, or a path that no file can have, is an error of the settings."""
    with pytest.raises(PeakaConfigError, match="cannot be read"):
        PeakaProject.load(tmp_path)
    with pytest.raises(PeakaConfigError, match="cannot be read"):
        PeakaProject.load(f"{tmp_path}\0")


@pytest.mark.parametrize("version", [0, 3, 99, -1, "1", None, True, 1.5, [1]])
def test_a_file_of_another_version_is_refused(path: Path, version: Any) -> None:
    """Older or newer, or no version at all: both versions are named."""
    edited(path, lambda whole: whole.update(version=version))
    said = refusal(path)
    assert f"version is {json.dumps(version)}" in said
    assert "reads versions 1 and 2 only" in said


def first_cache(whole: dict[str, Any]) -> dict[str, Any]:
    """The JSON of the first cache in a file's."""
    return whole["project"]["caches"][0]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda whole: whole.pop("project"), "project: Input should be"),
        (lambda whole: whole["project"].pop("project_id"), "project_id: Field required"),
        (
            lambda whole: whole["project"].update(taken_at="soon"),
            "taken_at: Input should be a valid datetime",
        ),
        (lambda whole: whole["project"].update(caches={}), "caches: Input should be"),
        (lambda whole: whole["project"].update(cashes=[]), "cashes: Extra inputs are not permitted"),
        (lambda whole: whole["project"]["caches"].append(7), "cache 3: Input should be"),
        (
            lambda whole: whole["project"]["caches"].append(first_cache(whole)),
            "caches: cache c1 is there twice",
        ),
        (
            lambda whole: whole["project"]["caches"][1].pop("table_name"),
            "cache 2, table_name: Field required",
        ),
        (lambda whole: first_cache(whole).update(id=""), "cache 1, id: Value should have at least 1"),
        (lambda whole: first_cache(whole).update(catalog_name=5), "cache 1, catalog_name: Input should be"),
        (lambda whole: first_cache(whole).update(colour="red"), "cache 1, colour: Extra inputs"),
        (
            lambda whole: first_cache(whole)["columns"][1].pop("name"),
            "cache 1, column 2, name: Field required",
        ),
        (lambda whole: first_cache(whole).update(supported_modes=["x"]), "cache 1, supported_modes 1: Input"),
        (
            lambda whole: [entry.clear() for entry in whole["project"]["caches"]],
            "Field required (and 9 more)",
        ),
    ],
)
def test_a_wrong_field_is_named(path: Path, edit: Callable[[dict[str, Any]], object], said: str) -> None:
    """What has another shape is refused with the place of the first wrong field, and what is wrong there."""
    edited(path, edit)
    assert said in refusal(path)


def test_what_was_edited_by_hand_is_refused(path: Path) -> None:
    """A value that could be right but is not what was saved is told by the checksum."""
    edited(path, lambda whole: first_cache(whole).update(id="c9"))
    assert "edited or damaged" in refusal(path)


def test_the_layout_of_the_lines_does_not_matter(path: Path) -> None:
    """Line ends of another system, or a tool that formats JSON, change nothing of what the file says."""
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert PeakaProject.load(path) == PROJECT
    edited(path, len)
    assert PeakaProject.load(path) == PROJECT


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"PEAKA", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"null", "'format'"),
        (b"{}", "'format'"),
        (b'{"format": "something else", "version": 1}', "'format'"),
    ],
)
def test_another_file_is_refused(path: Path, content: bytes, said: str) -> None:
    """What never was a snapshot is told apart from a damaged one."""
    path.write_bytes(content)
    assert said in refusal(path)


def test_a_file_cut_off_anywhere_is_refused(path: Path) -> None:
    """Whatever its length, a part of the file is no snapshot; only the last line's end may be missing."""
    whole = path.read_bytes()
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        refusal(path)
    path.write_bytes(whole[:-1])
    assert PeakaProject.load(path) == PROJECT


@settings(max_examples=500)
@given(
    st.lists(
        st.tuples(st.integers(0, len(PROJECT.to_json().encode()) - 1), st.integers(0, 255)),
        min_size=1,
        max_size=3,
    )
)
def test_damaged_bytes_are_noticed(flips: list[tuple[int, int]]) -> None:
    """Any bytes may be others: then the file is refused, unless it still says the same."""
    content = bytearray(PROJECT.to_json().encode())
    for position, byte in flips:
        content[position] = byte
    try:
        loaded = PeakaProject.from_json(bytes(content), source="a.json")
    except PeakaConfigError as error:
        said = str(error)
    else:
        said = "" if loaded == PROJECT else "another project"
    assert not said or said.startswith("The project snapshot a.json cannot be used: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)


@given(JSON, JSON)
@example(None, {"project_id": "p", "caches": [], "taken_at": "0001-01-01T00:00:00+05:00"})
def test_no_json_is_mistaken_for_a_snapshot(digest: Any, project: Any) -> None:
    """Whatever stands where the project should, the answer is the same kind of error."""
    whole = {"format": "dagster-peaka project", "version": 1, "sha256": digest, "project": project}
    for content in (project, whole):
        with pytest.raises(PeakaConfigError, match="cannot be used"):
            PeakaProject.from_json(json.dumps(content))


# Saving


def only_file(path: Path) -> bool:
    """Whether nothing is left beside the file."""
    return list(path.parent.iterdir()) == [path]


OTHER = PeakaProject(project_id="other", caches=tuple(cache(str(n), f"t{n}") for n in range(300)))


@contextmanager
def largest_file(size: int):
    """No file of this process can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_save_without_space_leaves_the_old_file(path: Path) -> None:
    """A write that fails half way is told, the old snapshot stays whole, and nothing lies beside it."""
    with largest_file(4096), pytest.raises(OSError, match="File too large"):
        OTHER.save(path)

    assert PeakaProject.load(path) == PROJECT
    assert only_file(path)


def test_a_save_in_place_of_a_folder_leaves_nothing(tmp_path: Path) -> None:
    """A folder is named as one, and no half file lies beside it."""
    folder = tmp_path / "peaka-project.json"
    folder.mkdir()
    with pytest.raises(PeakaConfigError, match=r"peaka-project\.json: that is a folder"):
        PROJECT.save(folder)
    assert only_file(folder)


def test_a_save_makes_no_folder(tmp_path: Path) -> None:
    """A misspelt folder is named instead of made."""
    with pytest.raises(PeakaConfigError, match=r"missing.peaka-project\.json: create its folder first"):
        PROJECT.save(tmp_path / "missing" / "peaka-project.json")
    assert not list(tmp_path.iterdir())


def test_a_reader_never_sees_half_a_snapshot(path: Path) -> None:
    """While one snapshot is replaced by another again and again, each reading gives one of the two."""
    done = threading.Event()

    def save() -> None:
        for number in range(40):
            (OTHER if number % 2 else PROJECT).save(path)
        done.set()

    writer = threading.Thread(target=save)
    writer.start()
    while not done.is_set():
        assert PeakaProject.load(path) in (PROJECT, OTHER)
    writer.join()
    assert only_file(path)


def test_the_file_can_be_read_by_whom_files_usually_can(path: Path) -> None:
    """Its permissions are those of any new file: the user who saves need not be the one who loads."""
    mask = os.umask(0o022)
    try:
        PROJECT.save(path)
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_link_stays_one(path: Path, tmp_path: Path) -> None:
    """A snapshot saved to a link replaces what the link names."""
    link = tmp_path / "link.json"
    link.symlink_to(path)
    OTHER.save(link)
    assert link.is_symlink()
    assert PeakaProject.load(path) == OTHER


# Freshness by Peaka's schedules


@pytest.mark.parametrize(
    ("incremental", "full_refresh", "hours"),
    [
        ("PT6H", None, 12),
        ("P1D", "PT6H", 12),
        ("PT6H", "P1D", 12),
        (None, "P1W", 336),
        ("PT10S", None, 1 / 60),
        (None, None, None),
        ("PT0S", None, None),
        ("every morning", None, None),
    ],
)
def test_a_cache_says_how_old_it_may_be_by_its_schedules(
    incremental: str | None, full_refresh: str | None, hours: float | None
) -> None:
    """Twice the interval of whichever schedule is the shorter, a minute at least; nothing where there is none."""
    orders = cache("c1", "orders", incremental_schedule=incremental, full_refresh_schedule=full_refresh)

    policy = orders.scheduled_freshness

    assert policy == (
        None if hours is None else dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=hours))
    )


def test_a_query_says_how_old_it_may_be_by_its_schedule() -> None:
    """Twice the interval; nothing where Peaka does not refresh it by itself."""
    query = PeakaQuery(id="1", name="report", sql="SELECT 1", schedule="PT1H")

    policy = query.scheduled_freshness

    assert policy == dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=2))
    assert query.model_copy(update={"schedule": None}).scheduled_freshness is None
