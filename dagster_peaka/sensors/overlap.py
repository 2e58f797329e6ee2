"""Several upstream sensors over one asset: one of them requests it, or each new materialization would be two runs.

A sensor is defined without knowing of the others, and Dagster offers no check of a code location when it loads. So each
tick asks the code location: of the upstream sensors that are switched on, the first by name requests the asset.
"""

from collections.abc import Iterable

import dagster as dg

from dagster_peaka.declared import requested_assets


def left_to_others(
    context: dg.SensorEvaluationContext, name: str, keys: Iterable[dg.AssetKey]
) -> dict[dg.AssetKey, str]:
    """Those of the assets that another upstream sensor than the one of this name requests, each with that sensor.

    Nothing is asked where no other sensor of the code location has any of them.
    """
    repository = context.repository_def
    strings = {key.to_user_string(): key for key in keys}
    others = {
        sensor.name: shared
        for sensor in (repository.sensor_defs if repository else ())
        if sensor.name < name and (shared := requested_assets(sensor) & strings.keys())
    }
    if not others:
        return {}
    left: dict[dg.AssetKey, str] = {}
    for other in sorted(others.keys() & _switched_on(context, others)):
        for string in others[other]:
            left.setdefault(strings[string], other)
    return left


def _switched_on(context: dg.SensorEvaluationContext, others: Iterable[str]) -> set[str]:
    """The names of the sensors and schedules that Dagster evaluates; all others, where a test evaluates this one."""
    if context.code_location_origin is None:
        return set(others)
    here = context.code_location_origin.location_name, context.repository_name
    return {
        state.instigator_name
        for state in context.instance.all_instigator_state()
        if state.is_running
        and (state.repository_selector.location_name, state.repository_selector.repository_name) == here
    }
