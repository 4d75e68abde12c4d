"""P8 and P9: the device's side, on real MicroPython."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fleets import Server, bundles
from processes import HERE, cores

from fleetnet_server.provision.compiling import contents, mpy_cross
from fleetnet_server.provision.library import library
from fleetnet_server.sim.interpreters import device_command, device_environment

_RUN_S = 8
_HEAP_KIB = (48, 1024)


def bundle_for(folder: Path, server: Server, link: str, target: Path) -> str:
    """Copy a device's bundle, with the ports of this server and the transport ``link``."""
    bundle = target / f"bundle-{link}"
    if not bundle.exists():
        shutil.copytree(bundles(folder, 2)[link == "tls"], bundle)
    config = json.loads((bundle / "config.json").read_text())
    config.update(
        host="127.0.0.1", tls_port=server.tls_port, dtls_port=server.dtls_port, transport=link
    )
    (bundle / "config.json").write_text(json.dumps(config))
    return str(bundle)


def _run(command: Sequence[str], timeout_s: float) -> dict[str, Any]:
    """Run a device program to its end; return its last line, {} when it failed."""
    try:
        done = subprocess.run(
            ["taskset", "-c", str(cores()[1]), *command],
            env=device_environment(), stdin=subprocess.PIPE, capture_output=True, text=True,
            timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"failed": done.stderr[-500:]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def stalls(interpreter: str, bundle: str, seconds: int) -> dict[str, Any]:
    """Run device_stalls.py. Raises RuntimeError when it did not do its work."""
    program = str(HERE / "device_stalls.py")
    found = _run([interpreter, program, bundle, str(seconds)], seconds + 20)
    if not found.get("sent") or found["sent"] != found["acknowledged"]:
        raise RuntimeError(f"the device program did not do its work: {found}")
    return found


def key_birth(interpreter: str, count: int) -> dict[str, int]:
    """Run key_birth.py: us of its steps. Raises RuntimeError when it failed."""
    found = _run([interpreter, str(HERE / "key_birth.py"), str(count)], 120)
    if "step" not in found:
        raise RuntimeError(f"no key was made: {found}")
    return found


def completes(interpreter: str, heap_kib: int, bundle: str) -> bool:
    """Say whether sim/device_main.py gets everything acknowledged in such a heap."""
    command = device_command(interpreter, bundle, "1", "5")
    found = _run([command[0], "-X", f"heapsize={heap_kib}K", *command[1:]], _RUN_S)
    return bool(found.get("done") and 0 < found["sent"] == found["acknowledged"])


def smallest_heap_kib(interpreter: str, bundle: str, step_kib: int) -> int | None:
    """Bisect the heap in which a device program completes; None: not even in the largest."""
    low, high = _HEAP_KIB
    if not completes(interpreter, high, bundle):
        return None
    while high - low > step_kib:
        middle = (low + high) // 2
        if completes(interpreter, middle, bundle):
            high = middle
        else:
            low = middle
    return high


# Files of numbers: constants where they are used in compiled files, which never import these.
_NUMBERS = frozenset((
    "fleetnet.codes", "fleetnet.kinds", "fleetnet.limits", "fleetnet.tags",
    "fleetnet.ports.micropython_records", "fleetnet_device.limits",
))  # fmt: skip


def mpy_bytes(modules: Sequence[str]) -> dict[str, int] | None:
    """Compile modules as `fleetnet device install` does; None without mpy-cross."""
    program = mpy_cross()
    if program is None:
        return None
    known = library()
    files = contents(known.values(), program)
    names = {name: module.target.removesuffix(".py") + ".mpy" for name, module in known.items()}
    wanted = [name for name in modules if name in names and name not in _NUMBERS]
    return {name: len(files[names[name]]) for name in wanted}
