"""One question to an NTP server that does not block the loop (SNTP, RFC 4330).

Nobody authenticates the answer: it serves to check certificates for the first time where
the bundle holds no pins, and the session's own time replaces it. Resolving a host's name
does block on MicroPython; an IP address in ``ntp`` of config.json avoids that.
"""

import socket

from fleetnet.errors import Unreachable
from fleetnet.ports import port
from fleetnet.ticks import ticks_diff

_PORT = 123
_CLIENT = b"\x1b" + bytes(47)  # version 3, mode 3
_1900_TO_1970_S = 2_208_988_800
_ERA_S = 1 << 32
_POLL_MS = 20


async def ask(host: str, timeout_ms: int = 3_000, server_port: int = _PORT) -> int:
    """Return unix time in ms.

    Raises:
        Unreachable: no name, no route, or no good answer in time.
    """
    sock = None
    try:
        address = socket.getaddrinfo(host, server_port, 0, socket.SOCK_DGRAM)[0][-1]
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect(address)
        sock.send(_CLIENT)
        began = port.ticks()
        while ticks_diff(port.ticks(), began) < timeout_ms:
            await port.sleep_ms(_POLL_MS)
            try:
                answer = sock.recv(48)
            except OSError as error:
                if error.args[0] == 11:  # EAGAIN
                    continue
                raise
            unix_ms = _unix_ms(answer)
            if unix_ms:
                return unix_ms
    except OSError as error:
        raise Unreachable("no time from %s (%r): is UDP port 123 open?" % (host, error))
    finally:
        if sock is not None:
            sock.close()
    raise Unreachable("no time from %s in %d ms" % (host, timeout_ms))


def _unix_ms(answer: bytes) -> int:
    """Return the transmit time of an answer, 0 when it is none (RFC 4330 section 5)."""
    if len(answer) < 48 or answer[0] & 7 != 4 or not 0 < answer[1] < 16:
        return 0
    seconds = int.from_bytes(answer[40:44], "big")
    if seconds < 1 << 31:
        seconds += _ERA_S  # era 1 begins in 2036
    fraction_ms = int.from_bytes(answer[44:48], "big") * 1000 >> 32
    return (seconds - _1900_TO_1970_S) * 1000 + fraction_ms
