"""Bodies of commands, configuration and the device's log, as a device writes and reads them.

    CALL          JSON  [id, name, args, expires_ms, boot]
    RESULT        JSON  [id, status, value]
    CONFIG        JSON  [version, document]
    CONFIG_STATE  JSON  [version, state, value]
    LOG           JSON  [base_ms, boot, [[dt_ms, level, text], ...]]

Decoders raise ProtocolError only, whatever the bytes. What a device sends is read by the back-end
alone (fleetnet_server/core/bodies.py). Source: docs/protocol.md sections 3.3 to 3.5.
"""

import json

from fleetnet import limits
from fleetnet.errors import ProtocolError
from fleetnet.readings import encode_value

# Status of RESULT.
OK = "ok"
ERROR = "error"
UNKNOWN = "unknown"
BUSY = "busy"
EXPIRED = "expired"

# State of CONFIG_STATE.
APPLIED = "applied"
REJECTED = "rejected"

LEVELS = ("debug", "info", "warning", "error", "critical")

MAX_ID = 32
MAX_NAME = 64

# A result, a set of arguments or a configuration: parsed, it takes several times as much.
MAX_VALUE = 16384
_MAX_DEPTH = 32
_MAX_TIME_MS = 1 << 53


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def encode_json(value: object) -> str:
    """Return compact JSON.

    Raises:
        ValueError: not JSON (NaN, bytes, an object), nested deeper than 32, or larger than
            MAX_VALUE. MicroPython's json would write anything.
    """
    _check(value, _MAX_DEPTH)
    text = encode_value(value)
    if len(text.encode()) > MAX_VALUE:
        raise ValueError(
            "value of %d B, limit %d B: send it as a blob" % (len(text.encode()), MAX_VALUE)
        )
    return text


def _check(value: object, depth: int) -> None:
    if isinstance(value, (list, tuple, dict)):
        if not depth:
            raise ValueError("value is nested deeper than %d" % _MAX_DEPTH)
        if isinstance(value, dict):
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise ValueError("%r is no key of a JSON object" % (key,))
                _check(inner, depth - 1)
        else:
            for inner in value:
                _check(inner, depth - 1)
    elif isinstance(value, float):
        encode_value(value)
    elif value is not None and not isinstance(value, (bool, int, str)):
        raise ValueError("%s is no JSON value" % type(value).__name__)


def encode_call(
    command_id: str, name: str, args: object, expires_ms: int, boot: int = 0
) -> bytes:
    """Return the body of CALL.

    Args:
        args: object (keyword arguments) or list (positional ones).
        expires_ms: unix ms after which the device must not begin it.
        boot: boot of the device that got it first; 0: it was never sent before.

    Raises:
        ValueError: see encode_json.
    """
    head = "[%s,%s," % (json.dumps(command_id), json.dumps(name))
    return ("%s%s,%d,%d]" % (head, encode_json(args), expires_ms, boot)).encode()


def decode_call(payload: bytes) -> "tuple[str, str, Any, int, int]":
    """Return (id, name, args, expires_ms, boot) of CALL. Raises ProtocolError."""
    body = _load(payload, "CALL", 4)
    command_id, name, args, expires_ms = body[:4]
    boot = body[4] if len(body) > 4 else 0
    if not (_is_text(command_id, MAX_ID) and _is_text(name, MAX_NAME)):
        raise ProtocolError("CALL: id or name is not what it should be")
    if not isinstance(args, (list, dict)):
        raise ProtocolError("CALL: args are neither object nor list")
    if not (_is_number(expires_ms, _MAX_TIME_MS) and _is_number(boot, 0xFFFFFFFF)):
        raise ProtocolError("CALL: expiry or boot is out of range")
    return command_id, name, args, expires_ms, boot


def encode_result(command_id: str, status: str, value: object = None) -> bytes:
    """Return the body of RESULT. Raises ValueError, see encode_json."""
    return ('[%s,"%s",%s]' % (json.dumps(command_id), status, encode_json(value))).encode()


def encode_config(version: int, document: "dict[str, Any]") -> bytes:
    """Return the body of CONFIG. Raises ValueError, see encode_json."""
    return ("[%d,%s]" % (version, encode_json(document))).encode()


def decode_config(payload: bytes) -> "tuple[int, dict[str, Any]]":
    """Return (version, document) of CONFIG. Raises ProtocolError."""
    version, document = _load(payload, "CONFIG", 2)[:2]
    if not _is_number(version, limits.MAX_SEQUENCE) or not version:
        raise ProtocolError("CONFIG: version is out of range")
    if not isinstance(document, dict):
        raise ProtocolError("CONFIG: the document is no object")
    return version, document


def encode_config_state(version: int, state: str, value: object) -> bytes:
    """Return the body of CONFIG_STATE. Raises ValueError, see encode_json."""
    return ('[%d,"%s",%s]' % (version, state, encode_json(value))).encode()


def encode_log(base_ms: int, boot: int, lines: "list[tuple[int, str, str]]") -> bytes:
    """Return the body of LOG; ``lines`` are (dt_ms, level, text)."""
    items = [
        '[%d,"%s",%s]' % (dt_ms, level, json.dumps(text[: limits.MAX_TEXT]))
        for dt_ms, level, text in lines
    ]
    return ("[%d,%d,[%s]]" % (base_ms, boot, ",".join(items))).encode()


def _load(payload: bytes, what: str, least: int) -> "list[Any]":
    """Parse a JSON list of ``least`` elements or more; later versions may add some."""
    if len(payload) > limits.MAX_MESSAGE:
        raise ProtocolError("%s of %d B" % (what, len(payload)))
    try:
        body = json.loads(payload)
    except (ValueError, RuntimeError):  # RuntimeError: nested too deep
        raise ProtocolError("%s is not JSON" % what)
    if not isinstance(body, list) or len(body) < least:
        raise ProtocolError("%s is no list of %d" % (what, least))
    return body


def _is_text(value: object, most: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= most


def _is_number(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
