"""The sending half at its bounds: each rule with the last value that passes and the next."""

from sender_rig import KIND, launched, sender, seqs

from fleetnet.errors import LimitError, ProtocolError
from fleetnet.frame import MORE, SEQUENCED, split_datagram
from fleetnet.limits import INITIAL_RTO_MS, MAX_SEQUENCE, MAX_STREAM, WINDOW
from fleetnet.sender import Sender
from fleetnet.ticks import ticks_diff

STALL_MS = 5_000


def is_refused(action, kind):
    try:
        action()
    except kind:
        return True
    return False


def test_streams_have_four_bits():
    made = sender()
    assert made.queue(MAX_STREAM, KIND, b"") == 1
    assert is_refused(lambda: made.open_stream(MAX_STREAM + 1), LimitError)
    assert launched(made) == [(MAX_STREAM, 1)]


def test_frames_of_a_payload():
    made = Sender(10)
    sizes = (0, 1, 10, 11, 20, 21)
    assert [made.frames_of(size) for size in sizes] == [1, 1, 1, 2, 2, 3]


def test_fragments_are_cut_without_gap_or_overlap():
    made = sender(fragment=4)
    payload = bytes(range(10))
    assert made.queue(2, 0x11, payload) == 3
    frames = split_datagram(b"".join(made.frames_to_send(0, 1000)), 100)
    flags = SEQUENCED | 2
    assert frames == [
        (0x11, flags | MORE, 1, payload[:4]),
        (0x11, flags | MORE, 2, payload[4:8]),
        (0x11, flags, 3, payload[8:]),
    ]
    made.queue(2, 0x11, payload[:5])
    frames = split_datagram(b"".join(made.frames_to_send(0, 1000)), 100)
    assert frames == [(0x11, flags | MORE, 4, payload[:4]), (0x11, flags, 5, payload[4:5])]


def test_room_is_what_the_window_leaves():
    made = sender(count=5)
    assert made.room(3) == WINDOW - 5
    seqs(made)
    made.acknowledge(3, 2, b"", 10)
    assert made.room(3) == WINDOW - 3
    far = sender()
    far.skip(3, 1000)
    assert far.room(3) == 0, "the peer has not crossed the gap yet"
    large = sender(fragment=10)
    assert is_refused(lambda: large.queue(3, KIND, bytes(10 * WINDOW + 1)), LimitError)
    assert large.queue(3, KIND, bytes(10 * WINDOW)) == WINDOW


def test_the_last_sequence_number_of_an_epoch():
    made = sender()
    made.open_stream(4, MAX_SEQUENCE - 1)
    assert made.queue(4, KIND, b"") == MAX_SEQUENCE - 1
    assert is_refused(lambda: made.queue(4, KIND, b""), LimitError)


def test_what_it_counts():
    made = sender(count=2)
    assert (made.number, made.in_flight, made.resent) == (0, 0, 0)
    size = sum([len(frame) for frame in made.frames_to_send(0, 1000)])
    assert (made.number, made.in_flight, made.resent) == (2, size, 0)
    made.handle_timer(INITIAL_RTO_MS)
    assert made.in_flight == 0
    seqs(made, INITIAL_RTO_MS)
    assert (made.number, made.in_flight, made.resent) == (4, size, 2)


def test_a_frame_that_was_sent_once_gives_a_sample():
    made = sender(count=1)
    assert seqs(made, 100) == [1]
    made.acknowledge(3, 1, b"", 150)
    assert made.recovery.srtt_ms == 50


def test_the_latest_frame_of_an_acknowledgement_gives_the_sample():
    made = sender(count=1)
    seqs(made, 100)
    made.queue(3, KIND, b"")
    seqs(made, 140)
    made.acknowledge(3, 2, b"", 150)
    assert made.recovery.srtt_ms == 10
    # By the bitmap as by the number.
    for _ in range(2):
        made.queue(3, KIND, b"")
        seqs(made, 200 if made.in_flight == 0 else 290)
    made.acknowledge(3, 3, b"\x01", 300)
    assert made.recovery.srtt_ms == 10


def test_an_open_stream_with_nothing_to_send_wants_no_timer():
    made = sender()
    made.open_stream(3)
    assert seqs(made, 5) == [] and made.timer is None
    made.queue(3, KIND, b"")
    assert seqs(made, 10) == [1]
    made.acknowledge(3, 1, b"", 20)
    assert seqs(made, 30) == [] and made.timer is None


def test_an_empty_stream_keeps_no_other_from_sending():
    made = sender(False)
    made.open_stream(2)
    made.queue(3, KIND, b"x")
    assert launched(made) == [(3, 1)]


def test_the_timer_runs_from_the_first_frame_in_flight():
    for datagram, wait_ms in ((True, INITIAL_RTO_MS), (False, STALL_MS)):
        made = sender(datagram, 1)
        seqs(made, 100)
        made.queue(3, KIND, b"")
        seqs(made, 300)
        assert made.timer == 100 + wait_ms


def test_an_acknowledgement_without_news_moves_no_timer():
    for datagram, wait_ms in ((True, INITIAL_RTO_MS), (False, STALL_MS)):
        made = sender(datagram, 3)
        seqs(made, 100)
        assert made.acknowledge(3, 1, b"", 200) is True
        due = made.timer
        assert due == (200 + wait_ms if not datagram else 200 + made.recovery.rto_ms())
        assert made.acknowledge(3, 1, b"", 250) is False
        assert made.acknowledge(3, 0, b"", 260) is False
        assert made.timer == due


def test_a_doubled_timeout_stays_while_nothing_is_heard():
    made = sender(count=2)
    seqs(made, 0)
    made.handle_timer(INITIAL_RTO_MS)
    made.acknowledge(3, 0, b"", 1_100)
    assert made.recovery.rto_ms() == 2 * INITIAL_RTO_MS


def test_a_shut_window_of_a_stream_link_is_not_asked():
    made = sender(False, 1)
    made.window = 0
    assert seqs(made, 500) == [] and made.timer is None


def test_a_shut_window_with_frames_in_flight_is_not_asked():
    made = sender(count=2)
    made.window = 1
    assert seqs(made, 500) == [1]
    made.timer = None
    assert seqs(made, 600) == [] and made.timer is None


def test_a_window_that_is_asked_keeps_its_time():
    made = sender(count=1)
    made.window = 0
    seqs(made, 500)
    seqs(made, 700)
    assert made.timer == 500 + INITIAL_RTO_MS


def test_a_burst_ends_with_the_frame_that_uses_up_the_budget():
    size = len(sender(False, 1).frames_to_send(0, 1)[0])
    for budget, count in ((1, 1), (2 * size - 1, 2), (2 * size, 2), (2 * size + 1, 3)):
        made = sender(False, 10)
        assert len(seqs(made, budget=budget)) == count, budget


def test_a_flight_ends_with_the_frame_that_fills_it():
    size = len(sender(False, 1).frames_to_send(0, 1)[0])
    for limit, count in ((2 * size - 1, 2), (2 * size, 2), (2 * size + 1, 3)):
        made = sender(True, 10)
        made.recovery.flight_limit = limit
        assert len(seqs(made)) == count, limit


def test_a_bitmap_may_be_shorter_or_longer_than_what_was_sent():
    made = sender(count=20)
    made.recovery.flight_limit = 1 << 20
    assert len(seqs(made, 0)) == 20
    made.acknowledge(3, 0, b"\x01\x02", 20)  # 1 and 10
    assert [frame.seq for frame in made.streams[3].frames if frame.state == 2] == [1, 10]
    made.acknowledge(3, 19, b"\x01\xff\xff", 30)
    assert made.in_flight == 0


def test_a_frame_that_arrived_after_all_is_not_sent_again():
    made = sender(count=3)
    seqs(made, 0)
    made.handle_timer(INITIAL_RTO_MS)  # all three count as lost
    made.acknowledge(3, 1, b"\x01", 1_010)  # 1 and 2 were on their way
    assert made.streams[3].waiting == 1
    assert seqs(made, 1_020) == [3]
    made.acknowledge(3, 3, b"", 1_030)
    assert made.streams[3].waiting == 0 and made.in_flight == 0
    assert seqs(made, 1_040) == [] and made.timer is None


def test_an_acknowledgement_twice_counts_once():
    made = sender(count=3)
    seqs(made, 0)
    for now in (10, 20):
        made.acknowledge(3, 0, b"\x02", now)
    assert made.in_flight == sum([f.size for f in made.streams[3].frames if f.seq != 2])


def test_a_new_link_begins_with_nothing_on_its_way():
    made = sender(count=3)
    seqs(made, 0)
    made.give_up(3, 2)
    assert made.forwards_to_send(10) == {3: 2}
    made.open_link(False)
    assert (made.in_flight, made.timer, made.recovery) == (0, None, None)
    assert made.forwards_to_send(11) == {3: 2}, "the new link has not said it"
    assert seqs(made, 12) == [2, 3] and made.timer == 12 + STALL_MS
    made.open_link(True)
    assert made.recovery is not None and made.recovery.srtt_ms == 0


def test_resume_without_a_point_delivers_nothing():
    made = sender(False, 2)
    assert made.resume({}, 10) == []
    assert seqs(made) == [1, 2]
    made.open_link(False)
    assert made.resume({3: 2}, 1) == [(3, 2)], "the last one that was sent"
    assert made.window == 1 and seqs(made) == []


def test_resume_of_one_stream_leaves_the_others():
    made = sender(False, 2)
    made.queue(2, KIND, b"")
    assert made.resume({3: 1}, 10) == [(3, 1)]
    assert launched(made) == [(2, 1), (3, 2)]
    assert is_refused(lambda: made.resume({2: 2}, 10), ProtocolError)


def test_give_up_takes_what_flies_and_what_waits():
    made = sender(count=4)
    size = len(made.frames_to_send(0, 1)[0])
    assert made.in_flight == size
    made.acknowledge(3, 0, b"\x01", 10)  # 1 is held, 2 .. 4 wait
    assert seqs(made, 20, budget=1) == [2]
    made.give_up(3, 4)
    assert (made.in_flight, made.streams[3].waiting) == (0, 1)
    assert [frame.seq for frame in made.streams[3].frames] == [4]


def test_giving_up_what_is_durable_already_tells_nobody():
    made = sender(count=3)
    seqs(made, 0)
    made.acknowledge(3, 2, b"", 10)
    made.give_up(3, 3)
    assert not made.has_gaps and made.forwards_to_send(20) == {}
    made.give_up(3, 4)
    assert made.forwards_to_send(20) == {3: 4}


def test_a_gap_of_one_stream_is_said_of_that_one():
    made = sender(count=1)
    made.open_stream(2)
    made.open_stream(4)
    made.give_up(3, 2)
    assert made.forwards_to_send(0) == {3: 2}


def test_a_gap_is_said_until_the_peer_is_behind_it():
    made = sender(count=5)
    seqs(made, 0)
    made.give_up(3, 4)
    made.acknowledge(3, 2, b"", 10)
    assert made.forwards_to_send(20) == {3: 4}
    made.acknowledge(3, 3, b"", 30)
    assert made.forwards_to_send(40) == {} and not made.has_gaps
    assert made.forward_due is None


def test_a_gap_is_said_again_when_that_is_due():
    made = sender(count=2)
    made.give_up(3, 2)
    made.forwards_to_send(10)
    due = made.forward_due
    assert made.forwards_to_send(due - 1) == {}
    assert made.forwards_to_send(due) == {3: 2} and made.forward_due > due


def test_another_gap_is_said_at_once():
    made = sender(count=5)
    seqs(made, 0)
    made.give_up(3, 2)
    assert made.forwards_to_send(10) == {3: 2}
    made.give_up(3, 3)
    assert made.forwards_to_send(11) == {3: 3}


def test_a_stream_link_says_a_gap_once():
    made = sender(False, 3)
    made.give_up(3, 3)
    assert made.forwards_to_send(100) == {3: 3}
    assert made.forwards_to_send(100 + 86_400_000) == {}
    assert ticks_diff(made.forward_due, 100) > 86_400_000


def test_skip_gives_numbers_to_no_message():
    made = sender()
    assert made.skip(3, 1) is True and not made.has_gaps, "1 is the next one anyway"
    assert made.skip(3, 8) is True
    assert made.forwards_to_send(0) == {3: 8}
    assert made.queue(3, KIND, b"") == 8
    assert made.skip(3, 12) is False, "8 is not delivered"
    assert made.queue(3, KIND, b"") == 9
    assert made.skip(3, 10) is True
    assert is_refused(lambda: made.skip(3, MAX_SEQUENCE + 1), LimitError)
    last = sender()
    assert last.skip(3, MAX_SEQUENCE) is True


def test_give_up_of_a_cut_message_takes_its_waiting_rest():
    made = sender(fragment=10)
    made.queue(3, KIND, bytes(35))  # 1 .. 4
    made.queue(3, KIND, bytes(15))  # 5, 6
    seqs(made, 0, budget=25)
    made.give_up(3, 2)
    assert [frame.seq for frame in made.streams[3].frames] == [5, 6]
    assert (made.in_flight, made.streams[3].waiting) == (0, 2)
    made.give_up(3, 5)
    assert [frame.seq for frame in made.streams[3].frames] == [5, 6]
