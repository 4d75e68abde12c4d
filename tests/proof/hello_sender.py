"""The attacker of hello_flood.py, in a process and a namespace of its own.

    python hello_sender.py flood COUNT PER_SECOND HOST PORT     from forged sources, raw socket
    python hello_sender.py junk COUNT PER_SECOND HOST PORT      0 to 24 B, and random datagrams
    python hello_sender.py honest COUNT HOST PORT BUNDLE LINK   whole handshakes, one by one

Prints JSON: {"sent", "bytes", "seconds"} or {"times": [seconds]}.
"""

import json
import os
import random
import select
import socket
import struct
import sys
import time

_SLICE_S = 0.01
# An honest handshake that takes longer is taken to have failed.
PATIENCE_S = 5.0


def hello(dice: random.Random) -> bytes:
    """A DTLS 1.2 ClientHello without a cookie (RFC 6347 section 4.2.1), as OpenSSL's begins."""
    suites = struct.pack("!HHHH", 6, 0xC02B, 0xC02C, 0x00FF)
    extensions = bytes.fromhex("000a00040002 0017 000b00020100 000d000400020403".replace(" ", ""))
    body = b"\xfe\xfd" + dice.randbytes(32) + b"\0" + b"\0" + suites + b"\x01\0"
    body += struct.pack("!H", len(extensions)) + extensions
    size = len(body).to_bytes(3, "big")
    message = b"\x01" + size + b"\0\0" + b"\0\0\0" + size + body
    return b"\x16\xfe\xff" + bytes(8) + struct.pack("!H", len(message)) + message


def datagram(data: bytes, source: bytes, port: int, target: bytes, number: int) -> bytes:
    """An IPv4 packet with UDP in it; both checksums are the kernel's or none (RFC 768)."""
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 0, 0, 64, 17, 0, source, target
    )
    return header + struct.pack("!HHHH", port, number, 8 + len(data), 0) + data


def paced(count: int, per_second: int) -> "list[int]":
    """How many to send in each slice of time."""
    each = max(1, int(per_second * _SLICE_S))
    return [min(each, count - done) for done in range(0, count, each)]


def flood(count: int, per_second: int, host: str, number: int) -> dict[str, float]:
    dice = random.Random(9)
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    target = socket.inet_aton(host)
    sent = 0
    began = time.monotonic()
    for slice_, some in enumerate(paced(count, per_second)):
        for _ in range(some):
            source = bytes((11, dice.randrange(256), dice.randrange(256), dice.randrange(1, 255)))
            packet = datagram(hello(dice), source, dice.randrange(1024, 65_000), target, number)
            sent += sock.sendto(packet, (host, 0))
        time.sleep(max(0.0, began + (slice_ + 1) * _SLICE_S - time.monotonic()))
    return {"sent": count, "bytes": sent, "seconds": time.monotonic() - began}


def junk(count: int, per_second: int, host: str, number: int) -> dict[str, float]:
    dice = random.Random(11)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sent = 0
    began = time.monotonic()
    for slice_, some in enumerate(paced(count, per_second)):
        for index in range(some):
            kind = index % 4
            data = dice.randbytes(dice.randrange(25) if kind < 2 else dice.randrange(25, 1400))
            if kind == 2:  # looks like a record, of each type in turn
                data = bytes((20 + index // 4 % 5, 254, 253)) + data[3:]
            elif kind == 3:
                data = hello(dice)[: dice.randrange(90)]
            sent += sock.sendto(data, (host, number))
        time.sleep(max(0.0, began + (slice_ + 1) * _SLICE_S - time.monotonic()))
    return {"sent": count, "bytes": sent, "seconds": time.monotonic() - began}


def honest(count: int, host: str, number: int, bundle: str, link: str) -> dict[str, list[float]]:
    """Whole handshakes of a device, each with a session of its own."""
    from fleetnet_server.bench.links import SecureSocket, device_context

    names = ("ca.der", "cert.der", "key.der")
    context = device_context(*(os.path.join(bundle, name) for name in names), link)
    times = []
    for _ in range(count):
        began = time.monotonic()
        one = SecureSocket(context, host, number)
        while not one.handshake() and time.monotonic() - began < PATIENCE_S:
            if not select.select([one.sock], [], [], 1.0)[0]:
                if one.datagram:
                    one.ssl.handle_timeout()
        times.append(time.monotonic() - began)
        one.close()
        time.sleep(0.01)
    return {"times": times}


def main(what: str, *words: str) -> None:
    if what == "honest":
        found: object = honest(int(words[0]), words[1], int(words[2]), words[3], words[4])
    else:
        work = {"flood": flood, "junk": junk}[what]
        found = work(int(words[0]), int(words[1]), words[2], int(words[3]))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
