"""How much of each room do its own tests run?

    python tests/proof/own_coverage.py [--quick] [--only net] [--json FILE]

The coverage of a whole run says little: tests from one end to the other pass through nearly every
line and look at few of them. Here each room is judged by the tests of its folder alone, branches
included. What the tests start in processes of their own counts too: the commands are run so.
Not MicroPython, and no process that is killed. Expected: 85 % of each room; modules below 90 % are
printed with the lines that nothing runs.

--quick judges two rooms. The control is a room that is judged by another's tests.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from proof.verdict import ROOT, Row, arguments, finish

LEAST = 85.0
NAMED = 90.0
_SERVER = "server/fleetnet_server/"
_TESTS = "tests/server/"
_IDENTITY = ("ca", "cert", "server_cert", "anchor")
_WHOLE = "tests/end_to_end/test_"
_DEVICE = ("device_doctor", "doctor_bundle", "readings", "living")
# Room -> (its folder, its tests).
ROOMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "protocol": ("fleetnet", ("tests/core", "tests/test_frame_fuzz.py", "tests/ports")),
    # A device as a whole, and its doctor, need a server.
    "device": (
        "device_lib/fleetnet_device",
        ("tests/core", "tests/device", *(f"{_WHOLE}{one}.py" for one in _DEVICE)),
    ),
    # What these modules are for is a command each: `ca`, `cert`, `anchor`.
    "identity": (
        _SERVER + "identity",
        (_TESTS + "identity", *(f"{_TESTS}cli/test_{one}.py" for one in _IDENTITY)),
    ),
    "core": (_SERVER + "core", (_TESTS + "core", _TESTS + "store/test_bodies.py")),
    "net": (_SERVER + "net", (_TESTS + "net",)),
    "store": (_SERVER + "store", (_TESTS + "store",)),
    "web": (_SERVER + "web", (_TESTS + "web",)),
    "bridge": (_SERVER + "bridge", (_TESTS + "bridge",)),
    # `check` is the doctor before a start.
    "doctor": (
        _SERVER + "doctor",
        (_TESTS + "doctor", _TESTS + "cli/test_check.py", _TESTS + "cli/test_store_postgres.py"),
    ),
    # `sim` and `bench` start servers, devices and the peers that they are compared with.
    "sim": (
        _SERVER + "sim",
        (_TESTS + "sim", _WHOLE + "sim.py", _WHOLE + "sim_day.py", _TESTS + "cli/test_bench.py"),
    ),
    # `device install` wants boards, and `demo` real devices.
    "cli": (
        _SERVER + "cli",
        (_TESTS + "cli", "tests/docs", "tests/provision/test_device_install.py",
         _WHOLE + "made_fleets.py"),
    ),
}
QUICK = ("net", "identity")
# Files that MicroPython alone runs.
_ELSEWHERE = ("ports/micropython",)


class Module(NamedTuple):
    path: str
    percent: float
    missing: str


class Room(NamedTuple):
    name: str
    percent: float
    weak: list[Module]
    is_green: bool


def measure(name: str, folder: str, tests: tuple[str, ...]) -> Room:
    """Run the tests under coverage in a process of its own, and all that they start."""
    with tempfile.TemporaryDirectory() as place:
        settings, out = Path(place) / "settings", Path(place) / "coverage.json"
        # Absolute, as commands are started in other folders.
        settings.write_text(
            f"[run]\nbranch = true\nparallel = true\npatch = subprocess\nsource = {ROOT / folder}\n"
            f"data_file = {place}/data\ndisable_warnings = no-data-collected\n"
        )
        done = _coverage(settings, "run", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
        for line in done.stdout.splitlines() if done.returncode else ():
            if line.startswith(("FAILED", "ERROR")):
                print(f"    {line}", flush=True)
        _coverage(settings, "combine", "-q", place)
        _coverage(settings, "json", "-q", "-o", str(out))
        found = json.loads(out.read_text())
    weak, covered, everything = [], 0, 0
    for path, one in sorted(found["files"].items()):
        if any(part in path for part in _ELSEWHERE):
            continue
        summary = one["summary"]
        # Of a room that nothing has entered there is no word of branches.
        covered += summary["covered_lines"] + summary.get("covered_branches", 0)
        everything += summary["num_statements"] + summary.get("num_branches", 0)
        if summary["percent_covered"] < NAMED:
            weak.append(Module(path, summary["percent_covered"], spans(one["missing_lines"])))
    return Room(name, 100 * covered / max(everything, 1), weak, done.returncode == 0)


def _coverage(settings: Path, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coverage", verb, f"--rcfile={settings}", *words],
        cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def spans(lines: list[int]) -> str:
    """Write 1, 2, 3, 7 as "1-3, 7"."""
    found: list[list[int]] = []
    for line in lines:
        if found and found[-1][1] == line - 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def row_of(rooms: list[Room], control: Room) -> Row:
    low = [f"{room.name} {room.percent:.0f} %" for room in rooms if room.percent < LEAST]
    red = [room.name for room in rooms if not room.is_green]
    figures = ", ".join(f"{room.name} {room.percent:.1f} %" for room in rooms)
    failed = f"; tests failed in {', '.join(red)}" if red else ""
    return Row(
        "coverage",
        f"{len(rooms)} rooms, each by its own tests",
        f"{LEAST:.0f} % of lines and branches",
        f"{figures}{failed}; {sum(len(room.weak) for room in rooms)} modules below {NAMED:.0f} %",
        not low and not red,
        f"net by the tests of another room: {control.percent:.0f} %",
        control.percent < LEAST,
    )


def main(words: list[str]) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--only", action="append", choices=sorted(ROOMS))
    options = parser.parse_args(words)
    names = options.only or (QUICK if options.quick else tuple(ROOMS))
    rooms = []
    for name in names:
        rooms.append(measure(name, *ROOMS[name]))
        print(f"{name}: {rooms[-1].percent:.1f} %", flush=True)
        for module in rooms[-1].weak:
            print(f"    {module.percent:5.1f} %  {module.path}: {module.missing}", flush=True)
    control = measure("control", ROOMS["net"][0], (_TESTS + "identity/test_policy.py",))
    return finish([row_of(rooms, control)], options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
