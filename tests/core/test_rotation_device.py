"""A device that gets another identity: what it does on the wire, on the flash, and when it fails.

The whole Device against a scripted back-end in virtual time (virtual_world.py).
"""

import os
import sys

FOLDER = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
sys.path.insert(0, FOLDER)
from part_device import remove, store  # noqa: E402
from rotation_story import OLD, Story, certificate, install, key, make_key  # noqa: E402
from virtual_world import ANCHOR  # noqa: E402

from fleetnet.credential import (  # noqa: E402
    FAILED,
    REQUEST,
    REQUESTED,
    RETIRE,
    RETIRED,
    Credential,
    decode_credential_state,
)
from fleetnet_device import Device, csr, identity_slots, saved  # noqa: E402


async def test_a_rotation_over_both_transports():
    for transport in ("tls", "dtls"):
        with Story(transport=transport) as story:
            await story.online()
            for n in range(3):
                await story.device.send("n", n)
            await story.rotate(1)
            # Asked before it was used, over the same transport, with nothing but HELLO.
            assert story.server.probes == [(certificate(1), 1)]
            ways = [(number, context.datagram) for number, context in story.contexts]
            assert ways == [(2 if transport == "dtls" else 1, transport == "dtls")] * 3
            assert story.sessions() == [(OLD, 0), (certificate(1), 1)]
            assert story.contexts[2][1].key == key(1) and story.contexts[2][1].pins is None
            assert story.states() == [] and story.flash() == ["identity", "identity-a"]
            await story.retire(1)
            assert story.states() == [(RETIRED, 1)]
            assert not [n for n in os.listdir(story.folder) if n in ("cert.der", "key.der")]
            await story.rotate(2)
            await story.retire(2)
            assert story.states() == [(RETIRED, 2)]
            assert story.flash() == ["identity", "identity-b"]
            await story.until(lambda: story.device.acknowledged == 3)
            assert len(story.server.messages) == 3
            await story.power_cut()
            await story.online()
            assert story.sessions()[-1] == (certificate(2), 2)
            await story.power_cut()


async def test_what_hello_says():
    with Story() as story:
        await story.online()
        assert story.server.opened[-1][2] == 0x10
        assert "rotation" not in story.device._parts and "identity" not in story.device._parts
        await story.power_cut()
    with Story(own_key=True) as story:
        await story.online()
        assert story.server.opened[-1][2] == 0x30
        await story.power_cut()
    with Story() as story:
        bundle = dict(story.config)
        bundle.update({"cert": OLD, "key": b"k", "ca": ANCHOR})
        story.device = Device(bundle, linger_ms=0)
        await story.device.start()
        await story.until(lambda: story.server.opened)
        assert story.server.opened[-1][2] == 0  # nowhere to keep one
        await story.pass_ms(5)
        story.say(install(1))
        await story.until(lambda: story.server.states)
        assert story.states() == [(FAILED, 1)]
        await story.power_cut()


async def test_a_key_of_its_own():
    with Story(own_key=True) as story:
        await story.online()
        for _ in range(2):  # asked again: the same key
            story.say(Credential(REQUEST, 4))
            await story.until(lambda: story.server.states)
            assert decode_credential_state(story.server.states[0]).csr == b"\x30\x03csr"
            assert story.states() == [(REQUESTED, 4)] and story.flash() == ["identity-key"]
        story.server.accepted.append(certificate(4))
        story.say(install(4, key=b""))
        await story.until(lambda: len(story.server.opened) == 2)
        await story.pass_ms(10)
        assert story.contexts[-1][1].key == csr.sec1(*(await make_key()))
        assert story.server.opened[-1] == (certificate(4), 4, 0x30)
        await story.retire(4)
        assert story.flash() == ["identity", "identity-a"]
        # Its certificate without the key that belongs to it.
        story.say(install(5, key=b""))
        await story.until(lambda: story.server.states[1:])
        assert story.states() == [(RETIRED, 4), (FAILED, 5)]
        await story.power_cut()


async def test_other_anchors_keep_the_pair():
    with Story() as story:
        await story.online()
        other = b"\x30\x06second"
        story.say(install(1, certificate=b"", key=b"", anchors=[ANCHOR, other]))
        await story.until(lambda: len(story.server.opened) == 2)
        assert story.sessions()[-1] == (OLD, 1)
        context = story.contexts[-1][1]
        assert (context.anchors, context.key) == ([ANCHOR, other], b"k")
        await story.pass_ms(10)
        story.say(install(1, certificate=b"", key=b"", anchors=[ANCHOR, other]))  # sent again
        await story.pass_ms(5_000)
        assert story.states() == [] and len(story.server.opened) == 2
        await story.power_cut()


async def test_a_probe_that_fails_changes_nothing():
    def unknown(story):
        pass  # not in accepted: REFUSE

    def wrong_anchor(story):
        story.server.accepted.append(certificate(1))
        story.wanted.anchors = [b"\x30\x05wrong"]

    def network(story):
        story.server.broken = 3

    def other_name(story):
        story.wanted.certificate = b"\x30\x05other"

    for spoil in (unknown, wrong_anchor, network, other_name):
        with Story() as story:
            await story.online()
            story.wanted = install(1)
            spoil(story)
            story.say(story.wanted)
            await story.until(lambda: story.server.states)
            assert story.states() == [(FAILED, 1)], spoil
            assert story.sessions() == [(OLD, 0)] and story.flash() == [], spoil
            await story.rotate(2)
            assert story.sessions()[-1] == (certificate(2), 2), spoil
            await story.power_cut()


async def test_a_network_that_fails_twice_is_no_reason():
    with Story() as story:
        await story.online()
        story.server.broken = 2
        await story.rotate(1)
        assert story.sessions()[-1] == (certificate(1), 1)
        assert story.states() == [] and len(story.server.lost) == 2
        await story.power_cut()


async def test_a_connection_that_was_being_made_when_the_identity_changed():
    """It comes up with the old certificate, says so, and makes room for one with the new."""
    with Story() as story:
        await story.online()
        story.server.accepted.append(certificate(1))
        story.server.broken = 1
        story.say(install(1))
        await story.until(lambda: story.server.lost)
        story.server.held = (OLD,)
        story.server.current().close()
        await story.until(lambda: story.server.probes)
        await story.pass_ms(5_000)
        assert story.sessions() == [(OLD, 0)] and story.device.part("identity").number == 1
        story.server.held = ()
        await story.until(lambda: len(story.server.opened) == 3)
        assert story.sessions()[1:] == [(OLD, 0), (certificate(1), 1)]
        await story.pass_ms(10)
        await story.retire(1)
        assert story.states() == [(RETIRED, 1)]
        await story.power_cut()


async def test_without_memory_for_two_connections_one_follows_the_other():
    with Story() as story:
        await story.online()
        story.server.no_memory = True
        await story.rotate(1)
        assert story.server.probes == [] and len(story.contexts) == 2
        assert story.sessions() == [(OLD, 0), (certificate(1), 1)]
        await story.retire(1)
        assert story.states() == [(RETIRED, 1)] and story.flash() == ["identity", "identity-a"]
        # This one does not serve: back, and said so.
        story.say(install(2, anchors=[b"\x30\x05wrong"]))
        await story.until(lambda: story.server.states)
        assert story.states() == [(FAILED, 2)]
        assert story.sessions()[-1] == (certificate(1), 1)
        assert story.flash() == ["identity", "identity-a"]
        await story.power_cut()


async def test_a_trial_that_the_power_ends_is_none():
    with Story() as story:
        await story.online()
        story.server.no_memory = True
        story.server.broken = 100
        story.say(install(1))
        await story.until(lambda: len(story.server.lost) > 2)
        await story.power_cut()
        story.server.broken = 0
        await story.online()
        assert story.sessions() == [(OLD, 0), (OLD, 0)]
        await story.power_cut()


async def test_a_server_that_was_set_back():
    """It took the probe, and knows nothing of it any more: the device returns by itself."""
    for reason in (6, 8, 9):
        for was_booted in (False, True):
            with Story() as story:
                await story.online()
                await story.rotate(1)
                story.server.accepted.remove(certificate(1))
                story.server.reason = reason
                if was_booted:
                    await story.power_cut()
                    await story.boot()
                else:
                    story.server.current().session.bye(story.now, 8)
                    story.server.current().pump()
                await story.until(lambda: story.server.states, 3_600_000)
                assert story.states() == [(FAILED, 1)]
                assert story.sessions()[-1] == (OLD, 0) and story.flash() == []
                await story.power_cut()
                await story.online()
                assert story.sessions()[-1] == (OLD, 0)
                await story.power_cut()


async def test_an_identity_that_serves_again_is_kept():
    """Neither was let in for a while; the newer one was in force, and is."""
    with Story() as story:
        await story.online()
        await story.rotate(1)
        await story.power_cut()
        story.server.accepted = []
        await story.boot()
        begin = len(story.contexts)
        await story.until(lambda: len(story.contexts) - begin > 6, 3_600_000)
        used = [context.certificate for _, context in story.contexts[begin:]]
        assert used[:6] == [certificate(1)] * 3 + [OLD] * 3
        story.server.accepted = [certificate(1)]
        before = len(story.server.opened)
        await story.until(lambda: len(story.server.opened) > before, 3_600_000)
        await story.pass_ms(1_000)
        assert story.states() == [] and story.flash() == ["identity", "identity-a"]
        await story.retire(1)
        assert story.states() == [(RETIRED, 1)]
        await story.power_cut()


async def test_a_device_that_is_disabled_keeps_its_identity():
    with Story() as story:
        await story.online()
        await story.rotate(1)
        await story.power_cut()
        story.server.accepted, story.server.reason = [], 7
        await story.boot()
        begin = len(story.contexts)
        await story.pass_ms(3_000_000)
        used = [context.certificate for _, context in story.contexts[begin:]]
        assert len(used) > 5 and used == [certificate(1)] * len(used)
        story.server.accepted = [certificate(1)]
        before = len(story.server.opened)
        await story.until(lambda: len(story.server.opened) > before)
        assert story.sessions()[-1] == (certificate(1), 1)
        await story.power_cut()


async def test_what_is_retired_is_never_used_again():
    with Story() as story:
        await story.online()
        await story.rotate(1)
        await story.retire(1)
        await story.rotate(2)
        await story.retire(2)
        await story.power_cut()
        # A bundle that cannot be written still has its pair.
        store(story.folder + "/cert.der", OLD)
        store(story.folder + "/key.der", b"k")
        story.server.accepted = []
        await story.boot()
        begin = len(story.contexts)
        await story.pass_ms(3_000_000)
        used = [context.certificate for _, context in story.contexts[begin:]]
        assert len(used) > 5 and used == [certificate(2)] * len(used)
        await story.power_cut()


async def test_retire_of_another_number_is_refused():
    with Story() as story:
        await story.online()
        story.say(Credential(RETIRE, 1))
        await story.until(lambda: story.server.states)
        assert story.states() == [(FAILED, 1)]
        await story.rotate(1)
        story.say(Credential(RETIRE, 2))
        await story.until(lambda: story.server.states)
        assert story.states() == [(FAILED, 2)]
        assert "key.der" in os.listdir(story.folder)
        await story.power_cut()


async def test_a_second_install_waits_for_a_session_with_the_first():
    with Story() as story:
        await story.online()
        story.server.accepted.extend([certificate(1), certificate(2)])
        story.server.broken = 1  # the first probe is still to come
        story.say(install(1))
        story.say(install(1))
        await story.until(lambda: story.server.lost)
        story.say(install(2))
        await story.until(lambda: len(story.server.opened) > 1)
        await story.pass_ms(60_000)
        assert story.sessions() == [(OLD, 0), (certificate(1), 1)]
        assert story.server.probes == [(certificate(1), 1)]
        await story.power_cut()


async def test_a_flash_that_lies_or_fails_changes_nothing():
    real = saved.write
    for broken in (lambda path, content: None, fail):
        with Story() as story:
            await story.online()
            story.server.accepted.append(certificate(1))
            saved.write = broken
            try:
                story.say(install(1))
                await story.until(lambda: story.server.states)
            finally:
                saved.write = real
            assert story.states() == [(FAILED, 1)] and story.server.probes == []
            await story.rotate(2)
            saved.write = fail
            try:
                await story.retire(2)
            finally:
                saved.write = real
            assert story.states() == [(FAILED, 2)] and "cert.der" in os.listdir(story.folder)
            await story.retire(2)
            assert story.states() == [(RETIRED, 2)]
            await story.power_cut()


def fail(path, content):
    raise OSError(28)


async def test_a_new_bundle_wins_over_the_slots():
    with Story() as story:
        await story.online()
        await story.rotate(1)
        await story.power_cut()
        story.config["made_ms"] = 8
        story.write_config()
        await story.online()
        assert story.sessions()[-1] == (OLD, 0)
        await story.rotate(1)
        assert story.sessions()[-1] == (certificate(1), 1)
        await story.power_cut()


async def test_another_spool_folder_does_not_lose_the_identity():
    with Story() as story:
        await story.online()
        await story.rotate(1)
        await story.retire(1)
        await story.power_cut()
        await story.online(spool=story.folder + "/spool")
        assert story.sessions()[-1] == (certificate(1), 1)
        await story.power_cut()
        remove(story.folder + "/spool")


async def test_a_board_without_the_parts_that_make_keys():
    real = identity_slots.Slots.request
    identity_slots.Slots.request = lacking
    try:
        with Story(own_key=True) as story:
            await story.online()
            story.say(Credential(REQUEST, 1))
            await story.until(lambda: story.server.states)
            assert story.states() == [(FAILED, 1)]
            await story.power_cut()
    finally:
        identity_slots.Slots.request = real


async def lacking(slots, number, name):
    raise ImportError("no module named 'fleetnet_device.csr'")
