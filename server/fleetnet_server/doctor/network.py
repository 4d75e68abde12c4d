"""The way to a server: name, TCP port, UDP port."""

import os
import select
import socket
import time

from fleetnet_server.doctor.findings import BAD, OK, WARN, Finding

_ANSWERS, _REFUSED, _SILENT = "answers", "refused", "silent"
_ASKS, _WAIT_S = 3, 0.7


def check_name(host: str) -> Finding:
    """Has the name an address?"""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        text = f"{host!r} has no address: {getattr(error, 'strerror', None) or error}"
        return Finding("name", BAD, text, "is it spelled right? Is the DNS server reachable?")
    addresses = dict.fromkeys(str(each[4][0]) for each in found)
    return Finding("name", OK, f"{host} is {', '.join(addresses)}")


def check_tcp(host: str, port: int, timeout_s: float = 10.0) -> Finding:
    """Does anybody accept TCP connections there?"""
    where = f"TCP port {port} of {host}"
    try:
        socket.create_connection((host, port), timeout_s).close()
    except ConnectionRefusedError:
        remedy = "start the server (`fleetnet serve`); are host and port right?"
        return Finding("tcp", BAD, f"{where} is closed: nobody listens", remedy)
    except TimeoutError:
        remedy = "open it in the firewalls on the way; is the address right?"
        return Finding("tcp", BAD, f"{where} does not answer: a firewall drops it", remedy)
    except OSError as error:
        remedy = "is the network up, is the address right?"
        return Finding("tcp", BAD, f"{where} cannot be reached: {error.strerror}", remedy)
    return Finding("tcp", OK, f"{where} is open")


def check_udp(host: str, port: int, is_needed: bool = True) -> Finding:
    """Does a DTLS server answer there? A datagram of 80 B is sent, and one of 60 B comes back.

    Args:
        is_needed: False: TLS would do as well, and the worst level is "warn".
    """
    where, level = f"UDP port {port} of {host}", BAD if is_needed else WARN
    state = probe(host, port)
    if state == _ANSWERS:
        return Finding("udp", OK, f"{where} speaks DTLS")
    if state == _REFUSED:
        remedy = "start the server (`fleetnet serve`); is the port right?"
        return Finding("udp", level, f"{where} is closed: nobody listens", remedy)
    remedy = "open it in the firewalls on the way, or use transport tls"
    text = f"{where} does not answer: UDP is blocked on the way, or no DTLS server is there"
    return Finding("udp", level, text, remedy)


def probe(host: str, port: int) -> str:
    """Send a ClientHello without cookie; return "answers", "refused" or "silent".

    The answer is a HelloVerifyRequest (RFC 6347 section 4.2.1), for which the server keeps no
    state.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    except (OSError, UnicodeError):
        return _SILENT
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(address)
            for _ in range(_ASKS):
                sock.send(_client_hello())
                deadline = time.monotonic() + _WAIT_S
                while select.select([sock], [], [], max(deadline - time.monotonic(), 0))[0]:
                    # A handshake record (22) or an alert (21): both are DTLS.
                    if sock.recv(2048)[:1] in (b"\x16", b"\x15"):
                        return _ANSWERS
        except ConnectionRefusedError:
            return _REFUSED
        except OSError:
            return _SILENT
    return _SILENT


def _client_hello() -> bytes:
    """Lay out a ClientHello of DTLS 1.2 (RFC 6347 sections 4.1 and 4.2.2; RFC 5246 7.4.1.2)."""
    # version, random, no session, no cookie, ECDHE-ECDSA-AES128-GCM-SHA256, no compression
    body = b"\xfe\xfd" + os.urandom(32) + b"\0\0\0\2\xc0\x2b\1\0"
    size = len(body).to_bytes(3)
    message = b"\1" + size + b"\0\0" + b"\0\0\0" + size + body
    return b"\x16\xfe\xfd" + bytes(8) + len(message).to_bytes(2) + message
