"""Faults of networks, made by nftables in network namespaces (lab.py).

    python tests/proof/netns_faults.py [--rows 19,21] [--devices 20] [--keepalive 10]

19: devices with sessions over TLS, and from one moment on every packet of theirs is dropped
without a word. The server has to notice, and to give back every file descriptor; when the network
is well again everybody comes back and nothing is lost. Control: a server whose keepalive is a day.

21: devices with sessions over DTLS behind a router that masquerades, forgets its flows and takes
other ports. Each has to be acknowledged something again, with one session. Control: devices that
never take a silent link for dead.
"""

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from end_to_end.device_process import until  # noqa: E402
from end_to_end.store_check import faults_of_keys  # noqa: E402
from fleetnet_server.store.query import query  # noqa: E402
from proof.lab import SERVER, BehindNat, LabFleet, TwoEnds, run_main  # noqa: E402
from proof.loading import Load  # noqa: E402
from proof.verdict import Row, arguments, finish  # noqa: E402

# docs/protocol.md section 7: an acceptor waits for two keepalives and this.
GRACE_S = 15.0
# A server looks once a second, and the rig four times.
LATE_S = 3.0
BACK_S = 15.0
SWEPT_S = 30.0
RATE = 2.0


async def brought_up(
    fleet: LabFleet, prefix: list[str], link: str, devices: int, broken: str = ""
) -> Load:
    """Start a server and its devices; return them when all are online."""
    bundles = fleet.add_devices(devices, (link,))
    await fleet.start_server()
    load = await Load.start(fleet.environment(), bundles, RATE, prefix, broken)
    await load.until_online(devices)
    await load.until_acknowledged(devices)
    return load


async def faults_at_end(fleet: LabFleet, load: Load) -> list[str]:
    """End the devices; compare what they say with what is stored."""
    sums = await load.finish()
    stored = sum(1 for _ in query(fleet.store))
    faults = faults_of_keys(fleet.store)
    if not 0 < sums["sent"] == sums["acknowledged"] == stored or sums["dropped"]:
        faults.append(
            f"{sums['sent']} sent, {sums['acknowledged']} acknowledged, {stored} stored"
        )
    return faults


async def half_open(place: Path, devices: int, keepalive_s: float) -> Row:
    """19."""
    networks = TwoEnds()
    good = LabFleet(place / "good", prefix=networks.prefix("s"), host=SERVER,
                    keepalive_s=keepalive_s)  # fmt: skip
    bad = LabFleet(place / "bad", prefix=networks.prefix("s"), host=SERVER, keepalive_s=86_400)
    loads: list[Load] = []
    limit_s = 2 * keepalive_s + GRACE_S + LATE_S
    try:
        for fleet in (good, bad):
            loads.append(await brought_up(fleet, networks.prefix("c"), "tls", devices))
        before = (await good.fresh_stats())["fds"] - devices
        networks.cut("c", SERVER)
        began = time.monotonic()
        faults = []
        try:
            took = await until(lambda: not good.stats()["live"], "all noticed", limit_s)
            await until(lambda: good.stats()["fds"] <= before, "descriptors are back", LATE_S)
        except AssertionError:
            stats = good.stats()
            took = time.monotonic() - began
            faults.append(f"{stats['live']} sessions and {stats['fds'] - before} descriptors left")
        kept = (await bad.fresh_stats())["live"]
        networks.heal("c")
        await loads[0].until_online(devices, 90.0)
        faults += await faults_at_end(good, loads[0])
        figure = (
            f"{devices} sessions, keepalive {keepalive_s:g} s: all noticed after {took:.1f} s, "
            "descriptors back, nothing lost"
        )
        return Row(
            "19", "TCP connections whose packets are dropped without a word",
            f"noticed within two keepalives and {GRACE_S:g} s, descriptors given back, devices "
            "back when the network is", "; ".join([figure, *faults]), not faults,
            f"a server with a keepalive of a day: {kept} of {devices} sessions still there",
            kept == devices,
        )  # fmt: skip
    finally:
        for load in loads:
            await load.kill()
        await good.close()
        await bad.close()
        networks.close()


async def new_address(place: Path, devices: int) -> Row:
    """21."""
    networks = BehindNat()
    fleet = LabFleet(place / "fleet", prefix=networks.prefix("s"), host=SERVER)
    other = LabFleet(place / "other", prefix=networks.prefix("s"), host=SERVER)
    loads: list[Load] = []
    faults = []
    try:
        loads.append(await brought_up(fleet, networks.prefix("c"), "dtls", devices))
        loads.append(await brought_up(other, networks.prefix("c"), "dtls", devices, "stubborn"))
        networks.rebind(40_000)
        load, stubborn = loads
        try:
            took = await until(
                lambda: load.sum("connects") >= 2 * devices, "all have another session", BACK_S
            )
            took += await load.until_acknowledged(2 * devices, BACK_S - took)
        except AssertionError:
            took = BACK_S
            faults.append(f"only {load.sum('connects') - devices} came back")
        stats = await fleet.fresh_stats()
        if stats["live"] != devices:
            faults.append(f"{stats['live']} sessions for {devices} devices")
        # Of the old port: the good-bye that nobody answers is repeated for a while.
        try:
            swept = await until(
                lambda: fleet.stats()["associations"] <= devices, "the old ones are swept", SWEPT_S
            )
        except AssertionError:
            swept = SWEPT_S
            faults.append(f"{fleet.stats()['associations']} associations for {devices} devices")
        back = stubborn.sum("connects") - devices
        faults += await faults_at_end(fleet, load)
        figure = (
            f"{devices} devices: all acknowledged again after {took:.1f} s, "
            f"{stats['live']} sessions, the old associations gone {swept:.0f} s later, nothing lost"
        )
        return Row(
            "21", "a NAT gives live DTLS sessions another port",
            f"acknowledged again within {BACK_S:g} s, one session each",
            "; ".join([figure, *faults]), not faults,
            f"devices that never give a silent link up: {back} of {devices} came back",
            back < devices,
        )  # fmt: skip
    finally:
        for load in loads:
            await load.kill()
        await fleet.close()
        await other.close()
        networks.close()


async def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", default="19,21")
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--keepalive", type=float, default=10.0)
    options = parser.parse_args(words)
    names = options.rows.split(",")
    rows = []
    with tempfile.TemporaryDirectory(prefix="proof-netns-") as made:
        if "19" in names:
            keepalive_s = 1.0 if options.quick else options.keepalive
            rows.append(await half_open(Path(made), options.devices, keepalive_s))
        if "21" in names:
            rows.append(await new_address(Path(made), options.devices))
    return finish(rows, options.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
