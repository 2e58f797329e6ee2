"""What the fields of a component take, and what its schema says about them to ``dg check yaml`` and to editors."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar, Union, cast

import dagster as dg
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    WithJsonSchema,
    create_model,
)
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic_core import CoreSchema

from dagster_peaka.component.reading import TEMPLATE, Section, as_read

S = TypeVar("S", bound=Section)


class doc(dg.Resolver):  # noqa: N801 (it reads as a function where it is used)
    """What is said about a field. Templates in it are rendered; all else is left to pydantic.

    Dagster also copies a field's own validators and bounds to the model of the YAML, where they would meet templates.
    They stand inside of a union for that reason: ``Annotated[Positive | None, doc("...")]``.
    """

    def __init__(self, description: str, *examples: Any) -> None:
        super().__init__(
            # Its signature has types that Dagster leaves open.
            lambda context, value: cast("Any", context).resolve_value(value),
            model_field_type=object,
            inject_before_resolve=False,
            description=description,
            examples=list(examples) or None,
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema of the field."""
        examples = {"examples": self.examples} if self.examples else {}
        return {**_readable(handler(schema)), "description": self.description, **examples}


TEXT = ["string", "number", "boolean", "null"]
"""What a text may look like to a reader of YAML."""


def _readable(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema by which a validator says what is wrong, and takes templates.

    Of a value that may be one of several, it would say no more than that it fits none of them. So a section is looked
    into wherever there are fields, and a choice is listed unless there is a template.
    """
    kinds = [_kind(kind) for kind in _kinds(schema) if kind.get("type") != "null"]
    sections = [kind for kind in kinds if "$ref" in kind]
    others = [kind for kind in kinds if "$ref" not in kind]
    other = others[0] if len(others) == 1 else {"anyOf": others}
    if sections:
        return {"if": {"type": "object"}, "then": sections[0], "else": other} if others else sections[0]
    if "$ref" in str(other) or any(kind.get("type") == TEXT for kind in others):
        return other
    template = {"type": "string", "pattern": TEMPLATE}
    return {"if": {"anyOf": [{"type": "null"}, template]}, "else": other}


def _kinds(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [kind for each in schema["anyOf"] for kind in _kinds(each)] if "anyOf" in schema else [schema]


def _kind(schema: dict[str, Any]) -> dict[str, Any]:
    if "const" in schema or "enum" in schema:
        return {"enum": schema.get("enum", [schema.get("const")])}
    if schema.get("type") == "string":
        return {**schema, "type": TEXT}
    within = ("items", "additionalProperties")
    return {
        name: _readable(cast("dict[str, Any]", value))
        if name in within and isinstance(value, dict)
        else value
        for name, value in schema.items()
    }


class Open(BaseModel):
    """What Dagster reads a component's YAML into: as it is. What it says is looked at once, with file and field."""

    model_config = ConfigDict(extra="allow")

    described: ClassVar[type[BaseModel]] = BaseModel
    """Our component."""

    own: ClassVar[type[BaseModel]] = BaseModel
    """What Dagster makes of the fields that a subclass of it has besides."""

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What ``dg check yaml`` and editors go by."""
        schema = cls.described.model_json_schema(*args, **kwargs)
        own = cls.own.model_json_schema(*args, **kwargs)
        for part in ("properties", "$defs"):
            schema[part].update(own.get(part, {}))
        schema["required"] += own.get("required", ())
        return schema


@cache
def model_of(base: type[BaseModel], derived: type[BaseModel]) -> type[Open]:
    """The model of the YAML of a component.

    Args:
        base: our component.
        derived: the model that Dagster makes of it, or of a subclass.
    """
    own: dict[str, Any] = {
        name: (field.rebuild_annotation(), field)
        for name, field in derived.model_fields.items()
        if name not in base.model_fields
    }
    model = create_model(derived.__name__, __base__=Open)
    model.described, model.own = base, create_model(derived.__name__, __base__=dg.Model, **own)
    return model


# Types of fields


def _as_text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (bool, int, float)) else value


Texts = str | list[str]
"""One text or several."""

Tags = dict[str, Annotated[str, BeforeValidator(_as_text)]]
"""Tags; each stays as it is written."""

Anything = Annotated[dict[str, object], BeforeValidator(as_read)]
"""Names with whatever stands below them."""

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


def listed(texts: Texts) -> list[str]:
    """A list, also of one text."""
    return [texts] if isinstance(texts, str) else texts


def fields_of(cls: type[Section], *others: Any) -> BeforeValidator:
    """Makes a section of fields, where YAML may have one of ``others`` as well."""

    def read(value: Any) -> Any:
        return cls(**cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value

    return BeforeValidator(read, json_schema_input_type=Union[(cls, *others)])


def switched(value: "bool | S", cls: type[S]) -> S | None:
    """The settings of what is switched on; None where it is off."""
    return (cls() if value else None) if isinstance(value, bool) else value


UNITS = ("weeks", "days", "hours", "minutes", "seconds")

DURATION_WANTED = (
    "must be a duration: seconds, an ISO-8601 text such as PT6H, or fields such as {hours: 6}. A form such as 6:00 is "
    "none, because YAML reads it as 360."
)

_ISO_DURATION = TypeAdapter(timedelta)


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


Duration = Annotated[
    timedelta, BeforeValidator(duration), WithJsonSchema({"type": ["string", "number", "object"]})
]


def instance_of(kind: type[Any], example: str) -> Any:
    """A validator for what only a template or Python can give."""

    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError(f"is no {kind.__name__}: in YAML, write a template such as {example!r}.")
        return value

    return PlainValidator(check, json_schema_input_type=str)


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


Key = Annotated[dg.AssetKey, PlainValidator(asset_key, json_schema_input_type=str | list[str])]
"""An asset key; in YAML a text with slashes between its parts, or a list of texts."""
