"""Checks of cache assets as a step of their own: for caches that no step of this run syncs."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta

import dagster as dg

from dagster_peaka.caches.declared import declared_cache, given_assets
from dagster_peaka.caches.names import TableName, op_name, op_names
from dagster_peaka.resource import PeakaResource
from dagster_peaka.steps.checks import cache_checks, evaluations


def build_peaka_cache_checks(
    assets: dg.AssetsDefinition | Iterable[dg.AssetsDefinition],
    *,
    max_rows_dropped: float | None = None,
    columns_unchanged: bool = False,
    max_age: timedelta | None = None,
    blocking: bool = False,
    severity: dg.AssetCheckSeverity | None = None,
    name: str | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, object] | None = None,
    resource_key: str = "peaka",
) -> list[dg.AssetChecksDefinition]:
    """Checks of cache assets without a sync, as one step for all of them. At least one check has to be chosen.

    For checks on a schedule of their own, or of caches that Peaka syncs by itself. Checks that go with a sync are
    declared by ``checks=`` of the factories: the sync's own step evaluates them, and a failed cache harms no other's.

    - ``max_rows_dropped`` makes the check ``rows_not_dropped``: the newest materialization against the one before it.
      It compares counted totals only, so the assets need ``row_count="query"``; without them the check fails and
      says so. It asks Peaka nothing.
    - ``columns_unchanged`` makes the check ``columns_unchanged``: names and types of the table's columns now, one
      request a cache, against ``dagster/column_schema`` of the asset's definition, which comes from the snapshot.
    - ``max_age`` makes the check ``not_stale``: the end of the newest COMPLETED execution of either mode against
      Peaka's own clock. It sees the syncs of Peaka's schedules, too. To be told when Dagster has not materialized an
      asset for too long, give the asset a ``freshness_policy``: that needs neither a request nor a run.

    A check that cannot be evaluated fails and says why; those of other caches are evaluated all the same.

    In a run that also materializes the assets, Dagster starts the step when all of them are done, and leaves it out
    when one of them failed: then the checks of all of them show as failed to execute.

    Args:
        assets: what the factories made: one definition or several.
        max_rows_dropped: percent of the rows that may be gone, from 0 to below 100.
        columns_unchanged: whether to compare the columns; every asset must come from a snapshot that has them.
        max_age: how long ago the newest completed sync may have ended.
        blocking: whether a failed check keeps everything downstream of the asset from running in the same run.
        severity: of a failed check; WARN by default, and ERROR for blocking checks, because nothing else blocks.
        name: the name of the step. By default it names the asset, or the group or catalog that the assets have in
            common, and the checks.
        retry_policy: how often the step tries again while Peaka cannot be read. By default it does not, beyond the
            resource's ``request_max_retries``.
        pool, op_tags: as in ``@dg.multi_asset_check``.
        resource_key: the key of the :class:`PeakaResource` in the definitions.

    Raises:
        PeakaConfigError: when no check is chosen, when an argument makes no sense, when an asset is no Peaka cache, or
            when the columns of one are not known.

    Example:
        .. code-block:: python

            from datetime import timedelta

            checks = build_peaka_cache_checks(
                [orders], max_rows_dropped=10, max_age=timedelta(hours=6)
            )
            defs = dg.Definitions(assets=[orders], asset_checks=checks)
    """
    definitions = given_assets(assets, "build_peaka_cache_checks")
    assets_specs = {spec.key: spec for definition in definitions for spec in definition.specs}
    caches = {key: declared_cache(spec) for key, spec in assets_specs.items()}
    specs = cache_checks(
        assets_specs.values(),
        max_rows_dropped=max_rows_dropped,
        columns_unchanged=columns_unchanged,
        max_age=max_age,
        blocking=blocking,
        severity=severity,
    )
    if not caches:
        return []

    def peaka_cache_checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        peaka: PeakaResource = getattr(context.resources, resource_key)
        selected = [spec for spec in specs.values() if spec.key in context.selected_asset_check_keys]
        with peaka.get_client() as client:
            found = list(evaluations(client, context.instance, caches, selected))
        unread = [error for _, error in found if error is not None and not error.permanent]
        if unread and retry_policy and context.op_execution_context.retry_number < retry_policy.max_retries:
            raise dg.Failure(f"{len(unread)} checks could not be evaluated, trying again. {unread[0]}")
        yield from (result for result, _ in found)

    # Not by `@dg.multi_asset_check`, which makes up names of inputs and outputs from keys, whatever is in them.
    inputs = {f"checked__{op_name(key)}": key for key in caches}
    op = dg.op(
        name=name or _step_name(assets_specs, list(specs.values())),
        ins={input_name: dg.In(dg.Nothing) for input_name in inputs},
        out={output: dg.Out(dg.Nothing, is_required=False) for output in specs},
        required_resource_keys={resource_key},
        retry_policy=retry_policy,
        pool=pool,
        tags=op_tags,
    )(peaka_cache_checks)
    definition = dg.AssetChecksDefinition.create(
        keys_by_input_name=inputs, node_def=op, check_specs_by_output_name=specs, can_subset=True
    )
    return [definition]


def _step_name(caches: Mapping[dg.AssetKey, dg.AssetSpec], checks: Sequence[dg.AssetCheckSpec]) -> str:
    """The same name for the same checks of the same assets: by the one asset, or by their group or catalog.

    Of several assets a hash is part of it, because others of that group may be given the same checks elsewhere.
    """
    named = {_group(spec) for spec in caches.values()}
    what = sorted({spec.name for spec in checks})
    if len(caches) == 1:
        (key,) = caches
        parts = [*key.path, *what]
    else:
        common = [str(*named)] if len(named) == 1 and None not in named else []
        said = sorted(f"{spec.asset_key.to_user_string()}:{spec.name}" for spec in checks)
        digest = hashlib.sha256("\0".join(said).encode("utf-8", "surrogatepass")).hexdigest()
        parts = [*common, *what, digest[:8]]
    wanted = ("peaka_cache_checks", *parts)
    return op_names([wanted])[wanted]


def _group(spec: dg.AssetSpec) -> str | None:
    """The group that an asset was given, or the catalog of its table."""
    if spec.group_name not in (None, "default"):
        return spec.group_name
    reference = declared_cache(spec).reference
    return reference.catalog if isinstance(reference, TableName) else None
