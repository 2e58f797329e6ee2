"""The API key is in nothing that the component writes or says."""

import pickle
import traceback
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaAuthenticationError
from dagster_peaka.sandbox import PeakaSandbox
from tests.component.projects import KEY_VARIABLE, Project, connection_to, run_of

SECRET = "pk-4f1c9e77-never-to-be-seen"


def holding_the_key(folder: Path) -> list[Path]:
    """The files below a folder that hold the key."""
    return [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.fixture
def guarded(ops_database: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A local Peaka with a key that is easy to find."""
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    with PeakaSandbox({"ops": {"public": ops_database}}, caches=["ops.public.*"], api_key=SECRET) as sandbox:
        sandbox.wait_idle()
        yield sandbox


def test_the_key_is_in_no_file_log_or_event(
    project: Project,
    guarded: PeakaSandbox,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Neither the state nor anything that Dagster keeps of good and failed runs holds the key, and no log does."""
    project.declare({"connection": connection_to(guarded), "last_sync_check": True, "polling_sensor": True})
    project.refresh()
    definitions = project.definitions(dev=True)
    home = tmp_path / "home"
    home.mkdir()
    guarded.plan("ops.public.u", fail="the source is away")

    with dg.DagsterInstance.local_temp(str(home)) as instance:
        config = {"ops": {"ops__public__t": {"config": {"mode": "full_refresh"}}}}
        result = run_of(definitions, config, instance=instance)
        assert not result.success
        assert result.dagster_run.job_snapshot_id is not None  # what the UI shows of the job is kept as well
    guarded.stop()
    project.definitions(dev=True)

    assert len(project.states) == 1
    assert len(list(home.rglob("*.db"))) >= 2
    assert holding_the_key(project.folder.project_root) == []
    assert holding_the_key(home) == []
    printed = capfd.readouterr()
    assert SECRET not in caplog.text + printed.out + printed.err
    assert SECRET not in repr(project.component())
    assert SECRET not in repr((definitions.resources or {})["peaka"])
    # This is what a code server hands on.
    settings = definitions.get_repository_def().get_top_level_resources()["peaka"].config_schema.default_value
    assert settings["api_key"] == {"env": KEY_VARIABLE}
    assert SECRET not in repr(settings)


def test_the_key_is_in_no_error_of_a_refresh(
    project: Project, guarded: PeakaSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that Peaka refuses is not shown when the refresh says so."""
    project.declare({"connection": connection_to(guarded)})
    monkeypatch.setenv(KEY_VARIABLE, wrong := f"{SECRET}-but-wrong")

    with pytest.raises(PeakaAuthenticationError) as refused:
        project.refresh()

    assert wrong not in "".join(traceback.format_exception(refused.value))
    assert SECRET.encode() not in pickle.dumps(str(refused.value))


@pytest.mark.parametrize(
    "attributes",
    [
        f"connection:\n  api_key: {SECRET}\n",
        f"connection:\n  api_key: {SECRET}\n  project_id: [x]\n",
        f"connection:\n  api_key: {SECRET}\n  project_id: p\n  zone: mars\n",
        f"connection:\n  api_key: {SECRET}\n  project_id: '{{{{ nothing }}}}'\n",
        f"connection:\n  api_key: [{SECRET}]\n  project_id: p\n",
        f"connection:\n  api_key: {{env: X, value: {SECRET}}}\n  project_id: p\n",
        f"connection: {{api_key: {SECRET}, project_id: p}}\nmode: x\n",
        f"connection: {{api_key: {SECRET}, project_id: p}}\nmode: '{{{{ nothing }}}}'\n",
        f"connection: {{api_key: {SECRET}, project_id: p}}\nwait: false\n",
        f"connection: [{SECRET}]\n",
        f"conection: {{api_key: {SECRET}, project_id: p}}\n",
        f"api_key: {SECRET}\n",
    ],
)
def test_a_key_that_is_written_out_is_in_no_error(project: Project, attributes: str) -> None:
    """Whatever is wrong with the YAML around it, a key that stands there is not repeated."""
    project.declare(attributes)

    with pytest.raises(Exception, match="Error while") as refused:
        project.definitions()

    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_a_key_that_is_written_out_is_warned_of(project: Project) -> None:
    """A key in YAML would be kept by Dagster: the warning names the variable to use instead."""
    project.declare({"connection": {"project_id": "p", "api_key": SECRET}, "caches": ["ops.public.t"]})

    with pytest.warns(UserWarning, match="PEAKA_API_KEY"):
        project.definitions()


@pytest.mark.parametrize("written_out", [False, True])
def test_a_refused_key_is_in_no_warning_and_no_state(
    project: Project,
    guarded: PeakaSandbox,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    written_out: bool,
) -> None:
    """Definitions that load without Peaka, because it refuses the key, say so without the key, wherever that stood."""
    connection = connection_to(guarded, **({"api_key": SECRET} if written_out else {}))
    path = project.declare({"connection": connection})
    project.refresh()
    guarded.fault(times=None, status=401)

    project.definitions(dev=True)

    assert "the API key was refused" in caplog.text
    assert len(project.states) == 1
    printed = capfd.readouterr()
    told = [str(warning.message) for warning in recwarn]
    assert SECRET not in "".join([caplog.text, printed.out, printed.err, *told])
    assert holding_the_key(project.folder.project_root) == ([path] if written_out else [])
