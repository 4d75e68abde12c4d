"""Numbers that no message will have: Sender.skip."""

from fleetnet import limits
from fleetnet.errors import LimitError
from fleetnet.sender import Sender


def made():
    sender = Sender(10)
    sender.open_link(False)
    return sender


def test_numbers_are_left_out_and_the_peer_is_told():
    sender = made()
    assert sender.skip(3, 8)
    assert sender.forwards_to_send(0) == {3: 8}
    assert sender.queue(3, 0x10, b"x") == 8
    assert sender.acknowledge(3, 7, b"", 0)
    assert sender.forwards_to_send(0) == {}
    assert sender.acknowledge(3, 8, b"", 0)


def test_nothing_is_left_out_while_frames_are_on_their_way():
    sender = made()
    sender.queue(3, 0x10, b"x" * 25)
    assert not sender.skip(3, 9)
    assert sender.streams[3].next_seq == 4 and not sender.streams[3].forward
    assert sender.skip(3, 4) and sender.skip(3, 2), "nothing to leave out"
    assert sender.acknowledge(3, 3, b"", 0)
    assert sender.skip(3, 9)
    assert sender.forwards_to_send(0) == {3: 9}


def test_a_jump_beyond_the_window_waits_for_the_peer():
    sender = made()
    assert sender.skip(3, 1000)
    assert sender.room(3) == 0
    assert sender.resume({3: 999}, limits.WINDOW) == [(3, 999)]
    assert sender.room(3) == limits.WINDOW


def test_no_number_is_beyond_the_last():
    sender = made()
    try:
        sender.skip(3, limits.MAX_SEQUENCE + 1)
        raise AssertionError("it was taken")
    except LimitError:
        pass
