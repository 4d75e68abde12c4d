"""The MQTT 3.1.1 packets that a publisher needs (OASIS MQTT 3.1.1, sections 2 and 3)."""

PUBACK = 0x40
CONNACK = 0x20
PINGREQ = b"\xc0\x00"
PINGRESP = 0xD0


def _remaining(length: int) -> bytes:
    """Return the remaining length: 7 bits a byte, low first (section 2.2.3)."""
    out = bytearray()
    while True:
        length, low = divmod(length, 128)
        out.append(low | 0x80 if length else low)
        if not length:
            return bytes(out)


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def connect(client: str) -> bytes:
    """Return CONNECT with a clean session and a keepalive of 60 s."""
    body = _text("MQTT") + bytes((4, 2, 0, 60)) + _text(client)
    return b"\x10" + _remaining(len(body)) + body


def publish_parts(topic: str, payload: bytes) -> tuple[bytes, bytes]:
    """Return what comes before and behind the packet identifier of a QoS 1 PUBLISH."""
    head = _text(topic)
    size = len(head) + 2 + len(payload)
    return b"\x32" + _remaining(size) + head, payload


def count_acknowledged(data: bytes) -> tuple[int, bytes]:
    """Count the PUBACKs (4 B each) in what the broker said; return what is left over."""
    count = at = 0
    while at + 4 <= len(data):
        if data[at] != PUBACK:
            raise RuntimeError(f"the broker said 0x{data[at]:02x} where PUBACK was due")
        count += 1
        at += 4
    return count, data[at:]
