"""The wheel holds three packages and nothing else, and a bare install of it works."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from rules.tree import ROOT

PACKAGES = {"fleetnet", "fleetnet_server", "fleetnet_device"}
NO_NETWORK = ("Could not find a version", "Temporary failure", "Max retries", "NewConnectionError")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = "from hatchling.builders.wheel import WheelBuilder as B; import sys\n"
    command += "print(next(B(sys.argv[1]).build(directory=sys.argv[2], versions=['standard'])))"
    done = run(sys.executable, "-c", command, ROOT, folder, cwd=folder)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an empty environment with the wheel and its base dependencies."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    done = run(*pip, "install", "--disable-pip-version-check", wheel, cwd=folder)
    if done.returncode != 0 and any(word in done.stderr for word in NO_NETWORK):
        pytest.skip("pip reaches no package index, so the wheel cannot be installed by itself")
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def test_the_wheel_holds_exactly_three_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    assert not [name for name in names if name.endswith((".pyc", ".der", ".pem", ".key"))]
    sources = {
        str(path.relative_to(ROOT / root))
        for root, package in [
            (".", "fleetnet"),
            ("server", "fleetnet_server"),
            ("device_lib", "fleetnet_device"),
        ]
        for path in (ROOT / root / package).rglob("*")
        if path.suffix in (".py", ".html", ".css", ".js", ".svg", ".typed")
    }
    assert sources <= set(names)


def test_a_bare_install_answers_help(bare: Path) -> None:
    done = run(bare / "fleetnet", "--help", cwd=bare)
    assert done.returncode == 0, done.stderr
    assert "Usage: fleetnet" in done.stdout
    assert run(bare / "fleetnet", "--version", cwd=bare).returncode == 0


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_each_package_imports_bare(bare: Path, package: str) -> None:
    done = run(bare / "python", "-W", "error", "-c", f"import {package}", cwd=bare)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["server", "device_lib", "tests", "tools"])
def test_folders_of_the_checkout_are_no_packages(bare: Path, folder: str) -> None:
    done = run(bare / "python", "-c", f"import {folder}", cwd=bare)
    assert done.returncode != 0
    assert "ModuleNotFoundError" in done.stderr


def test_the_editable_install_shows_no_more_than_the_wheel(tmp_path: Path) -> None:
    done = run(sys.executable, "-c", "import server", cwd=tmp_path)
    assert "ModuleNotFoundError" in done.stderr
