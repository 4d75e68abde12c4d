"""Keys that other users of the machine can read keep the server from starting."""

from pathlib import Path

import pytest

from fleetnet_server.errors import FolderError
from fleetnet_server.identity.permissions import check_folder


@pytest.mark.parametrize(
    "name", ["ca/key.der", "server/key.der", "devices/cam-1/key.der", "hubs/hub-1/key.der", "a.key"]
)
def test_a_key_that_others_can_read(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    path = folder / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"secret")
    for one in (folder, *path.relative_to(folder).parents):
        (folder / one).chmod(0o755)
    path.chmod(0o600)
    check_folder(folder)
    path.chmod(0o644)
    with pytest.raises(FolderError, match="every user of this machine can read"):
        check_folder(folder)
    folder.chmod(0o700)  # nobody gets as far
    check_folder(folder)
