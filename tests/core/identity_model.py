"""A modelled back-end, and the life of a device of which nothing but the flash is real.

The back-end issues identities, sees them at work, retires the older ones, and refuses what it has
revoked. tests/core/test_identity_slots.py and tests/device/identity_on_vfs.py cut its power.
"""

from part_device import Frame, PartDevice
from small_disk import SmallDisk

from fleetnet.credential import (
    FAILED,
    INSTALL,
    REQUEST,
    REQUESTED,
    RETIRE,
    RETIRED,
    Credential,
    decode_credential_state,
    encode_credential,
)
from fleetnet.errors import Rejected
from fleetnet_device import csr, enrol, identity, identity_slots, p256, rotation, saved

PAIR = (b"bundle's certificate", b"bundle's key")
BUNDLE = {"/b/cert.der": PAIR[0], "/b/key.der": PAIR[1]}
LAST = 5  # identities of one story


def sequence(text):
    return b"\x30\x82" + len(text).to_bytes(2, "big") + text


class Server:
    """Counts identities: 2 and 4 get keys of the device, 3 is refused when it is probed."""

    def __init__(self, has_bundle):
        self.keys = {}  # certificate -> private key, or public half of one that it never sees
        self.accepted = []
        self.wanted = 1
        self.certificates = {}
        self.claimed = None
        if has_bundle:
            self.accepted.append(PAIR[0])

    def message(self, number):
        """What it sends to a device that said HELLO with ``number``; None: nothing more."""
        if self.wanted > LAST:
            return None
        if number == self.wanted:
            return Credential(RETIRE, number)
        if self.wanted in (2, 4) and self.wanted not in self.certificates:
            return Credential(REQUEST, self.wanted)
        certificate = self.certificates.get(self.wanted) or self.issue(None)
        key = self.keys[certificate] if self.wanted not in (2, 4) else b""
        return Credential(INSTALL, self.wanted, certificate, key, [sequence(b"anchor")])

    def issue(self, public):
        key = public or sequence(b"key of the server's making %d" % self.wanted)
        certificate = sequence(b"certificate %d" % self.wanted)
        self.keys[certificate] = key
        self.certificates[self.wanted] = certificate
        if self.wanted != 3:
            self.accepted.append(certificate)
        return certificate

    def claim(self, request):
        """The same token with the same key is answered again; with another key it is not."""
        if self.claimed is None:
            self.claimed = request
            self.issue(request)
        if self.claimed != request or self.wanted > 1:
            raise Rejected("claim refused")
        return Credential(INSTALL, 1, self.certificates[1], b"", [sequence(b"anchor")])

    def hear(self, body):
        state = decode_credential_state(body)
        if state.number != self.wanted:
            return
        if state.state == REQUESTED:
            self.issue(state.csr)
        elif state.state == RETIRED:
            self.accepted = [self.certificates[state.number]]
            self.wanted += 1
        elif state.state == FAILED and state.number == 3:
            self.wanted += 1

    def judge(self, now):
        """What is wrong with the identity that a device has, "" when nothing is."""
        certificate, key = load(now.certificate), load(now.key)
        if certificate not in self.accepted:
            return "not accepted: %s" % certificate
        if certificate == PAIR[0]:
            return "" if key == PAIR[1] else "half a bundle"
        # A key has its public half in it.
        return "" if self.keys[certificate] in key else "not the key of %s" % certificate


def load(source):
    if not isinstance(source, str):
        return source
    try:
        with getattr(identity_slots, "open", open)(source, "rb") as file:
            return file.read()
    except OSError:
        return b""


class Credentials:
    name = "cam-1"
    made_ms = 7
    own_key = None
    _psk = None
    pins = ()

    def __init__(self, folder, claim):
        self.claim = claim
        self._cert, self._key = folder + "/cert.der", folder + "/key.der"
        self._ca = folder + "/ca.der"


class Device(PartDevice):
    """One life."""

    def __init__(self, disk, server, claim, folder):
        PartDevice.__init__(self, folder)
        self.name = "cam-1"
        self.folder = folder
        self.credentials = Credentials(folder, claim)
        self._disk = disk
        self._server = server
        self._parts = {}

    def part(self, name):
        if name not in self._parts:
            module = {"identity": identity, "rotation": rotation}[name]
            self._parts[name] = module.Part(self)
        return self._parts[name]

    def put(self, stream, kind, payload, readings=0):
        if not self._disk.is_dead:
            self._server.hear(payload)

    def renew(self):
        pass


async def life(disk, server, has_bundle, folder="/b"):
    """Live until the story ends, or the power does; return what is wrong."""
    device = Device(disk, server, None if has_bundle else {"token": "T"}, folder)
    part = device.part("identity")
    if device.credentials.claim and not disk.is_dead:
        try:
            request = await part.slots.request(1, "cam-1")
            if disk.is_dead:
                return ""
            enrol._install(device, server.claim(request))
        except OSError:
            pass
        except Rejected as error:
            return str(error)
    for _ in range(40):
        if disk.is_dead:
            return ""
        wrong = server.judge(part.in_force())
        if wrong:
            return wrong
        try:
            part.opened(None)
        except OSError:
            return ""
        message = server.message(part.number)
        if message is None:
            return "" if part.number == LAST else "ends with %d" % part.number
        device.part("rotation").receive(Frame(encode_credential(message)))
        await device.settle()
    return "no end: %d, the server wants %d" % (part.number, server.wanted)


async def judge_probe(part, now):
    if b"certificate 3" in now.certificate:
        raise Rejected("refused", 8)
    return True


class Fakes:
    """Keys without arithmetic, probes without a network, certificates without X.509."""

    names = (
        (p256, "make_key"), (csr, "make_request"), (rotation, "check"), (enrol, "check"),
        (rotation.Part, "_is_probed"), (identity, "Slots"),
    )  # fmt: skip

    def __init__(self, slots):
        self._slots = slots
        self._made = 0

    def __enter__(self):
        self._before = [getattr(owner, name) for owner, name in self.names]

        def check(now, name):
            pass

        p256.make_key = self.make_key
        csr.make_request = self.make_request
        rotation.check = enrol.check = check
        rotation.Part._is_probed = judge_probe
        identity.Slots = self._slots

    def __exit__(self, kind, error, trace):
        for (owner, name), value in zip(self.names, self._before):
            setattr(owner, name, value)

    async def make_key(self):
        self._made = self._made % 250 + 1
        return bytes([self._made]) * 32, b"\4" + bytes([self._made]) * 64

    async def make_request(self, name, private, public):
        assert private[:1] == public[1:2]
        return b"\x30\x41" + public


def public_of(request):
    return request[2:]


class Requests(Server):
    """As Server; what it gets are requests."""

    def claim(self, request):
        return Server.claim(self, public_of(request))

    def hear(self, body):
        state = decode_credential_state(body)
        if state.state == REQUESTED and state.number == self.wanted:
            self.issue(public_of(state.csr))
        else:
            Server.hear(self, body)


async def cut_everywhere(slots, has_bundle, renames_over):
    """Return (cuts, what was wrong after which)."""
    bad = []
    with Fakes(slots):
        start = dict(BUNDLE) if has_bundle else {}
        disk = SmallDisk(start, renames_over)
        with disk.mounted(saved, identity_slots):
            wrong = await life(disk, Requests(has_bundle), has_bundle)
        if wrong:
            return 0, [(-1, 0, wrong)]
        cuts = 0
        for at in range(disk.operations):
            for half in (0, 1, 2):
                cuts += 1
                server = Requests(has_bundle)
                broken = SmallDisk(start, renames_over)
                broken.fail_after(at, half)
                with broken.mounted(saved, identity_slots):
                    await life(broken, server, has_bundle)
                found = broken.after_power_cut()
                with found.mounted(saved, identity_slots):
                    wrong = await life(found, server, has_bundle)
                if wrong:
                    bad.append((at, half, wrong))
    return cuts, bad
