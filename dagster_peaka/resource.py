"""PeakaResource: the connection to Peaka as Dagster configures it, and the syncs that a step does through it."""

import logging
import math
import warnings
from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field, field_validator

from dagster_peaka.client import ZONES, PeakaClient
from dagster_peaka.connection import checked_base_url, is_loopback
from dagster_peaka.errors import PeakaConfigError, PeakaError
from dagster_peaka.failures import sync_error
from dagster_peaka.lookup import CacheReference, TableName, find_caches
from dagster_peaka.models import CacheExecution, SyncMode
from dagster_peaka.runner import Runner, SyncJob
from dagster_peaka.steps import sync_step
from dagster_peaka.sync import SyncRules

ON_RUNNING = ("queue", "attach", "fail")


class PeakaSyncConfig(dg.Config):
    """What can be set for one run of a cache asset, in the launchpad or as run config."""

    mode: str | None = Field(
        None, description="'incremental' or 'full_refresh', for this run; by default what the asset declares."
    )
    on_running: str | None = Field(
        None,
        description=(
            "What to do about an execution of the mode that runs already: 'queue' (trigger another), 'attach' (follow "
            "it) or 'fail'; by default what the resource says."
        ),
    )

    @field_validator("mode")
    @classmethod
    def _known_mode(cls, value: str | None) -> str | None:
        return value if value is None or isinstance(value, dg.EnvVar) else SyncMode.parse(value).value

    @field_validator("on_running")
    @classmethod
    def _known_choice(cls, value: str | None) -> str | None:
        return value if value is None else _checked_on_running(value)


class PeakaResource(dg.ConfigurableResource[None]):
    """A connection to one project of Peaka.

    Set ``api_key`` as an ``EnvVar``: Dagster then keeps the variable's name and not its value. All times are seconds.

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

    api_key: str = Field(
        description="A Partner or Project API key. Give it as an EnvVar, so that its value is stored nowhere.",
        json_schema_extra={"dagster__is_secret": True},
        repr=False,
    )
    project_id: str = Field(description="The id of the Peaka project, as in its address.")
    zone: str = Field(
        "us", description="The zone of the account: 'us' or 'eu'. Ignored when base_url is given."
    )
    base_url: str | None = Field(
        None,
        description="The API's address, for another zone or a sandbox: https, or http for this machine only.",
    )
    request_timeout: float = Field(
        30.0, description="Seconds for one attempt at a request, to its last byte."
    )
    request_max_retries: int = Field(
        4, description="Repetitions of a request at most, where repeating is safe."
    )
    max_concurrent_requests: int = Field(16, description="Requests under way at once at most.")
    poll_interval: float = Field(
        1.0,
        description="Seconds between two looks at a status at least; the wait grows to a tenth of the time since the "
        "trigger.",
    )
    poll_max_interval: float = Field(60.0, description="Seconds between two looks at a status at most.")
    start_timeout: float = Field(
        120.0,
        description="Seconds without a new execution, after the trigger and after all that ran has ended, before the "
        "one repetition of a trigger, and again before giving up.",
    )
    poll_timeout: float = Field(
        86_400.0, description="Seconds for one sync in all. Nothing is cancelled after them."
    )
    outage_tolerance: float = Field(
        300.0, description="Seconds for which Peaka may not be readable before a sync is given up."
    )
    on_running: str = Field(
        "queue",
        description="What to do about an execution of the mode that runs already: 'queue' (trigger another, because "
        "the running one may have read past the newest rows), 'attach' (follow it) or 'fail'.",
    )
    cancel_on_termination: bool = Field(
        True,
        description="Whether terminating a run cancels the execution that it triggered. Set it to False where "
        "machines are taken away from runs.",
    )

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if not isinstance(value, dg.EnvVar) and value.lower() not in ZONES:
            raise ValueError(
                f"zone must be one of {', '.join(map(repr, ZONES))}, not {value!r}; or set base_url."
            )
        return value

    @field_validator("on_running")
    @classmethod
    def _known_choice(cls, value: str) -> str:
        return _checked_on_running(value)

    @field_validator("base_url")
    @classmethod
    def _valid_address(cls, value: str | None) -> str | None:
        return value if value is None or isinstance(value, dg.EnvVar) else checked_base_url(value)

    @field_validator(
        "request_timeout",
        "poll_interval",
        "poll_max_interval",
        "start_timeout",
        "poll_timeout",
        "outage_tolerance",
    )
    @classmethod
    def _finite_seconds(cls, value: float) -> float:
        if isinstance(value, float) and not (math.isfinite(value) and value > 0):
            raise ValueError("must be a finite number of seconds above 0.")
        return value

    @field_validator("request_max_retries", "max_concurrent_requests")
    @classmethod
    def _countable(cls, value: int) -> int:
        if value < 0:
            raise ValueError("must not be negative.")
        return value

    def get_resource_definition(self) -> Any:
        """Dagster's own form of this resource; warns when the key is a plain value."""
        plain = not isinstance(self.api_key, dg.EnvVar)
        base_url = self.base_url
        if plain and (base_url is None or isinstance(base_url, dg.EnvVar) or not _is_local(base_url)):
            warnings.warn(
                "PeakaResource.api_key is a plain value, which Dagster keeps in job snapshots. Write "
                "api_key=dg.EnvVar('PEAKA_API_KEY') instead.",
                stacklevel=2,
            )
        return super().get_resource_definition()

    def get_client(self) -> PeakaClient:
        """A new client with this resource's settings; use it in a ``with`` block.

        Raises:
            PeakaConfigError: when a setting cannot work, or an ``EnvVar`` names a variable that is not set.
        """
        base_url = _resolved(self.base_url, "base_url")
        zone = _resolved(self.zone, "zone") or "us"
        return PeakaClient(
            _resolved(self.api_key, "api_key") or "",
            _resolved(self.project_id, "project_id") or "",
            base_url or ZONES[_zone_key(zone)],
            request_timeout=self.request_timeout,
            request_max_retries=self.request_max_retries,
            max_concurrent_requests=self.max_concurrent_requests,
        )

    def sync_rules(self, on_running: str | None = None) -> SyncRules:
        """The times and choices that a sync through this resource keeps."""
        return SyncRules(
            poll_interval=self.poll_interval,
            poll_max_interval=max(self.poll_interval, self.poll_max_interval),
            start_timeout=self.start_timeout,
            poll_timeout=self.poll_timeout,
            outage_tolerance=self.outage_tolerance,
            on_running=on_running or _resolved(self.on_running, "on_running") or "queue",
        )

    def sync(self, cache_id_or_table: str, mode: str = "incremental") -> CacheExecution:
        """Sync one cache and wait for its end: for ops and scripts.

        Args:
            cache_id_or_table: the cache's id, or its table as ``catalog.schema.table``.
            mode: ``incremental`` or ``full_refresh``.

        Returns:
            The COMPLETED execution, with its counts and times.

        Raises:
            PeakaSyncError: when the sync did not end in a COMPLETED execution of its own.
            PeakaError: when Peaka cannot be asked.

        Example:
            .. code-block:: python

                @dg.op
                def refresh_orders(peaka: PeakaResource) -> None:
                    execution = peaka.sync("shop.public.orders", mode="full_refresh")
        """
        sync_mode = SyncMode.parse(mode)
        reference = _reference(cache_id_or_table)
        rules = self.sync_rules()
        with self.get_client() as client:
            target = find_caches(client, [reference])[reference]
            if isinstance(target, PeakaError):
                raise target
            runner = Runner(
                client, [SyncJob(target, sync_mode, rules)], log=logging.getLogger("dagster_peaka")
            )
            try:
                (_, result), *_ = runner.run()
            except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
                runner.stop(cancel=self.cancel_on_termination)
                raise
        if not result.ok or result.execution is None:
            raise sync_error(result, cache=str(target), mode=sync_mode, rules=rules)
        return result.execution

    def sync_and_poll(
        self, context: dg.AssetExecutionContext, config: PeakaSyncConfig | None = None
    ) -> Iterator[dg.MaterializeResult[Any]]:
        """Sync the caches of the step's selected assets, and yield each materialization as soon as it is known.

        An asset's cache is named by its spec's metadata, as the factories of this package write it:
        ``peaka/cache_id`` or ``peaka/table``, and ``peaka/mode``.

        Raises:
            dagster.Failure: at the end, naming every cache that failed and why. What succeeded has been recorded.
        """
        rules = self.sync_rules(config.on_running if config else None)
        mode = SyncMode.parse(config.mode) if config and config.mode else None
        yield from sync_step(context, self.get_client, rules, mode, cancel=self.cancel_on_termination)


def _reference(cache_id_or_table: str) -> CacheReference:
    """A text with dots is a table's full name; an id has none."""
    return TableName.parse(cache_id_or_table) if "." in cache_id_or_table else cache_id_or_table


def _checked_on_running(value: str) -> str:
    if not isinstance(value, dg.EnvVar) and value not in ON_RUNNING:
        raise ValueError(f"on_running must be one of {', '.join(map(repr, ON_RUNNING))}, not {value!r}.")
    return value


def _resolved(value: str | None, name: str) -> str | None:
    """The value behind an EnvVar, for use outside a run; Dagster has resolved it inside one."""
    if not isinstance(value, dg.EnvVar):
        return value
    resolved = value.get_value()
    if not resolved:
        raise PeakaConfigError(f"{name}: environment variable {value.env_var_name} is not set.")
    return resolved


def _zone_key(zone: str) -> str:
    key = zone.lower()
    if key not in ZONES:
        raise PeakaConfigError(
            f"zone must be one of {', '.join(map(repr, ZONES))}, not {zone!r}; or set base_url."
        )
    return key


def _is_local(base_url: str) -> bool:
    host = base_url.split("://", 1)[-1].split("/", 1)[0].rsplit(":", 1)[0]
    return is_loopback(host)
