"""What blobs may occupy, and what the service of blobs needs of the disk, injected by app."""

from pathlib import Path
from typing import NamedTuple, Protocol


class BlobLimits(NamedTuple):
    """What blobs may occupy.

    Attributes:
        blob_bytes: of one blob.
        device_partials: of one device at once: the one under way, one that was given up.
        partials: of all devices: each is an open file.
        partial_bytes: offered sizes of all partials together.
        idle_s: a partial that heard nothing for so long is dropped.
        busy_s: one that heard something since then is not dropped for another device.
    """

    blob_bytes: int = 64 << 20
    device_partials: int = 2
    partials: int = 512
    partial_bytes: int = 1 << 30
    idle_s: float = 600.0
    busy_s: float = 30.0


class BlobRow(NamedTuple):
    """One blob as it is kept; times are unix ms, ``time_ms`` None when it is unknown."""

    device_id: int
    number: int
    name: str
    content_format: int
    size: int
    sha256: bytes
    time_ms: int | None
    received_ms: int


class PartialFile(Protocol):
    """The file of a blob that is not complete. Raises OSError throughout.

    Attributes:
        path: where it is.
    """

    path: Path

    def write(self, offset: int, data: memoryview) -> None:
        """Put bytes in their place."""

    def digest(self) -> bytes:
        """Synchronise the content; return its SHA-256. Blocks for the disk."""

    def discard(self) -> None:
        """Close and remove it; harmless when that was done."""


class BlobStore(Protocol):
    """Where blobs are kept. Raises OSError and StoreUnavailable."""

    def is_stored(self, row: BlobRow) -> bool:
        """Say whether this device's blob of this number and content is kept."""

    def has_content(self, sha256: bytes, size: int) -> bool:
        """Say whether content is kept, of whatever blob."""

    def most_bytes(self, device_id: int) -> int | None:
        """Return how large one blob of a device can be, for its quota; None: there is none."""

    def open_partial(self, device_id: int, sha256: bytes) -> PartialFile:
        """Make an empty partial file."""

    async def keep(self, rows: list[BlobRow], partial: PartialFile | None) -> bool:
        """Keep blobs of one content, durably; False when the partial is not that content.

        ``partial`` None: the content is kept already; OSError when it is not any more. What is
        kept needs no discard.
        """
