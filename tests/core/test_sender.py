"""The sending half: window, losses, timeouts, resume, giving up."""

from sender_rig import KIND, sender, seqs

from fleetnet.errors import LimitError, ProtocolError
from fleetnet.frame import MORE, split_datagram
from fleetnet.limits import (
    INITIAL_RTO_MS,
    MAX_MESSAGE,
    MAX_RTO_MS,
    MAX_SEQUENCE,
    MIN_RTO_MS,
    WINDOW,
)
from fleetnet.rtt import RttEstimator


def refused(action, kind):
    try:
        action()
    except kind as error:
        return str(error)
    return ""


def test_queue_limits():
    made = sender(count=WINDOW)
    assert made.room(3) == 0 and made.room(2) == WINDOW
    assert "no room" in refused(lambda: made.queue(3, KIND, b""), LimitError)
    assert refused(lambda: made.queue(0, KIND, b""), LimitError)
    assert refused(lambda: made.queue(16, KIND, b""), LimitError)
    assert refused(lambda: made.queue(2, KIND, bytes(MAX_MESSAGE + 1)), LimitError)
    assert made.queue(2, KIND, bytes(MAX_MESSAGE)) == made.frames_of(MAX_MESSAGE)
    made.open_stream(4, MAX_SEQUENCE)
    assert "epoch" in refused(lambda: made.queue(4, KIND, b""), LimitError)


def test_the_window_bounds_the_span_of_sequence_numbers():
    made = sender(False, WINDOW)
    made.window = 8
    assert seqs(made) == [1, 2, 3, 4, 5, 6, 7, 8]
    # 2 .. 8 are at the peer, 1 is not: the span stays shut however few are in flight.
    made.acknowledge(3, 0, b"\xfe", 10)
    assert seqs(made) == []
    made.acknowledge(3, 3, b"\x1f", 20)
    assert seqs(made) == [9, 10, 11]
    made.window = 0
    made.acknowledge(3, 11, b"", 30)
    assert seqs(made) == []


def test_urgent_streams_leave_first():
    made = sender(False, 3)
    made.queue(2, KIND, b"alarm")
    frames = made.frames_to_send(0, 1 << 20)
    assert [split_datagram(f, 100)[0][1] & 15 for f in frames] == [2, 3, 3, 3]


def test_budget_and_flight_bound_a_burst():
    made = sender(False, 40, 1000)
    assert 4 <= len(seqs(made, budget=4000)) <= 5
    datagrams = sender(True, 40, 1000)
    assert len(seqs(datagrams)) == 5  # four datagrams' worth, before anything is known
    assert seqs(datagrams) == []


def test_overtaken_frames_are_sent_again_by_number():
    made = sender(count=6)
    assert seqs(made) == [1, 2, 3, 4, 5, 6]
    made.acknowledge(3, 0, b"\x06", 50)  # 2 and 3: 1 may still be on its way
    assert seqs(made, 50) == []
    made.acknowledge(3, 0, b"\x0e", 60)  # 4 as well: 1 was overtaken by three
    assert seqs(made, 60) == [1]
    assert made.resent == 1
    made.acknowledge(3, 6, b"", 90)
    assert made.in_flight == 0 and made.timer is None


def test_timeout_sends_again_and_backs_off():
    made = sender(count=2)
    assert seqs(made, 100) == [1, 2]
    assert made.timer == 100 + INITIAL_RTO_MS
    made.handle_timer(made.timer)
    assert made.in_flight == 0
    assert seqs(made, 1100) == [1, 2]
    assert made.timer == 1100 + 2 * INITIAL_RTO_MS
    made.acknowledge(3, 1, b"", 1150)
    assert made.timer == 1150 + INITIAL_RTO_MS, "an answer drops the doubling"
    assert made.recovery.srtt_ms == 0, "no sample from a frame that was sent twice (Karn)"


def test_a_stream_link_never_sends_twice():
    made = sender(False, 6)
    seqs(made)
    made.acknowledge(3, 0, b"\x3e", 50)
    assert made.timer == 5_050, "the first frame is still out: worth a question after 5 s"
    made.handle_timer(5_050)
    assert seqs(made, 60_000) == [] and made.timer == 10_050
    made.acknowledge(3, 6, b"", 6_000)
    assert made.timer is None and made.resent == 0


def test_what_the_peer_holds_is_neither_resent_nor_forgotten():
    made = sender(count=3)
    seqs(made)
    made.acknowledge(3, 0, b"\x02", 10)
    made.handle_timer(1000)
    assert seqs(made, 1000) == [1, 3]
    made.open_link(True)
    assert seqs(made, 2000) == [1, 2, 3], "a new link: its memory may be gone"


def test_late_and_impossible_acknowledgements():
    made = sender(count=5)
    seqs(made)
    assert made.acknowledge(3, 4, b"", 10)
    assert not made.acknowledge(3, 2, b"", 20)
    assert made.streams[3].cum == 4
    assert not made.acknowledge(3, 4, b"", 20)
    assert refused(lambda: made.acknowledge(3, 6, b"", 30), ProtocolError)
    assert refused(lambda: made.acknowledge(2, 0, b"", 30), ProtocolError)


def test_resume():
    made = sender(count=5)
    seqs(made)
    made.open_link(False)
    assert made.resume({3: 2, 7: 40}, 10) == [(3, 2)]
    assert seqs(made) == [3, 4, 5]
    assert made.queue(7, KIND, b"") == 41
    assert made.resume({3: 2}, 10) == []
    assert refused(lambda: made.resume({3: 6}, 10), ProtocolError)


def test_give_up_and_forward():
    made = sender(count=6)
    seqs(made)
    made.give_up(3, 4)
    assert made.forwards_to_send(100) == {3: 4}
    assert made.forwards_to_send(101) == {}
    assert made.forwards_to_send(100 + INITIAL_RTO_MS) == {3: 4}, "it may be lost"
    made.acknowledge(3, 3, b"", 2000)
    assert made.forwards_to_send(60_000) == {} and made.forward_due is None
    made.give_up(3, 99)
    assert made.forwards_to_send(60_000) == {3: 7} and made.in_flight == 0


def test_give_up_never_cuts_a_message():
    made = sender(fragment=10, count=1, size=35)  # 1 .. 4
    made.queue(3, KIND, b"next")
    made.give_up(3, 3)
    assert made.forwards_to_send(0) == {3: 5}
    assert seqs(made) == [5]
    assert made.streams[3].frames[0].flags & MORE == 0


def test_a_shut_window_is_asked_again():
    made = sender(count=1)
    made.window = 0
    assert seqs(made, 500) == []
    assert made.timer == 500 + INITIAL_RTO_MS
    idle = sender()
    assert seqs(idle, 500) == [] and idle.timer is None


def test_a_frame_sent_well_before_an_acknowledged_one_is_lost():
    made = sender(count=0)
    made.recovery.sample(40)
    for now in (0, 4, 30):
        made.queue(3, 0x10, b"x")
        seqs(made, now)
    made.acknowledge(3, 0, b"\x04", 70)
    assert seqs(made, 70) == [1, 2], "each more than a quarter of a round trip behind"
    made.acknowledge(3, 0, b"\x06", 110)
    assert seqs(made, 110) == [], "1 and 2 left together the second time"


def test_round_trip_estimates():
    rtt = RttEstimator()
    assert rtt.rto_ms() == INITIAL_RTO_MS
    for _ in range(50):
        rtt.sample(80)
    assert rtt.srtt_ms == 80 and rtt.rto_ms() == 100
    rtt.ack_delay_ms = 300
    assert 380 <= rtt.rto_ms() <= 420
    rtt.hasty = 2
    assert rtt.rto_ms() == 100 + 300 // 8, "the peer does not wait while frames are lost"
    rtt.relax()
    rtt.relax()
    assert rtt.rto_ms() == 400
    near = RttEstimator()
    near.sample(1)
    assert near.rto_ms() == MIN_RTO_MS
    for _ in range(20):
        rtt.back_off()
    assert rtt.rto_ms() == MAX_RTO_MS
    rtt.relax()
    assert rtt.rto_ms() < 500
    for _ in range(50):
        rtt.sample(1000)
    assert 950 < rtt.srtt_ms <= 1000
