"""The disk of the server is full while devices send.

    python tests/proof/disk.py

The fleet's folder is on a tmpfs of some MiB in a mount namespace of this program's own; a file
takes what is left. While the disk is full nothing may be acknowledged, queries and commands
answer, and when there is room again the server goes on by itself. Then it is full once more and
the server is killed: nothing that was acknowledged is missing. Control: a server that
acknowledges before its commit.

Write errors (a file that may not grow): tests/server/store/test_crash.py, which runs here too.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PATH = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]
if __name__ == "__main__":
    sys.path[:0] = _PATH

from fleetnet_server.store.query import query  # noqa: E402
from proof.lab import LabFleet, run_main  # noqa: E402
from proof.loading import Load  # noqa: E402
from proof.verdict import Row, arguments, finish, noticed  # noqa: E402

SIZE = 24 << 20
DEVICES, RATE = 8, 20.0
BACK_S = 10.0
# Beside the store there are journals whose pages exist already: they may be written once more.
STILL_S = 3.0
_MOUNTED = "PROOF_MOUNTED"


class FullFleet(LabFleet):
    """A fleet on a small disk."""

    def __init__(self, folder: Path, broken: str):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder.parent)], check=True
        )
        super().__init__(folder, broken=broken, compaction=False)
        self._ballast = folder.parent / "ballast"

    def fill(self) -> None:
        """Leave no byte."""
        with self._ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder.parent)], check=False)

    def free(self) -> None:
        self._ballast.unlink()


async def full(fleet: FullFleet, load: Load) -> tuple[int, float]:
    """Fill the disk; return what was acknowledged when that ended, and how long it took to end."""
    fleet.fill()
    began = time.monotonic()
    count, since = load.sum("acknowledged"), began
    while time.monotonic() - since < STILL_S:
        await asyncio.sleep(0.2)
        if (now := load.sum("acknowledged")) != count:
            count, since = now, time.monotonic()
        if time.monotonic() - began > 30:
            raise AssertionError("it acknowledges for ever on a full disk")
    return count, since - began


async def run(place: Path, broken: str) -> tuple[list[str], str]:
    """Return what must not be, and the figure."""
    place.mkdir()
    fleet = FullFleet(place / "fleet", broken)
    load: Load | None = None
    faults: list[str] = []
    figure = ""
    try:
        bundles = fleet.add_devices(DEVICES, ("tls", "dtls"))
        await fleet.start_server()
        load = await Load.start(fleet.environment(), bundles, RATE)
        await load.until_online(DEVICES)
        await load.until_acknowledged(100)
        if not broken:
            _, ended = await full(fleet, load)
            shown = await fleet.run("query", "--device", "cam-0000", "--json")
            listed = await fleet.run("device", "list", "--json")
            if shown.returncode or listed.returncode:
                faults.append("queries do not answer")
            fleet.free()
            back = await load.until_acknowledged(1, 30.0)
            if back > BACK_S:
                faults.append(f"went on after {back:.1f} s")
            await load.until_acknowledged(100)
            figure = f"the last receipt {ended:.1f} s behind, back {back:.1f} s after room; "
        try:
            acknowledged, _ = await full(fleet, load)
        except AssertionError as error:
            faults.append(str(error))
            acknowledged = load.sum("acknowledged")
        await fleet.kill_server()
        fleet.free()
        stored = sum(1 for _ in query(fleet.store))
        if stored < acknowledged:
            faults.append(f"{acknowledged} acknowledged, {stored} stored")
        if not broken:
            await fleet.start_server()
            sums = await load.finish()
            held = sum(1 for _ in query(fleet.store))
            if not sums["sent"] == sums["acknowledged"] == held:
                told = f"{sums['sent']} sent, {sums['acknowledged']} acknowledged"
                faults.append(f"{told}, {held} stored")
            figure += f"{held} readings, 0 lost"
    finally:
        if load is not None:
            await load.kill()
        await fleet.close()
        fleet.unmount()
    return faults, figure


def write_errors() -> bool:
    """The write that fails, as a test."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0",
         "tests/server/store/test_crash.py::test_full_disk_acknowledges_nothing_and_recovers"],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 0


async def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", default="16")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="proof-disk-") as made:
        (faults, figure), (seen, _) = await asyncio.gather(
            run(Path(made) / "good", ""), run(Path(made) / "bad", "ack-early")
        )
    if not write_errors():
        faults.append("the test of write errors failed")
    row = Row(
        "16", "disk full, and writes that fail",
        f"nothing is acknowledged, queries answer, goes on within {BACK_S:g} s of room, no loss",
        "; ".join([figure, *faults]), not faults,
        f"acknowledged before the commit: {'; '.join(seen)}",
        noticed(seen, r"\d+ acknowledged, \d+ stored"),
    )  # fmt: skip
    return finish([row], options.json)


if __name__ == "__main__":
    if not os.environ.get(_MOUNTED):
        os.environ[_MOUNTED] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])  # noqa: S606 - ours
    sys.exit(run_main(main))
