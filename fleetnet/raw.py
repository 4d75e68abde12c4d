"""Body of RAW: bytes of any format as a reading; loaded by the first of them.

    RAW   varint content format, varint n, n bytes channel (UTF-8),
          varint base_ms, varint boot, then the bytes

``base_ms`` and ``boot``: see readings.py. Source: docs/protocol.md section 3.2.
"""

from fleetnet.readings import OCTET_STREAM
from fleetnet.varint import put_varint


def encode_raw(
    channel: str, data: bytes, time_ms: int, boot: int = 0, content_format: int = OCTET_STREAM
) -> bytes:
    """Return the body of RAW; ``data`` is copied once."""
    head = bytearray()
    name = channel.encode()
    put_varint(head, content_format)
    put_varint(head, len(name))
    head.extend(name)
    put_varint(head, time_ms)
    put_varint(head, boot)
    return bytes(head) + data
