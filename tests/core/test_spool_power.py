"""The power fails at every byte of every write, and the flash shows five kinds of tail.

A run of two laps with outages is recorded operation by operation. Every state that a cut can
leave is opened again: what had been written whole must be there, in order, once and unaltered,
and writing must go on behind it. CPython tries every offset, with two of the tails in turn,
MicroPython a sample of the offsets.
"""

import sys

from flash import Flash, apply
from spool_rig import Rig
from world import Lcg

from fleetnet_device import spool_records
from fleetnet_device.spool_log import Log
from fleetnet_device.spool_records import HEADER_BYTES, Reader, Record

SPOOL_BYTES = 4096
FRAGMENT = 1136
STRIDE = 1 if sys.implementation.name == "cpython" else 37


def recorded_run():
    """Outages, a drain, drops of the oldest, a reboot, a clean stop.

    Returns:
        all operations, and the set of messages that the server has in the end.
    """
    rig = Rig(5, Flash(), SPOOL_BYTES, ram=(2048, 16))
    sizes = Lcg(9)
    operations = []
    count = 0

    def say(number):
        nonlocal count
        for _ in range(number):
            body = b"<message %d %s/>" % (count, b"x" * sizes.below(90))
            rig.say(body, 2 + count % 2)
            count += 1
            rig.pass_time(700)

    rig.drain()
    rig.cut()
    say(100)  # more than the quota: the oldest go
    rig.pass_time(9000)
    rig.drain()
    rig.cut()
    say(24)
    rig.pass_time(9000)
    operations += rig.flash.operations
    rig.reboot()
    say(12)
    rig.pass_time(9000)
    rig.connect()
    rig.run(6)
    rig.cut()
    say(8)
    rig.outbox.close()
    operations += rig.flash.operations
    return operations, set([payload for _, payload in rig.store.order])


def stale_bytes(operations):
    """Whole records of the first lap, beginning with one: what erased files left behind."""
    for operation, name, data in operations:
        if operation == "append" and name.endswith(".spl"):
            return data[:300]
    raise AssertionError("nothing was spooled")


def tails(data, before, at, stale, random):
    """What may stand behind the first ``at`` bytes of a write of ``data``."""
    left = max(len(data) - at, 48)
    yield b""
    yield b"\0" * left
    yield b"\xff" * left
    yield random.bytes(48)
    yield before[at:] if before else stale


class Files:
    """What must be found: for each file the payloads with the offset where each is whole."""

    def __init__(self):
        self.known = {}

    def apply(self, operation, name, data, size):
        if operation == "remove":
            self.known.pop(name, None)
        elif operation == "append" and name.endswith(".spl"):
            ends = self.known.setdefault(name, [])
            at = data.find(b"<message")
            while at >= 0:
                end = data.find(b"/>", at) + 2
                ends.append((size + end, data[at:end]))
                at = data.find(b"<message", end)

    def payloads(self, name=None, size=0):
        """All, in order; of file ``name`` those that are whole within ``size`` bytes."""
        found = []
        for each in sorted(self.known):
            for end, payload in self.known[each]:
                if each != name or end <= size:
                    found.append(payload)
        return found


class Trial:
    """Counts what was tried, and what was wrong."""

    def __init__(self, stored, reader=Reader):
        self.stored = stored
        self.is_stopped = False
        self.reader = reader
        self.cases = 0
        self.bad = []

    def open(self, files):
        flash = Flash(files=files)
        reader = self.reader

        class Tried(Log):
            pass

        Tried.reader = reader
        return flash, Tried(flash, SPOOL_BYTES, FRAGMENT)

    def read(self, log):
        found = []
        while True:
            record = log.peek()
            if record is None:
                return found
            found.append(record.payload)
            log.taken()

    def agrees(self, found, expected, written):
        """Say whether ``found`` is what was whole, perhaps with more of the last write.

        Behind the read position of the clean stop, what the server has is missing.
        """
        whole = written[: max(len(expected), len(found))]
        first = 0
        while self.is_stopped and whole[first:] != found and whole[first] in self.stored:
            first += 1
            whole = written[: max(len(expected), first + len(found))]
        return whole[first:] == found

    def check(self, files, expected, written, what):
        self.cases += 1
        try:
            log = self.open(files)[1]
            found = self.read(log)
            if not self.agrees(found, expected, written) or log.lost_messages:
                self.note(what, "found %d of %d" % (len(found), len(expected)))
            elif self.cases % 11 == 0:
                self.check_writing(files, found, what)
        except Exception as error:
            self.note(what, repr(error))

    def note(self, what, why):
        if len(self.bad) < 20:
            self.bad.append((what, why))

    def check_writing(self, files, found, what):
        """Life goes on behind the cut."""
        flash, log = self.open(files)
        if not log.head.epoch:
            log.begin(b"12345678", {})
        record = Record((0, 3, 0, 0x10, 0, 1 << 20, 1, 5))
        record.payload = b"<new>"
        assert log.append([(record, False)]) is not None
        if self.read(self.open(flash.files)[1]) != found + [b"<new>"]:
            self.note(what, "not appendable")


def cut_everywhere(trial, operations, stride=STRIDE, all_tails=False):
    random = Lcg(3)
    stale = stale_bytes(operations)
    files, must = {}, Files()
    offset = 0
    for operation, name, data in operations:
        old = files.get(name, b"")
        is_segment = name.endswith(".spl")
        must.apply(operation, name, data, len(old))
        if operation != "remove" and name != "spool.gap":
            for at in range(len(data) + 1):
                offset += 1
                if offset % stride and at < len(data):
                    continue
                kept = data[:at] if operation == "write" else old + data[:at]
                expected = must.payloads(name, len(kept)) if is_segment else must.payloads()
                overwritten = old if operation == "write" else b""
                written = must.payloads()
                trial.is_stopped = (operation, name, data) == operations[-1] and at == len(data)
                for kind, tail in enumerate(tails(data, overwritten, at, stale, random)):
                    if stride == 1 and not all_tails and (offset + 2 * kind) % 5 > 1:
                        continue  # in five bytes each tail has its turn twice
                    if kind == 4 and is_segment and data[:300] == stale:
                        continue  # there is no earlier lap yet
                    state = files.copy()
                    state[name] = kept + tail
                    trial.check(state, expected, written, (operation, name, at, kind))
        apply(files, operation, name, data)


def test_a_cut_at_every_byte_with_five_tails():
    operations, stored = recorded_run()
    assert len([1 for operation, _, _ in operations if operation == "remove"]) > 3
    trial = Trial(stored)
    cut_everywhere(trial, operations)
    print("power cuts:", trial.cases, "bad:", len(trial.bad))
    assert trial.cases > (24_000 if STRIDE == 1 else 1000)
    assert not trial.bad, trial.bad[:5]


def test_pages_that_reach_the_flash_in_another_order():
    """What was not yet synced when the power failed: any of its 64-byte pages may be missing."""
    random = Lcg(4)
    operations, stored = recorded_run()
    trial = Trial(stored)
    files, must = {}, Files()
    for operation, name, data in operations:
        old = files.get(name, b"")
        size = len(old)
        if operation == "append" and name.endswith(".spl"):
            must.apply(operation, name, data, size)
            for _ in range(12):
                pages = bytearray(data)
                first = len(data)
                for at in range(0, len(data), 64):
                    if random.chance(40):
                        pages[at : at + 64] = bytes(len(pages[at : at + 64]))
                        first = min(first, at)
                state = files.copy()
                state[name] = old + bytes(pages)
                whole = must.payloads(name, size + first)
                trial.check(state, whole, must.payloads(), (name, size, first))
        else:
            must.apply(operation, name, data, size)
        apply(files, operation, name, data)
    assert trial.cases > 200 and not trial.bad, trial.bad[:5]


class Gullible(Reader):
    """Known bad: takes any sequence."""

    def follows(self, sequence):
        return True


def test_without_the_sequence_check_old_records_come_back():
    operations, stored = recorded_run()
    trial = Trial(stored, Gullible)
    cut_everywhere(trial, operations, 7)
    assert trial.bad


def test_without_the_crc_torn_records_are_taken():
    real = spool_records.crc32
    operations, stored = recorded_run()
    spool_records.crc32 = lambda data, value=0: 0
    try:
        trial = Trial(stored)
        cut_everywhere(trial, list(_without_crcs(operations)), 7)
    finally:
        spool_records.crc32 = real
    assert trial.bad


def _without_crcs(operations):
    """The same run as a writer without checksums would have made it."""
    for operation, name, data in operations:
        if operation == "append" and name.endswith(".spl"):
            out = bytearray(data)
            at = 0
            while at < len(out):
                length = int.from_bytes(bytes(out[at + 14 : at + 18]), "big")
                out[at + 18 : at + HEADER_BYTES] = bytes(4)
                at += HEADER_BYTES + length
            data = bytes(out)
        yield operation, name, data
