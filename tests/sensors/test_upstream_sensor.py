"""The sensor that makes new upstream materializations runs of caches: one tick after another, on a Dagster instance."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from dagster_peaka import PeakaConfigError
from dagster_peaka.sandbox import PeakaSandbox
from dagster_peaka.sensors.upstream import build_peaka_upstream_sensor
from tests.materializing import peaka_for
from tests.sensors.upstream import Clock, Daemon, cache, land


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance that keeps its events in SQLite, in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def test_exactly_the_caches_behind_an_updated_asset_are_requested(instance: dg.DagsterInstance) -> None:
    """A new upstream materialization requests the caches that depend on that asset, and no other, once."""
    daemon = Daemon(instance, [cache("t", "a"), cache("u", "a", "b"), cache("v", "c")])
    assert daemon.requested() == []
    land(instance, "b")
    assert daemon.requested() == ["u"]
    assert daemon.requested() == []
    land(instance, "a")
    assert daemon.requested() == ["t", "u"]
    assert daemon.requested() == []


def test_many_events_make_one_run(instance: dg.DagsterInstance) -> None:
    """Fifty materializations of two upstream assets between two ticks are one run."""
    daemon = Daemon(instance, [cache("t", "a"), cache("u", "b")])
    daemon.tick()
    for _ in range(25):
        land(instance, "a")
        land(instance, "b")
    assert daemon.requested() == ["t", "u"]
    assert daemon.requested() == []


def test_ten_new_partitions_are_one_update(instance: dg.DagsterInstance) -> None:
    """A cache has no partitions: any number of its upstream's makes one request, without a partition."""
    daemon = Daemon(instance, [cache("t", "daily")])
    daemon.tick()
    for day in range(10):
        land(instance, "daily", f"2024-01-{day + 1:02}")
    (request,) = daemon.tick().run_requests
    assert request.partition_key is None
    assert not any("partition" in tag for tag in request.tags)
    land(instance, "daily", "2024-01-01")  # landed anew: the partition is not new, its rows are
    assert daemon.requested() == ["t"]


def test_an_upstream_asset_may_be_in_another_code_location(
    instance: dg.DagsterInstance, sandbox: PeakaSandbox
) -> None:
    """What counts is the instance: an upstream materialized by definitions that know no cache makes a request."""

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["eu", "us"]))
    def landed(context: dg.AssetExecutionContext) -> None: ...

    daemon = Daemon(instance, [cache("t", "landed")], peaka=peaka_for(sandbox))
    daemon.tick()
    for region in ("eu", "us"):
        assert dg.materialize([landed], instance=instance, partition_key=region).success
    (request,) = daemon.tick().run_requests
    job = daemon.definitions.resolve_job_def(request.job_name)
    assert job.execute_in_process(instance=instance, asset_selection=request.asset_selection).success
    assert [execution.status for execution in sandbox.executions("ops.public.t")][-1] == "COMPLETED"
    assert daemon.requested() == []


def test_an_update_during_a_run_leads_to_another_one(
    instance: dg.DagsterInstance, sandbox: PeakaSandbox
) -> None:
    """An upstream that is materialized while the requested run is in flight is an update to the next tick."""
    asset = cache("t", "a")
    daemon = Daemon(instance, [asset])
    daemon.tick()
    land(instance, "a")
    assert daemon.requested() == ["t"]
    land(instance, "a")  # before the run that was just requested has ended
    assert dg.materialize([asset], resources={"peaka": peaka_for(sandbox)}, instance=instance).success
    assert daemon.requested() == ["t"]
    assert daemon.requested() == []


def test_observations_do_not_count(instance: dg.DagsterInstance) -> None:
    """An observation of an upstream asset requests nothing."""
    daemon = Daemon(instance, [cache("t", "a")])
    daemon.tick()
    instance.report_runless_asset_event(dg.AssetObservation("a"))
    assert daemon.requested() == []


def test_a_cache_that_another_one_depends_on_is_watched(instance: dg.DagsterInstance) -> None:
    """A cache behind a cache is requested when that one has been materialized."""
    daemon = Daemon(instance, [cache("t", "a"), cache("u", "t")])
    daemon.tick()
    land(instance, "a")
    assert daemon.requested() == ["t"]
    land(instance, "t")
    assert daemon.requested() == ["u"]


def test_a_step_that_cannot_be_divided_is_requested_whole(instance: dg.DagsterInstance) -> None:
    """Caches of one definition that cannot be subset are requested together, whosever upstream is updated."""

    @dg.multi_asset(specs=[dg.AssetSpec("t", deps=["a"]), dg.AssetSpec("u", deps=["t", "b"])])
    def both(): ...

    daemon = Daemon(instance, [both])
    daemon.tick()
    land(instance, "b")
    assert daemon.requested() == ["t", "u"]
    land(instance, "t")  # its own materialization does not count
    assert daemon.requested() == []


# Ticks that are repeated, and sensors that begin


def test_a_repeated_tick_asks_for_the_same_run(instance: dg.DagsterInstance) -> None:
    """A tick whose cursor was lost is repeated with the same run key; the next update has another one."""
    daemon = Daemon(instance, [cache("t", "a", "b"), cache("u", "b")])
    daemon.tick()
    land(instance, "b")
    (lost,), (repeated,) = daemon.evaluate().run_requests, daemon.tick().run_requests
    assert lost.run_key == repeated.run_key
    land(instance, "b")
    (next_one,) = daemon.tick().run_requests
    assert next_one.run_key != repeated.run_key


def test_no_run_key_is_used_twice(instance: dg.DagsterInstance) -> None:
    """Dagster starts nothing for a run key that it has seen, so every request after the first has another one."""
    daemon = Daemon(instance, [cache("t", "a"), cache("u", "a", "b")])
    daemon.tick()
    keys: list[str] = []
    for upstream in "aabbabab":
        land(instance, upstream)
        keys.extend(request.run_key for request in daemon.tick().run_requests)
    assert len(set(keys)) == 8


def test_wiped_events_are_no_end(instance: dg.DagsterInstance) -> None:
    """An upstream whose events are wiped makes no request; its next materialization does, with a new run key."""
    daemon = Daemon(instance, [cache("t", "a")])
    daemon.tick()
    keys: list[str] = []
    for _ in range(3):
        land(instance, "a")
        keys.extend(request.run_key for request in daemon.tick().run_requests)
        instance.wipe_assets([dg.AssetKey("a")])
        assert daemon.requested() == []
    assert len(set(keys)) == 3


def test_an_event_log_that_begins_anew_is_no_end(instance: dg.DagsterInstance) -> None:
    """Where the event log was lost and the cursor was not, storage ids come again, for other materializations."""
    daemon = Daemon(instance, [cache("t", "a")])
    land(instance, "a")
    daemon.tick()
    with dg.DagsterInstance.ephemeral() as daemon.instance:
        land(daemon.instance, "a")
        assert daemon.requested() == ["t"]


def test_materializations_of_the_same_moment_are_told_apart(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second materialization that a coarse clock gives the time of the first is an update."""
    daemon = Daemon(instance, [cache("t", "a")])
    daemon.tick()
    moment = time.time()
    monkeypatch.setattr(time, "time", lambda: moment)
    for _ in range(2):
        land(instance, "a")
        assert daemon.requested() == ["t"]


def test_what_was_there_before_the_sensor_is_not_requested(instance: dg.DagsterInstance) -> None:
    """The first tick begins with what is materialized since the sensor was turned on."""
    daemon = Daemon(instance, [cache("t", "a"), cache("u", "b")])
    land(instance, "a")
    daemon.started_at = time.time()
    land(instance, "b")  # before the first tick, yet after the sensor was turned on
    assert daemon.requested() == ["u"]


def test_a_pause_loses_nothing(instance: dg.DagsterInstance) -> None:
    """What is materialized while the sensor is off is requested when it is on again."""
    daemon = Daemon(instance, [cache("t", "a"), cache("u", "b")])
    daemon.tick()
    land(instance, "a")
    daemon.started_at = time.time()
    assert daemon.requested() == ["t"]


@pytest.mark.parametrize(
    "cursor", ["no JSON", "{}", "[]", '{"version":2,"evaluated_at":1.0}', '{"version":1,"evaluated_at":"1"}']
)
def test_a_damaged_cursor_begins_anew(
    instance: dg.DagsterInstance, cursor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cursor that cannot be read is as none, and a warning shows it."""
    daemon = Daemon(instance, [cache("t", "a"), cache("u", "b")])
    land(instance, "a")
    daemon.started_at = time.time()
    daemon.tick()
    land(instance, "b")
    daemon.cursor = cursor
    assert daemon.requested() == ["u"]
    assert cursor in capsys.readouterr().err
    assert daemon.requested() == []


def test_assets_may_come_and_go(instance: dg.DagsterInstance) -> None:
    """A new cache begins with what is materialized since the last tick; one that went is forgotten."""
    daemon = Daemon(instance, [cache("t", "a")])
    daemon.tick()
    land(instance, "b")
    daemon.tick()
    daemon.redefine([cache("t", "a"), cache("u", "b"), cache("v", "c")])
    land(instance, "c")
    assert daemon.requested() == ["v"]
    daemon.redefine([cache("u", "b")])
    land(instance, "a")
    land(instance, "b")
    assert daemon.requested() == ["u"]
    daemon.redefine([cache("t", "a"), cache("u", "b")])
    assert daemon.requested() == []
    land(instance, "a")
    assert daemon.requested() == ["t"]


# Options


def test_all_waits_for_every_upstream(instance: dg.DagsterInstance) -> None:
    """With require="all" a cache is requested when every upstream was updated since the cache's last request."""
    daemon = Daemon(instance, [cache("t", "a", "b"), cache("u", "a")], require="all")
    daemon.tick()
    land(instance, "a")
    assert daemon.requested() == ["u"]
    land(instance, "a")
    assert daemon.requested() == ["u"]
    land(instance, "b")
    assert daemon.requested() == ["t"]
    land(instance, "b")
    assert daemon.requested() == []


def test_a_minimum_interval_merges_and_loses_nothing(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the interval after a request a cache is not requested; what came meanwhile is, when it is over."""
    clock = Clock(monkeypatch)
    assets = [cache("t", "a"), cache("u", "b")]
    daemon = Daemon(instance, assets, minimum_update_interval=timedelta(minutes=10))
    daemon.tick()
    land(instance, "a")
    assert daemon.requested() == ["t"]
    for _ in range(3):
        clock.advance(190)
        land(instance, "a")
        assert daemon.requested() == []
    land(instance, "b")
    assert daemon.requested() == ["u"]
    clock.advance(40)
    assert daemon.requested() == ["t"]
    clock.advance(601)
    assert daemon.requested() == []


def test_a_clock_that_is_set_back_holds_nothing_up(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A last request in the future is no reason to wait for that time and the interval."""
    clock = Clock(monkeypatch)
    daemon = Daemon(instance, [cache("t", "a")], minimum_update_interval=600)
    daemon.tick()
    clock.advance(86400)
    land(instance, "a")
    assert daemon.requested() == ["t"]
    clock.advance(-86400)
    land(instance, "a")
    assert daemon.requested() == ["t"]


def test_a_run_carries_the_tags(instance: dg.DagsterInstance) -> None:
    """run_tags are on every run that the sensor requests, beside Dagster's own."""
    daemon = Daemon(instance, [cache("t", "a")], name="landed", run_tags={"team": "data"})
    daemon.tick()
    land(instance, "a")
    (request,) = daemon.tick().run_requests
    assert request.tags["team"] == "data"
    assert request.tags["dagster/sensor_name"] == "landed"


def test_a_sensor_is_off_until_it_is_turned_on() -> None:
    """By default the sensor does nothing; the definition takes Dagster's own settings."""
    assert build_peaka_upstream_sensor(cache("t", "a")).default_status is dg.DefaultSensorStatus.STOPPED
    sensor = build_peaka_upstream_sensor(
        [cache("t", "a")],
        name="landed",
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="When rows have landed.",
        tags={"team": "data"},
    )
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert (sensor.name, sensor.minimum_interval_seconds) == ("landed", 5)
    assert (sensor.description, sensor.tags) == ("When rows have landed.", {"team": "data"})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"require": "every"}, "'every'.*'any' or 'all'"),
        ({"minimum_update_interval": -1}, "minimum_update_interval.*-1"),
        ({"minimum_update_interval": float("inf")}, "minimum_update_interval.*inf"),
        ({"minimum_update_interval": "10m"}, "minimum_update_interval.*'10m'"),
        ({"minimum_update_interval": True}, "minimum_update_interval.*True"),
        ({"run_tags": {"team": 1}}, "run_tags.*'team': 1"),
        ({"run_tags": {"": "x"}}, "run_tags"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], named: str) -> None:
    """The definition fails, saying which option and what to write."""
    with pytest.raises(PeakaConfigError, match=named):
        build_peaka_upstream_sensor(cache("t", "a"), **options)


def test_assets_that_make_no_sense_are_refused() -> None:
    """No assets, keys instead of assets, partitioned ones, and none that depends on anything are refused by name."""

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["eu"]), deps=["a"])
    def divided() -> None: ...

    nonsense: Any = ["t"]
    for assets, named in [
        ([], "there is none"),
        (nonsense, "was given str among them"),
        ([divided], "divided has partitions"),
    ]:
        with pytest.raises(PeakaConfigError, match=named):
            build_peaka_upstream_sensor(assets)
    with pytest.raises(PeakaConfigError, match="none of its assets depends on another: t, u"):
        build_peaka_upstream_sensor([cache("t"), cache("u")])


def test_caches_that_depend_on_nothing_are_named() -> None:
    """Among others they are left out, and the sensor's description says so."""
    sensor = build_peaka_upstream_sensor([cache("t", "a"), cache("u")])
    assert "depend on nothing: u" in (sensor.description or "")


# What a tick without a request says


def test_a_tick_says_why_it_requests_nothing(instance: dg.DagsterInstance) -> None:
    """Nothing new, waiting for other upstreams, and the minimum interval are told apart, by the assets' names."""
    assets = [cache("t", "a", "b"), cache("u", "c")]
    daemon = Daemon(instance, assets, require="all", minimum_update_interval=600)
    assert "(upstream assets: 3, caches: 2)" in daemon.tick().skip_message
    land(instance, "a")
    land(instance, "c")
    daemon.tick()
    land(instance, "c")
    said = daemon.tick().skip_message
    assert "t has new materializations of a, but none yet of b." in said
    assert "u has new materializations of c, and its minimum interval ends at 2" in said


def test_a_long_list_is_cut(instance: dg.DagsterInstance) -> None:
    """A tick with many waiting caches names some, and how many more there are."""
    daemon = Daemon(instance, [cache(f"t{number}", "a", "b") for number in range(9)], require="all")
    daemon.tick()
    land(instance, "a")
    said = daemon.tick().skip_message
    assert said.count("none yet of b") == 5
    assert said.endswith("4 more wait as well.")


# What a tick costs


def queries_of_ticks(instance: dg.DagsterInstance, caches: int) -> tuple[int, int]:
    """The database queries of a tick with nothing new, and of one in which every cache is requested."""
    prefix = f"of_{caches}"
    assets = [cache(f"{prefix}_{number}", f"{prefix}_up_{number}") for number in range(caches)]
    daemon = Daemon(instance, assets)
    for number in range(0, caches, 2):  # every other one has been materialized before
        land(instance, f"{prefix}_up_{number}")
    daemon.tick()
    queries: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("PRAGMA"):  # settings of a new connection
            queries.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert daemon.requested() == []
        quiet = len(queries)
        for number in range(caches):
            land(instance, f"{prefix}_up_{number}")
        queries.clear()
        assert len(daemon.requested()) == caches
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return quiet, len(queries)


def test_queries_do_not_grow_with_the_caches(instance: dg.DagsterInstance) -> None:
    """A tick over 200 caches asks the database as often as one over 2."""
    few = queries_of_ticks(instance, 2)
    assert 1 <= few[0] <= few[1] <= 5
    assert queries_of_ticks(instance, 200) == few


def test_the_cursor_is_small(instance: dg.DagsterInstance) -> None:
    """It takes 32 bytes a cache at most, each with an upstream of its own, and does not grow with their events."""
    assets = [cache(f"t{number}", f"a_rather_long_name_of_an_asset_{number}") for number in range(100)]
    daemon = Daemon(instance, assets)
    daemon.tick()
    for _ in range(2):
        land(instance, "a_rather_long_name_of_an_asset_1")
        daemon.tick()
    assert daemon.cursor is not None
    assert len(daemon.cursor) <= 32 * len(assets)
