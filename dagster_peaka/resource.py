"""PeakaResource: the connection to Peaka as Dagster configures it, and the syncs that a step does through it."""

import functools
import warnings
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import dagster as dg
from pydantic import AfterValidator, ConfigDict, Field, ValidatorFunctionWrapHandler, WrapValidator

from dagster_peaka.api.addresses import (
    checked_base_url,
    checked_studio_url,
    checked_zone,
    is_loopback,
    page_url,
)
from dagster_peaka.api.client import PeakaClient
from dagster_peaka.api.models import CacheExecution, SyncMode
from dagster_peaka.api.settings import bare
from dagster_peaka.caches.names import CacheReference, TableName, checked_cache_id
from dagster_peaka.caches.project import PeakaProject
from dagster_peaka.caches.selection import PeakaSelection
from dagster_peaka.caches.snapshot import fetch_project
from dagster_peaka.errors import PeakaConfigError, PeakaError
from dagster_peaka.records.failures import sync_error
from dagster_peaka.steps.step import (
    StepResult,
    end_if_terminated,
    is_terminated,
    patient_find_caches,
    sync_step,
)
from dagster_peaka.steps.supported_modes import Wish, unsupported
from dagster_peaka.sync.jobs import SyncJob
from dagster_peaka.sync.runner import Runner
from dagster_peaka.sync.timing import SyncRules

ON_RUNNING = ("queue", "attach", "fail")
VARIABLES = (dg.EnvVar, type(dg.EnvVar.int("")))
"""What stands for an environment variable in a field: Dagster reads it when a run begins, and validates again."""


def _unless_variable(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, VARIABLES) else check(value)


def _no_variable(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, VARIABLES):
        raise ValueError(
            "cannot be an EnvVar, because Dagster reads variables for strings and integers only; write "
            f"float(os.environ[{value.env_var_name!r}])."
        )
    return check(value)


def _checked_on_running(value: str) -> str:
    if value not in ON_RUNNING:
        raise ValueError(f"on_running must be one of {', '.join(map(repr, ON_RUNNING))}, not {value!r}.")
    return value


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), WrapValidator(_no_variable)]
Given = Annotated[str, AfterValidator(bare), WrapValidator(_unless_variable)]
"""A key or an id, without what secret files and ``--env-file`` put around it."""
Zone = Annotated[str, AfterValidator(checked_zone), WrapValidator(_unless_variable)]
Address = Annotated[str, AfterValidator(checked_base_url), WrapValidator(_unless_variable)]
StudioUrl = Annotated[str, AfterValidator(checked_studio_url), WrapValidator(_unless_variable)]
StudioQueryUrl = Annotated[
    str,
    AfterValidator(functools.partial(checked_studio_url, kind="query")),
    WrapValidator(_unless_variable),
]
OnRunning = Annotated[str, AfterValidator(_checked_on_running), WrapValidator(_unless_variable)]

if TYPE_CHECKING:  # a checker knows the words, and the launchpad the choices
    ModeChoice = Literal["incremental", "full_refresh"]
    OnRunningChoice = Literal["queue", "attach", "fail"]
else:
    # Dagster goes by the names of members and Python by their values: they are the same.
    ModeChoice = Enum("PeakaSyncMode", {mode.value: mode.value for mode in SyncMode}, type=str)
    OnRunningChoice = Enum("PeakaOnRunning", {word: word for word in ON_RUNNING}, type=str)


class PeakaSyncConfig(dg.Config):
    """What can be set for one run of a cache asset, in the launchpad or as run config.

    Example:
        .. code-block:: python

            dg.RunConfig(ops={"shop__public__orders": PeakaSyncConfig(mode="full_refresh")})
    """

    model_config = ConfigDict(extra="forbid")

    mode: ModeChoice | None = Field(
        default=None,
        description="'incremental' or 'full_refresh', for this run; by default what the asset declares.",
    )
    on_running: OnRunningChoice | None = Field(
        default=None,
        description=(
            "What to do about an execution of the mode that runs already: 'queue' (trigger another), 'attach' (follow "
            "it) or 'fail'; by default what the resource says."
        ),
    )
    wait: bool | None = Field(
        default=None,
        description=(
            "False: trigger only, and leave it to the polling sensor to record how the sync ends; by default what the "
            "asset declares."
        ),
    )


KEY_DESCRIPTION = "A Partner or Project API key. Give it as an EnvVar, so that its value is stored nowhere."


class PeakaResource(dg.ConfigurableResource[None]):
    """A connection to one project of Peaka.

    Set ``api_key`` as an ``EnvVar``: Dagster then keeps the variable's name and not its value. Texts and whole
    numbers may be an ``EnvVar``; all times are seconds.

    Raises:
        pydantic.ValidationError: a ``ValueError`` that names the field, for a value that cannot work.

    Example:
        .. code-block:: python

            import dagster as dg
            from dagster_peaka import PeakaResource, build_peaka_cache_asset

            defs = dg.Definitions(
                assets=[build_peaka_cache_asset(table="shop.public.orders")],
                resources={
                    "peaka": PeakaResource(
                        api_key=dg.EnvVar("PEAKA_API_KEY"), project_id=dg.EnvVar("PEAKA_PROJECT_ID")
                    )
                },
            )
    """

    # A misspelt field is an error, and no error repeats what was given: it may be the key.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    api_key: Given = Field(
        description=KEY_DESCRIPTION,
        json_schema_extra={"dagster__is_secret": True},
        repr=False,
    )
    project_id: Given = Field(description="The id of the Peaka project, as in its address.")
    zone: Zone = Field(
        default="us", description="The zone of the account: 'us' or 'eu'. Ignored when base_url is given."
    )
    base_url: Address | None = Field(
        default=None,
        description="The API's address, for another zone or a sandbox: https, or http for this machine only.",
    )
    studio_url: StudioUrl | None = Field(
        default=None,
        description="A template of the addresses at which a person finds a cache, such as "
        "'https://peaka.example/{project_id}/{cache_id}': materializations and failures then show peaka/url.",
    )
    studio_query_url: StudioQueryUrl | None = Field(
        default=None,
        description="Likewise for materialized queries, such as 'https://peaka.example/{project_id}/{query_id}'.",
    )
    request_timeout: Seconds = Field(
        default=30.0, description="Seconds for one attempt at a request, to its last byte."
    )
    request_max_retries: Annotated[int, Field(ge=0), WrapValidator(_unless_variable)] = Field(
        default=4, description="Repetitions of a request at most, where repeating is safe."
    )
    max_concurrent_requests: Annotated[int, Field(ge=1), WrapValidator(_unless_variable)] = Field(
        default=16, description="Requests under way at once at most."
    )
    max_response_bytes: Annotated[int | None, Field(ge=1), WrapValidator(_unless_variable)] = Field(
        default=None,
        description="Bytes that an answer may have, unpacked; by default 64 MiB, and 256 MiB for listings of caches.",
    )
    poll_interval: Seconds = Field(
        default=1.0,
        description="Seconds between two polls of a status at least, and half of them in a step of more than three "
        "caches, where one request reads all statuses; the wait grows to a tenth of the time since the trigger.",
    )
    poll_max_interval: Seconds = Field(
        default=60.0, description="Seconds between two polls of a status at most."
    )
    start_timeout: Seconds = Field(
        default=120.0,
        description="Seconds without a new execution, after the trigger and after all that ran has ended, before the "
        "one repetition of a trigger, and again before giving up.",
    )
    poll_timeout: Seconds = Field(
        default=86_400.0, description="Seconds for one sync in all. Nothing is cancelled after them."
    )
    stuck_timeout: Annotated[Seconds | None, WrapValidator(_no_variable)] = Field(
        default=None,
        description="Seconds after which a running execution that shows no change fails the step; by default never. "
        "Nothing is cancelled after them.",
    )
    outage_tolerance: Seconds = Field(
        default=300.0,
        description="Seconds for which Peaka may not be readable before a sync is given up, or the ticks of a polling "
        "sensor fail.",
    )
    on_running: OnRunning = Field(
        default="queue",
        description="What to do about an execution of the mode that runs already: 'queue' (trigger another, because "
        "the running one may have read past the newest rows), 'attach' (follow it) or 'fail'.",
    )
    cancel_on_termination: bool = Field(
        default=True,
        description="Whether terminating a run cancels the execution that it triggered. An interrupt of a run that "
        "nobody has terminated, such as an evicted pod's, cancels nothing.",
    )
    read_only: bool = Field(
        default=False,
        description="Whether everything that would change something in Peaka is refused: triggers, refreshes of "
        "queries, cancels, schedules. Polls, queries and sensors that record go on.",
    )

    if not TYPE_CHECKING:  # a checker knows the constructor by the fields, and the definition from Dagster

        def __new__(cls, **fields: Any) -> "PeakaResource":
            """The resource, of the kind that masks its key or of the one whose key is a variable."""
            # Dagster masks the default of a secret field also where it names a variable, and the launchpad would send
            # the mask back as the key. The name of a variable is no secret.
            if cls is PeakaResource and isinstance(fields.get("api_key"), dg.EnvVar):
                return super().__new__(PeakaResourceOfVariable)
            return super().__new__(cls)

        def get_resource_definition(self) -> dg.ResourceDefinition:
            """Dagster's own form of this resource; warns when the key is a plain value that leaves this machine."""
            if not isinstance(self.api_key, dg.EnvVar) and not self._stays_here():
                warnings.warn(
                    "PeakaResource.api_key is a plain value: Dagster's UI masks it, but it is kept in snapshots of "
                    "jobs and can be read there. Write api_key=dg.EnvVar('PEAKA_API_KEY') instead, and set that "
                    "variable.",
                    stacklevel=2,
                )
            return super().get_resource_definition()

    def _stays_here(self) -> bool:
        address = self.base_url
        return (
            isinstance(address, str)
            and not isinstance(address, dg.EnvVar)
            and is_loopback(urlsplit(address).hostname or "")
        )

    def get_client(self) -> PeakaClient:
        """A new client with this resource's settings; use it in a ``with`` block.

        Raises:
            PeakaConfigError: when the key or the project id is empty, or an ``EnvVar`` names a variable that is not
                set.
            pydantic.ValidationError: when the value of a variable cannot work.

        Example:
            .. code-block:: python

                with peaka.get_client() as client:
                    client.execute_query('SELECT count(*) FROM "shop"."public"."orders"')
        """
        settings = self._with_variables_read()
        if set(settings.api_key) == {"*"}:
            raise PeakaConfigError(
                "api_key is a row of asterisks, as Dagster's launchpad shows a secret: remove `resources` from the "
                "run's config, or write `api_key: {env: PEAKA_API_KEY}` there."
            )
        return PeakaClient(
            settings.api_key,
            settings.project_id,
            settings.base_url,
            zone=settings.zone,
            studio_url=settings.studio_url,
            studio_query_url=settings.studio_query_url,
            request_timeout=settings.request_timeout,
            request_max_retries=settings.request_max_retries,
            max_concurrent_requests=settings.max_concurrent_requests,
            max_response_bytes=settings.max_response_bytes,
            read_only=settings.read_only,
        )

    def cache_url(self, cache_id: str) -> str | None:
        """The address at which a person finds a cache; None where it is not known before a run begins.

        Example:
            .. code-block:: python

                print(peaka.cache_url(cache_id))
        """
        return self._page_url(self.studio_url, "cache", cache_id)

    def query_url(self, query_id: str) -> str | None:
        """The address at which a person finds a materialized query; None where it is not known before a run begins."""
        return self._page_url(self.studio_query_url, "query", query_id)

    def _page_url(self, template: str | None, kind: str, its_id: str) -> str | None:
        if template is None or isinstance(template, VARIABLES) or isinstance(self.project_id, VARIABLES):
            return None
        return page_url(template, self.project_id, kind, its_id)

    def _with_variables_read(self) -> "PeakaResource":
        """Itself, for use outside of a run with variables read; inside a run Dagster has read them already."""
        fields = {name: getattr(self, name) for name in PeakaResource.model_fields}
        if not any(isinstance(value, VARIABLES) for value in fields.values()):
            return self
        return PeakaResource(**{name: _read(name, value) for name, value in fields.items()})

    def sync_rules(self, on_running: str | None = None) -> SyncRules:
        """The times that a sync keeps by these settings, in seconds, and what it does about one that runs already.

        Example:
            .. code-block:: python

                print(peaka.sync_rules().poll_timeout)
        """
        settings = self._with_variables_read()
        return SyncRules(
            poll_interval=settings.poll_interval,
            poll_max_interval=settings.poll_max_interval,
            start_timeout=settings.start_timeout,
            poll_timeout=settings.poll_timeout,
            outage_tolerance=settings.outage_tolerance,
            stuck_timeout=settings.stuck_timeout,
            on_running=on_running or settings.on_running,
        )

    def fetch_project(self, selector: PeakaSelection | None = None, *, queries: bool = False) -> PeakaProject:
        """A snapshot of the project's caches: what definitions are built from.

        N caches in S schemas cost 2 + S + 2 * N requests, side by side. Called where definitions load, it asks Peaka
        in every process that loads them, and fails where Peaka is away: save the snapshot, and load it there.

        The caches of a catalog that cannot be read are left out, with a warning that names it; so is a single cache.

        Args:
            selector: which caches are wanted, as in :class:`PeakaCacheSelector`; None for all. Only for these details
                are fetched: a predicate sees caches without columns, schedules and modes.
            queries: whether the snapshot holds the project's saved queries as well, one request more: for
                :func:`build_peaka_query_assets`.

        Raises:
            PeakaConfigError: when ``selector`` makes no sense or fits nothing, or a setting is missing.
            PeakaError: when Peaka cannot be asked, or not one of the selected caches can be read.

        Example:
            .. code-block:: python

                project = peaka.fetch_project(selector="shop.public.*")
                project.save("peaka_project.json")
        """
        with self.get_client() as client:
            return fetch_project(client, selector, dg.get_dagster_logger("peaka"), queries=queries)

    def sync(self, cache_id_or_table: str, mode: str = "incremental") -> CacheExecution:
        """Sync one cache and wait for its end: for ops and scripts.

        Args:
            cache_id_or_table: the cache's id, or its table as ``catalog.schema.table``.
            mode: ``incremental`` or ``full_refresh``.

        Returns:
            The COMPLETED execution, with its counts and times.

        Raises:
            PeakaSyncError: when the sync did not end in a COMPLETED execution of its own, or the table does not
                support the mode.
            PeakaNotFoundError: when the project has no such cache.
            PeakaConfigError: for a mode, an id or a table's name that makes no sense.
            PeakaError: when Peaka cannot be asked.

        Example:
            .. code-block:: python

                @dg.op
                def refresh_orders(context: dg.OpExecutionContext, peaka: PeakaResource) -> None:
                    execution = peaka.sync("shop.public.orders", mode="full_refresh")
                    context.log.info(f"{execution.progress.cached} rows after {execution.duration_seconds} s")
        """
        sync_mode = SyncMode.parse(mode)
        reference = _reference(cache_id_or_table)
        rules = self.sync_rules()
        with self.get_client() as client:
            log = dg.get_dagster_logger("peaka")
            target = patient_find_caches(client, [reference], rules, log)[reference]
            if isinstance(target, PeakaError):
                raise target
            for refusal in unsupported(client, [Wish(target, sync_mode)], log).values():
                raise refusal
            run = self._own_run()
            check = None if run is None else lambda: end_if_terminated(*run)
            runner = Runner(client, [SyncJob(target, sync_mode, rules)], log=log, check_run=check)
            try:
                (_, result), *_ = runner.run()
            except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
                # Outside of a run an interrupt means what it says.
                runner.stop(
                    cancel=self.cancel_on_termination, terminated=lambda: run is None or is_terminated(*run)
                )
                raise
        if not result.ok or result.execution is None:
            url = client.cache_url(target.cache_id)
            raise sync_error(result, target=target, mode=sync_mode, rules=rules, url=url)
        return result.execution

    def _own_run(self) -> tuple[dg.DagsterInstance, str] | None:
        """The instance and the run that this resource was made for; None outside of one."""
        try:
            context = self.get_resource_context()
        except dg.DagsterError:
            return None
        except Exception:  # Dagster names no error for a resource that nothing has initialized
            return None
        return (context.instance, context.run.run_id) if context.instance and context.run else None

    def sync_and_poll(
        self, context: dg.AssetExecutionContext, config: PeakaSyncConfig | None = None
    ) -> Iterator[StepResult]:
        """Sync the caches of the step's selected assets, and yield each result as soon as it is known.

        An asset's cache is named by its spec's metadata, as the factories of this package write it: ``peaka/cache_id``
        or ``peaka/table``; how it is synced by ``peaka/mode``, ``peaka/row_count`` and ``peaka/wait``. A mode that the
        table does not support fails before anything is triggered.

        Yields:
            A ``MaterializeResult`` for each sync that succeeded; and where the asset declares the check
            ``last_sync_succeeded``, an ``AssetCheckResult`` for each that succeeded or failed.

        Raises:
            dagster.Failure: at the end, naming every cache that failed and why. What succeeded has been recorded.
                Where no retry can help against any of the reasons, it stops the step's retries, and the run's.

        Example:
            .. code-block:: python

                @dg.multi_asset(
                    specs=[
                        dg.AssetSpec("orders", metadata={"peaka/table": "shop.public.orders"}, skippable=True),
                        dg.AssetSpec("items", metadata={"peaka/table": "shop.public.items"}, skippable=True),
                    ]
                )
                def shop(context: dg.AssetExecutionContext, peaka: PeakaResource):
                    yield from peaka.sync_and_poll(context)
        """
        rules = self.sync_rules(_word(config.on_running) if config else None)
        mode = SyncMode(_word(config.mode)) if config and config.mode else None
        wait = config.wait if config else None
        cancel = self.cancel_on_termination
        yield from sync_step(context, self.get_client, rules, mode, wait=wait, cancel=cancel)


class PeakaResourceOfVariable(PeakaResource):
    """What a :class:`PeakaResource` is when its key is an ``EnvVar``: the same, with nothing to mask."""

    api_key: Given = Field(description=KEY_DESCRIPTION, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what it is called."""
        fields = {name: getattr(self, name) for name in PeakaResource.model_fields}
        return functools.partial(PeakaResource, **fields), ()


# The page of a resource in Dagster's UI shows the name and the docstring of its class.
PeakaResourceOfVariable.__name__ = PeakaResourceOfVariable.__qualname__ = "PeakaResource"
PeakaResourceOfVariable.__doc__ = PeakaResource.__doc__


def _reference(cache_id_or_table: str) -> CacheReference:
    """A text with dots is a table's full name; an id has none."""
    return (
        TableName.parse(cache_id_or_table)
        if "." in cache_id_or_table
        else checked_cache_id(cache_id_or_table)
    )


def _word(choice: Any) -> str | None:
    """The word of a choice, which is a member here and a word to a checker."""
    return choice.value if isinstance(choice, Enum) else choice


def _read(name: str, value: Any) -> Any:
    """The value behind an EnvVar, or ``value`` itself."""
    if not isinstance(value, VARIABLES):
        return value
    try:
        found = value.get_value()
    except ValueError:
        raise PeakaConfigError(
            f"{name}: environment variable {value.env_var_name} is not an integer."
        ) from None
    if found in (None, ""):
        raise PeakaConfigError(f"{name}: environment variable {value.env_var_name} is not set.")
    return found
