"""The device's own doctor, run here or on a board: what it finds, it found as a device.

It prints a line for programs, ``fleetnet-doctor: {...}``; see device_lib's doctor.py.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from fleetnet_server.doctor.findings import BAD, OK, Finding

MARK = "fleetnet-doctor: "

# Above what it needs for two servers that say nothing: each connection has its own time-out.
_PATIENCE_S = 180
# What names a server that is not to be trusted; the chain was looked at here, too, and better.
_TRUST = ("WrongCA", "WrongName", "CertificateExpired", "CertificateNotYetValid", "TrustError")
_LAST_WORDS = 300


def run_here(bundle: Path, timeout_s: float = 10.0) -> list[Finding]:
    """Connect with a bundle over TLS and DTLS from this computer, as a device would.

    The server is asked whether it would open a session, which changes nothing there.
    """
    from fleetnet_server.sim.interpreters import device_environment

    call = f"run({str(bundle)!r}, {int(timeout_s * 1000)})"
    program = f"from fleetnet_device.doctor import run\n{call}"
    try:
        done = subprocess.run(  # noqa: S603 (our own interpreter and library)
            [sys.executable, "-c", program], capture_output=True, text=True, check=False,
            env=device_environment(), timeout=_PATIENCE_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        text = f"the device's own doctor did not end within {_PATIENCE_S} s"
        return [Finding("doctor", BAD, text, "report it as a bug of fleetnet")]
    return read(done.stdout + done.stderr)


def run_on(port: str, bundle: str | None = None, timeout_s: float = 10.0) -> list[Finding]:
    """Run it on the board at a serial port, with the bundle that `device install` put there.

    Raises:
        BoardError: no board answers there, or it has gone.
    """
    from fleetnet_server.provision.board import Board
    from fleetnet_server.provision.errors import BoardError

    with Board(port) as board:
        facts = board.facts()
        found = [Finding("board", OK, f"{facts.firmware}, {facts.heap_free} B of heap free")]
        place = bundle or _find_bundle(board.run(_FIND))
        if not place:
            text = "there are no credentials on the board"
            remedy = f"`fleetnet device install {port} --device NAME`"
            return [*found, Finding("board", BAD, text, remedy)]
        try:
            said = board.run(
                _RUN.format(bundle=place, timeout_ms=int(timeout_s * 1000)), _PATIENCE_S
            )
        except BoardError as error:
            return [*found, _why(port, str(error))]
    return [*found, *read(said)]


def _why(port: str, text: str) -> Finding:
    """Explain why not even the doctor ran."""
    if "MemoryError" in text:
        remedy = (
            f"reset the board and try again; `fleetnet device install {port} --mpy` needs less "
            "heap (docs/memory.md)"
        )
        return Finding("heap", BAD, "the heap is too small for the doctor itself", remedy)
    if "ImportError" in text or "no module" in text:
        remedy = f"`fleetnet device install {port}`"
        return Finding("board", BAD, "the library, or its doctor, is not on the board", remedy)
    return Finding("board", BAD, text, f"`fleetnet device install {port}` repairs the library")


def read(said: str) -> list[Finding]:
    """Read what the device's doctor printed."""
    found = [line for line in said.splitlines() if line.startswith(MARK)]
    try:
        document: dict[str, Any] = json.loads(found[-1].removeprefix(MARK))
        return [
            Finding(str(one["check"]), str(one["level"]), str(one["text"]), str(one["remedy"]))
            for one in document["findings"]
        ]
    except (IndexError, ValueError, KeyError, TypeError):
        text = f"the device's doctor said something else: {said[-_LAST_WORDS:].strip()!r}"
        return [Finding("doctor", BAD, text, "install the library again, of the same version")]


def without_known(found: list[Finding], known: list[Finding]) -> list[Finding]:
    """Leave out what the look at the chain, the bundle or the clock has already said better."""
    bad = {one.check for one in known if one.level == BAD}
    said = {one.check for one in known} & {"bundle", "clock", "name", "tcp"} | {"heap"}
    if bad & {"registry", "psk"}:
        said.add("session")
    kept: dict[object, Finding] = {}
    for one in found:
        is_known = one.check in said or ("chain" in bad and one.text.startswith(_TRUST))
        if not is_known or (one.check == "session" and one.level == OK):
            # A refusal over TLS and over DTLS is one.
            is_refusal = one.check == "session" and one.level == BAD
            kept.setdefault((one.check, one.remedy) if is_refusal else one, one)
    return list(kept.values())


def _find_bundle(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else ""


# The folder of `device install`, beside the library or in a ROMFS image.
_FIND = """
import os, sys
for _place in ("bundle", "/flash/bundle", "/sd/bundle", "/bundle", "/rom/bundle"):
    try:
        os.stat(_place + "/config.json")
        print(_place)
        break
    except OSError:
        pass
"""
_RUN = """
import gc, sys
for _name in list(sys.modules):
    if _name.startswith("fleetnet"):
        del sys.modules[_name]
gc.collect()
from fleetnet_device.doctor import run
run({bundle!r}, {timeout_ms})
"""
