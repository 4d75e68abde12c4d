"""Folders of fleets for the tests of commands: made once for a worker of a run, then copied."""

import shutil
from pathlib import Path

import pytest

from fleetnet_server.fleet_folder import create_fleet


@pytest.fixture(scope="session")
def fleets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Fleets without devices: "whole", and "bare" without a CA. Nobody changes them."""
    place = tmp_path_factory.mktemp("made")
    create_fleet(place / "whole", ("localhost",))
    create_fleet(place / "bare", ("localhost",), has_ca=False)
    return {name: place / name for name in ("whole", "bare")}


@pytest.fixture
def empty(fleets: dict[str, Path], tmp_path: Path) -> Path:
    """A fleet without devices."""
    return Path(shutil.copytree(fleets["whole"], tmp_path / "fleet"))


@pytest.fixture
def bare(fleets: dict[str, Path], tmp_path: Path) -> Path:
    """A fleet without a CA."""
    return Path(shutil.copytree(fleets["bare"], tmp_path / "bare"))
