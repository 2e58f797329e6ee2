"""PeakaResource: its settings, `sync` beside assets, and guarantee 8, that the key stays out of sight."""

import logging
import pickle
import sqlite3
import warnings
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from dagster_peaka import (
    PeakaConfigError,
    PeakaNotFoundError,
    PeakaResource,
    build_peaka_cache_asset,
)
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import TRIGGERS, acting_when, is_followed, peaka_for, run_of

TABLE = "ops.public.t"
KEY = "pk-8d1f-recognizable-6a20"


@pytest.fixture
def locked(ops_database: Path) -> Iterator[PeakaSandbox]:
    """A local Peaka that wants `KEY`."""
    with PeakaSandbox({"ops": {"public": ops_database}}, caches=["ops.public.*"], api_key=KEY) as sandbox:
        sandbox.wait_idle()
        sandbox.clear_requests()
        yield sandbox


def resource(**settings: Any) -> PeakaResource:
    """A resource with what it must have, and these settings."""
    least: dict[str, Any] = {"api_key": dg.EnvVar("PEAKA_API_KEY"), "project_id": "p"}
    return PeakaResource(**{**least, **settings})


# Settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"zone": "mars"}, "'us', 'eu'"),
        ({"on_running": "wait"}, "'queue', 'attach', 'fail'"),
        ({"base_url": "http://peaka.example/api/v1"}, "use https"),
        ({"base_url": "peaka.example"}, "http"),
        ({"base_url": "https://user:pass@peaka.example/"}, "no user"),
        ({"base_url": ""}, "http"),
        ({"request_max_retries": -1}, "greater than or equal to 0"),
        ({"max_concurrent_requests": 0}, "greater than or equal to 1"),
        ({"pol_interval": 3}, "not permitted"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(settings: dict[str, Any], said: str) -> None:
    """The error comes where the resource is made, and names the field and what it may be."""
    with pytest.raises(ValidationError, match=said) as raised:
        resource(**settings)

    assert next(iter(settings)) in str(raised.value)


@pytest.mark.parametrize(
    "field",
    [
        "request_timeout",
        "poll_interval",
        "poll_max_interval",
        "start_timeout",
        "poll_timeout",
        "outage_tolerance",
    ],
)
@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "soon", None])
def test_times_are_finite_and_above_zero(field: str, seconds: Any) -> None:
    """Every wait has a deadline, so no time may be endless, negative or no number."""
    with pytest.raises(ValidationError, match=field):
        resource(**{field: seconds})


@pytest.mark.parametrize("variable", [dg.EnvVar("SECONDS"), dg.EnvVar.int("SECONDS")], ids=["text", "int"])
def test_a_time_as_a_variable_says_what_to_write(variable: Any) -> None:
    """Dagster reads no variables into floats; instead of a wrong number there is an error with what works."""
    with pytest.raises(ValidationError, match=r"float\(os.environ\['SECONDS'\]\)"):
        resource(poll_timeout=variable)


def test_every_text_and_whole_number_may_be_a_variable(
    sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EnvVars are read when a run begins, or when the resource is used outside of one."""
    for name, value in {
        "API_KEY": sandbox.api_key,
        "PROJECT": sandbox.project_id,
        "ZONE": "EU",
        "URL": sandbox.base_url,
        "ON_RUNNING": "attach",
        "RETRIES": "2",
        "AT_ONCE": "3",
    }.items():
        monkeypatch.setenv(f"PEAKA_{name}", value)
    peaka = PeakaResource(
        api_key=dg.EnvVar("PEAKA_API_KEY"),
        project_id=dg.EnvVar("PEAKA_PROJECT"),
        zone=dg.EnvVar("PEAKA_ZONE"),
        base_url=dg.EnvVar("PEAKA_URL"),
        on_running=dg.EnvVar("PEAKA_ON_RUNNING"),
        request_max_retries=dg.EnvVar.int("PEAKA_RETRIES"),
        max_concurrent_requests=dg.EnvVar.int("PEAKA_AT_ONCE"),
    )
    asset = build_peaka_cache_asset(table=TABLE)
    sandbox.plan(TABLE, hold=True)
    stranger = sandbox.start_execution(TABLE)

    with acting_when(lambda: is_followed(sandbox), lambda: sandbox.release(TABLE)):
        result = run_of(asset, peaka)

    (attached,) = result.asset_materializations_for_node(asset.op.name)
    assert attached.metadata["peaka/execution_id"].value == stranger
    assert peaka.sync(TABLE).id == sandbox.executions(TABLE)[-1].id != stranger


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("zone", "mars", "'us', 'eu'"),
        ("on_running", "wait", "'queue', 'attach', 'fail'"),
        ("base_url", "http://peaka.example/", "use https"),
    ],
)
def test_the_value_of_a_variable_is_checked_as_well(
    monkeypatch: pytest.MonkeyPatch, field: str, value: str, said: str
) -> None:
    """What a variable holds is known when it is read, and then refused as if it had been written."""
    monkeypatch.setenv("PEAKA_API_KEY", KEY)
    monkeypatch.setenv("PEAKA_SETTING", value)

    with pytest.raises(ValidationError, match=said):
        resource(**{field: dg.EnvVar("PEAKA_SETTING")}).get_client()


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named_with_its_field(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """Outside of a run the error says which field wants which variable."""
    monkeypatch.delenv("PEAKA_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("PEAKA_API_KEY", value)

    with pytest.raises(PeakaConfigError, match="api_key: environment variable PEAKA_API_KEY is not set"):
        resource().get_client()


def test_a_variable_that_is_no_number_is_named_with_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole number that is none says which field wants which variable."""
    monkeypatch.setenv("PEAKA_API_KEY", KEY)
    monkeypatch.setenv("PEAKA_RETRIES", "few")

    with pytest.raises(PeakaConfigError, match="request_max_retries: .* PEAKA_RETRIES is not an integer"):
        resource(request_max_retries=dg.EnvVar.int("PEAKA_RETRIES")).get_client()


def test_a_missing_variable_fails_the_run_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a run Dagster itself names the field and the variable."""
    monkeypatch.delenv("PEAKA_API_KEY", raising=False)
    asset = build_peaka_cache_asset(table=TABLE)

    with pytest.raises(dg.DagsterInvalidConfigError, match="peaka:config:api_key") as raised:
        dg.materialize([asset], resources={"peaka": resource()})

    assert '"PEAKA_API_KEY" which is not set' in str(raised.value)


# sync, beside assets


@pytest.mark.parametrize("by", ["table", "id"])
def test_sync_from_python_returns_the_execution_that_it_triggered(
    sandbox: PeakaSandbox, ops_database: Path, by: str
) -> None:
    """One trigger, waited for; the COMPLETED execution with its counts is the result."""
    with closing(sqlite3.connect(ops_database)) as database, database:
        database.execute("INSERT INTO t VALUES (9, 'z')")

    execution = peaka_for(sandbox).sync(TABLE if by == "table" else sandbox.caches[TABLE])

    (trigger,) = [request for request in sandbox.requests if request.operation in TRIGGERS]
    (ours,) = [each for each in sandbox.executions(TABLE) if each.request_number == trigger.number]
    assert (execution.id, execution.status, execution.progress.inserted) == (ours.id, "COMPLETED", 1)


def test_sync_from_an_op_writes_to_the_log_of_the_run(sandbox: PeakaSandbox) -> None:
    """In an op the changes of state are lines of the run's log, as they are for an asset."""

    @dg.op
    def refresh(peaka: PeakaResource) -> str:
        return peaka.sync(TABLE, mode="full_refresh").id

    @dg.job
    def refreshing() -> None:
        refresh()

    with dg.DagsterInstance.ephemeral() as instance:
        result = refreshing.execute_in_process(resources={"peaka": peaka_for(sandbox)}, instance=instance)
        lines = [entry.user_message for entry in instance.all_logs(result.run_id) if not entry.dagster_event]

    ours = sandbox.executions(TABLE)[-1]
    assert (result.output_for_node("refresh"), ours.mode) == (ours.id, "FULL_REFRESH")
    assert any(f"execution {ours.id} COMPLETED" in line for line in lines)


@pytest.mark.parametrize(
    ("address", "mode", "error"),
    [
        ("ops.public.nowhere", "incremental", PeakaNotFoundError),
        ("ops.public", "incremental", PeakaConfigError),
        ("", "incremental", PeakaConfigError),
        (TABLE, "partial", PeakaConfigError),
    ],
)
def test_sync_refuses_what_makes_no_sense(
    sandbox: PeakaSandbox, address: str, mode: str, error: type[Exception]
) -> None:
    """A table that is not cached, a name that is none and an unknown mode trigger nothing."""
    with pytest.raises(error):
        peaka_for(sandbox).sync(address, mode=mode)

    assert [request for request in sandbox.requests if request.method == "POST"] == []


# Guarantee 8: the key


def stored(folder: Path) -> str:
    """Everything that Dagster wrote below `folder`: files as text, databases value by value, packed ones unpacked."""
    texts: list[str] = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        texts.append(content.decode(errors="replace"))
        if content.startswith(b"SQLite format 3"):
            with closing(sqlite3.connect(path)) as database:
                tables = [
                    name
                    for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                ]
                for table in tables:
                    for row in database.execute(f'SELECT * FROM "{table}"'):
                        texts += [_unpacked(value) for value in row]
    return "\n".join(texts)


def _unpacked(value: object) -> str:
    if isinstance(value, bytes):
        try:
            return zlib.decompress(value).decode(errors="replace")
        except zlib.error:
            return value.decode(errors="replace")
    return str(value)


@pytest.mark.parametrize("outcome", ["success", "failure", "wrong key", "no server"])
def test_a_key_in_a_variable_is_nowhere(
    locked: PeakaSandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    outcome: str,
) -> None:
    """Not in events, logs of any level and library, run config, snapshots of jobs, captured output or errors."""
    key = f"wrong-{KEY}" if outcome == "wrong key" else KEY
    monkeypatch.setenv("PEAKA_API_KEY", key)
    caplog.set_level(logging.DEBUG)
    if outcome == "failure":
        locked.plan(TABLE, fail="the source is locked")
    if outcome == "no server":
        locked.stop()
    asset = build_peaka_cache_asset(table=TABLE)
    peaka = peaka_for(locked, api_key=dg.EnvVar("PEAKA_API_KEY"), outage_tolerance=0.3)
    defs = dg.Definitions(
        assets=[asset], jobs=[dg.define_asset_job("sync", selection=[asset])], resources={"peaka": peaka}
    )
    job = defs.resolve_job_def("sync")

    with (
        warnings.catch_warnings(record=True) as warned,
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
    ):
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        events = [repr(entry) for entry in instance.all_logs(result.run_id)]
        run = instance.get_run_by_id(result.run_id)

    assert result.success is (outcome == "success")
    captured = capfd.readouterr()
    everything = "\n".join([stored(tmp_path), *events, repr(run), repr(job.get_job_snapshot()), caplog.text])
    everything += "".join([captured.out, captured.err, *(str(warning.message) for warning in warned)])
    assert '"PEAKA_API_KEY"' in everything
    assert locked.executions(TABLE)[-1].id in everything or outcome in ("wrong key", "no server")
    assert KEY not in everything


def test_a_resource_shows_its_key_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither repr nor str of a resource or its client hold the key; with a variable, a pickle does not either."""
    monkeypatch.setenv("PEAKA_API_KEY", KEY)
    plain, by_variable = resource(api_key=KEY), resource()

    with plain.get_client() as client, by_variable.get_client() as other:
        shown = [f"{each!r} {each}" for each in (plain, by_variable, client, other)]

    assert KEY not in "".join(shown)
    assert KEY.encode() not in pickle.dumps(by_variable)


def test_a_resource_is_called_the_same_with_a_variable() -> None:
    """Dagster's page of it shows the name and the docstring of its class; and what is pickled comes back."""
    plain = resource(api_key="k", base_url="http://127.0.0.1:1/api/v1")
    by_variable = resource(zone="eu", poll_interval=3.0)

    definitions = [each.get_resource_definition() for each in (plain, by_variable)]

    assert definitions[0].description == definitions[1].description
    assert (definitions[1].description or "").startswith("A connection to one project of Peaka.")
    assert (
        f"{type(by_variable).__module__}.{type(by_variable).__qualname__}"
        == "dagster_peaka.resource.PeakaResource"
    )
    assert repr(by_variable).startswith("PeakaResource(")
    again = pickle.loads(pickle.dumps(by_variable))
    assert again == by_variable
    assert type(again) is type(by_variable)


@pytest.mark.parametrize("settings", [{"api_key": [KEY]}, {"api_key": KEY, "zone": "mars"}, {"apikey": KEY}])
def test_no_error_about_a_setting_repeats_the_key(settings: dict[str, Any]) -> None:
    """A key of a wrong type or under a misspelt name is not quoted back."""
    with pytest.raises(ValidationError) as raised:
        resource(**settings)

    assert KEY not in f"{raised.value} {raised.value!r}"


def test_a_variable_is_not_flagged_as_a_secret() -> None:
    """The launchpad shows which variable holds the key, instead of a mask that a run would take for the key."""
    peaka = PeakaResource(api_key=dg.EnvVar("PEAKA_API_KEY"), project_id="p")
    assert "dagster__is_secret" not in type(peaka).model_json_schema()["properties"]["api_key"]
    assert isinstance(peaka, PeakaResource)


def test_the_mask_of_a_secret_is_not_taken_for_a_key() -> None:
    """What the launchpad shows in place of a plain key is refused in words, before Peaka is asked."""
    peaka = PeakaResource(api_key="********", project_id="p", base_url="http://127.0.0.1:1/api/v1")
    with pytest.raises(PeakaConfigError, match="asterisks"):
        peaka.get_client()


def test_a_plain_key_is_flagged_as_a_secret() -> None:
    """Dagster's UI masks fields with this flag on the resource's page and in the launchpad."""
    assert PeakaResource.model_json_schema()["properties"]["api_key"]["dagster__is_secret"] is True


def loaded(*resources: PeakaResource) -> list[str]:
    """The warnings that loading a code location with these resources gives."""
    named = {f"peaka{number}": each for number, each in enumerate(resources)}
    assets = [
        build_peaka_cache_asset(table=TABLE, key=f"{name}_{number}", resource_key=name)
        for name in named
        for number in range(2)
    ]
    jobs = [dg.define_asset_job(f"job{number}", selection=assets) for number in range(2)]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        defs = dg.Definitions(assets=assets, jobs=jobs, resources=named)
        dg.Definitions.validate_loadable(defs)
        defs.get_repository_def().get_all_jobs()
    return [str(warning.message) for warning in warned if "api_key" in str(warning.message)]


def test_a_plain_key_is_warned_of_once_with_what_to_write() -> None:
    """However many assets and jobs use the resource, one warning says where the key ends up and how to avoid it."""
    (warning,) = loaded(resource(api_key=KEY))

    assert "snapshots" in warning
    assert "dg.EnvVar('PEAKA_API_KEY')" in warning
    assert KEY not in warning


def test_a_key_that_needs_no_care_is_not_warned_of() -> None:
    """A variable is what is asked for, and the key of a sandbox on this machine is no secret."""
    here = [
        resource(api_key="k", base_url=f"http://{host}:1/api/v1")
        for host in ("127.0.0.1", "localhost", "[::1]")
    ]

    assert loaded(resource(), *here) == []
