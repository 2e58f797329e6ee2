"""A rolling deploy: two releases of a project, with code servers beside each other, over one store of state."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.example.machine import free_port
from tests.graphql import until
from tests.production.deployment import TRIGGER, Deployment, Hold

pytestmark = pytest.mark.timeout(900)  # a dozen processes start first

TABLE = "rolling"

PYPROJECT = """\
[project]
name = "{name}"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "{name}"
"""

DEFINITIONS = """\
from pathlib import Path

import dagster as dg


@dg.definitions
def defs():
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(loaded, dg.Definitions(executor=dg.in_process_executor))
"""

COMPONENT = """\
type: dagster_peaka.PeakaProjectComponent

attributes:
  connection:
    project_id: "{{{{ env.PEAKA_PROJECT_ID }}}}"
    base_url: "{{{{ env.PEAKA_BASE_URL }}}}"
    poll_interval: 0.1
    poll_max_interval: 1.0
  selection: ops.public.rolling
  translation: {{key_prefix: {name}}}
  polling_sensor: {{minimum_interval_seconds: 1}}
  defs_state: {{management_type: VERSIONED_STATE_STORAGE, refresh_if_dev: false}}
"""

# What makes of this package one that was released before there were queries.
WITHOUT_QUERIES = """\
from dagster_peaka.caches import project

project.VERSIONS = (1,)
"""


def project(deployment: Deployment, name: str, *, component: str, init: str = "") -> Path:
    """A project of a release, as it is deployed."""
    folder = deployment.folder / "releases" / name
    (folder / name / "defs" / "peaka").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT.format(name=name))
    (folder / name / "__init__.py").write_text(init)
    (folder / name / "definitions.py").write_text(DEFINITIONS)
    (folder / name / "defs" / "peaka" / "defs.yaml").write_text(component)
    return folder


def environment(deployment: Deployment, folder: Path) -> dict[str, str]:
    """What lets a process import a release's project."""
    return {"PYTHONPATH": f"{folder}:{deployment.environment['PYTHONPATH']}"}


def refresh(deployment: Deployment, folder: Path) -> None:
    """What a deploy does first."""
    subprocess.run(
        [str(Path(sys.executable).with_name("dg")), "utils", "refresh-defs-state"],
        cwd=folder,
        env={**os.environ, **deployment.environment, **environment(deployment, folder)},
        check=True,
    )


def serve(deployment: Deployment, folder: Path) -> int:
    """A code server of a release; its port."""
    port = free_port()
    deployment.serve(f"{folder.name}.definitions", port, **environment(deployment, folder))
    return port


def test_an_older_release_goes_on_beside_a_newer_one(deployment: Deployment) -> None:
    """State that the older cannot read is not its; runs in flight end; each location records for itself."""
    deployment.sandbox.queries.create("report", f"SELECT id FROM ops.public.{TABLE}")
    yaml = COMPONENT.format(name="older")
    older = project(deployment, "older", component=yaml, init=WITHOUT_QUERIES)
    newer = project(deployment, "newer", component=COMPONENT.format(name="newer") + "  queries: true\n")
    refresh(deployment, older)
    deployment.stop_dagster()
    deployment.restart_dagster({"older": serve(deployment, older)})
    hold = Hold(deployment, TABLE, "follow")
    in_flight = deployment.ui("older").launch(("older", "ops", "public", TABLE))
    hold.wait()

    refresh(deployment, newer)
    deployment.stop_dagster()
    deployment.restart_dagster(
        {"main": deployment.port, "older": serve(deployment, older), "newer": serve(deployment, newer)}
    )
    hold.release()

    assert deployment.ui("older").ended(in_flight).status == "SUCCESS"
    assert deployment.operations(TABLE).count(TRIGGER) == 1
    query = deployment.ui("newer").launch(("peaka", "mtquery", "report"))
    assert deployment.ui("newer").ended(query).status == "SUCCESS"

    keys = {name: (name, "ops", "public", TABLE) for name in ("older", "newer")}
    for name in keys:
        deployment.ui(name).switch_on("peaka_polling_sensor")
    theirs = deployment.sandbox.start_execution(f"ops.public.{TABLE}")
    for name, key in keys.items():
        until(lambda key=key: theirs in executions(deployment, key), what=f"record in {name}")
        deployment.ui(name).wait_for_ticks("peaka_polling_sensor")
        deployment.ui(name).switch_off("peaka_polling_sensor")
        assert executions(deployment, key).count(theirs) == 1
    assert executions(deployment, keys["older"]) == [theirs, *deployment.executions(TABLE)]


def executions(deployment: Deployment, key: tuple[str, ...]) -> list[str]:
    """The executions that an asset has materializations of, newest first."""
    return [execution for execution, _ in deployment.recorded(*key)]
