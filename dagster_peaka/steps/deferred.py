"""What a step triggers without waiting for it: who tells how it ends, what is written down, and what the log says."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import dagster as dg

from dagster_peaka.caches.declared import LAST_SYNC_CHECK, polled_assets
from dagster_peaka.caches.names import SyncTarget, few
from dagster_peaka.errors import PeakaConfigError, sentence
from dagster_peaka.records.attempts import write_down_deferred
from dagster_peaka.sync.jobs import SyncJob
from dagster_peaka.sync.outcome import Origin, Result

NAMED_AT_MOST = 20
"""Caches or assets that one line names at most."""


def is_required(context: dg.AssetExecutionContext, key: dg.AssetKey) -> bool:
    """True where Dagster materializes an asset by itself when its step ends without a result of it."""
    definition = context.assets_def
    output = definition.get_output_name_for_asset_key(key)
    return definition.op.output_def_named(output).is_required


class Deferred:
    """The syncs of one step that do not wait for their ends: a polling sensor records those."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context
        self._sensors: Sequence[dg.SensorDefinition] | None = None
        self._triggered: list[str] = []
        self._unsure: list[str] = []
        self._running: list[str] = []
        self._before: list[str] = []

    # Before anything is triggered

    def refusals(
        self, keys: Iterable[dg.AssetKey], has_check: Callable[[dg.AssetKey], bool]
    ) -> Iterator[tuple[list[dg.AssetKey], PeakaConfigError]]:
        """Which assets cannot be left alone, and why: nobody would learn how their syncs end."""
        keys = list(keys)
        if not keys:
            return
        required = [key for key in keys if is_required(self._context, key)]
        if required:
            yield (
                required,
                PeakaConfigError(
                    f"{_assets(required)} cannot be left to a polling sensor (wait=False): Dagster itself records a "
                    "materialization of an asset that its step has to produce; nothing was triggered. Declare the "
                    "spec with skippable=True, or set wait to True."
                ),
            )
        self._sensors = _polling_sensors(self._context)
        if self._sensors is not None:
            polled = frozenset[str]().union(*map(polled_assets, self._sensors))
            unpolled = [key for key in keys if key.to_user_string() not in polled and key not in required]
            if unpolled:
                yield (
                    unpolled,
                    PeakaConfigError(
                        f"{_assets(unpolled)} would not be waited for (wait=False), and no polling sensor of this code "
                        "location covers it, so nobody would learn how the sync ends; nothing was triggered. Add "
                        "build_peaka_polling_sensor with this asset to the definitions, or set wait to True."
                    ),
                )
        silent = [key for key in keys if not has_check(key)]
        if silent:
            self._context.log.warning(
                "%s declares no check %r: a sync that fails will only be a warning in the polling sensor's tick.",
                _assets(silent),
                LAST_SYNC_CHECK,
            )

    # What became of them

    def triggered(self, key: dg.AssetKey, job: SyncJob, result: Result, *, written: bool) -> None:
        """Note a sync that the step leaves here; ``written`` where an earlier attempt has written it down as such."""
        name = str(job.target)
        execution = f" ({job.target.execution(result.execution.id)})" if result.execution else ""
        if result.origin is Origin.ATTACHED:
            self._running.append(f"{name}{execution}")
        elif result.origin is Origin.ADOPTED:
            self._before.append(f"{name}{execution}")
        elif result.reason:
            self._unsure.append(f"{name}: {sentence(result.reason)}")
        else:
            self._triggered.append(name)
        if not written and result.origin is not Origin.ATTACHED:
            write_down_deferred(self._context, key, job, result.record, sure=not result.reason)

    def already(self, target: SyncTarget) -> None:
        """Note a sync that an earlier attempt at this step has left here."""
        self._before.append(str(target))

    def tell(self) -> None:
        """Say in the log what was left to whom."""
        log, names = self._context.log, ", ".join(repr(sensor.name) for sensor in self._sensors or ())
        recorder = f"polling sensor {names}, when that is switched on" if names else "a polling sensor"
        if self._triggered:
            log.info(
                "Triggered, and not waited for: %s. How it ends is recorded by %s.",
                few(self._triggered, NAMED_AT_MOST),
                recorder,
            )
        if self._unsure:
            log.warning(
                "Triggered, perhaps in vain: %s It is not triggered again; if an execution was started, how it ends is "
                "recorded by %s.",
                few(self._unsure, NAMED_AT_MOST, " "),
                recorder,
            )
        if self._running:
            log.info(
                "Nothing was triggered, because an execution runs already and on_running is 'attach': %s. How it ends "
                "is recorded by %s.",
                few(self._running, NAMED_AT_MOST),
                recorder,
            )
        if self._before:
            log.info(
                "Triggered already by an earlier attempt: %s. Nothing is left to do.",
                few(self._before, NAMED_AT_MOST),
            )


def _polling_sensors(context: dg.AssetExecutionContext) -> Sequence[dg.SensorDefinition] | None:
    """Those of the run's code location; None for a run of a mere job, such as ``dg.materialize`` and a test make."""
    try:
        repository = context.repository_def
    except Exception:  # Dagster names no error for it
        return None
    if repository.name == f"__repository__{context.run.job_name}":  # dg.execute_job wraps a job like this
        return None
    return [sensor for sensor in repository.sensor_defs if polled_assets(sensor)]


def _assets(keys: Sequence[dg.AssetKey]) -> str:
    names = [key.to_user_string() for key in keys]
    return f"{'Asset' if len(keys) == 1 else 'Each of the assets'} {few(names, NAMED_AT_MOST)}"
