"""Finding the MicroPython of this machine, and starting device programs with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fleetnet
import fleetnet_device

# Where one is looked for, as messages and documents say it.
PLACES = (
    "in FLEETNET_MICROPYTHON, on PATH, in .tools of this folder, or of the checkout that "
    "fleetnet is of"
)

_PROBE = "import sys, tls; print('%d.%d' % sys.implementation[1][:2])"


def micropythons() -> list[tuple[str, str]]:
    """Return (command, version) of each usable MicroPython, oldest first.

    Looked for in FLEETNET_MICROPYTHON (paths separated by ``:``), on PATH, and in .tools of the
    working directory and of fleetnet's checkout, where `make demo` puts its own.
    """
    named = [path for path in os.environ.get("FLEETNET_MICROPYTHON", "").split(":") if path]
    on_path = shutil.which("micropython")
    unpacked = [
        path
        for folder in _tools_folders()
        for path in sorted(folder.glob("micropython-*/micropython"))
    ]
    found: dict[str, str] = {}
    for command in [*named, *([on_path] if on_path else []), *map(str, unpacked)]:
        version = _version(command)
        if version is not None:
            found.setdefault(version, os.path.abspath(command))
    return sorted(((path, version) for version, path in found.items()), key=_by_version)


def _tools_folders() -> list[Path]:
    """.tools of the working directory, beside the packages, and beside CHECKOUT/.venv."""
    checkout = Path(str(fleetnet.__file__)).resolve().parent.parent
    places = (Path.cwd(), checkout, Path(sys.prefix).parent)
    return [place / ".tools" for place in dict.fromkeys(places)]


def _by_version(entry: tuple[str, str]) -> tuple[int, ...]:
    return tuple(int(part) for part in entry[1].split("."))


def _version(command: str) -> str | None:
    try:
        answer = subprocess.run(  # noqa: S603 (the command is the operator's)
            [command, "-c", _PROBE], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def device_environment() -> dict[str, str]:
    """Return an environment in which either interpreter finds the device's packages."""
    packages = (fleetnet, fleetnet_device)
    roots = [str(Path(str(package.__file__)).parent.parent) for package in packages]
    environment = dict(os.environ)
    environment["MICROPYPATH"] = ":".join([".frozen", *dict.fromkeys(roots)])
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(roots))
    # MicroPython hands out each line at once; CPython would keep them to the end.
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def device_command(interpreter: str | None, *arguments: str) -> list[str]:
    """Return the command of device_main; ``interpreter`` None: this CPython."""
    program = str(Path(__file__).with_name("device_main.py"))
    return [interpreter or sys.executable, program, *arguments]
