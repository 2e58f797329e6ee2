"""What the component knows of a project is kept: definitions load while Peaka is away, and a bad state is told."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from dagster_peaka import PeakaConnectionError, PeakaProject
from dagster_peaka.sandbox import PeakaSandbox
from tests.component.projects import KEY_VARIABLE, Project, connection_to, keys

COMMAND = "dg utils refresh-defs-state"


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def declared(project: Project, sandbox: PeakaSandbox) -> Path:
    """The YAML of a component for all caches of the sandbox."""
    return project.declare({"connection": connection_to(sandbox)})


@pytest.fixture
def refreshed(project: Project, declared: Path) -> Path:
    """The state of that component, fetched while Peaka was there."""
    project.refresh()
    (state,) = project.states
    return state


def test_the_state_is_a_snapshot_that_version_control_could_keep(refreshed: Path) -> None:
    """State is one file, with a version and the time at which it was taken."""
    project = PeakaProject.load(refreshed)

    assert [cache.name for cache in project.caches] == ["ops.public.t", "ops.public.u"]
    assert json.loads(refreshed.read_text())["version"] == 1
    assert [path.name for path in refreshed.parent.iterdir()] == ["state"]


def test_a_deployed_project_asks_nothing(
    project: Project, sandbox: PeakaSandbox, refreshed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With state, definitions load without a request, without a key, and without a warning."""
    project.monkeypatch.delenv(KEY_VARIABLE)
    sandbox.clear_requests()

    definitions = project.definitions()

    assert keys(definitions) == {"ops/public/t", "ops/public/u"}
    assert sandbox.requests == []
    assert warnings_in(caplog) == []


def test_a_deployed_project_loads_while_peaka_is_away(
    project: Project, sandbox: PeakaSandbox, refreshed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Peaka's absence is no concern of a code server that has state."""
    sandbox.stop()

    assert keys(project.definitions()) == {"ops/public/t", "ops/public/u"}
    assert warnings_in(caplog) == []


def test_development_renews_the_state(project: Project, sandbox: PeakaSandbox, refreshed: Path) -> None:
    """Under `dg` and `dagster dev` every load asks Peaka and keeps what it says."""
    sandbox.delete_cache("ops.public.u")

    assert keys(project.definitions(dev=True)) == {"ops/public/t"}
    assert [cache.name for cache in PeakaProject.load(refreshed).caches] == ["ops.public.t"]


def test_development_can_leave_the_state_alone(
    project: Project, sandbox: PeakaSandbox, refreshed: Path
) -> None:
    """With refresh_if_dev: false, development asks as little as a deployed project."""
    state = {"management_type": "LOCAL_FILESYSTEM", "refresh_if_dev": False}
    project.declare({"connection": connection_to(sandbox), "defs_state": state})
    sandbox.clear_requests()

    assert keys(project.definitions(dev=True)) == {"ops/public/t", "ops/public/u"}
    assert sandbox.requests == []


def test_development_goes_on_with_the_state_while_peaka_is_away(
    project: Project,
    sandbox: PeakaSandbox,
    declared: Path,
    refreshed: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A refresh that fails while definitions load costs one warning, which tells the age of what is used instead."""
    before = refreshed.read_bytes()
    sandbox.stop()

    definitions = project.definitions(dev=True)

    assert keys(definitions) == {"ops/public/t", "ops/public/u"}
    (warning,) = warnings_in(caplog)
    assert str(declared) in warning
    assert "less than a minute old" in warning
    assert COMMAND in warning
    assert refreshed.read_bytes() == before


def test_a_load_does_not_wait_long_for_peaka(
    project: Project, sandbox: PeakaSandbox, refreshed: Path
) -> None:
    """While definitions load, a request is repeated once at most: Dagster gives up a code server that is slow."""
    project.declare({"connection": connection_to(sandbox, request_max_retries=4)})
    sandbox.fault(times=None, status=503)
    sandbox.clear_requests()

    assert keys(project.definitions(dev=True)) == {"ops/public/t", "ops/public/u"}
    asked = [request.operation for request in sandbox.requests]
    assert max(asked.count(operation) for operation in asked) == 2


def test_development_without_the_key_goes_on_with_the_state(
    project: Project, refreshed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing key is told by the name of its variable, and what is known is used."""
    project.monkeypatch.delenv(KEY_VARIABLE)

    assert keys(project.definitions(dev=True)) == {"ops/public/t", "ops/public/u"}
    (warning,) = warnings_in(caplog)
    assert KEY_VARIABLE in warning


@pytest.mark.parametrize("dev", [True, False])
def test_without_state_there_are_no_assets_and_one_warning(
    project: Project,
    sandbox: PeakaSandbox,
    declared: Path,
    caplog: pytest.LogCaptureFixture,
    dev: bool,
) -> None:
    """What has never been fetched is no error: everything else of the project loads, and a warning says what to do."""
    sandbox.stop()

    definitions = project.definitions(dev=dev)

    assert keys(definitions) == set()
    assert set(definitions.resources or ()) == {"peaka"}
    (warning,) = warnings_in(caplog)
    assert str(declared) in warning
    assert COMMAND in warning
    assert ("Could not connect" in warning) == dev


def test_a_refresh_that_fails_leaves_the_state(
    project: Project, sandbox: PeakaSandbox, refreshed: Path
) -> None:
    """An explicit refresh fails where Peaka is away, and the good state stays."""
    before = refreshed.read_bytes()
    sandbox.stop()

    with pytest.raises(PeakaConnectionError):
        project.refresh()

    assert refreshed.read_bytes() == before
    assert keys(project.definitions()) == {"ops/public/t", "ops/public/u"}


def test_a_refresh_that_breaks_off_half_way_leaves_the_state(
    project: Project, sandbox: PeakaSandbox, refreshed: Path
) -> None:
    """What has been read so far when Peaka goes away is not kept."""
    before = refreshed.read_bytes()
    sandbox.fault("getCacheSettings", times=None, status=None, refuse=True)

    with pytest.raises(PeakaConnectionError):
        project.refresh()

    assert refreshed.read_bytes() == before


DAMAGES: list[tuple[str, Any]] = [
    ("not JSON", lambda text: text[: len(text) // 2]),
    ("not JSON", lambda text: text[:0]),
    ("no snapshot", lambda text: text.replace("dagster-peaka project", "another")),
    ("its version is 0", lambda text: text.replace('"version": 1', '"version": 0')),
    ("upgrade dagster-peaka", lambda text: text.replace('"version": 1', '"version": 3')),
    ("checksum", lambda text: text.replace("ops", "opz")),
]


@pytest.mark.parametrize(("said", "damage"), DAMAGES)
def test_a_state_that_cannot_be_used_is_named(
    project: Project, declared: Path, refreshed: Path, said: str, damage: Any
) -> None:
    """A damaged state, or one of another version, is an error that names its file, the YAML's, and the command."""
    content = damage(refreshed.read_text())
    refreshed.write_text(content)

    refusal = project.refusal()

    assert said in refusal
    assert str(refreshed) in refusal
    assert str(declared) in refusal
    assert "attributes.defs_state" in refusal
    assert COMMAND in refusal
    assert refreshed.read_text() == content


def test_development_replaces_a_state_that_cannot_be_used(project: Project, refreshed: Path) -> None:
    """Where Peaka can be asked, a damaged state does not matter."""
    refreshed.write_text("{")

    assert keys(project.definitions(dev=True)) == {"ops/public/t", "ops/public/u"}


def test_development_tells_why_a_damaged_state_was_not_replaced(
    project: Project, sandbox: PeakaSandbox, refreshed: Path
) -> None:
    """With a damaged state and without Peaka, the error tells both."""
    refreshed.write_text("{")
    sandbox.stop()

    refusal = project.refusal(dev=True)

    assert "not JSON" in refusal
    assert "Could not connect" in refusal


def test_a_state_of_another_project_is_not_used(
    project: Project, sandbox: PeakaSandbox, refreshed: Path
) -> None:
    """A state that is kept under a key of one's own is checked to be of this project."""
    state = {"management_type": "LOCAL_FILESYSTEM", "key": "PeakaProjectComponent[sandbox]"}
    project.declare({"connection": connection_to(sandbox, project_id="another"), "defs_state": state})

    refusal = project.refusal()

    assert "is of project sandbox, and this component of another" in refusal


def test_the_state_s_key_comes_from_the_settings_alone(project: Project, away: PeakaSandbox) -> None:
    """The key needs no request, is the same wherever the API is, and tells projects and selections apart."""

    def key(**attributes: Any) -> str:
        project.declare({"connection": connection_to(away), **attributes})
        return project.component().defs_state_config.key

    plain = key()
    assert plain == "PeakaProjectComponent[sandbox]"
    assert key(connection={"project_id": "sandbox"}) == plain
    assert key(connection={"project_id": "p"}) == "PeakaProjectComponent[p]"
    assert key(mode="full_refresh", step_per="project", name="x") == plain
    selected = key(selection={"include": "a.b.*"})
    assert selected.startswith(plain)
    assert len({plain, selected, key(selection={"exclude": "a.b.*"})}) == 3
    assert key(defs_state={"management_type": "LOCAL_FILESYSTEM", "key": "mine"}) == "mine"
    project.monkeypatch.setenv("STAGE", "test")
    named = {"management_type": "LOCAL_FILESYSTEM", "key": "peaka-{{ env.STAGE }}"}
    assert key(defs_state=named) == "peaka-test"


def test_a_half_configured_cache_is_left_out_with_a_warning(
    project: Project, sandbox: PeakaSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """A cache whose table cannot be read does not keep the others from being assets, also where it is named."""
    project.declare(
        {
            "connection": connection_to(sandbox),
            "selection": {"include": ["ops.public.t", "ops.public.u"]},
            "overrides": [{"match": "ops.public.u", "mode": "full_refresh"}],
        }
    )
    sandbox.fault("getCacheSettings", cache="ops.public.u", times=None, status=400)

    definitions = project.definitions(dev=True)

    assert keys(definitions) == {"ops/public/t"}
    told = " ".join(warnings_in(caplog))
    assert "eft out" in told
    assert "ops.public.u" in told


@pytest.mark.parametrize(
    ("attributes", "field", "at"),
    [
        ({"selection": {"include": ["ops.public.t", "ops.pubic.u"]}}, "selection", "selection:"),
        ({"selection": {"exclude": "ops.pubic.u"}}, "selection", "selection:"),
        ({"overrides": [{"match": "ops.pubic.u", "group_name": "x"}]}, "overrides.0.match", "match:"),
        (
            {
                "selection": {"include": "*.*.t"},
                "overrides": [{"match": "ops.public.u", "group_name": "x"}],
            },
            "overrides.0.match",
            "match:",
        ),
    ],
)
def test_a_name_that_fits_no_cache_is_an_error_when_peaka_is_asked(
    project: Project, sandbox: PeakaSandbox, attributes: dict[str, Any], field: str, at: str
) -> None:
    """What is selected or overridden has to be there: the error names file, line, field and what is near."""
    connection = connection_to(sandbox)
    path = project.declare({"connection": connection, **attributes})

    (line,) = [number for number, text in enumerate(path.read_text().splitlines(), 1) if at in text]

    refusal = project.refusal(dev=True)

    assert refusal.startswith(f"{path}:{line}: attributes.{field}: "), refusal
    assert "Near matches: ops.public." in refusal
    with pytest.raises(ValueError, match="Near matches"):
        project.refresh()


def test_what_is_gone_since_the_state_was_fetched_is_a_warning(
    project: Project, sandbox: PeakaSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """In a deployed project the state is what there is: what fits nothing in it is told, and the rest is used."""
    state = {"management_type": "LOCAL_FILESYSTEM", "key": "mine"}
    connection = connection_to(sandbox)
    project.declare({"connection": connection, "defs_state": state})
    project.refresh()
    project.declare(
        {
            "connection": connection,
            "defs_state": state,
            "selection": {"include": ["ops.public.t", "ops.public.new"], "exclude": "ops.public.old"},
            "overrides": [{"match": "ops.public.new", "group_name": "x"}],
        }
    )

    assert keys(project.definitions()) == {"ops/public/t"}
    assert sum("'ops.public.new'" in warning for warning in warnings_in(caplog)) == 2


def test_an_empty_project_has_no_assets(project: Project, sandbox: PeakaSandbox, declared: Path) -> None:
    """A project whose caches are all gone is no error."""
    for name in list(sandbox.caches):
        sandbox.delete_cache(name)

    assert keys(project.definitions(dev=True)) == set()


@pytest.mark.parametrize("written", ["'{}\\n'".replace("'", '"'), "' {} '"])
def test_a_project_id_with_blanks_or_a_line_end_is_that_project(
    project: Project, sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """State is kept and found under the id alone, whether it was written so or came from a variable."""
    monkeypatch.setenv("PROJECT", f"{sandbox.project_id}\n")
    for number, project_id in enumerate((written.format(sandbox.project_id), "'{{ env.PROJECT }}'")):
        folder = f"given_{number}"
        project.declare(
            f"connection: {{project_id: {project_id}, base_url: '{sandbox.base_url}'}}", folder=folder
        )
        project.refresh(folder)
        assert keys(project.definitions(folder)) == {"ops/public/t", "ops/public/u"}
    assert len(project.states) == 1
