"""Several sensors of a kind over one asset: one of them takes it, or each new materialization would be two runs, and an
execution that ends while two polling sensors evaluate would be recorded twice.

A sensor is defined without knowing of the others, and Dagster offers no check of a code location when it loads. So each
tick asks the code location: of the sensors of its kind that are switched on, the first by name takes the asset.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import dagster as dg

from dagster_peaka.caches.names import few

NAMED_AT_MOST = 10
"""Assets that one message names at most."""


def left_to_others(
    context: dg.SensorEvaluationContext,
    name: str,
    keys: Iterable[dg.AssetKey],
    taken_by: Callable[[dg.SensorDefinition], frozenset[str]],
) -> dict[dg.AssetKey, str]:
    """Those of the assets that another sensor of its kind than the one of this name takes, each with that sensor.

    Nothing is asked where no other sensor of the code location has any of them.

    Args:
        taken_by: the assets that a sensor takes where it is of this kind, by the user strings of their keys.
    """
    repository = context.repository_def
    strings = {key.to_user_string(): key for key in keys}
    others = {
        sensor.name: shared
        for sensor in (repository.sensor_defs if repository else ())
        if sensor.name < name and (shared := taken_by(sensor) & strings.keys())
    }
    if not others:
        return {}
    left: dict[dg.AssetKey, str] = {}
    for other in sorted(others.keys() & _switched_on(context, others)):
        for string in others[other]:
            left.setdefault(strings[string], other)
    return left


def words_on_overlaps(name: str, others: Mapping[dg.AssetKey, str]) -> Iterator[str]:
    """What a polling sensor of this name says of the assets that it leaves to others: a line for each of these."""
    for other in sorted(set(others.values())):
        shared = [key.to_user_string() for key in sorted(others) if others[key] == other]
        yield (
            f"Sensors {other} and {name} both poll assets of this code location. This one leaves them to {other}, or "
            "an execution could be recorded twice; give each asset to one polling sensor: "
            f"{few(shared, NAMED_AT_MOST)}"
        )


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
