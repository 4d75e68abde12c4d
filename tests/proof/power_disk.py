"""What may be on a disk when the power fails, from the diary of recorded_server.py.

What was synced is there. Of what was written to a file since its last fsync anything may be
there and anything missing: each sector of 512 bytes by itself, in any order, and one of them
torn. Names of files are taken to be durable at once: SQLite syncs the folder for those that
matter, and the store's are made when nothing has been acknowledged yet.
"""

import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECTOR = 512
KINDS = ("nothing", "everything", "some", "torn")
Files = dict[str, bytes]


def read_diary(path: Path) -> list[tuple[Any, ...]]:
    """Return the entries in order; the last may be cut, as the process was killed."""
    entries = []
    with path.open("rb") as file:
        while True:
            try:
                entries.append(pickle.load(file))  # noqa: S301 - this run's own process wrote it
            except (EOFError, pickle.UnpicklingError):
                return entries


def _apply(content: bytearray, entry: tuple[Any, ...]) -> None:
    if entry[0] == "truncate":
        size = entry[2]
        content.extend(bytes(max(0, size - len(content))))
        del content[size:]
        return
    _write(content, entry[2], entry[3])


def _write(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


class Disk:
    """The files while the diary is read on: durable content, and what is not synced yet."""

    def __init__(self, files: Files):
        self.durable = {name: bytearray(data) for name, data in files.items()}
        self.pending: dict[str, list[tuple[Any, ...]]] = {}

    def take(self, entry: tuple[Any, ...]) -> None:
        """Go on by one entry."""
        what, name = entry[:2]
        if what == "delete":
            self.durable.pop(name, None)
            self.pending.pop(name, None)
        elif what == "sync":
            content = self.durable.setdefault(name, bytearray())
            for one in self.pending.pop(name, []):
                _apply(content, one)
        elif what in ("write", "truncate"):
            self.pending.setdefault(name, []).append(entry)

    def after(self, kind: str, dice: random.Random) -> Files:
        """Return the files as a power cut of a kind leaves them now."""
        files = {name: bytearray(data) for name, data in self.durable.items()}
        for name, entries in self.pending.items():
            content = files.setdefault(name, bytearray())
            if kind == "everything":
                for entry in entries:
                    _apply(content, entry)
            elif kind in ("some", "torn"):
                for entry in entries:
                    self._apply_some(content, entry, kind, dice)
        return {name: bytes(data) for name, data in files.items()}

    def _apply_some(
        self, content: bytearray, entry: tuple[Any, ...], kind: str, dice: random.Random
    ) -> None:
        if entry[0] == "truncate":
            if dice.random() < 0.5:
                _apply(content, entry)
            return
        _, _, offset, data = entry
        at = offset
        while at < offset + len(data):
            end = min(offset + len(data), (at // SECTOR + 1) * SECTOR)
            piece = data[at - offset : end - offset]
            draw = dice.random()
            if kind == "torn" and draw < 0.1:
                piece = piece[: dice.randrange(len(piece) + 1)] + dice.randbytes(len(piece))
                piece = piece[: end - at]
            if draw < 0.5:
                _write(content, at, piece)
            at = end


def cuts(
    entries: list[tuple[Any, ...]], files: Files, count: int, seed: int
) -> Iterator[tuple[int, str, Files, dict[tuple[int, int, int], int]]]:
    """Place ``count`` power cuts over a diary.

    Half of them come right behind an acknowledgement, the rest anywhere.

    Yields:
        (place, kind, files, {key: checksum of the body} of all that was acknowledged before).
    """
    dice = random.Random(seed)
    told = [at for at, entry in enumerate(entries) if entry[0] == "acknowledged"]
    first = told[0] if told else 0
    wanted = dice.sample(told, min(len(told), count // 2))
    rest = range(first, len(entries))
    wanted += dice.sample(rest, min(len(rest), count - len(wanted)))
    stops = sorted(wanted)
    disk = Disk(files)
    acknowledged: dict[tuple[int, int, int], int] = {}
    at = 0
    for number, stop in enumerate(stops):
        for entry in entries[at : stop + 1]:
            if entry[0] == "acknowledged":
                acknowledged.update({tuple(key): check for *key, check in entry[1]})
            else:
                disk.take(entry)
        at = stop + 1
        kind = KINDS[number % len(KINDS)]
        yield stop, kind, disk.after(kind, dice), dict(acknowledged)
