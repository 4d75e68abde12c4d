"""What is fed with bytes of strangers, and what it may do with them.

A target takes any bytes. It raises nothing when the code keeps its word: the documented error is
caught in it, and what it checks beyond (sizes, round trips) is asserted. tests/proof/fuzzing.py
gives them to atheris and to a brute force, tests/fuzz/test_corpus.py replays the corpus.
"""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from fleetnet import blobs, commands, der
from fleetnet import frame as wire
from fleetnet.acceptor import AcceptorSession, HelloReceived, decode_hello
from fleetnet.credential import decode_credential, decode_credential_state
from fleetnet.errors import CredentialError, ProtocolError
from fleetnet.events import Received
from fleetnet.fields import FieldReader
from fleetnet.frame import decode_ack
from fleetnet.handshake import Hello, Welcome, decode_ending, decode_welcome
from fleetnet.ports import openssl_dtls_wire as dtls
from fleetnet.receiver import decode_forward
from fleetnet.relay import decode_announcement, decode_relay
from fleetnet.session import Session
from fleetnet_server.core.bodies import inspect_body
from fleetnet_server.errors import ConfigError
from fleetnet_server.identity.policy import Names, load_policy

# Small, so that mutants of a few hundred bytes reach it.
MAX_PAYLOAD = 300
NOW_MS = 1_700_000_000_000

Target = Callable[[bytes], None]


def frames(data: bytes) -> None:
    """Headers: sizes and numbers within their limits, and one form for each frame."""
    try:
        found = wire.FrameSplitter(MAX_PAYLOAD).split(data)
    except ProtocolError:
        return
    whole = b"".join(wire.encode_frame(*frame) for frame in found)
    assert data.startswith(whole)
    for _, flags, seq, payload in found:
        assert len(payload) <= MAX_PAYLOAD
        assert bool(seq) == bool(flags & wire.SEQUENCED)
    # A byte at a time there are the same frames.
    splitter = wire.FrameSplitter(MAX_PAYLOAD)
    pieces = [one for at in range(len(data)) for one in splitter.split(data[at : at + 1])]
    assert pieces == found


def fields(data: bytes) -> None:
    """The bytes that the fields take are those of the payload."""
    try:
        reader = FieldReader(data)
    except ProtocolError:
        return
    taken = sum(len(value) for value in reader._fields.values())
    assert taken + 2 * len(reader._fields) <= len(data)


_PAYLOADS: list[Callable[[bytes], object]] = [
    decode_hello, decode_welcome, decode_ending, decode_ack, decode_forward, decode_credential,
    decode_credential_state, decode_relay, decode_announcement, blobs.decode_offer,
    blobs.decode_chunk, blobs.decode_state, commands.decode_call, commands.decode_config,
]  # fmt: skip


def payloads(data: bytes) -> None:
    """The first byte chooses the decoder."""
    if data:
        try:
            _PAYLOADS[data[0] % len(_PAYLOADS)](data[1:])
        except ProtocolError:
            return


def session(data: bytes) -> None:
    """A greeting, then chunks of the data for a device or a server; sessions raise nothing."""
    if len(data) < 2:
        return
    is_device, datagram = bool(data[0] & 1), bool(data[0] & 2)
    chance = random.Random(data[1])
    device = Session(chance.randbytes)
    server = AcceptorSession(chance.randbytes, wall_ms=lambda: NOW_MS)
    device.open_link(0, datagram, Hello())
    server.open_link(0, datagram)
    if data[0] & 4:
        _greet(device, server)
        device.send(3, wire.READINGS, b"[]")
    target: Session = device if is_device else server
    now = 10
    for chunk in _chunks(data[2:]):
        target.receive_data(chunk, now)
        for event in target.take_events():
            if isinstance(event, HelloReceived):
                server.welcome(Welcome(), event.hello, {3: 0}, now)
            elif isinstance(event, Received) and event.seq:
                target.acknowledge(event.stream, event.seq, now)
        now += chunk[0] * 40 if chunk else 1
        target.next_timer()
        target.handle_timer(now)
        for out in target.data_to_send(now):
            assert 0 < len(out) < 70_000


def _greet(device: Session, server: AcceptorSession) -> None:
    for _ in range(2):
        for chunk in device.data_to_send(0):
            server.receive_data(chunk, 0)
        for event in server.take_events():
            if isinstance(event, HelloReceived):
                server.welcome(Welcome(), event.hello, {3: 0}, 0)
        for chunk in server.data_to_send(0):
            device.receive_data(chunk, 0)
    device.take_events()


def _chunks(data: bytes) -> list[bytes]:
    """Cut at the lengths that the data tells: one byte of length, then so many."""
    found = []
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        found.append(data[at + 1 : end])
        at = end
    return found


_DER: list[Callable[[bytes], object]] = [
    der.size, der.spki, der.is_issued_leaf, der.san_uris, der.algorithm, der.public_point,
]  # fmt: skip


def der_values(data: bytes) -> None:
    """Certificates and keys; a result is a part of the data."""
    for read in _DER:
        try:
            found = read(data)
        except CredentialError:
            continue
        if isinstance(found, bytes):
            # What names no algorithm (RFC 5915, RFC 8017) is told by the module.
            assert found in data or found in (der.EC, der.RSA)


def dtls_hello(data: bytes) -> None:
    """What is read of a datagram before its address is proved; no answer is longer."""
    parsed = dtls.parse_hello_untrusted(data)
    if parsed is not None:
        cookie, rest = parsed
        assert len(cookie) + len(rest) < len(data)
        assert cookie in data
    assert b"".join(dtls.split(data)) == data[: sum(map(len, dtls.split(data)))]
    assert all(record in data for record in dtls.sealed(data))
    dtls.has_sealed_handshake(data)
    dtls.limits_records(data)


def bodies(data: bytes) -> None:
    """The first byte is the kind, its top bit whether the policy allows some names only."""
    if not data:
        return
    allowed = Names(["temp*"]) if data[0] & 0x40 else None
    found = inspect_body(data[0] & 0x3F, data[1:], {7: NOW_MS}.get, NOW_MS, allowed)
    kept = found.body.encode() if isinstance(found.body, str) else found.body
    assert kept == data[1:]
    assert (found.t0 is None) == (found.t1 is None)


def policy(data: bytes) -> None:
    """policy.toml, as an administrator may have mangled it."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "policy.toml").write_bytes(data)
        try:
            found = load_policy(place)
        except ConfigError:
            return
    for group in found.groups:
        found.rules(group)


TARGETS: dict[str, Target] = {
    "bodies": bodies,
    "der": der_values,
    "dtls": dtls_hello,
    "fields": fields,
    "frames": frames,
    "payloads": payloads,
    "policy": policy,
    "session": session,
}
