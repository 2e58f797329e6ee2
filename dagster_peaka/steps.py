"""What a Dagster step does: from its selected assets to syncs, and from their results to materializations."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from dagster_peaka.attempts import earlier_attempts, materializations_of, write_down
from dagster_peaka.client import PeakaClient
from dagster_peaka.errors import PeakaConfigError, PeakaError, PeakaSyncError
from dagster_peaka.failures import step_failure, sync_error
from dagster_peaka.lookup import CacheReference, find_caches
from dagster_peaka.metadata import materialization, table_metadata
from dagster_peaka.models import SyncMode
from dagster_peaka.names import TableName
from dagster_peaka.runner import Runner, SyncJob, SyncTarget
from dagster_peaka.sync import Baseline, SyncRules

CACHE_ID_METADATA = "peaka/cache_id"
"""The key under which an asset's spec names its cache by id."""

TABLE_METADATA = "peaka/table"
"""The key under which an asset's spec names its cache by ``catalog.schema.table``."""

MODE_METADATA = "peaka/mode"
"""The key under which an asset's spec names the mode of its syncs."""


NAMED_AT_MOST = 20
"""Caches that one message names at most."""


@dataclass(frozen=True)
class DeclaredCache:
    """The cache that an asset's spec names, the mode of its syncs, and the assets that it depends on."""

    reference: CacheReference
    mode: SyncMode
    deps: Sequence[dg.AssetKey]


def sync_step(
    context: dg.AssetExecutionContext,
    get_client: Callable[[], PeakaClient],
    rules: SyncRules,
    mode: SyncMode | None,
    *,
    cancel: bool,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Sync the caches of the step's selected assets; yield each materialization as soon as it is known.

    Args:
        mode: for every cache of this step, instead of what its asset declares.
        cancel: whether terminating the run cancels the executions that this step triggered.

    Raises:
        dagster.Failure: at the end, naming every cache that failed and why.
    """
    if _being_cancelled(context):
        # Dagster's retry policies also retry a step that an interrupt ended; a terminated run triggers nothing more.
        raise dg.Failure("This run is being terminated: nothing was triggered.", allow_retries=False)
    failures: dict[str, PeakaError] = {}
    try:
        client = get_client()
    except PeakaError as error:
        failures["Peaka"] = error
    else:
        with client:
            yield from _Step(context, client, rules, mode, cancel, failures).results()
    if failures:
        # Raised outside of any handler, so that the failure carries no other exception along.
        raise step_failure(failures)


@dataclass
class _Step:
    context: dg.AssetExecutionContext
    client: PeakaClient
    rules: SyncRules
    mode: SyncMode | None
    cancel: bool
    failures: dict[str, PeakaError]

    def results(self) -> Iterator[dg.MaterializeResult[Any]]:
        jobs = self._jobs()
        keys = {job.target.cache_id: key for key, job in jobs.items()}

        def before_triggers(triggered: Sequence[tuple[SyncJob, Baseline]]) -> None:
            write_down(self.context, keys[triggered[0][0].target.cache_id], triggered)

        runner = Runner(self.client, jobs.values(), log=self.context.log, before_triggers=before_triggers)
        try:
            for job, result in runner.run():
                key = keys[job.target.cache_id]
                if result.ok:
                    table = table_metadata(self.context.assets_def.metadata_by_key[key])
                    yield materialization(
                        key, job.target, job.mode, result, instance=self.context.instance, extra=table
                    )
                    continue
                error = sync_error(result, cache=str(job.target), mode=job.mode, rules=self.rules)
                self._failed(key, error, among=len(jobs))
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            runner.stop(cancel=self.cancel)
            raise
        except GeneratorExit:
            # Dagster closes the generator on an error of its own, too; that cancels nothing.
            if _being_cancelled(self.context):
                runner.stop(cancel=self.cancel)
            raise

    def _without_recorded(
        self, declared: Mapping[dg.AssetKey, DeclaredCache]
    ) -> dict[dg.AssetKey, DeclaredCache]:
        """What an earlier attempt of this step has not recorded yet: a retry syncs and emits nothing again."""
        recorded = materializations_of(self.context.instance, self.context.run.run_id)
        done = [key.to_user_string() for key in declared if key in recorded]
        if done:
            self.context.log.info(
                "Materialized already by an earlier attempt of this run: %s.", ", ".join(done)
            )
        return {key: cache for key, cache in declared.items() if key not in recorded}

    def _are_distinct(self, found: Mapping[dg.AssetKey, tuple[SyncTarget, SyncMode]]) -> bool:
        """True when each cache is meant by one asset of the step; otherwise nothing is triggered."""
        keys: dict[str, dg.AssetKey] = {}
        for key, (target, _) in found.items():
            other = keys.setdefault(target.cache_id, key)
            if other != key:
                self.failures["Peaka"] = PeakaConfigError(
                    f"Assets {other.to_user_string()} and {key.to_user_string()} of one step mean the same Peaka "
                    f"cache {target.cache_id}: nothing was triggered. Leave one of them out."
                )
        return "Peaka" not in self.failures

    def _failed(self, key: dg.AssetKey, error: PeakaError, *, among: int) -> None:
        self.failures[key.to_user_string()] = error
        if among > 1:
            self.context.log.error("%s", error)

    def _jobs(self) -> dict[dg.AssetKey, SyncJob]:
        """The syncs to be done; what cannot be found is noted as failed."""
        try:
            declared = self._without_recorded(declared_caches(self.context))
            references = [cache.reference for cache in declared.values()]
            targets = patient_find_caches(self.client, references, self.rules, self.context.log)
        except PeakaError as error:
            self.failures["Peaka"] = error
            return {}
        found: dict[dg.AssetKey, tuple[SyncTarget, SyncMode]] = {}
        for key, cache in declared.items():
            target = targets[cache.reference]
            if isinstance(target, PeakaError):
                self._failed(key, target, among=len(declared))
                continue
            named = target if target.name else replace(target, shown_as=key.to_user_string())
            found[key] = (named, self.mode or cache.mode)
        if not self._are_distinct(found):
            return {}
        deps = {key: declared[key].deps for key in found}
        earlier = earlier_attempts(self.context, found, deps, self.rules.poll_timeout)
        jobs: dict[dg.AssetKey, SyncJob] = {}
        for key, (target, mode) in found.items():
            attempt = earlier.get(key)
            jobs[key] = SyncJob(
                target,
                mode,
                self.rules,
                earlier=attempt.baseline if attempt else None,
                earlier_age=attempt.age if attempt else 0.0,
            )
        return jobs


def _being_cancelled(context: dg.AssetExecutionContext) -> bool:
    # The run that the context holds is as it was when the step began.
    run = context.instance.get_run_by_id(context.run.run_id)
    return run is not None and run.status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


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
        log.warning("%s Trying again.", problem)
        time.sleep(min(rules.wait(elapsed), rules.outage_tolerance - elapsed))
    named = ", ".join(str(reference) for reference in references[:NAMED_AT_MOST])
    more = f" and {len(references) - NAMED_AT_MOST} more" if len(references) > NAMED_AT_MOST else ""
    raise PeakaSyncError(
        f"Peaka cache {named}{more} could not be looked up; nothing was triggered. {problem}",
        cache=named,
        permanent=problem.permanent,
    )


def declared_caches(context: dg.AssetExecutionContext) -> dict[dg.AssetKey, DeclaredCache]:
    """The caches behind the step's selected assets, by their specs' metadata.

    Raises:
        PeakaConfigError: for a selected asset whose spec names no cache.
    """
    selected = context.selected_asset_keys
    return {spec.key: _declared(spec) for spec in context.assets_def.specs if spec.key in selected}


def _declared(spec: dg.AssetSpec) -> DeclaredCache:
    def text(name: str) -> str | None:
        value = spec.metadata.get(name)
        return value.text if isinstance(value, dg.TextMetadataValue) else value

    mode = SyncMode.parse(text(MODE_METADATA) or "incremental")
    deps = [dep.asset_key for dep in spec.deps]
    cache_id, table = text(CACHE_ID_METADATA), text(TABLE_METADATA)
    if cache_id:
        return DeclaredCache(cache_id, mode, deps)
    if table:
        return DeclaredCache(TableName.parse(table), mode, deps)
    raise PeakaConfigError(
        f"Asset {spec.key.to_user_string()} names no Peaka cache: its spec's metadata needs {CACHE_ID_METADATA!r} or "
        f"{TABLE_METADATA!r}."
    )
