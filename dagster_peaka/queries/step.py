"""What the step of a materialized query does: look at its sources, refresh it, follow that, and say what came of it.

Following is the caches' engine's own work (:mod:`dagster_peaka.sync`), by what a query's status proves
(:mod:`dagster_peaka.queries.refreshes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg

from dagster_peaka.api import calls
from dagster_peaka.api.client import PeakaClient
from dagster_peaka.caches.declared import (
    LAST_SYNC_CHECK,
    QUERY_METADATA,
    SOURCES_CHECK,
    SOURCES_METADATA,
    DeclaredCache,
    declared_query,
    query_target,
)
from dagster_peaka.caches.names import SyncTarget, TableName, near_matches
from dagster_peaka.errors import PeakaConfigError, PeakaError, PeakaNotFoundError, PeakaSyncError
from dagster_peaka.queries.client import QueryClient
from dagster_peaka.queries.refreshes import MODE, Refreshes
from dagster_peaka.queries.sources import check_result, look_at
from dagster_peaka.records.attempts import Seen, earlier_attempts, materializations_of, write_down
from dagster_peaka.records.failures import step_failure, sync_error
from dagster_peaka.records.materializations import row_count, schedules_disabled
from dagster_peaka.records.refreshes import refresh_check, refresh_metadata, refresh_version
from dagster_peaka.resource import PeakaResource
from dagster_peaka.steps.deferred import Deferred
from dagster_peaka.steps.row_counts import Measurer
from dagster_peaka.steps.run_retries import free_inherited_retries, is_last_try, settle_run_retries
from dagster_peaka.steps.schedules import QUERIES, Schedules
from dagster_peaka.steps.step import StepResult, end_if_terminated, is_terminated, within_run
from dagster_peaka.sync.jobs import Note, SyncJob
from dagster_peaka.sync.outcome import Result
from dagster_peaka.sync.runner import Runner


def refresh_step(
    context: dg.AssetExecutionContext, peaka: PeakaResource, *, cancel: bool
) -> Iterator[StepResult]:
    """Refresh the query of the step's asset, and yield what came of it.

    Args:
        cancel: whether terminating the run cancels a refresh that is surely its own.

    Raises:
        dagster.Failure: when the refresh did not end well, or was not begun.
    """
    run = within_run(lambda: context.run)
    end_if_terminated(context.instance, run.run_id)
    free_inherited_retries(context)
    step = _Step(context, peaka, cancel)
    try:
        yield from step.results()
        return
    except PeakaError as error:
        problem = error
    settle_run_retries(context, permanent=problem.permanent)
    # Raised outside of any handler, so that the failure carries no other exception along.
    raise step_failure({step.spec.key: problem}, last_try=is_last_try(context))


class _Step:
    def __init__(self, context: dg.AssetExecutionContext, peaka: PeakaResource, cancel: bool) -> None:
        self._context = context
        self._cancel = cancel
        self._peaka = peaka
        (self.spec,) = context.assets_def.specs
        self._checks = {check.name: check for check in context.assets_def.check_specs}

    def results(self) -> Iterator[StepResult]:
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
            if SOURCES_CHECK in self._checks:
                result = self._check(client)
                yield result
                if wanted and self._checks[SOURCES_CHECK].blocking and not result.passed:
                    raise PeakaSyncError(
                        f"Peaka query {self._name}: it was not refreshed, because its sources are not read whole. "
                        f"{result.description}",
                        cache=self._name,
                    )
            if wanted:
                yield from self._refreshed(client)
            elif LAST_SYNC_CHECK in self._checks:
                yield self._last_refresh(client)

    @property
    def _name(self) -> str:
        return str(self.spec.metadata[QUERY_METADATA])

    def _check(self, client: PeakaClient) -> dg.AssetCheckResult:
        tables: Sequence[str] = self.spec.metadata.get(SOURCES_METADATA, ())
        blocking = self._checks[SOURCES_CHECK].blocking
        severity = dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN
        try:
            found = look_at(client, [TableName.parse(table) for table in tables])
        except PeakaError as error:
            return check_result(self.spec.key, error, severity)
        return check_result(self.spec.key, found, severity)

    def _last_refresh(self, client: PeakaClient) -> dg.AssetCheckResult:
        """The check by the query's status alone, where the run only asks for that."""
        target = self._target(
            client, declared_query(self.spec), Schedules(client, self._context.log, QUERIES)
        )
        ((_, answer),) = client.collect([(None, calls.get_query_status(target.cache_id))])
        if isinstance(answer, PeakaError):
            raise answer
        refresh = answer.value.ended(answer.server_time)
        if refresh is None:
            raise PeakaSyncError(
                f"Peaka query {target}: its status tells of no refresh that has ended, so nothing is to be said of it.",
                cache=str(target),
            )
        url = client.query_url(target.cache_id)
        return refresh_check(dg.AssetCheckResult, self.spec.key, str(target), refresh, url)

    def _refreshed(self, client: PeakaClient) -> Iterator[StepResult]:
        key, rules = self.spec.key, self._peaka.sync_rules()
        declared = declared_query(self.spec)
        deferred = Deferred(self._context)
        for _, error in deferred.refusals([] if declared.wait else [key], self._has_check):
            raise error
        schedules = Schedules(client, self._context.log, QUERIES)
        target = self._target(client, declared, schedules)
        earlier = earlier_attempts(
            self._context, {key: (target, MODE)}, {key: declared.deps}, rules.poll_timeout
        ).get(key)
        if earlier is None:
            for error in schedules.see_to([(target, declared.on_schedule)]).values():
                raise error
        if earlier and earlier.ours and earlier.deferred and not declared.wait:
            deferred.already(target)
            deferred.tell()
            return
        job = SyncJob(target, MODE, replace(rules, follow=declared.wait))
        if earlier is not None:
            job = replace(
                job,
                earlier=earlier.record,
                earlier_age=earlier.age,
                adopts_completed=earlier.adopts_completed,
            )
        result = self._followed(client, job, declared.deps, {key: earlier.seen} if earlier else {})
        url = client.query_url(target.cache_id)
        if result.deferred:
            written = earlier is not None and earlier.deferred and not result.triggers
            deferred.triggered(key, job, result, written=written)
            deferred.tell()
        elif result.ok:
            disabled = schedules.disabled.get(target.cache_id)
            yield self._materialization(client, replace(declared, target=target), result, disabled)
        else:
            raise sync_error(result, target=target, mode=MODE, rules=rules, url=url)

    def _followed(
        self, client: PeakaClient, job: SyncJob, deps: Sequence[dg.AssetKey], seen: dict[dg.AssetKey, Seen]
    ) -> Result:
        key, query_id = self.spec.key, job.target.cache_id

        def record(notes: Sequence[Note]) -> None:
            write_down(self._context, [(key, note) for note in notes], {key: deps}, seen)

        refreshes = Refreshes(
            query_id, job.rules.start_timeout, job.earlier.baseline if job.earlier else None
        )
        runner = Runner(
            QueryClient(client, {query_id: refreshes}),
            [job],
            log=self._context.log,
            write_down=record,
            check_run=lambda: end_if_terminated(self._context.instance, self._context.run.run_id),
        )
        try:
            ((_, result),) = runner.run()
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            instance, run_id = self._context.instance, self._context.run.run_id
            runner.stop(cancel=self._cancel, terminated=lambda: is_terminated(instance, run_id))
            raise
        return result

    def _has_check(self, _: dg.AssetKey) -> bool:
        return LAST_SYNC_CHECK in self._checks

    def _target(self, client: PeakaClient, declared: DeclaredCache, schedules: Schedules) -> SyncTarget:
        """The query as the engine follows it.

        Raises:
            PeakaError: when the project has no materialized query of that id or name.
        """
        if declared.target is not None:
            return declared.target
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
        schedules.learned(found[0])
        return query_target(found[0].id, found[0].name)

    def _materialization(
        self, client: PeakaClient, declared: DeclaredCache, result: Result, disabled: str | None
    ) -> dg.MaterializeResult[Any]:
        refresh, target = result.execution, declared.target
        assert refresh is not None
        assert target is not None
        measured = Measurer(client, self._context.log).measure(target, declared)
        url = client.query_url(target.cache_id)
        metadata = {
            **refresh_metadata(
                target.cache_id, refresh, self.spec.metadata, origin=result.origin.value, url=url
            ),
            **row_count(measured.rows),
            **schedules_disabled(disabled),
        }
        version = measured.fingerprint or refresh_version(target.cache_id, refresh.id)
        return dg.MaterializeResult(
            asset_key=self.spec.key, metadata=metadata, data_version=dg.DataVersion(version)
        )
