"""From YAML to settings: renders templates, validates, and names file, line and field in every error."""

import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, TypeVar, cast, get_args

import dagster as dg
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from dagster_peaka.caches.names import near_matches
from dagster_peaka.errors import PeakaConfigError

M = TypeVar("M", bound=BaseModel)

FIELD_ERROR = "peaka_field"
"""The type of errors that say by themselves which field they are about."""

NOT_SHOWN = "..."
"""Stands in errors for what was given: it may hold the API key."""

SETTINGS_CONFIG = ConfigDict(
    extra="forbid",
    arbitrary_types_allowed=True,
    hide_input_in_errors=True,
    coerce_numbers_to_str=True,  # templates come to numbers wherever they can
)

TEMPLATE = r"\{[{%]"
"""How a template is recognized in a text."""

EXPRESSION = re.compile(r"\{\{-?(.*?)-?\}\}\n?", re.DOTALL)
"""A template that may be one expression and nothing else."""

SCALARS = (str, bytes, bool, int, float, complex)
NEW_LINE, NO_PROGRAM = "\n", "\0"

Loc = tuple[str | int, ...]
"""Where in a document something stands: names of fields, and positions in lists."""


class Section(dg.Resolvable, dg.Model):
    """A part of a component's attributes, in YAML and in Python alike. An unknown field is an error."""

    model_config = SETTINGS_CONFIG

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Any:
        """The section as the YAML ``model`` describes it.

        Raises:
            PeakaConfigError: naming file, line and field.
        """
        return validated(cls, context, rendered(context, written(context, model)))


def written(context: dg.ResolutionContext, model: BaseModel | str) -> dict[str, Any]:
    """The fields of a section as they stand in the YAML, templates as they are.

    Raises:
        PeakaConfigError: naming file, line and field, where a text stands in their place.
    """
    if isinstance(model, BaseModel):
        return model.model_dump(exclude_unset=True)
    raise problem_at(context, (), FIELDS_WANTED)


def rendered(context: dg.ResolutionContext, value: Any) -> Any:
    """``value`` with its templates replaced by what they come to.

    Raises:
        PeakaConfigError: naming file, line and field, where a template cannot be rendered.
    """
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        return {name: rendered(context.at_path(name), member) for name, member in members.items()}
    if isinstance(value, (list, tuple)):
        entries = cast("Sequence[Any]", value)
        return [rendered(context.at_path(number), entry) for number, entry in enumerate(entries)]
    # What is no template stays as it is: rendering would make a number of the text "5".
    if not isinstance(value, str) or not re.search(TEMPLATE, value):
        return value
    try:
        return _come_to(context, value)
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[-1] if lines else type(error).__name__
    raise problem_at(context, (), reason)


def _come_to(context: dg.ResolutionContext, template: str) -> Any:
    """What a template comes to: the very value of one that is an expression, otherwise the text that it makes.

    Dagster reads once more, as Python, the text that a template makes: of a table ``2024_01`` the number 202401.
    """
    # Its signature has types that Dagster leaves open.
    resolve = cast("Any", context).resolve_value
    value: object = resolve(template)
    if value is not None and not isinstance(value, (*SCALARS, list, tuple, dict, set)):
        return value
    expression = EXPRESSION.fullmatch(template)
    if expression and not re.search(TEMPLATE, expression[1]):
        (value,) = resolve(f"{{{{ [{expression[1]}] }}}}")  # a list is not read once more
    elif isinstance(value, SCALARS):
        # Neither is what holds a character that no program may hold.
        value = resolve(f"{template.removesuffix(NEW_LINE)}{NO_PROGRAM}").removesuffix(NO_PROGRAM)
    return cast("object", value)


def validated(cls: type[M], context: dg.ResolutionContext, values: Mapping[str, Any]) -> M:
    """An instance of ``cls``.

    Raises:
        PeakaConfigError: naming file, line and field, for a value that makes no sense.
    """
    try:
        return cls(**values)
    except ValidationError as error:
        problems = problems_in(cls, error, values)
    raise all_problems(context, problems)


# Errors


def field_error(loc: Loc, problem: str) -> PydanticCustomError:
    """What a validator of a whole model raises about one of its fields."""
    return PydanticCustomError(
        FIELD_ERROR,
        "{field}: {problem}",
        {"field": ".".join(map(str, loc)), "problem": problem, "loc": loc},
    )


class PeakaYamlError(PeakaConfigError):
    """A mistake in YAML. The message says where: file, line and field."""


def problem_at(context: dg.ResolutionContext | None, loc: Loc, problem: str) -> PeakaYamlError:
    """The error for a field of what ``context`` is about, with file and line where it was read from YAML."""
    return all_problems(context, [(loc, problem)])


def all_problems(context: dg.ResolutionContext | None, problems: Iterable[tuple[Loc, str]]) -> PeakaYamlError:
    """One error for all that is wrong."""
    return PeakaYamlError("\n".join(f"{_place(context, loc)}: {problem}" for loc, problem in problems))


def _place(context: dg.ResolutionContext | None, loc: Loc) -> str:
    """``/folder/defs.yaml:7: attributes.wait``, or the field alone where nothing was read from a file."""
    if context is None:
        return ".".join(map(str, loc))
    path = [*context.path, *loc]
    field = ".".join(map(str, path))
    if context.source_position_tree is None:
        return field
    position, _ = context.source_position_tree.lookup_closest_and_path(path, None)
    return f"{position}: {field}"


@contextmanager
def blaming(context: dg.ResolutionContext | None, *loc: str) -> Generator[None, None, None]:
    """Says of an error which field, of which file, it is about."""
    try:
        yield
    except PeakaYamlError:
        raise
    except PeakaConfigError as error:
        problem = str(error)
    else:
        return
    raise problem_at(context, loc, problem)


def problem_behind(error: BaseException) -> PeakaYamlError | None:
    """Our own error, where Dagster has put its text into an error of its own."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, PeakaYamlError):
        behind = behind.__context__
    return behind


def problems_in(cls: type[BaseModel], error: ValidationError, values: Any) -> list[tuple[Loc, str]]:
    """What is wrong with which of the ``values`` from which an instance of ``cls`` was to be made, each once.

    Where a field takes one of several types, pydantic complains once for each of them. The complaint that leads
    deepest is the one about what the writer meant.
    """
    fields = _fields_by_name(cls)
    found: dict[Loc, tuple[str, str]] = {}
    for line in error.errors(include_url=False):
        loc = _as_written(line["loc"], values, line["type"])
        if line["type"] == FIELD_ERROR:
            context = line.get("ctx", {})
            loc, message = (*loc, *context["loc"]), str(context["problem"])
        elif line["type"] == "extra_forbidden":
            message = _no_such_field(str(loc[-1]), _among(line["loc"], fields))
        elif line["type"] in ("model_type", "model_attributes_type", "dict_type"):
            message = FIELDS_WANTED
        else:
            message = line["msg"].removeprefix("Value error, ")
            if line["type"] == "string_type" and isinstance(line["input"], (bool, int, float)):
                message += "; put it in quotes: without them YAML reads it as a number or a truth value."
            if line["input"] is None:
                message += "; it is empty. Is the environment variable set that its template names?"
        if loc not in found or found[loc][0] in MEANT_LEAST:
            found[loc] = line["type"], message
    return [
        (loc, message)
        for loc, (_, message) in found.items()
        if not any(len(other) > len(loc) and other[: len(loc)] == loc for other in found)
    ]


def _among(loc: Loc, fields: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The fields of the innermost model that pydantic names on the way, alone or as that of a list."""
    for part in reversed(loc):
        for model, names in fields.items():
            if model and re.search(rf"\b{model}\b", str(part)):
                return names
    return fields[""]


def _no_such_field(name: str, known: Iterable[str]) -> str:
    return f"there is no such field.{HINTS.get(name, near_matches(name, known))}"


HINTS = {
    "concurrency": " Dagster limits how many steps run at once by pools: set pool, and the pool's limit in Dagster.",
    "op": " The checks are evaluated by the steps of the syncs: the component's op counts for them.",
    "partitions_def": " A cache is synced as a whole.",
}
"""What to do instead of fields that a user of Dagster may look for."""

FIELDS_WANTED = "write fields here, each on a line of its own, or a template that comes to them."

MEANT_LEAST = ("string_type", "bool_type", "none_required")
"""What pydantic says of the types that a field takes beside the one that it is for."""


def _as_written(loc: Iterable[str | int], values: Any, kind: str) -> Loc:
    """A place as it stands in ``values``: without pydantic's names for the types that it tried."""
    path: list[str | int] = []
    parts = list(loc)
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if isinstance(values, Mapping):
            members = cast("Mapping[Any, Any]", values)
            if part in members:
                path.append(part)
                values = members[part]
            elif last and kind == "missing":
                path.append(part)
        elif isinstance(values, (list, tuple)) and isinstance(part, int):
            entries = cast("Sequence[Any]", values)
            path.append(part)
            values = entries[part] if part < len(entries) else None
    return tuple(path)


@cache
def _fields_by_name(cls: type[BaseModel]) -> Mapping[str, Sequence[str]]:
    """The fields of every model within ``cls``, by the models' names; its own by the empty name as well."""
    models = dict.fromkeys(_models_in(cls))
    return {"": list(cls.model_fields), **{model.__name__: list(model.model_fields) for model in models}}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _models_in(field.annotation)
    else:
        for argument in get_args(annotation):
            yield from _models_in(argument)


# The schema


class _Readable(BaseModel):
    """What a schema has on top of what Dagster makes of a component's fields: errors and hints that are to the point.

    As it stands, Dagster shows in errors what was given, the key among it, and reports a misspelt field of a section
    for the line at which the section begins.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _name_fields_as_written(
        cls, values: Any, handler: "ModelWrapValidatorHandler[_Readable]"
    ) -> "_Readable":
        try:
            return handler(values)
        except ValidationError as error:
            problems = problems_in(cls, error, values)
        raise ValidationError.from_exception_data(
            cls.__name__,
            [
                InitErrorDetails(
                    type="value_error", loc=loc, input=NOT_SHOWN, ctx={"error": ValueError(problem)}
                )
                for loc, problem in problems
            ],
        )

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What ``dg check yaml`` and editors go by."""
        schema = super().model_json_schema(*args, **kwargs)
        for model in (schema, *schema.get("$defs", {}).values()):
            for name, field in model.get("properties", {}).items():
                model["properties"][name] = _to_the_point(field)
        return schema


@cache
def readable(model: type[BaseModel]) -> type[BaseModel]:
    """The schema ``model``, with errors and hints that are to the point."""
    return create_model(model.__name__, __base__=(_Readable, model))


def _to_the_point(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field, without the text that might be a template, where that would only blur what is wrong.

    Of a section, which is hardly ever a template as a whole, a validator would say no more than that it fits neither
    the section nor a text. And where a choice may be any text, it is checked by nobody. Dagster adds that text as the
    last of the types.
    """
    types = field.get("anyOf", [])
    sections = [kind for kind in types if "$ref" in kind or "$ref" in str(kind.get("items"))]
    if sections:
        kept = [kind for kind in types[: types.index(sections[-1]) + 1] if kind.get("type") != "null"]
    elif any("enum" in kind for kind in types):
        return _choice(field, types)
    else:
        return field
    said = {name: value for name, value in field.items() if name not in ("anyOf", "default")}
    if len(kept) == 1:
        return {**said, **kept[0]}
    of_fields = [kind for kind in kept if "$ref" in kind]
    if len(of_fields) != 1:
        return {**said, "anyOf": kept}
    others = [kind for kind in kept if "$ref" not in kind]
    return {**said, "if": {"type": "object"}, "then": of_fields[0], "else": {"anyOf": others}}


def _choice(field: dict[str, Any], types: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The schema of a choice: of a value that is neither allowed nor a template, a validator lists what is allowed."""
    allowed = [value for kind in types for value in kind.get("enum", ())]
    others = [kind for kind in types if "enum" not in kind and kind != {"type": "string"}]
    listed = {"enum": [*allowed, *([None] if {"type": "null"} in others else [])]}
    others = [kind for kind in others if kind != {"type": "null"}]
    return {
        **{name: value for name, value in field.items() if name != "anyOf"},
        "if": {"type": "string", "pattern": TEMPLATE},
        "else": {"anyOf": [listed, *others]} if others else listed,
    }


# Types of fields


def doc(description: str, *examples: Any) -> dg.Resolver:
    """What the schema says about a field. Dagster reads it from here, and not from pydantic's ``Field``.

    Dagster also copies a field's own validators and bounds to the schema, where they would meet templates. They stand
    inside of a union for that reason: ``Annotated[Positive | None, doc("...")]``.
    """
    return dg.Resolver.default(description=description, examples=list(examples) or None)


NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Anything = Annotated[dict[str, object], dg.Resolver.default(model_field_type=dict[str, Any])]
"""Names with whatever stands below them."""


def _as_text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (bool, int, float)) else value


Scalar = Annotated[str, BeforeValidator(_as_text), WithJsonSchema({"type": ["string", "number", "boolean"]})]
"""In a schema, a text that may look like a number or a truth value: :func:`as_written` says how it was written."""

Text = Annotated[str, dg.Resolver.default(model_field_type=cast("Any", Scalar))]
"""A text that may look like a number, and stays as it is written."""

Tags = Annotated[
    dict[str, Annotated[str, BeforeValidator(_as_text)]],
    dg.Resolver.default(model_field_type=dict[str, Scalar]),
]
"""Tags; each stays as it is written."""


def text(description: str, *examples: Any, schema: Any = Scalar) -> dg.Resolver:
    """Reads a text, or several; Dagster itself would read once more, as Python, what a template comes to."""

    def resolve(context: dg.ResolutionContext, value: object) -> Any:
        return rendered(context, value)

    return dg.Resolver(
        resolve,
        model_field_type=schema,
        description=description,
        examples=list(examples) or None,
        inject_before_resolve=False,
    )


UNITS = ("weeks", "days", "hours", "minutes", "seconds")

DURATION_WANTED = (
    "must be a duration: seconds, an ISO-8601 text such as PT6H, or fields such as {hours: 6}. A form such as 6:00 is "
    "none, because YAML reads it as 360."
)


def duration(value: Any) -> timedelta:
    """The duration that a value means.

    Raises:
        ValueError: for what may be a time of day, and for all that is none.
    """
    if isinstance(value, timedelta):
        return value
    try:
        if isinstance(value, Mapping):
            parts = {name: float(number) for name, number in cast("Mapping[str, Any]", value).items()}
            if parts and all(name in UNITS for name in parts):
                return timedelta(**parts)
        elif isinstance(value, str) and re.match(r"[+-]?P", value):
            return _ISO_DURATION.validate_python(value)
        elif not isinstance(value, bool):
            return timedelta(seconds=float(value))
    except (ValueError, TypeError, OverflowError):
        pass
    raise ValueError(DURATION_WANTED)


_ISO_DURATION = TypeAdapter(timedelta)

Duration = Annotated[timedelta, BeforeValidator(duration)]


def lasting(description: str, *examples: Any) -> dg.Resolver:
    """What the schema says about a duration."""
    return dg.Resolver.default(
        model_field_type=float | str | dict[str, float | str] | None,
        description=f"{description}: seconds, an ISO-8601 duration, or {{hours: 6}} and the like.",
        examples=list(examples),
    )


Count = Annotated[int, Field(ge=0)]


def instance_of(kind: type[Any], example: str) -> Any:
    """A validator for what only a template or Python can give."""

    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError(f"is no {kind.__name__}: in YAML, write a template such as {example!r}.")
        return value

    return PlainValidator(check)


def asset_key(value: Any) -> dg.AssetKey:
    """The asset key that a value means.

    Raises:
        ValueError: for anything but a key, a text, or a list of texts.
    """
    if isinstance(value, dg.AssetKey):
        return value
    if isinstance(value, str) and value:
        return dg.AssetKey.from_user_string(value)
    if isinstance(value, (list, tuple)) and value:
        parts = cast("Sequence[Any]", value)
        if all(isinstance(part, str) and part for part in parts):
            return dg.AssetKey(list(parts))
    raise ValueError("must be an asset key: a text with slashes between its parts, or a list of texts.")


Key = Annotated[dg.AssetKey, PlainValidator(asset_key), dg.Resolver.default(model_field_type=str | list[str])]
"""An asset key; in YAML a text with slashes between its parts, or a list of texts."""
