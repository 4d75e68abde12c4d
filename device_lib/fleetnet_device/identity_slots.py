"""The identities that a device keeps on its flash, and the name of the one in force.

    identity                "a" or "b": the slot in force; "!" behind it: the older ones are retired
    identity-a, identity-b  one whole identity each
    identity-key            a key that was made here for a request under way

Each is written by saved.py: its content before, or its content after, whatever the power does.
Slots and key are fields (docs/protocol.md section 2.2): 1 the bundle they belong to (text), 2
number, 3 certificate, 4 private key, 5 anchors, 6 pins, 7 nonzero: the key was made here.

Without the file "identity" the bundle's own identity is in force, as long as the bundle has one.
A slot that is to be used is written first and named last, so that whatever is named is whole.
Slots of another bundle (its name or its date differ) do not count: whoever copies a new bundle
onto a device wants that one.
"""

import os

from fleetnet import der
from fleetnet.credential import split, split_pins
from fleetnet.errors import ProtocolError
from fleetnet.fields import FieldReader, FieldWriter
from fleetnet.ports import port
from fleetnet_device import saved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleetnet.ports.cpython import Context

# What the bundle is called among the slots "a" and "b".
BUNDLE = ""

_ALONE = "!"

_BUNDLE_MARK = 1
_NUMBER = 2
_CERTIFICATE = 3
_KEY = 4
_ANCHORS = 5
_PINS = 6
_IS_OWN = 7

_PRIVATE = 7  # where a SEC1 key of P-256 has its 32 private bytes (RFC 5915)


class Identity:
    """What a device shows, and whom it trusts.

    Attributes:
        number: as the back-end counts them; 0: the bundle's.
        certificate, key: DER, or for the bundle's the paths of its files; None: it has none.
        anchors: DER certificates, or what the bundle has.
        pins: SHA-256 of public keys of the server, bytes or hexadecimal.
        is_own: the key was made on this device.
        psk: what the bundle has in place of a certificate, or None.
    """

    psk: "Any" = None

    def __init__(
        self,
        number: int,
        certificate: "Any",
        key: "Any",
        anchors: "Any",
        pins: "list[Any]",
        is_own: bool = False,
    ):
        self.number = number
        self.certificate = certificate
        self.key = key
        self.anchors = anchors
        self.pins = pins
        self.is_own = is_own

    def context(self, datagram: bool, pinned: bool) -> "Context":
        """Return a client context; see Credentials.context.

        Raises:
            CredentialError: certificate, key or anchors cannot be used.
        """
        if pinned:
            return port.client_context(
                None, self.certificate, self.key, datagram=datagram, pins=self.pins
            )
        return port.client_context(self.anchors, self.certificate, self.key, datagram=datagram)

    def is_whole(self) -> bool:
        """Say whether it can be shown to a server: certificate and key are there, or a PSK."""
        if self.psk:
            return True
        for source in (self.certificate, self.key):
            if not source or (isinstance(source, str) and not saved.is_there(source)):
                return False
        return True


class Slots:
    """The identities of one device.

    Args:
        home: folder of the flash; "" for none.
        mark: name and date of the bundle, as text.
        folder: of the bundle; "" for none.
        bundle: the bundle's own identity.

    Attributes:
        current: slot of the identity in force: "a", "b", or BUNDLE.
        marker: the same as the flash says; None: what it says cannot be read.
        is_alone: the older identities are retired.
    """

    def __init__(self, home: str, mark: str, folder: str, bundle: Identity):
        self._path = home + "/identity"
        self._mark = mark
        self._folder = folder
        self.bundle = bundle
        self.current = BUNDLE
        self.marker: "str | None" = BUNDLE
        self.is_alone = False

    def load(self) -> "Identity | None":
        """Choose the identity in force; None when there is none at all."""
        self._read_marker()
        marker = self.marker
        if marker == BUNDLE and self.bundle.is_whole():
            return self.bundle
        found = {letter: self.read(letter) for letter in "ab"}
        order = [letter for letter in "ab" if found[letter] is not None]
        # The highest number last: what is not named is taken by its age.
        order.sort(key=lambda letter: found[letter].number)  # type: ignore[union-attr]
        if marker and marker in order:
            self.current = marker
        elif order:
            self.current = order[-1]
        if self.current:
            return found[self.current]
        return self.bundle if self.bundle.is_whole() else None

    def is_begun(self) -> bool:
        """Say whether this folder was ever used for identities."""
        return any([saved.is_there(self._path + end) for end in ("", ".new", "-a", "-b", "-key")])

    def _read_marker(self) -> None:
        content = saved.read(self._path)
        text = "" if content is None else str(content, "utf-8")
        self.is_alone = text[1:] == _ALONE
        self.marker = text[:1]
        if content is None and saved.is_there(self._path):
            self.marker = None

    def read(self, letter: str) -> "Identity | None":
        """Return what a slot holds; None when it is empty, damaged, or of another bundle."""
        content = saved.read(self._path + "-" + letter)
        if content is None:
            return None
        try:
            fields = FieldReader(content)
            if fields.get_text(_BUNDLE_MARK) != self._mark:
                return None
            return Identity(
                fields.get_int(_NUMBER),
                fields.get_bytes(_CERTIFICATE),
                fields.get_bytes(_KEY),
                split(fields.get_bytes(_ANCHORS)),
                split_pins(fields.get_bytes(_PINS)),
                bool(fields.get_int(_IS_OWN)),
            )
        except ProtocolError:
            return None

    def other(self) -> str:
        """Return the slot that may be written: that in force, or named, is never touched.

        Raises:
            OSError: the flash has to name what is in force before, and cannot.
        """
        if self.marker != self.current:
            self.switch(self.current)
        return "b" if self.current == "a" else "a"

    def write(self, identity: Identity) -> str:
        """Write a slot, and read it back; nothing of it is in force yet.

        Returns:
            Its letter.

        Raises:
            OSError: the flash failed; what is in force is untouched.
        """
        letter = self.other()
        out = FieldWriter()
        out.put_text(_BUNDLE_MARK, self._mark)
        out.put_int(_NUMBER, identity.number)
        out.put_bytes(_CERTIFICATE, identity.certificate)
        out.put_bytes(_KEY, identity.key)
        out.put_bytes(_ANCHORS, b"".join(identity.anchors))
        out.put_bytes(_PINS, b"".join(identity.pins))
        out.put_int(_IS_OWN, int(identity.is_own))
        saved.write(self._path + "-" + letter, out.to_payload())
        if self.read(letter) is None:
            raise OSError(5)  # EIO
        return letter

    def switch(self, letter: str) -> None:
        """Name the identity in force on the flash. Raises OSError; the old name stays then."""
        self.is_alone = False
        if letter:
            saved.write(self._path, letter.encode())
        else:
            saved.remove(self._path)
        self.marker = self.current = letter

    def fall_back(self) -> "tuple[str, Identity] | None":
        """Return the identity that is in force when the current one does not serve, or None."""
        if self.is_alone and self.marker == self.current:
            return None
        # What the flash names goes first: the current one may be on trial.
        for letter in (self.marker or "", "a", "b"):
            if letter and letter != self.current:
                identity = self.read(letter)
                if identity is not None:
                    return letter, identity
        if self.current and self.bundle.is_whole():
            return BUNDLE, self.bundle
        return None

    def remove(self, letter: str) -> None:
        """Forget what a slot holds; the bundle stays. Raises OSError."""
        if letter:
            saved.remove(self._path + "-" + letter)

    def retire(self) -> None:
        """Leave the identity in force alone: remove the other slot, the key, the bundle's pair.

        Raises:
            OSError: the flash failed. A bundle that cannot be written is no failure.
        """
        if self.marker != self.current:
            self.switch(self.current)
        saved.write(self._path, (self.current + _ALONE).encode())
        self.is_alone = True
        self.remove("b" if self.current == "a" else "a")
        saved.remove(self._path + "-key")
        for name in ("key.der", "cert.der") if self._folder else ():
            try:
                os.remove(self._folder + "/" + name)
            except OSError:
                pass  # it is gone already, or cannot be: it is of no use to anybody

    # -- keys that are made here -------------------------------------------------------

    def write_key(self, number: int, key: bytes) -> None:
        """Keep the key (SEC1) of request ``number``. Raises OSError."""
        out = FieldWriter()
        out.put_text(_BUNDLE_MARK, self._mark)
        out.put_int(_NUMBER, number)
        out.put_bytes(_KEY, key)
        saved.write(self._path + "-key", out.to_payload())

    def read_key(self, number: int) -> bytes:
        """Return the key (SEC1) that was made for request ``number``; b"" for none."""
        content = saved.read(self._path + "-key")
        try:
            fields = FieldReader(content or b"")
            if fields.get_text(_BUNDLE_MARK) == self._mark and fields.get_int(_NUMBER) == number:
                return fields.get_bytes(_KEY)
        except ProtocolError:
            pass
        return b""

    async def request(self, number: int, name: str) -> bytes:
        """Return a certificate request (PKCS #10) for a key that is on the flash by then.

        Raises:
            OSError: the flash failed. ImportError: the board was set up without p256 or csr.
        """
        from fleetnet_device import csr

        key = self.read_key(number)
        if key:
            private, public = key[_PRIVATE : _PRIVATE + 32], der.public_point(key) or b""
        else:
            from fleetnet_device.p256 import make_key

            private, public = await make_key()
            # Before the request leaves: a certificate for a key that is lost is of no use.
            self.write_key(number, csr.sec1(private, public))
        return await csr.make_request(name, private, public)
