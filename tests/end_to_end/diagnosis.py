"""Running the doctor of the device library on each interpreter, and reading what it printed."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from end_to_end.fleet import Fleet, faked_clock
from fleetnet_device.doctor import MARK
from fleetnet_server.sim.interpreters import device_environment
from interpreters import Interpreter, interpreters

RUNTIMES = [*interpreters(), None]


def name_of(runtime: Interpreter | None) -> str:
    return "cpython" if runtime is None else runtime.name


each_runtime = pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
each_micropython = pytest.mark.parametrize("runtime", interpreters(), ids=name_of)


class Diagnosis:
    """What the doctor printed: findings by check, the worst of each first."""

    def __init__(self, out: str):
        self.text = out
        lines = [line for line in out.splitlines() if line.startswith(MARK)]
        assert len(lines) == 1, out
        self.result: dict[str, Any] = json.loads(lines[0].removeprefix(MARK))
        remedies = [f["remedy"] for f in self.result["findings"] if f["remedy"]]
        assert all(f"\n      -> {remedy}\n" in out for remedy in remedies), out

    def levels(self) -> dict[str, str]:
        order = ("ok", "warn", "bad")
        found: dict[str, str] = {}
        for each in self.result["findings"]:
            before = found.get(each["check"], "ok")
            found[each["check"]] = max(before, each["level"], key=order.index)
        return found

    def of(self, check: str) -> str:
        """Text and remedy of the worst that was found there."""
        level = self.levels()[check]
        (found,) = [
            f for f in self.result["findings"] if (f["check"], f["level"]) == (check, level)
        ][:1]
        return f"{found['text']} -> {found['remedy']}"


async def diagnose(
    runtime: Interpreter | None,
    bundle: Path,
    timeout_ms: int = 10_000,
    clock: str = "",
    options: tuple[str, ...] = (),
    before: str = "",
    spool: Path | str = "",
) -> Diagnosis:
    """Run the doctor on ``bundle``; it must end cleanly whatever it meets.

    ``options``: of the interpreter. ``before``: statements that run before it.
    """
    call = f"run({str(bundle)!r}, {timeout_ms}, {str(spool)!r})"
    program = f"from fleetnet_device.doctor import run\n{before}\n{call}"
    process = await asyncio.create_subprocess_exec(
        runtime.path if runtime else sys.executable, *options, "-c", program,
        env=device_environment() | (faked_clock(clock) if clock else {}),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err) == (0, b""), out.decode() + err.decode()
    return Diagnosis(out.decode())


def bundle_of(fleet: Fleet, which: str = "cam-1", **config: object) -> Path:
    """A device's bundle that leads to both ports of the server, with changes in config.json."""
    bundle = fleet.folder / "devices" / which
    if not bundle.exists():
        fleet.add_device(which, "auto")
    document = json.loads((bundle / "config.json").read_text())
    document.update(tls_port=fleet.tls[1], dtls_port=fleet.dtls[1], **config)
    (bundle / "config.json").write_text(json.dumps(document))
    return bundle
