"""P8, P9, P13: a device on real MicroPython."""

import sys
import tempfile
from pathlib import Path

import devices
from figures import Row
from fleets import serving
from rows import Bench

from fleetnet_server.sim.interpreters import micropythons


def p8_p9(bench: Bench) -> None:
    """Memory and stalls."""
    found = micropythons()
    if not found:
        bench.table.note("P8, P9: no MicroPython here: see tools/get_micropython.sh")
        return
    bench.table.note("P8: Debian's interpreters keep mbedTLS off the heap: 27.6 KB more on a port "
                     "that does not.")  # fmt: skip
    modules: dict[str, set[str]] = {"tls": set(), "dtls": set()}
    with (
        tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name,
        serving(bench.folder) as server,
    ):
        for interpreter, version in found:
            for link in ("tls", "dtls"):
                bundle = devices.bundle_for(bench.folder, server, link, Path(name))
                modules[link] |= _stalls(bench, interpreter, version, link, bundle)
        for link in ("tls", "dtls"):
            _sizes(bench, link, sorted(modules[link]))
        interpreter, version = found[0]
        for link in ("tls", "dtls"):
            bundle = devices.bundle_for(bench.folder, server, link, Path(name))
            heap = devices.smallest_heap_kib(interpreter, bundle, 64 if bench.quick else 8)
            if heap is None:
                bench.table.note(f"P8: the device program over {link} did not complete")
                continue
            what = f"heap of a device over {link.upper()}, source imported"
            bench.table.add(Row("P8", f"{what}, MicroPython {version}", heap, "KiB"))


def _stalls(bench: Bench, interpreter: str, version: str, link: str, bundle: str) -> set[str]:
    try:
        seen = devices.stalls(interpreter, bundle, 2 if bench.quick else 5)
    except RuntimeError as error:
        bench.table.note(f"P9: MicroPython {version}, {link}: {error}")
        return set()
    what = f"{link.upper()}, MicroPython {version}"
    bench.table.add(
        Row("P9", f"longest stall once connected, {what}", seen["other_us"] / 1000, "ms", 5.0,
            at_most=True)
    )  # fmt: skip
    bench.table.add(
        Row("P9", f"longest stall of the handshake, crypto step included, {what}",
            seen["handshake_us"] / 1000, "ms")
    )  # fmt: skip
    bench.table.add(Row("P8", f"steady mem_alloc, {what}", seen["mem_alloc"] / 1024, "KiB"))
    return set(seen["modules"])


def _sizes(bench: Bench, link: str, modules: list[str]) -> None:
    sizes = devices.mpy_bytes(modules)
    if sizes is None:
        bench.table.note("P8: mpy-cross is not installed: no sizes")
        return
    bench.table.details[f"mpy {link}"] = sizes
    total = sum(sizes.values()) / 1024
    what = f".mpy that a device imports for {link.upper()}, {len(sizes)} modules"
    bench.table.add(Row("P8", what, total, "KiB", 40, at_most=True))


def p13(bench: Bench) -> None:
    """A key and a certificate request made on the device."""
    found = [(f"MicroPython {version}", path) for path, version in micropythons()]
    for what, interpreter in [*found, ("CPython", sys.executable)]:
        seen = devices.key_birth(interpreter, 20 if bench.quick else 100)
        bench.table.details[f"P13 {what}"] = seen
        bench.table.add(
            Row("P13", f"key and request, longest step, median, {what}", seen["step"] / 1000,
                "ms", 1.0, at_most=True)
        )  # fmt: skip
        for key, text in (("step_95", "longest step, 95 of 100"), ("whole", "whole, median")):
            what_else = f"key and request, {text}, {what}"
            bench.table.add(Row("P13", what_else, seen[key] / 1000, "ms"))
