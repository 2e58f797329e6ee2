"""A mistake in YAML is an error that names the file, the line and the field."""

import textwrap

import pytest

from dagster_peaka import PeakaProjectComponent
from tests.component.projects import TYPE, Project

CONNECTION = "connection:\n  project_id: p\n  base_url: http://127.0.0.1:9/api/v1\n"
STATIC = f"{CONNECTION}caches: [a.b.c]\n"

# YAML of the attributes, the line that is wrong (the first is `type:`), its field, and what is said of it.
MISTAKES = [
    ("conection: {project_id: p}", 3, "conection", "no such field. Near matches: connection"),
    ("connection: {project: p}", 3, "connection.project", "no such field. Near matches: project_id"),
    ("connection:\n  base_url: http://127.0.0.1:9", 3, "connection.project_id", "Field required"),
    ("connection:\n  project_id: p\n  zone: mars", 5, "connection.zone", "'us', 'eu', not 'mars'"),
    ("connection:\n  project_id: p\n  on_running: wait", 5, "connection.on_running", "'queue'"),
    ("connection:\n  project_id: p\n  base_url: peaka", 5, "connection.base_url", "http"),
    ("connection:\n  project_id: p\n  poll_interval: -1", 5, "connection.poll_interval", "greater than 0"),
    ("connection:\n  project_id: p\n  poll_timeout: soon", 5, "connection.poll_timeout", "valid number"),
    (
        "connection:\n  project_id: p\n  max_concurrent_requests: 0",
        5,
        "connection.max_concurrent_requests",
        "1",
    ),
    ("connection:\n  project_id: p\n  request_max_retries: -1", 5, "connection.request_max_retries", "0"),
    (
        "connection:\n  project_id: p\n  cancel_on_termination: 5",
        5,
        "connection.cancel_on_termination",
        "bool",
    ),
    (
        "connection:\n  project_id: p\n  api_key:\n    evn: X",
        6,
        "connection.api_key.evn",
        "Near matches: env",
    ),
    ("connection:\n  project_id: p\n  api_key: [X]", 5, "connection.api_key", ""),
    ("connection:\n  project_id: '{{ env.NOWHERE }}'", 4, "connection.project_id", "variable set"),
    ("connection:\n  project_id: '{{ evn.X }}'", 4, "connection.project_id", "'evn' not found"),
    ("connection: p", 3, "connection", "write fields here"),
    (f"{CONNECTION}selection:\n  inclde: x", 7, "selection.inclde", "Near matches: include"),
    (f"{CONNECTION}selection:\n  exclude: {{a: b}}", 7, "selection.exclude", "list"),
    (f"{CONNECTION}step_per: table", 6, "step_per", "'cache', 'catalog' or 'project'"),
    (f"{CONNECTION}op:\n  pol: x", 7, "op.pol", "Near matches: pool"),
    (f"{CONNECTION}op:\n  concurrency: 3", 7, "op.concurrency", "set pool"),
    (f"{CONNECTION}op:\n  tags: x", 7, "op.tags", "write fields here"),
    (f"{CONNECTION}op:\n  retry_policy:\n    max_retry: 1", 8, "op.retry_policy.max_retry", "max_retries"),
    (f"{CONNECTION}op:\n  retry_policy:\n    max_retries: x", 8, "op.retry_policy.max_retries", "integer"),
    (f"{CONNECTION}op:\n  retry_policy:\n    backoff: linear", 8, "op.retry_policy.backoff", "needs delay"),
    (f"{CONNECTION}op:\n  retry_policy: {{delay: 1, jitter: no}}", 7, "op.retry_policy.jitter", "'full'"),
    (f"{CONNECTION}mode: increment", 6, "mode", "'incremental' or 'full_refresh'"),
    (f"{CONNECTION}row_count: count", 6, "row_count", "'query'"),
    (f"{CONNECTION}row_count: full_refresh", 6, "row_count", "write row_count='query'"),
    (f"{CONNECTION}fingerprint: select max(id) from t", 6, "fingerprint", "a select list of aggregates"),
    (f"{CONNECTION}wait: maybe", 6, "wait", "boolean"),
    (f"{CONNECTION}wait: false", 6, "wait", "polling_sensor"),
    (f"{CONNECTION}last_sync_check: always", 6, "last_sync_check", "boolean"),
    (f"{CONNECTION}name: a b", 6, "name", "pattern"),
    (f"{CONNECTION}group_name: [x]", 6, "group_name", "string"),
    (f"{STATIC}group_name: a b", 7, "group_name", "is not a valid"),
    (f"{CONNECTION}automation_condition: eager", 6, "automation_condition", "AutomationCondition.eager()"),
    (f"{CONNECTION}translation:\n  grop_name: x", 7, "translation.grop_name", "Near matches: group_name"),
    (f"{CONNECTION}translation:\n  key: [[x]]", 7, "translation.key", "must be an asset key"),
    (f"{CONNECTION}translation:\n  partitions_def: x", 7, "translation.partitions_def", "as a whole"),
    (f"{CONNECTION}translation:\n  freshness_policy: 5", 7, "translation.freshness_policy", "a template"),
    (f"{STATIC}translation:\n  tags: {{'?': x}}", 8, "translation.tags", "Allowed characters"),
    (f"{STATIC}translation:\n  owners: [me]", 8, "translation.owners", "me"),
    (f"{STATIC}translation:\n  key: '{{{{ props.tabel }}}}'", 8, "translation.key", "no attribute 'tabel'"),
    (f"{STATIC}translation: '{{{{ 5 }}}}'", 7, "translation", "came to '5'"),
    (f"{STATIC}source_asset_key: '{{{{ props.tabel }}}}'", 7, "source_asset_key", "no attribute 'tabel'"),
    (f"{STATIC}source_asset_key: '{{{{ 5 }}}}'", 7, "source_asset_key", "must be an asset key"),
    (f"{CONNECTION}overrides:\n  - mach: a.b.c", 7, "overrides.0.mach", "Near matches: match"),
    (f"{CONNECTION}overrides:\n  - match: a.b.c\n    mode: full", 8, "overrides.0.mode", "'full_refresh'"),
    (f"{CONNECTION}overrides:\n  - match: a.b.c\n    wait: false", 8, "overrides.0.wait", "polling_sensor"),
    (
        f"{CONNECTION}step_per: project\noverrides:\n  - match: a.b.c\n    op: {{pool: x}}",
        9,
        "overrides.0.op",
        "no step of its own",
    ),
    (
        f"{STATIC}overrides:\n  - match: [a.b.*, a.b.d]",
        8,
        "overrides.0.match",
        "'a.b.d'. Near matches: a.b.c",
    ),
    (f"{CONNECTION}caches: [a.b]", 6, "caches.0", "catalog.schema.table"),
    (f"{CONNECTION}caches:\n  - tabel: a.b.c", 7, "caches.0.tabel", "Near matches: table"),
    (f"{CONNECTION}caches:\n  - mode: incremental", 7, "caches.0", "either table or cache_id"),
    (f"{CONNECTION}caches: [a.b.c, {{table: a.b.c}}]", 6, "caches", "is given twice, as a.b.c"),
    (f"{STATIC}selection: {{include: a.b.c}}", 7, "selection", "Drop one"),
    (f"{CONNECTION}checks:\n  max_rows: 1", 7, "checks.max_rows", "Near matches: max_rows_dropped"),
    (f"{CONNECTION}checks:\n  op: {{pool: x}}", 7, "checks.op", "the component's op counts for them"),
    (f"{CONNECTION}checks:\n  severity: warn", 7, "checks.severity", "'WARN' or 'ERROR'"),
    (f"{CONNECTION}checks:\n  max_age: soon", 7, "checks.max_age", "such as PT6H"),
    (f"{CONNECTION}checks:\n  max_age: 6:00", 7, "checks.max_age", "A form such as 6:00 is none"),
    (f"{CONNECTION}checks:\n  max_age: 06:00", 7, "checks.max_age", "A form such as 6:00 is none"),
    (f"{CONNECTION}checks:\n  max_age: '6:00'", 7, "checks.max_age", "A form such as 6:00 is none"),
    (f"{CONNECTION}checks:\n  max_age: {{hour: 6}}", 7, "checks.max_age", "fields such as {hours: 6}"),
    (f"{CONNECTION}checks:\n  max_age: yes", 7, "checks.max_age", "must be a duration"),
    (f"{STATIC}checks:\n  max_rows_dropped: 100", 7, "checks", "below 100"),
    (f"{STATIC}checks:\n  columns_unchanged: true", 8, "checks.columns_unchanged", "columns of a snapshot"),
    (f"{CONNECTION}upstream_sensor: on demand", 6, "upstream_sensor", "boolean"),
    (f"{CONNECTION}upstream_sensor:\n  requre: all", 7, "upstream_sensor.requre", "Near matches: require"),
    (f"{CONNECTION}upstream_sensor:\n  require: some", 7, "upstream_sensor.require", "'any' or 'all'"),
    (
        f"{CONNECTION}upstream_sensor:\n  minimum_update_interval: 1:30",
        7,
        "upstream_sensor.minimum_update_interval",
        "must be a duration",
    ),
    (f"{STATIC}upstream_sensor: true", 7, "upstream_sensor", "source_asset_key"),
    (f"{CONNECTION}polling_sensor:\n  default_status: ON", 7, "polling_sensor.default_status", "'RUNNING'"),
    (
        f"{CONNECTION}polling_sensor:\n  minimum_interval_seconds: 0",
        7,
        "polling_sensor.minimum_interval_seconds",
        "at least 1",
    ),
    (
        f"{CONNECTION}defs_state: {{management_type: DISK}}",
        6,
        "defs_state.management_type",
        "LOCAL_FILESYSTEM",
    ),
]


@pytest.mark.parametrize(
    ("attributes", "line", "field", "said"), MISTAKES, ids=[mistake[2] for mistake in MISTAKES]
)
def test_a_mistake_is_named_by_file_line_and_field(
    project: Project, attributes: str, line: int, field: str, said: str
) -> None:
    """Whatever is wrong, the message says where that is written, and what to write."""
    path = project.declare(attributes)

    refusal = project.refusal()

    about = [part for part in refusal.split("attributes.") if part.startswith(field)]
    assert about, refusal
    assert f"{path}:{line}" in refusal, refusal
    assert said in refusal, refusal


def test_a_component_without_attributes_says_what_it_needs(project: Project) -> None:
    """Nothing at all below `attributes` is a mistake as well."""
    path = project.write("defs.yaml", f"type: {TYPE}\n")

    assert str(path) in (refusal := project.refusal())
    assert "connection" in refusal


def test_several_mistakes_are_told_at_once(project: Project) -> None:
    """All that is wrong with the fields is said in one go, each once."""
    project.declare(
        textwrap.dedent(
            """\
            connection:
              project_id: p
              poll_intervall: 3
            step_pr: cache
            """
        )
    )

    refusal = project.refusal()

    assert refusal.count("there is no such field") == 2
    assert "attributes.connection.poll_intervall" in refusal
    assert "attributes.step_pr" in refusal


# Where a section stands in YAML, what messages call its fields, its name in the schema, and what else it needs.
SECTIONS = [
    ("", "", "", ""),
    ("connection:\n  ", "connection.", "PeakaConnectionModel", "  project_id: p\n"),
    ("connection:\n  api_key:\n    ", "connection.api_key.", "_Variable", "  project_id: p\n"),
    ("selection:\n  ", "selection.", "_Selection", ""),
    ("op:\n  ", "op.", "PeakaOpSettings", ""),
    ("op:\n  retry_policy:\n    ", "op.retry_policy.", "_RetryPolicy", ""),
    ("translation:\n  ", "translation.", "PeakaAssetAttributes", ""),
    ("overrides:\n  - ", "overrides.0.", "PeakaCacheOverride", "    match: a.b.c\n"),
    ("overrides:\n  - op:\n      ", "overrides.0.op.", "PeakaOpSettings", "    match: a.b.c\n"),
    ("caches:\n  - ", "caches.0.", "PeakaCacheEntry", "    table: a.b.c\n"),
    ("checks:\n  ", "checks.", "PeakaCheckSettings", ""),
    ("upstream_sensor:\n  ", "upstream_sensor.", "PeakaUpstreamSensorSettings", ""),
    ("polling_sensor:\n  ", "polling_sensor.", "PeakaPollingSensorSettings", ""),
    ("queries:\n  ", "queries.", "PeakaQuerySettings", ""),
    ("queries:\n  op:\n    ", "queries.op.", "PeakaOpSettings", ""),
    ("defs_state:\n  ", "defs_state.", "DefsStateConfigArgs", "  management_type: LOCAL_FILESYSTEM\n"),
]
EVERY_SECTION = pytest.mark.parametrize(
    ("place", "names", "model", "rest"), SECTIONS, ids=[names or "." for _, names, _, _ in SECTIONS]
)


def fields_of(model: str) -> list[str]:
    """The fields of a section, by its name in the schema."""
    schema = PeakaProjectComponent.model().model_json_schema()
    return list((schema["$defs"][model] if model else schema)["properties"])


def whole(place: str, field: str, value: str, rest: str) -> str:
    """The YAML of a component in which all is well but one field."""
    top = place.partition(":")[0] or field
    others = {"connection": CONNECTION, "caches": "caches: [a.b.c]\n"}
    if top == "selection":
        del others["caches"]
    rest = "" if f" {field}:" in rest else rest
    beside = "".join(text for name, text in others.items() if name != top)
    return f"{place}{field}: {value}\n{rest}{beside}"


@EVERY_SECTION
def test_no_field_can_be_misspelt(project: Project, place: str, names: str, model: str, rest: str) -> None:
    """A letter too many in the name of any field is refused, with its line and with the right name."""
    line = 3 + place.count("\n")
    for field in fields_of(model):
        path = project.declare(whole(place, f"{field}x", "5", rest))

        said = project.refusal()

        assert f"{path}:{line}: attributes.{names}{field}x: " in said, said
        assert field in said.partition("Near matches:")[2], said


@EVERY_SECTION
@pytest.mark.parametrize("wrong", ["[[]]", "'{{ nothing }}'"])
def test_no_field_takes_anything(
    project: Project, place: str, names: str, model: str, rest: str, wrong: str
) -> None:
    """A value of the wrong type, or a template that cannot be rendered, is refused with the line and the field."""
    line = 3 + place.count("\n")
    for field in fields_of(model):
        path = project.declare(whole(place, field, wrong, rest))

        said = project.refusal()

        assert any(part.startswith(f"{names}{field}") for part in said.split("attributes.")), (field, said)
        assert f"{path}:{line}" in said, (field, said)


def test_the_schema_lists_every_section() -> None:
    """The sections above are all there are."""
    schema = PeakaProjectComponent.model().model_json_schema()

    with_fields = {name for name, model in schema["$defs"].items() if "properties" in model}
    assert with_fields == {model for _, _, model, _ in SECTIONS if model}
