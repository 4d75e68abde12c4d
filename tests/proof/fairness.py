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
from proof.lab import LabFleet, run_main  # noqa: E402
from proof.verdict import Row, arguments, finish, noticed  # noqa: E402

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


class OneByOne(LabFleet):
    """Known bad: each message is a commit of its own, and waits for those before it.

    Its disk takes 5 ms: with one that says that it has synced in no time nobody would feel it.
    """

    def __init__(self, folder: Path):
        super().__init__(folder, broken="disk-that-turns", commit_rows=1)


async def measure(
    folder: Path, others: int, rate: float, seconds: float, kind: type[Fleet] = Fleet
) -> dict[str, Any]:
    """Return the figures of all three: the others alone, the others beside it, and itself."""
    fleet = kind(folder)
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


def faults_of(found: dict[str, Any], others: int, messages: int) -> list[str]:
    """What must not be; [] is good."""
    before, after = found["alone"], found["beside it"]
    faults = []
    if not before["sent"] == after["sent"] == others * messages:
        faults.append("messages of the others did not arrive")
    if found["greedy"]["sent"] != TIMES * messages:
        faults.append("messages of the greedy one did not arrive")
    if after["p99"] >= 2 * before["p99"]:
        faults.append(f"p99 {before['p99']} ms became {after['p99']} ms")
    return faults


async def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--others", type=int, default=20)
    parser.add_argument("--rate", type=float, default=5.0, help="messages a second of each")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args(words)
    sizes = options.others, options.rate, options.seconds
    messages = int(options.rate * options.seconds)
    with tempfile.TemporaryDirectory() as place:
        found = await measure(Path(place) / "fleet", *sizes)
        bad = await measure(Path(place) / "bad", *sizes, kind=OneByOne)
    for name, one in found.items():
        times = f"p50 {one['p50']:>6} ms   p99 {one['p99']:>6} ms"
        print(f"{name:<10} {one['sent']:>7} messages   {times}")
    faults = faults_of(found, options.others, messages)
    seen = faults_of(bad, options.others, messages)
    figure = (
        f"p99 alone {found['alone']['p99']} ms, beside it {found['beside it']['p99']} ms; "
        f"the greedy one sent {found['greedy']['sent']} messages"
    )
    row = Row(
        "28", f"one device at {TIMES} times the others' rate",
        "everything arrives, and the others' 99th percentile is not twice what it was alone",
        "; ".join([figure, *faults]), not faults,
        f"a server that commits message by message, in 5 ms: {'; '.join(seen)}",
        noticed(seen, "^p99 .* became"),
    )  # fmt: skip
    return finish([row], options.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
