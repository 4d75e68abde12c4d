"""Messages and their readings as rows of COPY BINARY (PostgreSQL, COPY, "Binary Format").

Called with what inspect_body found good. A reading costs about 1 us (CPython 3.11).
"""

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Any, NamedTuple

import msgspec

from fleetnet.frame import OPTIONAL, RAW, READINGS
from fleetnet_server.core.bodies import Message, decode_raw_untrusted, decode_readings
from fleetnet_server.store.query import decode_value
from fleetnet_server.store.retention import as_number

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

COPY_MESSAGES = (
    "COPY messages(device, epoch, seq, t0, t1, received, stream, kind, boot, problem, body)"
    " FROM STDIN (FORMAT BINARY)"
)
COPY_READINGS = (
    "COPY readings(t, epoch, seq, number, series, stream, place, value) FROM STDIN (FORMAT BINARY)"
)

# Each field is its length and its bytes; a length of -1 is NULL.
_NULL = -1
_NULL_FIELD = b"\xff\xff\xff\xff"
_length = Struct("!i").pack
_dated = Struct("!hiqiqiqiqiqiqiiiii").pack
_undated = Struct("!hiqiqiqiiiqiiiiiq").pack
_number = Struct("!hiqiqiqidiiihihi").pack
_other = Struct("!hiqiqiqiiiihihi").pack

# Readings of a block: 160 KiB of numbers, 1 to 2 ms of this process.
_BLOCK = 2000

# Above this a double has no place for every integer.
_EXACT = 1 << 53

# PostgreSQL's text cannot hold NUL, which JSON can: the symbol for it stands in.
_NUL, _SYMBOL = "\0", "\u2400"

_decode = msgspec.json.Decoder(tuple[int, int, list[str], list[tuple[int, int, Any]]]).decode
_encode = msgspec.json.encode
_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode
_integer = msgspec.json.Decoder(int).decode


class Expanded(NamedTuple):
    """The readings of a message: ``items`` are (channel index, dt_ms, value or Raw)."""

    message: Message
    base_ms: int
    channels: list[str]
    items: list[tuple[int, int, Any]]
    is_raw: bool


def expand(message: Message) -> Expanded | None:
    """Decode a dated message's readings; None: it has none to show, or waits for its date."""
    if message.kind & ~OPTIONAL != READINGS or message.problem is not None or message.t0 is None:
        return None
    is_raw = False
    try:
        base_ms, boot, channels, items = _decode(message.body)
    except (msgspec.MsgspecError, ValueError):
        # A number beyond what this decoder takes.
        is_raw = True
        base_ms, boot, channels, items = decode_readings(message.body)
    if boot:
        # The offset that this message was dated with; see store/query.py.
        base_ms = message.t0 - min((item[1] for item in items), default=0)
    return Expanded(message, base_ms, [as_text(name) for name in channels], items, is_raw)


def as_text(text: str) -> str:
    """Return what PostgreSQL can keep of a text."""
    return text.replace(_NUL, _SYMBOL) if _NUL in text else text


def boot_of(kind: int, body: str | bytes) -> int:
    """Return the boot that a message without a date is of; inspect_body found it good."""
    if kind & ~OPTIONAL == RAW:
        return decode_raw_untrusted(body.encode() if isinstance(body, str) else body).boot
    return _integer(_parts(body)[1])


def message_rows(messages: Iterable[Message]) -> bytes:
    """Return rows for COPY_MESSAGES."""
    parts = [HEADER]
    for device, epoch, stream, seq, kind, t0, t1, received, body, problem in messages:
        if t0 is None or t1 is None:
            head = _undated(11, 8, device, 8, epoch, 8, seq, _NULL, _NULL, 8, received,
                            4, stream, 4, kind, 8, boot_of(kind, body))  # fmt: skip
        else:
            head = _dated(11, 8, device, 8, epoch, 8, seq, 8, t0, 8, t1, 8, received,
                          4, stream, 4, kind, _NULL)  # fmt: skip
        data = body.encode() if isinstance(body, str) else body
        parts += (head, _NULL_FIELD if problem is None else _text(problem),
                  _length(len(data)), data)  # fmt: skip
    parts.append(TRAILER)
    return b"".join(parts)


def reading_rows(found: Iterable[Expanded], numbers: dict[tuple[int, str], int]) -> bytes:
    """Return rows for COPY_READINGS.

    Args:
        numbers: of the series (device, channel).
    """
    return b"".join(reading_blocks(found, numbers))


def reading_blocks(
    found: Iterable[Expanded], numbers: dict[tuple[int, str], int]
) -> Iterator[bytes]:
    """Yield what ``reading_rows`` returns in blocks: the server stores one beside the next."""
    parts = [HEADER]
    for (device, epoch, stream, seq, *_), base_ms, channels, items, is_raw in found:
        if len(parts) > _BLOCK:
            yield b"".join(parts)
            parts.clear()
        series = [numbers[device, channel] for channel in channels]
        for place, (index, dt_ms, value) in enumerate(items):
            t = base_ms + dt_ms
            if type(value) is float and not value.is_integer():
                parts.append(_number(8, 8, t, 8, epoch, 8, seq, 8, value, 4, series[index],
                                     2, stream, 2, place, _NULL))  # fmt: skip
            elif type(value) is int and -_EXACT <= value <= _EXACT:
                parts.append(_number(8, 8, t, 8, epoch, 8, seq, 8, value, 4, series[index],
                                     2, stream, 2, place, _NULL))  # fmt: skip
            else:
                number, data = _split(value, is_raw)
                if number is None:
                    head = _other(8, 8, t, 8, epoch, 8, seq, _NULL, 4, series[index],
                                  2, stream, 2, place, len(data))  # fmt: skip
                else:
                    head = _number(8, 8, t, 8, epoch, 8, seq, 8, number, 4, series[index],
                                   2, stream, 2, place, len(data))  # fmt: skip
                parts += (head, data)
    parts.append(TRAILER)
    yield b"".join(parts)


def _split(value: Any, is_raw: bool) -> tuple[float | None, bytes]:
    """Return the columns ``number`` and ``value`` of what is not a plain number."""
    if is_raw:
        return as_number(decode_value(value)), bytes(value)
    return as_number(value), _encode(value)


def _text(text: str) -> bytes:
    data = as_text(text).encode(errors="replace")
    return _length(len(data)) + data
