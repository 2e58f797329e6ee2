"""PeakaProjectComponent: a whole Peaka project as assets, from a few lines of YAML."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import dagster as dg
from dagster.components import DefsStateConfig, DefsStateConfigArgs, ResolvedDefsStateConfig
from pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from dagster_peaka.caches.declared import declared_cache, link
from dagster_peaka.caches.project import ANEW, PeakaCache, PeakaProject, PeakaQuery
from dagster_peaka.component.attributes import (
    NEEDS_POLLING,
    Condition,
    Entries,
    PeakaAssetAttributes,
    PeakaCacheAttributes,
    PeakaCacheEntry,
    PeakaCacheOverride,
    SyncFields,
    cache_entries,
)
from dagster_peaka.component.naming import name_of, plain
from dagster_peaka.component.queries import query_assets_of
from dagster_peaka.component.reading import (
    SETTINGS_CONFIG,
    PeakaYamlError,
    Scalar,
    all_problems,
    blaming,
    doc,
    field_error,
    problem_at,
    problem_behind,
    problems_in,
    readable,
    rendered,
    text,
)
from dagster_peaka.component.scaffold import PeakaProjectComponentScaffolder
from dagster_peaka.component.settings import (
    CONNECTION,
    PeakaCheckSettings,
    PeakaOpSettings,
    PeakaPollingSensorSettings,
    PeakaQuerySettings,
    PeakaUpstreamSensorSettings,
    Selection,
    switch,
    switched,
    without_key,
)
from dagster_peaka.component.state import (
    REFRESH,
    age,
    fetched,
    is_dev,
    nothing_known,
    overrides_of,
    patience_at_load,
    state_key,
    still_selected,
    unmatched,
    without_trace,
)
from dagster_peaka.component.steps import Steps, usual_sync
from dagster_peaka.component.translation import (
    SourceAssetKey,
    Translation,
    read_source_asset_key,
    read_translation,
)
from dagster_peaka.component.written import as_written
from dagster_peaka.errors import PeakaConfigError, PeakaError, sentence
from dagster_peaka.resource import PeakaResource
from dagster_peaka.sensors.polling import build_peaka_polling_sensor
from dagster_peaka.sensors.upstream import build_peaka_upstream_sensor
from dagster_peaka.steps.checks import PeakaCacheChecks, step_checks
from dagster_peaka.steps.specs import SyncSettings
from dagster_peaka.steps.step import StepResult
from dagster_peaka.translator import DagsterPeakaTranslator

NO_OLDER_STATE = DefsStateConfigArgs.legacy_code_server_snapshots().management_type
"""How state is kept where Dagster fetches it with every load and keeps nothing of what was before."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")]


@dg.scaffold_with(PeakaProjectComponentScaffolder)
class PeakaProjectComponent(SyncFields, dg.StateBackedComponent, dg.Model, dg.Resolvable):
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

    model_config = SETTINGS_CONFIG

    if TYPE_CHECKING:
        connection: PeakaResource
    else:
        # Dagster looks into the fields of every pydantic model that it meets here, and those of a resource are not
        # made for YAML.
        connection: Annotated[Any, CONNECTION]
    selection: Annotated[
        Selection | None, doc("Which caches of the project become assets; by default all.", "shop.public.*")
    ] = None
    caches: Annotated[
        Entries | None,
        dg.Resolver(
            cache_entries,
            model_field_type=list[Scalar | PeakaCacheEntry.model()],
            description="The caches, written out by table or id. Nothing is asked and no state kept then.",
            examples=[["shop.public.orders", {"table": "shop.public.items", "mode": "full_refresh"}]],
        ),
    ] = None
    name: Annotated[
        Name | None,
        text(
            "The key of the resource, and what the names of sensors and of steps for many caches begin with. By "
            "default the folder of this file.",
            "peaka",
        ),
    ] = None
    step_per: Annotated[
        Literal["cache", "catalog", "project"],
        doc("Whether each cache has a step of its own, or those of a catalog or of the project share one."),
    ] = "cache"
    op: Annotated[PeakaOpSettings, doc("Settings of the steps.")] = PeakaOpSettings()
    last_sync_check: Annotated[
        bool, doc("Whether each asset gets the check last_sync_succeeded, evaluated by every sync.")
    ] = False
    group_name: Annotated[str | None, text("The group of all assets; by default one for each catalog.")] = (
        None
    )
    automation_condition: Annotated[
        Condition | None,
        doc("When Dagster materializes the assets by itself.", "{{ dg.AutomationCondition.eager() }}"),
    ] = None
    source_asset_key: Annotated[
        SourceAssetKey | None,
        dg.Resolver(
            read_source_asset_key,
            model_field_type=str,
            inject_before_resolve=False,
            description="The key of the asset that stands for the table which a cache (props) copies: the cache's "
            "asset then depends on it. Nothing where it comes to nothing.",
            examples=["landed/{{ props.table_name }}"],
        ),
    ] = None
    translation: Annotated[
        Translation | None,
        dg.Resolver(
            read_translation,
            model_field_type=str | PeakaAssetAttributes.model(),
            inject_before_resolve=False,
            description="What each asset (spec) is called and shows, given its cache (props).",
            examples=[{"key_prefix": "lake", "tags": {"source": "{{ props.catalog_type }}"}}],
        ),
    ] = None
    overrides: Annotated[
        list[PeakaCacheOverride],
        doc("What is different for some caches.", [{"match": "shop.public.*", "mode": "full_refresh"}]),
    ] = Field(default=[])
    checks: Annotated[
        PeakaCheckSettings | None, doc("Which checks the steps of the syncs evaluate; by default none.")
    ] = None
    upstream_sensor: Annotated[
        bool | PeakaUpstreamSensorSettings,
        switch(
            PeakaUpstreamSensorSettings,
            "A sensor that requests the caches whose upstream assets have new materializations: true, or its settings.",
        ),
    ] = False
    polling_sensor: Annotated[
        bool | PeakaPollingSensorSettings,
        switch(
            PeakaPollingSensorSettings,
            "A sensor that records the syncs which Peaka's schedules and others started: true, or its settings.",
        ),
    ] = False
    queries: Annotated[
        bool | PeakaQuerySettings,
        switch(
            PeakaQuerySettings,
            "Materialized queries as assets, refreshed after the caches that they read: true, or their settings.",
        ),
    ] = False
    defs_state: ResolvedDefsStateConfig = DefsStateConfigArgs.local_filesystem()

    _context: dg.ResolutionContext | None = PrivateAttr(default=None)
    _refreshes: bool = PrivateAttr(default=True)
    _reads_older: bool = PrivateAttr(default=False)
    _loads: bool = PrivateAttr(default=False)
    _patience: dict[str, object] = PrivateAttr(default={})
    _failure: Exception | None = PrivateAttr(default=None)

    # What is said, and whether it can be meant

    @classmethod
    def model(cls) -> type[BaseModel]:
        """The schema of the YAML."""
        return readable(super().model())

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "PeakaProjectComponent":
        """The component as Dagster found it in a project.

        Raises:
            PeakaConfigError: naming file, line and field.
        """
        if attributes is None:
            place = context.resolution_context.at_path("attributes")
            raise problem_at(place, (), "is empty: it needs at least connection, with project_id in it.")
        return super().load(attributes, context)

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> "PeakaProjectComponent":
        """The component as the YAML ``model`` describes it.

        Raises:
            PeakaConfigError: naming file, line and field.
        """
        model = as_written(context, model)
        try:
            component = super().resolve_from_model(context, model)
        except ValidationError as error:
            problem = all_problems(context, problems_in(cls, error, model.model_dump(exclude_unset=True)))
        except Exception as error:
            problem = problem_behind(error) or without_key(error, model)
            if problem is None:
                raise
        else:
            return component.read_at(context)
        raise problem

    def read_at(self, context: dg.ResolutionContext) -> "PeakaProjectComponent":
        """Itself; errors will name the file and line of ``context``."""
        self._context = context
        return self

    @model_validator(mode="after")
    def _can_be_meant(self) -> "PeakaProjectComponent":
        if not isinstance(cast("object", self.connection), PeakaResource):
            raise field_error(("connection",), "must be a PeakaResource.")
        if self.caches is not None and self.selection is not None:
            raise field_error(
                ("selection",), "chooses among fetched caches; with caches there are none. Drop one."
            )
        if self.caches is not None and self.queries:
            raise field_error(
                ("queries",), "are fetched with the caches; with caches that are written out there are none."
            )
        if self.caches is not None and self.checks is not None and self.checks.columns_unchanged:
            raise field_error(
                ("checks", "columns_unchanged"),
                "compares with the columns of a snapshot; of caches that are written out there is none.",
            )
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
        key = self._given_key() or state_key(type(self).__name__, self.connection.project_id, self.selection)
        return DefsStateConfig(
            key=f"{key}.v2" if self.queries and not self._reads_older else key,
            management_type=self.defs_state.management_type,
            refresh_if_dev=self.defs_state.refresh_if_dev and self._refreshes,
        )

    def _given_key(self) -> str | None:
        key = self.defs_state.key
        if key is None or self._context is None:
            return key
        return str(rendered(self._context.at_path("defs_state").at_path("key"), key))

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
            if self.defs_state.management_type is NO_OLDER_STATE:
                # Dagster needs something to hand on to the processes of runs, where everything else is to load.
                state_path.write_text("")
                return None
        raise without_trace(problem) if isinstance(problem, PeakaError) and not self._loads else problem

    def _fetched(self) -> PeakaProject:
        if self.caches is not None:
            return PeakaProject(project_id=plain(self.connection.project_id), caches=())
        patterns = [
            (("overrides", number, "match"), override.match) for number, override in enumerate(self.overrides)
        ]
        connection = self.connection.model_copy(update=self._patience) if self._patience else self.connection
        with connection.get_client() as client:
            queries = bool(self.queries)
            return fetched(client, self.selection, patterns, self._context, self._log, queries=queries)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of this component.

        Raises:
            PeakaConfigError: naming file, line and field.
        """
        if self.caches is not None:
            return self._definitions_of_entries(self.caches, context)
        if self.defs_state.management_type is not NO_OLDER_STATE:
            self._patience = patience_at_load(self.connection)
        self._loads = True
        try:
            return super().build_defs(context)
        except (PeakaError, ValidationError, OSError) as error:
            if error is not self._failure:
                raise
        finally:
            self._patience, self._loads = {}, False
        # Peaka could not be asked: go on with what was known before.
        self._refreshes = False
        try:
            return super().build_defs(context)
        finally:
            self._refreshes = True

    def build_defs_from_state(
        self, context: dg.ComponentLoadContext, state_path: Path | None
    ) -> dg.Definitions:
        """The definitions of this component, from the state in a file.

        Raises:
            PeakaConfigError: naming file, line and field; and the state's file when that cannot be used.
        """
        if state_path is None and self.queries and not self._reads_older:
            return self._from_older_state(context)
        failure, self._failure = self._failure, None
        why = f" Peaka could not be asked: {sentence(str(failure))}" if failure else ""
        if state_path is None or self._is_nothing(state_path):
            if failure or not self._was_tried():
                project_id = plain(self.connection.project_id)
                nothing = nothing_known(project_id, self.defs_state.management_type is NO_OLDER_STATE)
                self._log.warning("%s:%s %s", self._title, why, nothing)
            nobody = PeakaProject(project_id=plain(self.connection.project_id), caches=())
            return self._definitions_of_caches((), nobody, context)
        project = self._loaded(state_path, why)
        if failure:
            self._log.warning(
                "%s:%s Going on with the state, which is %s. %s renews it.",
                self._title,
                why,
                age(project.taken_at),
                REFRESH,
            )
        caches, missing = still_selected(project.caches, self.selection)
        for name in missing:
            self._log.warning(
                "%s: %s It is in the selection, but not in the state, which is %s. %s renews it.",
                self._title,
                unmatched(name, project.caches),
                age(project.taken_at),
                REFRESH,
            )
        return self._definitions_of_caches(caches, project, context)

    def _from_older_state(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions from the state that a release without queries has left, or that was kept before them."""
        refreshes, self._refreshes, self._reads_older = self._refreshes, False, True
        try:
            return super().build_defs(context)
        finally:
            self._refreshes, self._reads_older = refreshes, False

    def _was_tried(self) -> bool:
        """Whether Peaka has been asked already when these definitions were loaded for the first time.

        Dagster then loads them once more, or in another process, without asking again.
        """
        return (is_dev() and self.defs_state.refresh_if_dev) or (
            self.defs_state.management_type is NO_OLDER_STATE
        )

    def _is_nothing(self, state_path: Path) -> bool:
        return self.defs_state.management_type is NO_OLDER_STATE and state_path.stat().st_size == 0

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
        raise problem_at(
            self._context,
            ("defs_state",),
            f"{problem} (State key: {self.defs_state_config.key}.) Run {REFRESH}, which makes a new one.{why}",
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
        return DagsterPeakaTranslator(source_asset_key=self.source_asset_key).get_asset_spec(props)

    def get_query_spec(self, props: PeakaQuery) -> dg.AssetSpec:
        """The spec of the asset that stands for the materialized query ``props``. Override it to change it."""
        return DagsterPeakaTranslator(pages=self.connection).get_query_spec(props)

    def execute(self, context: dg.AssetExecutionContext, peaka: PeakaResource) -> Iterable[StepResult]:
        """What a step does: sync the caches of its selected assets, with the config of the run.

        Override it to do something around them, as the example of the class does.
        """
        yield from usual_sync(context, peaka)

    def _spec(self, props: PeakaCache, said: Sequence[PeakaCacheAttributes]) -> dg.AssetSpec:
        spec = self.get_asset_spec(props)
        if (
            url := self.connection.cache_url(props.id)
        ) and props.id != props.name:  # by its table, no id is known
            spec = spec.merge_attributes(metadata=link(url))
        of_all = PeakaAssetAttributes(
            group_name=self.group_name, automation_condition=self.automation_condition
        )
        spec = of_all.read_at(self._context).on(spec, props)
        if self.translation is not None:
            spec = self.translation(spec, props)
        for attributes in said:
            spec = attributes.on(spec, props)
        return spec

    def _definitions_of_caches(
        self, caches: Sequence[PeakaCache], project: PeakaProject, context: dg.ComponentLoadContext
    ) -> dg.Definitions:
        said, missing = overrides_of(caches, self.overrides)
        for _, problem in missing if caches else ():
            self._log.warning("%s: overrides: %s", self._title, problem)
        steps = self._steps(context)
        with blaming(self._context):
            assets = steps.of_caches(caches, said)
        queries: list[dg.AssetsDefinition] = []
        settings = switched(self.queries, PeakaQuerySettings)
        if settings is not None and caches and not project.queries:
            self._log.warning(
                "%s: queries: the state, which is %s, holds none. %s renews it.",
                self._title,
                age(project.taken_at),
                REFRESH,
            )
        if settings is not None and project.queries:
            with blaming(self._context, "queries"):
                queries = query_assets_of(
                    project,
                    caches,
                    settings,
                    cache_spec=lambda props: self._spec(props, said.get(props.id, ())),
                    query_spec=self.get_query_spec,
                    resource_key=steps.name,
                )
        with blaming(self._context):
            return self._definitions(assets, steps.name, queries)

    def _definitions_of_entries(
        self, entries: Sequence[PeakaCacheEntry], context: dg.ComponentLoadContext
    ) -> dg.Definitions:
        said, missing = overrides_of([entry.props for entry in entries], self.overrides)
        if missing:
            raise all_problems(self._context, missing)
        for entry in entries:
            said.setdefault(entry.props.id, []).append(entry)
        steps = self._steps(context)
        with blaming(self._context, "caches"):
            return self._definitions(steps.of_entries(entries, said), steps.name)

    def _checks(self) -> PeakaCacheChecks:
        """What the steps of syncs evaluate; refused here, so that the error names the field."""
        chosen: PeakaCacheChecks = {} if self.checks is None else self.checks.chosen
        if chosen:
            with blaming(self._context, "checks"):
                step_checks((), chosen)
        return {"last_sync_succeeded": self.last_sync_check, **chosen}

    def _steps(self, context: dg.ComponentLoadContext) -> Steps:
        return Steps(
            name=self.name or name_of(context),
            step_per=self.step_per,
            sync=SyncSettings(
                self.mode,
                self.row_count or "off",
                self.fingerprint,
                self.wait is not False,
                self.on_schedule or "warn",
            ),
            checks=self._checks(),
            op=self.op,
            spec_of=self._spec,
            execute=self.execute,
        )

    def _definitions(
        self, assets: Sequence[dg.AssetsDefinition], name: str, queries: Sequence[dg.AssetsDefinition] = ()
    ) -> dg.Definitions:
        """The assets, with the resource that they need, and with sensors."""
        for spec in (spec for definition in assets for spec in definition.specs):
            if declared_cache(spec).wait is False and not self.polling_sensor:
                raise problem_at(self._context, (), f"Asset {spec.key.to_user_string()}: {NEEDS_POLLING}")
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

    # Words

    @property
    def _log(self) -> logging.Logger:
        return dg.get_dagster_logger("peaka")

    @property
    def _title(self) -> str:
        """Which component speaks, and in which file it is."""
        tree = self._context.source_position_tree if self._context else None
        return f"{tree.position.filename}: {type(self).__name__}" if tree else type(self).__name__


NOTHING_UPSTREAM = (
    "there is nothing to watch, because no cache's asset depends on another. Say by source_asset_key, or by deps in "
    "overrides, which assets fill the tables that the caches copy."
)
