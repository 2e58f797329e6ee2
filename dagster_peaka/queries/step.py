"""What the step of a materialized query does: look at its sources, refresh it, follow that, and say what came of it.

Following is the caches' engine's own work (:mod:`dagster_peaka.sync`), by what a query's status proves
(:mod:`dagster_peaka.queries.refreshes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dagster_peaka.api.client import PeakaClient
from dagster_peaka.caches.declared import (
    QUERY_ID_METADATA,
    QUERY_METADATA,
    SOURCES_METADATA,
    DeclaredCache,
    OnSchedule,
    RowCount,
)
from dagster_peaka.caches.names import SyncTarget, TableName, near_matches
from dagster_peaka.errors import PeakaConfigError, PeakaError, PeakaNotFoundError, PeakaSyncError
from dagster_peaka.queries.client import QueryClient
from dagster_peaka.queries.refreshes import MODE, Refreshes
from dagster_peaka.queries.sources import check_result, look_at
from dagster_peaka.records.attempts import Attempt, earlier_attempts, materializations_of, write_down
from dagster_peaka.records.failures import step_failure, sync_error
from dagster_peaka.records.materializations import row_count
from dagster_peaka.records.refreshes import refresh_metadata, refresh_version
from dagster_peaka.resource import PeakaResource
from dagster_peaka.steps.fingerprints import Measurement
from dagster_peaka.steps.retries import free_inherited_retries, is_last_try, settle_run_retries
from dagster_peaka.steps.row_counts import Measurer
from dagster_peaka.steps.step import end_if_terminated, is_terminated, within_run
from dagster_peaka.sync.jobs import Note, SyncJob
from dagster_peaka.sync.outcome import Result
from dagster_peaka.sync.rules import SyncRules
from dagster_peaka.sync.runner import Runner


@dataclass(frozen=True)
class RefreshSettings:
    """How a query is refreshed.

    Attributes:
        checks_sources: whether the step evaluates the check ``sources_cached``.
        blocking: whether nothing is refreshed where that check fails.
        cancel: whether terminating the run cancels a refresh that is surely its own.
    """

    row_count: RowCount
    fingerprint: str | None
    checks_sources: bool
    blocking: bool
    cancel: bool


def refresh_step(
    context: dg.AssetExecutionContext, peaka: PeakaResource, settings: RefreshSettings
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Refresh the query of the step's asset, and yield what came of it.

    Raises:
        dagster.Failure: when the refresh did not end well, or was not begun.
    """
    run = within_run(lambda: context.run)
    end_if_terminated(context.instance, run.run_id)
    free_inherited_retries(context)
    step = _Step(context, peaka, settings)
    try:
        yield from step.results()
        return
    except PeakaError as error:
        problem = error
    settle_run_retries(context, permanent=problem.permanent)
    # Raised outside of any handler, so that the failure carries no other exception along.
    raise step_failure({step.spec.key: problem}, last_try=is_last_try(context))


class _Step:
    def __init__(
        self, context: dg.AssetExecutionContext, peaka: PeakaResource, settings: RefreshSettings
    ) -> None:
        self._context = context
        self._peaka = peaka
        self._settings = settings
        (self.spec,) = context.assets_def.specs

    def results(self) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        """The check of the sources, and the materialization.

        Raises:
            PeakaError: when there is none.
        """
        key, run_id = self.spec.key, self._context.run.run_id
        wanted = key in self._context.selected_asset_keys
        if wanted and key in materializations_of(self._context.instance, run_id):
            self._context.log.info("Materialized already by an earlier attempt of this run.")
            return
        with self._peaka.get_client() as client:
            if self._settings.checks_sources:
                result = self._check(client)
                yield result
                if wanted and self._settings.blocking and not result.passed:
                    raise PeakaSyncError(
                        f"Peaka query {self._name}: it was not refreshed, because its sources are not read whole. "
                        f"{result.description}",
                        cache=self._name,
                    )
            if wanted:
                yield self._refreshed(client)

    @property
    def _name(self) -> str:
        return str(self.spec.metadata[QUERY_METADATA])

    def _check(self, client: PeakaClient) -> dg.AssetCheckResult:
        tables: Sequence[str] = self.spec.metadata.get(SOURCES_METADATA, ())
        severity = dg.AssetCheckSeverity.ERROR if self._settings.blocking else dg.AssetCheckSeverity.WARN
        try:
            found = look_at(client, [TableName.parse(table) for table in tables])
        except PeakaError as error:
            return check_result(self.spec.key, error, severity)
        return check_result(self.spec.key, found, severity)

    def _refreshed(self, client: PeakaClient) -> dg.MaterializeResult[Any]:
        key, rules = self.spec.key, self._peaka.sync_rules()
        target = self._target(client)
        deps = [dep.asset_key for dep in self.spec.deps]
        earlier = earlier_attempts(self._context, {key: (target, MODE)}, {key: deps}, rules.poll_timeout).get(
            key
        )
        job = _job(target, rules, earlier)
        seen = {key: earlier.seen} if earlier else {}

        def record(notes: Sequence[Note]) -> None:
            write_down(self._context, [(key, note) for note in notes], {key: deps}, seen)

        refreshes = Refreshes(
            target.cache_id, rules.start_timeout, job.earlier.baseline if job.earlier else None
        )
        runner = Runner(
            QueryClient(client, {target.cache_id: refreshes}),
            [job],
            log=self._context.log,
            write_down=record,
            check_run=lambda: end_if_terminated(self._context.instance, self._context.run.run_id),
        )
        try:
            ((_, result),) = runner.run()
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            terminated = is_terminated(self._context.instance, self._context.run.run_id)
            runner.stop(cancel=self._settings.cancel, terminated=terminated)
            raise
        if not result.ok:
            raise sync_error(result, cache=str(target), mode=MODE, rules=rules, noun="query")
        return self._materialization(target, result, self._measured(client, target))

    def _target(self, client: PeakaClient) -> SyncTarget:
        """The query as the engine follows it.

        Raises:
            PeakaError: when the project has no materialized query of that id or name.
        """
        query_id = self.spec.metadata.get(QUERY_ID_METADATA)
        if query_id is not None:
            return SyncTarget(str(query_id), str(TableName("peaka", "mtquery", self._name)))
        queries = client.queries.list()
        found = [query for query in queries if self._name in (query.id, query.name)]
        if not found:
            raise PeakaNotFoundError(
                f"The project has no query {self._name!r}.{near_matches(self._name, [q.name for q in queries])} "
                "Create it in Peaka, or correct the name.",
                status_code=404,
            )
        if not found[0].is_materialized:
            raise PeakaConfigError(
                f"Query {self._name!r} is not materialized, so there is nothing to refresh: materialize it in Peaka."
            )
        return SyncTarget(found[0].id, str(TableName("peaka", "mtquery", found[0].name)))

    def _measured(self, client: PeakaClient, target: SyncTarget) -> Measurement:
        declared = DeclaredCache(
            reference=target.cache_id,
            target=target,
            mode=MODE,
            supported_modes=None,
            row_count=self._settings.row_count,
            fingerprint=self._settings.fingerprint,
            columns=None,
            wait=True,
            on_schedule=OnSchedule.IGNORE,
            deps=(),
        )
        return Measurer(client, self._context.log).measure(target, declared)

    def _materialization(
        self, target: SyncTarget, result: Result, measured: Measurement
    ) -> dg.MaterializeResult[Any]:
        refresh = result.execution
        assert refresh is not None
        metadata = {
            **refresh_metadata(target.cache_id, refresh, self.spec.metadata, origin=result.origin.value),
            **row_count(measured.rows),
        }
        version = measured.fingerprint or refresh_version(target.cache_id, refresh.id)
        return dg.MaterializeResult(
            asset_key=self.spec.key, metadata=metadata, data_version=dg.DataVersion(version)
        )


def _job(target: SyncTarget, rules: SyncRules, earlier: Attempt | None) -> SyncJob:
    if earlier is None:
        return SyncJob(target, MODE, rules)
    return SyncJob(
        target,
        MODE,
        rules,
        earlier=earlier.record,
        earlier_age=earlier.age,
        adopts_completed=earlier.adopts_completed,
    )
