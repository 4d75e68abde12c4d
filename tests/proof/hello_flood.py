"""Strangers' datagrams: 100,000 ClientHellos from forged addresses, and junk.

    python tests/proof/hello_flood.py [--count 100000] [--rate 10000]

The product's whole server in a network namespace; in another one a raw socket that forges a
source for each datagram, and honest devices that shake hands meanwhile. What goes in and out is
counted by the kernel at the server's interface. Row 9 wants no state, no more bytes out than in,
and no memory; row 11 that junk is ignored and nothing is raised. Controls: a server without
cookies, and one that takes each datagram for a whole record.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from proof.hello_sender import PATIENCE_S  # noqa: E402
from proof.lab import SERVER, LabFleet, TwoEnds, answer, rss_of, run_main  # noqa: E402
from proof.verdict import Row, arguments, finish, noticed  # noqa: E402

SENDER = Path(__file__).with_name("hello_sender.py")
MOST_RSS = 2 << 20
HONEST = 12
# Of an honest handshake beside the flood: the two share two cores with their rig.
SLOWER, SLOWER_S = 2.0, 0.1


class Outcome(NamedTuple):
    """What a flood did."""

    sent: int
    seconds: float
    bytes_in: int
    bytes_out: int
    half_open: int
    live: int
    grown: int
    before_s: float
    beside_s: float
    shut_out: int
    tracebacks: int


async def run(
    place: Path, networks: TwoEnds, what: str, count: int, rate: int, broken: str
) -> Outcome:
    """Measure one server beside one flood."""
    wanted = 2 if broken else HONEST
    fleet = LabFleet(place, prefix=networks.prefix("s"), host=SERVER, broken=broken)
    bundle = str(fleet.add_device("cam-1", "dtls"))
    try:
        await fleet.start_server()

        async def send(*words: object) -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                *networks.prefix("c"), sys.executable, str(SENDER), *map(str, words),
                stdout=asyncio.subprocess.PIPE, env=fleet.environment(),
            )  # fmt: skip

        number = fleet.dtls[1]

        async def honest() -> list[float]:
            times: list[float] = (
                await answer(await send("honest", wanted, SERVER, number, bundle, "dtls"))
            )["times"]
            return times

        before = await honest()
        # What is made once: buffers of the sockets, of the log.
        await answer(await send(what, 2000, rate, SERVER, number))
        held, wire = rss_of(fleet.pid), counted(networks)
        sending = await send(what, count, rate, SERVER, number)
        beside = await honest()
        sent = await answer(sending)
        after = counted(networks)
        stats = await fleet.fresh_stats()
        return Outcome(
            sent["sent"], sent["seconds"], after[0] - wire[0], after[1] - wire[1],
            stats["half_open"], stats["live"], rss_of(fleet.pid) - held,
            statistics.median(before), statistics.median(beside),
            wanted - sum(one < PATIENCE_S for one in beside), fleet.log().count("Traceback"),
        )  # fmt: skip
    finally:
        await fleet.close()


def counted(networks: TwoEnds) -> tuple[int, int]:
    """Bytes in and out of the server's interface."""
    command = [*networks.prefix("s"), "ip", "-s", "-j", "link", "show", "wire"]
    shown: Any = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    both = shown[0]["stats64"]
    return both["rx"]["bytes"], both["tx"]["bytes"]


def faults_of(found: Outcome, wants_speed: bool) -> list[str]:
    faults = []
    if found.half_open > HONEST:
        faults.append(f"{found.half_open} handshakes of strangers are kept")
    if found.bytes_out > found.bytes_in:
        faults.append(f"amplified {found.bytes_out / found.bytes_in:.2f} times")
    if found.grown > MOST_RSS:
        faults.append(f"memory grew by {found.grown >> 10} KiB")
    if found.shut_out:
        faults.append(f"{found.shut_out} honest handshakes did not end")
    if wants_speed and found.beside_s > SLOWER * found.before_s + SLOWER_S:
        faults.append(f"honest {1e3 * found.before_s:.0f} ms, beside {1e3 * found.beside_s:.0f} ms")
    if found.tracebacks:
        faults.append(f"{found.tracebacks} tracebacks in the log")
    return faults


def told(found: Outcome) -> str:
    return (
        f"{found.sent} in {found.seconds:.0f} s, {found.half_open} kept, out/in "
        f"{found.bytes_out / max(1, found.bytes_in):.2f}, RSS {found.grown / 1024:+.0f} KiB, "
        f"honest handshake {1e3 * found.before_s:.0f} ms, beside it {1e3 * found.beside_s:.0f} ms"
    )


async def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", default="9,11")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=8000, help="datagrams a second")
    options = parser.parse_args(words)
    count = 20_000 if options.quick else options.count
    rows = []
    networks = TwoEnds()
    try:
        with tempfile.TemporaryDirectory(prefix="proof-flood-") as made:
            cases = {
                "9": ("flood", "no-cookie",
                      "ClientHellos without cookie, each from a forged source",
                      f"no state, not more bytes out than in, RSS +2 MiB at most, {HONEST} honest "
                      "handshakes within twice the time", "a server that asks for no cookie",
                      "handshakes of strangers are kept"),
                "11": ("junk", "fragile", "datagrams of 0 to 24 B, random ones, cut hellos",
                       "ignored, nothing raised, honest devices get in",
                       "a server that takes a datagram for a whole record",
                       "tracebacks in the log"),
            }  # fmt: skip
            for row, (what, broken, fault, expected, control, sign) in cases.items():
                if row not in options.rows.split(","):
                    continue
                place = Path(made) / what
                good = await run(place, networks, what, count, options.rate, "")
                bad = await run(
                    Path(made) / broken, networks, what, min(count, 5000), options.rate, broken
                )
                faults, seen = faults_of(good, True), faults_of(bad, False)
                rows.append(Row(
                    row, fault, expected, "; ".join([told(good), *faults]), not faults,
                    f"{control}: {'; '.join(seen)}", noticed(seen, sign),
                ))  # fmt: skip
    finally:
        networks.close()
    return finish(rows, options.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
