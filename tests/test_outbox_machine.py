"""A hypothesis state machine over outbox, spool and session: any order of talk, outages, deaths.

Real sessions, a real spool on a flash in memory (tests/core/spool_rig.py). Whatever happens the
server has nothing twice and nothing out of order, and one number never means two messages
(Store.commit asserts it). What was on the flash when the power failed arrives in the end, and
while nothing is lost with the RAM of a reboot, so does everything else. After each step what the
server does not have is still in the outbox, and what ceilings dropped left its numbers unused.
"""

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from spool_rig import Rig

from stories import REPEATABLE

STREAMS = (2, 3)
# What ceilings drop is no loss of the kind looked for here: the roomy one never meets them.
ROOMY = {"spool_bytes": 1 << 18, "ram": (1 << 16, 512)}
SMALL = {"spool_bytes": 4096, "ram": (2048, 16)}
SETTLED_MS = 10_000


class Spooled(RuleBasedStateMachine):
    rig: Rig

    @initialize(
        seed=st.integers(1, 1 << 20),
        is_roomy=st.booleans(),
        policy=st.sampled_from(["oldest", "newest"]),
    )
    def begin(self, seed: int, is_roomy: bool, policy: str) -> None:
        self.is_roomy = is_roomy
        self.rig = Rig(seed, policy=policy, **(ROOMY if is_roomy else SMALL))
        self.said: dict[int, list[bytes]] = {stream: [] for stream in STREAMS}
        self.safe: set[bytes] = set()  # on the flash, or at the server
        self.in_ram: set[bytes] = set()  # of these a reboot may lose some
        self.risked: set[bytes] = set()  # and of these one may have lost some

    @rule(stream=st.sampled_from(STREAMS), count=st.integers(1, 20), size=st.integers(0, 300))
    def say(self, stream: int, count: int, size: int) -> None:
        for _ in range(count):
            payload = b"%d:%06d%s" % (stream, len(self.said[stream]), b"x" * size)
            self.said[stream].append(payload)
            self.in_ram.add(payload)
            self.rig.say(payload, stream)

    @rule(ms=st.integers(1, 5000))
    def time_passes(self, ms: int) -> None:
        self.rig.pass_time(ms)

    @rule(pieces=st.integers(1, 40))
    def talk(self, pieces: int) -> None:
        self.rig.connect()
        self.rig.run(pieces)

    @rule()
    def talk_on(self) -> None:
        self.rig.run(ms=5000)

    @rule()
    def cut(self) -> None:
        self.rig.cut()

    @rule()
    def kill_server(self) -> None:
        self.rig.kill_server()

    @rule(fails=st.booleans())
    def store(self, fails: bool) -> None:
        self.rig.commit_fails = int(fails)

    @rule()
    def outage(self) -> None:
        """No link for so long that everything goes to the flash."""
        self.rig.cut()
        self.rig.pass_time(SETTLED_MS)
        if self.is_roomy:
            self.safe |= self.in_ram
            self.in_ram = set()

    @rule()
    def reboot(self) -> None:
        self.rig.reboot()
        self.risked |= self.in_ram
        if not self.is_roomy:  # nor does RAM know any more what was dropped
            self.risked.update(*self.said.values())
        self.in_ram = set()

    @rule(stream=st.sampled_from(STREAMS), count=st.integers(1, 4))
    def long_outage(self, stream: int, count: int) -> None:
        """A few messages behind many of the other stream, and then more than a small flash holds.

        The few wait for room in the session, go to the flash, and from there to nowhere. What
        the stream says next must not have their numbers.
        """
        other = STREAMS[stream == STREAMS[0]]
        self.talk(40)
        self.rig.cut()
        self.say(other, 4, 248)  # of a small RAM all that the session may hold
        self.say(stream, count, 20)
        self.outage()
        for _ in range(2):
            self.say(other, 12, 250)
            self.outage()
        self.talk(40)
        self.say(stream, 1, 20)
        self.talk_on()

    @rule(stream=st.sampled_from(STREAMS), pieces=st.integers(3, 4))
    def late_acknowledgement(self, stream: int, pieces: int) -> None:
        """A link is lost with what it brought; the next one tells so, and stores nothing more."""
        self.say(stream, 3, 20)
        self.talk(pieces)
        self.say(stream, 3, 20)
        self.store(True)
        self.talk(10)
        self.what_is_not_stored_is_in_the_outbox()
        self.store(False)

    @precondition(lambda self: self.is_roomy)
    @rule(count=st.integers(1, 20), cut=st.integers(1, 400))
    def reboot_within_a_write(self, count: int, cut: int) -> None:
        """The end of the last write to the spool is missing when the device starts again."""
        self.outage()
        before = len(self.rig.flash.operations)
        self.say(3, count, 20)
        self.rig.pass_time(SETTLED_MS)
        operations = self.rig.flash.operations
        if len(operations) > before:
            operation, name, data = operations[-1]
            if operation == "append" and name.endswith(".spl"):
                del self.rig.flash.files[name][-min(cut, len(data)) :]
        self.reboot()

    @invariant()
    def nothing_is_stored_twice_or_out_of_order(self) -> None:
        if not hasattr(self, "said"):
            return
        for stream in STREAMS:
            stored = self.rig.payloads(stream)
            numbers = [int(payload[2:8]) for payload in stored]
            assert numbers == sorted(set(numbers)), (stream, numbers)
            assert all(self.said[stream][int(p[2:8])] == p for p in stored)
        if self.is_roomy:
            assert self.rig.dropped == self.rig.outbox.dropped_messages == 0

    @invariant()
    def what_is_not_stored_is_in_the_outbox(self) -> None:
        if hasattr(self, "said") and self.is_roomy:
            known = self.risked.union(*(self.rig.payloads(stream) for stream in STREAMS))
            missing = sum(p not in known for stream in STREAMS for p in self.said[stream])
            assert missing <= len(self.rig.outbox), (missing, len(self.rig.outbox))

    @invariant()
    def what_was_dropped_left_its_numbers_out(self) -> None:
        """A message is one frame here. What went with a reboot had no number that lasts."""
        if not hasattr(self, "said"):
            return
        known = self.risked.union(*(self.rig.payloads(stream) for stream in STREAMS))
        before: dict[tuple[bytes, int], tuple[int, int]] = {}
        for (epoch, stream, seq), payload in sorted(self.rig.store.rows.items()):
            index = int(payload[2:8])
            last_seq, last_index = before.get((epoch, stream), (0, -1))
            between = self.said[stream][last_index + 1 : index]
            dropped = sum(message not in known for message in between)
            assert seq - last_seq - 1 >= dropped, (stream, last_seq, seq, dropped)
            before[epoch, stream] = seq, index

    def teardown(self) -> None:
        if not hasattr(self, "said"):
            return
        self.rig.commit_fails = 0
        self.rig.drain()
        self.nothing_is_stored_twice_or_out_of_order()
        self.what_was_dropped_left_its_numbers_out()
        if self.is_roomy:
            stored = {payload for stream in STREAMS for payload in self.rig.payloads(stream)}
            said = {payload for payloads in self.said.values() for payload in payloads}
            lost = said - stored
            assert lost <= self.risked - self.safe, sorted(lost)[:5]


Spooled.TestCase.settings = settings(
    REPEATABLE,
    max_examples=120,
    stateful_step_count=25,
    # Not "explain", which takes a minute to say which lines a bad story runs.
    phases=[Phase.generate, Phase.shrink],
)
TestSpooled = Spooled.TestCase
