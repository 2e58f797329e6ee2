"""What a strict type checker tells a user's editor about the public names."""

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster_peaka
import dagster_peaka.sandbox
from dagster_peaka import api, component

MODULES = {"dagster_peaka": dagster_peaka, "dagster_peaka.api": api, "dagster_peaka.component": component}


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


def checked(folder: Path, program: str) -> list[dict[str, str]]:
    """What the checker says of a user's file, in its strict mode."""
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "pythonVersion": "3.10"}')
    path = folder / "user.py"
    path.write_text(program)
    command = [
        sys.executable,
        "-m",
        "basedpyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        str(path),
    ]
    printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    return json.loads(printed)["generalDiagnostics"]


def test_no_public_signature_holds_any_or_unknown(tmp_path: Path) -> None:
    """Every name, method and field has a type that says something."""
    statements = list(revelations())

    said = checked(tmp_path, "\n".join(statements))

    revealed = [each["message"] for each in said if each["severity"] == "information"]
    imports = [each for each in statements if each.startswith("from ")]
    assert len(revealed) == len(statements) - len(imports), [
        each for each in said if each["severity"] == "error"
    ]
    assert [text for text in revealed if re.search(r"\b(Any|Unknown)\b", text)] == []


def test_a_users_file_with_every_public_name_is_accepted(tmp_path: Path) -> None:
    """The file beside this test, in the strict mode, without a word of complaint."""
    program = (Path(__file__).parent / "typing" / "user.py").read_text()

    public = [name for module in (*MODULES.values(), dagster_peaka.sandbox) for name in module.__all__]
    assert [name for name in public if not re.search(rf"\b{name}\b", program)] == []
    assert [(each["range"], each["message"]) for each in checked(tmp_path, program)] == []
