"""The spool at its limits: full, failing, damaged; and what it costs."""

from flash import Flash
from spool_rig import Rig, say_all, segments, texts

from fleetnet import limits
from fleetnet.session import Session
from fleetnet_device.spool import Spool
from fleetnet_device.spool_outbox import SpooledOutbox


def test_policy_oldest_drops_whole_segments_and_tells_the_server():
    rig = Rig(spool_bytes=4096)
    rig.drain()
    rig.cut()
    say_all(rig, texts(0, 400))
    rig.pass_time(20_000)
    dropped = rig.outbox.dropped_messages
    assert 0 < dropped == rig.outbox.dropped_readings
    assert sum([len(rig.flash.files[name]) for name in segments(rig)]) <= 4096
    rig.reboot()
    rig.drain()
    assert rig.payloads() == texts(dropped, 400)
    lost = sum([last - first + 1 for _, _, first, last in rig.store.gaps])
    assert lost == dropped


def test_policy_newest_keeps_what_is_there_and_tells_the_server():
    rig = Rig(spool_bytes=4096, policy="newest")
    rig.drain()
    rig.cut()
    say_all(rig, texts(0, 400))
    rig.pass_time(20_000)
    dropped = rig.outbox.dropped_messages
    assert dropped > 0
    rig.drain()
    say_all(rig, texts(400, 410))
    rig.drain()
    assert rig.payloads() == texts(0, 400 - dropped) + texts(400, 410)
    lost = sum([last - first + 1 for _, _, first, last in rig.store.gaps])
    assert lost == dropped


def test_a_full_disk_below_the_quota():
    for policy in ("oldest", "newest"):
        rig = Rig(flash=Flash(8000), spool_bytes=1 << 20, policy=policy)
        rig.drain()
        rig.cut()
        for n in range(400):
            rig.say(b"message %d" % n)
            rig.pass_time(200)
        rig.pass_time(20_000)
        dropped = rig.outbox.dropped_messages
        assert dropped > 0
        rig.drain()
        got = rig.payloads()
        kept = 400 - dropped
        assert got == (texts(dropped, 400) if policy == "oldest" else texts(0, kept)), policy


def test_what_a_failed_write_left_never_comes_back():
    """A full disk, then room, then a power cut: the half-written block is no record."""
    for room in range(0, 700, 13):
        rig = Rig(flash=Flash(1 << 30), spool_bytes=1 << 20, policy="newest")
        rig.drain()
        rig.cut()
        say_all(rig, texts(0, 10))
        rig.pass_time(10_000)
        used = sum([len(data) for data in rig.flash.files.values()])
        rig.flash.capacity = used + room
        say_all(rig, texts(10, 20))
        rig.pass_time(10_000)
        rig.flash.capacity = 1 << 30
        say_all(rig, texts(20, 25))
        rig.pass_time(60_000)
        rig.reboot()
        rig.drain()
        assert rig.payloads() == texts(0, 25), room
        assert not rig.store.doubles and not rig.store.gaps


def test_a_broken_flash_leaves_the_ring_in_ram():
    rig = Rig()
    rig.drain()
    rig.flash.broken = True
    rig.cut()
    say_all(rig, texts(0, 50))
    rig.pass_time(20_000)
    assert rig.outbox.dropped_messages == 50 - 32
    rig.drain()
    assert rig.payloads() == texts(18, 50)
    rig.flash.broken = False
    rig.cut()
    say_all(rig, texts(50, 60))
    rig.pass_time(60_000)
    assert segments(rig)
    rig.reboot()
    rig.drain()
    assert rig.payloads() == texts(18, 60)


def test_a_lost_head_begins_a_new_epoch_and_counts_what_is_lost():
    rig = Rig()
    rig.drain()
    rig.cut()
    say_all(rig, texts(0, 40))
    rig.pass_time(10_000)
    for name in ("spool.h0", "spool.h1"):
        if name in rig.flash.files:
            rig.flash.files[name][9] ^= 1
    rig.reboot()
    rig.outbox.poll(rig.now)
    assert rig.outbox.dropped_messages == 40
    assert rig.epochs[0] != rig.epochs[1]
    say_all(rig, texts(40, 50))
    rig.drain()
    assert rig.payloads() == texts(40, 50)


def test_another_fragment_size_begins_a_new_epoch():
    rig = Rig()
    rig.drain()
    rig.cut()
    say_all(rig, texts(0, 40))
    rig.pass_time(10_000)
    spool = Spool("", 16384, limits.MAX_FRAME_PAYLOAD, files=Flash(files=rig.flash.files))
    outbox = SpooledOutbox(spool, 4096, 32)
    assert outbox.epoch() is None
    session = Session(rig.random.bytes, fragment_payload=limits.MAX_FRAME_PAYLOAD)
    outbox.restore(session)
    outbox.poll(0)
    assert outbox.dropped_messages == 40 and outbox.epoch() == session.epoch != rig.epochs[0]


def test_flipped_bits_never_change_a_message():
    rig = Rig()
    rig.drain()
    rig.cut()
    say_all(rig, texts(0, 60))
    rig.pass_time(10_000)
    rig.pass_time(10_000)
    name = sorted(segments(rig))[0]
    size = len(rig.flash.files[name])
    for offset in range(0, size, 7):
        hurt = Flash(files=rig.flash.files)
        hurt.files[name][offset] ^= 1 << offset % 8
        other = Rig(2, hurt)
        other.drain()
        got = other.payloads()
        assert [m for m in texts(0, 60) if m in got] == got, offset
        assert len(got) < 60


def test_a_head_that_fails_again_and_again_leaves_the_one_before():
    rig = Rig()
    rig.drain()
    log = rig.outbox.spool.log
    assert log.save() and log.save()
    rig.flash.capacity = sum([len(data) for data in rig.flash.files.values()]) - 9
    for _ in range(3):
        assert not log.save()
        assert rig.outbox.spool.log.error is not None
    rig.flash.capacity = 1 << 30
    rig.reboot()
    assert len(set(rig.epochs)) == 1


def test_the_head_is_written_rarely():
    rig = Rig(spool_bytes=1 << 19)
    rig.drain()
    rig.cut()
    for n in range(200):
        rig.say(b"message %d" % n)
        rig.pass_time(4000)
    heads = [1 for _, name, _ in rig.flash.operations if name.startswith("spool.h")]
    blocks = [1 for _, name, _ in rig.flash.operations if name.endswith(".spl")]
    assert len(heads) == 2, "the epoch, and the sequences of the first block"
    assert len(blocks) > 30


def test_memory_stays_small_while_a_large_spool_drains():
    rig = Rig(spool_bytes=1 << 18, ram=(4096, 32))
    rig.flash.operations = None
    rig.drain()
    rig.cut()
    for n in range(300):
        rig.say(b"message %d %s" % (n, b"." * 100))
    rig.pass_time(60_000)
    rig.reboot()
    most = 0
    rig.connect()
    for _ in range(400):
        rig.run(3, 500)
        held = [f for stream in rig.session.sender.streams.values() for f in stream.frames]
        most = max(most, sum([len(frame.payload) for frame in held]))
        if rig.server is None:
            rig.connect()
    rig.drain()
    assert len(rig.payloads()) == 300
    assert 0 < most <= 4096 // 2
