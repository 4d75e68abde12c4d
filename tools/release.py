"""Build what is published, and check it: `make release`, or `python tools/release.py --snapshot`.

Into dist/: the source archive, the wheel, a bill of materials of what the container installs
(CycloneDX), and SHA256SUMS. Everything is built again, out of the archive, and has to be the same
byte by byte: anybody can compare. Nothing is uploaded.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LOCK = ROOT / "deploy" / "container" / "requirements.lock"
# What no archive may hold, whoever made it in the checkout.
SECRETS = re.compile(r"\.(key|pem|der|db|sqlite|mpy|pyc)$|(^|/)\.(tools|venv)")


class ReleaseError(Exception):
    """Something has to be put right before this can be published."""


def run(*command: str | Path, epoch: int = 0, cwd: Path = ROOT) -> str:
    """Run a command and return what it printed; raises ReleaseError with that when it fails."""
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(epoch)}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        words = f"{done.stdout}{done.stderr}".strip()
        raise ReleaseError(f"{Path(command[0]).name} {command[1]} failed:\n{words}")
    return done.stdout


def versions(root: Path = ROOT) -> dict[str, str]:
    """Return the version that each file tells."""

    def found(pattern: str, path: str) -> str:
        match = re.search(pattern, (root / path).read_text(encoding="utf-8"), re.M)
        return match[1] if match else "none"

    return {
        "fleetnet/__init__.py": found(r'^__version__ = "(.+)"$', "fleetnet/__init__.py"),
        "package.json": json.loads((root / "package.json").read_text())["version"],
        "manifest.py": found(r'version="([^"]+)"', "manifest.py"),
        "CHANGELOG.md": found(r"^## \[?(\d[^\] ]*|Unreleased)", "CHANGELOG.md"),
    }


def check_versions(is_snapshot: bool, found: dict[str, str]) -> str:
    """Return the version; raises ReleaseError when the files do not agree."""
    version = found["fleetnet/__init__.py"]
    if is_snapshot and found["CHANGELOG.md"] == "Unreleased":
        found = found | {"CHANGELOG.md": version}
    other = {name: one for name, one in found.items() if one != version}
    if other:
        told = ", ".join(f"{name} says {one}" for name, one in other.items())
        raise ReleaseError(f"this is to be {version}, but {told}; docs/releasing.md has the steps")
    return version


def check_tree() -> int:
    """Return the time of the last commit (unix s); raises when something is not committed."""
    changed = run("git", "status", "--porcelain").strip()
    if changed:
        raise ReleaseError(f"commit first, or use --snapshot:\n{changed}")
    return int(run("git", "log", "-1", "--format=%ct"))


def build(source: Path, folder: Path, epoch: int) -> tuple[Path, Path]:
    """Build the source archive of ``source``, and the wheel out of it; return both."""
    run(BIN / "hatchling", "build", "-t", "sdist", "-d", folder, epoch=epoch, cwd=source)
    (archive,) = folder.glob("*.tar.gz")
    with unpacked(archive) as inner:
        run(BIN / "hatchling", "build", "-t", "wheel", "-d", folder, epoch=epoch, cwd=inner)
    (wheel,) = folder.glob("*.whl")
    return archive, wheel


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Unpack a source archive into a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as place:
        with tarfile.open(archive) as opened:
            opened.extractall(place, filter="data")
        (source,) = Path(place).iterdir()
        yield source


def names_in(path: Path) -> set[str]:
    """Return the files of an archive, those of a source archive without its first folder."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return set(wheel.namelist())
    with tarfile.open(path) as archive:
        return {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}


def check_archives(archive: Path, wheel: Path, sources: set[str]) -> None:
    """Refuse what is missing, what is no source, and what may be a secret."""
    for path in (archive, wheel):
        secret = sorted(name for name in names_in(path) if SECRETS.search(name))
        if secret:
            raise ReleaseError(f"{path.name} holds {', '.join(secret)}: remove it, build again")
    there = names_in(archive) - {"PKG-INFO"}
    if there != sources:
        extra, missing = sorted(there - sources), sorted(sources - there)
        raise ReleaseError(f"{archive.name}: no sources {extra}, missing {missing}")
    run(BIN / "twine", "check", "--strict", archive, wheel)


def bill_of_materials(folder: Path, version: str) -> Path:
    """Write what the container installs: versions, addresses as purl, hashes."""
    path = folder / f"fleetnet-{version}.cdx.json"
    run(
        BIN / "cyclonedx-py", "requirements", LOCK, "--pyproject", ROOT / "pyproject.toml",
        "--of", "JSON", "--sv", "1.6", "--output-reproducible", "-o", path,
    )  # fmt: skip
    document = json.loads(path.read_text(encoding="utf-8"))
    document["metadata"]["component"]["version"] = version
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def sums(paths: list[Path]) -> str:
    """Return the lines of SHA256SUMS."""
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(paths)
    )


def release(out: Path, is_snapshot: bool) -> list[Path]:
    """Build and check everything into ``out``, which is made anew; return the files.

    Raises:
        ReleaseError: with what to put right; ``out`` is as it was.
    """
    version = check_versions(is_snapshot, versions())
    epoch = int(run("git", "log", "-1", "--format=%ct")) if is_snapshot else check_tree()
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    sources = {name for name in listed if (ROOT / name).exists()}
    with tempfile.TemporaryDirectory() as place:
        first, second = (Path(place, name) for name in ("first", "second"))
        archive, wheel = build(ROOT, first, epoch)
        check_archives(archive, wheel, sources)
        built = [archive, wheel, bill_of_materials(first, version)]
        with unpacked(archive) as source:
            (source / "PKG-INFO").unlink()  # is made anew, and would be in there twice
            again = [*build(source, second, epoch), bill_of_materials(second, version)]
        if sums(built) != sums(again):
            raise ReleaseError(f"two builds differ:\n{sums(built)}\n{sums(again)}")
        (first / "SHA256SUMS").write_text(sums(built), encoding="ascii")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(first, out)
    return sorted(out.iterdir())


def main() -> int:
    """Build, and say what is there."""
    parser = argparse.ArgumentParser(description="Build what is published, and check it.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--snapshot", action="store_true", help="of the tree as it is")
    wanted = parser.parse_args()
    try:
        made = release(wanted.out, wanted.snapshot)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    for path in made:
        print(f"  {path.stat().st_size:>9,} B  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
