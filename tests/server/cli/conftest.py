"""Folders of fleets for the tests of commands."""

from pathlib import Path

import pytest

from fleetnet_server.fleet_folder import create_fleet


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A fleet without devices."""
    folder = tmp_path / "fleet"
    create_fleet(folder, ("localhost",))
    return folder
