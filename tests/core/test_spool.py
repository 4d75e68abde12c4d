"""The spool: what goes to the flash and when, reboots, epochs."""

from spool_rig import Rig, say_all, segments, texts

from fleetnet import limits
from fleetnet.errors import FleetError
from fleetnet.session import Session


def test_nothing_is_written_while_the_server_acknowledges():
    rig = Rig()
    rig.drain()
    written = len(rig.flash.operations)
    for n in range(200):
        rig.say(b"message %d" % n)
        rig.run()
        rig.pass_time(1000)
    assert rig.payloads() == texts(0, 200)
    assert len(rig.flash.operations) == written == 1, "only the new epoch, once"


def test_an_outage_survives_a_power_cut_in_order_and_once():
    rig = Rig()
    rig.drain()
    say_all(rig, texts(0, 10))
    rig.run()
    rig.cut()
    for n in range(10, 60):
        rig.say(b"message %d" % n)
        rig.pass_time(500)
    rig.pass_time(10_000)
    rig.reboot()
    assert rig.recovered == 50 and len(rig.outbox) == 50
    rig.drain()
    assert rig.payloads() == texts(0, 60)
    assert rig.acknowledged == 50 and not rig.store.gaps and not rig.store.doubles
    assert len(set(rig.epochs)) == 1
    assert not segments(rig), "delivered segments are deleted"


def test_a_short_blip_writes_nothing():
    rig = Rig()
    rig.drain()
    written = len(rig.flash.operations)
    rig.cut()
    say_all(rig, texts(0, 5))
    rig.pass_time(2000)
    rig.drain()
    assert len(rig.flash.operations) == written
    assert rig.payloads() == texts(0, 5)


def test_late_acknowledgements_write():
    rig = Rig()
    rig.drain()
    rig.commit_fails = 1
    say_all(rig, texts(0, 5))
    rig.run()
    rig.pass_time(4000)
    assert not segments(rig)
    rig.pass_time(5000)
    assert segments(rig)
    rig.reboot()
    rig.pending = []
    rig.commit_fails = 0
    rig.drain()
    assert rig.payloads() == texts(0, 5)


def test_numbers_used_from_ram_alone_are_not_given_again():
    """The server has 20 messages that the flash never saw; the next life begins offline."""
    rig = Rig()
    rig.drain()
    say_all(rig, texts(0, 20))
    rig.run()
    rig.reboot()
    say_all(rig, texts(20, 30))
    rig.pass_time(10_000)
    rig.reboot()  # and its power fails again before it hears from the server
    say_all(rig, texts(30, 40))
    rig.pass_time(10_000)
    rig.reboot()
    rig.drain()
    assert rig.payloads() == texts(0, 40)
    assert not rig.store.gaps and not rig.store.doubles and len(set(rig.epochs)) == 1


def test_numbers_stay_when_the_power_fails_before_the_acknowledgement():
    rig = Rig()
    rig.drain()
    say_all(rig, texts(0, 20))
    rig.run()
    rig.reboot()
    say_all(rig, texts(20, 50))
    rig.pass_time(10_000)
    for pieces in range(1, 12):
        rig.connect()
        rig.run(pieces)
        rig.reboot()
    rig.drain()
    assert rig.payloads() == texts(0, 50)
    assert not rig.store.gaps and len(set(rig.epochs)) == 1


def test_new_messages_go_behind_the_spool_and_other_streams_do_not_wait():
    rig = Rig(ram=(1024, 8))
    rig.drain()
    rig.cut()
    say_all(rig, texts(0, 100))
    rig.pass_time(10_000)
    rig.connect()
    rig.run(4)  # greeting and the first window
    say_all(rig, texts(100, 120))
    rig.say(b"urgent", 2)
    rig.drain()
    assert rig.payloads() == texts(0, 120)
    assert rig.payloads(2) == [b"urgent"]


def test_another_stream_overtakes_while_the_spool_drains():
    rig = Rig(ram=(8192, 200), spool_bytes=65536)
    rig.drain()
    rig.cut()
    say_all(rig, texts(0, 400))
    rig.pass_time(10_000)
    rig.commit_fails = 1
    rig.connect()
    rig.run()
    rig.say(b"urgent", 2)
    assert rig.session.sender.streams[2].frames, "handed over although 3 is not drained"


def test_messages_in_fragments_and_a_partial_window():
    rig = Rig(spool_bytes=1 << 19, ram=(65536, 64))
    rig.flash.operations = None  # its copies are more than MicroPython's heap takes
    rig.drain()
    rig.cut()
    sizes = [0, 1, limits.FRAGMENT_PAYLOAD, limits.FRAGMENT_PAYLOAD + 1, 40_000, 65_536, 5000]
    messages = [bytes([n]) * size for n, size in enumerate(sizes)] + texts(0, 50)
    say_all(rig, messages)
    rig.pass_time(20_000)
    rig.reboot()
    for pieces in range(3, 60, 7):
        rig.connect()
        rig.run(pieces)
        if pieces % 2:
            rig.reboot()
    rig.drain()
    assert rig.payloads() == messages
    assert not rig.store.gaps


def test_a_session_that_does_not_fit_is_refused():
    rig = Rig()
    for session in (
        Session(rig.random.bytes),
        Session(rig.random.bytes, rig.outbox.epoch(), limits.MAX_FRAME_PAYLOAD),
    ):
        try:
            rig.outbox.restore(session)
            raise AssertionError("it was taken")
        except FleetError:
            pass


def test_the_end_of_an_epoch_with_messages_on_the_flash():
    rig = Rig(ram=(1024, 8))
    rig.drain()
    rig.session.sender.open_stream(3).next_seq = limits.MAX_SEQUENCE - 30
    rig.session.sender.streams[3].cum = limits.MAX_SEQUENCE - 31
    rig.store.gaps.append((rig.session.epoch, 3, 1, limits.MAX_SEQUENCE - 31))
    say_all(rig, texts(0, 5), 2)
    rig.run()
    rig.cut()
    say_all(rig, texts(0, 100))
    rig.say(b"event", 2)
    rig.pass_time(20_000)
    for _ in range(8):
        rig.connect()
        rig.run(9)
        rig.reboot()
    rig.drain()
    assert rig.payloads() == texts(0, 100)
    assert rig.payloads(2) == texts(0, 5) + [b"event"]
    assert len(set(rig.epochs)) == 2 and len(rig.store.gaps) == 1


def test_a_server_that_lost_its_store_gets_what_is_left():
    rig = Rig()
    rig.drain()
    say_all(rig, texts(0, 10))
    rig.run()
    rig.cut()
    say_all(rig, texts(10, 40))
    rig.pass_time(10_000)
    rig.store.rows = {}
    rig.store.order = []
    rig.reboot()
    rig.drain()
    assert rig.payloads() == texts(10, 40)


def test_a_clean_stop_keeps_everything():
    rig = Rig()
    rig.drain()
    rig.cut()
    say_all(rig, texts(0, 30))
    rig.outbox.close()
    rig.reboot()
    assert rig.recovered == 30
    rig.connect()
    rig.run(5)
    rig.outbox.close()
    left = len(rig.outbox)
    rig.reboot()
    assert rig.recovered == left, "the read position was kept"
    rig.drain()
    assert rig.payloads() == texts(0, 30)


def test_many_boots_without_the_server():
    """A camera that sleeps between readings: each start is a boot, most of them offline."""
    rig = Rig(spool_bytes=65536)
    for n in range(120):
        rig.say(b"message %d" % n)
        rig.outbox.close()
        if n % 25 == 24:
            rig.connect()
            rig.run(7)
        rig.reboot()
    rig.drain()
    assert rig.payloads() == texts(0, 120)
    assert not rig.store.gaps and len(set(rig.epochs)) == 1
