"""What a strict type checker tells a user's editor about the public names."""

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dagster_peaka
import dagster_peaka.sandbox
from dagster_peaka import api, component

MODULES = {"dagster_peaka": dagster_peaka, "dagster_peaka.api": api, "dagster_peaka.component": component}
USERS_FILE = Path(__file__).parent / "typing" / "user.py"


def revelations() -> Iterator[str]:
    """One statement for each public name, each public method and each field."""
    for path, name in ((path, name) for path, module in MODULES.items() for name in module.__all__):
        value = getattr(MODULES[path], name)
        yield f"from {path} import {name}"
        yield f"reveal_type({name})"
        if not inspect.isclass(value):
            continue
        if value is not dagster_peaka.PeakaProjectComponent:  # to Dagster, a field for a resource is for Any
            yield f"reveal_type({name}.__init__)"
        members = {member for member in vars(value) if not member.startswith("_")}
        if not issubclass(value, api.SyncMode):
            members |= set(getattr(value, "model_fields", {}))
        for member in sorted(members - {"model_config", "model_post_init"}):
            yield f"def of_{name}_{member}(value: {name}): return reveal_type(value.{member})"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """What the checker says, in its strict mode, of the statements about each name, and of a user's file."""
    folder = tmp_path_factory.mktemp("typing")
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "pythonVersion": "3.10"}')
    (folder / "names.py").write_text("\n".join(revelations()))
    (folder / "user.py").write_text(USERS_FILE.read_text())
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    everything = json.loads(printed)["generalDiagnostics"]
    return {
        name: [each for each in everything if Path(each["file"]).name == name]
        for name in ("names.py", "user.py")
    }


def test_no_public_signature_holds_any_or_unknown(said: dict[str, list[dict[str, str]]]) -> None:
    """Every name, method and field has a type that says something."""
    revealed = [each["message"] for each in said["names.py"] if each["severity"] == "information"]
    asked = [statement for statement in revelations() if not statement.startswith("from ")]
    errors = [each for each in said["names.py"] if each["severity"] == "error"]
    assert len(revealed) == len(asked), errors
    assert [text for text in revealed if re.search(r"\b(Any|Unknown)\b", text)] == []


def test_a_users_file_with_every_public_name_is_accepted(said: dict[str, list[dict[str, str]]]) -> None:
    """The file beside this test, in the strict mode, without a word of complaint."""
    public = [name for module in (*MODULES.values(), dagster_peaka.sandbox) for name in module.__all__]
    assert [name for name in public if not re.search(rf"\b{name}\b", USERS_FILE.read_text())] == []
    assert [(each["range"], each["message"]) for each in said["user.py"]] == []
