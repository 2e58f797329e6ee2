"""What is a string stays as it is written: in YAML, and where a template comes to it."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaCacheSelector, PeakaProjectComponent, PeakaResource
from dagster_peaka.sandbox import PeakaSandbox
from tests.component.projects import Project, connection_to, keys, run_of, spec_of, steps
from tests.materializing import sqlite_tables

WRITTEN = [
    "01234567",
    "1234_5678",
    "0b11",
    "0x1f",
    "yes",
    "off",
    "12:30:45",
    "010",
    "1.10",
    "1e5",
    "12e4",
    "2024-01-01",
]
BASE = "connection:\n  project_id: p\n  base_url: http://127.0.0.1:9/api/v1\n"


@pytest.mark.parametrize("quote", ["", "'", '"'])
@pytest.mark.parametrize("text", WRITTEN)
def test_an_id_is_what_stands_in_the_file(project: Project, text: str, quote: str) -> None:
    """With and without quotes, in a block and in braces."""
    written = f"{quote}{text}{quote}"
    project.declare(f"connection: {{project_id: {written}}}\ncaches: [{{cache_id: {written}}}]", "braces")
    project.declare(
        f"connection:\n  project_id: {written} # its id\ncaches:\n- {written if '.' not in text else 'a.b.c'}\n",
        "block",
    )

    for folder in ("braces", "block"):
        component = project.component(folder)
        assert component.connection.project_id == text
        assert [entry.cache_id or text for entry in component.caches or ()] == [text]


@pytest.mark.parametrize("text", WRITTEN)
def test_tags_and_names_are_what_stands_in_the_file(project: Project, text: str) -> None:
    """Also where they come by an alias or are merged from elsewhere in the file."""
    text = text.replace(":", "") if ":" in text else text  # which no tag of Dagster's has
    name = text if text.isidentifier() or text.replace("_", "").isalnum() else "x"
    project.declare(
        f"{BASE}caches: [a.b.c]\ngroup_name: {name}\n"
        f"translation:\n  deps: [landed]\n  tags: &tags {{release: {text}}}\n  code_version: {text}\n"
        f"polling_sensor:\n  tags:\n    <<: *tags\n    other: {text}\n"
        f"upstream_sensor:\n  run_tags: *tags\ntranslation_of_nobody: 1\n".replace(
            "translation_of_nobody: 1\n", ""
        )
    )

    component = project.component()
    assert component.group_name == name
    assert not isinstance(component.polling_sensor, bool)
    assert component.polling_sensor.tags == {"release": text, "other": text}
    assert not isinstance(component.upstream_sensor, bool)
    assert component.upstream_sensor.run_tags == {"release": text}
    spec = spec_of(project.definitions(), "a/b/c")
    assert (spec.tags["release"], spec.code_version) == (text, text)


def test_numbers_stay_numbers_where_numbers_or_anything_may_stand(project: Project) -> None:
    """Metadata and settings of steps are not made of strings."""
    project.declare(
        f"{BASE}  poll_interval: 0.50\n  request_max_retries: 010\n  cancel_on_termination: no\ncaches: [a.b.c]\n"
        "translation:\n  metadata: {ratio: 1.10, many: 1_000, sure: yes}\n"
        "op:\n  tags: {cpu: 0.50}\n  retry_policy: {max_retries: 2, delay: 1.50}\n"
    )

    component = project.component()
    assert component.connection.poll_interval == 0.5
    assert component.connection.request_max_retries == 10
    assert component.connection.cancel_on_termination is False
    assert component.op.tags == {"cpu": 0.5}
    assert component.op.retry_policy == dg.RetryPolicy(max_retries=2, delay=1.5)
    metadata = spec_of(project.definitions(), "a/b/c").metadata
    assert {name: metadata[name] for name in ("ratio", "many", "sure")} == {
        "ratio": 1.1,
        "many": 1000,
        "sure": True,
    }


NAMES = ["2024", "2024_01", "1e5", "None", "True", "0x1f", "(1,2)", "'quoted'", "[1]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_template_comes_to_the_very_name_of_a_table(project: Project, tmp_path: Path, name: str) -> None:
    """A table may be named like a number, a truth value or nothing: its key, group, tags and texts keep that name."""
    tables = sqlite_tables(tmp_path / "named.db", [name])
    with PeakaSandbox({"ops": {"public": tables}}, caches=["ops.public.*"]) as sandbox:
        sandbox.wait_idle()
        project.declare(
            {
                "connection": connection_to(sandbox),
                "translation": {
                    "key": ["lake", "{{ props.table_name }}"],
                    "description": "{{ props.table_name }}",
                    "metadata": {
                        "table": "{{ props.table_name }}",
                        "both": "{{ props.schema_name }}_{{ 1 }}",
                    },
                    "code_version": "{{ props.table_name | string }}",
                },
                "source_asset_key": "{{ props.table_name }}",
            }
        )
        definitions = project.definitions(dev=True)
        assert run_of(definitions).success

    (spec,) = [spec for step in steps(definitions).values() for spec in step.specs]
    assert spec.key.path == ["lake", name]
    assert spec.description == name
    assert spec.code_version == name
    assert (spec.metadata["table"], spec.metadata["both"]) == (name, "public_1")
    assert [dep.asset_key for dep in spec.deps] == [dg.AssetKey.from_user_string(name)]


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ env.GIVEN }}", "2024_01"),
        ("{{- env.GIVEN -}}", "2024_01"),
        ("{{ env.GIVEN | replace('_', '-') }}", "2024-01"),
        ("20{{ '24' }}", "2024"),
        ("{{ 1 }}_{{ 2 }}", "1_2"),
        ("'{{ env.GIVEN }}'", "'2024_01'"),
        ("{% if true %}1_0{% endif %}", "1_0"),
        ("{{ {'a': {'b': '1_0'}}['a']['b'] }}", "1_0"),
        ("{{ [1, 2] }}", [1, 2]),
        ("{{ 7 }}", 7),
        ("{{ none }}", None),
        ("{{ true }}", True),
    ],
)
def test_a_template_comes_to_a_value_or_to_its_text(
    project: Project, monkeypatch: pytest.MonkeyPatch, template: str, value: Any
) -> None:
    """An expression alone comes to its value, of whatever kind; anything else to a text, never read once more."""
    monkeypatch.setenv("GIVEN", "2024_01")
    project.declare({**_static(), "translation": {"metadata": {"found": template}}})

    assert spec_of(project.definitions(), "a/b/c").metadata["found"] == value


@pytest.mark.parametrize("field", ["group_name", "name"])
def test_a_template_of_the_components_own_texts_is_not_read_once_more(
    project: Project, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """Dagster itself would make a number of it."""
    monkeypatch.setenv("GIVEN", "2024_01")
    project.declare({**_static(), field: "{{ env.GIVEN }}"})
    assert getattr(project.component(), field) == "2024_01"


@pytest.mark.parametrize(
    "age", ["21600", "21600.0", "'21600'", "PT6H", "P0DT6H", "{hours: 6}", "{hours: 5, minutes: 60}"]
)
def test_a_duration_is_seconds_a_text_of_iso_8601_or_fields(project: Project, age: str) -> None:
    """Six hours, in each form."""
    project.declare(f"{BASE}caches: [a.b.c]\nchecks: {{max_age: {age}}}\n")
    checks = project.component().checks
    assert checks is not None
    assert checks.max_age is not None
    assert checks.max_age.total_seconds() == 6 * 3600


@pytest.mark.parametrize(
    "selection", ["ops.public.t", ["ops.public.t"], {"include": "ops.public.t"}, "{{ 'ops.public.t' }}"]
)
def test_a_selection_may_be_a_pattern_alone(project: Project, sandbox: PeakaSandbox, selection: Any) -> None:
    """YAML takes what `selector=` takes: a pattern, several, or what to include and to exclude."""
    project.declare({"connection": connection_to(sandbox), "selection": selection})
    assert keys(project.definitions(dev=True)) == {"ops/public/t"}


def test_a_component_in_python_takes_a_pattern_too(sandbox: PeakaSandbox) -> None:
    """The same grammar."""
    connection: Any = {"api_key": "k", "project_id": "p"}
    selection: Any = "ops.public.t"
    component = PeakaProjectComponent(connection=PeakaResource(**connection), selection=selection)
    assert component.selection == PeakaCacheSelector(include="ops.public.t")


def _static() -> dict[str, Any]:
    return {"connection": {"project_id": "p", "base_url": "http://127.0.0.1:9/api/v1"}, "caches": ["a.b.c"]}


def test_an_override_may_match_an_id_that_looks_like_a_number(project: Project) -> None:
    """As it is written."""
    project.declare(f"{BASE}caches: [{{cache_id: 0123}}]\noverrides:\n- match: 0123\n  description: It.\n")
    assert spec_of(project.definitions(), "peaka/0123").description == "It."
