"""Acknowledgements that are lost: every message comes ten times, over links that end.

    python tests/proof/resend.py [--messages 100000]

A client with the real session sends each window of messages ten times over TLS, drops every
fiftieth link before it hears what was acknowledged, and goes on with the next. Each message has
to be a row once. Control: a server that stores what comes again.
"""

import asyncio
import os
import select
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from fleetnet.frame import READINGS, TELEMETRY  # noqa: E402
from fleetnet.ports import port  # noqa: E402
from fleetnet.readings import ReadingBatch  # noqa: E402
from fleetnet.session import OPEN, Session  # noqa: E402
from fleetnet_server.bench.links import SecureSocket, device_context  # noqa: E402
from fleetnet_server.store.schema import open_readable  # noqa: E402
from proof.lab import LabFleet, run_main  # noqa: E402
from proof.verdict import Row, arguments, finish  # noqa: E402

TIMES = 10
WINDOW = 64
CUT_EVERY = 50
_PATIENCE_S = 30.0


class Repeater:
    """The client."""

    def __init__(self, fleet: LabFleet, bundle: Path):
        names = ("ca.der", "cert.der", "key.der")
        self._context = device_context(*(str(bundle / name) for name in names), "tls")
        self._address = fleet.tls
        self.session = Session(os.urandom)
        self.said = 0
        self.links = 0
        self._link: SecureSocket | None = None

    def connect(self) -> None:
        """Leave the link, whatever was on it, and open another."""
        if self._link is not None:
            self.session.close_link()
            self._link.close()
        self._link = link = SecureSocket(self._context, *self._address)
        self.links += 1
        until = time.monotonic() + _PATIENCE_S
        while not link.handshake():
            self._wait(until)
        self.session.open_link(port.ticks(), False)
        while self.session.state != OPEN:
            self._send(1)
            self._wait(until)
            self._receive()
            self.session.handle_timer(port.ticks())

    def window(self, count: int, is_heard: bool) -> None:
        """Send so many messages ten times; wait for their acknowledgements, or do not."""
        for _ in range(count):
            batch = ReadingBatch(512, 1)
            batch.add("count", self.said, 1_700_000_000_000 + self.said)
            self.session.send(TELEMETRY, READINGS, batch.to_payload())
            self.said += 1
        self._send(TIMES)
        until = time.monotonic() + _PATIENCE_S
        while is_heard and self.session.sender.in_flight:
            self._wait(until)
            self._receive()
            self.session.handle_timer(port.ticks())
            self._send(1)

    def _send(self, times: int) -> None:
        assert self._link is not None
        data = b""
        while chunks := self.session.data_to_send(port.ticks()):
            data += b"".join(chunks)
        for _ in range(times if data else 0):
            self._link.ssl.write(data)
            self._link.transmit()
            while self._link.unsent:
                select.select([], [self._link.sock], [], 1.0)
                self._link.transmit()

    def _receive(self) -> None:
        assert self._link is not None
        if not self._link.feed():
            raise ConnectionError("the server closed the link")
        while data := self._link.ssl.read():
            self.session.receive_data(data, port.ticks())
        self.session.take_events()

    def _wait(self, until: float) -> None:
        assert self._link is not None
        if time.monotonic() > until:
            raise TimeoutError("no answer of the server")
        select.select([self._link.sock], [], [], 0.2)


async def run(place: Path, messages: int, broken: str) -> tuple[list[str], str]:
    """Return what must not be, and the figure."""
    fleet = LabFleet(place, broken=broken, compaction=False, device_sessions_burst=100_000)
    bundle = fleet.add_device("cam-1", "tls")
    client = Repeater(fleet, bundle)

    def work() -> None:
        client.connect()
        number = 0
        while client.said < messages:
            number += 1
            is_heard = number % CUT_EVERY != 0
            client.window(min(WINDOW, messages - client.said), is_heard)
            if not is_heard:
                client.connect()
                client.window(0, True)

    faults = []
    try:
        await fleet.start_server()
        try:
            await asyncio.to_thread(work)
        except (ConnectionError, TimeoutError) as error:
            faults.append(str(error))
        await fleet.kill_server()
        connection = open_readable(fleet.store)
        rows = connection.execute("SELECT body FROM messages").fetchall()
        connection.close()
    finally:
        await fleet.close()
    held = Counter(body for (body,) in rows)
    twice = sum(times - 1 for times in held.values())
    if twice:
        faults.append(f"{twice} stored twice")
    if len(held) != messages:
        faults.append(f"{messages - len(held)} of {messages} lost")
    return faults, (
        f"{messages} messages, each sent {TIMES} times, {client.links} links: {len(rows)} rows, "
        f"{twice} twice"
    )


async def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="proof-resend-") as made:
        place = Path(made)
        count = 10_000 if options.quick else options.messages
        faults, figure = await run(place / "good", count, "")
        seen, _ = await run(place / "bad", 640, "no-dedup")
    row = Row(
        "6", f"acknowledgements lost: everything sent {TIMES} times",
        "one row for each message", "; ".join([figure, *faults]), not faults,
        f"a server that stores what comes again: {'; '.join(seen)}",
        any("twice" in one for one in seen),
    )  # fmt: skip
    return finish([row], options.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
