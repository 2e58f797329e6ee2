"""A project's own component: what assets are called and what steps do, changed in Python and in YAML alike."""

import pytest

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
