"""The vectors of docs/protocol.md, read by every interpreter (tests/core/vectors.json)."""

import json
import sys

from fleetnet import blobs, commands, credential, relay
from fleetnet.acceptor import decode_hello, encode_welcome
from fleetnet.errors import ProtocolError
from fleetnet.frame import (
    FrameSplitter,
    decode_ack,
    decode_frame,
    encode_forward,
    encode_frame,
    split_datagram,
)
from fleetnet.handshake import decode_ending, decode_welcome
from fleetnet.receiver import decode_forward, put_ack
from fleetnet.varint import put_varint

FOLDER = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
sys.path.insert(0, FOLDER)
from world import Lcg  # noqa: E402

with open(FOLDER + "/vectors.json") as source:
    VECTORS = json.load(source)

GREETING = ("version", "capabilities", "max_frame", "epoch", "peer_epoch", "nonce", "unix_ms")
HELLO = ("codecs", "software", "boot", "uptime_ms", "config_version", "identity", "probe")
WELCOME = ("session_id", "window", "keepalive_ms", "ack_delay_ms", "rate")
OFFER = (
    "id", "number", "size", "chunk", "content_format", "base_ms", "boot", "sha256", "name",
)  # fmt: skip
STATE = ("id", "status", "echo", "credit", "held", "bitmap", "reason", "detail")
CREDENTIAL = ("action", "number", "certificate", "key", "anchors", "pins", "reason")
CREDENTIAL_STATE = ("state", "number", "csr", "reason", "token")
ENDING = ("reason", "retry_after_ms", "detail")


def plain(value):
    """As JSON would write it."""
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, bytes):
        return value.hex() if value else ""  # b"".hex() is bytes on MicroPython
    return value


def values_of(thing, names):
    return {name: plain(getattr(thing, name)) for name in names}


def greeting_values(greeting, names):
    values = values_of(greeting, GREETING + names)
    streams = greeting.streams
    values["streams"] = [[n, streams[n][0], streams[n][1]] for n in sorted(streams)]
    values["resume"] = [[n, greeting.resume[n]] for n in sorted(greeting.resume)]
    return values


def read_offer(payload):
    offer = blobs.decode_offer(payload)
    return values_of(offer, OFFER), offer.to_payload()


def read_chunk(payload):
    id, index, number, asks, data = blobs.decode_chunk(payload)
    head = bytearray()
    blobs.put_chunk_head(head, id, index, number, asks)
    values = {"id": id, "index": index, "number": number, "asks": asks, "data": plain(bytes(data))}
    return values, bytes(head) + bytes(data)


def read_state(payload):
    state = blobs.decode_state(payload)
    return values_of(state, STATE), state.to_payload()


def read_credential(payload):
    found = credential.decode_credential(payload)
    return values_of(found, CREDENTIAL), credential.encode_credential(found)


def read_credential_state(payload):
    found = credential.decode_credential_state(payload)
    return values_of(found, CREDENTIAL_STATE), credential.encode_credential_state(found)


def read_relay(payload):
    alias, kind, stream, seq, body = relay.decode_relay(payload)
    values = {"alias": alias, "kind": kind, "stream": stream, "seq": seq, "body": plain(body)}
    return values, relay.encode_relay(alias, kind, stream, seq, body)


def read_announcement(payload):
    found = relay.decode_announcement(payload)
    values = values_of(found.hello, ("epoch", "nonce", "boot", "uptime_ms"))
    values.update(name=found.name, serial="%x" % found.serial, age_ms=found.age_ms)
    return values, found.to_payload()


OTHERS = {
    "BLOB": read_offer,
    "BLOB_CHUNK": read_chunk,
    "BLOB_STATE": read_state,
    "CREDENTIAL": read_credential,
    "CREDENTIAL_STATE": read_credential_state,
    "RELAY": read_relay,
    "ANNOUNCEMENT": read_announcement,
}


def read(kind, payload):
    """Decode one payload; return (its values, its bytes when encoded again)."""
    if kind == "HELLO":
        hello = decode_hello(payload)
        return greeting_values(hello, HELLO), hello.to_payload()
    if kind == "WELCOME":
        welcome = decode_welcome(payload)
        return greeting_values(welcome, WELCOME), encode_welcome(welcome)
    if kind == "ENDING":
        ending = decode_ending(payload)
        return values_of(ending, ENDING), ending.to_payload()
    if kind == "FORWARD":
        entries = decode_forward(payload)
        rows = [[n, entries[n]] for n in sorted(entries)]
        return {"entries": rows}, encode_forward(entries)
    if kind in OTHERS:
        return OTHERS[kind](payload)
    window, entries = decode_ack(payload)
    out = bytearray()
    put_varint(out, window)
    for number, durable, bitmap in entries:
        put_ack(out, number, durable, bitmap)
    rows = [[number, durable, plain(bitmap)] for number, durable, bitmap in entries]
    return {"window": window, "entries": rows}, bytes(out)


# The back-end reads the last three: tests/server/store/test_bodies.py has them refused.
BODIES = {
    "CALL": (commands.decode_call, commands.encode_call),
    "CONFIG": (commands.decode_config, commands.encode_config),
    "RESULT": (json.loads, commands.encode_result),
    "CONFIG_STATE": (json.loads, commands.encode_config_state),
    "LOG": (json.loads, commands.encode_log),
}


def refuses(action):
    try:
        action()
    except ProtocolError:
        return True
    return False


def expected_frames():
    rows = VECTORS["frames"]
    return [(v["kind"], v["flags"], v["seq"], bytes.fromhex(v["payload"])) for v in rows]


def test_frames_decode_and_encode_to_the_same_bytes():
    for vector, expected in zip(VECTORS["frames"], expected_frames()):
        data = bytes.fromhex(vector["hex"])
        assert split_datagram(data, 4096) == [expected], vector["name"]
        assert encode_frame(*expected) == data, vector["name"]
        kind, flags, seq, start, stop = decode_frame(b"\xff" + data, 1, 4096)
        assert (kind, flags, seq, stop) == (expected[0], expected[1], expected[2], len(data) + 1)
        assert data[start - 1 :] == expected[3]


def test_frames_whole_byte_by_byte_and_split_at_random():
    stream = b"".join([bytes.fromhex(v["hex"]) for v in VECTORS["frames"]])
    assert FrameSplitter(4096).split(stream) == expected_frames()
    random = Lcg(5)
    for biggest in [1] + [7] * 5 + [60] * 5:
        splitter = FrameSplitter(4096)
        frames = []
        at = 0
        while at < len(stream):
            step = 1 + random.below(biggest)
            frames.extend(splitter.split(stream[at : at + step]))
            at += step
        assert frames == expected_frames()


def test_every_cut_of_a_datagram_is_refused():
    for vector in VECTORS["frames"]:
        data = bytes.fromhex(vector["hex"])
        for end in range(1, len(data)):
            assert refuses(lambda: split_datagram(data[:end], 4096)), (vector["name"], end)


def test_refused_frames():
    for vector in VECTORS["refused_frames"]:
        data = bytes.fromhex(vector["hex"])
        limit = vector["max_payload"]
        assert refuses(lambda: split_datagram(data, limit)), vector["name"]
        assert refuses(lambda: FrameSplitter(limit).split(data)), vector["name"]

        def byte_by_byte():
            splitter = FrameSplitter(limit)
            for index in range(len(data)):
                assert splitter.split(data[index : index + 1]) == []

        assert refuses(byte_by_byte), vector["name"]


def test_payloads_decode_and_encode_to_the_same_bytes():
    for vector in VECTORS["payloads"]:
        payload = bytes.fromhex(vector["hex"])
        values, again = read(vector["type"], payload)
        assert values == vector["values"], (vector["name"], values)
        assert again == payload, vector["name"]


def test_refused_payloads():
    for vector in VECTORS["refused_payloads"]:
        payload = bytes.fromhex(vector["hex"])
        assert refuses(lambda: read(vector["type"], payload)), vector["name"]


def test_json_bodies_decode_and_encode_to_the_same_text():
    for vector in VECTORS["bodies"]:
        decode, encode = BODIES[vector["type"]]
        values = list(decode(vector["text"].encode()))
        assert values == vector["values"], (vector["name"], values)
        assert encode(*values) == vector["text"].encode(), vector["name"]


def test_refused_json_bodies():
    for vector in VECTORS["refused_bodies"]:
        decode = BODIES[vector["type"]][0]
        if decode is not json.loads:
            assert refuses(lambda: decode(vector["text"].encode())), vector["name"]
