"""What is published is whole, the same each time, and pinned; see docs/releasing.md."""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from rules.tree import ROOT

CONTAINER = ROOT / "deploy" / "container"


def tool(name: str) -> ModuleType:
    """A program of tools/, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


release = tool("release")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout: nobody knows what is a source")
    out = tmp_path_factory.mktemp("release") / "dist"
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "release.py", "--snapshot", "--out", out],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_a_release_is_four_files_with_their_sums(dist: Path) -> None:
    version = release.versions()["fleetnet/__init__.py"]
    archives = {f"fleetnet-{version}.tar.gz", f"fleetnet-{version}-py3-none-any.whl"}
    names = {path.name for path in dist.iterdir()}
    assert names == archives | {f"fleetnet-{version}.cdx.json", "SHA256SUMS"}
    for line in (dist / "SHA256SUMS").read_text().splitlines():
        told, name = line.split("  ")
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == told
    assert len((dist / "SHA256SUMS").read_text().splitlines()) == 3


def test_the_bill_of_materials_is_what_the_lock_pins(dist: Path) -> None:
    (path,) = dist.glob("*.cdx.json")
    document = json.loads(path.read_text())
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "fleetnet"
    told = {one["name"]: one["version"] for one in document["components"]}
    assert told == {name: pinned for name, (pinned, _hashes) in pins("requirements.lock").items()}


def test_the_source_archive_has_what_the_checks_need(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    names = release.names_in(path)
    assert {"Makefile", "CHANGELOG.md", "SECURITY.md", "tests/core/vectors.json"} <= names


def pins(lock: str) -> dict[str, tuple[str, list[str]]]:
    """Return name -> (version, hashes) of a lock."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in (CONTAINER / lock).read_text().splitlines():
        if match := re.fullmatch(r"([a-z0-9-]+)==(\S+) \\", line):
            name = match[1]
            found[name] = (match[2], [])
        elif match := re.fullmatch(r"    --hash=sha256:([0-9a-f]{64})(?: \\)?", line):
            found[name][1].append(match[1])
        else:
            raise AssertionError(f"{lock}: {line}")
    return found


@pytest.mark.parametrize("lock", ["requirements.lock", "build.lock"])
def test_the_locks_pin_what_is_asked_for(lock: str) -> None:
    text = (CONTAINER / "Containerfile").read_text()
    extras = re.findall(r"^# extras: (\S+)$", text, re.M)
    if lock == "build.lock":
        wanted = re.findall(r'^requires = \["(.*)"\]$', (ROOT / "pyproject.toml").read_text(), re.M)
    else:
        wanted = tool("extras").requirements(extras[0].split(","))
    assert wanted
    found = pins(lock)
    for line in wanted:
        asked = Requirement(line)
        version, hashes = found[asked.name.lower().replace("_", "-")]
        assert Version(version) in asked.specifier, f"{lock} has {version} for {line}: make lock"
        assert hashes
    assert f"--require-hashes -r {lock}" in text


def test_files_that_tell_another_version_are_named() -> None:
    release.check_versions(True, release.versions())
    told = release.versions() | {"package.json": "9.9.9"}
    with pytest.raises(release.ReleaseError, match=r"package\.json says 9\.9\.9"):
        release.check_versions(True, told)
    told = release.versions() | {"CHANGELOG.md": "Unreleased"}
    with pytest.raises(release.ReleaseError, match=r"CHANGELOG\.md says Unreleased"):
        release.check_versions(False, told)


@pytest.mark.parametrize(
    ("packed", "problem"),
    [
        (["a.py", "fleet/ca/root.key"], "root.key"),
        (["a.py", "left-over.py"], "no sources .'left-over.py'."),
        ([], "missing .'a.py'."),
    ],
)
def test_an_archive_with_other_files_is_refused(
    tmp_path: Path, packed: list[str], problem: str
) -> None:
    archive, wheel = tmp_path / "x-1.tar.gz", tmp_path / "x-1-py3-none-any.whl"
    (tmp_path / "file").write_text("x")
    with tarfile.open(archive, "w:gz") as opened:
        for name in packed:
            opened.add(tmp_path / "file", f"x-1/{name}")
    zipfile.ZipFile(wheel, "w").close()
    with pytest.raises(release.ReleaseError, match=problem):
        release.check_archives(archive, wheel, {"a.py"})
