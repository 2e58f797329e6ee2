"""Dagster's GraphQL API, asked what its UI asks: launch, switch sensors, read runs, ticks and materializations."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import httpx

T = TypeVar("T")

REPOSITORIES = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
# What the Materialize button sends.
LAUNCH = """
mutation LaunchPipelineExecution($executionParams: ExecutionParams!) {
  launchPipelineExecution(executionParams: $executionParams) {
    __typename
    ... on LaunchRunSuccess { run { id } }
    ... on PythonError { message stack }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
# What the button "Re-execute from asset failure" of a run sends.
RE_EXECUTE = """
mutation LaunchRunReexecution($reexecutionParams: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $reexecutionParams) {
    __typename
    ... on LaunchRunSuccess { run { id } }
    ... on PythonError { message stack }
  }
}
"""
# What the button "Terminate" of a run sends; with the box "Force termination" ticked by the second policy.
TERMINATE = """
mutation Terminate($runId: String!, $terminatePolicy: TerminateRunPolicy) {
  terminateRun(runId: $runId, terminatePolicy: $terminatePolicy) {
    __typename
    ... on TerminateRunFailure { message }
    ... on PythonError { message stack }
  }
}
"""
# What the switch beside a sensor sends.
START_SENSOR = """
mutation StartSensor($sensor: SensorSelector!) {
  startSensor(sensorSelector: $sensor) {
    __typename
    ... on PythonError { message stack }
  }
}
"""
STOP_SENSOR = """
mutation StopSensor($id: String) {
  stopSensor(id: $id) { __typename ... on PythonError { message stack } }
}
"""
SENSOR_ID = """
query SensorId($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) { ... on Sensor { id } } }
"""
TICKS = """
query Ticks($sensor: SensorSelector!, $limit: Int!) {
  sensorOrError(sensorSelector: $sensor) {
    ... on Sensor { sensorState { ticks(limit: $limit) { tickId status skipReason runIds error { message } } } }
  }
}
"""
RUN = """
query Run($id: ID!) {
  runOrError(runId: $id) { ... on Run { status assetSelection { path } tags { key value } } }
}
"""
MATERIALIZATIONS = """
query Materializations($key: AssetKeyInput!) {
  assetOrError(assetKey: $key) {
    ... on Asset {
      assetMaterializations(limit: 50) {
        runId
        metadataEntries {
          label
          ... on IntMetadataEntry { intValue }
          ... on TextMetadataEntry { text }
        }
      }
    }
  }
}
"""


@dataclass(frozen=True)
class Tick:
    """A sensor's evaluation: `status` is SUCCESS where it requested runs, SKIPPED with a reason where it did not."""

    id: str
    status: str
    skip_reason: str | None
    run_ids: list[str]


@dataclass(frozen=True)
class Run:
    """A run's status, what it was to materialize, and its tags."""

    status: str
    assets: list[list[str]]
    tags: dict[str, str]


@dataclass(frozen=True)
class Materialization:
    """An event of an asset: the run that recorded it (None outside of runs), and its numbers and texts."""

    run_id: str | None
    metadata: dict[str, Any]


def until(found: Callable[[], T | None], *, what: str, seconds: float = 240.0) -> T:
    """What `found` returns as soon as that is true; the assertion that fails after some seconds names it."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"after {seconds:.0f} s there is still no {what}"
        time.sleep(0.5)  # an answer costs the webserver more than it costs the test
    return value


class GraphQL:
    """The API of a webserver on a port of this machine, as its UI uses it, for one of its code locations.

    Without a name of a location there must be only one.
    """

    def __init__(self, port: int, location: str | None = None) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._location = location
        self._http = httpx.Client(base_url=self.url, timeout=300)

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a query's answer."""
        body = {"query": query, "variables": variables}
        answer = self._http.post("/graphql", json=body).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def launch(self, *keys: Sequence[str], partition: str | None = None) -> str:
        """Press Materialize for these assets; the id of the run."""
        parameters = {
            "mode": "default",
            "executionMetadata": {
                "tags": [{"key": "dagster/partition", "value": partition}] if partition else []
            },
            "runConfigData": "{}",
            "selector": {
                **self._repository,
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [{"path": list(key)} for key in keys],
                "assetCheckSelection": [],
            },
        }
        launched = self.ask(LAUNCH, executionParams=parameters)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["id"]

    def re_execute(self, run_id: str, strategy: str) -> str:
        """Repeat what a run left undone; the id of the new run."""
        parameters = {"parentRunId": run_id, "strategy": strategy}
        launched = self.ask(RE_EXECUTE, reexecutionParams=parameters)["launchRunReexecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["id"]

    def terminate(self, run_id: str, *, force: bool = False) -> None:
        """Terminate a run; with ``force`` it is CANCELED at once, whatever its processes do."""
        policy = "MARK_AS_CANCELED_IMMEDIATELY" if force else "SAFE_TERMINATE"
        answer = self.ask(TERMINATE, runId=run_id, terminatePolicy=policy)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def run(self, run_id: str) -> Run:
        """A run as it is now."""
        run = self.ask(RUN, id=run_id)["runOrError"]
        assets = [key["path"] for key in run["assetSelection"] or []]
        return Run(run["status"], assets, {tag["key"]: tag["value"] for tag in run["tags"]})

    def ended(self, run_id: str) -> Run:
        """A run after its end."""

        def over() -> Run | None:
            run = self.run(run_id)
            return run if run.status in ("SUCCESS", "FAILURE", "CANCELED") else None

        return until(over, what=f"end of run {run_id}")

    def materializations(self, *key: str) -> list[Materialization]:
        """An asset's materializations, the newest first."""
        asset = self.ask(MATERIALIZATIONS, key={"path": list(key)})["assetOrError"]
        return [
            Materialization(
                event["runId"] or None,
                {
                    entry["label"]: entry.get("intValue", entry.get("text"))
                    for entry in event["metadataEntries"]
                },
            )
            for event in asset.get("assetMaterializations", [])
        ]

    def switch_on(self, sensor: str) -> None:
        """Switch a sensor on, and wait for its first tick."""
        answer = self.ask(START_SENSOR, sensor=self._sensor(sensor))["startSensor"]
        assert answer["__typename"] == "Sensor", answer
        until(lambda: self.ticks(sensor, 2), what=f"tick of {sensor}")

    def switch_off(self, sensor: str) -> None:
        """Switch a sensor off."""
        found = self.ask(SENSOR_ID, sensor=self._sensor(sensor))["sensorOrError"]["id"]
        answer = self.ask(STOP_SENSOR, id=found)["stopSensor"]
        assert answer["__typename"] == "StopSensorMutationResult", answer

    def ticks(self, sensor: str, limit: int = 500) -> list[Tick]:
        """The ticks that have ended of a sensor, the newest first. None may have failed."""
        return [tick for tick in self._ticks(sensor, limit) if tick.status != "STARTED"]

    def wait_for_ticks(self, sensor: str, count: int = 2) -> None:
        """Wait until as many ticks as that have ended which had not begun yet: they know all that has happened."""
        limit = count + 2  # what has begun and not ended is among them
        begun = {tick.id for tick in self._ticks(sensor, limit)}
        until(
            lambda: len({tick.id for tick in self.ticks(sensor, limit)} - begun) >= count,
            what=f"{count} more ticks of {sensor}",
        )

    def _ticks(self, sensor: str, limit: int) -> list[Tick]:
        state = self.ask(TICKS, sensor=self._sensor(sensor), limit=limit)["sensorOrError"]["sensorState"]
        assert [tick["error"] for tick in state["ticks"] if tick["error"]] == []
        return [
            Tick(tick["tickId"], tick["status"], tick["skipReason"], tick["runIds"])
            for tick in state["ticks"]
        ]

    def _sensor(self, name: str) -> dict[str, str]:
        return {**self._repository, "sensorName": name}

    @cached_property
    def _repository(self) -> dict[str, str]:
        nodes = self.ask(REPOSITORIES)["repositoriesOrError"]["nodes"]
        (repository,) = [node for node in nodes if self._location in (None, node["location"]["name"])]
        return {
            "repositoryLocationName": repository["location"]["name"],
            "repositoryName": repository["name"],
        }
