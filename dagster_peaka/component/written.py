"""Texts as they are written: YAML reads ``01234567`` as an octal number and ``12:30:45`` as seconds; an id is neither.

What Dagster hands over has been read by YAML's rules. The file is read once more here, for how each scalar was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import dagster as dg
import yaml
from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
TRUTH = "tag:yaml.org,2002:bool"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def as_written(context: dg.ResolutionContext, model: M) -> M:
    """``model`` with its texts as they stand in the file that ``context`` is about.

    A number stays a number where only a number is meant, or anything may stand.
    """
    node = _document(context)
    for part in context.path:
        node = _child(node, part)
    return model if node is None else _of_model(model, node)


def _document(context: dg.ResolutionContext) -> yaml.Node | None:
    tree = context.source_position_tree
    if tree is None:
        return None
    path = Path(tree.position.filename)
    try:
        documents = _composed(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, yaml.YAMLError):
        return None  # it was read from elsewhere
    return next((node for node in documents if node.start_mark.line + 1 == tree.position.start.line), None)


@lru_cache(maxsize=8)
def _composed(path: Path, _: int) -> Sequence[yaml.Node]:
    text = path.read_text(encoding="utf-8")
    nodes = cast("Any", yaml).compose_all(text, Loader=_LOADER)
    return [node for node in cast("Iterator[yaml.Node | None]", nodes) if node is not None]


def _child(node: yaml.Node | None, part: str | int) -> yaml.Node | None:
    """What stands below a name or at a position; of a name that stands twice, the last, as YAML takes it."""
    if isinstance(node, yaml.SequenceNode):
        return node.value[part] if isinstance(part, int) and part < len(node.value) else None
    if not isinstance(node, yaml.MappingNode):
        return None
    for key, value in reversed(node.value):
        if key.value == str(part):
            return value
    merged = (value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge")
    for value in merged:
        for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if (found := _child(each, part)) is not None:
                return found
    return None


def _of_model(model: M, node: yaml.Node) -> M:
    fields = type(model).model_fields
    changes = {
        name: _of_value(getattr(model, name), fields[name].annotation, node=child)
        for name in model.model_fields_set
        if name in fields and (child := _child(node, name)) is not None
    }
    return model.model_copy(update=changes)


def _of_value(value: Any, *annotations: Any, node: yaml.Node) -> Any:
    if isinstance(value, BaseModel):
        return _of_model(value, node)
    kinds = [kind for annotation in annotations for kind in _kinds(annotation)]
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        within = [get_args(kind)[1] for kind in kinds if get_origin(kind) is dict]
        return {
            name: each if (child := _child(node, name)) is None else _of_value(each, *within, node=child)
            for name, each in members.items()
        }
    if isinstance(value, (list, tuple)):
        within = [get_args(kind)[0] for kind in kinds if get_origin(kind) in (list, tuple)]
        values = cast("list[Any]", value)
        return type(values)(
            each if (child := _child(node, number)) is None else _of_value(each, *within, node=child)
            for number, each in enumerate(values)
        )
    if not isinstance(node, yaml.ScalarNode) or str not in kinds:
        return value
    is_read_otherwise = node.tag in NUMBERS or (node.tag == TRUTH and bool not in kinds)
    return node.value if is_read_otherwise and node.value != str(value) else value


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that a field takes."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for argument in get_args(annotation):
            yield from _kinds(argument)
    elif origin is Literal:
        yield from {type(argument) for argument in get_args(annotation)}
    else:
        yield annotation
