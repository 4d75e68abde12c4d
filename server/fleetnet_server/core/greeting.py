"""What a device is told when its session begins."""

import os
from typing import TYPE_CHECKING

from fleetnet.handshake import Hello, Welcome

if TYPE_CHECKING:
    from fleetnet_server.core.sessions import Sessions

_SESSION_ID_BYTES = 8  # it tells sessions apart in logs, and proves nothing


def make_welcome(
    sessions: "Sessions", window: int, is_quarantined: bool, is_datagram: bool
) -> Welcome:
    """Return a WELCOME with all that is the server's to say; the session fills in the rest.

    Args:
        window: messages of each stream that may be under way; 0: none for now.
    """
    welcome = Welcome()
    welcome.session_id = os.urandom(_SESSION_ID_BYTES)
    welcome.window = window
    welcome.keepalive_ms = (
        sessions.datagram_keepalive_ms if is_datagram else sessions.keepalive_ms
    )
    welcome.ack_delay_ms = sessions.ack_delay_ms
    if not is_quarantined:
        welcome.capabilities = sessions.services.capabilities
    return welcome


def resume_points(
    sessions: "Sessions", device_id: int, hello: Hello, durable: dict[int, int]
) -> dict[int, int]:
    """Return stream -> sequence behind which a device goes on.

    Args:
        durable: stream -> last durable sequence, as the store says.

    A hub may still hold what is below the oldest message of the device itself: for a device
    that has one that is no gap, but comes later (docs/protocol.md section 15.3).
    """
    marks = dict(durable)
    if hello.streams and sessions.relays.has_hub(device_id):
        for stream, (oldest, _next) in hello.streams.items():
            marks[stream] = max(marks.get(stream, 0), oldest - 1)
    return marks
