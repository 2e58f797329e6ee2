"""What a Dagster step does: from its selected assets to syncs, and from their results to what Dagster records."""

import logging
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import dagster as dg

from dagster_peaka.api import calls
from dagster_peaka.api.client import FEW, NOT_LISTED, PeakaClient
from dagster_peaka.api.models import CacheStatus, SyncMode
from dagster_peaka.caches.declared import LAST_SYNC_CHECK, DeclaredCache, declared_cache, link
from dagster_peaka.caches.lookup import find_caches
from dagster_peaka.caches.names import CacheReference, SyncTarget, few
from dagster_peaka.errors import PeakaConfigError, PeakaError, PeakaSyncError
from dagster_peaka.records import last_sync
from dagster_peaka.records.attempts import EarlierAttempt, earlier_attempts, materializations_of, write_down
from dagster_peaka.records.failures import step_failure, sync_error
from dagster_peaka.records.materializations import (
    DATA_VERSION_TAG,
    materialization,
    row_count,
    schedules_disabled,
    table_metadata,
)
from dagster_peaka.steps.checks import CHECKS, evaluations
from dagster_peaka.steps.deferred import Deferred, is_required
from dagster_peaka.steps.fingerprints import Measurement
from dagster_peaka.steps.row_counts import Measurer, is_measured
from dagster_peaka.steps.run_retries import free_inherited_retries, is_last_try, settle_run_retries
from dagster_peaka.steps.schedules import Schedules
from dagster_peaka.steps.supported_modes import Wish, unsupported
from dagster_peaka.sync.jobs import Note, SyncJob
from dagster_peaka.sync.outcome import Result
from dagster_peaka.sync.runner import Runner
from dagster_peaka.sync.timing import SyncRules

T = TypeVar("T")

NAMED_AT_MOST = 20
"""Caches that one message names at most."""

StepResult: TypeAlias = dg.MaterializeResult[object] | dg.AssetCheckResult
"""What a step yields."""


@dataclass(frozen=True)
class _Wanted:
    """A cache to be synced: what is to be done about it, which one it is, and what an earlier attempt has done."""

    declared: DeclaredCache
    target: SyncTarget
    earlier: EarlierAttempt | None = None


def sync_step(
    context: dg.AssetExecutionContext,
    get_client: Callable[[], PeakaClient],
    rules: SyncRules,
    mode: SyncMode | None,
    *,
    wait: bool | None,
    cancel: bool,
) -> Iterator[StepResult]:
    """Sync the caches of the step's selected assets; yield each result as soon as it is known.

    Args:
        mode: for every cache of this step, instead of what its asset declares.
        wait: likewise, whether the step waits for the ends of the syncs.
        cancel: whether terminating the run cancels the executions that this step triggered.

    Raises:
        dagster.Failure: at the end, naming every cache that failed and why.
    """
    # Dagster's retry policies also retry a step that an interrupt ended; a terminated run triggers nothing more.
    run = within_run(lambda: context.run)
    end_if_terminated(context.instance, run.run_id)
    free_inherited_retries(context)
    step = _Step(context, rules, mode, wait, cancel)
    yield from step.results(get_client)
    if step.failures:
        permanent = all(error.permanent for error in step.failures.values())
        settle_run_retries(context, permanent=permanent)
        # Raised outside of any handler, so that the failure carries no other exception along.
        raise step_failure(step.failures, last_try=is_last_try(context))


@dataclass
class _Step:
    context: dg.AssetExecutionContext
    rules: SyncRules
    mode: SyncMode | None
    wait: bool | None
    cancel: bool
    failures: dict[dg.AssetKey, PeakaError] = field(default_factory=dict[dg.AssetKey, PeakaError])
    _failed_checks: list[dg.AssetCheckResult] = field(default_factory=list[dg.AssetCheckResult])

    def __post_init__(self) -> None:
        self.deferred = Deferred(self.context)
        self._schedules_off: dict[str, str] = {}
        self._measured: dict[str, Future[Measurement]] = {}
        # Made anew, for all assets, at each access.
        self._metadata = self.context.assets_def.metadata_by_key

    def results(self, get_client: Callable[[], PeakaClient]) -> Iterator[StepResult]:
        synced = self.context.selected_asset_keys
        declared = self._declared(synced)
        recorded = self._recorded(declared)
        yield from (recorded_again(self.context, key) for key in recorded if is_required(self.context, key))
        declared = self._with_end({key: each for key, each in declared.items() if key not in recorded})
        checks = [check for check in self.context.selected_asset_check_keys if check.name == LAST_SYNC_CHECK]
        only_checked = self._declared({check.asset_key for check in checks} - synced)
        others = self._other_checks()
        if declared or only_checked or others:
            try:
                client = get_client()
            except PeakaError as error:
                self._fail_all({*declared, *only_checked, *(check.asset_key for check in others)}, error)
            else:
                with client:
                    yield from self._synced(client, declared)
                    yield from self._checked(client, only_checked)
                    yield from self._evaluated(client, others)
        yield from self._checks_of_failures()

    def _synced(
        self, client: PeakaClient, declared: Mapping[dg.AssetKey, DeclaredCache]
    ) -> Iterator[StepResult]:
        wanted = self._wanted(client, declared)
        yield from self._checks_of_failures()
        jobs = {key: self._job(each) for key, each in wanted.items()}
        keys = {job.target.cache_id: key for key, job in jobs.items()}
        measurer = Measurer(client, self.context.log)
        deps = {key: each.declared.deps for key, each in wanted.items()}
        seen = {key: each.earlier.seen for key, each in wanted.items() if each.earlier}

        def record(notes: Sequence[Note]) -> None:
            write_down(self.context, [(keys[note.job.target.cache_id], note) for note in notes], deps, seen)

        runner = Runner(
            client,
            jobs.values(),
            log=self.context.log,
            write_down=record,
            after_result=lambda job, result: self._measure(
                measurer, wanted[keys[job.target.cache_id]], result
            ),
            check_run=lambda: end_if_terminated(self.context.instance, self.context.run.run_id),
        )
        silent = dict.fromkeys(jobs)
        try:
            for job, result in runner.run():
                key = keys[job.target.cache_id]
                del silent[key]
                if result.ok:
                    url = client.cache_url(job.target.cache_id)
                    yield from self._succeeded(key, wanted[key], result, url)
                elif result.deferred:
                    earlier = wanted[key].earlier
                    written = earlier is not None and earlier.deferred and not result.triggers
                    self.deferred.triggered(key, job, result, written=written)
                else:
                    url = client.cache_url(job.target.cache_id)
                    error = sync_error(result, target=job.target, mode=job.mode, rules=self.rules, url=url)
                    self._fail(key, error)
                    yield from self._checks_of_failures()
        # While it records a result, Dagster closes the generator instead; on an error of its own, too.
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError, GeneratorExit):
            runner.stop(cancel=self.cancel, terminated=self._is_terminated)
            raise
        finally:
            measurer.close()
            self.deferred.tell()
        for key in silent:
            self._fail(key, _without_result(jobs[key].target))

    def _measure(self, measurer: Measurer, wanted: _Wanted, result: Result) -> Future[Measurement] | None:
        """Begin to ask for the rows and the fingerprint of a table that was synced, where its asset wants them."""
        if not result.ok or not is_measured(wanted.declared):
            return None
        if result.other_runs:
            self.context.log.warning(
                "%s: its %s still runs, and until it ends the table may hold none of its rows: neither row count nor "
                "fingerprint is recorded.",
                wanted.target,
                wanted.declared.mode.other.words,
            )
            return None
        measured = measurer.start(wanted.target, wanted.declared)
        self._measured[wanted.target.cache_id] = measured
        return measured

    def _is_terminated(self) -> bool:
        return is_terminated(self.context.instance, self.context.run.run_id)

    def _succeeded(
        self,
        key: dg.AssetKey,
        wanted: _Wanted,
        result: Result,
        url: str | None,
    ) -> Iterator[StepResult]:
        target, mode = wanted.target, wanted.declared.mode
        extra = {**link(url), **table_metadata(self._metadata[key])}
        measured = self._measured.get(target.cache_id)
        found = Measurement() if measured is None else measured.result()
        extra.update(row_count(found.rows))
        extra.update(schedules_disabled(self._schedules_off.get(target.cache_id)))
        yield materialization(key, target, mode, result, fingerprint=found.fingerprint, extra=extra)
        if result.execution and self._has_check(key):
            yield last_sync.passed(key, target.cache_id, mode, result.execution)

    def _checked(
        self, client: PeakaClient, declared: Mapping[dg.AssetKey, DeclaredCache]
    ) -> Iterator[StepResult]:
        """The check of assets that this step does not sync."""
        targets = {key: each.target for key, each in self._found(client, declared).items()}
        listed: Mapping[str, CacheStatus] = {}
        if len(targets) > FEW:
            with suppress(*NOT_LISTED):
                listed = {status.id: status for status in client.list_cache_statuses()}
        single = {key: target.cache_id for key, target in targets.items() if target.cache_id not in listed}
        answers = dict(
            client.collect((key, calls.get_cache_status(cache_id)) for key, cache_id in single.items())
        )
        for key, target in targets.items():
            answer = answers.get(key)
            if isinstance(answer, PeakaError):
                self._fail_all([key], answer)
            else:
                yield last_sync.shown(key, answer.value if answer else listed[target.cache_id])

    def _other_checks(self) -> list[dg.AssetCheckSpec]:
        """The checks to be evaluated besides that of the last sync: those of synced assets, and those asked for.

        Those of synced assets also where the run leaves them out, as :meth:`_has_check` says.
        """
        synced, asked = self.context.selected_asset_keys, self.context.selected_asset_check_keys
        return [
            check
            for check in self.context.assets_def.check_specs
            if check.name in CHECKS and (check.asset_key in synced or check.key in asked)
        ]

    def _evaluated(
        self, client: PeakaClient, checks: Sequence[dg.AssetCheckSpec]
    ) -> Iterator[dg.AssetCheckResult]:
        """How these checks came out, after the syncs and whatever became of them."""
        about = {check.asset_key for check in checks}
        caches: dict[dg.AssetKey, DeclaredCache] = {}
        for spec in (spec for spec in self.context.assets_def.specs if spec.key in about):
            try:
                caches[spec.key] = declared_cache(spec)
            except PeakaConfigError as error:
                if spec.key not in self.failures:
                    self._fail(spec.key, error)
        for result, error in evaluations(client, self.context.instance, caches, checks):
            # Where a sync has failed because Peaka cannot be read, the step's failure says it once.
            if error is None or result.asset_key not in self.failures:
                yield result

    # What is to be done

    def _declared(self, keys: Container[dg.AssetKey]) -> dict[dg.AssetKey, DeclaredCache]:
        """The caches behind some assets of the step, by their specs' metadata and what is chosen for this run."""
        declared: dict[dg.AssetKey, DeclaredCache] = {}
        for spec in self.context.assets_def.specs:
            if spec.key in keys:
                try:
                    cache = declared_cache(spec)
                except PeakaConfigError as error:
                    self._fail(spec.key, error)
                else:
                    wait = cache.wait if self.wait is None else self.wait
                    declared[spec.key] = replace(cache, mode=self.mode or cache.mode, wait=wait)
        return declared

    def _recorded(self, declared: Iterable[dg.AssetKey]) -> list[dg.AssetKey]:
        """What an earlier attempt of this step has recorded already: a retry syncs and emits nothing again."""
        recorded = materializations_of(self.context.instance, self.context.run.run_id)
        done = [key for key in declared if key in recorded]
        if done:
            named = ", ".join(key.to_user_string() for key in done)
            self.context.log.info("Materialized already by an earlier attempt of this run: %s.", named)
        return done

    def _with_end(self, declared: Mapping[dg.AssetKey, DeclaredCache]) -> dict[dg.AssetKey, DeclaredCache]:
        """Those of which somebody will learn how the sync ends: this step, or a polling sensor."""
        left = [key for key, cache in declared.items() if not cache.wait]
        for keys, error in self.deferred.refusals(left, self._has_check):
            self._fail_all(keys, error)
        return {key: cache for key, cache in declared.items() if key not in self.failures}

    def _wanted(
        self, client: PeakaClient, declared: Mapping[dg.AssetKey, DeclaredCache]
    ) -> dict[dg.AssetKey, _Wanted]:
        """The caches to be synced; what cannot be done is noted as failed."""
        wanted = self._distinct(self._found(client, declared))
        caches = {key: (each.target, each.declared.mode) for key, each in wanted.items()}
        deps = {key: each.declared.deps for key, each in wanted.items()}
        earlier = earlier_attempts(self.context, caches, deps, self.rules.poll_timeout)
        schedules = Schedules(client, self.context.log)
        anew = {key: each for key, each in wanted.items() if key not in earlier}
        self._refuse_unsupported(client, anew, schedules)
        self._see_to_schedules(
            {key: each for key, each in anew.items() if key not in self.failures}, schedules
        )
        left: dict[dg.AssetKey, _Wanted] = {}
        for key, each in wanted.items():
            attempt = earlier.get(key)
            if attempt and attempt.ours and attempt.deferred and not each.declared.wait:
                self.deferred.already(each.target)
            elif key not in self.failures:
                left[key] = replace(each, earlier=attempt)
        return left

    def _job(self, wanted: _Wanted) -> SyncJob:
        declared, earlier = wanted.declared, wanted.earlier
        return SyncJob(
            wanted.target,
            declared.mode,
            replace(self.rules, follow=declared.wait),
            earlier=earlier.record if earlier else None,
            earlier_age=earlier.age if earlier else 0.0,
            adopts_completed=earlier is None or earlier.adopts_completed,
        )

    def _found(
        self, client: PeakaClient, declared: Mapping[dg.AssetKey, DeclaredCache]
    ) -> dict[dg.AssetKey, _Wanted]:
        """The caches that exist, as far as is known before they are asked."""
        unknown = {key: cache for key, cache in declared.items() if cache.target is None}
        references = [cache.reference for cache in unknown.values()]
        looked_up: Mapping[CacheReference, SyncTarget | PeakaError] = {}
        try:
            looked_up = patient_find_caches(client, references, self.rules, self.context.log)
        except PeakaError as error:
            self._fail_all(unknown, error)
        found: dict[dg.AssetKey, _Wanted] = {}
        for key, cache in declared.items():
            target = cache.target or looked_up.get(cache.reference)
            if isinstance(target, PeakaError):
                self._fail(key, target)
            elif target is not None:
                named = target if target.name else replace(target, shown_as=key.to_user_string())
                found[key] = _Wanted(cache, named)
        return found

    def _distinct(self, found: Mapping[dg.AssetKey, _Wanted]) -> dict[dg.AssetKey, _Wanted]:
        """Those whose cache is meant by one asset of the step only."""
        meant: dict[str, list[dg.AssetKey]] = {}
        for key, each in found.items():
            meant.setdefault(each.target.cache_id, []).append(key)
        for cache_id, keys in meant.items():
            if len(keys) > 1:
                names = " and ".join(key.to_user_string() for key in keys)
                error = PeakaConfigError(
                    f"Assets {names} of one step mean the same Peaka cache {cache_id}: it was not triggered. Leave "
                    "all but one of them out."
                )
                self._fail_all(keys, error)
        return {key: each for key, each in found.items() if key not in self.failures}

    def _refuse_unsupported(
        self, client: PeakaClient, wanted: Mapping[dg.AssetKey, _Wanted], schedules: Schedules
    ) -> None:
        """Note those as failed whose table does not support the mode."""
        had = self._modes_had(key for key, each in wanted.items() if each.declared.supported_modes is None)
        wishes = [
            Wish(each.target, each.declared.mode, each.declared.supported_modes or had.get(key))
            for key, each in wanted.items()
        ]
        errors = unsupported(client, wishes, self.context.log, schedules.learned)
        for key, each in wanted.items():
            if each.target.cache_id in errors:
                self._fail(key, errors[each.target.cache_id])

    def _modes_had(self, keys: Iterable[dg.AssetKey]) -> dict[dg.AssetKey, frozenset[SyncMode]]:
        """The mode of each asset's newest materialization: its table supports that."""
        had: dict[dg.AssetKey, frozenset[SyncMode]] = {}
        doubtful = list(keys)
        for record in self.context.instance.get_asset_records(doubtful) if doubtful else ():
            entry = record.asset_entry.last_materialization
            materialization = entry.asset_materialization if entry else None
            mode = materialization.metadata.get("peaka/mode") if materialization else None
            if mode is not None and (recognized := SyncMode.recognize(str(mode.value))) is not None:
                had[record.asset_entry.asset_key] = frozenset({recognized})
        return had

    def _see_to_schedules(self, wanted: Mapping[dg.AssetKey, _Wanted], schedules: Schedules) -> None:
        """Switch off Peaka's own schedules, or say that there are some, as each asset declares."""
        errors = schedules.see_to((each.target, each.declared.on_schedule) for each in wanted.values())
        self._schedules_off = schedules.disabled
        for key, each in wanted.items():
            if each.target.cache_id in errors:
                self._fail(key, errors[each.target.cache_id])

    # What went wrong

    def _fail(self, key: dg.AssetKey, error: PeakaError) -> None:
        if len(self.context.selected_asset_keys) > 1:
            self.context.log.error("%s", error)
        self._fail_all([key], error)

    def _fail_all(self, keys: Iterable[dg.AssetKey], error: PeakaError) -> None:
        """Note one reason for all of these; the step's failure tells it."""
        for key in keys:
            self.failures[key] = error
            # The check tells of executions: where none was seen, the step's failure says all that is known.
            if isinstance(error, PeakaSyncError) and error.execution_id and self._has_check(key):
                self._failed_checks.append(last_sync.failed(key, error))

    def _has_check(self, key: dg.AssetKey) -> bool:
        """True when the asset declares the check, also where the run leaves it out.

        Dagster's re-execution from asset failure does so, because a check that did not pass has been evaluated: it
        would say for ever that the sync failed.
        """
        try:
            return bool(self.context.assets_def.get_spec_for_check_key(last_sync.check_key(key)))
        except KeyError:
            return False

    def _checks_of_failures(self) -> Iterator[StepResult]:
        while self._failed_checks:
            yield self._failed_checks.pop(0)


def recorded_again(context: dg.AssetExecutionContext, key: dg.AssetKey) -> dg.MaterializeResult[object]:
    """What an earlier attempt has recorded, once more and as it was.

    Dagster materializes an asset by itself whose output is required and not yielded, and then without metadata.
    """
    event = context.instance.get_latest_materialization_event(key)
    recorded = event.asset_materialization if event is not None else None
    version = (recorded.tags or {}).get(DATA_VERSION_TAG) if recorded is not None else None
    return dg.MaterializeResult(
        asset_key=key,
        metadata=recorded.metadata if recorded is not None else None,
        data_version=None if version is None else dg.DataVersion(version),
    )


def _without_result(target: SyncTarget) -> PeakaSyncError:
    return PeakaSyncError(
        f"Peaka cache {target}: its sync ended without a result, so nothing is known of it. Look at the cache in "
        "Peaka, and report this as a defect of dagster-peaka.",
        cache=str(target),
    )


def is_terminated(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether somebody has terminated a run: Dagster's own record of it decides what an interrupt means.

    An evicted pod, a dying worker and Ctrl-C interrupt a step in the same way, while the run is still STARTED.
    """
    # The run that a context holds is as it was when the step began.
    run = instance.get_run_by_id(run_id)
    return run is not None and run.status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


def within_run(get: Callable[[], T]) -> T:
    """What only a run has.

    Raises:
        PeakaConfigError: outside of one, as when a test calls an asset like a function.
    """
    with suppress(dg.DagsterError):
        return get()
    raise PeakaConfigError(
        "A sync belongs to a run, and there is none: instead of calling the asset like a function, write "
        "dg.materialize([asset], resources={'peaka': peaka}); without an asset, peaka.sync('catalog.schema.table')."
    )


def end_if_terminated(instance: dg.DagsterInstance, run_id: str) -> None:
    """End a step whose run was terminated as Dagster ends it, so that the run ends as CANCELED.

    Raises:
        dagster.DagsterExecutionInterruptedError: when somebody has terminated the run.
    """
    if is_terminated(instance, run_id):
        raise dg.DagsterExecutionInterruptedError("This run was terminated.")


def patient_find_caches(
    client: PeakaClient,
    references: Sequence[CacheReference],
    rules: SyncRules,
    log: logging.Logger,
) -> dict[CacheReference, SyncTarget | PeakaError]:
    """As :func:`find_caches`, but an outage is tolerated for ``outage_tolerance`` as everywhere in a sync.

    Raises:
        PeakaError: naming the caches, when Peaka could not be asked.
    """
    began = time.monotonic()
    while True:
        try:
            return find_caches(client, references)
        except PeakaError as error:
            problem = error
        elapsed = time.monotonic() - began
        if problem.permanent or elapsed >= rules.outage_tolerance:
            break
        log.warning(
            "%s That has lasted %.0f s of %g s (outage_tolerance). Trying again.",
            problem,
            elapsed,
            rules.outage_tolerance,
        )
        time.sleep(min(rules.wait(elapsed), rules.outage_tolerance - elapsed))
    named = few([str(reference) for reference in references], NAMED_AT_MOST)
    raise PeakaSyncError(
        f"Peaka cache {named}: nothing was triggered. {problem}",
        cache=named,
        permanent=problem.permanent,
    )
