"""A device that gets its first identity, by a token or over a pre-shared key.

In virtual time (virtual_world.py).
"""

import os
import sys

FOLDER = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
sys.path.insert(0, FOLDER)
from rotation_story import Story, certificate, install, key, make_key  # noqa: E402
from virtual_world import ANCHOR, NOW_MS, PIN  # noqa: E402

from fleetnet.credential import REFUSED, Credential, decode_credential_state  # noqa: E402
from fleetnet_device import csr, identity_slots  # noqa: E402


def claimed(story, answer):
    """The server answers claims with ``answer``."""

    def on_state(body):
        state = decode_credential_state(body)
        assert (state.token, state.number, state.csr) == ("TOKEN", 1, b"\x30\x03csr")
        assert "identity-key" in os.listdir(story.folder), "the key is kept first"
        if answer is not None:
            story.say(answer)

    story.server.on_state = on_state
    story.server.accepted = [certificate(1)]


CLAIM = {"token": "TOKEN", "port": 3}


async def test_a_claim_by_a_device_without_a_date():
    with Story(has_pair=False, claim=CLAIM, made_ms=NOW_MS - 1_000_000) as story:
        story.own_ms = 946_684_800_000  # the year 2000
        claimed(story, install(1, key=b""))
        began = story.now
        story.server.held = (certificate(1),)
        await story.boot()
        await story.until(lambda: len(story.contexts) == 2)
        # The answer to HELLO told the time, before the certificate is used.
        assert abs(story.device.clock.unix_ms() - NOW_MS - story.now) < 1_000
        story.server.held = ()
        await story.until(lambda: story.server.opened)
        assert story.now - began < 10_000
        assert [number for number, _ in story.contexts] == [3, 1]
        first, second = [context for _, context in story.contexts]
        assert first.certificate is None and first.pins == ["50" * 32]
        assert first.anchors == [] and not first.datagram
        # No RTC took the time: known by its pins still. The time itself is the server's.
        assert (second.certificate, second.pins) == (certificate(1), [PIN])
        assert second.key == csr.sec1(*(await make_key()))
        await story.power_cut()
        story.own_ms = NOW_MS
        await story.online()
        assert story.contexts[-1][1].pins is None and story.contexts[-1][1].anchors == [ANCHOR]
        assert story.server.opened[-1] == (certificate(1), 1, 0x30)
        await story.power_cut()


async def test_a_claim_whose_answer_is_lost_is_made_again_with_the_same_key():
    with Story(has_pair=False, claim=CLAIM) as story:
        claimed(story, None)
        await story.boot()
        await story.until(lambda: story.server.states)
        await story.power_cut()
        claimed(story, install(1, key=b""))
        await story.online()
        assert story.server.states[0] == story.server.states[1]
        await story.power_cut()


async def test_an_answer_in_front_of_a_cut_counts():
    with Story(has_pair=False, claim=CLAIM) as story:
        claimed(story, install(1, key=b""))
        answer = story.server.on_state

        def on_state(body):
            link = story.server.current()
            answer(body)
            link.close()

        story.server.on_state = on_state
        await story.online()
        assert len(story.server.claims) == 1
        await story.power_cut()


async def test_claims_that_are_not_granted():
    with Story(has_pair=False, claim=CLAIM) as story:
        claimed(story, Credential(REFUSED, 1, reason="used up"))
        await story.boot()
        await story.until(lambda: story.device.last_error is not None)
        assert "claim refused: used up" in str(story.device.last_error)
        assert story.device.state == "refused" and story.server.opened == []
        await story.power_cut()
    with Story(has_pair=False, claim=CLAIM, pins=["00" * 32]) as story:
        await story.boot()
        await story.until(lambda: story.device.last_error is not None)
        assert type(story.device.last_error).__name__ == "WrongPin" and story.server.claims == []
        await story.power_cut()
    for config in ({"claim": {"token": "T"}}, {"claim": CLAIM, "pins": []}):
        with Story(has_pair=False, **config) as story:
            await story.boot()
            await story.until(lambda: story.device.last_error is not None)
            assert "fleetnet device claim" in str(story.device.last_error)
            await story.power_cut()


async def test_a_board_without_the_parts_that_make_keys_gets_one():
    real = identity_slots.Slots.request
    identity_slots.Slots.request = lacking
    try:
        with Story(has_pair=False, claim=CLAIM) as story:
            story.server.accepted = [certificate(1)]

            def on_state(body):
                assert decode_credential_state(body).csr == b""
                story.say(install(1))

            story.server.on_state = on_state
            await story.online()
            assert story.contexts[-1][1].key == key(1)
            await story.power_cut()
    finally:
        identity_slots.Slots.request = real


async def lacking(slots, number, name):
    raise ImportError("no module named 'fleetnet_device.csr'")


async def test_from_a_pre_shared_key_to_a_certificate():
    psk = {"identity": "cam-1.1", "key": "00" * 32}
    with Story(has_pair=False, psk=psk) as story:
        story.server.accepted = ["cam-1.1"]
        await story.online()
        assert story.sessions() == [("cam-1.1", 0)]
        await story.rotate(1)
        assert story.sessions()[-1] == (certificate(1), 1)
        story.server.accepted = [certificate(1)]
        await story.power_cut()
        await story.online()
        assert story.sessions()[-1] == (certificate(1), 1)
        await story.power_cut()
