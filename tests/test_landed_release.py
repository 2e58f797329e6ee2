"""What the first release has left in event logs, cursors and files is still understood; `landed/` was written by it."""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaProject, build_peaka_cache_assets
from dagster_peaka.api import SyncMode
from dagster_peaka.records.attempts import records_of
from dagster_peaka.sensors.cursor import ADDRESS, CACHE, PollingCursor, short
from tests.sensors.upstream import Daemon, cache, land

LANDED = Path(__file__).parent / "landed"
OBSERVATIONS: list[dict[str, Any]] = json.loads((LANDED / "observations.json").read_text())


def observation(written: dict[str, Any]) -> dg.AssetObservation:
    """An observation as it stands in an event log."""
    metadata = {name: dg.MetadataValue.json(value) for name, value in written["metadata"].items()}
    return dg.AssetObservation(dg.AssetKey.from_user_string(written["asset"]), metadata=metadata)


@pytest.mark.parametrize(
    ("number", "asset", "waits", "answered"),
    [(0, "t", True, False), (1, "u", False, False), (2, "u", False, True)],
)
def test_records_of_steps_are_read(number: int, asset: str, waits: bool, answered: bool) -> None:
    """A run may be in flight, or be re-executed, after the upgrade: what it wrote down still counts."""
    (record,) = records_of(observation(OBSERVATIONS[number]))

    assert (record.asset, record.mode, record.waits, record.answered) == (
        asset,
        SyncMode.INCREMENTAL,
        waits,
        answered,
    )
    assert record.record.baseline is not None
    assert record.record.polled_at == datetime(2026, 11, 25, 20, 44, 17, tzinfo=timezone.utc)


def test_a_cursor_of_the_polling_sensor_is_read() -> None:
    """Nothing is told again, and nothing that was unfinished is forgotten."""
    cursor = PollingCursor.decode((LANDED / "polling_cursor.txt").read_text().strip())

    assert (cursor.evaluated_at, cursor.turn) == (1_790_000_000, 1)
    orders, items = (cursor.marks[short(f"shop.public.{name}", ADDRESS)] for name in ("orders", "items"))
    assert (orders.cache, orders.newest[SyncMode.INCREMENTAL]) == (short("c-1", CACHE), short("e-2"))
    assert orders.newest[SyncMode.FULL_REFRESH] is None
    assert (items.unfinished, items.missed) == (frozenset({short("e-6"), short("e-7")}), True)
    assert items.newest[SyncMode.FULL_REFRESH] == short("e-5")


def test_a_cursor_of_the_upstream_sensor_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """What waited for its interval is requested, nothing else is; the run that counted as lost is not asked about."""
    assets = [cache("t", "a", "b"), cache("u", "c")]
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(instance, assets, minimum_update_interval=600)
        daemon.cursor = (LANDED / "upstream_cursor.txt").read_text().strip()
        assert daemon.requested() == ["t"]
        assert daemon.requested() == []
        land(instance, "c")
        assert daemon.requested() == ["u"]
    assert "cannot be read" not in capsys.readouterr().err


def test_a_snapshot_is_loaded() -> None:
    """With its columns, and as assets."""
    project = PeakaProject.load(LANDED / "peaka_project.json")

    assert [cache.name for cache in project.caches] == ["ops.public.t", "ops.public.u"]
    assert all(cache.columns for cache in project.caches)
    assert len(build_peaka_cache_assets(project)) == 2
