"""`fleetnet` on a disk that keeps a diary: for power.py.

    PROOF_DIARY=FILE python tests/proof/recorded_server.py -C FOLDER serve

SQLite writes through a layer of its own (an apsw VFS over the system's) that notes each write,
truncation, deletion and fsync in their order; what was acknowledged is noted among them, before
the device hears of it. PROOF_BREAK: see broken.py.
"""

import os
import pickle
import threading
import zlib
from typing import Any

import apsw

from fleetnet_server.cli.main import main
from fleetnet_server.store.writer import Writer
from proof import broken  # noqa: F401 - breaks what the environment names

_lock = threading.Lock()
_file = open(os.environ["PROOF_DIARY"], "ab", buffering=0)


def note(*entry: Any) -> None:
    """Write one entry: (what, ...)."""
    with _lock:
        _file.write(pickle.dumps(entry))


class Diary(apsw.VFS):
    """The system's files, and what is done to them."""

    def __init__(self) -> None:
        super().__init__("diary", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> "NotedFile":
        return NotedFile(name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        note("delete", os.path.basename(filename))
        super().xDelete(filename, syncdir)


class NotedFile(apsw.VFSFile):
    """One file; -shm is no file of the disk's, it goes with the process."""

    def __init__(self, name: Any, flags: list[int]):
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = os.path.basename(path or "temporary")
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        note("write", self._name, offset, bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        note("truncate", self._name, newsize)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        # The diary says that it was asked for; a real fsync would only make the run slow.
        note("sync", self._name)


def watch_acknowledgements() -> None:
    begin = Writer.__init__

    def init(self: Writer[Any], store: Any, on_durable: Any, **options: Any) -> None:
        def durable(done: list[Any]) -> None:
            note("acknowledged", [
                (message.epoch_id, message.stream, message.seq, checksum(message.body))
                for message, _, _ in done
            ])  # fmt: skip
            on_durable(done)

        begin(self, store, durable, **options)

    Writer.__init__ = init  # type: ignore[method-assign]


def checksum(body: str | bytes) -> int:
    return zlib.crc32(body.encode() if isinstance(body, str) else body)


if __name__ == "__main__":
    diary = Diary()
    watch_acknowledgements()
    main()
