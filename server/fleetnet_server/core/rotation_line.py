"""What is known of one device's identity while its session lasts: when it needs another one."""

from typing import TYPE_CHECKING

from fleetnet_server.core.rotation_ports import OFFERED, WORKING, Facts, Wanted

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

# A session may end in the middle of an offer for reasons that have nothing to do with it; a
# device that ends at every offer is left in peace.
_FREE_CUTS = 3

# What a device says of an offer that its last session cut off comes right behind HELLO.
_LISTEN_MS = 2_000

# Later than any time, for comparing.
_NEVER_MS = 1 << 60


def backoff_ms(tries: int) -> int:
    """Return how long a device is left alone after its ``tries``-th failure in a row."""
    return int(min(HOUR_MS << min(max(tries, 1) - 1, 10), DAY_MS))


class Line:
    """One session's view; times are unix ms.

    Attributes:
        number: of the identity that the device uses. next_number: for the next offer.
        is_known: the store has it as working, with this certificate.
        must_retire: there are older identities, or certificates nobody should use any more.
        offered: number of the offer under way on this link, 0: none; offered_ms: since when.
        awaits_csr: a REQUEST is out. unsent: a frame that had no room.
        cut_off: number of an offer that an earlier session left.
        not_before_ms: no offer before this. due_ms: a third of the certificate's life is left.
        asked_ms: somebody wants a new identity; None: nobody does.
        is_queued: it waits for its turn. look_ms: when it is looked at next, 0: not.
    """

    __slots__ = (
        "asked_ms", "awaits_csr", "cut_off", "due_ms", "generation", "is_first", "is_known",
        "is_queued", "look_ms", "marks", "must_retire", "next_number", "not_before_ms", "number",
        "offered", "offered_ms", "peer", "pins", "unsent",
    )  # fmt: skip

    def __init__(self, peer: "Peer", number: int, facts: Facts, now_ms: int):
        self.peer = peer
        self.number = number
        self.offered = self.offered_ms = self.look_ms = 0
        self.awaits_csr = False
        self.unsent = b""
        self.is_queued = False
        self.asked_ms: int | None = None
        self.take(facts, now_ms)

    def take(self, facts: Facts, now_ms: int) -> None:
        """Read the facts of the device anew."""
        rows = facts.identities
        mine = next((row for row in rows if row.number == self.number), None)
        self.is_first = facts.is_first
        self.is_known = facts.is_first or (
            mine is not None and mine.state == WORKING and mine.serial == self.peer.serial
        )
        self.marks, self.pins = (mine.marks, mine.pins) if mine is not None else ("", "")
        certificate = facts.certificate
        self.generation = certificate.generation if certificate is not None else None
        self.due_ms = _NEVER_MS
        if certificate is not None:
            life_ms = certificate.not_after_ms - certificate.issued_ms
            self.due_ms = certificate.not_after_ms - life_ms // 3
        self.asked_ms = facts.asked_ms
        self.must_retire = self.number > 0 and (
            facts.others > 0 or any(row.state == WORKING for row in rows if row is not mine)
        )
        newest = rows[0] if rows else None
        self.next_number = max(self.number, newest.number if newest else 0) + 1
        self.cut_off = 0
        self.not_before_ms = 0
        if newest is None or newest is mine:
            return
        if newest.state in (OFFERED, WORKING):
            # The device went back to its older identity, and may say why.
            self.cut_off = newest.number
            self.not_before_ms = now_ms + _LISTEN_MS
        if newest.state == OFFERED:
            if newest.serial is None:
                # Its key may be made by now, and takes a small board a while.
                self.next_number = newest.number
            if newest.tries >= _FREE_CUTS:
                self.not_before_ms = now_ms + backoff_ms(newest.tries - _FREE_CUTS + 1)
        elif newest.ended_ms is not None and newest.tries:
            self._wait_from(newest.ended_ms, newest.tries)

    def need(self, wanted: Wanted, now_ms: int) -> str:
        """Say why the device needs another identity now; "": it does not."""
        if self.is_first:
            return "first certificate"
        if self.asked_ms is not None:
            return "asked for"
        if now_ms >= self.due_ms:
            return "a third of its life is left"
        if self.generation is not None and self.generation != wanted.generation:
            return "another CA signs"
        if self.marks != wanted.marks:
            return "other anchors"
        return "other server keys" if self.pins != wanted.pins else ""

    def keeps_pair(self, wanted: Wanted, now_ms: int) -> bool:
        """Say whether other anchors and pins are all that it needs."""
        return not (
            self.is_first
            or self.asked_ms is not None
            or now_ms >= self.due_ms
            or self.generation not in (None, wanted.generation)
        )

    def ask(self, asked_ms: int) -> None:
        """Somebody wants a new identity, whatever failed before."""
        self.asked_ms = asked_ms
        self.not_before_ms = 0

    def begin(self, number: int, now_ms: int) -> None:
        """An offer goes out."""
        self.offered, self.offered_ms = number, now_ms
        self.next_number = number + 1
        self.cut_off = 0

    def end(self) -> None:
        """The offer is over."""
        self.offered = 0
        self.awaits_csr = False
        self.unsent = b""

    def has_failed(self, now_ms: int, tries: int) -> None:
        """The device refused an offer: leave it alone for a while."""
        self.cut_off = 0
        self._wait_from(now_ms, tries)

    def _wait_from(self, failed_ms: int, tries: int) -> None:
        # Who asked after the failure wants it at once.
        if self.asked_ms is None or self.asked_ms <= failed_ms:
            self.not_before_ms = failed_ms + backoff_ms(tries)
