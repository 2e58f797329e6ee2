"""`make test-matrix`: the tests from the built wheel, on every supported Python, with the lowest and newest Dagster.

The package is installed as a user installs it and its source is not there: what a wheel lacks, the tests miss. The
lowest is what pyproject.toml names as the lowest, of every dependency; the newest is what the index has, whatever
constraints.txt says. Interpreters that are not here are failures, not skipped.
"""

import shutil
import subprocess
from pathlib import Path

import nox

# The newest is not everywhere to be had yet, and left out with a word where it is not.
NEWEST = "3.14"
PYTHONS = ["3.10", "3.11", "3.12", "3.13", *([NEWEST] if shutil.which(f"python{NEWEST}") else [])]
ROOT = Path(__file__).parent
SOURCE = "dagster_peaka"

LEFT_OUT = [
    "tests/e2e",  # these show the UI,
    "tests/example",  # and these the example project, with the versions of constraints.txt
    "tests/test_typing.py",  # this asks a type checker, and
    "tests/packaging",  # this builds the wheel: both need the source
    # Generated histories by the thousand, of parts that know neither Dagster nor a version of Python.
    "tests/sync/test_campaign.py",
    "tests/sync/test_worlds.py",
    "tests/sensors/test_polling_soak.py",
    "tests/test_factory_names.py",
]

nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = True


@nox.session(python=PYTHONS)
@nox.parametrize("dagster", ["lowest", "newest"])
def tests(session: nox.Session, dagster: str) -> None:
    """The tests, against the wheel."""
    if NEWEST not in PYTHONS:
        session.warn(f"Python {NEWEST} is not here: it is left out.")
    folder = Path(session.create_tmp()).resolve()
    wheel = _wheel(session, folder)
    if dagster == "lowest":
        floors = ["-r", str(ROOT / "pyproject.toml"), "--extra", "sandbox", "dagster-dg-cli>=1.13.0"]
        session.install("--resolution", "lowest-direct", *floors, "dagster-webserver>=1.13.0")
    session.install(f"{wheel}[dev]", "dagster-webserver")
    session.run("python", "-c", "import dagster; print('Dagster', dagster.__version__)")
    left_out = [f"--ignore={path}" for path in LEFT_OUT]
    with session.chdir(_tree(folder)):
        session.run("python", "-m", "pytest", "-n", "3", "--dist", "loadfile", *left_out, *session.posargs)


def _wheel(session: nox.Session, folder: Path) -> Path:
    session.install("build", "hatchling")
    session.run(
        "python", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT), silent=True
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _tree(folder: Path) -> Path:
    """A copy of the repository without the package's source, beside Peaka's OpenAPI document where that is here."""
    tree = folder / "repository"
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    for file in listed.stdout.splitlines():
        if not file.startswith(f"{SOURCE}/") and (ROOT / file).exists():
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, tree / file)
    document, link = ROOT.parent / "shared", folder / "shared"
    if document.is_dir() and not link.exists():
        link.symlink_to(document)
    return tree
