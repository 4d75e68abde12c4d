"""The receiving half of one blob: which chunks are here.

Keeps no content: its owner writes each chunk to where it belongs. Memory does not grow
with the blob. Used by the back-end, and by hubs. Source: docs/protocol.md section 13.
"""

from fleetnet import limits
from fleetnet.blobs import RECEIVING, Offer, State
from fleetnet.errors import ProtocolError


class BlobReceiver:
    """What has arrived of one blob.

    Attributes:
        offer: size, chunk size and hash, as first heard.
        held: chunks 0 .. held-1 are here.
        duplicates: chunks that came more than once.
    """

    def __init__(self, offer: Offer):
        self.offer = offer
        self.held = 0
        self.duplicates = 0
        # Bit i: chunk held + i is here; bit 0 is never set.
        self._bits = 0

    @property
    def is_complete(self) -> bool:
        """Every chunk is here."""
        return self.held == self.offer.count

    def wants(self, index: int, length: int) -> bool:
        """Say whether chunk ``index`` shall be written, and then given to ``take``.

        Raises:
            ProtocolError: no such chunk, or another length than it must have.
        """
        offer = self.offer
        if index >= offer.count or length != offer.length_of(index):
            raise ProtocolError("chunk %d of %d B of blob %d" % (index, length, offer.id))
        ahead = index - self.held
        if ahead < 0 or self._bits >> ahead & 1:
            self.duplicates += 1
            return False
        return ahead < limits.BLOB_SPAN

    def take(self, index: int) -> None:
        """Chunk ``index`` is written."""
        self._bits |= 1 << (index - self.held)
        while self._bits & 1:
            self._bits >>= 1
            self.held += 1

    def state(self, id: int, echo: int, credit: int = limits.BLOB_WINDOW) -> State:
        """Return what to tell the sender, who calls the blob ``id`` on this link."""
        state = State(id, RECEIVING, echo)
        state.credit = credit
        state.held = self.held
        bits = self._bits >> 1
        bitmap = bytearray()
        while bits:
            bitmap.append(bits & 0xFF)
            bits >>= 8
        state.bitmap = bytes(bitmap)
        return state
