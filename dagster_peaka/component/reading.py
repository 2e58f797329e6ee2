"""From YAML to values: strings as they are written, templates by what they come to, file and field in every error.

Whatever is wrong is a ``PeakaConfigError`` that names file, line and field, or the field alone where there is no file.
"""

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import dagster as dg
import yaml
from dagster.components.resolved.errors import ResolutionException
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from dagster_peaka.caches.names import near_matches
from dagster_peaka.errors import PeakaConfigError

SEQUENCES = (list, tuple)
"""The very types: much of Dagster's is a tuple as well."""

M = TypeVar("M", bound=BaseModel)

Loc = tuple[str | int, ...]
"""Where in a document something stands: names of fields, and positions in lists."""

# Strings as they are written


class Written(str):
    """A scalar as it stands in the file. ``value`` is what YAML reads it as: of ``010`` the number 8."""

    value: object = None


class _Loader(yaml.SafeLoader):
    """Reads numbers and truth values as they are written: which of them are meant is the fields' to say."""

    def construct_written(self, node: yaml.ScalarNode) -> Written:
        """The scalar, and what it would have been."""
        written = Written(node.value)
        written.value = yaml.SafeLoader.yaml_constructors[node.tag](self, node)
        return written


for _kind in ("int", "float", "bool"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_written)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: str(node.value))


def as_written(context: dg.ResolutionContext) -> Mapping[str, Any]:
    """What ``context`` is about, as it stands in the file; nothing where it was read from elsewhere."""
    tree = context.source_position_tree
    if tree is None:
        return {}
    try:
        loader = _Loader(Path(tree.position.filename).read_text(encoding="utf-8"))
    except OSError:
        return {}
    while loader.check_node():
        node = loader.get_node()
        if node is not None and node.start_mark.line + 1 == tree.position.start.line:
            value = cast("Any", loader).construct_document(node)
            for part in context.path:
                value = value[part]
            return value
    return {}


def as_read(value: Any) -> Any:
    """``value`` as YAML reads it, for where anything may stand."""
    if isinstance(value, Mapping):
        return {str(name): as_read(member) for name, member in cast("Mapping[str, Any]", value).items()}
    if type(value) in SEQUENCES:
        return [as_read(entry) for entry in cast("Sequence[Any]", value)]
    return value.value if isinstance(value, Written) else value


# Templates

TEMPLATE = r"\{[{%]"
"""How a template is recognized."""

OF_EACH_CACHE = re.compile(r"\{[{%].*\b(props|spec)\b", re.DOTALL)
"""A template that comes to something else for each cache."""

EXPRESSION = re.compile(r"\{\{-?(.*?)-?\}\}\n?", re.DOTALL)
"""A template that may be one expression and nothing else."""

SCALARS = (str, bytes, bool, int, float, complex)
NEW_LINE, NO_PROGRAM = "\n", "\0"


class Exact(dg.ResolutionContext):
    """A context in which a template comes to the very value of its expression, or to its text.

    Dagster reads once more, as Python, the text that a template makes: of a table ``2024_01`` the number 202401. A
    template of ``props`` or ``spec`` stays as it is until there are any.
    """

    @classmethod
    def of(cls, context: dg.ResolutionContext) -> "Exact":
        """The same context, but exact."""
        return cls(
            scope=context.scope,
            path=context.path,
            source_position_tree=context.source_position_tree,
            stash=context.stash,
        )

    def resolve_value(self, val: Any, as_type: type | None = None) -> Any:  # noqa: ARG002 (Dagster's own signature)
        """``val`` with its templates replaced by what they come to."""
        if isinstance(val, Mapping):
            members = cast("Mapping[str, Any]", val)
            return {name: self.at_path(name).resolve_value(member) for name, member in members.items()}
        if type(val) in SEQUENCES:
            entries = cast("Sequence[Any]", val)
            return [self.at_path(number).resolve_value(entry) for number, entry in enumerate(entries)]
        # What is no template stays as it is: rendering would make a number of the text "5".
        if not isinstance(val, str) or not re.search(TEMPLATE, val):
            return val
        if OF_EACH_CACHE.search(val) and "props" not in self.scope:
            return val
        try:
            return self._come_to(val)
        except Exception as error:
            # Not what Dagster shows besides: lines of the file, which may hold the API key.
            lines = str(error).strip().splitlines()
            reason = lines[-1] if lines else type(error).__name__
        raise problem_at(self, reason)

    def _come_to(self, template: str) -> Any:
        render = cast("Callable[[str], object]", super().resolve_value)  # its signature leaves types open
        value = render(template)
        if value is not None and not isinstance(value, (*SCALARS, list, tuple, dict, set)):
            return value
        expression = EXPRESSION.fullmatch(template)
        if expression and not re.search(TEMPLATE, expression[1]):
            # A list is not read once more.
            (value,) = cast("list[object]", render(f"{{{{ [{expression[1]}] }}}}"))
        elif isinstance(value, SCALARS):
            # Neither is what holds a character that no program may hold.
            value = cast("str", render(f"{template.removesuffix(NEW_LINE)}{NO_PROGRAM}"))
            value = value.removesuffix(NO_PROGRAM)
        return cast("object", value)


def is_late(value: Any) -> bool:
    """Whether a template is in it that has to be rendered for each cache."""
    return (
        isinstance(value, (str, list, dict)) and OF_EACH_CACHE.search(str(cast("object", value))) is not None
    )


def rendered(context: dg.ResolutionContext, value: Any, **scope: object) -> Any:
    """``value`` for one cache, with what ``scope`` tells of it."""
    # Its signature has a type that Dagster leaves open.
    return cast("Any", Exact.of(context)).with_scope(**scope).resolve_value(value)


# Errors

FIELDS_WANTED = "write fields here, each on a line of its own, or a template that comes to them."

HINTS = {
    "concurrency": " Dagster limits how many steps run at once by pools: set pool, and the pool's limit in Dagster.",
    "op": " The checks are evaluated by the steps of the syncs: the component's op counts for them.",
    "partitions_def": " A cache is synced as a whole.",
}
"""What to do instead of fields that a user of Dagster may look for."""

MEANT_LEAST = ("string_type", "bool_type", "none_required", "callable_type", "is_instance_of")
"""What pydantic says of the types that a field takes beside the one that it is for."""


class PeakaYamlError(PeakaConfigError, ResolutionException):
    """A mistake in YAML. The message says where: file, line and field. Dagster adds nothing to its own kind."""


def refuse(wrong: object, problem: str, *loc: str | int) -> None:
    """Raise, in a validator of a whole model, what is wrong with one of its fields."""
    if wrong:
        kind = PydanticCustomError("peaka_field", "{problem}", {"problem": problem})
        raise ValidationError.from_exception_data("", [{"type": kind, "loc": loc, "input": problem}])


def problem_at(context: dg.ResolutionContext, problem: str, *loc: str | int) -> PeakaYamlError:
    """The error for a field of what ``context`` is about."""
    return all_problems(context, [(loc, problem)])


def all_problems(context: dg.ResolutionContext, problems: Iterable[tuple[Loc, str]]) -> PeakaYamlError:
    """One error for all that is wrong."""
    return PeakaYamlError("\n".join(f"{_place(context, loc)}: {problem}" for loc, problem in problems))


def _place(context: dg.ResolutionContext, loc: Loc) -> str:
    """``/folder/defs.yaml:7: attributes.wait``, or the field alone where nothing was read from a file."""
    path = [*context.path, *loc]
    field = ".".join(map(str, path))
    if context.source_position_tree is None:
        return field
    position, _ = context.source_position_tree.lookup_closest_and_path(path, None)
    return f"{position}: {field}"


@contextmanager
def blaming(context: dg.ResolutionContext, *loc: str | int) -> Generator[None, None, None]:
    """Says of an error which field, of which file, it is about."""
    try:
        yield
    except PeakaYamlError:
        raise
    except (PeakaConfigError, dg.DagsterError) as error:
        raise problem_at(context, str(error), *loc) from None


def validated(cls: type[M], context: dg.ResolutionContext, values: Mapping[str, Any]) -> M:
    """An instance of ``cls``, or one error for all that is wrong."""
    try:
        return cls(**values)
    except ValidationError as error:
        # Raised below, where no error is at hand that holds the values: one of them may be the API key.
        problems = _problems_in(cls, error, values)
    raise all_problems(context, problems)


def _problems_in(cls: type[BaseModel], error: ValidationError, values: Any) -> list[tuple[Loc, str]]:
    """What is wrong with which of the ``values``, each once; never the value itself, which may be the API key.

    Where a field takes one of several types, pydantic complains once for each of them. The complaint that leads
    deepest is the one about what the writer meant.
    """
    found: dict[Loc, tuple[str, str]] = {}
    for line in error.errors(include_url=False):
        loc = _as_it_stands(line["loc"], values, line["type"])
        message = line["msg"].removeprefix("Value error, ")
        if line["type"] == "extra_forbidden":
            name = str(loc[-1])
            hint = HINTS.get(name) or near_matches(name, _known_fields(cls, loc[:-1]))
            message = f"there is no such field.{hint}"
        elif line["type"] in ("model_type", "model_attributes_type", "dict_type"):
            message = FIELDS_WANTED
        elif line["input"] is None:
            message += "; it is empty. Is the environment variable set that its template names?"
        if loc not in found or found[loc][0] in MEANT_LEAST:
            found[loc] = line["type"], message
    return [
        (loc, message)
        for loc, (_, message) in found.items()
        if not any(len(other) > len(loc) and other[: len(loc)] == loc for other in found)
    ]


def _as_it_stands(parts: Sequence[str | int], values: Any, kind: str) -> Loc:
    """A place as it stands in ``values``: without pydantic's names for the types that it tried."""
    path: list[str | int] = []
    for part in parts:
        if isinstance(values, Mapping) and part in values:
            values = cast("Mapping[Any, Any]", values)[part]
        elif isinstance(values, list) and isinstance(part, int):
            values = dict(enumerate(cast("list[Any]", values))).get(part)
        elif kind != "missing" or part != parts[-1]:
            continue
        path.append(part)
    return tuple(path)


def _known_fields(cls: type[BaseModel], path: Loc) -> Iterable[str]:
    """The fields that may stand at ``path``."""
    schema = cls.model_json_schema()
    section = schema
    for part in path:
        if found := re.search(r"#/\$defs/(\w+)", str(section["properties"].get(part))):
            section = schema["$defs"][found[1]]
    return section["properties"]
