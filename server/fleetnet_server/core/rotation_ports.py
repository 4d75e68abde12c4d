"""What rotation and enrolment need of the store, the authority and the audit log.

core imports neither store nor files of the fleet's folder: app injects what fits here.
"""

from typing import Any, NamedTuple, Protocol

OFFERED = "offered"
WORKING = "working"
RETIRED = "retired"
FAILED = "failed"


class Identity(NamedTuple):
    """One row of the table identities; times are unix ms.

    Attributes:
        number: 0 is the bundle as it was made; serial: of its certificate, None: a CSR is awaited.
        marks, pins: what went with it; "" when nobody noted it.
        tries: offers in a row that came to nothing, this one's failure included.
    """

    number: int
    serial: int | None
    marks: str
    pins: str
    state: str
    reason: str | None
    tries: int
    offered_ms: int
    ended_ms: int | None


class Certificate(NamedTuple):
    """What the store knows of a certificate; times are unix ms."""

    issued_ms: int
    not_after_ms: int
    generation: int
    key_made: str


class Facts(NamedTuple):
    """What is known of a device when its session opens.

    Attributes:
        identities: newest number first.
        certificate: of the serial that was asked about, None: not issued here.
        asked_ms: somebody wants a new identity since then; None: nobody does.
        is_first: it may have its first certificate (it came with a key for enrolment).
        has_claim: a claim that this certificate closes.
        others: certificates of the device that are neither revoked nor on offer, this one's left
            out, and keys for enrolment.
    """

    identities: list[Identity]
    certificate: Certificate | None
    asked_ms: int | None
    is_first: bool
    has_claim: bool
    others: int


class Issued(Protocol):
    """A certificate; ``key`` is b"" when the device keeps it to itself."""

    @property
    def certificate(self) -> bytes: ...

    @property
    def key(self) -> bytes: ...

    @property
    def serial(self) -> int: ...

    @property
    def not_after_ms(self) -> int: ...


class Wanted(Protocol):
    """What every device should hold now, and who makes it. Immutable.

    Attributes:
        marks: changes with the anchors. pins: hexadecimal, separated by blanks.
        generation: of the CA that signs.
    """

    marks: str
    pins: str
    generation: int
    anchors: tuple[bytes, ...]

    @property
    def pin_values(self) -> list[bytes]: ...

    def issue(self, name: str) -> Issued:
        """Make a key and a certificate. Raises CredentialError."""

    def sign(self, csr: bytes, name: str) -> Issued:
        """Answer a device's CSR. Raises CredentialError."""

    def key_of(self, csr: bytes) -> str:
        """Return the SHA-256 of a CSR's key, hexadecimal. Raises CredentialError."""


class WantedSource(Protocol):
    """Knows what is wanted; looks at the files again when they change."""

    def current(self) -> Wanted | None:
        """Return it, the same object until something changed; None: it cannot be read."""


class IdentityStore(Protocol):
    """store/identities.py. What commits is called in a thread; all raise StoreUnavailable."""

    def facts(self, device_id: int, serial: int, psk_identity: str) -> Facts: ...

    def newest(self) -> int: ...

    def asked_after(self, note: int) -> tuple[int, list[tuple[int, int]]]: ...

    def offer(
        self, device_id: int, number: int, wanted: Wanted, issued: Issued | None,
        serial: int | None, using: int,
    ) -> bool: ...  # fmt: skip

    def certify(
        self, device_id: int, number: int, wanted: Wanted, issued: Issued, using: int
    ) -> bool: ...

    def worked(self, device_id: int, number: int, serial: int) -> None: ...

    def failed(self, device_id: int, number: int, reason: str) -> int: ...

    def retire(self, device_id: int, number: int) -> list[int]: ...


class Audit(Protocol):
    """The audit log, as the event loop writes it; must not block."""

    def note(self, actor: str, action: str, device: str | None, detail: dict[str, Any]) -> None: ...
