"""Every ceiling of the protocol in one place, with its reason.

Nothing is allocated in a size that the wire dictates: a length is compared with one of
these first. Server and device lower some of them through HELLO and WELCOME, never raise.
"""

# A TLS write of up to 4096 bytes is one record on every port (out record 4096 B), and a
# device's input buffer of this size fits beside mbedTLS in a 64 KB heap.
MAX_FRAME_PAYLOAD = 4096

# The length field's own end: no negotiation goes above it.
ABSOLUTE_FRAME_PAYLOAD = 65535

# 1200 B, which crosses every IPv6 path, less 37 B of DTLS 1.2 AES-GCM record, with room.
DATAGRAM_PAYLOAD = 1150

# One sequenced frame with its header still fits a datagram, so that a message that was
# queued for TLS can leave over DTLS after a move.
FRAGMENT_PAYLOAD = 1136

# A message in fragments: one configuration document; images are chunked above the session.
MAX_MESSAGE = 65536

# Sequence numbers stay small integers on 32-bit MicroPython; at 100 messages a second
# this lasts 124 days, after which the device begins a new epoch.
MAX_SEQUENCE = (1 << 30) - 1

# Stream numbers use four bits of the flags byte.
MAX_STREAM = 15

# Messages between the cumulative acknowledgement and the newest one sent. 64 of them
# fill a 100 ms round trip at 640 messages a second and bound the bitmap to 8 bytes.
WINDOW = 64

# What a peer may grant at most; more than a receiver's own window is never used.
MAX_WINDOW = 1024

# Retransmission on a datagram link (RFC 6298 section 2): the timeout before the first round trip
# is known; the least, for radio links, and the most, so that a return is noticed.
INITIAL_RTO_MS = 1_000
MIN_RTO_MS = 50
MAX_RTO_MS = 8_000

# After a loss so many acknowledgements hardly wait: the next loss is found sooner.
HASTY_ACKS = 32

# Bytes kept for frames that arrived before their turn, per session.
EARLY_BYTES = 65536

# Live messages wait for the next write only; the oldest of more than this is dropped.
LIVE_QUEUE = 8

# The longest stay-away that a device obeys: one day.
MAX_RETRY_AFTER_MS = 86_400_000

# Field lists are handshakes of a dozen entries; more is an attack.
MAX_FIELDS = 32

# Text that a peer may send us to show: software names, refusal details.
MAX_TEXT = 200

# A chunk with its head and its frame's fits a datagram; blobs of a device that may use DTLS
# are cut so, others so that a frame is one TLS record.
BLOB_CHUNK = 1120
BLOB_STREAM_CHUNK = 4000
MIN_BLOB_CHUNK = 256

# Sizes stay small integers on 32-bit MicroPython. A back-end takes less (docs/blobs.md).
MAX_BLOB = (1 << 30) - 1

# Chunks between the first missing one and the last one sent: a bitmap of 32 bytes.
BLOB_SPAN = 256

# Chunks on their way at once: 72 KB of datagrams, the same as all messages together.
BLOB_WINDOW = 64

# Characters of a blob's name, the same as of a channel's.
MAX_BLOB_NAME = 64
