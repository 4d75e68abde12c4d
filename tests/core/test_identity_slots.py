"""The power is cut at every operation on the flash of claim, install, switch and retire.

After each cut the device boots: it must have a whole identity that the back-end accepts, and from
there the story must come to its end (identity_model.py).
"""

import sys

FOLDER = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
sys.path.insert(0, FOLDER)
from identity_model import BUNDLE, cut_everywhere, sequence  # noqa: E402
from small_disk import SmallDisk  # noqa: E402

from fleetnet_device import csr, identity_slots, p256, saved  # noqa: E402
from fleetnet_device.identity_slots import Identity, Slots  # noqa: E402


async def test_a_cut_anywhere_leaves_an_identity_that_serves():
    for has_bundle in (True, False):
        for renames_over in (True, False):
            cuts, bad = await cut_everywhere(Slots, has_bundle, renames_over)
            print("power cuts:", cuts, "bad:", len(bad))
            assert cuts > 100 and not bad, (has_bundle, renames_over, bad[:5])


class Naive(Slots):
    """Believes the name on the flash, whatever the slot holds: only the order of writes helps."""

    def load(self):
        self._read_marker()
        self.current = self.marker or ""
        if not self.current:
            return self.bundle if self.bundle.is_whole() else None
        return self.read(self.current) or self.bundle


async def test_the_order_of_writes_alone_is_enough():
    for has_bundle, renames_over in ((True, False), (False, True)):
        cuts, bad = await cut_everywhere(Naive, has_bundle, renames_over)
        assert cuts > 100 and not bad, (has_bundle, renames_over, bad[:5])


class NamedFirst(Naive):
    """Known bad: names a slot before it is written."""

    def write(self, now):
        letter = self.other()
        before = self.current
        self.switch(letter)
        self.current = before
        Slots_write(self, now, letter)
        return letter


def Slots_write(slots, now, letter):
    slots.other = lambda: letter
    Slots.write(slots, now)
    del slots.other


class RemovedFirst(Naive):
    """Known bad: makes room before the new identity is named."""

    def switch(self, letter):
        self.remove("b" if letter == "a" else "a")
        for name in ("/b/cert.der", "/b/key.der"):
            if name in identity_slots.os.files:
                identity_slots.os.remove(name)
        Naive.switch(self, letter)


class KeyLast(Slots):
    """Known bad: asks for a certificate, and keeps the key when it has come."""

    async def request(self, number, name):
        private, public = await p256.make_key()
        self._made = csr.sec1(private, public)
        return await csr.make_request(name, private, public)

    def read_key(self, number):
        self.write_key(number, self._made)
        return Slots.read_key(self, number)


async def test_known_bad_orders_are_found():
    for slots, has_bundle in ((NamedFirst, True), (RemovedFirst, True), (KeyLast, False)):
        _, bad = await cut_everywhere(slots, has_bundle, True)
        print(slots.__name__, len(bad), bad[:1])
        assert bad and bad[0][0] >= 0, slots.__name__


# -- single steps ------------------------------------------------------------------------


def slots_on(disk, mark="cam-1 7"):
    bundle = Identity(0, "/b/cert.der", "/b/key.der", "/b/ca.der", [])
    slots = Slots("/b", mark, "/b", bundle)
    with disk.mounted(saved, identity_slots):
        slots.load()
    return slots


def numbered(number):
    return Identity(number, sequence(b"c%d" % number), b"k", [sequence(b"anchor")], [b"p" * 32])


def test_a_slot_that_is_named_is_never_written():
    disk = SmallDisk(BUNDLE)
    slots = slots_on(disk)
    with disk.mounted(saved, identity_slots):
        slots.switch(slots.write(numbered(1)))
    # Another bundle is in force; the name on the flash is still that of the old one's slot.
    slots = slots_on(disk, "cam-1 8")
    assert (slots.current, slots.marker) == ("", "a")
    with disk.mounted(saved, identity_slots):
        slots.write(numbered(2))
    assert slots_on(disk, "cam-1 8").current == ""


def test_half_a_file_does_not_come_back():
    """What a cut left beside the name on FAT is not taken for it when the name is removed."""
    disk = SmallDisk(BUNDLE)
    slots = slots_on(disk)
    with disk.mounted(saved, identity_slots):
        slots.switch(slots.write(numbered(1)))
        disk.files["/b/identity.new"] = disk.files["/b/identity"]
        disk.files["/b/identity-a.new"] = disk.files["/b/identity-a"]
        slots.switch("")
        slots.remove("a")
    assert slots_on(disk).current == "" and sorted(disk.files) == sorted(BUNDLE)


def test_damage_to_name_or_slot_leaves_an_identity():
    whole = SmallDisk(BUNDLE)
    slots = slots_on(whole)
    with whole.mounted(saved, identity_slots):
        slots.switch(slots.write(numbered(1)))
        slots.switch(slots.write(numbered(2)))
    for name, without_bundle, expected in (
        ("identity", False, "b"), ("identity", True, "b"), ("identity-b", False, "a"),
        ("identity-a", True, "b"),
    ):  # fmt: skip
        for at in range(len(whole.files["/b/" + name])):
            disk = whole.after_power_cut()
            damaged = bytearray(disk.files["/b/" + name])
            damaged[at] ^= 4
            disk.files["/b/" + name] = bytes(damaged)
            if without_bundle:
                del disk.files["/b/key.der"]
            assert slots_on(disk).current == expected, (name, at)
