"""Packed properties are those of paho, byte for byte."""

from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fleetnet_server.bridge.properties import pack, read_request

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@given(
    TEXT, st.booleans(), st.none() | st.integers(1, 2**32 - 1), st.binary(max_size=40),
    st.lists(st.tuples(TEXT, TEXT), max_size=4),
)  # fmt: skip
def test_bytes_are_those_of_paho(
    content: str, is_text: bool, expiry: int | None, correlation: bytes,
    user: list[tuple[str, str]],
) -> None:  # fmt: skip
    theirs = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if content:
        theirs.ContentType = content
    if is_text:
        theirs.PayloadFormatIndicator = 1
    if expiry is not None:
        theirs.MessageExpiryInterval = expiry
    if correlation:
        theirs.CorrelationData = correlation
    for pair in user:
        theirs.UserProperty = pair
    ours = pack(content, is_text, expiry, correlation, tuple(user)).pack()
    read = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    _, size = read.unpack(ours)  # type: ignore[no-untyped-call]
    assert size == len(ours) == len(theirs.pack())  # type: ignore[no-untyped-call]
    assert read.json() == theirs.json()  # type: ignore[no-untyped-call]
    request = read_request(read)
    assert (request.correlation, request.expiry_s) == (correlation, expiry)
    assert request.user == dict(user)


def test_no_properties() -> None:
    assert pack().pack() == b"\0" and read_request(None).response_topic == ""
