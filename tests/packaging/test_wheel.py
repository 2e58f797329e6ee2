"""The wheel: what is in it, and that it works without the extras."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# Hides what only the extras install, as in an environment without them.
WITHOUT_EXTRAS = """
import sys
for name in ("anyio", "duckdb", "numpy", "sqlglot", "starlette", "uvicorn"):
    sys.modules[name] = None
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(REPOSITORY),
    ]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    installed = folder / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    return installed


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python command that finds the package in the wheel's folder and nowhere else."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_holds_the_package_its_types_marker_and_nothing_else(unpacked: Path) -> None:
    """Every module of the package is in the wheel, with its data and pytest's beside it; no test, no example."""
    found = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    package = {
        path.relative_to(REPOSITORY).as_posix()
        for path in [*(REPOSITORY / "dagster_peaka").rglob("*"), REPOSITORY / "dagster_peaka_pytest.py"]
        if path.suffix in (".py", ".typed", ".yaml")
    }
    assert "dagster_peaka/py.typed" in package
    assert {name for name in found if ".dist-info/" not in name} == package


def test_it_imports_without_the_extras(unpacked: Path) -> None:
    """`import dagster_peaka` needs nothing that only an extra installs, and tells its release."""
    code = f"{WITHOUT_EXTRAS}\nimport dagster_peaka; print(dagster_peaka.__file__, dagster_peaka.__version__)"
    done = run(unpacked, "-c", code)
    assert done.returncode == 0, done.stderr
    file, release = done.stdout.split()
    assert Path(file).is_relative_to(unpacked)
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    assert f"\nVersion: {release}\n" in metadata.read_text()


def test_the_sandbox_without_its_extra_says_what_to_install(unpacked: Path) -> None:
    """The command ends with one sentence that names the extra."""
    code = f"{WITHOUT_EXTRAS}\nimport runpy; runpy.run_module('dagster_peaka.sandbox', run_name='__main__')"
    source = unpacked / "source.db"
    done = run(unpacked, "-c", code, "--source", f"ops.public={source}")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "pip install 'dagster-peaka[sandbox]'" in done.stderr


def test_the_doctor_needs_no_extra(unpacked: Path) -> None:
    """It finds what it knows in the wheel, and says which variable is not set."""
    code = f"{WITHOUT_EXTRAS}\nimport runpy; runpy.run_module('dagster_peaka', run_name='__main__')"
    done = run(unpacked, "-c", code, "doctor", "--json", "--api-key-variable", "NO_SUCH_KEY")
    assert done.returncode == 1, done.stderr
    assert "PEAKA_API_KEY is not set" in json.loads(done.stdout)["first"]


def test_pytest_starts_without_the_extras_and_without_the_package(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To offer the fixtures imports nothing of the package; to use one without the extra says what to install."""
    (tmp_path / "test_it.py").write_text(
        "import sys\n\n\n"
        "def test_nothing(): assert not {'dagster', 'dagster_peaka'} & set(sys.modules)\n\n\n"
        "def test_something(peaka_script): pass\n"
    )
    options = ["-p", "dagster_peaka", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)]
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # others may need what is hidden
    done = run(unpacked, "-c", f"{WITHOUT_EXTRAS}\nimport pytest; pytest.main({options})")
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "ImportError: Peaka's sandbox needs its extra: pip install 'dagster-peaka[sandbox]'" in done.stdout
