"""HELLO, WELCOME and the closing pair REFUSE / BYE as values with a byte form.

The device speaks first: a MicroPython TLS client that reads before it writes never sends
its ClientHello. Source: docs/protocol.md section 4.
"""

from fleetnet import limits, tags
from fleetnet.errors import LIMIT, VERSION, ProtocolError
from fleetnet.fields import FieldReader, FieldWriter
from fleetnet.frame import encode_forward
from fleetnet.tags import (
    CAN_BLOB,
    CAN_COMMAND,
    CAN_CONFIGURE,
    CAN_MAKE_KEY,
    CAN_RELAY,
    CAN_ROTATE,
    EPOCH_SIZE,
    NONCE_SIZE,
    TIME_BYTES,
    VERSION_MAJOR,
    VERSION_MINOR,
)
from fleetnet.varint import put_varint, take_varint

__all__ = (
    "CAN_BLOB",
    "CAN_COMMAND",
    "CAN_CONFIGURE",
    "CAN_MAKE_KEY",
    "CAN_RELAY",
    "CAN_ROTATE",
    "EPOCH_SIZE",
    "NONCE_SIZE",
    "TIME_BYTES",
    "VERSION_MAJOR",
    "VERSION_MINOR",
    "Ending",
    "Greeting",
    "Hello",
    "Welcome",
    "check_welcome",
    "decode_ending",
    "decode_welcome",
)


def _put_pairs(streams: "dict[int, tuple[int, int]]") -> bytearray:
    buffer = bytearray()
    for number in sorted(streams):
        first, second = streams[number]
        buffer.append(number)
        put_varint(buffer, first)
        put_varint(buffer, second)
    return buffer


def _take_pairs(data: bytes) -> "dict[int, tuple[int, int]]":
    """Read ``stream u8, oldest varint, next varint`` repeated."""
    at = 0
    streams: "dict[int, tuple[int, int]]" = {}
    while at < len(data):
        number = data[at]
        oldest, at = take_varint(data, at + 1)
        following, at = take_varint(data, at)
        if not 0 < number <= limits.MAX_STREAM or number in streams:
            raise ProtocolError("stream %d out of range or named twice" % number)
        if not 0 < oldest <= following <= limits.MAX_SEQUENCE + 1:
            raise ProtocolError("stream %d: oldest %d, next %d" % (number, oldest, following))
        streams[number] = (oldest, following)
    return streams


def _take_resume(data: bytes) -> "dict[int, int]":
    """Read ``stream u8, last durable sequence varint`` repeated."""
    at = 0
    points: "dict[int, int]" = {}
    while at < len(data):
        number = data[at]
        points[number], at = take_varint(data, at + 1)
        if not 0 < number <= limits.MAX_STREAM or points[number] > limits.MAX_SEQUENCE:
            raise ProtocolError("resume point of stream %d out of range" % number)
    return points


class Greeting:
    """What HELLO and WELCOME have in common; the subclasses add their own half.

    Attributes:
        version: (major, minor).
        capabilities: bit set of CAN_*.
        max_frame: largest frame payload the sender of this greeting takes, bytes.
        epoch: 8 bytes naming this sender's run of sequence numbers.
        streams: stream -> (oldest unacknowledged sequence, next sequence) of the sender.
        peer_epoch: the receiver's epoch as last heard, or b"".
        resume: stream -> last durable sequence of the receiver's messages in peer_epoch.
        nonce: 4 bytes, chosen for each link by HELLO and repeated by WELCOME.
        unix_ms: the sender's wall clock, ms since 1970; 0 when it does not know.
    """

    def __init__(self) -> None:
        self.version = (VERSION_MAJOR, VERSION_MINOR)
        self.capabilities = 0
        self.max_frame = limits.MAX_FRAME_PAYLOAD
        self.epoch = b""
        self.streams: "dict[int, tuple[int, int]]" = {}
        self.peer_epoch = b""
        self.resume: "dict[int, int]" = {}
        self.nonce = b""
        self.unix_ms = 0

    def put_common(self, out: FieldWriter) -> None:
        """Put the fields that both greetings have."""
        out.put_bytes(tags.VERSION, bytes(self.version))
        out.put_int(tags.CAPABILITIES, self.capabilities)
        out.put_int(tags.MAX_FRAME, self.max_frame)
        out.put_bytes(tags.EPOCH, self.epoch)
        if self.streams:
            out.put_bytes(tags.STREAMS, _put_pairs(self.streams))
        if self.peer_epoch:
            out.put_bytes(tags.PEER_EPOCH, self.peer_epoch)
            out.put_bytes(tags.RESUME, encode_forward(self.resume))
        out.put_bytes(tags.NONCE, self.nonce)
        if self.unix_ms:
            out.put_int(tags.UNIX_MS, self.unix_ms)

    def take_common(self, fields: FieldReader) -> None:
        """Take the fields that both greetings have. Raises ProtocolError."""
        version = fields.get_bytes(tags.VERSION, size=2)
        if not version:
            raise ProtocolError("greeting without a version")
        self.version = (version[0], version[1])
        self.capabilities = fields.get_int(tags.CAPABILITIES)
        self.max_frame = fields.get_int(tags.MAX_FRAME)
        if not 256 <= self.max_frame <= limits.ABSOLUTE_FRAME_PAYLOAD:
            raise ProtocolError("max frame %d B is not 256..65535" % self.max_frame, LIMIT)
        self.epoch = fields.get_bytes(tags.EPOCH, size=EPOCH_SIZE)
        self.nonce = fields.get_bytes(tags.NONCE, size=NONCE_SIZE)
        if not self.epoch or not self.nonce:
            raise ProtocolError("greeting without epoch or nonce")
        self.streams = _take_pairs(fields.get_bytes(tags.STREAMS))
        self.peer_epoch = fields.get_bytes(tags.PEER_EPOCH, size=EPOCH_SIZE)
        self.resume = _take_resume(fields.get_bytes(tags.RESUME))
        self.unix_ms = fields.get_int(tags.UNIX_MS, 0, TIME_BYTES)


class Hello(Greeting):
    """The initiator's greeting.

    Attributes:
        codecs: content-format numbers (IANA CoAP) it can read.
        software: library and firmware, for people.
        boot: random number of this boot, 1 .. 2**30-1; uptime_ms: ms since that boot.
        config_version: of the configuration it runs with; 0: none.
        identity: number of the identity it uses; 0: that of its bundle.
        probe: nonzero asks for the decision alone: REFUSE comes, with reason 0 for "yes".
    """

    def __init__(self) -> None:
        super().__init__()
        self.config_version = self.identity = self.probe = 0
        self.codecs = b""
        self.software = ""
        self.boot = 0
        self.uptime_ms = 0

    def to_payload(self) -> bytes:
        out = FieldWriter()
        self.put_common(out)
        out.put_bytes(tags.CODECS, self.codecs)
        out.put_text(tags.SOFTWARE, self.software)
        out.put_int(tags.BOOT, self.boot)
        out.put_int(tags.UPTIME_MS, self.uptime_ms)
        if self.config_version:
            out.put_int(tags.CONFIG_VERSION, self.config_version)
        if self.identity:
            out.put_int(tags.IDENTITY, self.identity)
        if self.probe:
            out.put_int(tags.PROBE, self.probe)
        return out.to_payload()


class Welcome(Greeting):
    """The acceptor's answer; from here on messages flow.

    Attributes:
        session_id: 8 bytes for logs on both ends.
        window: largest span of unacknowledged sequence numbers per stream.
        keepalive_ms: the initiator pings after so long a silence.
        ack_delay_ms: how long the acceptor may hold an acknowledgement back.
        rate: messages a second that the acceptor wishes at most; 0: no wish.
    """

    def __init__(self) -> None:
        super().__init__()
        self.session_id = b""
        self.window = limits.WINDOW
        self.keepalive_ms = 60_000
        self.ack_delay_ms = 100
        self.rate = 0


def decode_welcome(payload: bytes) -> Welcome:
    """Read WELCOME. Raises ProtocolError, nothing else."""
    fields = FieldReader(payload)
    welcome = Welcome()
    welcome.take_common(fields)
    welcome.session_id = fields.get_bytes(tags.SESSION_ID)
    welcome.window = fields.get_int(tags.WINDOW, limits.WINDOW)
    welcome.keepalive_ms = fields.get_int(tags.KEEPALIVE_MS, 60_000)
    welcome.ack_delay_ms = fields.get_int(tags.ACK_DELAY_MS, 100)
    welcome.rate = fields.get_int(tags.RATE)
    if not 1_000 <= welcome.keepalive_ms <= 86_400_000 or welcome.ack_delay_ms > 10_000:
        raise ProtocolError("keepalive or acknowledgement delay out of range")
    if welcome.window > limits.MAX_WINDOW:
        raise ProtocolError("window %d, limit %d" % (welcome.window, limits.MAX_WINDOW), LIMIT)
    return welcome


def check_welcome(welcome: Welcome, epoch: bytes, fragment_payload: int) -> None:
    """Raise ProtocolError when an initiator of this epoch cannot live with ``welcome``."""
    if welcome.version[0] != VERSION_MAJOR:
        raise ProtocolError("peer speaks version %d" % welcome.version[0], VERSION)
    if welcome.max_frame < fragment_payload:
        raise ProtocolError("peer takes frames of %d B only" % welcome.max_frame, LIMIT)
    if welcome.peer_epoch != epoch:
        raise ProtocolError("WELCOME names another epoch")


class Ending:
    """REFUSE or BYE: why, and how long to stay away (ms, 0 = the device decides)."""

    def __init__(self, reason: int, retry_after_ms: int = 0, detail: str = ""):
        self.reason = reason
        self.retry_after_ms = retry_after_ms
        self.detail = detail

    def to_payload(self) -> bytes:
        out = FieldWriter()
        out.put_int(tags.REASON, self.reason)
        if self.retry_after_ms:
            out.put_int(tags.RETRY_AFTER_MS, self.retry_after_ms)
        if self.detail:
            out.put_text(tags.DETAIL, self.detail)
        return out.to_payload()


def decode_ending(payload: bytes) -> Ending:
    """Read REFUSE or BYE. Raises ProtocolError, nothing else."""
    fields = FieldReader(payload)
    # Ticks compare over 6 days only; a longer exile is nobody's business.
    retry_after_ms = min(fields.get_int(tags.RETRY_AFTER_MS), limits.MAX_RETRY_AFTER_MS)
    return Ending(fields.get_int(tags.REASON), retry_after_ms, fields.get_text(tags.DETAIL))
