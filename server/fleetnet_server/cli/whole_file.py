"""A file that a command writes for its user: whole under its name, or not there at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleetnet_server.errors import FolderError


@contextmanager
def whole_file(path: Path, overwrite: bool) -> Iterator[Path]:
    """Give the name of a file beside ``path``, which is moved there when no error came.

    What is no file (a pipe, /dev/stdout) is written to as it is.

    Raises:
        FolderError: there is one and ``overwrite`` is False; an OSError came.
    """
    if path.exists() and not overwrite:
        raise FolderError(f"{path} exists and was left alone: --overwrite, or name another file")
    is_special = path.exists() and not path.is_file()
    temporary = path if is_special else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        if not is_special:
            os.replace(temporary, path)
    except OSError as error:
        raise FolderError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if not is_special:
            temporary.unlink(missing_ok=True)
