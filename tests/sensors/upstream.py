"""An upstream sensor as Dagster's daemon evaluates it: requested runs are launched, then the cursor is stored."""

import time
from collections.abc import Sequence
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaResource, build_peaka_cache_asset, build_peaka_upstream_sensor


def cache(table: str, *deps: str) -> dg.AssetsDefinition:
    """A cache asset with the key of its table, which depends on assets of these names."""
    return build_peaka_cache_asset(table=f"ops.public.{table}", key=table, deps=list(deps))


def land(instance: dg.DagsterInstance, asset: str, partition: str | None = None) -> None:
    """Record a materialization of an upstream asset."""
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=partition))


class Daemon:
    """Evaluates a sensor as the daemon does: each tick gets the cursor that the last one left."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        assets: Sequence[dg.AssetsDefinition],
        *,
        peaka: PeakaResource | None = None,
        **options: Any,
    ) -> None:
        self.instance = instance
        self.peaka = peaka or PeakaResource(api_key=dg.EnvVar("PEAKA_API_KEY"), project_id="unused")
        self.cursor: str | None = None
        self.started_at: float | None = None
        self.redefine(assets, **options)

    def redefine(self, assets: Sequence[dg.AssetsDefinition], **options: Any) -> None:
        """Deploy other assets or options, under the sensor's cursor."""
        self.sensor = build_peaka_upstream_sensor(assets, **options)
        self.definitions = dg.Definitions(
            assets=assets, sensors=[self.sensor], resources={"peaka": self.peaka}
        )

    def evaluate(self) -> Any:
        """What a tick says, whose cursor is then lost."""
        return self.sensor.evaluate_tick(
            dg.build_sensor_context(
                instance=self.instance,
                cursor=self.cursor,
                definitions=self.definitions,
                last_sensor_start_time=self.started_at,
            )
        )

    def tick(self) -> Any:
        """What a tick says."""
        said = self.evaluate()
        assert said.cursor
        assert bool(said.skip_message) != bool(said.run_requests)
        self.cursor = said.cursor
        return said

    def launch(self, status: dg.DagsterRunStatus) -> list[str]:
        """A tick whose run is created, and gets as far as this status; the ids of the runs, as Dagster would have them.

        For a run key that has a run of the same sensor Dagster creates no other one.
        """
        created: list[str] = []
        for request in self.tick().run_requests:
            tags = {**request.tags, "dagster/run_key": request.run_key}
            of_this_key = {name: tags[name] for name in ("dagster/run_key", "dagster/sensor_name")}
            if self.instance.get_run_records(dg.RunsFilter(tags=of_this_key)):
                continue
            run = dg.DagsterRun(
                "__ASSET_JOB", status=status, asset_selection=frozenset(request.asset_selection), tags=tags
            )
            self.instance.add_run(run)
            created.append(run.run_id)
        return created

    def requested(self) -> list[str]:
        """The keys of the only run that a tick requests, in order; none when it requests no run."""
        requests = self.tick().run_requests
        if not requests:
            return []
        (request,) = requests
        return sorted(key.to_user_string() for key in request.asset_selection)


class Clock:
    """Moves the time of day."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        true_time = time.time
        monkeypatch.setattr(time, "time", lambda: true_time() + self.ahead)

    def advance(self, seconds: float) -> None:
        """Let this many seconds pass."""
        self.ahead += seconds

    def now(self) -> float:
        """The time of day."""
        return time.time()
