"""Files with keys in them: whole or not at all, also when the disk is full."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleetnet_server.errors import FolderError
from fleetnet_server.identity.files import (
    move_folder_into_place,
    replace_file,
    write_new_file,
)


@contextmanager
def full_disk(left: int) -> Iterator[None]:
    """No file may become larger than ``left`` bytes (the kernel says EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_is_private_and_takes_nobodys_place(tmp_path: Path) -> None:
    path = tmp_path / "key.der"
    write_new_file(path, b"key")
    assert path.read_bytes() == b"key" and path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FolderError, match="exists and was left alone"):
        write_new_file(path, b"another")
    assert path.read_bytes() == b"key" and names(tmp_path) == ["key.der"]


def test_a_full_disk_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    old, new = tmp_path / "old.der", tmp_path / "new.der"
    old.write_bytes(b"old key")
    with full_disk(64):
        for write, path in ((write_new_file, new), (replace_file, old)):
            with pytest.raises(OSError, match="too large"):
                write(path, bytes(100_000))
    assert names(tmp_path) == ["old.der"] and old.read_bytes() == b"old key"


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "key.der").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "key.der", b"key")
    assert names(tmp_path) == ["key.der"]


def test_a_folder_takes_the_place_of_an_empty_one_only(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key.der").write_bytes(name.encode())
    (tmp_path / "cam-1").mkdir()
    move_folder_into_place(tmp_path / "first", tmp_path / "cam-1")
    with pytest.raises(FolderError, match="left alone"):
        move_folder_into_place(tmp_path / "second", tmp_path / "cam-1")
    assert (tmp_path / "cam-1" / "key.der").read_bytes() == b"first"
    (tmp_path / "cam-2").write_bytes(b"")
    with pytest.raises(FolderError, match="exists and was left alone"):
        move_folder_into_place(tmp_path / "second", tmp_path / "cam-2")
    assert names(tmp_path) == ["cam-1", "cam-2", "second"]
