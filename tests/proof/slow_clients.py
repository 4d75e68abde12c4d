"""Clients that keep what they hold: 1,000 unfinished connections, and frames without an end.

    python tests/proof/slow_clients.py [--rows 20,22] [--connections 1000]

20: a third says nothing, a third begins a ClientHello, a third shakes hands with a good
certificate and stops within its first frame. Meanwhile 100 honest handshakes; every one of the
thousand has to be closed soon behind its deadline. Control: a server with a deadline of two
minutes.

22: frames that say they are 4 GiB, or 65,535 B, or whose header or message has no end, sent for
as long as the server takes them. Control: a server that keeps what it is sent.
"""

import asyncio
import contextlib
import select
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from fleetnet.errors import LIMIT, FleetError  # noqa: E402
from fleetnet.frame import BYE, READINGS, REFUSE, decode_frame, encode_frame  # noqa: E402
from fleetnet.handshake import decode_ending  # noqa: E402
from fleetnet_server.bench.links import LoadDevice, SecureSocket, device_context  # noqa: E402
from proof.lab import LabFleet, answer, rss_of, run_main  # noqa: E402
from proof.verdict import Row, arguments, finish, noticed  # noqa: E402

SENDER = Path(__file__).with_name("hello_sender.py")
HONEST = 100
HONEST_S = 2.0
DEADLINE_S = 4.0
# Of a link that shook hands, and does not greet: fleetnet/keepalive.py.
GREETING_S = 15.0
LATE_S = 3.0
MOST_RSS = 2 << 20
FROM = ("127.0.0.66", 0)
HELLO_BEGINS = b"\x16\x03\x01\x00\xc8\x01"
SOME = 1 << 16
MOST_SENT = 8 << 20


def ready(sock: socket.socket, seconds: float, what: int = select.POLLIN) -> bool:
    """Wait until a socket can be read or written (select() ends at the 1,024th descriptor)."""
    poller = select.poll()
    poller.register(sock, what)
    return bool(poller.poll(1000 * seconds))


def crowd(fleet: LabFleet, bundle: Path, count: int) -> list[socket.socket]:
    """Connect them all."""
    names = ("ca.der", "cert.der", "key.der")
    context = device_context(*(str(bundle / name) for name in names), "tls")
    found = []
    for number in range(count):
        if number % 3 < 2:
            sock = socket.create_connection(fleet.tls, 20, FROM)
            if number % 3:
                sock.send(HELLO_BEGINS)
        else:
            link = connected(fleet, context)
            link.ssl.write(b"\x01\x00\x7f")  # HELLO, 127 bytes, none of which will come
            link.transmit()
            sock = link.sock.dup()
            link.close()
        sock.setblocking(False)
        found.append(sock)
    return found


def connected(fleet: LabFleet, context: object) -> SecureSocket:
    """Shake hands over TLS; blocks. Raises FleetError, TimeoutError."""
    link = SecureSocket(context, *fleet.tls)  # type: ignore[arg-type]
    until = time.monotonic() + 20
    while not link.handshake():
        if time.monotonic() > until:
            raise TimeoutError("no handshake in 20 s")
        ready(link.sock, 0.5)
    return link


def is_over(sock: socket.socket) -> bool:
    """Whether the server has closed it; takes what it said before."""
    try:
        while sock.recv(4096):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


async def slowloris(place: Path, count: int, deadline_s: float) -> tuple[list[str], str]:
    """Return what must not be, and the figure."""
    fleet = LabFleet(place, handshake_timeout_s=deadline_s)
    crowded, honest = (fleet.add_device(name, "tls") for name in ("crowd", "honest"))
    socks: list[socket.socket] = []
    try:
        await fleet.start_server()
        socks = await asyncio.to_thread(crowd, fleet, crowded, count)
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(SENDER), "honest", str(HONEST), *map(str, fleet.tls),
            str(honest), "tls", stdout=asyncio.subprocess.PIPE, env=fleet.environment(),
        )  # fmt: skip
        times = (await answer(process))["times"]
        limit = began + max(DEADLINE_S, GREETING_S) + LATE_S
        left = socks
        while left and time.monotonic() < limit:
            await asyncio.sleep(0.1)
            left = [sock for sock in left if not is_over(sock)]
        took = time.monotonic() - began
    finally:
        for sock in socks:
            sock.close()
        await fleet.close()
    faults = [f"{len(left)} of {count} connections are still open after {took:.0f} s"] * bool(left)
    if sum(times) > HONEST_S:
        faults.append(f"{HONEST} honest handshakes took {sum(times):.1f} s")
    middle = 1e3 * statistics.median(times)
    return faults, (
        f"{HONEST} honest handshakes in {sum(times):.2f} s (median {middle:.0f} ms) beside "
        f"{count} others, the last of which was closed after {took:.1f} s"
    )


async def row_slow(place: Path, count: int) -> Row:
    """20."""
    (faults, figure), (seen, _) = await asyncio.gather(
        slowloris(place / "good", count, DEADLINE_S), slowloris(place / "bad", 60, 120.0)
    )
    return Row(
        "20", f"{count} connections: silent, in a ClientHello, in a frame",
        f"{HONEST} honest handshakes within {HONEST_S:g} s; all closed behind their deadline of "
        f"{DEADLINE_S:g} s (greeting: {GREETING_S:g} s)", "; ".join([figure, *faults]),
        not faults, f"a deadline of two minutes: {'; '.join(seen)}",
        noticed(seen, "connections are still open"),
    )  # fmt: skip


# -- 22 ------------------------------------------------------------------------------------------

CASES = {
    "says 4 GiB": b"\x10\x00\x8f\xff\xff\xff\x7f",
    "says 65,535 B": b"\x10\x00\x83\xff\x7f",
    "a header without an end": b"\x10\x13" + b"\x80" * 64,
}


# Times before memory is compared: pages of the store and arenas of malloc are made once, and the
# newest 1,024 events are kept. Memory grew by 75 KiB a time until then, and hardly behind it.
_WARM_UP = 70


def send_on(link: SecureSocket, begin: bytes) -> tuple[int, int]:
    """Send a frame's begin, then bytes while the server takes them; return how many, and its word.

    The word is the reason that it gave, -1: none.
    """
    sent = 0
    until = time.monotonic() + 10
    data = begin
    said = b""
    with contextlib.suppress(OSError, FleetError):
        while sent < MOST_SENT and time.monotonic() < until:
            link.ssl.write(data)
            sent += len(data)
            link.transmit()
            while link.unsent:
                ready(link.sock, 1.0, select.POLLOUT)
                link.transmit()
            data = bytes(SOME // 8)
            if ready(link.sock, 0):
                is_open = link.feed()
                while (part := link.ssl.read()) is not None:
                    said += part
                    if not part:
                        return sent, reason_of(said)
                if not is_open:
                    break
    return sent, reason_of(said)


def reason_of(said: bytes) -> int:
    """Return the reason of the server's last BYE or REFUSE, -1: it said none."""
    head = decode_frame(said, 0, 4096)
    if head is None or head[0] not in (BYE, REFUSE):
        return -1
    return decode_ending(said[head[3] : head[4]]).reason


def fragments(fleet: LabFleet, context: object) -> tuple[int, int]:
    """A session whose one message has no end."""
    device = LoadDevice(connected(fleet, context), b"", 4096)
    until = time.monotonic() + 20
    while not device.is_open and time.monotonic() < until:
        ready(device.link.sock, 0.5)
        device.receive()
    sent = 0
    with contextlib.suppress(OSError, FleetError):
        for seq in range(1, 60):
            data = encode_frame(READINGS, 0x10 | 0x20 | 3, seq, bytes(4000))
            device.link.ssl.write(data)
            device.link.transmit()
            sent += len(data)
            if ready(device.link.sock, 0.05):
                if not device.link.feed():
                    break
                said = device.link.ssl.read() or b""
                if (word := reason_of(said)) != -1:
                    device.link.close()
                    return sent, word
    device.link.close()
    return sent, -1


async def oversize(place: Path, times: int, broken: str) -> tuple[list[str], str]:
    """Return what must not be, and the figure."""
    # One device comes more often than any does: its rate is not what is asked about.
    fleet = LabFleet(place, broken=broken, device_sessions_burst=100_000)
    bundle = fleet.add_device("cam-1", "tls")
    names = ("ca.der", "cert.der", "key.der")
    context = device_context(*(str(bundle / name) for name in names), "tls")
    most, words = 0, []
    try:
        await fleet.start_server()
        held = 0
        before = 1 if broken else min(_WARM_UP, 14 * times)
        for number in range(-before, times):
            if number == 0:
                held = rss_of(fleet.pid)
            for begin in CASES.values():
                link = await asyncio.to_thread(connected, fleet, context)
                sent, word = await asyncio.to_thread(send_on, link, begin)
                link.close()
                most, words = max(most, sent), [*words, word]
            if not broken:
                sent, word = await asyncio.to_thread(fragments, fleet, context)
                most, words = max(most, sent), [*words, word]
        grown = rss_of(fleet.pid) - held
        log = fleet.log()
    finally:
        await fleet.close()
    faults = [f"memory grew by {grown >> 10} KiB"] * (grown > MOST_RSS)
    if "Traceback" in log:
        faults.append("a traceback in the log")
    silent = sum(word == -1 for word in words)
    if silent:
        faults.append(f"{silent} of {len(words)} were closed without a reason")
    return faults, (
        f"{len(words)} sessions of {len(CASES) + 1} kinds, at most {most >> 10} KiB taken of one, "
        f"RSS {grown / 1024:+.0f} KiB, {sum(word == LIMIT for word in words)} told 'limit'"
    )


async def row_oversize(place: Path, times: int) -> Row:
    """22."""
    faults, figure = await oversize(place / "good", times, "")
    seen, _ = await oversize(place / "bad", 1, "no-limit")
    return Row(
        "22", "frames that are too long, that say 4 GiB, headers and messages without an end",
        "closed with a reason, memory +2 MiB at most", "; ".join([figure, *faults]), not faults,
        f"a server that keeps what it is sent: {'; '.join(seen)}",
        noticed(seen, "memory grew by"),
    )  # fmt: skip


async def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", default="20,22")
    parser.add_argument("--connections", type=int, default=1000)
    options = parser.parse_args(words)
    names = options.rows.split(",")
    rows = []
    with tempfile.TemporaryDirectory(prefix="proof-slow-") as made:
        if "20" in names:
            count = 300 if options.quick else options.connections
            rows.append(await row_slow(Path(made) / "slow", count))
        if "22" in names:
            rows.append(await row_oversize(Path(made) / "long", 5 if options.quick else 30))
    return finish(rows, options.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
