"""What enrolment needs of the store; app injects it."""

from typing import NamedTuple, Protocol

from fleetnet_server.core.rotation_ports import Issued, Wanted
from fleetnet_server.identity.registry import ENABLED


class Claim(NamedTuple):
    """A row of the table claims; times are unix ms.

    Attributes:
        public_key: SHA-256, hexadecimal, of the key that it was answered for; None: none yet.
        closed_ms: since when the device has a session of its own; None: it had none.
        token: its SHA-256, hexadecimal.
    """

    device_id: int
    device: str
    state: str
    expires_ms: int
    public_key: str | None
    closed_ms: int | None
    token: str

    def objection(self, public_key: str, now_ms: int) -> str:
        """Say why this claim is not answered; "": it is."""
        if self.closed_ms is not None:
            return "the claim was used: make another with `fleetnet device claim`"
        if now_ms >= self.expires_ms:
            return "the claim has expired: make another with `fleetnet device claim`"
        if self.state != ENABLED:
            return f"device {self.device} is {self.state}"
        if self.public_key not in (None, public_key):
            return "the claim was used with another key: make another with `fleetnet device claim`"
        return ""


class ClaimStore(Protocol):
    """store/claims.py; ``answer`` commits and is called in a thread."""

    def find(self, token: str) -> Claim | None: ...

    def answer(
        self, claim: Claim, public_key: str, number: int, wanted: Wanted, issued: Issued
    ) -> bool: ...
