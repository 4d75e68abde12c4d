"""Several machines: three nodes, two clients' networks, a real PostgreSQL, a real mosquitto.

    python tests/proof/cluster.py [--nodes 3] [--devices 60] [--rate 2] [--seconds 12]
    python tests/proof/cluster.py --nodes 1        one node with SQLite; no PostgreSQL is needed
    python tests/proof/cluster.py --bad            the control that has to fail

Each in a network namespace of its own (cluster_net.py): it wants root, ip, nft, and takes
everything away at the end. The devices are the real library (cluster_load.py) behind two routers
with the same private addresses, and two in real MicroPython where there is one; the balancer is the
kernel's. Scenes: steady load; commands through whichever node; kill -9 of a node; one that stands
still and is woken; one cut off from the database; one cut off from the broker; a rolling restart;
a revocation.

At the end of a scene nothing new is sent until all is acknowledged; then sent, acknowledged and
stored readings are compared, by `fleetnet query`. Exit code 0: none lost, none twice, everybody
back, commands answered, revocations within 5 s. --bad runs two nodes with a store file each, as
if a copy of the fleet's folder made a cluster: what one of them is asked lacks readings.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PATH = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]
if __name__ == "__main__":
    sys.path[:0] = _PATH
    os.environ["PYTHONPATH"] = os.pathsep.join(_PATH)

from proof.cluster_net import Networks  # noqa: E402
from proof.cluster_rig import Rig  # noqa: E402
from proof.cluster_scenes import SCENES, Result  # noqa: E402
from proof.verdict import Row, arguments, finish, noticed  # noqa: E402

_COLUMNS = (
    ("scene", 22), ("s", 6), ("sent", 8), ("acked", 8), ("stored", 8), ("lost", 6), ("twice", 6),
    ("hit", 5), ("p50 s", 7), ("p99 s", 7), ("max s", 7),
)  # fmt: skip


def table(results: list[Result]) -> str:
    """The scenes for people: hit devices, and seconds from the blow until they were back."""
    lines = ["".join(f"{name:<{wide}}" for name, wide in _COLUMNS)]
    for one in results:
        back = [f"{share:.1f}" if one.hit else "-" for share in one.back_s]
        cells = [
            one.scene, f"{one.seconds:.0f}", one.sent, one.acknowledged, one.stored, one.lost,
            one.twice, one.hit or "-", *back,
        ]  # fmt: skip
        lines.append(
            "".join(f"{cell!s:<{wide}}" for cell, (_, wide) in zip(cells, _COLUMNS, strict=True))
        )
        lines += [f"    {note}" for note in one.notes]
    return "\n".join(lines)


# What two nodes have to show that do not share a store.
SIGN = r"[1-9]\d* lost"


async def play(rig: Rig, names: list[str]) -> list[Result]:
    """Play the scenes in order, each with what it came to; stop where one cannot go on."""
    results = []
    for name, scene in SCENES.items():
        if name not in names or not scene.suits(rig):
            continue
        print(f"... {name}", file=sys.stderr, flush=True)
        try:
            results.append(await scene.play(rig))
        except TimeoutError as error:
            rig.faults.append(f"{name}: {error}")
            break
    return results


async def once(options: argparse.Namespace, is_bad: bool) -> tuple[list[str], list[Result]]:
    """Build the world, play, take it away; return what must not be, and the scenes."""
    nodes = 2 if is_bad else options.nodes
    networks = Networks(nodes)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as place:
        rig = Rig(
            Path(place), networks, options.devices, options.rate, options.seconds,
            has_database=nodes > 1 and not is_bad,
        )  # fmt: skip
        try:
            await rig.start()
            wanted = options.scene or list(SCENES)
            results = await play(rig, ["steady", "rolling restart"] if is_bad else wanted)
            if not rig.faults:
                await rig.finish()
        finally:
            await rig.close()
            networks.close()
        faults = rig.faults + [fault for one in results for fault in one.faults]
        print(f"{os.cpu_count()} cores, load at the end {os.getloadavg()[0]:.1f}; {rig.about}")
        print(table(results))
        for note in rig.notes:
            print(note)
        for fault in faults:
            print("as it has to be:" if is_bad else "FAULT", fault)
        if faults and not is_bad:
            print(rig.logs(), file=sys.stderr)
    return faults, results


async def row_of(options: argparse.Namespace) -> Row:
    """The scoreboard's row: all scenes, then the control."""
    faults, results = await once(options, False)
    seen, _ = await once(options, True)
    sent = sum(one.sent for one in results)
    return Row(
        "cluster", "nodes killed, stopped, cut off from database and broker",
        "no reading lost or twice, everybody back, commands answered, revocations within 5 s",
        "; ".join(faults) or f"{len(results)} scenes, {sent} readings, 0 lost, 0 twice",
        not faults, f"two nodes with a store file each: {'; '.join(seen)[:200]}",
        noticed(seen, SIGN),
    )  # fmt: skip


async def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--devices", type=int, default=60)
    parser.add_argument("--rate", type=float, default=2.0, help="readings a second and device")
    parser.add_argument("--seconds", type=float, default=12.0, help="of steady load in a scene")
    parser.add_argument("--scene", action="append", choices=list(SCENES), help="only this one")
    parser.add_argument("--bad", action="store_true")
    options = parser.parse_args(words)
    if os.geteuid():
        raise SystemExit("it makes network namespaces: run it as root")
    # Ended from outside it has to take its world away, too.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if options.json:
        return finish([await row_of(options)], options.json)
    faults, _ = await once(options, options.bad)
    return int(not noticed(faults, SIGN) if options.bad else bool(faults))


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
