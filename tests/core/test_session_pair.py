"""Two real sessions over a seeded bad network, in virtual time, on both interpreters."""

from world import Faults, World

from fleetnet.limits import MAX_SEQUENCE
from fleetnet.ticks import PERIOD

STARTS = (0, PERIOD - 700)


def talk(world, count, stream=3, gap_ms=20, first=0):
    """Schedule ``count`` messages of the device's program."""
    for index in range(first, first + count):
        payload = b"%d:%05d" % (stream, index)
        world.at(world.time + (index - first) * gap_ms, world.say, stream, payload)


def payloads(world, stream):
    return [payload for (_, s, _), payload in world.store.order if s == stream]


def expect(world, count, stream=3):
    assert payloads(world, stream) == [b"%d:%05d" % (stream, i) for i in range(count)]
    world.check_order()


def test_clean_network_delivers_in_order():
    for start in STARTS:
        for datagram in (True, False):
            world = World(1, Faults(), start, datagram)
            world.connect()
            talk(world, 100)
            assert world.run(60_000, lambda: len(world.store.rows) == 100 and world.is_quiet())
            expect(world, 100)
            assert world.device.sender.resent == 0


def test_terrible_network_loses_nothing():
    for start in STARTS:
        for seed in range(6):
            faults = Faults(loss=30, duplicate=20, reorder=30, corrupt=5, delay=20, jitter=30)
            world = World(seed, faults, start)
            world.watch()
            talk(world, 150)
            talk(world, 30, stream=2, gap_ms=100)
            done = world.run(600_000, lambda: len(world.store.rows) == 180 and world.is_quiet())
            assert done, "seed %d: %d rows at %d ms" % (seed, len(world.store.rows), world.time)
            expect(world, 150)
            expect(world, 30, stream=2)


def test_cuts_resume_without_loss():
    for datagram in (True, False):
        for start in STARTS:
            world = World(7, Faults(delay=30, jitter=10), start, datagram)
            world.watch(300)
            talk(world, 300, gap_ms=10)
            for cut_at in range(150, 3000, 270):
                world.at(cut_at, world.cut)
            assert world.run(120_000, lambda: len(world.store.rows) == 300 and world.is_quiet())
            expect(world, 300)
            assert world.opened > 5


def test_server_killed_under_load():
    for datagram in (True, False):
        world = World(11, Faults(delay=10, loss=5 if datagram else 0), 0, datagram, commit_ms=25)
        world.watch(300)
        talk(world, 400, gap_ms=10)
        for kill_at in range(200, 4000, 430):
            world.at(kill_at, world.kill_server, 100)
        assert world.run(400_000, lambda: len(world.store.rows) == 400 and world.is_quiet())
        expect(world, 400)


def test_acknowledged_is_stored_whenever_the_server_dies():
    """Delivered may never run ahead of the store: checked at every step of the run."""
    world = World(13, Faults(delay=10, jitter=20, loss=10, reorder=10), 0, commit_ms=40)
    world.watch(300)
    talk(world, 200, gap_ms=15)
    for kill_at in range(300, 4000, 370):
        world.at(kill_at, world.kill_server, 50)

    def checked():
        stored = world.store.watermarks(world.device.epoch).get(3, 0)
        assert world.delivered.get(3, 0) <= stored
        return len(world.store.rows) == 200 and world.is_quiet()

    assert world.run(300_000, checked)
    expect(world, 200)


def test_device_reboots_with_its_spool():
    world = World(17, Faults(delay=15, loss=10, duplicate=10, reorder=10))
    world.watch(300)
    talk(world, 200, gap_ms=15)
    for reboot_at in (400, 900, 1700, 2600):
        world.at(reboot_at, world.reboot_device, True)
    assert world.run(300_000, lambda: len(world.store.rows) == 200 and world.is_quiet())
    expect(world, 200)
    assert len({epoch for epoch, _, _ in world.store.rows}) == 1


def test_device_reboots_without_spool_begins_a_new_epoch():
    world = World(19, Faults(delay=15))
    world.watch(300)
    talk(world, 50, gap_ms=15)
    world.at(2000, world.reboot_device, False)
    world.run(2500)
    talk(world, 50, gap_ms=15, first=50)
    assert world.run(60_000, lambda: len(world.store.rows) == 100 and world.is_quiet())
    expect(world, 100)
    assert len({epoch for epoch, _, _ in world.store.rows}) == 2


def test_moves_between_dtls_and_tls():
    world = World(23, Faults(delay=15, loss=10, reorder=10))
    world.watch(500)
    talk(world, 200, gap_ms=20)
    for index, move_at in enumerate((500, 1200, 2000, 3100)):
        world.at(move_at, world.connect, bool(index % 2))
    assert world.run(120_000, lambda: len(world.store.rows) == 200 and world.is_quiet())
    expect(world, 200)


def test_sequence_numbers_across_varint_steps():
    for first in (120, 16_300, 2_097_100, 268_435_400):
        world = World(29, Faults(delay=5, loss=15, duplicate=10), first_seq=first)
        world.watch(500)
        # The server of this world starts at the device's oldest: that is a gap, and reported.
        talk(world, 120, gap_ms=10)
        assert world.run(120_000, lambda: len(world.store.rows) == 120 and world.is_quiet())
        expect(world, 120)
        assert (3, 1, first - 1) in world.store.gaps


def test_last_sequence_number_is_a_clear_error():
    world = World(31, Faults(), first_seq=MAX_SEQUENCE - 2)
    world.device.send(3, 0x10, b"a")
    try:
        for _ in range(4):
            world.device.send(3, 0x10, b"b")
    except Exception as error:
        assert "epoch" in str(error)
    else:
        raise AssertionError("sequence numbers ran over their end")


def test_fragments_are_put_together():
    for datagram in (True, False):
        faults = Faults(delay=20, loss=20, duplicate=10, reorder=20)
        world = World(37, faults, datagram=datagram)
        world.watch(500)
        big = [bytes([65 + i]) * (900 + 1500 * i) for i in range(12)]
        for index, payload in enumerate(big):
            world.at(100 + index * 200, world.say, 3, payload)
        for cut_at in (700, 1500):
            world.at(cut_at, world.cut)
        assert world.run(300_000, lambda: len(world.store.rows) == 12 and world.is_quiet())
        assert payloads(world, 3) == big


def test_gap_is_reported_and_crossed():
    for datagram in (True, False):
        world = World(41, Faults(delay=10, loss=20 if datagram else 0), datagram=datagram)
        world.watch(500)
        talk(world, 10, gap_ms=1)
        world.run(5_000)
        assert len(world.store.rows) == 10
        world.cut()
        for index in range(20):
            world.device.send(3, 0x10, b"lost%d" % index)
        world.device.give_up(3, 26)
        assert world.run(60_000, lambda: len(world.store.rows) == 15 and world.is_quiet())
        assert (3, 11, 25) in world.store.gaps


def test_gap_while_connected():
    world = World(43, Faults(delay=10, loss=30), commit_ms=10)
    world.watch(500)
    world.run(2_000)
    for index in range(40):
        world.device.send(3, 0x10, b"%d" % index)
    world.device.give_up(3, 31)
    world.pump("device")
    assert world.run(60_000, world.is_quiet)
    assert world.device.sender.streams[3].cum == 40
    assert payloads(world, 3)[-10:] == [b"%d" % i for i in range(30, 40)]


def test_alarm_overtakes_readings():
    world = World(47, Faults(delay=200), commit_ms=1)
    world.connect()
    world.run(1_000)
    for _ in range(60):
        world.device.send(3, 0x10, b"x" * 1000)
    world.say(2, b"alarm")
    assert world.run(30_000, lambda: len(world.store.rows) == 61)
    place = [key[1] for key, _ in world.store.order].index(2)
    assert place <= 4, "the alarm was stored as number %d" % place


def test_shut_window_stops_and_reopens():
    for loss in (0, 40):
        world = World(53, Faults(delay=10, loss=loss))
        world.watch(500)
        assert world.run(60_000, lambda: world.server is not None and world.device.state == 2)
        world.server.set_window(0, world.now())
        world.pump("server")
        world.run(world.time + 4_000)
        talk(world, 50, gap_ms=1)
        world.run(world.time + 5_000)
        stopped = len(world.store.rows)
        assert stopped == 0 or loss, "%d rows behind a shut window" % stopped
        if world.server is not None:
            world.server.set_window(64, world.now())
            world.pump("server")
        assert world.run(120_000, lambda: len(world.store.rows) == 50 and world.is_quiet())
        expect(world, 50)


def test_silent_server_is_noticed_and_left():
    world = World(59, Faults(delay=10))
    world.watch(1000)
    world.run(3_000)
    world.kill_server(30_000)
    talk(world, 10)
    assert world.run(120_000, lambda: len(world.store.rows) == 10 and world.is_quiet())
    assert ("device", 3) in world.closings  # IDLE
    expect(world, 10)


def test_keepalive_holds_an_idle_link_and_carries_time():
    for datagram in (True, False):
        world = World(61, Faults(delay=10), datagram=datagram)
        world.watch(1000)
        world.run(600_000)
        assert world.opened == 1
        assert world.closings == []
        assert len(world.times) >= 8 and world.times[-1] > 1_700_000_000_000


def test_bye_and_its_answer():
    for datagram in (True, False):
        world = World(67, Faults(delay=10, loss=30 if datagram else 0), datagram=datagram)
        world.connect()
        assert world.run(30_000, lambda: world.device.state == 2)
        world.device.bye(world.now())
        world.pump("device")
        assert world.run(60_000, lambda: ("device", 0) in world.closings)


def test_same_numbers_on_every_interpreter():
    """The figure is compared between interpreters by tests/test_on_micropython.py."""
    world = World(71, Faults(loss=20, duplicate=10, reorder=20, delay=15, jitter=20), PERIOD - 500)
    world.watch()
    talk(world, 100)
    assert world.run(300_000, lambda: len(world.store.rows) == 100 and world.is_quiet())
    sender = world.device.sender
    print("NUMBERS", world.time, world.sent, world.lost, sender.resent, sender.recovery.srtt_ms)
