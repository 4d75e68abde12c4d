"""The part "config": validated before it holds, kept whole or not at all, newest wins."""

import asyncio
import json
import os
import sys

FOLDER = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
sys.path.insert(0, FOLDER)
from part_device import Failing, PartDevice, load, receive, remove, scratch, store  # noqa: E402

from fleetnet.commands import encode_config  # noqa: E402
from fleetnet.handshake import Hello  # noqa: E402
from fleetnet.limits import MAX_MESSAGE  # noqa: E402
from fleetnet_device import saved  # noqa: E402
from fleetnet_device.config import Part  # noqa: E402


def make(flash=""):
    device = PartDevice(flash)
    return device, Part(device)


async def give(device, part, version, document):
    assert receive(part, encode_config(version, document)) is None
    await device.settle()
    return [tuple(json.loads(body)) for body in device.take()]


def greeted(part):
    hello = Hello()
    part.greet(hello)
    return hello.config_version


async def test_a_document_is_read_like_a_dict():
    device, part = make()
    assert (part.version, len(part), part.get("rate", 10), greeted(part)) == (0, 0, 10, 0)
    assert await give(device, part, 3, {"rate": 5, "on": True}) == [(3, "applied", {})]
    assert (part["rate"], part.get("on"), "rate" in part, len(part)) == (5, True, True, 2)
    assert greeted(part) == 3
    try:
        part["nothing"]
    except KeyError:
        return
    raise AssertionError("a missing key has a value")


async def test_callbacks_see_the_new_document_before_it_holds_and_report():
    device, part = make()
    seen = []

    @part.on_change
    def first(document):
        seen.append((document["rate"], part.get("rate")))
        return {"rate": document["rate"]}

    @part.on_change
    async def second(document):
        await asyncio.sleep(0)
        return {"free": 7}

    assert await give(device, part, 1, {"rate": 5}) == [(1, "applied", {"rate": 5, "free": 7})]
    assert await give(device, part, 2, {"rate": 6}) == [(2, "applied", {"rate": 6, "free": 7})]
    assert seen == [(5, None), (6, 5)]
    # The same version again: its answer was lost. The callbacks are left alone.
    assert await give(device, part, 2, {"rate": 6}) == [(2, "applied", {"rate": 6, "free": 7})]
    assert len(seen) == 2
    part.report({"rate": 4})
    assert [tuple(json.loads(body)) for body in device.take()] == [(2, "applied", {"rate": 4})]


async def test_a_rejected_document_changes_nothing():
    folder = scratch()
    try:
        device, part = make(folder)
        seen = []
        part.on_change(lambda document: seen.append(document["rate"]))

        @part.on_change
        def check(document):
            if document["rate"] > 10:
                raise ValueError("rate is 10 at most" + "!" * 500)

        await give(device, part, 1, {"rate": 5})
        ((version, state, reason),) = await give(device, part, 2, {"rate": 11})
        assert (version, state, len(reason)) == (2, "rejected", 200)
        assert reason.startswith("ValueError: rate is 10 at most!")
        assert (part.version, part["rate"]) == (1, 5)
        # Those that had taken it are told to go back.
        assert seen == [5, 11, 5]
        device, part = make(folder)
        assert (part.version, part["rate"]) == (1, 5)
    finally:
        remove(folder)


async def test_the_newest_of_several_wins():
    device, part = make()
    gate = asyncio.Event()
    seen = []

    @part.on_change
    async def slow(document):
        seen.append(document["n"])
        await gate.wait()

    for number in (1, 2, 3):
        assert await give(device, part, number, {"n": number}) == []
    gate.set()
    await device.settle()
    assert (seen, part.version) == ([1, 3], 3)


async def test_what_cannot_be_kept_or_reported_is_rejected():
    device, part = make("/nowhere/at/all")
    ((version, state, reason),) = await give(device, part, 1, {"rate": 5})
    assert (version, state, part.version) == (1, "rejected", 0)
    assert reason.startswith("OSError") or reason.startswith("FileNotFoundError"), reason
    device, part = make()
    part.on_change(lambda document: {"x": object()})
    assert (await give(device, part, 1, {}))[0][1] == "rejected"


async def test_a_document_survives_a_power_cut_at_any_byte():
    folder = scratch()
    path = folder + "/configuration"
    try:
        device, part = make(folder)
        await give(device, part, 1, {"rate": 5})
        old = load(path)
        await give(device, part, 2, {"rate": 6})
        new = load(path)
        for size in range(len(new) + 1):
            for is_old_there in (True, False):
                # Without the old file: cut between removing it and renaming (FAT).
                if not is_old_there and size < len(new):
                    continue
                clear(folder)
                store(path + ".new", new[:size])
                if is_old_there:
                    store(path, old)
                device, part = make(folder)
                expected = (1, 5) if is_old_there else (2, 6)
                assert (part.version, part["rate"]) == expected, (size, is_old_there)
    finally:
        remove(folder)


async def test_the_largest_document_survives_a_reboot():
    folder = scratch()
    body = b'[7,{"a":"%s"}]' % (b"x" * (MAX_MESSAGE - len(b'[7,{"a":""}]')))
    assert len(body) == MAX_MESSAGE
    try:
        device, part = make(folder)
        receive(part, body)
        await device.settle()
        assert part.version == 7
        device, part = make(folder)
        assert part.version == 7 and not device.reports
    finally:
        remove(folder)


def clear(folder):
    for name in os.listdir(folder):
        os.remove(folder + "/" + name)


async def test_a_damaged_file_is_no_configuration():
    folder = scratch()
    try:
        path = folder + "/configuration"
        device, part = make(folder)
        await give(device, part, 1, {"rate": 5})
        whole = load(path)
        for at in range(len(whole)):
            store(path, whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            device, part = make(folder)
            assert part.version == 0, at
        saved.write(path, b"[1,7]")
        device, part = make(folder)
        assert part.version == 0 and len(device.reports) == 1
    finally:
        remove(folder)


async def test_hostile_documents_are_refused_with_one_error():
    device, part = make()
    for payload in (b"", b"[]", b"{}", b"[1]", b"[0,{}]", b"[-1,{}]", b"[1,[]]", b"[true,{}]",
                    b'["1",{}]', b"[1.5,{}]", b"[9999999999,{}]", b"[" * 2000, b"\xff"):
        error = receive(part, payload)
        assert type(error).__name__ == "ProtocolError", payload
    await device.settle()
    assert device.sent == [] and part.version == 0


async def test_flash_that_fails_keeps_the_old_document():
    folder = scratch()
    try:
        device, part = make(folder)
        await give(device, part, 1, {"rate": 5})
        with Failing():
            ((version, state, reason),) = await give(device, part, 2, {"rate": 6})
        assert (version, state) == (2, "rejected")
        assert reason.startswith("OSError"), reason
        device, part = make(folder)
        assert (part.version, part["rate"]) == (1, 5)
    finally:
        remove(folder)
