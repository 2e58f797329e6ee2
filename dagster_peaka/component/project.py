"""PeakaProjectComponent: a whole Peaka project as assets, from a few lines of YAML."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

import dagster as dg
from dagster.components import DefsStateConfig, DefsStateConfigArgs
from dagster.components.resolved.base import resolve_fields
from dagster.components.resolved.errors import ResolutionException
from pydantic import BaseModel, Field, PrivateAttr, StringConstraints, ValidationError, model_validator

from dagster_peaka.caches.declared import declared_cache, link
from dagster_peaka.caches.names import op_name
from dagster_peaka.caches.project import ANEW, PeakaCache, PeakaProject, PeakaQuery
from dagster_peaka.component.attributes import (
    NEEDS_POLLING,
    Condition,
    Entries,
    PeakaAssetAttributes,
    PeakaCacheOverride,
    SourceAssetKey,
    SyncFields,
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
    field_error,
    problem_at,
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
    with_variable,
)
from dagster_peaka.component.state import (
    REFRESH,
    age,
    fetched,
    nothing_known,
    overrides_of,
    patience_at_load,
    plain,
    state_key,
    still_selected,
    unmatched,
    without_trace,
)
from dagster_peaka.component.steps import ComponentTranslator, Said, steps_for, written_place
from dagster_peaka.errors import PeakaConfigError, PeakaError, sentence
from dagster_peaka.queries.assets import build_peaka_query_assets
from dagster_peaka.resource import PeakaResource, PeakaSyncConfig
from dagster_peaka.sensors.polling import build_peaka_polling_sensor
from dagster_peaka.sensors.upstream import build_peaka_upstream_sensor
from dagster_peaka.steps.checks import PeakaCacheChecks, step_checks
from dagster_peaka.steps.specs import SyncSettings, specs_of, warn_of_schedules
from dagster_peaka.steps.step import StepResult
from dagster_peaka.translator import DagsterPeakaTranslator

NO_OLDER_STATE = DefsStateConfigArgs.legacy_code_server_snapshots().management_type
"""How state is kept where Dagster fetches it with every load and keeps nothing of what was before."""

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
        """The component as Dagster found it in a project.

        Raises:
            PeakaConfigError: naming file, line and field.
        """
        if attributes is None:
            problem = "is empty: it needs at least connection, with project_id in it."
            raise problem_at(context.resolution_context, problem, "attributes")
        return super().load(attributes, context)

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> "PeakaProjectComponent":
        """The component as the YAML ``model`` describes it.

        Raises:
            PeakaConfigError: naming file, line and field.
        """
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
            key = cast("Any", connection)["api_key"] if isinstance(connection, Mapping) else None
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
            refused = {
                ("selection",): (
                    self.selection,
                    "chooses among fetched caches; with caches there are none. Drop one.",
                ),
                ("queries",): (
                    self.queries,
                    "are fetched with the caches; with caches that are written out there are none.",
                ),
                ("checks", "columns_unchanged"): (
                    self.checks and self.checks.columns_unchanged,
                    "compares with the columns of a snapshot; of caches that are written out there is none.",
                ),
            }
            for loc, (value, problem) in refused.items():
                if value:
                    raise field_error(loc, problem)
        polled = bool(self.polling_sensor)
        if self.wait is False and not polled:
            raise field_error(("wait",), NEEDS_POLLING)
        queries = switched(self.queries, PeakaQuerySettings)
        if queries is not None and not queries.wait and not polled:
            raise field_error(("queries", "wait"), NEEDS_POLLING)
        for field, several in (("overrides", self.overrides), ("caches", self.caches or ())):
            for number, each in enumerate(several):
                each.check((field, number), self.step_per, polled=polled)
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
            return self._fetched().save(state_path)
        except PeakaYamlError as error:
            problem: Exception = error
        except (PeakaError, ValidationError, OSError) as error:
            self._failure = problem = error
            if self._keeps_no_older_state:
                # Dagster needs something to hand on to the processes of runs, where everything else is to load.
                state_path.write_text("")
                return None
        raise without_trace(problem) if isinstance(problem, PeakaError) and not self._phase else problem

    def _fetched(self) -> PeakaProject:
        if self.caches is not None:
            return self._nobody()
        connection = self.connection
        if self._phase == "load" and not self._keeps_no_older_state:
            connection = connection.model_copy(update=patience_at_load(connection))
        with connection.get_client() as client:
            queries = bool(self.queries)
            log = dg.get_dagster_logger("peaka")
            return fetched(client, self.selection, self.overrides, self._context, log, queries=queries)

    def _nobody(self) -> PeakaProject:
        return PeakaProject(project_id=plain(self.connection.project_id), caches=())

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of this component.

        Raises:
            PeakaConfigError: naming file, line and field.
        """
        if self.caches is not None:
            return self._definitions_of(context, self._nobody(), self.caches)
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
        """The definitions of this component, from the state in a file.

        Raises:
            PeakaConfigError: naming file, line and field; and the state's file when that cannot be used.
        """
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
                nothing = nothing_known(self.connection.project_id, self._keeps_no_older_state)
                self._warn(f"{why}{nothing}")
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
        """The snapshot in the state's file.

        Raises:
            PeakaConfigError: when it cannot be used.
        """
        try:
            project = PeakaProject.load(state_path)
        except PeakaConfigError as error:
            problem = str(error).removesuffix(ANEW).strip()
        else:
            expected = self.connection.project_id
            if isinstance(expected, dg.EnvVar) or project.project_id == expected:
                return project
            problem = f"The state {state_path} is of project {project.project_id}, and this component of {expected}."
        key = f"(State key: {self.defs_state_config.key}.)"
        raise problem_at(
            self._context,
            f"{problem} {key} Run {REFRESH}, which makes a new one. {why}".rstrip(),
            "defs_state",
        )

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
        place = self._at("source_asset_key")
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
        spec = of_all.on(self._at(), spec, props)
        if self.translation is not None:
            spec = translated(self._at("translation"), self.translation, spec, props)
        for context, attributes in said.get(props.id, ()):
            spec = attributes.on(context, spec, props)
        return spec

    def _definitions_of(
        self, context: dg.ComponentLoadContext, project: PeakaProject, entries: Entries | None = None
    ) -> dg.Definitions:
        """The definitions for the caches of a snapshot, or for those that are written out."""
        caches = project.caches if entries is None else [entry.props for entry in entries]
        said, missing = overrides_of(caches, self.overrides, self._at("overrides"))
        if entries is not None:
            if missing:
                raise all_problems(self._context, missing)
            for number, entry in enumerate(entries):
                said.setdefault(entry.props.id, []).append((self._at("caches", number), entry))
        for _, problem in missing if caches else ():
            self._warn(f"overrides: {problem}")
        translator = ComponentTranslator(lambda props: self._spec(props, said))
        name = self.name or name_of(context)
        settings: dict[str, Any] = {"name": name, "step_per": self.step_per, "checks": self._checks()}
        sync = SyncSettings(
            self.mode,
            self.row_count or "off",
            self.fingerprint,
            self.wait is not False,
            self.on_schedule or "warn",
        )
        here = () if entries is None else ("caches",)
        with blaming(self._context, *here):
            specs = specs_of(caches, translator, sync, None if entries is None else written_place)
            warn_of_schedules(caches, specs)
            assets = steps_for(caches, specs, said, op=self.op, execute=self.execute, **settings)
        queries: list[dg.AssetsDefinition] = []
        chosen = switched(self.queries, PeakaQuerySettings)
        if chosen is not None and project.queries:
            queries = self._query_assets(chosen, project, translator, name)
        with blaming(self._context, *here):
            return self._definitions(list(assets), name, queries)

    def _checks(self) -> PeakaCacheChecks:
        """What the steps evaluate; refused here, so that the error names the field."""
        checks: PeakaCacheChecks = {} if self.checks is None else self.checks.chosen
        if checks:
            with blaming(self._context, "checks"):
                step_checks((), checks)
        return {"last_sync_succeeded": self.last_sync_check, **checks}

    def _definitions(
        self, assets: Sequence[dg.AssetsDefinition], name: str, queries: Sequence[dg.AssetsDefinition] = ()
    ) -> dg.Definitions:
        """The assets, with the resource that they need, and with sensors."""
        for spec in (spec for definition in assets for spec in definition.specs):
            if declared_cache(spec).wait is False and not self.polling_sensor:
                raise problem_at(self._context, f"Asset {spec.key.to_user_string()}: {NEEDS_POLLING}")
        upstream = switched(self.upstream_sensor, PeakaUpstreamSensorSettings)
        polling = switched(self.polling_sensor, PeakaPollingSensorSettings)
        sensors: list[dg.SensorDefinition] = []
        if upstream is not None and assets:
            with blaming(self._context, "upstream_sensor"):
                if not any(spec.deps for definition in assets for spec in definition.specs):
                    raise PeakaConfigError(NOTHING_UPSTREAM)
                arguments = upstream.arguments(f"{name}_upstream_sensor")
                sensors.append(build_peaka_upstream_sensor(assets, **arguments))
        if polling is not None and (assets or queries):
            with blaming(self._context, "polling_sensor"):
                arguments = polling.arguments(f"{name}_polling_sensor")
                polled = [*assets, *queries]
                sensors.append(build_peaka_polling_sensor(polled, resource_key=name, **arguments))
        return dg.Definitions(assets=[*assets, *queries], sensors=sensors, resources={name: self.connection})

    def _query_assets(
        self, settings: PeakaQuerySettings, project: PeakaProject, translator: ComponentTranslator, name: str
    ) -> list[dg.AssetsDefinition]:
        """The assets of a project's queries; what they read besides its caches is outside of them."""

        def in_group(props: PeakaQuery) -> dg.AssetSpec:
            spec = self.get_query_spec(props)
            group = settings.group_name
            return spec if group is None else cast("Any", spec).replace_attributes(group_name=group)

        given = settings.given()
        op: PeakaOpSettings = given.pop("op")
        del given["group_name"]
        with blaming(self._context, "queries"):
            return build_peaka_query_assets(
                project,
                selector=given.pop("include"),
                translator=ComponentTranslator(translator.get_asset_spec, in_group),
                retry_policy=op.retry_policy,
                pool=op.pool,
                op_tags=op.tags,
                resource_key=name,
                **cast("Any", {**given, "row_count": settings.row_count or "off"}),
            )

    # Words

    def _at(self, *path: str | int) -> dg.ResolutionContext:
        """Where a field stands."""
        context = self._context
        for part in path:
            context = context.at_path(part)
        return context

    def _warn(self, text: str) -> None:
        """Warn, by the component's name and file."""
        tree = self._context.source_position_tree
        place = f"{tree.position.filename}: " if tree else ""
        dg.get_dagster_logger("peaka").warning("%s%s: %s", place, type(self).__name__, text)


def name_of(context: dg.ComponentLoadContext) -> str:
    """The name of what one component makes, after the folder that it is in: no two components share it."""
    place = context.component_path
    folder = place.file_path.relative_to(context.defs_module_path).parts
    parts = [part.removesuffix(".py") for part in folder if part != "component.py"]
    if place.instance_key not in (None, 0, "load"):
        parts.append(str(place.instance_key))
    return op_name(dg.AssetKey(parts or ["peaka"]))
