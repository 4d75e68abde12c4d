"""Identities that must end, and identities that two devices have.

    python tests/proof/identities.py [--rows 12,29]

12: devices with live sessions over TLS and DTLS, whose certificates an operator revokes: the
session ends, the device hears why, and whoever comes back with it is refused with the reason.
Control: a server that does not look at what operators do.

29: a second board with a copy of the key. The operator's alarm has to be there within seconds;
others notice nothing. Control: a server without the alarm.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from end_to_end.device_process import DeviceProcess, until  # noqa: E402
from fleetnet_server.store.schema import open_readable  # noqa: E402
from proof.lab import LabFleet, run_main  # noqa: E402
from proof.verdict import Row, arguments, finish, noticed  # noqa: E402

SOON_S = 5.0
WORD = "certificate is revoked"
# Devices print once a second.
LATE_S = 1.2


def is_refused(device: DeviceProcess) -> bool:
    return WORD in (device.last("error") or "")


async def revoked(place: Path, broken: str) -> tuple[list[str], str]:
    """Return what must not be, and the figure."""
    fleet = LabFleet(place, broken=broken)
    faults = []
    try:
        await fleet.start_server()
        live = [await fleet.start_device(f"out-{link}", link, None) for link in ("tls", "dtls")]
        stays = await fleet.start_device("stays", "tls", None)
        await fleet.until_online()
        done = await asyncio.gather(
            *(fleet.run("device", "revoke", one.name) for one in live)
        )
        # No fault of the server's: a control that ended here would have shown nothing.
        for one in done:
            assert not one.returncode, f"the command failed: {one.stderr}"
        took = await ended(live, "live sessions", faults)
        for one in live:
            await one.kill()
        again = [await fleet.start_device(one.name, one.name[4:], None) for one in live]
        new = await ended(again, "come-backs", faults)
        if any(one.counter("connects") for one in again):
            faults.append("a revoked device got in")
        await stays.until_acknowledged(20)
        if stays.counter("connects") != 1:
            faults.append("another device's session ended")
    finally:
        await fleet.close()
    return faults, (
        f"live TLS and DTLS sessions ended after {took:.1f} s, new ones refused {new:.1f} s after "
        "the start of the device's program, both with the reason"
    )


async def ended(devices: list[DeviceProcess], what: str, faults: list[str]) -> float:
    """Wait until all of them heard that they are revoked."""
    try:
        return await until(lambda: all(map(is_refused, devices)), "told", SOON_S + LATE_S)
    except AssertionError:
        left = [one.name for one in devices if not is_refused(one)]
        faults.append(f"{what} {', '.join(left)}: not told within {SOON_S:g} s")
        return SOON_S


async def cloned(place: Path, broken: str) -> tuple[list[str], str]:
    """Return what must not be, and the figure."""
    fleet = LabFleet(place, broken=broken)
    faults = []
    try:
        await fleet.start_server()
        await fleet.start_device("cam-1", "tls", None)
        stays = await fleet.start_device("stays", "dtls", None)
        await fleet.until_online()
        clone = await fleet.start_device("cam-1", "dtls", None)
        await until(lambda: clone.counter("connects") > 0, "the clone is in", 30)
        connection = open_readable(fleet.store)
        try:
            took = await until(
                lambda: connection.execute(
                    "SELECT count(*) FROM audit WHERE action = 'duplicate-identity'"
                ).get > 0,
                "alarm", SOON_S,
            )  # fmt: skip
        except AssertionError:
            took = SOON_S
            faults.append(f"no alarm within {SOON_S:g} s")
        finally:
            connection.close()
        await stays.until_acknowledged(20)
        if stays.counter("connects") != 1:
            faults.append("another device's session ended")
    finally:
        await fleet.close()
    return faults, f"alarm {took:.1f} s after the clone was in; the other device noticed nothing"


async def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", default="12,29")
    options = parser.parse_args(words)
    names = options.rows.split(",")
    cases = {
        "12": (revoked, "deaf", "certificates revoked, with live sessions over TLS and DTLS",
               f"ended within {SOON_S:g} s, come-backs refused, both with the reason",
               "a server that does not look", "live sessions .* not told within"),
        "29": (cloned, "no-alarm", "a second board with a copy of a device's key",
               f"alarm in the audit log within {SOON_S:g} s", "a server without the alarm",
               "no alarm within"),
    }  # fmt: skip
    rows = []
    with tempfile.TemporaryDirectory(prefix="proof-identities-") as made:
        for row, (work, broken, fault, expected, control, sign) in cases.items():
            if row not in names:
                continue
            (faults, figure), (seen, _) = await asyncio.gather(
                work(Path(made) / row, ""), work(Path(made) / broken, broken)
            )
            rows.append(Row(
                row, fault, expected, "; ".join([figure, *faults]), not faults,
                f"{control}: {'; '.join(seen)}", noticed(seen, sign),
            ))  # fmt: skip
    return finish(rows, options.json)


if __name__ == "__main__":
    sys.exit(run_main(main))
