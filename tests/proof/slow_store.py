"""A disk that takes half a second for each commit: does anything grow, is anything lost?

    python tests/proof/slow_store.py [--seconds 90]

Devices make four times as many messages as such a store can take. What the server holds is
bounded by their windows, and so is its memory; then it is killed, and nothing that it
acknowledged may be missing. Control: server and devices without windows.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from end_to_end.store_check import faults_of_keys  # noqa: E402
from fleetnet.limits import WINDOW  # noqa: E402
from fleetnet_server.store.query import query  # noqa: E402
from proof.lab import LabFleet, run_main  # noqa: E402
from proof.loading import Load  # noqa: E402
from proof.verdict import Row, arguments, finish, noticed  # noqa: E402

LOAD = Path(__file__).with_name("seal_load.py")
DEVICES, RATE, ROWS = 12, 40.0, 50
# Of one stream each, and what is in the commit under way beside it.
MOST = DEVICES * WINDOW + ROWS
# SQLite keeps pages of what it stored, 1 MiB a minute here; messages that pile up would be 17 MiB.
MOST_GROWN = 4 << 20


class Sample(NamedTuple):
    at: float
    backlog: int
    rss: int


async def run(place: Path, seconds: float, more: str) -> tuple[list[str], str]:
    """Return what must not be, and the figure."""
    fleet = LabFleet(place, broken=f"slow-commit{more}", commit_rows=ROWS)
    load: Load | None = None
    samples: list[Sample] = []
    try:
        bundles = fleet.add_devices(DEVICES, ("tls", "dtls"))
        await fleet.start_server()
        load = await Load.start(fleet.environment(), bundles, RATE, broken=more.strip(","),
                                program=LOAD)
        await load.until_online(DEVICES)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(0.5)
            found = fleet.stats()
            samples.append(Sample(found["at"], found["backlog"], found["rss"]))
        acknowledged = load.sum("acknowledged")
        await fleet.kill_server()
        stored = sum(1 for _ in query(fleet.store))
        # Devices give their oldest up when their own memory is full, and say so.
        faults = [one for one in faults_of_keys(fleet.store) if "gaps" not in one and not more]
    finally:
        if load is not None:
            await load.kill()
        await fleet.close()
    half = samples[len(samples) // 2 :]
    grown = half[-1].rss - half[0].rss
    backlog = max(one.backlog for one in samples)
    if backlog > MOST:
        faults.append(f"{backlog} messages wait, more than {MOST}")
    if grown > MOST_GROWN:
        faults.append(f"memory grew by {grown >> 10} KiB in {half[-1].at - half[0].at:.0f} s")
    if stored < acknowledged:
        faults.append(f"{acknowledged} acknowledged, {stored} stored")
    if not acknowledged:
        faults.append("nothing was acknowledged")
    return faults, (
        f"at most {backlog} messages wait, RSS {grown / 1024:+.0f} KiB in the last "
        f"{half[-1].at - half[0].at:.0f} s; "
        f"{acknowledged} acknowledged, {stored} stored at the kill"
    )


async def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=90.0)
    options = parser.parse_args(words)
    seconds = 20.0 if options.quick else options.seconds
    with tempfile.TemporaryDirectory(prefix="proof-slow-store-") as made:
        place = Path(made)
        (faults, figure), (seen, _) = await asyncio.gather(
            run(place / "good", seconds, ""), run(place / "bad", 15.0, ",no-window")
        )
    row = Row(
        "23", "each commit takes 500 ms, devices make four times what fits",
        f"no more than their windows wait ({MOST} messages), memory stays, no acknowledged loss",
        "; ".join([figure, *faults]), not faults, f"no windows: {'; '.join(seen)}",
        noticed(seen, "messages wait, more than"),
    )  # fmt: skip
    return finish([row], options.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
