"""One device at a hundred times the others' rate: what do the others feel of it?

    python tests/proof/fairness.py [--others 20] [--rate 5] [--seconds 10]

A real `fleetnet serve`, CPython devices of the real device library half over TLS and half over
DTLS, first alone, then beside a device that sends a hundred times as much as each of them.
Prints the time from a message's making to its acknowledgement, most of which are the 100 ms for
which acknowledgements are gathered.

Exit code 0: everything arrived, and the others' 99th percentile is not twice what it was alone.
tests/server/core/test_fair_share.py counts the same without a clock, and shows that without the
windows it would not be so.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from end_to_end.fleet import Fleet  # noqa: E402

LOAD = Path(__file__).with_name("fair_load.py")
TIMES = 100


class Load:
    """A process of fair_load.py."""

    def __init__(self, fleet: Fleet, rate: float, seconds: float, bundles: list[Path]):
        self._command = [sys.executable, str(LOAD), str(rate), str(seconds), *map(str, bundles)]
        self._environment = fleet.environment()

    async def connect(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        await self._line()

    async def run(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        found = await self._line()
        await self._process.wait()
        return found

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 120)
        found: dict[str, Any] = json.loads(line)
        return found


async def measure(folder: Path, others: int, rate: float, seconds: float) -> dict[str, Any]:
    """Return the figures of all three: the others alone, the others beside it, and itself."""
    fleet = Fleet(folder)
    bundles = [fleet.add_device(f"cam-{n}", ("tls", "dtls")[n % 2]) for n in range(others)]
    greedy = fleet.add_device("greedy", "tls")
    try:
        await fleet.start_server()
        alone = Load(fleet, rate, seconds, bundles)
        await alone.connect()
        before = await alone.run()
        beside = Load(fleet, rate, seconds, bundles)
        noise = Load(fleet, TIMES * rate, seconds, [greedy])
        await asyncio.gather(beside.connect(), noise.connect())
        after, loud = await asyncio.gather(beside.run(), noise.run())
    finally:
        await fleet.close()
    return {"alone": before, "beside it": after, "greedy": loud}


async def main(arguments: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--others", type=int, default=20)
    parser.add_argument("--rate", type=float, default=5.0, help="messages a second of each")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        found = await measure(
            Path(place) / "fleet", options.others, options.rate, options.seconds
        )
    for name, one in found.items():
        times = f"p50 {one['p50']:>6} ms   p99 {one['p99']:>6} ms"
        print(f"{name:<10} {one['sent']:>7} messages   {times}")
    sent = int(options.rate * options.seconds)
    is_whole = (
        found["alone"]["sent"] == found["beside it"]["sent"] == options.others * sent
        and found["greedy"]["sent"] == TIMES * sent
    )
    is_fair = found["beside it"]["p99"] < 2 * found["alone"]["p99"]
    print(f"everything arrived: {is_whole}; less than twice: {is_fair}")
    return 0 if is_whole and is_fair else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
