"""What the component's YAML says reaches its assets, steps, checks and sensors."""

from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaClient, PeakaProjectComponent, PeakaResource
from dagster_peaka.component import PeakaCacheEntry, PeakaOpSettings
from dagster_peaka.sandbox import PeakaSandbox
from tests.component.projects import Project, connection_to, keys, run_of, spec_of, steps


def loaded(project: Project, sandbox: PeakaSandbox, **attributes: Any) -> dg.Definitions:
    """The definitions of a component with these attributes, from what Peaka says now."""
    project.declare({"connection": connection_to(sandbox), **attributes})
    return project.definitions(dev=True)


def test_a_connection_alone_makes_all_caches_assets_that_can_be_synced(
    project: Project, sandbox: PeakaSandbox
) -> None:
    """With nothing but a connection, every cache is an asset, and a run syncs them."""
    definitions = loaded(project, sandbox)

    assert keys(definitions) == {"ops/public/t", "ops/public/u"}
    assert run_of(definitions).success
    assert {execution.mode for execution in sandbox.executions() if execution.origin == "api"} == {
        "INCREMENTAL"
    }


def test_the_key_is_bound_by_the_name_of_its_variable(project: Project, sandbox: PeakaSandbox) -> None:
    """The resource holds the variable's name, by default that of PEAKA_API_KEY."""
    definitions = loaded(project, sandbox)

    resource = (definitions.resources or {})["peaka"]
    assert isinstance(resource, PeakaResource)
    assert isinstance(resource.api_key, dg.EnvVar)
    assert resource.api_key.env_var_name == "PEAKA_API_KEY"


@pytest.mark.parametrize(
    "key", [{"env": "OTHER"}, "{{ env.OTHER }}", "{{env.OTHER}}", {"env": "{{ 'OTHER' }}"}]
)
def test_a_template_of_a_variable_binds_the_variable_too(
    project: Project, sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch, key: Any
) -> None:
    """The key's variable can be named as a template as well, and its value is not read then."""
    monkeypatch.setenv("OTHER", sandbox.api_key)
    project.declare({"connection": connection_to(sandbox, api_key=key)})

    resource = (project.definitions(dev=True).resources or {})["peaka"]

    assert isinstance(resource, PeakaResource)
    assert isinstance(resource.api_key, dg.EnvVar)
    assert resource.api_key.env_var_name == "OTHER"


def test_every_setting_of_the_connection_reaches_the_resource(
    project: Project, sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each field of PeakaResource can be set in YAML, and a variable's value is read by a template."""
    monkeypatch.setenv("POLL", "7")
    settings = {
        "zone": "eu",
        "studio_url": "https://peaka.example/{project_id}/{cache_id}",
        "studio_query_url": "https://peaka.example/{project_id}/queries/{query_id}",
        "request_timeout": 11,
        "request_max_retries": 2,
        "max_concurrent_requests": 3,
        "poll_interval": "{{ env.POLL }}",
        "poll_max_interval": 20.5,
        "start_timeout": 12,
        "poll_timeout": 13,
        "outage_tolerance": 14,
        "stuck_timeout": 900,
        "max_response_bytes": 1_000_000,
        "on_running": "attach",
        "cancel_on_termination": False,
        "read_only": True,
    }
    project.declare({"connection": connection_to(sandbox, **settings)})

    connection = project.component().connection

    expected = {**settings, "poll_interval": 7.0}
    assert {name: getattr(connection, name) for name in settings} == expected
    assert set(settings) | {"api_key", "project_id", "base_url"} == set(PeakaResource.model_fields)


def test_a_selection_includes_and_excludes(project: Project, sandbox: PeakaSandbox) -> None:
    """Only selected caches become assets, and only their details are asked for."""
    sandbox.clear_requests()

    definitions = loaded(project, sandbox, selection={"include": ["ops.public.*"], "exclude": "*.*.u"})

    assert keys(definitions) == {"ops/public/t"}
    assert len(sandbox.requests) == 5  # catalogs, statuses, tables; columns and settings of one cache


def test_settings_of_steps_reach_the_op(project: Project, sandbox: PeakaSandbox) -> None:
    """Pool, tags and retry policy are those of the step that Dagster runs."""
    policy = {"max_retries": 3, "delay": 1.5, "backoff": "exponential", "jitter": "plus_minus"}

    definitions = loaded(
        project, sandbox, op={"pool": "peaka", "tags": {"team": "data"}, "retry_policy": policy}
    )

    for step in steps(definitions).values():
        assert step.op.pool == "peaka"
        assert step.op.tags["team"] == "data"
        assert step.op.retry_policy == dg.RetryPolicy(
            max_retries=3, delay=1.5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
        )


@pytest.mark.parametrize(
    ("step_per", "names"),
    [("cache", {"ops__public__t", "ops__public__u"}), ("catalog", {"peaka__ops"}), ("project", {"peaka"})],
)
def test_step_per_groups_caches_into_steps(
    project: Project, sandbox: PeakaSandbox, step_per: str, names: set[str]
) -> None:
    """Caches have a step each, or share one; the steps of many caches are named after the component's folder."""
    assert set(steps(loaded(project, sandbox, step_per=step_per))) == names


def test_assets_may_be_as_old_as_twice_their_schedules(project: Project, sandbox: PeakaSandbox) -> None:
    """Freshness comes from Peaka's schedules on request; a cache without one has none."""
    with PeakaClient(sandbox.api_key, sandbox.project_id, sandbox.base_url) as client:
        client.update_cache(
            sandbox.caches["ops.public.t"], incremental_schedule="PT6H", full_refresh_schedule=None
        )

    definitions = loaded(
        project,
        sandbox,
        translation={"freshness_policy": "{{ props.scheduled_freshness }}"},
        polling_sensor=True,
    )

    policy = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=12))
    assert spec_of(definitions, "ops/public/t").freshness_policy == policy
    assert spec_of(definitions, "ops/public/u").freshness_policy is None


def test_mode_row_count_and_group_are_those_of_every_asset(project: Project, sandbox: PeakaSandbox) -> None:
    """What is said about all assets is on each of them."""
    definitions = loaded(
        project,
        sandbox,
        mode="full_refresh",
        row_count="query",
        fingerprint="checksum",
        group_name="lake",
        last_sync_check=True,
        automation_condition="{{ dg.AutomationCondition.eager() }}",
    )

    for step in steps(definitions).values():
        (spec,) = step.specs
        assert spec.metadata["peaka/mode"] == "full_refresh"
        assert spec.metadata["peaka/row_count"] == "query"
        assert spec.metadata["peaka/fingerprint"] == "checksum"
        assert spec.group_name == "lake"
        assert spec.automation_condition == dg.AutomationCondition.eager()
        assert [check.name for check in step.check_specs] == ["last_sync_succeeded"]


def test_source_tables_become_dependencies(project: Project, sandbox: PeakaSandbox) -> None:
    """A template says which asset stands for the table that a cache copies; where it is empty there is none."""
    definitions = loaded(
        project,
        sandbox,
        source_asset_key="{% if props.table_name == 't' %}landed/{{ props.table_name }}{% endif %}",
    )

    assert [dep.asset_key for dep in spec_of(definitions, "ops/public/t").deps] == [
        dg.AssetKey(["landed", "t"])
    ]
    assert list(spec_of(definitions, "ops/public/u").deps) == []


def test_a_translation_changes_every_asset(project: Project, sandbox: PeakaSandbox) -> None:
    """Attributes are rendered for each cache, from its properties and its spec; tags and metadata are added."""
    definitions = loaded(
        project,
        sandbox,
        translation={
            "key": "lake/{{ props.table_name }}",
            "group_name": "{{ spec.group_name }}_copies",
            "tags": {"tier": 1, "schema": "{{ props.schema_name }}"},
            "metadata": {"of": "{{ props.name }}"},
            "owners": ["team:data"],
            "kinds": ["peaka", "table"],
            "description": "Copied.",
            "code_version": "3",
            "deps": ["landed/{{ props.table_name }}"],
        },
    )

    spec = spec_of(definitions, "lake/t")
    assert keys(definitions) == {"lake/t", "lake/u"}
    assert spec.group_name == "ops_copies"
    assert spec.tags["tier"] == "1"
    assert spec.tags["schema"] == "public"
    assert spec.metadata["of"] == "ops.public.t"
    assert spec.metadata["dagster/table_name"] == "ops.public.t"
    assert list(spec.owners) == ["team:data"]
    assert spec.kinds == {"peaka", "table"}
    assert (spec.description, spec.code_version) == ("Copied.", "3")
    assert [dep.asset_key.to_user_string() for dep in spec.deps] == ["landed/t"]


def test_a_translation_can_be_one_template(project: Project, sandbox: PeakaSandbox) -> None:
    """A function of the project, offered by its template variables, makes the whole spec."""
    project.write(
        "names.py",
        """
        import dagster as dg

        @dg.template_var
        def in_lake():
            return lambda spec, props: spec.replace_attributes(key=["lake", props.table_name])
        """,
    )
    path = project.declare(
        {"connection": connection_to(sandbox), "translation": "{{ in_lake(spec, props) }}"}
    )
    path.write_text(f"template_vars_module: .names\n{path.read_text()}")

    assert keys(project.definitions(dev=True)) == {"lake/t", "lake/u"}


def test_dagster_s_own_post_processing_applies(project: Project, sandbox: PeakaSandbox) -> None:
    """What Dagster lets every component's YAML say about assets is true of these, and they are synced as before."""
    path = project.declare({"connection": connection_to(sandbox), "selection": {"include": "*.*.t"}})
    path.write_text(
        f"{path.read_text()}\npost_processing:\n  assets:\n    - attributes: {{owners: [team:data]}}\n"
    )

    definitions = project.definitions(dev=True)

    assert list(spec_of(definitions, "ops/public/t").owners) == ["team:data"]
    assert run_of(definitions).success


def test_overrides_change_the_caches_that_a_pattern_means(project: Project, sandbox: PeakaSandbox) -> None:
    """An override changes what is said of the caches it means, the later one over the earlier one."""
    definitions = loaded(
        project,
        sandbox,
        op={"pool": "small", "tags": {"team": "data"}},
        polling_sensor=True,
        overrides=[
            {"match": "ops.public.*", "group_name": "one", "tags": {"a": "b"}, "mode": "full_refresh"},
            {
                "match": ["ops.public.u"],
                "group_name": "two",
                "key": "u_{{ props.schema_name }}",
                "row_count": "off",
                "wait": False,
                "owners": ["team:u"],
                "automation_condition": "{{ dg.AutomationCondition.on_cron('@daily') }}",
                "op": {"pool": "big"},
            },
        ],
    )

    t, u = spec_of(definitions, "ops/public/t"), spec_of(definitions, "u_public")
    assert (t.group_name, u.group_name) == ("one", "two")
    assert (t.tags["a"], u.tags["a"]) == ("b", "b")
    assert (t.metadata["peaka/mode"], u.metadata["peaka/mode"]) == ("full_refresh", "full_refresh")
    assert "peaka/row_count" not in t.metadata
    assert u.metadata["peaka/row_count"] == "off"
    assert u.metadata["peaka/wait"] is False
    assert list(u.owners) == ["team:u"]
    assert u.automation_condition == dg.AutomationCondition.on_cron("@daily")
    ops = {name: step.op for name, step in steps(definitions).items()}
    assert ops["ops__public__t"].pool == "small"
    assert ops["u_public"].pool == "big"
    assert ops["u_public"].tags["team"] == "data"


def test_an_override_takes_precedence_over_the_translation(project: Project, sandbox: PeakaSandbox) -> None:
    """What is said about some caches counts more than what is said about all."""
    definitions = loaded(
        project,
        sandbox,
        group_name="all",
        translation={"group_name": "translated"},
        overrides=[{"match": "*.*.u", "group_name": "own"}],
    )

    assert spec_of(definitions, "ops/public/t").group_name == "translated"
    assert spec_of(definitions, "ops/public/u").group_name == "own"


def test_the_checks_of_every_asset_are_those_that_were_chosen(
    project: Project, sandbox: PeakaSandbox
) -> None:
    """The chosen checks are there for every asset, with their settings, and pass after a sync."""
    definitions = loaded(
        project,
        sandbox,
        selection={"exclude": "*.*.u"},
        checks={
            "max_rows_dropped": 10,
            "columns_unchanged": True,
            "max_age": "PT6H",
            "blocking": True,
            "severity": "ERROR",
        },
        last_sync_check=True,
    )

    ((name, step),) = steps(definitions).items()
    blocking = {check.name: check.blocking for check in step.check_specs}
    assert blocking == {
        "last_sync_succeeded": False,
        "rows_not_dropped": True,
        "columns_unchanged": True,
        "not_stale": True,
    }
    result = run_of(definitions)
    assert result.success
    assert {each.check_name for each in result.get_asset_check_evaluations()} == set(blocking)
    assert {event.step_key for event in result.all_events if event.is_step_event} == {name}


def test_sensors_are_switched_on_by_true_or_by_their_settings(
    project: Project, sandbox: PeakaSandbox
) -> None:
    """A sensor takes its defaults for true, and otherwise what its settings say."""
    plain = loaded(project, sandbox, source_asset_key="landed", upstream_sensor=True, polling_sensor=True)
    named = loaded(
        project,
        sandbox,
        source_asset_key="landed",
        upstream_sensor={
            "name": "after_landing",
            "default_status": "RUNNING",
            "minimum_update_interval": 600,
        },
        polling_sensor={"name": "synced_elsewhere", "minimum_interval_seconds": 90, "tags": {"team": "data"}},
    )

    sensors = {sensor.name: sensor for sensor in plain.sensors or ()}
    assert set(sensors) == {"peaka_upstream_sensor", "peaka_polling_sensor"}
    assert {sensor.default_status for sensor in sensors.values()} == {dg.DefaultSensorStatus.STOPPED}
    upstream, polling = sorted(named.sensors or (), key=lambda sensor: sensor.name)
    assert (upstream.name, upstream.default_status) == ("after_landing", dg.DefaultSensorStatus.RUNNING)
    assert (polling.name, polling.minimum_interval_seconds, polling.tags["team"]) == (
        "synced_elsewhere",
        90,
        "data",
    )


def test_a_project_without_sensors_has_none(project: Project, sandbox: PeakaSandbox) -> None:
    """Sensors and checks are there only where they were asked for."""
    definitions = loaded(project, sandbox, upstream_sensor=False)

    assert list(definitions.sensors or ()) == []
    assert list(definitions.asset_checks or ()) == []


def test_a_step_with_wait_false_is_completed_by_the_component_s_own_polling_sensor(
    project: Project, sandbox: PeakaSandbox
) -> None:
    """Without waiting, the step ends without a materialization, and the asset has the check that tells failures."""
    definitions = loaded(project, sandbox, wait=False, polling_sensor=True)

    result = run_of(definitions)

    assert result.success
    assert result.get_asset_materialization_events() == []
    for step in steps(definitions).values():
        assert [check.name for check in step.check_specs] == ["last_sync_succeeded"]


def test_the_launchpad_changes_the_mode_of_one_run(project: Project, sandbox: PeakaSandbox) -> None:
    """Run config reaches the steps of a component, as it does those of the factories."""
    definitions = loaded(project, sandbox, selection={"include": "ops.public.t"})

    result = run_of(definitions, {"ops": {"ops__public__t": {"config": {"mode": "full_refresh"}}}})

    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["peaka/mode"].value == "full_refresh"


def test_two_components_share_a_project_without_getting_into_each_other_s_way(
    project: Project, sandbox: PeakaSandbox
) -> None:
    """Names of resources, steps and sensors, and states, are the component's own."""
    for table in "tu":
        project.declare(
            {
                "connection": connection_to(sandbox),
                "selection": {"include": f"ops.public.{table}"},
                "step_per": "catalog",
                "polling_sensor": True,
            },
            folder=f"of_{table}",
        )
        project.refresh(f"of_{table}")

    with project.folder.build_all_defs() as definitions:
        definitions.get_repository_def()

        assert set(steps(definitions)) == {"of_t__ops", "of_u__ops"}
        assert set(definitions.resources or ()) == {"of_t", "of_u"}
        assert {sensor.name for sensor in definitions.sensors or ()} == {
            "of_t_polling_sensor",
            "of_u_polling_sensor",
        }
        assert keys(definitions) == {"ops/public/t", "ops/public/u"}
    assert len(project.states) == 2


def test_a_name_takes_the_place_of_the_folder(project: Project, sandbox: PeakaSandbox) -> None:
    """`name` names the resource, sensors and steps of many caches."""
    definitions = loaded(project, sandbox, name="lake", step_per="project", polling_sensor=True)

    assert set(steps(definitions)) == {"lake"}
    assert set(definitions.resources or ()) == {"lake"}
    assert [sensor.name for sensor in definitions.sensors or ()] == ["lake_polling_sensor"]


def test_the_schema_documents_every_field() -> None:
    """An editor shows what each field is for, offers the choices of those that have some, and marks what is unknown."""
    schema = PeakaProjectComponent.model().model_json_schema()

    models = {"": schema, **schema["$defs"]}
    undocumented = [
        f"{model}.{name}"
        for model, described in models.items()
        for name, field in described.get("properties", {}).items()
        if not field.get("description")
    ]
    assert undocumented == []
    assert all(
        described["additionalProperties"] is False
        for described in models.values()
        if "properties" in described
    )
    assert schema["properties"]["connection"]["$ref"].endswith("PeakaConnectionModel")
    assert schema["properties"]["step_per"]["else"] == {"enum": ["cache", "catalog", "project"]}


def test_a_component_is_made_in_python_as_in_yaml(sandbox: PeakaSandbox) -> None:
    """The same fields make the same component in Python, with functions in place of templates."""
    component = PeakaProjectComponent(
        connection=PeakaResource(
            api_key=dg.EnvVar("PEAKA_API_KEY"),
            project_id=sandbox.project_id,
            base_url=sandbox.base_url,
            poll_interval=0.05,
        ),
        caches=[PeakaCacheEntry(table="ops.public.t", mode="full_refresh")],
        op=PeakaOpSettings(pool="peaka"),
        translation=lambda spec, props: spec.replace_attributes(key=["lake", props.table_name]),
        source_asset_key=lambda props: ["landed", props.table_name],
    )

    definitions = dg.component_defs(component=component)

    assert keys(definitions) == {"lake/t"}
    assert steps(definitions)["lake__t"].op.pool == "peaka"
    assert [dep.asset_key.path for dep in spec_of(definitions, "lake/t").deps] == [["landed", "t"]]
    assert run_of(definitions).success


def test_what_python_gets_wrong_is_named_by_its_field(sandbox: PeakaSandbox) -> None:
    """A mistake in Python is an error that names the field."""
    connection = PeakaResource(api_key="k", project_id="p", base_url=sandbox.base_url)

    with pytest.raises(ValueError, match=r"wait: .*polling_sensor"):
        PeakaProjectComponent(connection=connection, wait=False)
    with pytest.raises(ValueError, match=r"(?s)connection\b.*must be a PeakaResource"):
        PeakaProjectComponent(connection="p")  # pyright: ignore[reportArgumentType]
