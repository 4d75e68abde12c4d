"""The receiving half: order, duplicates, fragments, gaps, acknowledgements."""

from receiver_rig import KIND, receiver, seqs, take
from refusals import reason

from fleetnet.errors import LIMIT
from fleetnet.frame import SEQUENCED, decode_ack
from fleetnet.limits import EARLY_BYTES, HASTY_ACKS, WINDOW


def ack(made):
    window, entries = decode_ack(made.ack_payload())
    return window, entries


def test_order_and_duplicates():
    made, events = receiver()
    for seq in (2, 1, 1, 3, 2, 5, 5, 4):
        take(made, seq)
    assert seqs(events) == [1, 2, 3, 4, 5]
    assert made.duplicates == 3


def test_nothing_is_acknowledged_before_it_is_durable():
    made, _ = receiver()
    for seq in (1, 2, 4):
        take(made, seq)
    assert ack(made) == (WINDOW, [(3, 0, b"\x0b")])
    made.acknowledge(3, 2, 0)
    assert ack(made) == (WINDOW, [(3, 2, b"\x02")])
    assert made.ack_payload() == b""


def test_an_acknowledgement_never_names_what_did_not_arrive():
    made, _ = receiver()
    take(made, 1)
    made.acknowledge(3, 9, 0)
    made.acknowledge(7, 1, 0)
    assert ack(made) == (WINDOW, [(3, 1, b"")])


def test_the_window_is_a_span():
    made, events = receiver()
    take(made, WINDOW + 1)
    assert made.dropped == 1
    take(made, WINDOW)
    assert made.dropped == 1 and not events
    take(made, 1)
    made.acknowledge(3, 1, 0)
    take(made, WINDOW + 1)
    assert made.dropped == 1
    stream, events = receiver(datagram=False)
    assert reason(lambda: take(stream, WINDOW + 1)) == LIMIT


def test_bytes_kept_early_are_bounded():
    made, events = receiver()
    half = bytes(EARLY_BYTES // 2)
    for seq in (2, 3, 4):
        take(made, seq, half)
    assert made.dropped == 1
    take(made, 1)
    assert seqs(events) == [1, 2, 3]
    take(made, 6, half)
    take(made, 5, half)
    assert made.dropped == 1, "room that was given back is room again"


def test_when_an_acknowledgement_leaves():
    made, _ = receiver()
    take(made, 1, now=1000)
    assert made.ack_due == 1100
    take(made, 3, now=1010)
    assert made.ack_due == 1010  # a hole: at once
    made.ack_payload()
    take(made, 1, now=2000)
    assert made.ack_due == 2000  # a duplicate: ours was lost
    made.ack_payload()
    take(made, 2, now=3000)
    assert made.ack_due == 3000 + 100 // 8, "frames are being lost: hardly a delay"
    for _ in range(HASTY_ACKS):
        made.ack_payload()
    take(made, 4, now=4000)
    assert made.ack_due == 4100, "none were lost for a while"
    made.ack_payload()
    stream, _ = receiver(datagram=False)
    take(stream, 1, now=1000)
    assert stream.ack_due is None  # on a stream only what is durable is worth a word
    stream.acknowledge(3, 1, 1010)
    assert stream.ack_due == 1110
    for seq in range(2, 2 + WINDOW // 4):
        take(stream, seq)
    stream.acknowledge(3, 1 + WINDOW // 4, 1020)
    assert stream.ack_due == 1020  # a quarter of the window waits for no timer


def test_fragments():
    made, events = receiver(max_message=10)
    take(made, 2, b"cd", more=True)
    take(made, 3, b"ef")
    take(made, 1, b"ab", more=True)
    take(made, 4, b"gh")
    assert [(e.seq, e.payload) for e in events] == [(3, b"abcdef"), (4, b"gh")]
    take(made, 5, bytes(6), more=True)
    assert reason(lambda: take(made, 6, bytes(5))) == LIMIT


def test_gap_is_reported_once_and_acknowledged():
    made, events = receiver()
    take(made, 1)
    take(made, 6)
    made.forward(3, 4)
    made.forward(3, 4)
    made.forward(3, 2)
    assert seqs(events) == [1, (-2, -3)]
    assert ack(made)[1] == [(3, 0, b"\x27")]  # 1 is not durable yet: the gap waits behind it
    made.acknowledge(3, 1, 0)
    assert ack(made)[1] == [(3, 3, b"\x04")]
    take(made, 4)
    take(made, 5)
    assert seqs(events) == [1, (-2, -3), 4, 5, 6]


def test_gap_swallows_the_pieces_of_a_message():
    made, events = receiver()
    take(made, 1, b"head", more=True)
    take(made, 3, b"tail")  # 2 never came
    made.forward(3, 4)
    assert seqs(events) == [(-1, -3)]
    assert ack(made)[1] == [(3, 3, b"")]
    take(made, 4, b"next")
    assert events[-1].payload == b"next"


def test_gaps_far_away_cost_nothing():
    made, _ = receiver()
    take(made, 1)
    for oldest in range(3, 2000):
        made.forward(3, oldest)
    made.forward(3, 1 << 30)
    assert len(made.streams[3].gaps) == 1
    entries = ack(made)[1]
    assert len(entries[0][2]) <= WINDOW // 8
    made.acknowledge(3, 1, 0)
    assert ack(made)[1] == [(3, (1 << 30) - 1, b"")]


def test_stream_zero_is_refused():
    made, _ = receiver()
    assert reason(lambda: made.receive(0, 1, KIND, SEQUENCED, b"", 0)) is not None
    assert reason(lambda: made.forward(0, 5)) is not None


def test_new_link_continues_at_the_durable_point():
    made, events = receiver()
    for seq in (1, 2, 3, 5):
        take(made, seq)
    made.acknowledge(3, 1, 0)
    made.open_link(False)
    made.rewind({3: (2, 6)})
    assert made.resume_points() == {3: 1}
    for seq in (2, 3, 4, 5):
        take(made, seq)
    assert seqs(events) == [1, 2, 3, 2, 3, 4, 5]
    made.start({3: 4, 2: 9}, {3: (7, 9)})
    assert made.resume_points() == {3: 6, 2: 9}
    assert seqs(events)[-1] == (-5, -6)
