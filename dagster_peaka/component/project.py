"""PeakaProjectComponent: a whole Peaka project as assets, from a few lines of YAML."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

import dagster as dg
from dagster.components import DefsStateConfig, DefsStateConfigArgs
from dagster.components.resolved.base import resolve_fields
from dagster.components.resolved.errors import ResolutionException
from pydantic import BaseModel, Field, PrivateAttr, StringConstraints, ValidationError, model_validator

from dagster_peaka.assets import checks_of, steps_of
from dagster_peaka.caches.declared import declared_cache, link
from dagster_peaka.caches.names import op_name
from dagster_peaka.caches.project import ANEW, PeakaCache, PeakaProject, PeakaQuery
from dagster_peaka.caches.selection import select
from dagster_peaka.caches.snapshot import fetch_project
from dagster_peaka.component.attributes import (
    Condition,
    Entries,
    PeakaAssetAttributes,
    PeakaCacheOverride,
    SourceAssetKey,
    Translation,
    source_key,
    translated,
)
from dagster_peaka.component.fields import Open, model_of, switched
from dagster_peaka.component.reading import (
    Exact,
    PeakaYamlError,
    all_problems,
    as_written,
    blaming,
    problem_at,
    refuse,
    validated,
)
from dagster_peaka.component.scaffold import PeakaProjectComponentScaffolder
from dagster_peaka.component.settings import (
    Connection,
    PeakaCheckSettings,
    PeakaOpSettings,
    PeakaPollingSensorSettings,
    PeakaQuerySettings,
    PeakaUpstreamSensorSettings,
    Selection,
    SyncFields,
    with_variable,
)
from dagster_peaka.component.state import (
    REFRESH,
    Said,
    age,
    nothing_known,
    overrides_of,
    patience_at_load,
    plain,
    state_key,
    still_selected,
    unmatched,
    with_excluded,
    without_trace,
)
from dagster_peaka.errors import PeakaConfigError, PeakaError, sentence
from dagster_peaka.queries.assets import build_peaka_query_assets
from dagster_peaka.resource import PeakaResource, PeakaSyncConfig
from dagster_peaka.sensors.polling import build_peaka_polling_sensor
from dagster_peaka.sensors.upstream import build_peaka_upstream_sensor
from dagster_peaka.steps.checks import PeakaCacheChecks, step_checks
from dagster_peaka.steps.definition import StepSettings
from dagster_peaka.steps.specs import SyncSettings, identity_of, specs_of, warn_of_schedules
from dagster_peaka.steps.step import StepResult
from dagster_peaka.translator import DagsterPeakaTranslator

NO_OLDER_STATE = DefsStateConfigArgs.legacy_code_server_snapshots().management_type
"""How state is kept where Dagster fetches it with every load and keeps nothing of what was before."""

NO_OWN_STEP = "a cache has no step of its own with step_per {}: set op of the component."

NEEDS_POLLING = (
    "wait: false leaves it to a polling sensor to record what becomes of a sync, and there is none. Set "
    "polling_sensor, or wait for the syncs."
)

NOTHING_UPSTREAM = (
    "there is nothing to watch, because no cache's asset depends on another. Say by source_asset_key, or by deps in "
    "overrides, which assets fill the tables that the caches copy."
)

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")]

Phase: TypeAlias = Literal["", "load", "without_peaka", "older"]
"""Why definitions are built: in a load that may ask Peaka, after that has failed, or from an older release's state."""


@dg.scaffold_with(PeakaProjectComponentScaffolder)
class PeakaProjectComponent(SyncFields, dg.StateBackedComponent):
    """The caches of a Peaka project as assets. Materializing an asset syncs its cache and records the execution.

    Which caches there are, with their columns and schedules, is kept as state: ``dg utils refresh-defs-state`` asks
    Peaka and renews it, and definitions load without asking. Under ``dg`` and ``dagster dev`` it is renewed with every
    load; when that fails, what was known before is kept, with a warning.

    .. code-block:: yaml

        type: dagster_peaka.PeakaProjectComponent

        attributes:
          connection:
            project_id: "{{ env.PEAKA_PROJECT_ID }}"
          selection:
            include: shop.public.*

    The API key is read from the variable ``PEAKA_API_KEY`` wherever it is used.

    Override :meth:`get_asset_spec` or :meth:`execute` to change what an asset shows or what a step does.

    Raises:
        PeakaConfigError: naming file, line and field, when it is read from YAML or makes its definitions.

    Example:
        .. code-block:: python

            class Announced(PeakaProjectComponent):
                def execute(self, context, peaka):
                    context.log.info("The shop's caches are brought up to date.")
                    yield from super().execute(context, peaka)
    """

    connection: Connection
    """The connection to one project of Peaka. All times are seconds."""
    selection: Selection | None = Field(default=None, examples=["shop.public.*"])
    """Which caches of the project become assets; by default all."""
    caches: Entries | None = Field(
        default=None,
        examples=[["shop.public.orders", {"table": "shop.public.items", "mode": "full_refresh"}]],
    )
    """The caches, written out by table or id. Nothing is asked and no state kept then."""
    name: Name | None = Field(default=None, examples=["peaka"])
    """The key of the resource, and what the names of sensors and of steps for many caches begin with. By default the
    folder of this file."""
    step_per: Literal["cache", "catalog", "project"] = "cache"
    """Whether each cache has a step of its own, or those of a catalog or of the project share one."""
    op: PeakaOpSettings = PeakaOpSettings()
    """Settings of the steps."""
    last_sync_check: bool = False
    """Whether each asset gets the check last_sync_succeeded, evaluated by every sync."""
    group_name: str | None = None
    """The group of all assets; by default one for each catalog."""
    automation_condition: Condition | None = Field(
        default=None, examples=["{{ dg.AutomationCondition.eager() }}"]
    )
    """When Dagster materializes the assets by itself."""
    source_asset_key: SourceAssetKey | None = Field(default=None, examples=["landed/{{ props.table_name }}"])
    """The key of the asset that stands for the table which a cache (props) copies: the cache's asset then depends on
    it. Nothing where it comes to nothing."""
    translation: Translation | None = Field(
        default=None, examples=[{"key_prefix": "lake", "tags": {"source": "{{ props.catalog_type }}"}}]
    )
    """What each asset (spec) is called and shows, given its cache (props)."""
    overrides: list[PeakaCacheOverride] = Field(
        default=[], examples=[[{"match": "shop.public.*", "mode": "full_refresh"}]]
    )
    """What is different for some caches."""
    checks: PeakaCheckSettings | None = None
    """Which checks the steps of the syncs evaluate; by default none."""
    upstream_sensor: bool | PeakaUpstreamSensorSettings = False
    """A sensor that requests the caches whose upstream assets have new materializations: true, or its settings."""
    polling_sensor: bool | PeakaPollingSensorSettings = False
    """A sensor that records the syncs which Peaka's schedules and others started: true, or its settings."""
    queries: bool | PeakaQuerySettings = False
    """Materialized queries as assets, refreshed after the caches that they read: true, or their settings."""
    defs_state: DefsStateConfigArgs = DefsStateConfigArgs.local_filesystem()
    """Where the state is kept, and whether development renews it."""

    _context: dg.ResolutionContext = PrivateAttr(default_factory=dg.ResolutionContext.default)
    _phase: Phase = PrivateAttr(default="")
    _failure: Exception | None = PrivateAttr(default=None)

    # What is said, and whether it can be meant

    @classmethod
    def model(cls) -> type[Open]:
        """The schema of the YAML."""
        return model_of(cls, PeakaProjectComponent)

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "PeakaProjectComponent":
        """The component as Dagster found it in a project."""
        if attributes is None:
            problem = "is empty: it needs at least connection, with project_id in it."
            raise problem_at(context.resolution_context, problem, "attributes")
        return super().load(attributes, context)

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> "PeakaProjectComponent":
        """The component as the YAML ``model`` describes it."""
        context = Exact.of(context)
        written, values = as_written(context), model.model_extra or {}
        own = cls.model().own
        others = {name: values[name] for name in values if name in own.model().model_fields}
        said = {name: written.get(name, value) for name, value in values.items() if name not in others}
        said["connection"] = connection = with_variable(said.get("connection"))
        ours = {name: said[name] for name in said if name in PeakaProjectComponent.model_fields}
        checked = validated(own.model(), context, others)
        others = {name: getattr(checked, name) for name in checked.model_fields_set}
        try:
            resolved = resolve_fields(Open(**said, **others), own, context)
        except ResolutionException as error:
            # A subclass's own field: Dagster shows the lines around it, which may hold the key.
            key = cast("Any", connection).get("api_key") if isinstance(connection, Mapping) else None
            if isinstance(error, PeakaYamlError) or not isinstance(key, str):
                raise
            problem = PeakaYamlError(str(error).replace(key, "********"))
        else:
            component = validated(cls, context, {**said, **context.resolve_value(ours), **resolved})
            component._context = context  # noqa: SLF001 (its own)
            return component
        raise problem

    @model_validator(mode="after")
    def _can_be_meant(self) -> "PeakaProjectComponent":
        if self.caches is not None:
            refuse(
                self.selection,
                "chooses among fetched caches; with caches there are none. Drop one.",
                "selection",
            )
            refuse(
                self.queries,
                "are fetched with the caches; with caches that are written out there are none.",
                "queries",
            )
            refuse(
                self.checks and self.checks.columns_unchanged,
                "compares with the columns of a snapshot; of caches that are written out there is none.",
                *("checks", "columns_unchanged"),
            )
        unpolled, queries = not self.polling_sensor, switched(self.queries, PeakaQuerySettings)
        refuse(unpolled and self.wait is False, NEEDS_POLLING, "wait")
        refuse(unpolled and queries and queries.wait is False, NEEDS_POLLING, "queries", "wait")
        shared = "" if self.step_per == "cache" else NO_OWN_STEP.format(self.step_per)
        for field, several in (("overrides", self.overrides), ("caches", self.caches or ())):
            for number, each in enumerate(several):
                refuse(shared and each.op is not None, shared, field, number, "op")
                refuse(unpolled and each.wait is False, NEEDS_POLLING, field, number, "wait")
        return self

    # What Dagster asks of a component with state

    @property
    def defs_state_config(self) -> DefsStateConfig:
        """Where and how the state is kept, under a key of class, project and selection.

        A layout that older releases cannot read has a key of its own, so that they may share the store.
        """
        key = self.defs_state.key or state_key(
            type(self).__name__, self.connection.project_id, self.selection
        )
        return DefsStateConfig(
            key=f"{key}.v2" if self.queries and self._phase != "older" else key,
            management_type=self.defs_state.management_type,
            refresh_if_dev=self.defs_state.refresh_if_dev and self._phase in ("", "load"),
        )

    @property
    def _keeps_no_older_state(self) -> bool:
        return self.defs_state.management_type is NO_OLDER_STATE

    def write_state_to_path(self, state_path: Path) -> None:
        """Ask Peaka for the selected caches, and only then write what it said: wholly, or not at all.

        Raises:
            PeakaConfigError: naming the field, when the selection or an override fits no cache.
            PeakaError: when Peaka cannot be asked. Of either, ``dg`` shows the message and no stack trace.
            OSError: when the state cannot be written.
        """
        self._failure = None
        try:
            self._fetched().save(state_path)
        except (PeakaError, ValidationError, OSError) as error:
            if not isinstance(error, PeakaYamlError):
                self._failure = error
                if self._keeps_no_older_state:
                    # Dagster needs something to hand on to the processes of runs, where everything else is to load.
                    state_path.write_text("")
                    return
            if isinstance(error, PeakaError) and not self._phase:
                raise without_trace(error) from None
            raise

    def _fetched(self) -> PeakaProject:
        """A snapshot of the selected caches; every pattern of an override has to mean one of them."""
        if self.caches is not None:
            return self._nobody()
        connection, selection, log = self.connection, self.selection, dg.get_dagster_logger("peaka")
        if self._phase == "load" and not self._keeps_no_older_state:
            connection = connection.model_copy(update=patience_at_load(connection))
        named: list[PeakaCache] = []

        def noted(cache: PeakaCache) -> bool:
            # Excludes nothing. But every cache comes by, also one that turns out to be half-configured.
            named.append(cache)
            return False

        watched = with_excluded(selection, noted) if self.overrides else selection
        with connection.get_client() as client, blaming(self._context, "selection"):
            project = fetch_project(client, watched, log, queries=bool(self.queries))
        if self.overrides:
            _, missing = overrides_of(select(named, selection), self.overrides, self._context)
            if missing:
                raise all_problems(self._context, missing)
        return project

    def _nobody(self) -> PeakaProject:
        return PeakaProject(project_id=plain(self.connection.project_id), caches=())

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of this component."""
        if self.caches is not None:
            return self._definitions_of(context, self._nobody())
        try:
            return self._built(context, "load")
        except (PeakaError, ValidationError, OSError) as error:
            if error is not self._failure:
                raise
        # Peaka could not be asked: go on with what was known before.
        return self._built(context, "without_peaka")

    def _built(self, context: dg.ComponentLoadContext, phase: Phase) -> dg.Definitions:
        before, self._phase = self._phase, phase
        try:
            return super().build_defs(context)
        finally:
            self._phase = before

    def build_defs_from_state(
        self, context: dg.ComponentLoadContext, state_path: Path | None
    ) -> dg.Definitions:
        """The definitions of this component, from the state in a file."""
        if state_path is None and self.queries and self._phase != "older":
            # What a release without queries has left, or what was kept before there were any.
            return self._built(context, "older")
        failure, self._failure = self._failure, None
        why = f"Peaka could not be asked: {sentence(str(failure))} " if failure else ""
        if state_path is None or (self._keeps_no_older_state and state_path.stat().st_size == 0):
            # Dagster loads what it has asked for once more, or in another process, without asking again.
            asked = self._keeps_no_older_state or (
                self.defs_state.refresh_if_dev and os.environ.get("DAGSTER_IS_DEV_CLI")
            )
            if failure or not asked:
                self._warn(f"{why}{nothing_known(self.connection.project_id, self._keeps_no_older_state)}")
            return self._definitions_of(context, self._nobody())
        project = self._loaded(state_path, why)
        is_old = f"the state, which is {age(project.taken_at)}"
        if failure:
            self._warn(f"{why}Going on with {is_old}. {REFRESH} renews it.")
        caches, missing = still_selected(project.caches, self.selection)
        for name in missing:
            gone = unmatched(name, project.caches)
            self._warn(f"{gone} It is in the selection, but not in {is_old}. {REFRESH} renews it.")
        if self.queries and caches and not project.queries:
            self._warn(f"queries: {is_old}, holds none. {REFRESH} renews it.")
        return self._definitions_of(context, project.model_copy(update={"caches": tuple(caches)}))

    def _loaded(self, state_path: Path, why: str) -> PeakaProject:
        expected = self.connection.project_id
        try:
            project = PeakaProject.load(state_path)
            if not isinstance(expected, dg.EnvVar) and project.project_id != expected:
                raise PeakaConfigError(
                    f"The state {state_path} is of project {project.project_id}, and this component of {expected}."
                )
        except PeakaConfigError as error:
            problem = f"{str(error).removesuffix(ANEW).strip()} (State key: {self.defs_state_config.key}.)"
            remedy = f"Run {REFRESH}, which makes a new one. {why}".strip()
            raise problem_at(self._context, f"{problem} {remedy}", "defs_state") from None
        return project

    # From caches to definitions

    def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
        """The spec of the asset that stands for the cache ``props``, before ``translation`` and ``overrides``.

        Override it to change what assets are called and show. Of a cache that is written out in ``caches``, ``props``
        says what is written there: the table stands for ids, and the names are empty where only the id is written.

        Example:
            .. code-block:: python

                class Lake(PeakaProjectComponent):
                    def get_asset_spec(self, props):
                        spec = super().get_asset_spec(props)
                        return spec.replace_attributes(key=spec.key.with_prefix("lake"))
        """
        if not props.table_name:
            return dg.AssetSpec(
                ["peaka", props.id], description=f"Peaka's cache {props.id}.", kinds={"peaka"}
            )
        place = self._context.at_path("source_asset_key")
        translator = DagsterPeakaTranslator(
            source_asset_key=lambda props: source_key(place, self.source_asset_key, props)
        )
        return translator.get_asset_spec(props)

    def get_query_spec(self, props: PeakaQuery) -> dg.AssetSpec:
        """The spec of the asset that stands for the materialized query ``props``. Override it to change it."""
        return DagsterPeakaTranslator(pages=self.connection).get_query_spec(props)

    def execute(self, context: dg.AssetExecutionContext, peaka: PeakaResource) -> Iterable[StepResult]:
        """What a step does: sync the caches of its selected assets, with the config of the run.

        Override it to do something around them, as the example of the class does.
        """
        yield from peaka.sync_and_poll(context, PeakaSyncConfig(**context.op_execution_context.op_config))

    def _spec(self, props: PeakaCache, said: Said) -> dg.AssetSpec:
        spec = self.get_asset_spec(props)
        url = self.connection.cache_url(props.id)
        if url and props.id != props.name:  # by its table, no id is known
            spec = spec.merge_attributes(metadata=link(url))
        of_all = PeakaAssetAttributes(
            group_name=self.group_name, automation_condition=self.automation_condition
        )
        spec = of_all.on(self._context, spec, props)
        if self.translation is not None:
            spec = translated(self._context.at_path("translation"), self.translation, spec, props)
        for context, attributes in said.get(props.id, ()):
            spec = attributes.on(context, spec, props)
        return spec

    def _definitions_of(self, context: dg.ComponentLoadContext, project: PeakaProject) -> dg.Definitions:
        """The definitions for the caches of a snapshot, or for those that are written out."""
        name, written = self.name or name_of(context), self.caches is not None
        caches = project.caches if self.caches is None else [entry.props for entry in self.caches]
        said, missing = overrides_of(caches, self.overrides, self._context.at_path("overrides"))
        if written and missing:
            raise all_problems(self._context, missing)
        for _, problem in missing if caches else ():
            self._warn(f"overrides: {problem}")
        for number, entry in enumerate(self.caches or ()):
            place = self._context.at_path("caches").at_path(number)
            said.setdefault(entry.props.id, []).append((place, entry))
        translator = ComponentTranslator(lambda props: self._spec(props, said), self.get_query_spec)
        with blaming(self._context, *(["caches"] if written else [])):
            sync = SyncSettings(self.mode, **self.followed)
            specs = specs_of(caches, translator, sync, written_place if written else None)
            warn_of_schedules(caches, specs)
            assets = list(self._steps(caches, specs, said, name))
            queries = self._queries(project, translator, name)
            sensors = list(self._sensors(assets, queries, name))
            resources = {name: self.connection}
            return dg.Definitions(assets=[*assets, *queries], sensors=sensors, resources=resources)

    def _steps(
        self, caches: Sequence[PeakaCache], specs: Sequence[dg.AssetSpec], said: Said, name: str
    ) -> Iterator[dg.AssetsDefinition]:
        """The steps that sync caches.

        One that is written by its id has a step of its own where there is one per catalog: its catalog is not known.
        """

        def peaka_sync(
            context: dg.AssetExecutionContext,
            config: PeakaSyncConfig,  # noqa: ARG001 (it makes the form of the launchpad)
        ) -> Iterator[StepResult]:
            yield from self.execute(context, getattr(context.resources, name))

        checks = self._checks()
        cache_of = {spec.key: cache for cache, spec in zip(caches, specs, strict=True)}
        groups: dict[str, list[dg.AssetSpec]] = {"cache": [], self.step_per: []}
        for cache, spec in zip(caches, specs, strict=True):
            alone = self.step_per == "catalog" and not cache.table_name
            groups["cache" if alone else self.step_per].append(spec)
        for per, group in groups.items():
            prefix = None if per == "cache" else name
            members_of = steps_of(per, [cache_of[spec.key] for spec in group], group, prefix, None)
            for step_name, members in members_of.items():
                op, cache = self.op, cache_of[members[0].key]
                for place, attributes in said.get(cache.id, ()) if per == "cache" else ():
                    own = attributes.of(place, members[0], cache).op
                    op = own.over(op) if own else op
                step = StepSettings(op.retry_policy, op.pool, op.tags)
                yield step.definition(peaka_sync, members, checks_of(members, checks), step_name, name)

    def _checks(self) -> PeakaCacheChecks:
        """What the steps evaluate; refused here, so that the error names the field."""
        checks: PeakaCacheChecks = {} if self.checks is None else self.checks.chosen
        if checks:
            with blaming(self._context, "checks"):
                step_checks((), checks)
        return {"last_sync_succeeded": self.last_sync_check, **checks}

    def _queries(
        self, project: PeakaProject, translator: DagsterPeakaTranslator, name: str
    ) -> list[dg.AssetsDefinition]:
        """The assets of a project's queries; what they read besides its caches is outside of them."""
        said = switched(self.queries, PeakaQuerySettings)
        if said is None or not project.queries:
            return []
        with blaming(self._context, "queries"):
            assets = build_peaka_query_assets(
                project,
                selector=said.include,
                translator=translator,
                sources_check=said.sources_check,
                retry_policy=said.op.retry_policy,
                pool=said.op.pool,
                op_tags=said.op.tags,
                cancel_on_termination=said.cancel_on_termination,
                resource_key=name,
                **said.followed,
            )
            group = said.group_name
            if group is None:
                return assets
            # Its signature has types that Dagster leaves open.
            return [
                asset.map_asset_specs(lambda spec: cast("Any", spec).replace_attributes(group_name=group))
                for asset in assets
            ]

    def _sensors(
        self, assets: Sequence[dg.AssetsDefinition], queries: Sequence[dg.AssetsDefinition], name: str
    ) -> Iterator[dg.SensorDefinition]:
        specs = [spec for definition in assets for spec in definition.specs]
        for spec in specs:
            if declared_cache(spec).wait is False and not self.polling_sensor:
                raise problem_at(self._context, f"Asset {spec.key.to_user_string()}: {NEEDS_POLLING}")
        upstream = switched(self.upstream_sensor, PeakaUpstreamSensorSettings)
        polling = switched(self.polling_sensor, PeakaPollingSensorSettings)
        if upstream is not None and assets:
            with blaming(self._context, "upstream_sensor"):
                if not any(spec.deps for spec in specs):
                    raise PeakaConfigError(NOTHING_UPSTREAM)
                yield build_peaka_upstream_sensor(assets, **upstream.arguments(f"{name}_upstream_sensor"))
        if polling is not None and (assets or queries):
            with blaming(self._context, "polling_sensor"):
                arguments = polling.arguments(f"{name}_polling_sensor")
                yield build_peaka_polling_sensor([*assets, *queries], resource_key=name, **arguments)

    def _warn(self, text: str) -> None:
        tree = self._context.source_position_tree
        place = f"{tree.position.filename}: " if tree else ""
        dg.get_dagster_logger("peaka").warning("%s%s: %s", place, type(self).__name__, text)


class ComponentTranslator(DagsterPeakaTranslator):
    """Asks the component."""

    def __init__(
        self,
        cache_spec: Callable[[PeakaCache], dg.AssetSpec],
        query_spec: Callable[[PeakaQuery], dg.AssetSpec],
    ) -> None:
        super().__init__()
        self._cache_spec, self._query_spec = cache_spec, query_spec

    def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
        """The spec of a cache's asset."""
        return self._cache_spec(props)

    def get_query_spec(self, props: PeakaQuery) -> dg.AssetSpec:
        """The spec of a query's asset."""
        return self._query_spec(props)


def written_place(cache: PeakaCache) -> dict[str, str]:
    """The metadata by which a step finds a cache that is written out; its table stands for its id."""
    identity, _ = identity_of(None, cache.id) if cache.table_name else identity_of(cache.id, None)
    return identity


def name_of(context: dg.ComponentLoadContext) -> str:
    """The name of what one component makes, after the folder that it is in: no two components share it."""
    place = context.component_path
    folder = place.file_path.relative_to(context.defs_module_path).parts
    parts = [part.removesuffix(".py") for part in folder if part != "component.py"]
    if place.instance_key not in (None, 0, "load"):
        parts.append(str(place.instance_key))
    return op_name(dg.AssetKey(parts or ["peaka"]))
