"""Caches that are written out in YAML: no state, and nothing is asked when definitions load."""

from typing import Any

import dagster as dg
import pytest

from dagster_peaka.sandbox import PeakaSandbox
from tests.component.projects import Project, connection_to, keys, run_of, spec_of, steps
from tests.materializing import triggers


def declared(project: Project, sandbox: PeakaSandbox, *caches: Any, **attributes: Any) -> dg.Definitions:
    """The definitions of a component with these caches."""
    project.declare({"connection": connection_to(sandbox), "caches": list(caches), **attributes})
    return project.definitions(dev=True)


def test_written_caches_need_neither_state_nor_peaka(project: Project, away: PeakaSandbox) -> None:
    """Definitions load while Peaka is away, without state, and without a request, also when state is refreshed."""
    definitions = declared(project, away, "ops.public.t", "ops.public.u")
    project.refresh()

    assert keys(definitions) == {"ops/public/t", "ops/public/u"}
    assert away.requests == []


@pytest.mark.parametrize("step_per", ["cache", "catalog", "project"])
def test_written_caches_are_synced_however_they_are_grouped(
    project: Project, sandbox: PeakaSandbox, step_per: str
) -> None:
    """Caches by table, by id, and with attributes are synced in steps of their own, or of their catalog or project."""
    by_id = {"cache_id": sandbox.caches["ops.public.u"], "key": "u", "mode": "full_refresh"}

    definitions = declared(project, sandbox, "ops.public.t", by_id, step_per=step_per)

    assert keys(definitions) == {"ops/public/t", "u"}
    assert (
        set(steps(definitions))
        == {
            "cache": {"ops__public__t", "u"},
            "catalog": {"peaka__ops", "u"},
            "project": {"peaka"},
        }[step_per]
    )
    result = run_of(definitions)
    assert result.success
    modes = {
        event.materialization.asset_key.to_user_string(): event.materialization.metadata["peaka/mode"].value
        for event in result.get_asset_materialization_events()
    }
    assert modes == {"ops/public/t": "incremental", "u": "full_refresh"}
    assert triggers(sandbox) == 2


def test_a_shared_step_of_written_caches_syncs_what_is_selected(
    project: Project, sandbox: PeakaSandbox
) -> None:
    """A step of several caches triggers those that the run selected and no others."""
    definitions = declared(project, sandbox, "ops.public.t", "ops.public.u", step_per="project")

    run = run_of(definitions, asset_selection=[dg.AssetKey(["ops", "public", "u"])])

    assert run.success
    assert triggers(sandbox) == 1


def test_a_written_cache_has_attributes_and_settings_of_its_own(
    project: Project, sandbox: PeakaSandbox
) -> None:
    """What an entry says of its asset and its step counts more than what the component says of all."""
    definitions = declared(
        project,
        sandbox,
        "ops.public.t",
        {
            "table": "ops.public.u",
            "key": "lake/u",
            "deps": ["landed/u"],
            "wait": False,
            "row_count": "off",
            "op": {"pool": "own"},
            "tags": {"a": "b"},
            "owners": ["team:data"],
            "kinds": ["peaka", "table"],
            "description": "Copied.",
            "code_version": 5,
            "freshness_policy": "{{ dg.FreshnessPolicy.cron('0 8 * * *', datetime.timedelta(hours=1)) }}",
        },
        polling_sensor=True,
        group_name="all",
        op={"pool": "shared"},
        overrides=[{"match": "ops.public.*", "tags": {"a": "c"}, "mode": "full_refresh"}],
    )

    t, u = spec_of(definitions, "ops/public/t"), spec_of(definitions, "lake/u")
    assert t.tags["a"] == "c"
    assert u.tags["a"] == "b"
    assert (t.group_name, u.group_name) == ("all", "all")
    assert u.metadata["peaka/mode"] == "full_refresh"
    assert u.metadata["peaka/row_count"] == "off"
    assert u.metadata["peaka/wait"] is False
    assert u.metadata["dagster/table_name"] == "ops.public.u"
    assert (u.description, u.code_version, u.kinds) == ("Copied.", "5", {"peaka", "table"})
    assert list(u.owners) == ["team:data"]
    assert [dep.asset_key.to_user_string() for dep in u.deps] == ["landed/u"]
    assert u.freshness_policy is not None
    assert steps(definitions)["ops__public__t"].op.pool == "shared"
    assert steps(definitions)["lake__u"].op.pool == "own"


def test_a_cache_by_id_gets_a_key_and_can_be_translated(project: Project, sandbox: PeakaSandbox) -> None:
    """Of a cache that is written by its id, the id is all that a translation can use."""
    plain = declared(project, sandbox, "5f3c")
    translated = declared(project, sandbox, "5f3c", translation={"key": "copies/{{ props.id }}"})

    assert keys(plain) == {"peaka/5f3c"}
    assert keys(translated) == {"copies/5f3c"}
    assert spec_of(translated, "copies/5f3c").metadata["peaka/cache_id"] == "5f3c"


def test_a_template_can_list_the_caches(project: Project, sandbox: PeakaSandbox) -> None:
    """Caches that a function of the project lists are written as in YAML: as texts or by their fields."""
    project.write(
        "lists.py",
        """
        import dagster as dg

        @dg.template_var
        def ours():
            return ["ops.public.t", "5f3c", {"table": "ops.public.u", "key": "u"}]
        """,
    )
    path = project.declare({"connection": connection_to(sandbox), "caches": "{{ ours }}"})
    path.write_text(f"template_vars_module: .lists\n{path.read_text()}")

    assert keys(project.definitions()) == {"ops/public/t", "peaka/5f3c", "u"}
