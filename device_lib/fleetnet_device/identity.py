"""Which identity a device uses: that of its bundle, or one that the flash keeps.

Loaded while the flash holds one, or config.json says "own_key"; and by rotation.py and enrol.py,
which bring others. It also watches: an identity that the back-end or we ourselves refuse three
times is left for the one before it, as long as that was not retired, and the back-end is told.
"""

from fleetnet import der
from fleetnet.credential import FAILED, CredentialState, encode_credential_state
from fleetnet.errors import (
    NO_IDENTITY,
    REVOKED,
    UNKNOWN_DEVICE,
    CredentialError,
    FleetError,
    Rejected,
    TrustError,
    Unsupported,
)
from fleetnet.frame import COMMANDS, CREDENTIAL_STATE
from fleetnet.handshake import CAN_MAKE_KEY
from fleetnet.limits import MAX_TEXT
from fleetnet_device.identity_slots import Identity, Slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.handshake import Hello
    from fleetnet_device.core import DeviceCore

# Attempts in a row that fail for the identity's sake before the other one is tried.
PATIENCE = 3

# REFUSE and BYE for these reasons speak of the identity; the rest may pass with any.
_OF_IDENTITY = (None, UNKNOWN_DEVICE, REVOKED, NO_IDENTITY)


class Part:
    """The identities of one device.

    Attributes:
        slots: see its class.
        number: of the identity in force; 0: the bundle's.
        is_stale: the connection that is up was made with the identity of before.
    """

    capability = 0
    kinds = ()

    def __init__(self, device: "DeviceCore"):
        self._device = device
        self._failures = 0
        self._is_trial = False
        self._failed: "tuple[int, str, str] | None" = None  # number, reason, slot
        self.number = self._before = 0
        self.is_stale = False
        credentials = device.credentials
        mark = "%s %d" % (credentials.name, credentials.made_ms)
        bundle = Identity(
            0,
            getattr(credentials, "_cert", None),
            getattr(credentials, "_key", None),
            getattr(credentials, "_ca", None),
            credentials.pins,
        )
        bundle.psk = credentials._psk
        # A program that is given another spool= must not lose the identity for that.
        self.slots = slots = Slots(device.flash, mark, device.folder, bundle)
        if device.folder and not slots.is_begun():
            other = Slots(device.folder, mark, device.folder, bundle)
            if other.is_begun():
                self.slots = slots = other
        identity = slots.load()
        if identity is not None:
            self._put_in_force(slots.current, identity)

    # -- what the device calls -------------------------------------------------------

    def greet(self, hello: "Hello") -> None:
        """Say which identity this connection was made with."""
        # Another one was put in force while it was being made.
        self.is_stale = self._device.credentials._context is None
        hello.identity = self._before if self.is_stale else self.number

    def opened(self, welcome: object) -> None:
        """A session is open: what it was opened with serves."""
        if self.is_stale:
            self._device.renew()
            return
        self._failures = 0
        self._is_trial = False
        slots = self.slots
        failed = self._failed
        self._failed = None
        if slots.marker != slots.current:
            slots.switch(slots.current)
        if failed is not None:
            self.say(FAILED, failed[0], failed[1])
            slots.remove(failed[2])

    def lost(self, error: "Exception | None") -> None:
        """A session has ended, or was not opened: count what the identity may be blamed for."""
        if error is None or not (self._is_trial or _is_of_identity(error)):
            return
        self._failures += 1
        if self._failures < PATIENCE:
            return
        slots = self.slots
        other = slots.fall_back()
        if other is not None:
            self._failed = None
            # Else it is the way back to the one that the flash names: that one has not failed yet.
            if self._is_trial or slots.marker == slots.current:
                self._failed = (self.number, text_of(error), slots.current)
            self._put_in_force(other[0], other[1])
        self._failures = 0
        self._is_trial = False

    # -- what rotation.py and enrol.py call --------------------------------------------

    def in_force(self) -> Identity:
        """Return the identity in force."""
        slots = self.slots
        return (slots.read(slots.current) if slots.current else None) or slots.bundle

    def begin(self, letter: str, identity: Identity, is_trial: bool = False) -> None:
        """Use the identity of slot ``letter`` from the next session on, and begin that.

        Args:
            is_trial: nobody knows yet whether it serves. The flash names it only when a session
                is open with it; three failures of any kind lead back.
        """
        self._failures = 0
        self._is_trial = is_trial
        self._failed = None
        self._put_in_force(letter, identity)
        self._device.renew()

    def say(self, state: int, number: int, reason: str = "", csr: bytes = b"") -> None:
        """Queue a CREDENTIAL_STATE."""
        body = encode_credential_state(CredentialState(state, number, csr, reason))
        self._device.put(COMMANDS, CREDENTIAL_STATE, body)

    def _put_in_force(self, letter: str, identity: Identity) -> None:
        self.slots.current = letter
        self._before = self.number
        self.number = identity.number
        credentials = self._device.credentials
        # Here and not in credentials.py, which every device loads.
        credentials._ca = identity.anchors
        credentials._cert = identity.certificate
        credentials._key = identity.key
        credentials._psk = identity.psk
        credentials._context = None
        credentials.pins = identity.pins
        credentials.claim = None
        self.capability = 0
        if (identity.is_own or credentials.own_key) and _makes_keys():
            self.capability = CAN_MAKE_KEY


def check(identity: Identity, name: str) -> None:
    """Raise CredentialError for an identity that is not one of device ``name``."""
    wanted = "urn:fleetnet:device:" + name
    try:
        names = der.san_uris(identity.certificate)
    except FleetError as error:
        raise CredentialError("certificate: %s" % error)
    if names != [wanted]:
        raise CredentialError("certificate is for %s, this is %s" % (names or "nobody", wanted))
    identity.context(False, False)  # certificate, key and anchors load, and the pair matches


def text_of(error: Exception) -> str:
    """Return what FAILED says of an error."""
    return ("%s: %s" % (type(error).__name__, error))[:MAX_TEXT]


def _is_of_identity(error: Exception) -> bool:
    if isinstance(error, Rejected):
        return error.reason in _OF_IDENTITY
    return isinstance(error, (TrustError, CredentialError, Unsupported))


def _makes_keys() -> bool:
    """Say whether the board was set up with what makes keys."""
    try:
        from fleetnet_device import csr
    except ImportError:
        return False
    return bool(csr)
