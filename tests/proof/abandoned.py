"""DTLS handshakes that prove their address and then fall silent: what stays of them?

    python tests/proof/abandoned.py [--count 5000] [--quick] [--json FILE]

The product's DTLS listener in a process of its own. Clients fetch a cookie, come back with it
(flight 3 of RFC 6347 section 4.2.4, from which on a server has state and has sent its
certificate), and are never heard of again: half of them from 20 addresses, so that one address
has many, half from an address each. Meanwhile and afterwards honest devices connect.

Expected: never more handshakes under way than max_handshakes; none, no timer and no place at the
door a little behind the deadline; an honest device gets in while it rages (it has to displace
the greediest address) and afterwards. The control is a server with no deadline.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from fleetnet.ports.openssl_context import Context, client_context
from fleetnet.ports.openssl_object import SslObject
from fleetnet_server.bench.links import SecureSocket, connect_all
from pki import Pki, make_pki
from proof.verdict import Row, arguments, finish

PROGRAM = Path(__file__).with_name("abandoned_server.py")
HONEST = 10
CROWDED = 20  # addresses that have half of the clients
AT_ONCE = 100
DATAGRAM = 2048
# Behind the deadline: OpenSSL's own timer may be due earlier, and looks again then.
GRACE_S = 30.0


class Plan(NamedTuple):
    count: int
    cap: int
    timeout_s: float


class Outcome(NamedTuple):
    """``peak``: most handshakes at once; ``left``: handshakes, timers and places at the end."""

    peak: int
    during_s: float
    left: tuple[int, int, int]
    after_s: float
    swept_s: float
    kib: tuple[int, int, int]


class Server:
    """The process of abandoned_server.py."""

    def __init__(self, folder: Path, plan: Plan, keep: bool):
        words = [str(folder), str(plan.cap), str(plan.timeout_s), *(["keep"] if keep else [])]
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.port: int = self._line()["port"]

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def look(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._line()

    def close(self) -> None:
        self._process.communicate("", timeout=30)


def source_of(number: int, count: int) -> str:
    """An address of the loopback network: the first half share CROWDED of them."""
    if number < count // 2:
        return f"127.1.0.{1 + number % CROWDED}"
    return f"127.2.{number // 250}.{1 + number % 250}"


def abandon(sources: list[str], port: int, context: Context) -> list[socket.socket]:
    """Prove each address, send the hello with its cookie, and go; the ports stay taken."""
    clients = []
    for host in sources:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((host, 0))
        sock.connect(("127.0.0.1", port))
        sock.settimeout(0.5)
        ssl = SslObject(context, "localhost")
        ssl.handshake()
        [hello] = ssl.datagrams(1200)
        sock.send(hello)
        clients.append((sock, ssl, hello))
    for sock, ssl, hello in clients:
        ssl.feed(_answer(sock, hello))
        ssl.handshake()
        for datagram in ssl.datagrams(1200):
            sock.send(datagram)
        ssl.free()
    return [sock for sock, _, _ in clients]


def _answer(sock: socket.socket, hello: bytes) -> bytes:
    """Receive the cookie; UDP may lose it on the loopback interface too."""
    for _ in range(20):
        try:
            return sock.recv(DATAGRAM)
        except TimeoutError:
            sock.send(hello)
    raise RuntimeError("the server sends no cookie")


def connect_honest(port: int, context: Context) -> float:
    """Connect HONEST devices, one after the other; return how long the slowest took."""
    slowest = 0.0
    links: list[SecureSocket] = []
    for _ in range(HONEST):
        began = time.monotonic()
        links += connect_all([context], port)
        slowest = max(slowest, time.monotonic() - began)
    for link in links:
        link.close()
    return slowest


def left_of(found: dict[str, Any]) -> tuple[int, int, int]:
    return found["half_open"], found["timers"], found["places"]


def run(folder: Path, pki: Pki, plan: Plan, keep: bool = False) -> Outcome:
    context = client_context(pki.ca.certificate, *pki.device, datagram=True)
    server = Server(folder, plan, keep)
    sockets: list[socket.socket] = []
    during_s = 0.0
    try:
        connect_honest(server.port, context)
        before = server.look()["private_kib"]
        for start in range(0, plan.count, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, plan.count))
            sources = [source_of(number, plan.count) for number in numbers]
            sockets += abandon(sources, server.port, context)
            if start in (plan.count // 4, plan.count // 2 - AT_ONCE) and not keep:
                during_s = max(during_s, connect_honest(server.port, context))
        last = time.monotonic()
        full = server.look()
        patience_s = plan.timeout_s + (2 if keep else GRACE_S)
        found = server.look()
        while any(left_of(found)) and time.monotonic() < last + patience_s:
            time.sleep(0.1)
            found = server.look()
        swept_s = time.monotonic() - last
        after_s = 0.0 if keep else connect_honest(server.port, context)
    finally:
        for sock in sockets:
            sock.close()
        server.close()
    kib = (before, full["private_kib"], found["private_kib"])
    return Outcome(found["peak"], during_s, left_of(found), after_s, swept_s, kib)


def row_of(plan: Plan, found: Outcome, control: Outcome) -> Row:
    passed = 0 < found.peak <= plan.cap and found.left == (0, 0, 0)
    honest = max(found.during_s, found.after_s)
    return Row(
        "10",
        f"{plan.count} DTLS handshakes with a valid cookie, abandoned behind flight 3",
        f"{plan.cap} under way at most, none after {plan.timeout_s:g} s, honest devices get in",
        f"peak {found.peak}, left {found.left[0]} (timers {found.left[1]}, places {found.left[2]}) "
        f"{found.swept_s:.1f} s behind the last; slowest of {HONEST} honest handshakes "
        f"{honest:.2f} s; memory {found.kib[0]} -> {found.kib[1]} -> {found.kib[2]} KiB",
        passed and honest < plan.timeout_s,
        f"without a deadline {control.left[0]} are left",
        control.left[0] > 0,
    )


def main(words: list[str]) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, default=5000)
    options = parser.parse_args(words)
    plan = Plan(options.count, 1000, 10.0)
    if options.quick:
        plan = Plan(min(options.count, 1000), 200, 3.0)
    pki = make_pki()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, data in zip(
            ("ca.der", "cert.der", "key.der"), (pki.ca.certificate, *pki.server), strict=False
        ):
            (folder / name).write_bytes(data)
        found = run(folder, pki, plan)
        few = plan._replace(count=AT_ONCE)
        control = run(folder, pki, few, keep=True)
    return finish([row_of(plan, found, control)], options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
