"""A project's own component: what assets are called and what steps do, changed in Python and in YAML alike."""

from typing import Any

import pytest
from dagster.components import AssetAttributesModel
from dagster.components.resolved import base, errors

from dagster_peaka import PeakaProjectComponent
from dagster_peaka.component.attributes import PeakaAssetAttributes
from dagster_peaka.sandbox import PeakaSandbox
from tests.component.projects import Project, connection_to, keys, run_of, spec_of, steps

OWN = """
    from collections.abc import Iterable

    import dagster as dg
    from dagster_peaka import PeakaCache, PeakaProjectComponent, PeakaResource


    class Lake(PeakaProjectComponent):
        suffix: str = "copy"

        def get_asset_spec(self, props: PeakaCache) -> dg.AssetSpec:
            spec = super().get_asset_spec(props)
            return spec.replace_attributes(key=[self.suffix, *spec.key.path])

        def execute(self, context: dg.AssetExecutionContext, peaka: PeakaResource) -> Iterable:
            context.log.info("begins")
            for result in super().execute(context, peaka):
                yield result._replace(metadata={**result.metadata, "own": True})
    """


@pytest.fixture
def own(project: Project) -> Project:
    """A project with a component class of its own."""
    project.write("own.py", OWN, folder="components")
    return project


@pytest.mark.parametrize("step_per", ["cache", "project"])
def test_execute_and_get_asset_spec_can_be_overridden(
    own: Project, sandbox: PeakaSandbox, step_per: str
) -> None:
    """A subclass changes specs and steps, may have fields of its own, and keeps what YAML says, run config included."""
    kind = f"{own.folder.project_name}.defs.components.own.Lake"
    own.declare(
        {
            "connection": connection_to(sandbox),
            "selection": {"include": "*.*.t"},
            "step_per": step_per,
            "suffix": "own",
            "op": {"pool": "peaka", "tags": {"team": "data"}, "retry_policy": {"max_retries": 4}},
            "translation": {"group_name": "{{ spec.key.path[0] }}"},
            "last_sync_check": True,
        },
        kind=kind,
    )

    definitions = own.definitions(dev=True)

    assert keys(definitions) == {"own/ops/public/t"}
    assert spec_of(definitions, "own/ops/public/t").group_name == "own"
    ((name, step),) = steps(definitions).items()
    assert step.op.pool == "peaka"
    assert step.op.tags["team"] == "data"
    assert step.op.retry_policy is not None
    assert step.op.retry_policy.max_retries == 4
    result = run_of(definitions, {"ops": {name: {"config": {"mode": "full_refresh"}}}})
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["own"].value is True
    assert event.materialization.metadata["peaka/mode"].value == "full_refresh"
    assert [check.passed for check in result.get_asset_check_evaluations()] == [True]


def test_the_state_of_a_subclass_is_its_own(own: Project, sandbox: PeakaSandbox) -> None:
    """The state's key begins with the name of the component's class."""
    kind = f"{own.folder.project_name}.defs.components.own.Lake"
    own.declare({"connection": connection_to(sandbox)}, kind=kind)

    assert own.component().defs_state_config.key == "Lake[sandbox]"


def test_a_translation_in_yaml_reaches_what_depends_on_the_assets_of_an_own_class(
    own: Project, sandbox: PeakaSandbox
) -> None:
    """A query over a cache depends on the key that class and translation have come to."""
    sandbox.queries.create("daily", "SELECT id FROM ops.public.t")
    own.declare(
        {
            "connection": connection_to(sandbox),
            "translation": {"key_prefix": "lake"},
            "queries": True,
        },
        kind=f"{own.folder.project_name}.defs.components.own.Lake",
    )

    definitions = own.definitions(dev=True)

    assert {"lake/copy/ops/public/t", "lake/copy/ops/public/u"} < keys(definitions)
    query = spec_of(definitions, "peaka/mtquery/daily")
    assert [dep.asset_key.to_user_string() for dep in query.deps] == ["lake/copy/ops/public/t"]


FIELDS = """
    from collections.abc import Callable
    from datetime import date
    from typing import Annotated

    import dagster as dg
    from dagster_peaka import PeakaProjectComponent


    def read_date(context: dg.ResolutionContext, text: str) -> date:
        return date.fromisoformat(context.resolve_value(text, as_type=str))


    class Team(dg.Resolvable, dg.Model):
        name: str
        since: Annotated[date, dg.Resolver(read_date, model_field_type=str)]


    class Owned(PeakaProjectComponent):
        teams: list[Team] = []
        since: Annotated[date, dg.Resolver(read_date, model_field_type=str)]
        size: int = 1
        chosen: dg.Injected[Callable[[str], bool]] | None = None
    """


@pytest.fixture
def owned(project: Project) -> Project:
    """A project with a component class that has fields as any of Dagster's components may have them."""
    project.write("own.py", FIELDS, folder="components")
    project.write(
        "vars.py", "import dagster as dg\n\n@dg.template_var\ndef short():\n    return lambda x: len(x) < 5\n"
    )
    return project


def test_a_subclass_has_fields_as_dagster_resolves_them(owned: Project) -> None:
    """Resolvers, resolvable classes, lists of these and injected values work as in any component, and are checked."""
    kind = f"{owned.folder.project_name}.defs.components.own.Owned"
    static = {"connection": {"project_id": "p"}, "caches": ["a.b.c"]}
    teams = [{"name": "{{ 'data' }}", "since": "2024-01-31"}]
    path = owned.declare(
        {**static, "teams": teams, "since": "2023-01-01", "size": 3, "chosen": "{{ short }}"}, kind=kind
    )
    path.write_text(f"template_vars_module: .vars\n{path.read_text()}")

    component: Any = owned.component()

    (team,) = component.teams
    assert (team.name, team.since.isoformat(), component.size) == ("data", "2024-01-31", 3)
    assert component.chosen("four")
    schema = type(component).model().model_json_schema()
    assert "TeamModel" in schema["$defs"]
    assert schema["required"] == ["connection", "since"]
    owned.declare({**static, "since": "2023-01-01", "teams": [{"nam": "x"}]}, kind=kind)
    assert "attributes.teams.0.nam" in owned.refusal()


def test_a_key_that_is_written_out_is_in_no_error_of_a_subclass_s_own_field(owned: Project) -> None:
    """Dagster shows the lines around a mistake."""
    kind = f"{owned.folder.project_name}.defs.components.own.Owned"
    connection = {"project_id": "p", "api_key": "pk-never-to-be-seen"}
    owned.declare({"connection": connection, "since": "soon"}, kind=kind)

    refusal = owned.refusal()

    assert "soon" in refusal
    assert "pk-never-to-be-seen" not in refusal


def test_a_component_is_read_without_a_file() -> None:
    """From a dictionary, as Dagster's own tests and apps make components."""
    component = PeakaProjectComponent.from_attributes_dict(
        attributes={
            "connection": {"project_id": "p"},
            "caches": ["a.b.c"],
            "wait": False,
            "polling_sensor": True,
        }
    )

    assert component.wait is False
    with pytest.raises(ValueError, match=r"attributes\.mode: "):
        PeakaProjectComponent.from_attributes_dict(
            attributes={"connection": {"project_id": "p"}, "mode": "x"}
        )


def test_what_is_used_of_dagster_beside_its_documented_api_is_there() -> None:
    """Names without an underscore that `dagster.components` does not export: a release may move them."""
    assert base.resolve_fields
    assert issubclass(errors.ResolutionException, Exception)
    attributes = set(AssetAttributesModel.model_fields) - {"partitions_def", "skippable"}
    assert attributes == set(PeakaAssetAttributes.model_fields)
