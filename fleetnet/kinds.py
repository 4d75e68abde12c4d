"""Numbers of frames: kinds, streams, flags (docs/protocol.md sections 2, 3 and 5).

frame.py has them all, too. They are in a file of their own because a board never imports it:
its compiled files hold the numbers (docs/memory.md).
"""

# Kinds (docs/protocol.md section 3). Control kinds are below MESSAGE.
HELLO = 0x01
WELCOME = 0x02
REFUSE = 0x03
BYE = 0x04
BYE_ACK = 0x05
PING = 0x06
PONG = 0x07
ACK = 0x08
FORWARD = 0x09
MESSAGE = 0x10  # this and above go to the application
READINGS = 0x10
RAW = 0x11
EVENT = 0x12
LOG = 0x13
CALL = 0x18
RESULT = 0x19
CONFIG = 0x20
CONFIG_STATE = 0x21
BLOB = 0x28
BLOB_CHUNK = 0x29
BLOB_STATE = 0x2A
CREDENTIAL = 0x30
CREDENTIAL_STATE = 0x31
RELAY = 0x38
OPTIONAL = 0x80

# Streams; the lower number leaves first (docs/protocol.md section 5).
CONTROL = 0
COMMANDS = 1
EVENTS = 2
TELEMETRY = 3
LOGS = 4
BLOBS = 5

STREAM_MASK = 0x0F
SEQUENCED = 0x10
MORE = 0x20
