"""Messages as the server keeps them, and the inspection of their bodies.

Called once for each message, between a device's session and the store's writer: it decodes
the types with msgspec, leaves the values as they are, and finds the first and the last
time. A body that breaks the rules is kept with the reason, so that a device never resends
it for ever.

Source: docs/protocol.md sections 3.2 to 3.5 (layouts in fleetnet/readings.py and
fleetnet/commands.py).
"""

import re
from collections.abc import Callable, Container, Iterable
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import msgspec

from fleetnet.errors import ProtocolError
from fleetnet.frame import CONFIG_STATE, EVENT, LOG, OPTIONAL, RAW, READINGS, RESULT
from fleetnet.limits import MAX_SEQUENCE
from fleetnet.varint import take_varint

# How a problem begins that a policy made, not the body.
POLICY = "policy: "

MAX_TIME_MS = 1 << 53  # what a JSON number carries exactly
MAX_CHANNEL = 64  # characters
# SQLite refuses JSON nested deeper than 1,000 and Python's decoder soon after; one such
# body would make every query over the whole table fail.
MAX_DEPTH = 64
# Deeper ones have 65 brackets on either side, and are in a body of 16 B and more.
_SHALLOW = 2 * (MAX_DEPTH + 1) + 16
_TIME_BYTES = 8  # a varint of 53 bits

_Time = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME_MS)]
_Boot = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CHANNEL)]
_Reading = tuple[_Time, _Time, msgspec.Raw]

_decode_readings = msgspec.json.Decoder(tuple[_Time, _Boot, list[_Name], list[_Reading]]).decode
_decode_event = msgspec.json.Decoder(tuple[_Time, _Boot, _Name, msgspec.Raw]).decode
_Level = Literal["debug", "info", "warning", "error", "critical"]
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
_Status = Literal["ok", "error", "unknown", "busy", "expired"]
_Version = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQUENCE)]
_State = Literal["applied", "rejected"]

_decode_log = msgspec.json.Decoder(tuple[_Time, _Boot, list[tuple[_Time, _Level, str]]]).decode
_decode_result = msgspec.json.Decoder(tuple[_Id, _Status, msgspec.Raw]).decode
_decode_failure = msgspec.json.Decoder(tuple[str, str]).decode
_decode_state = msgspec.json.Decoder(tuple[_Version, _State, msgspec.Raw]).decode

_NOT_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\[\]{}]')


class Message(NamedTuple):
    """One message, the unit of storage and of duplicate suppression.

    The key is (epoch_id, stream, seq). Times are unix ms. ``t0`` and ``t1`` are the first
    and last time in the body; both are None while the boot that dates it is unknown, and
    both are ``received`` when the body carries no time or is unreadable. ``body`` is text
    for JSON and bytes for everything else. ``problem`` is None for a body that is as
    docs/protocol.md says.
    """

    device_id: int
    epoch_id: int
    stream: int
    seq: int
    kind: int
    t0: int | None
    t1: int | None
    received: int
    body: str | bytes
    problem: str | None = None


class Inspected(NamedTuple):
    """The fields of Message that come out of a body."""

    t0: int | None
    t1: int | None
    problem: str | None
    body: str | bytes


# As NamedTuple's own, without its Python function: on the hot path that is a third.
_new = tuple.__new__


def new_message(*fields: Any) -> Message:
    """Return the Message with these fields, in their order."""
    return _new(Message, fields)


class Tally(Protocol):
    """Counts the readings of good bodies."""

    readings: int


_Offset = Callable[[int], int | None]
_Allowed = Container[str] | None


class RawBody(NamedTuple):
    """A decoded RAW body; ``content_format`` is IANA's CoAP number (RFC 7252 section 12.3)."""

    content_format: int
    channel: str
    base_ms: int
    boot: int
    data: bytes


def inspect_body(
    kind: int,
    body: bytes,
    offset_of_boot: _Offset,
    received_ms: int,
    allowed: _Allowed = None,
    tally: Tally | None = None,
) -> Inspected:
    """Check a body and date it.

    Args:
        kind: frame kind; the optional bit is ignored. Kinds that _LAYOUTS does not know are
            kept as bytes, dated by their arrival.
        body: as it left the session, 0 to 65,536 bytes.
        offset_of_boot: unix ms minus uptime ms of a boot of this device, None when unknown.
        received_ms: unix ms of arrival.
        allowed: channels and names of events that its device may use; None: any.
        tally: counts the readings.

    Raises nothing that depends on ``body``.

    Cost: about 1 us for one reading of 100 B, 4 us for 20 (CPython 3.11).
    """
    inspect = _INSPECTORS.get(kind & ~OPTIONAL)
    if inspect is None:
        return Inspected(received_ms, received_ms, None, body)
    try:
        return inspect(body, offset_of_boot, received_ms, allowed, tally)
    except (msgspec.MsgspecError, ProtocolError, UnicodeDecodeError, _TooDeep, _Forbidden) as error:
        return Inspected(received_ms, received_ms, str(error) or "unreadable", body)
    except RecursionError:
        return Inspected(received_ms, received_ms, _TooDeep.TEXT, body)


def decode_raw_untrusted(body: bytes) -> RawBody:
    """Decode a RAW body.

    Raises:
        ProtocolError: cut off, a channel that is empty, longer than 64 characters or not
            UTF-8, or a time above 2**53 ms. Nothing else.
    """
    content_format, at = take_varint(body, 0)
    size, at = take_varint(body, at)
    end = at + size
    if end > len(body):
        raise ProtocolError("channel is cut off")
    try:
        channel = body[at:end].decode()
    except UnicodeDecodeError:
        raise ProtocolError("channel is not UTF-8") from None
    if not 0 < len(channel) <= MAX_CHANNEL:
        raise ProtocolError(f"channel has {len(channel)} characters, allowed: 1 to {MAX_CHANNEL}")
    base_ms, at = take_varint(body, end, _TIME_BYTES)
    boot, at = take_varint(body, at)
    if base_ms > MAX_TIME_MS or boot > 0xFFFFFFFF:
        raise ProtocolError("time or boot is out of range")
    return RawBody(content_format, channel, base_ms, boot, body[at:])


class DecodedReadings(NamedTuple):
    """A READINGS body: items are (channel index, dt_ms, value as JSON)."""

    base_ms: int
    boot: int
    channels: list[str]
    items: list[tuple[int, int, Any]]


def decode_readings(body: str | bytes) -> DecodedReadings:
    """Decode a READINGS body that inspect_body found good; values stay msgspec.Raw.

    Raises:
        msgspec.MsgspecError: the body is not one.
    """
    return DecodedReadings(*_decode_readings(body))


class Answer(NamedTuple):
    """A RESULT (key: the command's id) or CONFIG_STATE (key: the version).

    ``value`` is JSON; of a RESULT with status "error" it is [type, message].
    """

    key: str | int
    status: str
    value: str


def decode_answer(kind: int, body: str | bytes) -> Answer:
    """Decode RESULT or CONFIG_STATE.

    Raises:
        msgspec.MsgspecError, ValueError: the body is not one.
    """
    decode = _decode_result if kind & ~OPTIONAL == RESULT else _decode_state
    key, status, raw = decode(body)
    value = bytes(raw)
    _check_depth(value)
    if status == "error":
        _decode_failure(value)
    return Answer(key, status, value.decode())


def decode_log(body: str | bytes) -> tuple[int, int, list[tuple[int, str, str]]]:
    """Decode a LOG body that inspect_body found good: base_ms, boot, (dt_ms, level, text).

    Raises:
        msgspec.MsgspecError: the body is not one.
    """
    return _decode_log(body)  # type: ignore[return-value]


def decode_event(body: str | bytes) -> tuple[int, int, str, Any]:
    """Decode an EVENT body that inspect_body found good: base_ms, boot, name, value as JSON.

    Raises:
        msgspec.MsgspecError: the body is not one.
    """
    return _decode_event(body)


class _TooDeep(ValueError):
    TEXT = f"value is nested deeper than {MAX_DEPTH}"


class _Forbidden(ValueError):
    """The policy of the device's group."""


def _inspect_readings(
    body: bytes, offset_of_boot: _Offset, _ms: int, allowed: _Allowed, tally: Tally | None
) -> Inspected:
    base_ms, boot, channels, items = _decode_readings(body)
    if allowed is not None:
        _check_names(channels, allowed)
    if len(items) == 1:
        # The worst case of the hot path: nothing to compare.
        index, first, _value = items[0]
        last = first
    elif items:
        index = max(items, key=_index_of)[0]
        times = [item[1] for item in items]
        first = min(times)
        last = max(times)
    else:
        index = -1
        first = last = 0
    if index >= len(channels):
        raise ProtocolError(f"channel index {index}, but the body lists {len(channels)} channels")
    # Only bodies with many brackets are looked into; what is too short for them is not counted.
    if len(body) >= _SHALLOW and body.count(b"[") + body.count(b"{") - len(items) > MAX_DEPTH:
        for item in items:
            _check_depth(bytes(item[2]))
    if tally is not None:
        tally.readings += len(items)
    if boot:
        offset = offset_of_boot(boot)
        if offset is None:
            return Inspected(None, None, None, body.decode())
        base_ms += offset
    return _new(Inspected, (base_ms + first, base_ms + last, None, body.decode()))


def _inspect_raw(
    body: bytes, offset_of_boot: _Offset, _ms: int, allowed: _Allowed, *_: object
) -> Inspected:
    raw = decode_raw_untrusted(body)
    _check_names((raw.channel,), allowed)
    first = _date(raw.base_ms, raw.boot, offset_of_boot)
    return Inspected(first, first, None, body)


def _inspect_event(
    body: bytes, offset_of_boot: _Offset, _ms: int, allowed: _Allowed, *_: object
) -> Inspected:
    base_ms, boot, name, value = _decode_event(body)
    _check_names((name,), allowed)
    _check_depth(bytes(value))
    first = _date(base_ms, boot, offset_of_boot)
    return Inspected(first, first, None, body.decode())


def _inspect_log(body: bytes, offset_of_boot: _Offset, *_: object) -> Inspected:
    base_ms, boot, lines = _decode_log(body)
    first = _date(base_ms, boot, offset_of_boot)
    if first is None:
        return Inspected(None, None, None, body.decode())
    times = [line[0] for line in lines] or [0]
    return Inspected(first + min(times), first + max(times), None, body.decode())


def _inspect_answer(
    kind: int, body: bytes, _offset: _Offset, received_ms: int, *_: object
) -> Inspected:
    decode_answer(kind, body)
    return Inspected(received_ms, received_ms, None, body.decode())


def _index_of(item: tuple[int, int, Any]) -> int:
    return item[0]


def _check_depth(value: bytes) -> None:
    """Raise _TooDeep for valid JSON nested deeper than MAX_DEPTH."""
    if value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _NOT_STRUCTURE.sub(b"", value):
        if bracket in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise _TooDeep(_TooDeep.TEXT)
        else:
            depth -= 1


def _check_names(names: Iterable[str], allowed: _Allowed) -> None:
    """Raise _Forbidden for a name that is not allowed."""
    if allowed is not None:
        for name in names:
            if name not in allowed:
                raise _Forbidden(f"{POLICY}channel {name!r} is not allowed to its group")


def _date(base_ms: int, boot: int, offset_of_boot: _Offset) -> int | None:
    if not boot:
        return base_ms
    offset = offset_of_boot(boot)
    return None if offset is None else base_ms + offset


class _Layout(NamedTuple):
    """What is known of a kind's body.

    Attributes:
        inspect: checks and dates it; raises what inspect_body makes a problem of.
        is_text: a good one is kept as text, because it is JSON.
        is_data: what a device says by itself: stored for any device, and limited by the policy
            of its group. Other kinds are stored when a Service wants them.
    """

    inspect: Callable[[bytes, _Offset, int, _Allowed, Tally | None], Inspected]
    is_text: bool = True
    is_data: bool = False


# A message kind from a device has its row here.
_LAYOUTS = {
    READINGS: _Layout(_inspect_readings, is_data=True),
    RAW: _Layout(_inspect_raw, is_data=True, is_text=False),
    EVENT: _Layout(_inspect_event, is_data=True),
    LOG: _Layout(_inspect_log, is_data=True),
    RESULT: _Layout(partial(_inspect_answer, RESULT)),
    CONFIG_STATE: _Layout(partial(_inspect_answer, CONFIG_STATE)),
}
_INSPECTORS = {kind: layout.inspect for kind, layout in _LAYOUTS.items()}

DATA_KINDS = frozenset(kind for kind, layout in _LAYOUTS.items() if layout.is_data)
TEXT_KINDS = frozenset(kind for kind, layout in _LAYOUTS.items() if layout.is_text)
