"""RELAY: a frame of a sensor within a frame of its hub.

    alias varint, kind u8, stream u8, sequence varint, body

The sensor's HELLO travels with three more fields (``announce``); REFUSE and BYE with the nonce
of the HELLO that they belong to. Only hubs and back-ends import this.

Source: docs/protocol.md section 15.
"""

from fleetnet import frame as wire
from fleetnet import limits, tags
from fleetnet.acceptor import decode_hello
from fleetnet.errors import ProtocolError
from fleetnet.fields import FieldReader, FieldWriter
from fleetnet.handshake import NONCE_SIZE, Hello
from fleetnet.varint import put_varint, take_varint

# Streams of a hub's session (docs/protocol.md section 5).
RELAYED_FIRST = 6
RELAYED = 7

# Fields of an announcement, besides those of HELLO (docs/protocol.md section 15.2).
NAME = 25
SERIAL = 26
AGE_MS = 27

# Origins that one hub's session may have: sensors that are there, and messages of earlier
# sessions of theirs. A back-end keeps some 2 KB for each.
MAX_ORIGINS = 64

# Bytes of the longest serial number (RFC 5280 section 4.1.2.2), and of the longest name.
MAX_SERIAL = 20
_MAX_NAME = 63

# alias, kind, stream and sequence number at their longest.
HEAD_BYTES = 12

# What a message may have, so that it fits one of the hub's.
MAX_BODY = limits.MAX_MESSAGE - HEAD_BYTES

# Frames that are said anew when no answer came.
REPEAT_MS = 1_000

# Not relayed: identities are the affair of device and back-end alone, chunks are no messages,
# and there is one hub on a way.
_NOT_RELAYED = (
    wire.BLOB, wire.BLOB_CHUNK, wire.BLOB_STATE, wire.CREDENTIAL, wire.CREDENTIAL_STATE,
    wire.RELAY,
)  # fmt: skip


def is_relayed(kind: int) -> bool:
    """Say whether frames of an application's kind may be carried."""
    kind &= ~wire.OPTIONAL
    return kind >= wire.MESSAGE and kind not in _NOT_RELAYED


def carrier(stream: int) -> int:
    """Return the hub's stream that carries messages of a sensor's stream."""
    return RELAYED_FIRST if stream in (wire.COMMANDS, wire.EVENTS) else RELAYED


def encode_relay(alias: int, kind: int, stream: int, seq: int, body: bytes) -> bytes:
    """Lay out a frame of the sensor ``alias``; ``seq`` 0: it has no sequence number."""
    head = bytearray()
    put_varint(head, alias)
    head.append(kind)
    head.append(stream)
    put_varint(head, seq)
    return bytes(head) + body


def decode_relay(payload: bytes) -> "tuple[int, int, int, int, bytes]":
    """Return (alias, kind, stream, seq, body). Raises ProtocolError, nothing else."""
    alias, at = take_varint(payload, 0)
    if at + 2 > len(payload):
        raise ProtocolError("RELAY is cut off")
    kind, stream = payload[at], payload[at + 1]
    seq, at = take_varint(payload, at + 2)
    if not 0 < alias <= limits.MAX_SEQUENCE or seq > limits.MAX_SEQUENCE:
        raise ProtocolError("RELAY: alias %d, sequence %d" % (alias, seq))
    if stream > limits.MAX_STREAM or (seq and not stream):
        raise ProtocolError("RELAY: stream %d, sequence %d" % (stream, seq))
    if seq and not is_relayed(kind):
        raise ProtocolError("kind 0x%02x is not relayed" % kind)
    return alias, kind, stream, seq, payload[at:]


class Announcement:
    """HELLO of a sensor as its hub tells it.

    Attributes:
        name, serial: what the certificate says that the hub has verified.
        hello: the sensor's; its uptime is that of the moment at which this was sent.
        age_ms: since the sensor's HELLO; None: it is not here, the hub only keeps messages.
    """

    def __init__(self, name: str, serial: int, hello: Hello, age_ms: "int | None" = None):
        self.name = name
        self.serial = serial
        self.hello = hello
        self.age_ms = age_ms

    def to_payload(self) -> bytes:
        """Lay it out."""
        out = FieldWriter()
        out.put_text(NAME, self.name)
        out.put_bytes(SERIAL, serial_bytes(self.serial))
        if self.age_ms is not None:
            out.put_int(AGE_MS, min(self.age_ms, limits.MAX_SEQUENCE))
        return self.hello.to_payload() + out.to_payload()


def decode_announcement(payload: bytes) -> Announcement:
    """Read a relayed HELLO. Raises ProtocolError, nothing else."""
    hello = decode_hello(payload)
    fields = FieldReader(payload)
    name, serial = fields.get_text(NAME), fields.get_bytes(SERIAL)
    if not 0 < len(name) <= _MAX_NAME or not 0 < len(serial) <= MAX_SERIAL:
        raise ProtocolError("announcement without a name or a serial number")
    age_ms = fields.get_int(AGE_MS) if fields.has(AGE_MS) else None
    return Announcement(name, int.from_bytes(serial, "big"), hello, age_ms)


def serial_bytes(serial: int) -> bytes:
    """Return a serial number big endian, without leading zeros; 0 is one byte."""
    size = 1
    while serial >> (8 * size):
        size += 1
    return serial.to_bytes(size, "big")


def with_nonce(ending: bytes, nonce: bytes) -> bytes:
    """Return REFUSE or BYE with the nonce of the sensor's HELLO that it answers or ends."""
    out = FieldWriter()
    out.put_bytes(tags.NONCE, nonce)
    return ending + out.to_payload()


def nonce_of(payload: bytes) -> bytes:
    """Return the nonce that ``with_nonce`` put. Raises ProtocolError: there is none."""
    nonce = FieldReader(payload).get_bytes(tags.NONCE, size=NONCE_SIZE)
    if not nonce:
        raise ProtocolError("REFUSE or BYE without the nonce of its HELLO")
    return nonce
