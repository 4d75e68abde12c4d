"""A hypothesis state machine over a device's identity slots: any order of steps and power cuts.

Steps of a rotation (fleetnet_device/identity_slots.py) on a disk in memory whose power fails at
any operation, by nothing, half or all of what it writes. After each cut the device has a whole
identity, which is the one before or the one behind the step; a key made here is the old or the new
one, whole. tests/core/test_identity_slots.py walks one story and cuts it everywhere; here the
stories are drawn.
"""

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from identity_model import BUNDLE, sequence
from small_disk import SmallDisk

from fleetnet_device import identity_slots, saved
from fleetnet_device.identity_slots import Identity, Slots
from stories import REPEATABLE

# Where the power fails: behind so many operations, with how much of the next one; None: it stays.
CUTS = st.none() | st.tuples(st.integers(0, 12), st.integers(0, 2))
NEVER = 1 << 30


def identity(number: int) -> Identity:
    certificate = sequence(b"certificate %d" % number)
    return Identity(number, certificate, b"key %d" % number, [sequence(b"anchor")], [])


class Kept(RuleBasedStateMachine):
    disk: SmallDisk

    @initialize(has_bundle=st.booleans(), renames_over=st.booleans())
    def begin(self, has_bundle: bool, renames_over: bool) -> None:
        self.has_bundle = has_bundle
        self.disk = SmallDisk(BUNDLE if has_bundle else {}, renames_over)
        self.newest = 0
        self.key: tuple[int, bytes] = (0, b"")
        self.allowed: set[int | None] = {0 if has_bundle else None}
        self.start()

    def look(self, disk: SmallDisk) -> tuple[Slots, int | None]:
        """Start on a disk; return its slots and the number of the identity in force."""
        bundle = Identity(0, "/b/cert.der", "/b/key.der", "/b/ca.der", [])
        slots = Slots("/b", "cam-1 7", "/b", bundle)
        with disk.mounted(saved, identity_slots):
            found = slots.load()
            assert found is None or found.is_whole()
        number = None if found is None else found.number
        assert number in self.allowed, (number, self.allowed)
        if found is not None and number:
            assert found.certificate == sequence(b"certificate %d" % number)
            assert found.key == b"key %d" % number
        return slots, number

    def start(self) -> None:
        self.slots, number = self.look(self.disk)
        self.allowed = {number}

    @invariant()
    def the_power_may_fail_now(self) -> None:
        if hasattr(self, "slots"):
            self.look(self.disk.after_power_cut())

    def step(self, act: Callable[[], object], cut: tuple[int, int] | None) -> bool:
        """Do something under a power that may fail; say whether it was done."""
        self.disk.fail_after(*(cut or (NEVER, 0)))
        try:
            with self.disk.mounted(saved, identity_slots):
                act()
        except OSError:
            assert self.disk.is_dead
        if not self.disk.is_dead:
            return True
        self.disk = self.disk.after_power_cut()
        self.start()
        return False

    @property
    def number(self) -> int | None:
        [found] = self.allowed
        return found

    @rule(cut=CUTS)
    def install(self, cut: tuple[int, int] | None) -> None:
        self.newest += 1
        new = identity(self.newest)
        self.allowed |= {self.newest}
        if self.step(lambda: self.slots.switch(self.slots.write(new)), cut):
            self.allowed = {self.newest}

    @rule(cut=CUTS)
    def write_only(self, cut: tuple[int, int] | None) -> None:
        """An identity that is not named is not in force, but where there is no other."""
        self.newest += 1
        new = identity(self.newest)
        if self.number is None:
            self.allowed |= {self.newest}
        if self.step(lambda: self.slots.write(new), cut) and len(self.allowed) > 1:
            self.start()

    @rule(cut=CUTS)
    def retire(self, cut: tuple[int, int] | None) -> None:
        if self.number:
            self.step(self.slots.retire, cut)

    @rule(cut=CUTS)
    def fall_back(self, cut: tuple[int, int] | None) -> None:
        with self.disk.mounted(saved, identity_slots):
            found = self.slots.fall_back()
        if found is None:
            return
        letter, older = found
        self.allowed |= {older.number}
        if self.step(lambda: self.slots.switch(letter), cut):
            self.allowed = {older.number}

    @rule(cut=CUTS)
    def make_key(self, cut: tuple[int, int] | None) -> None:
        number, key = self.key[0] + 1, b"private %d" % (self.key[0] + 1)
        done = self.step(lambda: self.slots.write_key(number, key), cut)
        with self.disk.mounted(saved, identity_slots):
            found = self.slots.read_key(number)
            old = self.slots.read_key(self.key[0])
        assert found == key if done else found in (key, b"")
        if found:
            self.key = (number, key)
        elif not done:
            assert old in (self.key[1], b"")
            self.key = (self.key[0], old)

    @rule()
    def restart(self) -> None:
        self.disk = self.disk.after_power_cut()
        self.start()


Kept.TestCase.settings = settings(
    REPEATABLE,
    max_examples=150,
    stateful_step_count=20,
)
TestKept = Kept.TestCase
