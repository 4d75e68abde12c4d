"""The files that the rules look at."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ["fleetnet", "device_lib", "server", "tools"]
CPYTHON_PORT = ("openssl", "cpython")


def product_files() -> list[Path]:
    """Python files of the packages and the tools."""
    return sorted(path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py"))


def shared_files() -> list[Path]:
    """Python files that MicroPython runs: all of fleetnet but the CPython port, and device_lib."""
    shared = [
        path
        for path in (ROOT / "fleetnet").rglob("*.py")
        if not (path.parent.name == "ports" and path.name.startswith(CPYTHON_PORT))
    ]
    return sorted([*shared, *(ROOT / "device_lib").rglob("*.py")])


def committed_files() -> list[Path]:
    """What git tracks or would track; without git (a source archive), every file of ours."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        skipped = (".venv", ".tools", ".git", "__pycache__", "dist")
        return sorted(
            path
            for path in ROOT.rglob("*")
            if path.is_file() and not any(part.startswith(skipped) for part in path.parts)
        )
    return sorted(ROOT / name for name in listed if name and (ROOT / name).is_file())
