"""Devices over DTLS on bad networks: loss, doubles, disorder, bits turned over.

    python tests/proof/bad_datagrams.py [--rows 1,2,3] [--devices 500]

A real `fleetnet serve`, devices of the real library in processes of their own, and between them
a proxy with seeded dice (tests/bad_network.py), in its own process as well. Both ways are bad,
from the first datagram of the handshake on.

1: how many are online after a minute of 30 % loss. Control: devices that try once.
2: everything arrives, nothing is stored twice. Control: a server that stores what comes again.
3: nothing that was altered on the way reaches the store. Control: the same bytes without DTLS.
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from bad_network import Address, udp_socket  # noqa: E402
from fleetnet_server.sim.comparing import compare  # noqa: E402
from fleetnet_server.store.query import query  # noqa: E402
from proof.lab import LabFleet, answer, run_main  # noqa: E402
from proof.loading import Load  # noqa: E402
from proof.verdict import Row, arguments, finish  # noqa: E402

PROXY = Path(__file__).with_name("bad_proxy.py")
SEED = 31
LOSS = {"loss": 0.3}
DISORDER = {"loss": 0.1, "duplicate": 0.2, "reorder": 0.3, "reorder_ms": 30.0, "jitter_ms": 30.0}
FLIPS = {"corrupt": 0.1}
UP_S = 60.0
ENOUGH = 0.99
# Also of a device that a damaged handshake sent away: the first time it looks again soon
# (device_lib/fleetnet_device/backoff.py).
RECOVER_S = 60.0


class Proxy:
    """The bad network's process."""

    def __init__(self, process: asyncio.subprocess.Process, number: int):
        self._process = process
        self.address: Address = ("127.0.0.1", number)

    async def counters(self) -> dict[str, int]:
        """End it; return what it did."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        found = await answer(self._process)
        await self._process.wait()
        return found

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def bad_network(server: Address, faults: dict[str, float]) -> AsyncIterator[Proxy]:
    """Stand before a server."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROXY), server[0], str(server[1]), str(SEED), json.dumps(faults),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip
    proxy = Proxy(process, (await answer(process))["port"])
    try:
        yield proxy
    finally:
        await proxy.close()


@contextlib.asynccontextmanager
async def devices_behind(
    place: Path, faults: dict[str, float], count: int, rate: float, server: str = "",
    device: str = "",
) -> AsyncIterator[tuple[LabFleet, Proxy, list[Load]]]:  # fmt: skip
    """Server, bad network and devices; ``server`` and ``device``: of broken.py."""
    fleet = LabFleet(place, broken=server, compaction=False)
    loads: list[Load] = []
    try:
        await fleet.start_server()
        async with bad_network(fleet.dtls, faults) as proxy:
            bundles = fleet.add_devices(count, ("dtls",), proxy.address)
            try:
                for part in range(2):
                    some = bundles[part::2]
                    load = Load.start(fleet.environment(), some, rate, broken=device)
                    loads.append(await load)
                yield fleet, proxy, loads
            finally:
                for load in loads:
                    await load.kill()
    finally:
        await fleet.close()


def total(loads: list[Load], key: str) -> int:
    return sum(load.sum(key) for load in loads)


async def online_after(loads: list[Load], count: int, limit_s: float) -> tuple[int, float]:
    """Return how many have been online within a time, and when the last of them came."""
    began = last = time.monotonic()
    most = 0
    while time.monotonic() - began < limit_s and most < count:
        now = total(loads, "connects")
        if now > most:
            most, last = now, time.monotonic()
        await asyncio.sleep(0.1)
    return most, last - began


async def come_online(
    place: Path, count: int, limit_s: float, device: str
) -> tuple[int, float, float, dict[str, int]]:
    """Return how many came, when the last did, attempts of each, and what the network did."""
    async with devices_behind(place, LOSS, count, 0.2, device=device) as (_, proxy, loads):
        up, took = await online_after(loads, count, limit_s)
        return up, took, total(loads, "attempts") / count, await proxy.counters()


async def row_loss(place: Path, count: int) -> Row:
    """1."""
    bad = min(count, 100)
    (up, took, attempts, lost), (seen, *_) = await asyncio.gather(
        come_online(place / "good", count, UP_S, ""),
        come_online(place / "bad", bad, UP_S, "one-attempt"),
    )
    return Row(
        "1", f"DTLS, {LOSS['loss']:.0%} of the datagrams lost both ways",
        f"{ENOUGH:.0%} of the devices online within {UP_S:g} s",
        f"{up} of {count} online, the last after {took:.1f} s, {attempts:.2f} attempts each, "
        f"{lost['lost']} of {lost['in']} datagrams lost", up >= ENOUGH * count,
        f"devices that try once: {seen} of {bad} in {UP_S:g} s",
        0 < seen < ENOUGH * bad,
    )  # fmt: skip


async def sent_through(
    place: Path, faults: dict[str, float], count: int, seconds: float, server: str = ""
) -> tuple[list[str], str, dict[str, int]]:
    """Let devices send; return what must not be, the figure, and what the network did."""
    begin_ms = int(time.time() * 1000)
    accounts: list[Any] = []
    async with devices_behind(place, faults, count, 4.0, server) as (fleet, proxy, loads):
        up, took = await online_after(loads, count, RECOVER_S)
        await asyncio.sleep(seconds)
        began = time.monotonic()
        for load in loads:
            accounts += (await load.finish())["accounts"]
        flushed = time.monotonic() - began
        did = await proxy.counters()
        found = compare(fleet.store, accounts, begin_ms)
        wrong = altered(fleet, accounts)
    faults_found = []
    if up < count:
        faults_found.append(f"{count - up} of {count} were not online within {RECOVER_S:g} s")
    if found.lost:
        faults_found.append(f"{found.lost} lost")
    if found.twice:
        faults_found.append(f"{found.twice} stored twice")
    if wrong:
        faults_found.append(f"{wrong} altered")
    if any(account[5] for account in accounts) or flushed > RECOVER_S:
        faults_found.append(f"not everything was acknowledged within {flushed:.0f} s")
    if not found.stored:
        faults_found.append("nothing arrived")
    figure = f"{count} devices, the last online after {took:.0f} s, {found.stored} counts stored"
    return faults_found, figure, did


def altered(fleet: LabFleet, accounts: list[Any]) -> int:
    """How many counts are in the store that nobody sent."""
    held: dict[str, Counter[object]] = defaultdict(Counter)
    for reading in query(fleet.store):
        if reading.channel == "count":
            held[reading.device][reading.value] += 1
    wrong = 0
    for name, first, behind, *_ in accounts:
        wrong += sum(
            times for value, times in held[name].items()
            if not isinstance(value, int) or not first <= value < behind
        )  # fmt: skip
    return wrong


async def row_disorder(place: Path, count: int, seconds: float) -> Row:
    """2."""
    (faults, figure, did), (seen, _, _) = await asyncio.gather(
        sent_through(place / "good", DISORDER, count, seconds),
        sent_through(place / "bad", DISORDER, 6, seconds, "no-dedup"),
    )
    return Row(
        "2", "20 % of the datagrams doubled, 30 % out of order, 10 % lost, 30 ms of jitter",
        "everything arrives, nothing is stored twice",
        "; ".join([f"{figure}, {did['duplicated']} datagrams doubled, {did['reordered']} out of "
                   f"order: {'; '.join(faults) or '0 lost, 0 twice'}"]), not faults,
        f"a server that stores what comes again: {'; '.join(seen)}",
        any("twice" in one for one in seen),
    )  # fmt: skip


async def row_flips(place: Path, count: int, seconds: float) -> Row:
    """3."""
    faults, figure, did = await sent_through(place / "good", FLIPS, count, seconds)
    wrong, of = await asyncio.wait_for(in_the_clear(2000), 60)
    return Row(
        "3", "a bit turned over in 10 % of the datagrams",
        f"nothing altered is stored, everything arrives within {RECOVER_S:g} s",
        f"{figure}, {did['corrupted']} datagrams damaged: "
        f"{'; '.join(faults) or '0 altered, 0 lost'}", not faults,
        f"the same way without DTLS: {wrong} of {of} datagrams arrived altered", wrong > 0,
    )  # fmt: skip


async def in_the_clear(count: int) -> tuple[int, int]:
    """Known bad: datagrams without protection; return how many were altered, and how many came."""
    with udp_socket(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        name: Address = server.getsockname()
        async with bad_network(name, FLIPS) as proxy:
            came: list[bytes] = []
            loop = asyncio.get_running_loop()
            for number in range(count):
                client.sendto(b"%08d" % number * 8, proxy.address)
                while len(came) <= number:
                    came.append(await loop.sock_recv(server, 2048))
            wrong = sum(data != b"%08d" % number * 8 for number, data in enumerate(came))
            return wrong, len(came)


async def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", default="1,2,3")
    parser.add_argument("--devices", type=int, default=500)
    options = parser.parse_args(words)
    names = options.rows.split(",")
    count, some, seconds = (60, 10, 4.0) if options.quick else (options.devices, 40, 20.0)
    with tempfile.TemporaryDirectory(prefix="proof-bad-") as made:
        place = Path(made)
        rows = {
            "1": row_loss(place / "loss", count),
            "2": row_disorder(place / "disorder", some, seconds),
            "3": row_flips(place / "flips", some, seconds),
        }
        for name in rows.keys() - names:
            rows.pop(name).close()
        if options.quick:  # they wait more than they work
            found = list(await asyncio.gather(*rows.values()))
        else:
            found = [await row for row in rows.values()]
    return finish(found, options.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
