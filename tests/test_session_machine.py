"""A hypothesis state machine over the pair of sessions: any order of talk, faults and deaths.

Invariants: what the device was told is delivered is in the store, everything is stored once,
order is kept within a stream. At the end the network heals, and everything said is stored.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from world import Faults, World

from fleetnet.ticks import PERIOD
from stories import REPEATABLE

STREAMS = (2, 3)


class Pair(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 1 << 20),
        start=st.sampled_from([0, PERIOD - 3000]),
        first=st.sampled_from([1, 120, 16_370]),
        datagram=st.booleans(),
    )
    def begin(self, seed: int, start: int, first: int, datagram: bool) -> None:
        self.world = World(seed, Faults(delay=15), start, datagram, first_seq=first)
        self.said: dict[int, list[bytes]] = {stream: [] for stream in STREAMS}
        self.world.watch(300)

    @rule(stream=st.sampled_from(STREAMS), count=st.integers(1, 30), big=st.booleans())
    def say(self, stream: int, count: int, big: bool) -> None:
        for _ in range(count):
            payload = b"%d:%06d" % (stream, len(self.said[stream]))
            payload += bytes(2500) if big and count < 4 else b""
            self.said[stream].append(payload)
            self.world.say(stream, payload)

    @rule(loss=st.integers(0, 40), reorder=st.integers(0, 40), jitter=st.integers(0, 50))
    def lose(self, loss: int, reorder: int, jitter: int) -> None:
        self.world.faults.loss = loss
        self.world.faults.reorder = reorder
        self.world.faults.jitter = jitter

    @rule(duplicate=st.integers(0, 50))
    def duplicate(self, duplicate: int) -> None:
        self.world.faults.duplicate = duplicate

    @rule()
    def cut(self) -> None:
        self.world.cut()

    @rule(datagram=st.booleans())
    def move(self, datagram: bool) -> None:
        self.world.connect(datagram)

    @rule()
    def reboot(self) -> None:
        self.world.reboot_device(True)

    @rule(down_ms=st.integers(0, 3000))
    def kill_server(self, down_ms: int) -> None:
        self.world.kill_server(down_ms)

    @rule(commit_ms=st.integers(0, 400))
    def slow_store(self, commit_ms: int) -> None:
        self.world.commit_ms = commit_ms

    @rule(ms=st.integers(1, 4000))
    def time_passes(self, ms: int) -> None:
        self.world.run(self.world.time + ms)

    @invariant()
    def delivered_is_stored_once_and_in_order(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        marks = world.store.watermarks(world.device.epoch)
        for stream in STREAMS:
            assert world.delivered.get(stream, 0) <= marks.get(stream, 0)
            stored = [payload for (_, s, _), payload in world.store.order if s == stream]
            assert stored == self.said[stream][: len(stored)]

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.faults = Faults(delay=15)
        world.commit_ms = 10
        total = sum(len(said) for said in self.said.values())
        world.server_down_until = min(world.server_down_until, world.time + 3000)
        done = world.run(
            world.time + 600_000, lambda: len(world.store.rows) == total and world.is_quiet()
        )
        assert done, f"{len(world.store.rows)} of {total} stored, device state {world.device.state}"
        self.delivered_is_stored_once_and_in_order()


Pair.TestCase.settings = settings(
    REPEATABLE,
    max_examples=200,
    stateful_step_count=40,
)
TestPair = Pair.TestCase
