"""Folders of fleets for the tests of commands: made once for a worker of a run, then copied."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fleetnet_server.config import load_settings
from fleetnet_server.device_bundles import add_device
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.store.sqlite import SqliteStore

Fleets = Callable[..., Path]


@pytest.fixture(scope="session")
def fleets(tmp_path_factory: pytest.TempPathFactory) -> Fleets:
    """Function (folder) that puts a fleet there; options: host, has_ca, device."""
    place = tmp_path_factory.mktemp("made")
    made: dict[tuple[str, bool, str], Path] = {}

    def make(folder: Path, host: str, has_ca: bool, device: str) -> Path:
        create_fleet(folder, (host,), has_ca=has_ca)
        if device:
            with SqliteStore(folder / "fleet.db") as store:
                add_device(folder, load_settings(folder), store, device)
        return folder

    def copy(
        folder: Path, host: str = "localhost", has_ca: bool = True, device: str = ""
    ) -> Path:
        kind = (host, has_ca, device)
        if kind not in made:
            made[kind] = make(place / str(len(made)), *kind)
        return Path(shutil.copytree(made[kind], folder))

    return copy


@pytest.fixture
def empty(fleets: Fleets, tmp_path: Path) -> Path:
    """A fleet without devices."""
    return fleets(tmp_path / "fleet")


@pytest.fixture
def bare(fleets: Fleets, tmp_path: Path) -> Path:
    """A fleet without a CA."""
    return fleets(tmp_path / "bare", has_ca=False)
