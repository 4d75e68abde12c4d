"""Every ceiling of the device in one place, with its reason.

The protocol's are in fleetnet/limits.py; those of a hub and of a DTLS server on a device are
with them in fleetnet/. Boards pay nothing for these names: their build puts the numbers where
they are used. What a program may choose (Device's arguments) has its default here.
"""

from fleetnet.limits import MAX_MESSAGE

# -- memory ------------------------------------------------------------------------------

# Payloads of unacknowledged messages: a minute of 1 KB/s. Boards with a small heap say less.
OUTBOX_BYTES = 65536

# Each message costs an entry of eight words besides its payload.
OUTBOX_MESSAGES = 256

# Readings of one batch: about one datagram of them.
BATCH_READINGS = 64

# Each running command is a task and its handler's memory; each waiting one its arguments.
MAX_RUNNING = 4
MAX_WAITING = 8

# Commands that are remembered, and bytes of their results. The server has at most 8 commands
# of a device open: the answer to an older id was stored.
MAX_COMMAND_IDS = 32
MAX_RESULT_BYTES = 8192

# Lines of the log that wait for a session: 13 KB when all are of full length.
MAX_LOG_LINES = 64

# Lines of one message: those of full length still fit a few datagrams.
LOG_BATCH_LINES = 16

# Payloads of the flash are checked through a buffer of one sector.
SPOOL_PIECE = 512

# -- flash -------------------------------------------------------------------------------

# The spool: an hour of 70 B/s.
SPOOL_BYTES = 262_144

# One write: an erase block of most flash parts, so that a write wears one or two.
SPOOL_BLOCK = 4096

# Files of one spool, each with 8 small numbers in RAM.
MAX_SEGMENTS = 128

# Entries of the spool's head: with all of them it is 446 B, less than a sector.
MAX_BASES = 64
MAX_CUTS = 4

# Larger results are not kept on the flash: after a reboot it is known that they were there.
JOURNAL_LINE = 640

# The journal of commands is written anew above this: two erase blocks.
JOURNAL_BYTES = 8192

# A small file that is replaced as a whole: a configuration, which is a message, and its CRC.
SAVED_BYTES = MAX_MESSAGE + 9

# -- time --------------------------------------------------------------------------------

# Hashing gives the loop back after so many bytes: 1.5 ms at 10 MB/s.
HASH_BYTES = 16384

# A DTLS handshake that may fall back to TLS: three flights lost in a row.
DTLS_MS = 6_000

# The longest wait over TLS for another try of DTLS: four times a day.
MAX_RETURN_MS = 6 * 3_600_000

# The longest pause between attempts of our own choice: a device is back a minute after
# its server.
MAX_PAUSE_MS = 60_000

# WLAN or LAN: association and DHCP take 2 to 8 s; a lease from a slow router twice that.
NETWORK_UP_MS = 20_000

# Callbacks that wait longer than this reject a configuration.
APPLY_MS = 60_000

# Ticks compare over six days: no command is waited for longer.
MAX_COMMAND_MS = 500_000_000

# Ticks, too; nobody samples as rarely with a Sampler.
MAX_PERIOD_MS = 86_400_000

# A flash that failed, or is full, is asked again after this time at the latest.
MAX_SPOOL_RETRY_MS = 3_600_000

# The longest silence of a connection that works: the pause between attempts (60 s, 60 s
# more after a refusal), or two keepalives. The server may ask for more: ``progress``.
PATIENCE_MS = 180_000

# A clean stop waits so long for acknowledgements, and again for a connection being made.
STOP_MS = 3_000
