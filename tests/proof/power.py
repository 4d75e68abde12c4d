"""The server's power fails while devices send: is what was acknowledged on the disk?

    python tests/proof/power.py [--cuts 400] [--spots 600]

4b: a real `fleetnet serve` with real devices over TLS and DTLS writes through a layer that keeps
a diary of every write and fsync (recorded_server.py). The power is then cut at some hundred
places of that diary; what was not synced is lost, in part there, out of order, or torn
(power_disk.py). Each disk that this leaves is opened as the server does at its start. Controls:
commits that do not sync, and acknowledgements before the commit.

5: the files that a killed server leaves, with a bit turned over, a sector of zeros, or an end
that is missing, at places all over them: a start refuses or says what is lost, `fleetnet check`
names it, or every message is there as it was. What nobody could notice is counted apart: it is
not defended. Control: SQLite alone, without the product's looks.
"""

import asyncio
import os
import random
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_PATH = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]
if __name__ == "__main__":
    sys.path[:0] = _PATH

import apsw  # noqa: E402

from end_to_end.fleet import Fleet  # noqa: E402
from fleetnet_server.core.bodies import Message  # noqa: E402
from fleetnet_server.errors import FleetError  # noqa: E402
from fleetnet_server.store.log_damage import LeftLog  # noqa: E402
from fleetnet_server.store.schema import open_readable  # noqa: E402
from fleetnet_server.store.sqlite import SqliteStore  # noqa: E402
from proof.lab import run_main  # noqa: E402
from proof.loading import Load  # noqa: E402
from proof.power_disk import Files, cuts, read_diary  # noqa: E402
from proof.verdict import Row, arguments, finish  # noqa: E402

RECORDED = Path(__file__).with_name("recorded_server.py")
DEVICES, RATE = 40, 20.0
FILES = ("fleet.db", "fleet.db-wal")
Key = tuple[int, int, int]


class RecordedFleet(Fleet):
    """A fleet whose server keeps a diary of its disk; ``broken``: names of broken.py."""

    def __init__(self, folder: Path, broken: str):
        super().__init__(folder)
        self.diary = folder.with_suffix(".diary")
        self._broken = broken
        # Compaction would move what is looked for.
        (folder / "fleetnet.toml").write_text("compaction = false\n")

    def environment(self) -> dict[str, str]:
        kept = super().environment()
        path = os.pathsep.join((kept["PYTHONPATH"], str(ROOT / "tests")))
        return kept | {
            "PYTHONPATH": path, "PROOF_DIARY": str(self.diary), "PROOF_BREAK": self._broken,
        }  # fmt: skip

    def files(self) -> Files:
        names = self.folder.glob(self.store.name + "*")
        return {one.name: one.read_bytes() for one in names if not one.name.endswith("-shm")}


async def record(folder: Path, seconds: float, broken: str) -> tuple[RecordedFleet, Files]:
    """Let devices send for a while, kill the server; return the fleet, and how its disk began."""
    fleet = RecordedFleet(folder, broken)
    bundles = [fleet.add_device(f"cam-{n}", ("tls", "dtls")[n % 2]) for n in range(DEVICES)]
    begin = fleet.files()
    load: Load | None = None
    try:
        await fleet.start_server(RECORDED)
        load = await Load.start(fleet.environment(), bundles, RATE)
        await load.until_acknowledged(DEVICES)
        await asyncio.sleep(seconds)
        await fleet.kill_server()
    finally:
        if load is not None:
            await load.kill()
        await fleet.close()
    return fleet, begin


def put(place: Path, files: Files) -> Path:
    """Make a folder with these files in it; return the store's path."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
    return place / "fleet.db"


def found_in(path: Path) -> dict[Key, int]:
    """Return {key: checksum of the body} of all messages. Raises apsw.Error, FleetError."""
    connection = open_readable(path)
    try:
        bodies = "SELECT epoch, stream, seq, CAST(body AS BLOB) FROM messages"
        rows = connection.execute(bodies).fetchall()
    finally:
        connection.close()
    found = {}
    for *key, body in rows:
        found[key[0], key[1], key[2]] = zlib.crc32(body or b"")
    return found


def fault_after(path: Path, acknowledged: dict[Key, int]) -> str:
    """Start on these files as a server does; return what is wrong, "" when nothing is."""
    try:
        with SqliteStore(path) as store:
            if store.read("PRAGMA integrity_check(1)") != [("ok",)]:
                return "the file is damaged"
            found = found_in(path)
            lost = [key for key in acknowledged if key not in found]
            if lost:
                return f"lost {len(lost)} of {len(acknowledged)}"
            if any(found[key] != check for key, check in acknowledged.items()):
                return "a body was altered"
            last = max(found)
            new = Message(1, last[0], last[1], last[2] + 1, 16, 1, 1, 1, "[1,0,[],[]]")
            if list(store.commit([new])) != [0]:
                return "nothing more can be stored"
    except (apsw.Error, FleetError) as error:
        return f"does not start: {error}"
    return ""


def trial(fleet: RecordedFleet, begin: Files, count: int) -> tuple[Counter[str], int, int]:
    """Cut the power ``count`` times; return the faults, how many cuts, how many acknowledged."""
    entries = read_diary(fleet.diary)
    faults: Counter[str] = Counter()
    tried = most = 0
    for _place, kind, files, acknowledged in cuts(entries, begin, count, 4):
        fault = fault_after(put(fleet.folder.with_suffix(".cut"), files), acknowledged)
        tried, most = tried + 1, max(most, len(acknowledged))
        if fault:
            name = fault if not fault.startswith("lost") else "acknowledged messages lost"
            faults[f"{name} ({kind})"] += 1
    return faults, tried, most


def said(faults: Counter[str], most: int = 3) -> str:
    return ", ".join(f"{times} x {what}" for what, times in faults.most_common(most)) or "0 bad"


async def row_power(place: Path, seconds: float, count: int) -> Row:
    """4b: what a power cut leaves."""
    fleet, begin = await record(place / "good", seconds, "small-log")
    faults, tried, most = trial(fleet, begin, count)
    controls = []
    for broken in ("sync-off", "ack-early"):
        bad, start = await record(place / broken, min(seconds, 3.0), f"small-log,{broken}")
        controls.append((broken, trial(bad, start, min(count, 80))[0]))
    return Row(
        "4b", "power cut under load: what was not synced is lost, out of order, torn",
        "every acknowledged message is there unaltered, the server starts and stores more",
        f"{tried} cuts, {most} acknowledged messages: {said(faults)}",
        not faults and tried >= min(count, 40) and most > 0,
        "; ".join(f"{name}: {said(seen)}" for name, seen in controls),
        all(seen for _, seen in controls),
    )  # fmt: skip


# -- 5 -------------------------------------------------------------------------------------------


def spoil(data: bytes, kind: str, at: int, dice: random.Random) -> bytes:
    """Damage a file at an offset."""
    if kind == "cut short":
        return data[:at]
    changed = bytearray(data)
    if kind == "bit":
        changed[at] ^= 1 << dice.randrange(8)
    else:
        begin = at // 512 * 512
        changed[begin : begin + 512] = bytes(len(changed[begin : begin + 512]))
    return bytes(changed)


def verdict_on(path: Path, whole: dict[Key, int], with_look: bool = True) -> str:
    """Say what a start, and `fleetnet check`, make of damaged files.

    ``with_look``: the product's own look at the log and at the file's structure.
    """
    try:
        lost = LeftLog(path).compare()
        with SqliteStore(path) as store:
            if with_look and lost:
                return "named at the start"
            if with_look and store.read("PRAGMA quick_check(1)") != [("ok",)]:
                return "named by check"
            found = found_in(path)
    except (apsw.Error, FleetError):
        return "refused"
    if all(found.get(key) == check for key, check in whole.items()):
        return "harmless"
    return "altered" if whole.keys() <= found.keys() else "lost"


def is_defended(name: str, kind: str, verdict: str) -> bool:
    """Whether somebody could notice this damage.

    A log that lacks its end is what a log is that never had it; and SQLite has no checksums of
    what is inside of a page: docs/proof.md says what helps.
    """
    return not (name.endswith("-wal") and kind == "cut short") and verdict != "altered"


class Damage(NamedTuple):
    """What came of damage at many places.

    Attributes:
        verdicts: how often which. silent: what nobody named. hidden: the same, of what cannot be
            noticed. without: silent ones without the product's look.
    """

    verdicts: Counter[str]
    silent: Counter[str]
    hidden: Counter[str]
    without: int


def corrupt(fleet: RecordedFleet, spots: int) -> Damage:
    """Damage the files that the server left at ``spots`` places, one at a time."""
    files = {name: data for name, data in fleet.files().items() if name in FILES}
    place = fleet.folder.with_suffix(".cut")
    whole = found_in(put(place, files))
    dice = random.Random(5)
    found = Damage(Counter(), Counter(), Counter(), 0)
    without = 0
    for number in range(spots):
        kind = ("bit", "sector of zeros", "cut short")[number % 3]
        name = FILES[number // 3 % len(FILES)]
        at = dice.randrange(len(files[name]))
        spoilt = {**files, name: spoil(files[name], kind, at, dice)}
        verdict = verdict_on(put(place, spoilt), whole)
        found.verdicts[verdict] += 1
        if verdict in ("lost", "altered"):
            kept = found.silent if is_defended(name, kind, verdict) else found.hidden
            kept[f"{name} {kind}: {verdict}"] += 1
        elif verdict.startswith("named"):
            without += verdict_on(put(place, spoilt), whole, False) in ("lost", "altered")
    return found._replace(without=without)


async def row_damage(place: Path, seconds: float, spots: int) -> Row:
    """5: what becomes of files that are damaged."""
    fleet, _ = await record(place / "five", seconds, "small-log")
    found = corrupt(fleet, spots)
    figure = f"{spots} damages: {said(found.verdicts, 6)}"
    if found.hidden:
        figure += f"; of these nobody can notice: {said(found.hidden, 6)}"
    return Row(
        "5", "store and log: a bit turned over, a sector of zeros, an end cut off",
        "a start refuses, says what is lost, `fleetnet check` names it, or all is there",
        figure + (f"; SILENT: {said(found.silent)}" if found.silent else ""), not found.silent,
        f"SQLite by itself: {found.without} of the named ones lose messages without a word",
        found.without > 0,
    )  # fmt: skip


async def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", default="4b,5")
    parser.add_argument("--cuts", type=int, default=400)
    parser.add_argument("--spots", type=int, default=600)
    options = parser.parse_args(words)
    seconds, count = (2.0, 60) if options.quick else (8.0, options.cuts)
    with tempfile.TemporaryDirectory(prefix="proof-power-") as made:
        place = Path(made)
        rows = []
        if "4b" in options.rows.split(","):
            rows.append(await row_power(place, seconds, count))
        if "5" in options.rows.split(","):
            spots = 90 if options.quick else options.spots
            rows.append(await row_damage(place, seconds, spots))
    return finish(rows, options.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
