"""A report of an account, played by the sandbox: the doctor reads there what it read here, and a sync goes alike."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dagster_peaka.sandbox import Behaviour, PeakaSandbox, SandboxError
from dagster_peaka.sandbox.behaviour import PROFILES
from tests.doctor.conftest import Doctor
from tests.materializing import peaka_for

TABLE = "ops.public.t"

SETS: dict[str, Behaviour] = {
    "as its document says": Behaviour.documented(),
    "as it was seen": Behaviour.observed(),
    "other types": Behaviour.observed(ids_as_numbers=True, query_values="json", cached_records="total"),
    "other spellings": Behaviour.observed(status_case="lower", mode_spelling="kebab", timestamps="offset"),
    "less told": Behaviour.observed(mode_spelling="absent", timestamps="absent", drop_progress=True),
    "no clock": Behaviour.documented(date_header=False, timestamps="null", trigger_answer="empty"),
    "more told": Behaviour.documented(extra_fields=True, trigger_answer="text", error_shape="string"),
    "late to show": Behaviour.observed(visible_after=0.8, execution_seconds=1.5, timestamps="no_fraction"),
    "slow, by another clock": Behaviour.documented(
        trigger_seconds=0.6, clock_offset=600.0, status_case="title"
    ),
    "mixed": Behaviour.observed(
        schema_statuses="list", info="missing", error_body="documented", first_sync_mode="full_refresh"
    ),
    "listing by catalogs only": Behaviour.observed(project_statuses="fail"),
    "listing the project only": Behaviour.documented(catalog_statuses="fail", schema_statuses="fail"),
    "counting the rows handled": Behaviour.documented(cached_records="handled", error_shape="null"),
    "queueing by its own word": Behaviour.observed(queued_status="PENDING"),
}

MEASURED = {"execution_seconds", "visible_after", "trigger_seconds"}
ALIKE = {"cached_records"}
"""Where no row was deleted, the rows handled and the sum of those reported are the same numbers."""


@contextmanager
def account(database: Path, **how: Any) -> Generator[PeakaSandbox]:
    """A sandbox whose caches have been synced in both modes, also in vain."""
    with PeakaSandbox({"ops": {"public": database}}, caches=["ops.public.*"], **how) as peaka:
        peaka.wait_idle()
        for _ in range(2):
            peaka.start_execution(TABLE)
            peaka.wait_idle()
        peaka.plan("ops.public.u", fail="the disk is full")
        peaka.start_execution("ops.public.u", "full_refresh")
        peaka.wait_idle()
        if peaka.behaviour.queued_status != "RUNNING":
            peaka.plan("ops.public.u", hold=True)
            for _ in range(2):
                peaka.start_execution("ops.public.u")
        peaka.clear_requests()
        yield peaka


def told(report: str) -> list[tuple[Any, ...]]:
    """What a report says, but for times that were measured."""
    return [
        (each["name"], each["level"], each.get("whose"), None if each.get("measured") else each["value"])
        for each in json.loads(report)["readings"]
    ]


def path_of_a_sync(peaka: PeakaSandbox) -> tuple[list[str], int, str]:
    """The operations of one sync in the order in which each is first asked for, its triggers, and its end.

    How often it polls depends on time.
    """
    peaka.clear_requests()
    done = peaka_for(peaka, poll_interval=0.05).sync(TABLE)
    asked = [request.operation or "?" for request in peaka.requests]
    return list(dict.fromkeys(asked)), asked.count("incrementalUpdateCache"), done.status


@pytest.mark.parametrize("name", SETS)
def test_a_report_is_played_as_it_was_written(
    name: str, doctor: Doctor, ops_database: Path, tmp_path: Path
) -> None:
    """The same readings, the same requests of a sync, and the same report once more."""
    arguments = ("ops.public.u", "--sync", TABLE, "--yes")
    with account(ops_database, behaviour=SETS[name]) as original:
        first = doctor(original, *arguments)
        path = path_of_a_sync(original)
    profile = tmp_path / "sent-in.json"
    profile.write_text(first.report)
    with account(ops_database, profile=profile) as replay:
        second = doctor(replay, *arguments)
        path_again = path_of_a_sync(replay)

        switches = asdict(replay.behaviour)

    different = {switch for switch, value in asdict(SETS[name]).items() if switches[switch] != value}
    assert different <= MEASURED | ALIKE
    assert told(second.report) == told(first.report)
    assert json.loads(second.report)["base"] == json.loads(first.report)["base"]
    assert path_again == path


def test_what_was_not_read_is_as_the_nearer_profile_says(
    doctor: Doctor, ops_database: Path, tmp_path: Path
) -> None:
    """A cancel, for instance, which the doctor never asks for."""
    for profile, readings in PROFILES.items():
        with account(ops_database, profile=profile) as original:
            report = doctor(original).report
        (tmp_path / profile).write_text(report)
        replay = PeakaSandbox({}, profile=tmp_path / profile)
        assert replay.profile == profile
        assert replay.behaviour.cancel_in_gap == readings["cancel_in_gap"]


def test_a_switch_that_a_test_sets_counts_over_the_report(doctor: Doctor, tmp_path: Path) -> None:
    """As it does over the two profiles, at the start and later."""
    with PeakaSandbox({}, behaviour=Behaviour.observed(info="missing")) as original:
        (tmp_path / "report").write_text(doctor(original).report)
    replay = PeakaSandbox({}, profile=tmp_path / "report", behaviour=Behaviour(date_header=False))
    assert (replay.behaviour.info, replay.behaviour.date_header) == ("missing", False)
    replay.behaviour = Behaviour()
    assert (replay.behaviour.info, replay.behaviour.date_header) == ("missing", True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "is no report"),
        ("[]", "is no report"),
        ("no JSON", "is no report"),
        ('{"format": 1, "base": "observed", "readings": [1]}', "is no report"),
        ('{"format": 2, "base": "observed", "readings": []}', "newer release"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, content: str, words: str) -> None:
    """In one sentence that names it."""
    (tmp_path / "report").write_text(content)
    with pytest.raises(SandboxError, match=f"report: the .*{words}"):
        PeakaSandbox({}, profile=tmp_path / "report")


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "timestamps", "value": "without a zone"},
        {"name": "visible_after", "value": -1},
        {"name": "visible_after", "value": "soon"},
        {"name": "date_header", "value": "no"},
        {"name": "given", "value": []},
        {"name": "no such switch", "value": 1},
        {"name": "timestamps", "value": ["z"]},
    ],
)
def test_what_no_switch_can_play_is_left_to_the_profile(tmp_path: Path, entry: dict[str, Any]) -> None:
    """A doctor also finds what nobody has seen before."""
    report = {"format": 1, "base": "documented", "readings": [entry]}
    (tmp_path / "report").write_text(json.dumps(report))
    assert PeakaSandbox({}, profile=str(tmp_path / "report")).behaviour == Behaviour.documented()
