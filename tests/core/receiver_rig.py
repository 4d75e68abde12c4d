"""A Receiver on an open link, and frames of stream 3 for it."""

from fleetnet.frame import MORE, SEQUENCED
from fleetnet.receiver import Gap, Receiver

KIND = 0x10
FLAGS = SEQUENCED | 3


def receiver(datagram=True, max_message=65536):
    """Return it, and the list of its events."""
    events = []
    made = Receiver(events, max_message)
    made.open_link(datagram)
    return made, events


def take(made, seq, payload=b"", more=False, now=0):
    made.receive(3, seq, KIND, FLAGS | (MORE if more else 0), payload, now)


def seqs(events):
    """The number of each message, and (-first, -last) of each gap."""
    return [(-e.first, -e.last) if isinstance(e, Gap) else e.seq for e in events]
