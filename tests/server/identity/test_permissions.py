"""Keys that other users of the machine can read keep the server from starting."""

import subprocess
from pathlib import Path

import pytest

from fleetnet_server.errors import FolderError
from fleetnet_server.identity.permissions import check_folder, close_it, loose_keys


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


def test_a_folder_that_everybody_can_write_is_not_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(FolderError, match=r"can be written by every user.*chmod o-w"):
        check_folder(tmp_path)


def test_many_keys_are_counted_and_the_remedy_closes_them(tmp_path: Path) -> None:
    keys = [tmp_path / f"{number}.key" for number in range(5)]
    for path in keys:
        path.write_bytes(b"secret")
        path.chmod(0o604)
    tmp_path.chmod(0o755)
    with pytest.raises(FolderError, match=r"2\.key and 2 more: chmod -R go-rwx"):
        check_folder(tmp_path)
    subprocess.run(close_it(tmp_path).split(), check=True)
    tmp_path.chmod(0o755)
    check_folder(tmp_path)


def test_keys_that_rely_on_their_folder(tmp_path: Path) -> None:
    for name, mode in (("ca/1/key.der", 0o640), ("server/key.der", 0o600), ("secret.key", 0o604)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"secret")
        path.chmod(mode)
    assert loose_keys(tmp_path) == [
        (tmp_path / "ca/1/key.der", 0o640),
        (tmp_path / "secret.key", 0o604),
    ]
