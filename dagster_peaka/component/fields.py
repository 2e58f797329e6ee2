"""What the fields of a component take, and what its schema says about them to ``dg check yaml`` and to editors."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, ClassVar, TypeVar, cast

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

from dagster_peaka.component.reading import TEMPLATE, Exact, as_read, validated

S = TypeVar("S", bound="Section")


class Own(dg.Resolvable, dg.Model):
    """The fields that a subclass of a section has besides: Dagster resolves them, as those of any component."""

    model_config = ConfigDict(
        extra="forbid",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        coerce_numbers_to_str=True,  # templates come to numbers wherever they can
    )


class Open(BaseModel):
    """What Dagster reads a section's YAML into: as it is. What it says is looked at once, with file and field."""

    model_config = ConfigDict(extra="allow")

    described: ClassVar[type[BaseModel]] = BaseModel
    own: ClassVar[type[Own]] = Own

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        described, own = (
            handler.resolve_ref_schema(handler(part.__pydantic_core_schema__))
            for part in (cls.described, cls.own.model())
        )
        return {
            **described,
            "properties": {**described["properties"], **own["properties"]},
            "required": [*described.get("required", ()), *own.get("required", ())],
        }


@cache
def model_of(section: type[BaseModel], described: type[BaseModel]) -> type[Open]:
    """The model of a section's YAML; of its fields, ``described`` has those that are not its own."""
    own: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in section.model_fields.items()
        if name not in described.model_fields
    }
    model = create_model(f"{section.__name__}Model", __base__=Open)
    model.described, model.own = described, create_model(section.__name__, __base__=Own, **own)
    return model


class Section(Own):
    """A part of a component's attributes, in YAML and in Python alike. An unknown field is an error."""

    @classmethod
    def model(cls) -> type[Open]:
        """What Dagster reads it into."""
        return model_of(cls, cls)

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Any:
        """The section, where a field of somebody else's component is one."""
        return validated(cls, context, Exact.of(context).resolve_value(model.model_extra))

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        described = handler(schema)
        fields = handler.resolve_ref_schema(described)["properties"]
        said = _said_of_fields(cls)
        for name, field in fields.items():
            about = {word: field.pop(word) for word in ABOUT if word in field}
            told = {"description": said[name]} if name in said else {}
            fields[name] = {**_readable(field), **told, **about}
        return described


@cache
def _said_of_fields(section: type) -> Mapping[str, str]:
    """What stands below the fields of a class and its bases. Pydantic would read that with every import, which takes
    half a second.
    """
    said: dict[str, str] = {}
    for cls in reversed(section.__mro__[: section.__mro__.index(Section)]):
        with suppress(OSError, TypeError, SyntaxError):  # of a class that no file defines
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
            for field, below in pairwise(cast("ast.ClassDef", definition).body):
                text = below.value if isinstance(below, ast.Expr) else None
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Constant):
                    said[ast.unparse(field.target)] = inspect.cleandoc(str(text.value))
    return said


ABOUT = ("title", "description", "default", "examples")
"""What a schema says about a field, beside what it takes."""

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


def switched(value: "bool | S", cls: type[S]) -> S | None:
    """The settings of what is switched on; None where it is off."""
    return (cls() if value else None) if isinstance(value, bool) else value


UNITS = ("weeks", "days", "hours", "minutes", "seconds")

DURATION_WANTED = (
    "must be a duration: seconds, an ISO-8601 text such as PT6H, or fields such as {hours: 6}. A form such as 6:00 is "
    "none, because YAML reads it as 360."
)

_ISO_DURATION = TypeAdapter(timedelta)


def _duration(value: Any) -> timedelta:
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
    timedelta, BeforeValidator(_duration), WithJsonSchema({"type": ["string", "number", "object"]})
]


def instance_of(kind: type[Any], example: str) -> Any:
    """A validator for what only a template or Python can give."""

    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError(f"is no {kind.__name__}: in YAML, write a template such as {example!r}.")
        return value

    return PlainValidator(check, json_schema_input_type=str)


def asset_key(value: Any) -> dg.AssetKey:
    """The asset key that a value means; a ``ValueError`` for anything but a key, a text, or a list of texts."""
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
