"""The sections of the component's YAML that say how: connection, selection, steps, checks and sensors."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, cast

import dagster as dg
from pydantic import BaseModel, BeforeValidator, Field, create_model, field_validator, model_validator

from dagster_peaka.caches.selection import PeakaCacheChoice, PeakaCacheSelector
from dagster_peaka.component.reading import (
    Anything,
    Count,
    Duration,
    NotNegative,
    PeakaYamlError,
    Scalar,
    Section,
    Tags,
    Text,
    doc,
    field_error,
    lasting,
    problem_at,
    rendered,
    validated,
    written,
)
from dagster_peaka.resource import ON_RUNNING, PeakaResource
from dagster_peaka.steps.checks import PeakaCacheChecks

API_KEY_VARIABLE = "PEAKA_API_KEY"
"""The environment variable that holds the key, unless the YAML names another."""

ENVIRONMENT_TEMPLATE = re.compile(r"\{\{\s*env\.(\w+)\s*\}\}")
"""A template that is one environment variable and nothing else."""

Texts = Annotated[str | list[str], dg.Resolver.default(model_field_type=Scalar | list[Scalar])]
"""One text or several; an id may look like a number."""


WHICH_CACHES = "Ids or catalog.schema.table, each part of which may be a shell pattern"


def listed(texts: Texts) -> list[str]:
    """A list, also of one text."""
    return [texts] if isinstance(texts, str) else texts


# The connection


class _Variable(dg.Model):
    env: str = Field(description="The name of an environment variable.", examples=[API_KEY_VARIABLE])


def _connection_schema() -> type[BaseModel]:
    """The settings of :class:`PeakaResource`, each of them also as a template."""
    types: dict[str, Any] = {
        "project_id": Scalar,
        "zone": Literal["us", "eu"],
        "on_running": Literal[ON_RUNNING],
    }
    fields: dict[str, Any] = {
        name: (
            types.get(name, field.rebuild_annotation()) | str,
            Field(default=... if field.is_required() else field.default, description=field.description),
        )
        for name, field in PeakaResource.model_fields.items()
    }
    fields["api_key"] = (
        str | _Variable,
        Field(
            default={"env": API_KEY_VARIABLE},
            description="Where the API key is: {env: NAME}. Dagster keeps the variable's name and not its value.",
            examples=[{"env": API_KEY_VARIABLE}],
        ),
    )
    return create_model("PeakaConnectionModel", __base__=dg.Model, **fields)


def _variable(value: object) -> str | None:
    """The environment variable that a template stands for, where it is nothing else."""
    found = ENVIRONMENT_TEMPLATE.fullmatch(value.strip()) if isinstance(value, str) else None
    return found[1] if found else None


def _connection(context: dg.ResolutionContext, model: BaseModel) -> PeakaResource:
    values = written(context, model)
    key = values.pop("api_key", {"env": API_KEY_VARIABLE})
    if variable := _variable(key):
        key = {"env": variable}
    settings = {name: rendered(context.at_path(name), value) for name, value in values.items()}
    key = rendered(context.at_path("api_key"), key)
    settings["api_key"] = (
        dg.EnvVar(cast("Mapping[str, str]", key)["env"]) if isinstance(key, Mapping) else key
    )
    return validated(PeakaResource, context, settings)


CONNECTION = dg.Resolver(
    _connection,
    model_field_type=_connection_schema(),
    description="The connection to one project of Peaka. All times are seconds.",
)


def without_key(error: Exception, model: BaseModel) -> PeakaYamlError | None:
    """The error without the key, where it shows lines of a file in which a key is written out."""
    connection = getattr(model, "connection", None)
    key: object = getattr(connection, "api_key", None)
    if isinstance(key, str) and key in str(error):
        return PeakaYamlError(str(error).replace(key, "********"))
    return None


# Which caches


class _Selection(Section):
    include: Annotated[
        Texts | None, doc(f"{WHICH_CACHES}; all caches by default.", "shop.public.*", ["shop.*.*", "crm.*.*"])
    ] = None
    exclude: Annotated[Texts | None, doc("What to leave out of that, written likewise.", "*.*.tmp_*")] = None


def _selection(context: dg.ResolutionContext, model: BaseModel | str | list[str]) -> PeakaCacheSelector:
    if isinstance(model, BaseModel):
        selection: _Selection = _Selection.resolve_from_model(context, model)
        return PeakaCacheSelector(include=selection.include, exclude=selection.exclude)
    given = rendered(context, model)
    try:
        return cast("PeakaCacheSelector", _as_selector(given))
    except ValueError as error:
        problem = str(error)
    raise problem_at(context, (), problem)


def _as_selector(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, (str, list)) or callable(value):
        return PeakaCacheSelector(include=cast("PeakaCacheChoice", value))
    return value


Selection = Annotated[
    PeakaCacheSelector,
    BeforeValidator(_as_selector),
    dg.Resolver(
        _selection,
        model_field_type=Scalar | list[Scalar] | _Selection.model(),
        inject_before_resolve=False,
    ),
]
"""A :class:`PeakaCacheSelector`, or what to include; in YAML patterns, or what to include and to exclude."""


# Steps


class _RetryPolicy(Section):
    max_retries: Annotated[Count | None, doc("How often a failed step is tried again; once by default.")] = (
        None
    )
    delay: Annotated[NotNegative | None, doc("Seconds before the first retry.")] = None
    backoff: Annotated[
        Literal["linear", "exponential"] | None,
        doc("How the delay grows from one retry to the next; needs delay."),
    ] = None
    jitter: Annotated[
        Literal["full", "plus_minus"] | None, doc("How chance changes the delays; needs delay.")
    ] = None

    @model_validator(mode="after")
    def _has_a_delay_to_change(self) -> "_RetryPolicy":
        for name in ("backoff", "jitter"):
            if getattr(self, name) is not None and self.delay is None:
                raise field_error((name,), "needs delay, which it changes.")
        return self

    def policy(self) -> dg.RetryPolicy:
        """What Dagster calls it."""
        return dg.RetryPolicy(
            max_retries=1 if self.max_retries is None else self.max_retries,
            delay=self.delay,
            backoff=dg.Backoff[self.backoff.upper()] if self.backoff else None,
            jitter=dg.Jitter[self.jitter.upper()] if self.jitter else None,
        )


def _policy(value: Any) -> Any:
    settings = cast("dict[str, Any]", value)
    return _RetryPolicy(**settings).policy() if isinstance(value, dict) else value


RetryPolicy = Annotated[
    dg.RetryPolicy, BeforeValidator(_policy), dg.Resolver.default(model_field_type=_RetryPolicy.model())
]
"""A retry policy; in YAML its settings."""


class PeakaOpSettings(Section):
    """What Dagster is told about steps.

    Example:
        .. code-block:: python

            PeakaOpSettings(pool="peaka", retry_policy=dg.RetryPolicy(max_retries=2, delay=30))
    """

    pool: Annotated[
        str | None,
        doc(
            "The pool of which each step takes a slot; its limit is set in Dagster: "
            "dagster instance concurrency set POOL LIMIT.",
            "peaka",
        ),
    ] = None
    tags: Annotated[
        Anything | None,
        doc("Tags of the steps, such as those that configure a Kubernetes executor."),
    ] = None
    retry_policy: Annotated[
        RetryPolicy | None,
        doc(
            "Whether and when a failed step is tried again; by default it is not.",
            {"max_retries": 2, "delay": 30, "backoff": "exponential"},
        ),
    ] = None

    def over(self, other: "PeakaOpSettings") -> "PeakaOpSettings":
        """These settings, and those of ``other`` where these say nothing."""
        said = {name: getattr(self, name) for name in self.model_fields_set}
        return other.model_copy(update=said)


# Checks and sensors


class PeakaCheckSettings(Section):
    """Which checks the steps of the syncs evaluate: ``checks`` of the factories.

    Example:
        .. code-block:: python

            from datetime import timedelta

            PeakaCheckSettings(max_rows_dropped=10, max_age=timedelta(hours=6))
    """

    max_rows_dropped: Annotated[
        float | None, doc("Percent of a table's rows, below 100, that may be gone since the sync before.", 10)
    ] = None
    columns_unchanged: Annotated[
        bool, doc("Whether to compare the tables' columns with those of the snapshot.")
    ] = False
    max_age: Annotated[
        Duration | None, lasting("How old the newest completed sync may be", 21600, "PT6H", {"hours": 6})
    ] = None
    blocking: Annotated[bool, doc("Whether a failed check keeps everything downstream from running.")] = False
    severity: Annotated[
        Literal["WARN", "ERROR"] | None,
        doc("The severity of a failed check; WARN by default, and ERROR for blocking checks."),
    ] = None

    @property
    def chosen(self) -> PeakaCacheChecks:
        """As the factories take it."""
        return {
            "max_rows_dropped": self.max_rows_dropped,
            "columns_unchanged": self.columns_unchanged,
            "max_age": self.max_age,
            "blocking": self.blocking,
            "severity": dg.AssetCheckSeverity[self.severity] if self.severity else None,
        }


class _SensorSettings(Section):
    name: Annotated[str | None, doc("The sensor's name; by default it begins with the component's.")] = None
    minimum_interval_seconds: Annotated[int, doc("Seconds between two ticks at least.")] = 30
    default_status: Annotated[
        Literal["RUNNING", "STOPPED"], doc("Whether it runs without being turned on in Dagster's UI.")
    ] = "STOPPED"
    description: Annotated[str | None, doc("What Dagster's UI says about it.")] = None
    tags: Annotated[Tags | None, doc("Tags of the sensor itself.")] = None

    @field_validator("minimum_interval_seconds")
    @classmethod
    def _at_least_a_second(cls, seconds: int) -> int:
        if seconds < 1:
            raise ValueError("must be at least 1.")
        return seconds

    def arguments(self, name: str) -> dict[str, Any]:
        """As the sensor's factory takes them; ``name`` is its name unless another is set."""
        given = {field: getattr(self, field) for field in type(self).model_fields}
        status = dg.DefaultSensorStatus[self.default_status]
        return {**given, "name": self.name or name, "default_status": status}


class PeakaUpstreamSensorSettings(_SensorSettings):
    """The settings of :func:`~dagster_peaka.build_peaka_upstream_sensor`.

    Example:
        .. code-block:: python

            from datetime import timedelta

            PeakaUpstreamSensorSettings(minimum_update_interval=timedelta(minutes=10), default_status="RUNNING")
    """

    require: Annotated[
        Literal["any", "all"],
        doc("Whether any updated upstream asset requests a cache, or only all of them together."),
    ] = "any"
    minimum_update_interval: Annotated[
        Duration | None, lasting("Between two requests of one cache at least", 600, "PT10M", {"minutes": 10})
    ] = None
    run_tags: Annotated[Tags | None, doc("Tags of the runs that it requests.")] = None


class PeakaPollingSensorSettings(_SensorSettings):
    """The settings of :func:`~dagster_peaka.build_peaka_polling_sensor`.

    Example:
        .. code-block:: python

            PeakaPollingSensorSettings(default_status="RUNNING", backfill=True)
    """

    backfill: Annotated[
        bool,
        doc("Whether a cache that is seen for the first time brings along what Peaka still shows: 14 days."),
    ] = False


_RowCount = Annotated[
    Literal["query", "off"],
    BeforeValidator(lambda value: "off" if value is False else value),
    dg.Resolver.default(model_field_type=Literal["query", "off", False]),
]
"""Where row counts come from; in YAML, ``off`` without quotes is the truth value."""


class PeakaQuerySettings(Section):
    """The settings of :func:`~dagster_peaka.build_peaka_query_assets`: which queries become assets, and how.

    Example:
        .. code-block:: python

            PeakaQuerySettings(include="report_*", sources_check="block")
    """

    include: Annotated[
        Texts | None, doc("Names or ids, or shell patterns of names; by default all.", "report_*")
    ] = None
    sources_check: Annotated[
        Literal["off", "warn", "block"],
        doc("The check sources_cached before each refresh: none, a warning, or no refresh where it fails."),
    ] = "warn"
    on_schedule: Annotated[
        Literal["ignore", "warn", "disable"],
        doc("What is done about queries that Peaka also refreshes by a schedule of its own."),
    ] = "warn"
    wait: Annotated[
        bool, doc("Whether a step waits for its refresh; false leaves it to the polling_sensor.")
    ] = True
    row_count: Annotated[
        _RowCount | None, doc("What dagster/row_count is taken from after a refresh; by default nothing.")
    ] = None
    fingerprint: Annotated[
        str | None, doc("What data versions are made of: a select list of aggregates.", "count(*)")
    ] = None
    cancel_on_termination: Annotated[
        bool, doc("Whether terminating a run cancels the refresh that it triggered.")
    ] = False
    group_name: Annotated[Text | None, doc("The group of these assets; by default peaka_queries.")] = None
    op: Annotated[PeakaOpSettings, doc("Settings of the steps.")] = PeakaOpSettings()


S = TypeVar("S", bound=Section)


def switched(value: "bool | S", cls: type[S]) -> S | None:
    """The settings of what is switched on; None where it is off."""
    return (cls() if value else None) if isinstance(value, bool) else value


def switch(cls: type[Section], description: str) -> dg.Resolver:
    """Reads a field that is true for something with the defaults, or holds its settings."""

    def resolve(context: dg.ResolutionContext, value: Any) -> Any:
        return cls.resolve_from_model(context, value) if isinstance(value, BaseModel) else value

    return dg.Resolver(resolve, model_field_type=bool | cls.model(), description=description)
