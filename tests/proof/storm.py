"""A fleet whose server restarts: is everybody back at the rate that is set, and at what cost?

    python tests/proof/storm.py [--devices 5000] [--rate 0.1]

`fleetnet sim` with the real device library, over TLS and DTLS in turn, against a real `fleetnet
serve` on this machine. Twice the fleet is well: the server restarts by SIGTERM, and by kill -9.
Once it is the known bad one: devices that try again every half second, whatever the server asks.

Exit code 0: everybody was back within devices / sessions_per_s plus a tenth of the moment when
the server accepted again, with at most 1.5 handshakes a device, and no reading was lost or stored
twice; and the bad fleet failed this. An attempt at a port where nobody listens is no handshake: it
costs the server nothing, and a device that waited long before its first one would be away for
long whenever its Wi-Fi was for a moment. FLEETNET_SESSIONS_PER_S sets another rate than 200.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_PATH = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]
if __name__ == "__main__":
    sys.path[:0] = _PATH

from fleetnet_server.fleet_folder import create_fleet  # noqa: E402
from proof.verdict import Row, arguments, finish, noticed  # noqa: E402

# Handshakes that each device asks for, from the storm until it is back.
MOST_HANDSHAKES = 1.5

# A run is 40 s of ramp, a storm of half a minute, and the wait for keepalives; several times that.
_PATIENCE_S = 600


class Run(NamedTuple):
    """One run: what is done, and whether it has to fail."""

    title: str
    arguments: tuple[str, ...]
    is_bad: bool = False


RUNS = (
    Run("restart", ("--storm", "restart")),
    Run("kill -9", ("--storm", "kill")),
    Run("impatient", ("--storm", "restart", "--impatient"), is_bad=True),
)


def faults_of(found: dict[str, Any]) -> list[str]:
    """What must not be in a report of `fleetnet sim --storm`; [] is good."""
    storm = found["storm"]
    faults = []
    if storm["hit"] != found["devices"]:
        faults.append(f"only {storm['hit']} were online when the storm came")
    if storm["back"] != storm["hit"]:
        faults.append(f"{storm['hit'] - storm['back']} did not come back")
    if not storm["within_limit"]:
        faults.append(f"back after {storm['took_s']} s, not within {storm['limit_s']} s")
    if storm["handshakes_per_device"] > MOST_HANDSHAKES:
        faults.append(f"{storm['handshakes_per_device']} handshakes a device")
    if not found["complete"]:
        faults.append("readings are lost, stored twice or not acknowledged")
    return faults


def report(folder: Path, run: Run, devices: int, rate: float) -> dict[str, Any]:
    """Run the simulator; return its report."""
    command = [
        sys.executable, "-m", "fleetnet_server.cli.main", "-C", str(folder), "sim",
        "--devices", str(devices), "--rate", str(rate), "--ramp", "130", "--json", *run.arguments,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_PATH)}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, timeout=_PATIENCE_S, check=False
    )
    if not done.stdout:
        raise SystemExit(f"{run.title}: fleetnet sim said nothing, exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def table(results: list[tuple[Run, dict[str, Any]]]) -> str:
    """The runs for people, one a column."""
    rows: list[tuple[str, list[object]]] = [("", [run.title for run, _ in results])]

    def add(name: str, *keys: str) -> None:
        row: list[object] = []
        for _, found in results:
            value: Any = found
            for key in keys:
                value = value[key] if value is not None else None
            row.append("-" if value is None else value)
        rows.append((name, row))

    add("devices", "devices")
    add("online when it came", "storm", "hit")
    add("back", "storm", "back")
    add("attempts a device", "storm", "attempts_per_device")
    add("  that found a server", "storm", "handshakes_per_device")
    add("server away, s", "storm", "server_away_s")
    add("all back after its return, s", "storm", "took_s")
    add("  limit, s", "storm", "limit_s")
    add("most sessions a second", "storm", "most_per_s")
    add("readings sent", "sent")
    add("  lost", "store", "lost")
    add("  stored twice", "store", "twice")
    for who in ("server", "simulator"):
        add(f"{who}, steady: % of a core", "steady", who, "cpu_percent")
        add("  ms a device and second", "steady", who, "cpu_ms_per_device_s")
        add("  bytes a device", "steady", who, "rss_bytes_per_device")
    return "\n".join(
        f"{name:<34}" + "".join(f"{cell!s:>12}" for cell in cells) for name, cells in rows
    )


def verdict(run: Run, found: dict[str, Any]) -> tuple[bool, str]:
    """Say whether a run is as it has to be, and in words."""
    faults = faults_of(found)
    said = "; ".join(faults) or "kept"
    if run.is_bad:
        return noticed(faults, "handshakes a device"), f"{run.title} (has to fail): {said}"
    return not faults, f"{run.title}: {said}"


def row_of(judged: list[tuple[Run, bool, str, dict[str, Any]]]) -> Row:
    """The scoreboard's row: what the good fleets did, and whether the bad one was noticed."""
    good = [one for one in judged if not one[0].is_bad]
    bad = [one for one in judged if one[0].is_bad]
    figures = [
        f"{run.title}: {found['storm']['back']} of {found['storm']['hit']} back in "
        f"{found['storm']['took_s']} s, {found['storm']['attempts_per_device']} attempts each, "
        f"{found['storm']['handshakes_per_device']} of them heard"
        for run, _, _, found in good
    ]
    return Row(
        "7", "server restarts under its devices, by SIGTERM and by kill -9",
        f"all back at the rate that is set (60 s for 10,000), {MOST_HANDSHAKES} handshakes "
        "each at most, no reading lost or twice",
        "; ".join(figures + [said for _, is_right, said, _ in good if not is_right]),
        all(is_right for _, is_right, _, _ in good), "; ".join(one[2] for one in bad),
        all(one[1] for one in bad),
    )  # fmt: skip


def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--devices", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=0.1, help="readings a second and device")
    options = parser.parse_args(words)
    results = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "fleet"
        create_fleet(folder, ("localhost",))
        for run in RUNS:
            results.append((run, report(folder, run, options.devices, options.rate)))
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{os.cpu_count()} cores, load at the end {load}\n{table(results)}")
    judged = [(run, *verdict(run, found), found) for run, found in results]
    for _, is_right, said, _ in judged:
        print(said if is_right else f"FAULT {said}")
    return finish([row_of(judged)], options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
