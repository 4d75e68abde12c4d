"""Blobs between two sessions in virtual time: loss, cuts, moves, reboots, priority."""

import sys

sys.path.insert(0, __file__.rsplit("/", 1)[0] if "/" in __file__ else ".")
from blob_world import BlobWorld, content
from world import Faults

from fleetnet import frame as wire
from fleetnet.blob_sender import BlobSender
from fleetnet.blobs import STORED

FRAME = content(60 * 1024)
ROUND_TRIP_MS = 80
NEAR_WRAP = (1 << 30) - 600


def opened(seed, faults, **options):
    """A world whose session is open, after a calm greeting."""
    world = BlobWorld(seed, Faults(delay=faults.delay), **options)
    world.connect()
    world.until_open()
    world.faults = faults
    return world


def round_trips(seed, loss, datagram=True):
    """Send a frame of 60 KB; return the time to the answer 'stored' in round trips."""
    chunk = 1120 if datagram else 4000
    faults = Faults(loss=loss, delay=ROUND_TRIP_MS // 2)
    world = opened(seed, faults, datagram=datagram, chunk=chunk)
    digest = world.blob(FRAME)
    took = world.run_until_done()
    assert world.outcomes[0][1] == STORED
    assert world.host.stored[digest] == FRAME
    return took / ROUND_TRIP_MS


def test_a_frame_takes_eight_round_trips_at_most_without_loss():
    assert round_trips(1, 0) <= 8
    assert round_trips(1, 0, False) <= 8


def test_a_frame_takes_twenty_round_trips_at_ten_percent_loss():
    # Loss in both directions; half of the runs are well inside.
    took = sorted([round_trips(seed, 10) for seed in range(40)])
    assert took[len(took) // 2] <= 14, took
    assert took[-1] <= 20, took


def test_nothing_is_sent_twice_where_nothing_is_lost():
    for datagram in (True, False):
        world = opened(1, Faults(delay=40), datagram=datagram)
        world.blob(FRAME)
        world.run_until_done()
        assert world.chunks_sent() == list(range(55))
        assert world.host.duplicates == 0


def test_bad_networks():
    for seed, faults in enumerate(
        (
            Faults(loss=30, delay=20),
            Faults(duplicate=40, delay=20),
            Faults(reorder=40, delay=20),
            Faults(delay=20, jitter=150),
            Faults(loss=10, duplicate=20, reorder=30, corrupt=10, delay=20, jitter=40),
        )
    ):
        for start_tick in (0, NEAR_WRAP):
            world = opened(seed, faults, start_tick=start_tick)
            digest = world.blob(FRAME)
            world.run_until_done()
            assert world.outcomes[0][1] == STORED
            assert world.host.stored[digest] == FRAME


def acknowledged(sender):
    """Chunks that the sender knows to be held: neither lost, nor on their way, nor new."""
    pending = [index for _, index, _ in sender._flying] + sender._lost
    return [index for index in range(sender._next) if index not in pending]


def resent_after_a_cut(world, datagram=None):
    """Cut the link in the middle; return the acknowledged chunks that were sent again."""
    world.blob(FRAME)
    assert world.run(world.time + 60_000, lambda: len(acknowledged(world.blobs)) >= 20)
    held = acknowledged(world.blobs)
    assert not world.outcomes
    world.cut()
    world.run(world.time + 500)
    again = world.time
    world.connect(datagram)
    world.watch()
    world.run_until_done()
    return [index for index in world.chunks_sent(again) if index in held]


def test_resume_sends_no_acknowledged_chunk_again():
    for datagram, then in ((True, True), (False, False), (True, False), (False, True)):
        for loss in (0, 10, 30):
            world = opened(7, Faults(loss=loss, delay=40), datagram=datagram)
            assert resent_after_a_cut(world, then) == []
            assert world.outcomes[0][1] == STORED


class Forgetful(BlobSender):
    """The known-bad control: begins at the first chunk on every link."""

    def _follow(self, offer, state, now):
        is_first = not self._is_known
        BlobSender._follow(self, offer, state, now)
        if is_first:
            self._next = 0


def test_the_check_of_the_resume_sees_a_sender_that_begins_anew():
    class Bad(BlobWorld):
        sender_class = Forgetful

    world = Bad(7, Faults(delay=40))
    world.connect()
    world.until_open()
    assert resent_after_a_cut(world) != []


def test_many_cuts():
    world = opened(3, Faults(loss=10, delay=40))
    digest = world.blob(FRAME)
    world.watch(500)
    for at in range(400, 6000, 700):
        world.at(world.time + at, world.cut)
    world.run_until_done()
    assert world.host.stored[digest] == FRAME


def test_a_dead_link_is_noticed_though_only_a_blob_is_under_way():
    world = opened(3, Faults(delay=40))
    digest = world.blob(FRAME)
    world.run(world.time + 200)
    world.faults.loss = 100
    went = world.time
    assert world.run(went + 15_000, lambda: bool(world.closings))
    world.faults.loss = 0
    world.run_until_done()
    assert world.host.stored[digest] == FRAME


def test_the_server_is_killed():
    for datagram in (True, False):
        world = opened(5, Faults(delay=40), datagram=datagram)
        digest = world.blob(FRAME)
        world.run(world.time + 200)
        assert not world.outcomes
        world.kill_server(300)
        world.run(world.time + 400)
        world.connect()
        world.watch()
        world.run_until_done()
        assert world.host.stored[digest] == FRAME


def test_the_server_forgets_a_blob_on_a_link_that_stays():
    world = opened(5, Faults(loss=10, delay=40))
    digest = world.blob(FRAME)
    world.run(world.time + 200)
    world.host.lose_memory()
    world.run_until_done()
    assert world.host.stored[digest] == FRAME


def test_the_device_reboots_and_sends_the_same_blob():
    world = opened(5, Faults(delay=40))
    world.blob(FRAME)
    world.run(world.time + 200)
    held = acknowledged(world.blobs)
    world.reboot_device(False)
    world.run(world.time + 500)
    again = world.time
    world.connect()
    world.until_open()
    world.blob(FRAME)
    world.run_until_done()
    assert len(held) > 5
    assert [index for index in world.chunks_sent(again) if index in held] == []


def test_a_blob_that_is_stored_needs_no_chunk():
    world = opened(5, Faults(loss=10, delay=40))
    world.blob(FRAME)
    world.run_until_done()
    world.log = []
    world.blob(FRAME)
    world.run_until_done(2)
    assert world.chunks_sent() == []


def test_small_and_empty_blobs():
    world = opened(5, Faults(delay=40))
    for count, size in enumerate((0, 1, 1119, 1120, 1121, 2240)):
        data = content(size)
        digest = world.blob(data)
        world.run_until_done(count + 1)
        assert world.host.stored[digest] == data, size


def test_a_server_without_room_is_asked_again_and_gets_no_chunk():
    world = opened(5, Faults(delay=40))
    world.host.credit = 0
    world.blob(FRAME)
    world.run(world.time + 30_000)
    assert world.chunks_sent() == []
    asked = len([1 for _, kind, _, _, _ in world.log if kind == wire.BLOB])
    assert 4 <= asked <= 24, asked
    world.host.credit = 64
    assert world.run_until_done() <= 20_000
    assert world.outcomes[0][1] == STORED


def test_a_small_credit_bounds_what_is_on_its_way():
    world = opened(5, Faults(delay=40))
    world.host.credit = 3
    world.blob(FRAME)
    most = []

    def look():
        flying = [index for _, index, _ in world.blobs._flying if index >= 0]
        most.append(len(flying))
        return bool(world.outcomes)

    world.run(world.time + 60_000, look)
    assert max(most) == 3
    assert world.outcomes[0][1] == STORED


# -- readings go first -------------------------------------------------------------


class Slow(BlobWorld):
    """The device's way out carries one frame each 10 ms, as a radio does: a queue builds up."""

    free_at = 0
    made = 0
    late = None

    def pump(self, who):
        if who == "server":
            BlobWorld.pump(self, who)
            return
        session = self.device
        if self.link is None:
            return
        for event in session.take_events():
            self._on_event(who, session, event)
        if self.link is None:
            return
        if self.time >= self.free_at:
            for data in session.data_to_send(self.now()):
                self.transmit(who, data)
                self.free_at = self.time + 10
                self.at(self.free_at, self.pump, who)
        timer = session.next_timer()
        if timer is not None:
            self.at(self.time + max(1, (timer - self.now()) & 0x3FFFFFFF), self._tick, who)

    def _tick(self, who):
        self.device.handle_timer(self.now())
        self.pump(who)


def overtaken(world):
    """Send readings while a blob is under way; return how many chunks left before each."""
    world.connect()
    world.until_open()
    world.run(world.time + 300)
    world.blob(FRAME)
    waited = []

    def say():
        before = len(world.log)
        world.say(3, b"reading %d" % len(waited))
        waited.append(before)
        if not world.outcomes:
            world.at(world.time + 37, say)

    say()
    world.run_until_done()
    world.run(world.time + 1000)
    left = {}
    for position, (_, kind, stream, seq, _) in enumerate(world.log):
        if kind == 0x10 and stream == 3 and seq not in left:
            left[seq] = position
    assert len(left) == len(waited) > 20
    return [
        len([1 for row in world.log[before : left[number + 1]] if row[1] == wire.BLOB_CHUNK])
        for number, before in enumerate(waited)
    ]


def test_no_chunk_leaves_while_a_reading_waits():
    for datagram in (True, False):
        world = Slow(4, Faults(delay=40), datagram=datagram)
        assert max(overtaken(world)) == 0


def test_the_check_of_the_order_sees_chunks_that_overtake():
    world = Slow(4, Faults(delay=40))
    session = world.device
    right = session.data_to_send

    def chunks_first(now):
        if session.state == 2:
            piece = session.bulk.next_frame(now)
            if piece is not None:
                return [wire.encode_frame(piece[0], wire.BLOBS, 0, piece[1])]
        return right(now)

    session.data_to_send = chunks_first
    assert max(overtaken(world)) > 0


def test_our_own_queue_on_the_way_stays_short():
    """A link of 40 KB/s with a deep buffer: the window follows the delay, not the buffer."""

    class Narrow(BlobWorld):
        line_free_at = 0
        longest = 0

        def transmit(self, sender, data):
            if sender == "device":
                self.line_free_at = max(self.line_free_at, self.time) + len(data) // 40
                self.longest = max(self.longest, self.line_free_at - self.time)
                self.at(self.line_free_at, BlobWorld.transmit, self, sender, data)
            else:
                BlobWorld.transmit(self, sender, data)

    world = Narrow(4, Faults(delay=10))
    world.connect()
    world.until_open()
    world.blob(FRAME)
    world.run(world.time + 500)
    assert not world.outcomes
    world.longest = 0
    world.run_until_done()
    assert world.longest < 400, world.longest
