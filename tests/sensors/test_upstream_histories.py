"""The upstream sensor's decisions over generated histories: every update leads to a run, and to no more than one."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_peaka.sensors.updates import Newest, Rules, State, decide, run_key, short
from tests.examples import EXAMPLES

UPSTREAMS = "abcd"
CACHES = "tuvw"

Watched = dict[str, frozenset[str]]


@dataclass
class World:
    """An event log, a sensor whose ticks may die, and Dagster, which starts nothing for a run key that it knows.

    Beside the sensor's cursor stands the plain truth of the same things, kept by what happened and not by what the
    sensor saw: which upstreams have landed since the last tick whose cursor was stored, and for each cache, which
    have landed since its last request.
    """

    rules: Rules
    watched: Watched
    now: float = 0.0
    cursor: str | None = None
    newest: dict[str, Newest] = field(default_factory=dict[str, Newest])
    ids: dict[str, int] = field(default_factory=dict[str, int])
    fresh: set[str] = field(default_factory=set[str])
    updates: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    requested_at: dict[str, float] = field(default_factory=dict[str, float])
    landed_at: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    run_keys: set[str] = field(default_factory=set[str])
    run_at: dict[str, float] = field(default_factory=dict[str, float])

    def land(self, upstream: str) -> None:
        """Record a materialization, under the storage id that SQLite would give it."""
        self.now += 0.001
        self.ids[upstream] = max(self.ids.values(), default=0) + 1
        self.newest[upstream] = Newest(short(self.ids[upstream], self.now), self.now)
        self.fresh.add(upstream)
        for cache, upstreams in self.watched.items():
            if upstream in upstreams:
                self.landed_at[cache, upstream] = self.now

    def wipe(self, upstream: str) -> None:
        """Wipe an asset's events; ids of the last rows are given again."""
        self.ids.pop(upstream, None)
        self.newest.pop(upstream, None)
        self.fresh.discard(upstream)
        for cache in CACHES:
            self.landed_at.pop((cache, upstream), None)

    def deploy(self, watched: Watched) -> None:
        """Load other definitions; what is no longer watched is no longer owed."""
        self.watched = watched
        self.landed_at = {
            (cache, upstream): at
            for (cache, upstream), at in self.landed_at.items()
            if upstream in watched.get(cache, ())
        }

    def lose_cursor(self) -> None:
        """Forget what was seen: everything since the sensor's start is new again."""
        self.cursor = None
        self.updates.clear()
        self.requested_at.clear()
        self.fresh = set(self.newest)

    def tick(self, *, launches: bool = True, stores: bool = True) -> None:
        """Evaluate the sensor, compare with the truth, and let the tick die where the history wants it to."""
        self.now += 0.001
        state = State.model_validate_json(self.cursor) if self.cursor else State(evaluated_at=0.0)
        requests, after = decide(state, self.watched, self.newest, self.now, self.rules)
        updates = {
            cache: (self.updates.get(cache, set[str]()) | self.fresh) & upstreams
            for cache, upstreams in self.watched.items()
        }
        assert requests == {cache: new for cache, new in updates.items() if self._due(cache, new)}
        assert {*after.pending, *after.requested} <= set(self.watched)
        if requests and launches:
            key = run_key(requests, after.seen)
            if key not in self.run_keys:
                self.run_keys.add(key)
                self.run_at.update(dict.fromkeys(requests, self.now))
        if stores:
            self.cursor = after.model_dump_json()
            self.updates = {cache: new for cache, new in updates.items() if cache not in requests}
            kept = {cache: at for cache, at in self.requested_at.items() if cache in self.watched}
            self.requested_at = {**kept, **dict.fromkeys(requests, self.now)}
            self.fresh.clear()

    def _due(self, cache: str, new: set[str]) -> bool:
        at = self.requested_at.get(cache)
        if at is not None and self.now - at < self.rules.minimum_interval:
            return False
        return new >= self.watched[cache] if self.rules.every_upstream else bool(new)

    def owed(self) -> set[str]:
        """The caches with an upstream that has landed after the start of their last run."""
        return {cache for (cache, _), at in self.landed_at.items() if self.run_at.get(cache, 0.0) < at}


fleets = st.dictionaries(
    st.sampled_from(CACHES), st.frozensets(st.sampled_from(UPSTREAMS), min_size=1), min_size=1
)
steps = st.one_of(
    st.tuples(st.just("land"), st.sampled_from(UPSTREAMS)),
    st.tuples(st.just("land"), st.sampled_from(UPSTREAMS)),
    st.tuples(st.just("tick"), st.none()),
    st.tuples(st.just("tick that launches and dies"), st.none()),
    st.tuples(st.just("tick that dies"), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 30.0, 60.0, 600.0])),
    st.tuples(st.just("wipe"), st.sampled_from(UPSTREAMS)),
    st.tuples(st.just("deploy"), fleets),
    st.tuples(st.just("lose the cursor"), st.none()),
)


@settings(max_examples=50 * EXAMPLES)
@given(
    fleet=fleets,
    every=st.booleans(),
    interval=st.sampled_from([0.0, 45.0]),
    history=st.lists(steps, min_size=12, max_size=48),  # without a minimum, most would be of five steps
)
def test_updates_are_neither_lost_nor_requested_twice(
    fleet: Watched, every: bool, interval: float, history: list[tuple[str, object]]
) -> None:
    """Each tick requests exactly the caches that are due; in the end no cache is older than what it copies."""
    world = World(Rules(every, interval), fleet)
    for step, what in history:
        match step, what:
            case "land", str():
                world.land(what)
            case "wipe", str():
                world.wipe(what)
            case "wait", float():
                world.now += what
            case "deploy", dict():
                world.deploy(what)
            case "lose the cursor", _:
                world.lose_cursor()
            case _:
                world.tick(launches=step != "tick that dies", stores=step == "tick")
    world.tick()
    world.now += interval
    world.tick()
    if not every:
        assert not world.owed()
    runs = len(world.run_keys)
    world.tick()
    assert len(world.run_keys) == runs


@settings(max_examples=10 * EXAMPLES)
@given(fleet=fleets, landed=st.lists(st.sampled_from(UPSTREAMS), min_size=1))
def test_a_repeated_tick_has_the_same_run_key(fleet: Watched, landed: list[str]) -> None:
    """However often a tick is repeated without an update, and whatever the time, Dagster sees one run key."""
    world = World(Rules(), fleet)
    world.tick()
    for upstream in landed:
        world.land(upstream)
    for _ in range(3):
        world.tick(stores=False)
        world.now += 100
    world.tick()
    assert len(world.run_keys) == any(upstreams.intersection(landed) for upstreams in fleet.values())
