"""A week of outages, power cuts and server losses, in virtual time, both ends real.

Every message is accounted for at the end: in the store once, dropped and counted, or in the
RAM of a device whose power failed. The ticks wrap in the middle of the week.
"""

import gc
import sys

from flash import Flash
from spool_rig import Rig

from fleetnet_device import spool_ram

MINUTES = 7 * 24 * 60
START = (1 << 30) - 3 * 86_400_000

# MicroPython's heap holds the store of fewer messages: there is less room for them, too.
EVERY, SPOOL_BYTES, RAM, PAD = 1, 12_288, (4096, 64), 60
if sys.implementation.name == "micropython":
    EVERY, SPOOL_BYTES, RAM, PAD = 12, 2048, (600, 4), 120
DISK_BYTES = 4_700 + SPOOL_BYTES // 3


class Week(Rig):
    """A rig that lives through ``MINUTES`` and keeps account of every message."""

    def __init__(self, seed, policy, capacity=1 << 30):
        self.dropped_messages = []
        flash = Flash(capacity)
        flash.operations = None
        super().__init__(seed, flash, SPOOL_BYTES, policy, RAM)
        self.now = START
        self.said = 0
        self.alone = []  # in RAM only when the power failed
        self.dropped_but_stored = 0
        self.reboots = self.outages = self.kills = self.late = 0

    def boot(self):
        super().boot()
        spool = self.outbox.spool
        drop = spool._drop_oldest

        def counted(outbox, session):
            """Drop, and note what the server had although the device could not know it."""
            segment = spool.log.segments[0]
            content = bytes(self.flash.files[segment.name][: segment.end])
            before = outbox.dropped_messages
            drop(outbox, session)
            missing = [m for m in messages_in(content) if m not in self.stored]
            self.dropped_but_stored += outbox.dropped_messages - before - len(missing)
            self.dropped_messages.extend(missing)

        spool._drop_oldest = counted

    @property
    def stored(self):
        while self._seen < len(self.store.order):
            self._stored.add(self.store.order[self._seen][1])
            self._seen += 1
        return self._stored

    _seen = 0

    def lose_power(self):
        self.reboots += 1
        alone = []
        for entry in spool_ram.only_in_ram(self.outbox):
            alone.append(spool_ram.payload_of(self.session, entry, 1))
        self.reboot()
        self.alone.extend(alone)

    def live(self):
        self._stored = set()
        random = self.random
        offline = 0
        for minute in range(MINUTES):
            if minute % EVERY == 0:
                self.speak(minute)
                if EVERY > 1:
                    gc.collect()  # against fragments
            if self.server is None and minute >= offline:
                self.connect()
            if random.chance(1):
                self.outages += 1
                offline = minute + (1, 3, 20, 90, 400)[random.below(5)]
            self.late -= 1
            if random.chance(0.3):
                self.late = 2 + random.below(4)
            self.commit_fails = self.late > 0
            if random.chance(0.4) and self.server is not None:
                self.kills += 1
                self.run(random.below(6), 2000)
                self.kill_server()
            if self.server is not None:
                self.run(random.below(8) if minute < offline else 1 << 30, 5000)
            if minute < offline and self.server is not None:
                self.cut()
            if random.chance(0.3):
                self.lose_power()
            self.pass_time(55_000, 5000)
        self.commit_fails = 0
        self.drain()

    def speak(self, minute):
        for stream in (3, 2) if minute % (7 * EVERY) == 0 else (3,):
            self.say(b"[%d %s]" % (self.said, b"." * self.random.below(PAD)), stream)
            self.said += 1

    def dropped_in_all(self):
        return self.dropped + self.outbox.dropped_messages

    def check(self):
        payloads = [payload for _, payload in self.store.order]
        assert len(set(payloads)) == len(payloads), "a message came twice"
        for stream in (2, 3):
            numbers = [int(p[1:-1].split(b" ")[0]) for p in self.payloads(stream)]
            assert numbers == sorted(numbers), "out of order"
        missing = self.said - len(payloads)
        # What was on its way when it was dropped or when the power failed may have arrived.
        stored_later = len([m for m in self.dropped_messages if m in self.stored])
        self.dropped_but_stored += stored_later
        self.lost_by_power = len([m for m in self.alone if m not in self.stored])
        print(
            "said %d stored %d dropped %d (stored all the same %d) lost in RAM %d; outages %d "
            "reboots %d server losses %d epochs %d; written %d B in %d operations"
            % (
                self.said,
                len(payloads),
                self.dropped_in_all(),
                self.dropped_but_stored,
                self.lost_by_power,
                self.outages,
                self.reboots,
                self.kills,
                len(set(self.epochs)),
                self.flash.bytes_written,
                self.flash.writes,
            )
        )
        assert missing == self.dropped_in_all() - self.dropped_but_stored + self.lost_by_power
        return missing


def messages_in(content):
    """The messages in a segment's bytes, found without the library's reader."""
    found = []
    at = content.find(b"[")
    while at >= 0:
        end = content.find(b"]", at) + 1
        message = content[at:end]
        if message[1:2].isdigit() and b" " in message and len(message) < PAD + 20:
            found.append(message)
            at = content.find(b"[", end)
        else:
            at = content.find(b"[", at + 1)
    return found


def live(seed, policy, capacity=1 << 30):
    week = Week(seed, policy, capacity)
    week.live()
    missing = week.check()
    assert week.outages > 50 and week.reboots > 15 and week.kills > 15
    assert len(set(week.epochs)) == 1, "the spool was never lost, nor was the epoch"
    return week, missing


def test_a_week_that_drops_the_oldest():
    week, missing = live(1, "oldest")
    assert week.dropped_in_all() > 0
    assert missing < week.said // 4


def test_a_week_that_drops_the_newest():
    week, _ = live(2, "newest")
    assert week.dropped_in_all() > 0


def test_a_week_on_a_disk_that_is_too_small():
    live(3, "oldest", DISK_BYTES)
    live(4, "newest", DISK_BYTES)
