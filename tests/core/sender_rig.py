"""A Sender on an open link with messages of stream 3, and what leaves it."""

from fleetnet.frame import split_datagram
from fleetnet.sender import Sender

KIND = 0x10


def sender(datagram=True, count=0, size=10, fragment=1136):
    made = Sender(fragment)
    made.open_link(datagram)
    for _ in range(count):
        made.queue(3, KIND, bytes(size))
    return made


def launched(made, now=0, budget=1 << 20):
    """(stream, seq) of each frame that leaves."""
    data = b"".join(made.frames_to_send(now, budget))
    return [(flags & 15, seq) for _, flags, seq, _ in split_datagram(data, 65535)]


def seqs(made, now=0, budget=1 << 20):
    return [seq for _, seq in launched(made, now, budget)]
