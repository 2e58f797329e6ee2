"""Projects that only watch: external assets, whose syncs the polling sensor records."""

import dagster as dg
import pytest

from dagster_peaka import PeakaConfigError, build_peaka_polling_sensor, load_peaka_cache_specs
from dagster_peaka.sandbox import PeakaSandbox
from tests.materializing import peaka_for, triggers

T = dg.AssetKey(["ops", "public", "t"])


def tick(
    sensor: dg.SensorDefinition, sandbox: PeakaSandbox, instance: dg.DagsterInstance, cursor: str | None
) -> dg.SensorResult:
    """One evaluation of the sensor, whose events are stored as the daemon stores them."""
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"peaka": peaka_for(sandbox)}
    )
    result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def test_an_external_asset_shows_what_peaka_has_synced(sandbox: PeakaSandbox) -> None:
    """The specs have no step, and each sync becomes one materialization with its execution's metadata."""
    specs = [
        spec.replace_attributes(group_name="watched").merge_attributes(deps=["landed"])
        for spec in load_peaka_cache_specs(peaka_for(sandbox).fetch_project())
    ]
    sensor = build_peaka_polling_sensor(specs)
    defs = dg.Definitions(assets=specs, sensors=[sensor], resources={"peaka": peaka_for(sandbox)})

    assert not defs.resolve_asset_graph().get(T).is_materializable
    assert {spec.group_name for spec in specs} == {"watched"}
    with dg.DagsterInstance.ephemeral() as instance:
        first = tick(sensor, sandbox, instance, None)
        execution = sandbox.start_execution("ops.public.t")
        sandbox.wait_idle()
        second = tick(sensor, sandbox, instance, first.cursor)

    (event,) = second.asset_events
    assert isinstance(event, dg.AssetMaterialization)
    assert event.asset_key == T
    assert event.metadata["peaka/execution_id"].value == execution
    assert event.metadata["peaka/origin"].value == "external"
    assert triggers(sandbox) == 0


def test_one_spec_may_stand_alone_and_two_of_one_cache_may_not(sandbox: PeakaSandbox) -> None:
    """As with definitions."""
    (spec, *_) = load_peaka_cache_specs(peaka_for(sandbox).fetch_project(), selector="ops.public.t")

    assert build_peaka_polling_sensor(spec).name == "peaka_polling_sensor"
    with pytest.raises(PeakaConfigError, match="mean the same Peaka cache"):
        build_peaka_polling_sensor([spec, spec.replace_attributes(key="again")])


def test_a_selector_that_fits_nothing_is_an_error(sandbox: PeakaSandbox) -> None:
    """With what it was near to."""
    with pytest.raises(PeakaConfigError, match=r"Near matches: ops\.public\.t"):
        load_peaka_cache_specs(peaka_for(sandbox).fetch_project(), selector="ops.public.tt")
