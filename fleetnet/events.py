"""What a session tells its owner, one object each of ``Session.take_events``.

receiver.py has Gap, acceptor.py HelloReceived: a device that sends readings never needs them.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.handshake import Ending, Welcome


class Opened:
    """Messages flow from now on. ``welcome`` is what both ends agreed on."""

    def __init__(self, welcome: "Welcome"):
        self.welcome = welcome


class Received:
    """One whole message, in the order of its stream.

    Attributes:
        stream, kind: as in frame.py.
        seq: its (last fragment's) sequence number; 0 for a best-effort message.
        payload: bytes, yours to keep.
    """

    __slots__ = ("kind", "payload", "seq", "stream")

    def __init__(self, stream: int, seq: int, kind: int, payload: bytes):
        self.stream = stream
        self.seq = seq
        self.kind = kind
        self.payload = payload


class Delivered:
    """The peer holds everything of ``stream`` up to ``seq`` durably; forget it."""

    def __init__(self, stream: int, seq: int):
        self.stream = stream
        self.seq = seq


class Refused:
    """Initiator only: the acceptor does not want this device (now)."""

    def __init__(self, ending: "Ending"):
        self.ending = ending


class Closed:
    """The session on this link is over; flush what is left to send, then drop the link.

    Attributes:
        ending: reason, retry_after_ms, detail.
        by_peer: the peer said so; else we did (BYE of ours, a broken rule, silence).
    """

    def __init__(self, ending: "Ending", by_peer: bool):
        self.ending = ending
        self.by_peer = by_peer


class TimeHeard:
    """Initiator: the acceptor's wall clock, ms since 1970, as its PONG carried it."""

    def __init__(self, unix_ms: int):
        self.unix_ms = unix_ms
