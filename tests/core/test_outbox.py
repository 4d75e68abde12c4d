"""The device's outbox: order, ceilings, what is dropped, the end of an epoch."""

from world import Lcg

from fleetnet import limits
from fleetnet.errors import LimitError
from fleetnet.frame import EVENT, EVENTS, READINGS, TELEMETRY
from fleetnet.session import Session
from fleetnet_device.outbox import Outbox


def session(next_seq=1):
    made = Session(Lcg(1).bytes)
    made.sender.open_stream(TELEMETRY, next_seq)
    return made


def put(outbox, made, count=1, stream=TELEMETRY, size=10):
    kind = READINGS if stream == TELEMETRY else EVENT
    for _ in range(count):
        outbox.put(made, stream, kind, bytes(size), 2)


def test_delivered_messages_are_forgotten_and_counted():
    made, outbox = session(), Outbox()
    put(outbox, made, 5)
    put(outbox, made, 1, EVENTS)
    assert outbox.delivered(TELEMETRY, 3) == 6
    assert len(outbox) == 3
    assert outbox.delivered(EVENTS, 1) == 2
    assert outbox.delivered(TELEMETRY, 5) == 4
    assert len(outbox) == 0 and outbox.dropped_readings == 0


def test_a_full_window_holds_back_its_own_stream_only():
    made, outbox = session(), Outbox()
    put(outbox, made, limits.WINDOW + 3)
    put(outbox, made, 1, EVENTS)
    assert len(made.sender.streams[TELEMETRY].frames) == limits.WINDOW
    assert len(made.sender.streams[EVENTS].frames) == 1
    assert len(outbox) == limits.WINDOW + 4


def test_the_oldest_go_when_there_are_too_many():
    made, outbox = session(), Outbox(1000, 4)
    put(outbox, made, 7)
    assert len(outbox) == 4
    assert (outbox.dropped_messages, outbox.dropped_readings) == (3, 6)
    # The session forgets them as well, and tells the peer where it goes on.
    assert made.sender.streams[TELEMETRY].oldest() == 4
    assert made.sender.streams[TELEMETRY].forward == 4


def test_the_oldest_go_when_they_are_too_large():
    made, outbox = session(), Outbox(100, 99)
    put(outbox, made, 10, size=10)
    assert outbox.dropped_messages == 0
    put(outbox, made, 1, size=35)
    assert outbox.dropped_messages == 4
    assert len(outbox) == 7
    put(outbox, made, 1, size=101)  # alone above the ceiling: everything goes
    assert len(outbox) == 0
    put(outbox, made, 10, size=10)
    assert len(outbox) == 10


def test_a_message_above_the_limit_is_refused_and_harms_nothing():
    made, outbox = session(), Outbox(1 << 20)
    put(outbox, made)
    try:
        put(outbox, made, 1, size=limits.MAX_MESSAGE + 1)
        raise AssertionError("it was taken")
    except LimitError:
        pass
    put(outbox, made)
    outbox.feed(made)
    assert len(outbox) == 2 and not outbox.is_epoch_over


def test_an_epoch_ends_and_another_begins_without_loss():
    made, outbox = session(limits.MAX_SEQUENCE - 2), Outbox()
    put(outbox, made, 4)
    handed = len(made.sender.streams[TELEMETRY].frames)
    assert 0 < handed < 4
    assert outbox.is_epoch_over and not outbox.can_begin_epoch()
    assert outbox.delivered(TELEMETRY, limits.MAX_SEQUENCE) == 2 * handed
    assert outbox.can_begin_epoch()
    following = session()
    outbox.begin_epoch(following)
    assert not outbox.is_epoch_over
    assert len(following.sender.streams[TELEMETRY].frames) == 4 - handed
    assert outbox.delivered(TELEMETRY, 4) == 2 * (4 - handed)
    assert len(outbox) == 0 and outbox.dropped_messages == 0
