"""Reason codes: BYE, REFUSE and ProtocolError share this table (docs/protocol.md section 9).

errors.py has them all, too. They are in a file of their own because a board hardly ever
imports it: its compiled files hold the numbers.
"""

NORMAL = 0
SHUTDOWN = 1
REPLACED = 2
IDLE = 3
PROTOCOL = 4
VERSION = 5
UNKNOWN_DEVICE = 6
DISABLED = 7
REVOKED = 8
NO_IDENTITY = 9
OVERLOADED = 10
LIMIT = 11
STORE_UNAVAILABLE = 12
UNKNOWN_KIND = 13
GOING_AWAY = 14
