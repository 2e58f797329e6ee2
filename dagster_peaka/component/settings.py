"""The sections of the component's YAML that say how: connection, selection, steps, checks, sensors and queries."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import dagster as dg
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)

from dagster_peaka.caches.declared import RowCount as RowCounts
from dagster_peaka.caches.declared import checked_fingerprint
from dagster_peaka.caches.selection import PeakaCacheChoice, PeakaCacheSelector
from dagster_peaka.component.fields import Anything, Count, Duration, NotNegative, Section, Tags, Texts
from dagster_peaka.component.reading import FIELDS_WANTED, refuse
from dagster_peaka.resource import ON_RUNNING, PeakaResource
from dagster_peaka.steps.checks import PeakaCacheChecks

WHICH_CACHES = "Ids or catalog.schema.table, each part of which may be a shell pattern"

# The connection

API_KEY_VARIABLE = "PEAKA_API_KEY"
"""The environment variable that holds the key, unless the YAML names another."""

ENVIRONMENT_TEMPLATE = re.compile(r"\{\{\s*env\.(\w+)\s*\}\}")
"""A template that is one environment variable and nothing else."""


class _Variable(Section):
    env: str = Field(examples=[API_KEY_VARIABLE])
    """The name of an environment variable."""


def _connection_model() -> type[Section]:
    """The settings of :class:`PeakaResource` as YAML has them; what they may be is the resource's to say."""
    choices = {"zone": ("us", "eu"), "on_running": ON_RUNNING}
    types: dict[str, Any] = {
        name: Annotated[str, WithJsonSchema({"enum": list(choice)})] for name, choice in choices.items()
    }
    fields: dict[str, Any] = {
        name: (
            types.get(name, field.annotation),
            Field(... if field.is_required() else field.default, description=field.description),
        )
        for name, field in PeakaResource.model_fields.items()
    }
    key = "Where the API key is: {env: NAME}. Dagster keeps the variable's name and not its value."
    fields["api_key"] = str | _Variable, Field(_Variable(env=API_KEY_VARIABLE), description=key)
    return create_model("PeakaConnectionModel", __base__=Section, **fields)


_Connection = _connection_model()


def _as_resource(value: Any) -> PeakaResource:
    if isinstance(value, PeakaResource):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a PeakaResource; in YAML, {FIELDS_WANTED}")
    said = dict(_Connection(**cast("Mapping[str, Any]", value)))
    if isinstance(said["api_key"], _Variable):
        said["api_key"] = dg.EnvVar(said["api_key"].env)
    return PeakaResource(**said)


Connection = Annotated[PeakaResource, BeforeValidator(_as_resource, json_schema_input_type=_Connection)]


def with_variable(connection: Any) -> Any:
    """The settings of a connection; where their key is a template of one variable, that variable is named instead."""
    if not isinstance(connection, Mapping):
        return connection
    settings = cast("Mapping[str, Any]", connection)
    found = ENVIRONMENT_TEMPLATE.fullmatch(str(settings.get("api_key")).strip())
    return {**settings, "api_key": {"env": found[1]}} if found else settings


# Which caches


class _Selection(Section):
    include: Texts | None = Field(
        default=None,
        description=f"{WHICH_CACHES}; all caches by default.",
        examples=["shop.public.*", ["shop.*.*", "crm.*.*"]],
    )
    exclude: Texts | None = Field(default=None, examples=["*.*.tmp_*"])
    """What to leave out of that, written likewise."""


def _as_selector(value: Any) -> Any:
    if isinstance(value, PeakaCacheSelector):
        return value
    if callable(value):
        return PeakaCacheSelector(cast("PeakaCacheChoice", value))
    fields = cast("Mapping[str, Any]", value if isinstance(value, Mapping) else {"include": value})
    selection = _Selection(**fields)
    return PeakaCacheSelector(selection.include, selection.exclude)


Selection = Annotated[
    PeakaCacheSelector, BeforeValidator(_as_selector, json_schema_input_type=Texts | _Selection)
]
"""A :class:`PeakaCacheSelector`, or what to include; in YAML patterns, or what to include and to exclude."""

# Steps


class _RetryPolicy(Section):
    max_retries: Count = 1
    """How often a failed step is tried again."""
    delay: NotNegative | None = None
    """Seconds before the first retry."""
    backoff: Literal["linear", "exponential"] | None = None
    """How the delay grows from one retry to the next; needs delay."""
    jitter: Literal["full", "plus_minus"] | None = None
    """How chance changes the delays; needs delay."""

    @model_validator(mode="after")
    def _has_a_delay_to_change(self) -> "_RetryPolicy":
        for name in ("backoff", "jitter"):
            without = self.delay is None and getattr(self, name) is not None
            refuse(without, "needs delay, which it changes.", name)
        return self


def _as_policy(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    said = _RetryPolicy(**cast("Mapping[str, Any]", value))
    return dg.RetryPolicy(
        max_retries=said.max_retries,
        delay=said.delay,
        backoff=dg.Backoff[said.backoff.upper()] if said.backoff else None,
        jitter=dg.Jitter[said.jitter.upper()] if said.jitter else None,
    )


RetryPolicy = Annotated[dg.RetryPolicy, BeforeValidator(_as_policy, json_schema_input_type=_RetryPolicy)]
"""A retry policy; in YAML its settings."""


class PeakaOpSettings(Section):
    """What Dagster is told about steps.

    Example:
        .. code-block:: python

            PeakaOpSettings(pool="peaka", retry_policy=dg.RetryPolicy(max_retries=2, delay=30))
    """

    pool: str | None = Field(default=None, examples=["peaka"])
    """The pool of which each step takes a slot; its limit is set by dagster instance concurrency set POOL LIMIT."""
    tags: Anything | None = None
    """Tags of the steps, such as those that configure a Kubernetes executor."""
    retry_policy: RetryPolicy | None = Field(
        default=None, examples=[{"max_retries": 2, "delay": 30, "backoff": "exponential"}]
    )
    """Whether and when a failed step is tried again; by default it is not."""

    def over(self, other: "PeakaOpSettings") -> "PeakaOpSettings":
        """These settings, and those of ``other`` where these say nothing."""
        return other.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})


# How caches and queries are synced


def _row_count(value: object) -> object:
    return (
        RowCounts.parse(str(value)).value if value == "full_refresh" else "off" if value is False else value
    )


RowCount = Annotated[Literal["query", "off", False], BeforeValidator(_row_count)]
"""Where row counts come from; ``dg check yaml`` takes ``off`` without quotes for a truth value."""


class _Followed(Section):
    row_count: RowCount | None = None
    """What dagster/row_count is taken from afterwards; by default nothing."""
    fingerprint: Annotated[str, AfterValidator(checked_fingerprint)] | None = None
    """What data versions are made of: a select list of aggregates (of a cache also checksum); by default ids."""
    wait: bool | None = None
    """Whether the step waits for the end of what it triggers; false needs polling_sensor."""
    on_schedule: Literal["ignore", "warn", "disable"] | None = None
    """What is done about schedules by which Peaka does the same by itself."""

    @property
    def followed(self) -> dict[str, Any]:
        """As the factories take it."""
        return {
            "row_count": self.row_count or "off",
            "fingerprint": self.fingerprint,
            "wait": self.wait is not False,
            "on_schedule": self.on_schedule or "warn",
        }


class SyncFields(_Followed):
    """How caches are synced: all of them, or some. As ``peaka/<name>`` in metadata, each tells a step how to sync."""

    mode: Literal["incremental", "full_refresh"] | None = None
    """How the cache is synced."""


# Checks and sensors


class PeakaCheckSettings(Section):
    """Which checks the steps of the syncs evaluate: ``checks`` of the factories.

    Example:
        .. code-block:: python

            from datetime import timedelta

            PeakaCheckSettings(max_rows_dropped=10, max_age=timedelta(hours=6))
    """

    max_rows_dropped: float | None = Field(default=None, examples=[10])
    """Percent of a table's rows, below 100, that may be gone since the sync before."""
    columns_unchanged: bool = False
    """Whether to compare the tables' columns with those of the snapshot."""
    max_age: Duration | None = Field(default=None, examples=[21600, "PT6H", {"hours": 6}])
    """How old the newest completed sync may be."""
    blocking: bool = False
    """Whether a failed check keeps everything downstream from running."""
    severity: Literal["WARN", "ERROR"] | None = None
    """The severity of a failed check; WARN by default, and ERROR for blocking checks."""

    @property
    def chosen(self) -> PeakaCacheChecks:
        """As the factories take it."""
        severity = dg.AssetCheckSeverity[self.severity] if self.severity else None
        return cast("PeakaCacheChecks", {**dict(self), "severity": severity})


class _SensorSettings(Section):
    name: str | None = None
    """The sensor's name; by default it begins with the component's."""
    minimum_interval_seconds: int = 30
    """Seconds between two ticks at least."""
    default_status: Literal["RUNNING", "STOPPED"] = "STOPPED"
    """Whether it runs without being turned on in Dagster's UI."""
    description: str | None = None
    """What Dagster's UI says about it."""
    tags: Tags | None = None
    """Tags of the sensor itself."""

    @field_validator("minimum_interval_seconds")
    @classmethod
    def _at_least_a_second(cls, seconds: int) -> int:
        if seconds < 1:
            raise ValueError("must be at least 1.")
        return seconds

    def arguments(self, name: str) -> dict[str, Any]:
        """As the sensor's factory takes them; ``name`` is its name unless another is set."""
        status = dg.DefaultSensorStatus[self.default_status]
        return {**dict(self), "name": self.name or name, "default_status": status}


class PeakaUpstreamSensorSettings(_SensorSettings):
    """The settings of :func:`~dagster_peaka.build_peaka_upstream_sensor`.

    Example:
        .. code-block:: python

            from datetime import timedelta

            PeakaUpstreamSensorSettings(minimum_update_interval=timedelta(minutes=10), default_status="RUNNING")
    """

    require: Literal["any", "all"] = "any"
    """Whether any updated upstream asset requests a cache, or only all of them together."""
    minimum_update_interval: Duration | None = Field(default=None, examples=[600, "PT10M", {"minutes": 10}])
    """Between two requests of one cache at least."""
    run_tags: Tags | None = None
    """Tags of the runs that it requests."""


class PeakaPollingSensorSettings(_SensorSettings):
    """The settings of :func:`~dagster_peaka.build_peaka_polling_sensor`.

    Example:
        .. code-block:: python

            PeakaPollingSensorSettings(default_status="RUNNING", backfill=True)
    """

    backfill: bool = False
    """Whether a cache that is seen for the first time brings along what Peaka still shows: 14 days."""


class PeakaQuerySettings(_Followed):
    """The settings of :func:`~dagster_peaka.build_peaka_query_assets`: which queries become assets, and how.

    Example:
        .. code-block:: python

            PeakaQuerySettings(include="report_*", sources_check="block")
    """

    include: Texts | None = Field(default=None, examples=["report_*"])
    """Names or ids, or shell patterns of names; by default all."""
    sources_check: Literal["off", "warn", "block"] = "warn"
    """The check sources_cached before each refresh: none, a warning, or no refresh where it fails."""
    cancel_on_termination: bool = False
    """Whether terminating a run cancels the refresh that it triggered."""
    group_name: str | None = None
    """The group of these assets; by default peaka_queries."""
    op: PeakaOpSettings = PeakaOpSettings()
    """Settings of the steps."""
