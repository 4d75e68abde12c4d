"""The receiving half between links, over gaps, and at the bounds of what it keeps."""

from receiver_rig import receiver, seqs, take
from refusals import reason

from fleetnet.errors import LIMIT, PROTOCOL
from fleetnet.frame import decode_ack
from fleetnet.limits import EARLY_BYTES, HASTY_ACKS, WINDOW
from fleetnet.receiver import Receiver


def test_a_new_receiver_is_a_stream_without_news():
    made = Receiver([], 100)
    assert made.ack_payload() == b""
    assert reason(lambda: take(made, WINDOW + 1)) == LIMIT, "until told, a link loses nothing"
    take(made, 2, bytes(EARLY_BYTES))
    assert made.dropped == 1 and list(made.streams[3].early) == [2]


def test_a_new_link_forgets_what_was_not_in_order():
    made, events = receiver()
    take(made, 3, bytes(EARLY_BYTES))
    take(made, 1, b"head", more=True)
    assert made.ack_due is not None
    made.open_link(True)
    assert made.ack_due is None
    made.rewind({3: (1, 3)})
    assert decode_ack(made.ack_payload())[1] == [(3, 0, b"")], "not even the head is there"
    take(made, 2, bytes(EARLY_BYTES))  # the room was given back
    assert made.dropped == 0
    take(made, 1, b"whole")
    assert events[-2].payload == b"whole" and seqs(events)[-2:] == [1, 2]


def test_a_link_begins_without_news():
    made, _ = receiver()
    take(made, 1)
    made.acknowledge(3, 1, 0)
    made.open_link(True)
    assert made.ack_payload() == b""


def test_another_epoch_begins_at_its_resume_points():
    made, events = receiver()
    take(made, 1)
    made.start({2: 5}, {2: (6, 9)})
    assert made.resume_points() == {2: 5}
    made.start({2: 5}, {2: (8, 9), 4: (1, 1)})
    assert made.resume_points() == {2: 7, 4: 0}
    assert seqs(events) == [1, (-6, -7)]


def test_a_rewind_forgets_gaps_and_hears_of_them_again():
    made, events = receiver()
    take(made, 1)
    made.forward(3, 4)
    take(made, 4)
    made.open_link(True)
    made.rewind({3: (4, 5)})
    assert made.streams[3].gaps == [] and made.resume_points() == {3: 3}
    take(made, 4)
    assert seqs(events) == [1, (-2, -3), 4, (-1, -3), 4]


def test_a_rewind_without_a_gap_goes_on_behind_what_is_durable():
    made, events = receiver()
    for seq in (1, 2, 3):
        take(made, seq)
    made.acknowledge(3, 1, 0)
    made.streams[3].gaps.append((2, 3))  # of the link before
    made.open_link(True)
    made.rewind({3: (2, 4)})
    assert made.streams[3].gaps == []
    take(made, 2)
    assert seqs(events)[-1] == 2


def test_forward_keeps_what_comes_behind_the_gap():
    made, events = receiver()
    take(made, 3, b"lost with the gap")
    take(made, 5, b"five")
    take(made, 6, b"six")
    made.ack_payload()
    made.forward(3, 5)
    assert seqs(events) == [(-1, -4), 5, 6]
    assert made._early_bytes == 0
    assert decode_ack(made.ack_payload())[1] == [(3, 4, b"\x03")]


def test_forward_to_what_is_there_already_is_an_answer_only():
    made, events = receiver()
    take(made, 1)
    made.acknowledge(3, 1, 0)
    made.ack_payload()
    made.take_forward(b"\x03\x02", 5000)
    assert made.ack_due == 5000, "its sender waits"
    assert decode_ack(made.ack_payload())[1] == [(3, 1, b"")]
    assert seqs(events) == [1]


def test_a_message_in_fragments_may_be_as_large_as_the_limit():
    made, events = receiver(max_message=10)
    take(made, 1, bytes(6), more=True)
    take(made, 2, bytes(4))
    assert len(events[-1].payload) == 10
    take(made, 3, bytes(6), more=True)
    assert reason(lambda: take(made, 4, bytes(5), more=True)) == LIMIT


def test_a_whole_message_behind_fragments_is_one_of_its_own():
    made, events = receiver()
    take(made, 2, b"b")
    take(made, 1, b"a", more=True)
    take(made, 3, b"c")
    assert [event.payload for event in events] == [b"ab", b"c"]


def test_a_duplicate_is_answered_at_once_with_what_is_there():
    made, _ = receiver()
    take(made, 1)
    made.ack_payload()
    take(made, 1, now=700)
    assert made.duplicates == 1 and made.ack_due == 700
    assert decode_ack(made.ack_payload())[1] == [(3, 0, b"\x01")]


def test_a_frame_that_finds_no_room_is_news_as_well():
    made, _ = receiver()
    take(made, 2, bytes(EARLY_BYTES))
    made.ack_payload()
    take(made, 3, b"x")
    assert made.dropped == 1
    assert decode_ack(made.ack_payload())[1] == [(3, 0, b"\x02")]


def test_a_quarter_of_the_window_is_acknowledged_at_once():
    quarter = WINDOW // 4
    for count, due in ((quarter - 1, 900), (quarter, 800)):
        made, _ = receiver(datagram=False)
        for seq in range(1, count + 1):
            take(made, seq)
        made.acknowledge(3, count, 800)
        assert made.ack_due == (800 if due == 800 else 800 + made.ack_delay_ms), count


def test_an_acknowledgement_twice_is_no_news():
    made, _ = receiver(datagram=False)
    take(made, 1)
    made.acknowledge(3, 1, 0)
    made.ack_payload()
    made.acknowledge(3, 1, 500)
    assert made.ack_due is None and made.ack_payload() == b""


def test_a_changed_window_is_told_once_though_nothing_arrived():
    made, _ = receiver()
    made.window = 5
    made.acknowledge_soon(300)
    assert made.ack_due == 300
    assert decode_ack(made.ack_payload()) == (5, [])
    assert made.ack_payload() == b""


def test_an_earlier_time_stays():
    made, _ = receiver()
    made.acknowledge_soon(300)
    take(made, 1, now=200)
    assert made.ack_due == 300
    made.acknowledge_soon(250)
    assert made.ack_due == 250
    made.acknowledge_soon(260)
    assert made.ack_due == 250


def test_ping_has_its_count():
    made, _ = receiver()
    for ping in (b"", b"\x01"):
        assert reason(lambda: made.answer_ping(ping, 0, 0)) == PROTOCOL
    assert made.answer_ping(b"\x01\x02", 300, 0) == b"\x01\x02\xac\x02"
    assert made.answer_ping(b"\x01\x02rest", 0, 0) == b"\x01\x02\x00"


def test_what_came_in_order_is_news_by_itself():
    made, _ = receiver()
    take(made, 1)
    assert decode_ack(made.ack_payload())[1] == [(3, 0, b"\x01")]


def test_resume_points_alone_are_no_news():
    made, _ = receiver()
    made.start({2: 5}, {})
    assert made.ack_payload() == b""


def test_an_acknowledgement_of_the_next_one_is_cut_to_what_is_there():
    made, _ = receiver()
    take(made, 1)
    made.acknowledge(3, 2, 0)
    assert made.resume_points() == {3: 1}


def test_on_a_stream_an_acknowledgement_has_no_bitmap():
    made, _ = receiver(datagram=False)
    for seq in (1, 2):
        take(made, seq)
    made.acknowledge(3, 1, 0)
    assert decode_ack(made.ack_payload())[1] == [(3, 1, b"")]


def test_haste_lasts_for_so_many_acknowledgements():
    made, _ = receiver()
    take(made, 1)
    take(made, 1)  # a repetition: frames are being lost
    for seq in range(2, HASTY_ACKS + 1):
        made.ack_payload()
        take(made, seq, now=1_000)
        assert made.ack_due == 1_000 + made.ack_delay_ms // 8, seq
    made.ack_payload()
    take(made, HASTY_ACKS + 1, now=1_000)
    assert made.ack_due == 1_000 + made.ack_delay_ms


def test_a_bitmap_has_no_byte_more_than_it_needs():
    for seq, bitmap in ((8, b"\x80"), (9, b"\x00\x01")):
        made, _ = receiver()
        take(made, seq)
        assert decode_ack(made.ack_payload())[1] == [(3, 0, bitmap)]
