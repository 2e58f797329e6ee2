"""The mutation check: each rule of the engine, and each rewriting of the sandbox's SQL, is removed or inverted, one at
a time, and a test has to notice.

`python -m tests.mutations` changes a copy of the package, runs the tests that are to catch the change, and prints a
table; it fails when a mutant survives. `python -m tests.mutations baseline` runs one by name.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests import rewritings

ROOT = Path(__file__).parents[1]
WORLDS = "tests/sync/test_worlds.py"
READINGS = "tests/sync/test_readings.py"
TERMINATION = "tests/sync/test_termination.py"
MACHINE = "tests/sync/test_machine.py"
IDENTITY = "tests/sync/test_identity.py"
STORIES = "tests/worlds/test_whole_worlds.py"
CRASH = "tests/sync/test_crash.py"
QUERIES = "tests/queries/test_query_worlds.py"
REFRESHES = "tests/queries/test_refreshes.py"
FINGERPRINTS = "tests/steps/test_data_version.py"


@dataclass(frozen=True)
class Mutation:
    """One rule taken away: in `file` the text `old` becomes `new`, and a test among `tests` has to fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = (WORLDS,)


MUTATIONS = [
    Mutation(
        "baseline: an execution from before the poll counts",
        "sync/identity.py",
        "above, older = list(history[:place]), frozenset(ids[place:])",
        "above, older = list(history[: place + 1]), frozenset(ids[place + 1 :])",
    ),
    Mutation(
        "baseline: what stands beneath it counts",
        "sync/identity.py",
        "above, older = list(history[:place]), frozenset(ids[place:])",
        "above, older = list(history), frozenset(ids[place:])",
        (IDENTITY,),
    ),
    Mutation(
        "baseline: where it has expired all that is listed counts",
        "sync/identity.py",
        "([newest] if newest is not None else [])",
        "list(history)",
        (IDENTITY,),
    ),
    Mutation(
        "mode: the other mode's execution counts",
        "sync/machine.py",
        "return cls(status.last(mode), status.last(mode.other), server_time, status.deleted)",
        "return cls(status.last(mode.other), status.last(mode), server_time, status.deleted)",
        (f"{READINGS}::test_visible_at_once",),
    ),
    Mutation(
        "mode: the history's candidates are not filtered by mode",
        "sync/identity.py",
        "elif known is mode:",
        "elif known is not None:",
    ),
    Mutation(
        "success: any end counts",
        "api/models.py",
        "return self.status == COMPLETED",
        "return self.ended",
    ),
    Mutation(
        "success: an unknown status with an end counts as FAILED at once",
        "sync/machine.py",
        'elif execution.status in ("FAILED", CANCELLED):',
        "elif execution.ended:",
    ),
    Mutation(
        "late to show: the rule is gone",
        "sync/identity.py",
        "return execution.created_at < self.polled_at - LATE_TOLERANCE",
        "return False",
    ),
    Mutation(
        "late to show: the rule never ends",
        "sync/machine.py",
        "            self.record = replace(self.record, polled_at=None)\n",
        "",
    ),
    Mutation(
        "history: not read before an execution is believed to be ours",
        "sync/machine.py",
        "if self._history_away.seconds < rules.outage_tolerance:\n                self._history_wanted = True",
        "if True:\n                self._choose([newest], now)",
        (MACHINE,),
    ),
    Mutation(
        "history: one that lags says that there is nothing",
        "sync/machine.py",
        "        self._older |= found.older\n",
        "        self._older |= found.older | {self._newest.id if self._newest else ''}\n",
        (MACHINE,),
    ),
    Mutation(
        "history: ours is the newest new one, not the oldest",
        "sync/identity.py",
        "oldest = self.candidates[0]",
        "oldest = self.candidates[-1]",
        (f"{READINGS}::test_ours_is_over_and_replaced_between_two_polls", MACHINE),
    ),
    Mutation(
        "adoption: a stranger's success is taken up where ours failed",
        "sync/machine.py",
        "ours = found.candidates[0]",
        "ours = found.candidates[-1]",
        (f"{CRASH}::test_a_strangers_success_after_ours_failed_is_not_adopted",),
    ),
    Mutation(
        "history: a failure is concluded without it",
        "sync/machine.py",
        "            self._end(Trouble.UNREADABLE, self._history_problem)",
        "            self._end(Trouble.FAILED, newest.reason)",
        (MACHINE,),
    ),
    Mutation(
        "history: a page that a server cuts short is the last one",
        "sync/history.py",
        "        if not page:\n            self._in_vain()",
        "        if len(page) < 24:\n            self.whole = True",
        (IDENTITY,),
    ),
    Mutation(
        "trigger: it follows a poll of any age",
        "sync/machine.py",
        "if now - self._polled_at > FRESH_POLL:",
        "if False:",
        (MACHINE,),
    ),
    Mutation(
        "trigger: one that was not taken is repeated without a poll",
        "sync/machine.py",
        "return self._poll_again(now + self.rules.wait(self.not_taken.seconds))",
        "return self._trigger(now + self.rules.wait(self.not_taken.seconds))",
        (MACHINE,),
    ),
    Mutation(
        "second trigger: nothing is waited for before it",
        "sync/machine.py",
        "elif self._quiet.seconds >= rules.start_timeout and now >= self._posted_at + rules.start_timeout:",
        "elif True:",
    ),
    Mutation(
        "second trigger: what runs is not waited for",
        "sync/machine.py",
        "        if reading.running:\n            self._quiet.over()\n        else:\n            self._quiet.seen(now)",
        "        self._quiet.seen(now)",
    ),
    Mutation(
        "second trigger: repeated for ever",
        "sync/machine.py",
        "elif self.triggers < 2:",
        "elif self.triggers < 9:",
    ),
    Mutation(
        "second trigger: never (no grace after coalescing)",
        "sync/machine.py",
        "elif self.triggers < 2:",
        "elif self.triggers < 1:",
        (f"{READINGS}::test_a_trigger_while_one_runs_is_coalesced",),
    ),
    Mutation(
        "trigger: repeated at once after an unknown outcome",
        "sync/runner.py",
        "    return Posted.UNKNOWN\n\n\ndef _polls",
        "    return Posted.NOT_TAKEN\n\n\ndef _polls",
        (f"{READINGS}::test_a_lost_answer_of_a_trigger_that_was_taken",),
    ),
    Mutation(
        "deadline: poll_timeout does not end a sync",
        "sync/machine.py",
        "if now >= self._deadline:\n            return self._end(Trouble.TIMED_OUT)",
        "pass",
    ),
    Mutation(
        "outage: given up at once",
        "sync/machine.py",
        "if self._status_away.seen(now) >= self.rules.outage_tolerance:",
        "if self._status_away.seen(now) >= 0:",
        (WORLDS, f"{READINGS}::test_a_short_outage"),
    ),
    Mutation(
        "outage: never given up",
        "sync/machine.py",
        "if self._status_away.seen(now) >= self.rules.outage_tolerance:",
        "if self._status_away.seen(now) < 0:",
        (f"{READINGS}::test_a_long_outage",),
    ),
    Mutation(
        "cancel: whatever runs",
        "sync/stopping.py",
        "all(entry.id == ours.id for entry in unfinished)",
        "True",
        (WORLDS, f"{TERMINATION}::test_a_queued_execution_is_left_alone_and_named"),
    ),
    Mutation(
        "cancel: also one created outside the trigger's window",
        "sync/stopping.py",
        "        and record.is_surely_ours(ours)\n",
        "",
    ),
    Mutation(
        "cancel: also after a trigger that was not accepted",
        "sync/machine.py",
        "accepted = answer is Posted.ACCEPTED and self.triggers == 1",
        "accepted, server_time = True, server_time or self.record.polled_at",
        (MACHINE,),
    ),
    Mutation(
        "cancel: also when an earlier one may have been ours",
        "sync/stopping.py",
        "        and [candidate.id for candidate in found.candidates] == [ours.id]\n",
        "",
        (MACHINE,),
    ),
    Mutation(
        "reading: statuses in upper case only",
        "api/fields.py",
        "status = as_label(value).strip().upper()",
        "status = as_label(value).strip()",
        (f"{READINGS}::test_statuses_in_any_letter_case",),
    ),
    Mutation(
        "reading: modes as the document spells them only",
        "api/models.py",
        'letters = re.sub(r"[^a-z]", "", text.lower())',
        'letters = re.sub(r"[^a-z]", "", text)',
        (f"{READINGS}::test_ours_is_over_and_replaced_between_two_polls",),
    ),
    Mutation(
        "reading: offsets of timestamps are ignored",
        "api/fields.py",
        "offset = f\"{match['sign'] or '+'}{match['hours'] or '00'}:{match['minutes'] or '00'}\"",
        'offset = "+00:00"',
        ("tests/api/test_models.py",),
    ),
    Mutation(
        "reading: an error is an object",
        "api/models.py",
        "words = [error.strip()] if isinstance(error, str) else list(_messages(error))",
        'words = [""] if isinstance(error, str) else list(_messages(error))',
        (f"{READINGS}::test_an_error_in_any_shape",),
    ),
    Mutation(
        "reading: ids are texts",
        "api/fields.py",
        "    if isinstance(value, int) and not isinstance(value, bool):\n        return str(value)\n    return value\n",
        "    return value\n",
        (f"{READINGS}::test_unknown_fields_and_ids_as_numbers",),
    ),
    Mutation(
        "reading: unknown fields are errors",
        "api/fields.py",
        'extra="ignore"',
        'extra="forbid"',
        (f"{READINGS}::test_unknown_fields_and_ids_as_numbers",),
    ),
    Mutation(
        "reading: a trigger's answer is JSON",
        "api/calls.py",
        "rest, _nothing, changes=True, needs_json=False, resent=resent",
        "rest, _nothing, changes=True, resent=resent",
        (
            f"{READINGS}::test_visible_at_once",
            f"{READINGS}::test_whatever_a_trigger_answers",
            "tests/api/test_client.py",
        ),
    ),
    Mutation(
        "adoption: the record is not read",
        "records/attempts.py",
        "for run_id in _lineage(context)",
        "for run_id in ()",
        (f"{CRASH}::test_a_completed_execution_of_a_killed_run_is_adopted",),
    ),
    Mutation(
        "adoption: the record is written after the trigger",
        "sync/runner.py",
        "        for run in runs:\n            self._note(run)\n        self._flush()\n",
        "",
        (f"{CRASH}::test_a_completed_execution_of_a_killed_run_is_adopted",),
    ),
    Mutation(
        "adoption: also after new rows upstream",
        "records/attempts.py",
        "elif now_seen != left.written.seen.deps:",
        "elif False:",
        (f"{CRASH}::test_new_rows_upstream_end_the_adoption",),
    ),
    Mutation(
        "adoption: who adopts takes what is upstream by then for what the trigger had seen",
        "records/attempts.py",
        "return origin is Origin.ADOPTED or repeated",
        "return False",
        (f"{STORIES}::test_what_once_went_wrong",),
    ),
    Mutation(
        "late to show: a second trigger that was not taken ends the rule",
        "sync/machine.py",
        "self.record = replace(self.record, polled_at=self._first_poll)",
        "pass",
        (f"{STORIES}::test_what_once_went_wrong",),
    ),
    Mutation(
        "sensor: the history is read only as far as the status has moved",
        "sensors/review.py",
        "if mode in listed or self._has_moved(mode)]",
        "if self._has_moved(mode)]",
        (f"{STORIES}::test_what_once_went_wrong",),
    ),
    Mutation(
        "adoption: what surely was not taken leaves something",
        "records/attempts.py",
        "taken=answer not in {each.value for each in _NOT_TAKEN},",
        "taken=True,",
        (f"{CRASH}::test_an_attempt_whose_trigger_was_refused_leaves_nothing_to_adopt",),
    ),
    Mutation(
        "adoption: a deferred one that was recorded is taken up once more",
        "records/attempts.py",
        "return not (self.deferred and self.recorded)",
        "return True",
        ("tests/steps/test_wait.py::test_a_re_execution_after_the_sensor_triggers_anew",),
    ),
    Mutation(
        "reading: an answer of a cache in between is evidence",
        "api/answers.py",
        "if call.fresh and age.isdigit() and int(age) > 0:",
        "if False:",
        ("tests/observed/test_answers.py::test_a_status_from_a_cache_in_between_is_no_answer",),
    ),
    Mutation(
        "adoption: however old",
        "records/attempts.py",
        "if age >= max_age:",
        "if False:",
        (f"{CRASH}::test_an_old_trigger_is_not_adopted",),
    ),
    Mutation(
        "adoption: a failed execution is adopted",
        "sync/machine.py",
        "        elif self.origin is Origin.ADOPTED:\n            self._poll_again(now)\n        elif execution.status",
        "        elif execution.status",
        (f"{CRASH}::test_an_execution_that_came_to_nothing_is_not_adopted",),
    ),
    Mutation(
        "reading: an end before the creation is an end",
        "api/models.py",
        "return None if value and created_at and created_at - value > CLOCK_TOLERANCE else value",
        "return value",
        ("tests/observed/test_executions.py::test_an_end_before_the_creation_is_no_end",),
    ),
    Mutation(
        "termination: the run's status is not read while a sync is awaited",
        "steps/step.py",
        "check_run=lambda: end_if_terminated(self.context.instance, self.context.run.run_id),",
        "check_run=lambda: None,",
        (f"{TERMINATION}::test_a_termination_that_the_step_never_hears_of_ends_it_all_the_same",),
    ),
    Mutation(
        "termination: a terminated run's retry triggers again",
        "steps/step.py",
        "    end_if_terminated(context.instance, run.run_id)\n    free",
        "    free",
        (f"{TERMINATION}::test_a_terminated_step_is_not_retried_into_a_new_trigger",),
    ),
    Mutation(
        "termination: an interrupt of a run that nobody terminated cancels",
        "steps/step.py",
        "runner.stop(cancel=self.cancel, terminated=self._is_terminated)",
        "runner.stop(cancel=self.cancel, terminated=lambda: True)",
        (f"{TERMINATION}::test_an_interrupt_of_a_run_that_nobody_terminated_cancels_nothing",),
    ),
    Mutation(
        "termination: a second interrupt ends the first one's work",
        "sync/stopping.py",
        "signal.signal(number, _unheard)",
        "pass",
        (f"{TERMINATION}::test_a_second_interrupt_ends_no_cancel",),
    ),
    Mutation(
        "outage: blind time counts as quiet",
        "sync/machine.py",
        "for timer in (self._quiet, self._odd, self.unchanged):",
        "for timer in (self._odd, self.unchanged):",
        (f"{MACHINE}::test_an_outage_is_no_quiet",),
    ),
    Mutation(
        "version: the fingerprint is not used",
        "records/materializations.py",
        "return execution.id if fingerprint is None else fingerprint",
        "return execution.id",
        (f"{FINGERPRINTS}::test_rows_that_do_not_change_keep_the_checksum",),
    ),
    Mutation(
        "version: columns are hashed each by itself, so that values that swap rows cancel out",
        "steps/fingerprints.py",
        "to_hex(checksum(ROW({', '.join(map(quoted, names))}))) AS {HASH}",
        "concat({', '.join(f'to_hex(checksum({quoted(name)}))' for name in [*names, *names])}) AS {HASH}",
        (f"{FINGERPRINTS}::test_any_change_of_rows_changes_the_checksum",),
    ),
    Mutation(
        "version: of two values of one name the one hides the other",
        "steps/fingerprints.py",
        "if len(names) != len(set(names)) or len(row) < len(names):",
        "if False:",
        (f"{FINGERPRINTS}::test_two_values_of_one_name_are_refused",),
    ),
    Mutation(
        "rows: what the first release recorded counts as a total",
        "steps/checks.py",
        "return rows if isinstance(rows, int) and not uncounted else None",
        "return rows if isinstance(rows, int) else None",
        ("tests/test_checks.py::test_what_the_first_release_recorded_after_a_full_refresh_is_no_total",),
    ),
    Mutation(
        "sensor: what a run follows is not left to it",
        "sensors/claims.py",
        "if self._our_now < first + trigger.notices_within:",
        "if False:",
        (STORIES,),
    ),
    Mutation(
        "sensor: what a run follows is left to it for ever",
        "sensors/claims.py",
        "if self._our_now < first + trigger.notices_within:",
        "if True:",
        (f"{CRASH}::test_a_sensor_waits_for_a_dead_run_s_own_execution_only_and_not_for_ever",),
    ),
    Mutation(
        "sensor: an outage is time in which a run would have recorded",
        "sensors/cursor.py",
        "return replace(self, held={})",
        "return self",
        (f"{CRASH}::test_an_outage_is_no_time_in_which_a_run_would_have_recorded",),
    ),
    Mutation(
        "sensor: what was reported is not checked in the event log",
        "sensors/review.py",
        "for each in entries if each.execution.id not in reported}",
        "for each in entries}",
        ("tests/sensors/test_polling_sensor.py",),
    ),
    Mutation(
        "upstream sensor: what it has requested is requested again",
        "sensors/updates.py",
        "return latest.token != state.seen[upstream]",
        "return True",
        ("tests/sensors/test_upstream_runs.py",),
    ),
    Mutation(
        "upstream sensor: another one over the same asset requests it, too",
        "sensors/overlap.py",
        "if sensor.name < name and",
        "if sensor.name < '' and",
        ("tests/sensors/test_two_sensors.py",),
    ),
    Mutation(
        "polling sensor: another one over the same asset records it, too",
        "sensors/tick.py",
        "if asset.key in self.others:",
        "if False:",
        ("tests/sensors/test_two_sensors.py",),
    ),
    Mutation(
        "polling sensor: a cache that was left is not sought as far back the next time",
        "sensors/tick.py",
        "if address in left or",
        "if False and",
        ("tests/sensors/test_polling_apart.py",),
    ),
    *(
        Mutation(
            f"sql: {name}", f"sandbox/sql/{module}.py", old, new, (rewritings.FUNCTIONS, rewritings.ANALYSTS)
        )
        for name, module, old, new in rewritings.SQL
    ),
    Mutation(
        "query: a word from before the start counts",
        "queries/refreshes.py",
        "if updated is not None and updated < start:",
        "if False:",
        (QUERIES, REFRESHES),
    ),
    Mutation(
        "query: without a time of update one reading suffices",
        "queries/refreshes.py",
        "if not sure and self._same.readings > 1:",
        "if not sure:",
        (REFRESHES,),
    ),
    Mutation(
        "polls: a listing that shows an end is followed by none before its time",
        "sync/runner.py",
        "if any(run.sync.result is not None for run in runs):",
        "if False:",
        ("tests/sync/test_runner.py",),
    ),
    Mutation(
        "query: a word that may be the old one counts when it is said twice",
        "queries/refreshes.py",
        "len(self._words) > 1 or lasting >= UNCHANGED_WORD",
        "True",
        (QUERIES,),
    ),
    Mutation(
        "query: an old answer counts as another refresh",
        "queries/refreshes.py",
        "if start is None or (newest is not None and start < newest):",
        "if start is None:",
        (REFRESHES,),
    ),
    Mutation(
        "query: one that was replaced is waited for",
        "queries/refreshes.py",
        "each for each in self._known if each.ended or each.id == newest_id or each.id in self._before",
        "each for each in self._known",
        (REFRESHES,),
    ),
]


def survives(mutation: Mutation) -> bool:
    """True when no test notices the mutation."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("dagster_peaka", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / "dagster_peaka" / mutation.file
        text = path.read_text()
        if text.count(mutation.old) != 1:
            raise SystemExit(
                f"{mutation.name}: its text stands {text.count(mutation.old)} times in {mutation.file}"
            )
        path.write_text(text.replace(mutation.old, mutation.new))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutation.tests]
        environment = {"PEAKA_WORLDS": "4000", **os.environ, "PYTHONPATH": folder}
        result = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
    if result.returncode not in (0, 1):
        raise SystemExit(
            f"{mutation.name}: the tests did not run\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
        )
    return result.returncode == 0


def main(wanted: str) -> None:
    """Try each mutation whose name holds ``wanted``."""
    survivors = 0
    for mutation in MUTATIONS:
        if wanted in mutation.name:
            survived = survives(mutation)
            survivors += survived
            sys.stdout.write(f"{'SURVIVES' if survived else 'caught  '}  {mutation.name}\n")
            sys.stdout.flush()
    if survivors:
        raise SystemExit(f"{survivors} mutations were not noticed by any test")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
