"""A Device on a scratch flash in the virtual world, and its rotations as seen from outside."""

import json
import os

from part_device import remove, scratch, store
from virtual_world import ANCHOR, PIN, Server, VirtualWorld

from fleetnet.credential import (
    INSTALL,
    RETIRE,
    Credential,
    decode_credential_state,
    encode_credential,
)
from fleetnet.errors import CredentialError
from fleetnet.frame import CREDENTIAL
from fleetnet_device import Device, csr, enrol, p256, rotation

OLD = b"\x30\x03old"


def certificate(number):
    return b"\x30\x0dcertificate %d" % number


def key(number):
    return b"\x30\x05key %d" % number


def install(number, **more):
    """INSTALL with a pair of the server's making."""
    made = Credential(INSTALL, number, certificate(number), key(number), [ANCHOR], [PIN])
    for name in more:
        setattr(made, name, more[name])
    return made


async def make_key():
    return b"p" * 32, b"\4" + b"q" * 64


async def make_request(name, private, public):
    assert (private, public) == await make_key()
    return b"\x30\x03csr"


def check(identity, name):
    if b"other" in identity.certificate:
        raise CredentialError("certificate is for other")
    identity.context(False, False)


class Story(VirtualWorld):
    """A device with a bundle on a scratch flash; ``config`` goes into config.json."""

    def __init__(self, has_pair=True, transport="tls", **config):
        VirtualWorld.__init__(self, Server(OLD))
        self.folder = scratch()
        self.config = {
            "name": "cam-1", "host": "h", "tls_port": 1, "dtls_port": 2, "transport": transport,
            "made_ms": 7, "pins": ["50" * 32],
        }  # fmt: skip
        self.config.update(config)
        self.options = {}
        self.device = None
        self.write_config()
        if has_pair:
            for name, content in (("cert.der", OLD), ("key.der", b"k"), ("ca.der", ANCHOR)):
                store(self.folder + "/" + name, content)

    def write_config(self):
        store(self.folder + "/config.json", json.dumps(self.config).encode())

    async def boot(self, **options):
        self.options = options or self.options
        self.device = Device(self.folder, linger_ms=0, **self.options)
        await self.device.start()
        return self.device

    async def power_cut(self):
        for task in self.device._tasks:
            task.cancel()
        self.server.links = []
        await self.pass_ms(1)

    async def online(self, **options):
        """Boot, and wait for the session."""
        before = len(self.server.opened)
        await self.boot(**options)
        await self.until(lambda: len(self.server.opened) > before)
        await self.pass_ms(1)

    def say(self, credential):
        self.server.say(CREDENTIAL, encode_credential(credential))

    def states(self):
        """(state, number) of what the device said; forgotten then."""
        found = [decode_credential_state(body) for body in self.server.states]
        self.server.states = []
        return [(each.state, each.number) for each in found]

    def sessions(self):
        """(certificate, identity number) of each session."""
        return [each[:2] for each in self.server.opened]

    def flash(self):
        """Names on the flash of what is not the bundle's."""
        return sorted([name for name in os.listdir(self.folder) if "identity" in name])

    async def rotate(self, number):
        """A rotation that goes well, up to the new session."""
        self.server.accepted.append(certificate(number))
        before = len(self.server.opened)
        self.say(install(number))
        await self.until(lambda: len(self.server.opened) > before)
        await self.pass_ms(10)

    async def retire(self, number):
        self.say(Credential(RETIRE, number))
        await self.until(lambda: self.server.states)

    def __enter__(self):
        VirtualWorld.__enter__(self)
        self._real = (p256.make_key, csr.make_request, rotation.check, enrol.check)
        p256.make_key, csr.make_request = make_key, make_request
        rotation.check = enrol.check = check
        return self

    def __exit__(self, kind, error, trace):
        p256.make_key, csr.make_request, rotation.check, enrol.check = self._real
        VirtualWorld.__exit__(self, kind, error, trace)
        remove(self.folder)
