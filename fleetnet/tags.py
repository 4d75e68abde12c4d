"""Numbers of HELLO, WELCOME, REFUSE and BYE (docs/protocol.md sections 4.3 and 8.1).

A board never imports this: its compiled files hold the numbers.
"""

# Fields.
VERSION = 1
CAPABILITIES = 2
MAX_FRAME = 3
EPOCH = 4
STREAMS = 5
PEER_EPOCH = 6
RESUME = 7
NONCE = 8
UNIX_MS = 9
CODECS = 10
SOFTWARE = 11
BOOT = 12
UPTIME_MS = 13
SESSION_ID = 14
WINDOW = 15
KEEPALIVE_MS = 16
ACK_DELAY_MS = 17
RATE = 18
REASON = 19
RETRY_AFTER_MS = 20
DETAIL = 21
CONFIG_VERSION = 22
IDENTITY = 23
PROBE = 24

VERSION_MAJOR = 1
VERSION_MINOR = 0

# Capability bits (docs/protocol.md section 4.3); both ends use the intersection.
CAN_COMMAND = 0x01
CAN_CONFIGURE = 0x02
CAN_BLOB = 0x04
CAN_RELAY = 0x08
CAN_ROTATE = 0x10
CAN_MAKE_KEY = 0x20

EPOCH_SIZE = 8
NONCE_SIZE = 4

# A unix time in ms fits six varint bytes until the year 2109.
TIME_BYTES = 7
