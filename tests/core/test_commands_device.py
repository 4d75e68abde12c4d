"""The part "commands": at most once, never late, bounded, and nothing that ends a session."""

import asyncio
import json
import os
import sys

FOLDER = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
sys.path.insert(0, FOLDER)
from part_device import (  # noqa: E402
    Failing,
    Forgetful,
    PartDevice,
    load,
    receive,
    remove,
    scratch,
    store,
)

from fleetnet.commands import encode_call  # noqa: E402
from fleetnet_device.commands import Part  # noqa: E402
from fleetnet_device.limits import MAX_RUNNING, MAX_WAITING  # noqa: E402

SOON = 1_700_000_060_000


def call(command_id="c1", name="add", args=(1, 2), expires_ms=SOON, boot=0):
    return encode_call(command_id, name, list(args), expires_ms, boot)


def make(flash="", boot=1):
    device = PartDevice(flash, boot)
    part = Part(device)
    ran = []

    def add(a, b=0):
        ran.append((a, b))
        return a + b

    part.command()(add)
    return device, part, ran


def results(device):
    return [tuple(json.loads(body)) for body in device.take()]


async def ask(device, part, payload):
    assert receive(part, payload) is None
    await device.settle()
    return results(device)


async def test_a_call_runs_and_answers():
    device, part, ran = make()
    assert await ask(device, part, call()) == [("c1", "ok", 3)]
    keyword = encode_call("c2", "add", {"b": 5, "a": 1}, SOON)
    assert await ask(device, part, keyword) == [("c2", "ok", 6)]
    assert ran == [(1, 2), (1, 5)]


async def test_async_handlers_and_names():
    device, part, _ran = make()

    @part.command("later")
    async def handler():
        await asyncio.sleep(0)
        return {"a": [None, True, 1.5]}

    @part.command
    def bare():
        return "bare"

    later = await ask(device, part, call("a", "later", ()))
    assert later == [("a", "ok", {"a": [None, True, 1.5]})]
    assert await ask(device, part, call("b", "bare", ())) == [("b", "ok", "bare")]
    for name in ("later", "", "x" * 65):
        try:
            part.command(name)(lambda: None)
        except ValueError:
            continue
        if name:
            raise AssertionError("a command of the name %r was taken" % name)


async def test_a_repeated_call_runs_once_and_answers_again():
    device, part, ran = make()
    await ask(device, part, call())
    for _ in range(3):
        assert await ask(device, part, call()) == [("c1", "ok", 3)]
    assert ran == [(1, 2)]


async def test_a_call_repeated_while_it_runs_or_waits_is_not_answered_twice():
    device, part, ran = make()
    gate = asyncio.Event()

    async def slow(number):
        ran.append(number)
        await gate.wait()
        return number

    part.command()(slow)
    for number in range(MAX_RUNNING + 1):
        assert await ask(device, part, call("s%d" % number, "slow", [number])) == []
    for number in range(MAX_RUNNING + 1):
        assert await ask(device, part, call("s%d" % number, "slow", [number])) == []
    gate.set()
    await device.settle()
    assert sorted(results(device)) == [("s%d" % n, "ok", n) for n in range(MAX_RUNNING + 1)]
    assert sorted(ran) == list(range(MAX_RUNNING + 1))


async def test_concurrency_is_bounded_and_a_busy_call_may_come_again():
    device, part, ran = make()
    gate = asyncio.Event()
    now = []
    most = []

    async def slow():
        now.append(1)
        most.append(len(now))
        await gate.wait()
        now.pop()

    part.command()(slow)
    room = MAX_RUNNING + MAX_WAITING
    for number in range(room):
        assert await ask(device, part, call("s%d" % number, "slow", ())) == []
    assert await ask(device, part, call("one-too-many")) == [("one-too-many", "busy", None)]
    stale = call("stale", expires_ms=device.clock.now_ms)
    assert await ask(device, part, stale) == [("stale", "expired", None)]
    assert ran == []
    gate.set()
    await device.settle()
    assert len(results(device)) == room
    assert max(most) == MAX_RUNNING
    assert await ask(device, part, call("one-too-many")) == [("one-too-many", "ok", 3)]


async def test_a_stale_call_never_runs():
    device, part, ran = make()
    late = call(expires_ms=device.clock.now_ms)
    assert await ask(device, part, late) == [("c1", "expired", None)]
    device.clock.now_ms = 0  # the server's time is not known: nobody can say that it is good
    assert await ask(device, part, call("c2")) == [("c2", "expired", None)]
    assert ran == []


async def test_a_call_that_goes_stale_while_it_waits_never_runs():
    device, part, ran = make()
    gate = asyncio.Event()

    async def slow():
        await gate.wait()

    part.command()(slow)
    for number in range(MAX_RUNNING):
        await ask(device, part, call("s%d" % number, "slow", ()))
    assert await ask(device, part, call("waits")) == []
    device.clock.now_ms = SOON
    gate.set()
    await device.settle()
    assert ("waits", "expired", None) in results(device)
    assert ran == []


async def test_a_handler_is_stopped_at_its_deadline():
    device, part, _ran = make()
    ended = []

    async def endless():
        try:
            while True:
                # The call's deadline is 20 ms ahead, and passes while this sleeps.
                device.clock.now_ms += 30
                await asyncio.sleep(0.005)
        finally:
            ended.append(1)

    part.command()(endless)
    receive(part, call("e", "endless", (), device.clock.now_ms + 20))
    for _ in range(200):
        if device.sent:
            break
        await asyncio.sleep(0.005)
    assert results(device) == [("e", "error", ["Timeout", "it was stopped at its deadline"])]
    assert ended == [1]


async def test_what_a_handler_raises_is_an_answer():
    device, part, _ran = make()

    def bad():
        raise RuntimeError("x" * 500)

    async def worse():
        raise OSError(5)

    def nan():
        return [float("nan")]

    def odd():
        return object()

    def large():
        return "x" * 20000

    def deep():
        value = []
        for _ in range(40):
            value = [value]
        return value

    for handler in (bad, worse, nan, odd, large, deep):
        part.command(handler.__name__ if hasattr(handler, "__name__") else "")(handler)
    answers = {}
    for name in ("bad", "worse", "nan", "odd", "large", "deep"):
        (answer,) = await ask(device, part, call(name, name, ()))
        assert answer[1] == "error", answer
        answers[name] = answer[2]
    assert answers["bad"] == ["RuntimeError", "x" * 200]
    assert answers["worse"][0] == "OSError"
    for name in ("nan", "odd", "large", "deep"):
        assert answers[name][0] == "ValueError", answers
    (wrong,) = await ask(device, part, call("w", "add", ()))
    assert wrong[2][0] == "TypeError"
    assert await ask(device, part, call("n", "nobody", ())) == [("n", "unknown", None)]
    assert await ask(device, part, call("z")) == [("z", "ok", 3)]
    assert device.reports == []


HOSTILE = (
    b"",
    b"{}",
    b"[]",
    b"[" * 3000,
    b'["a","b",[],1',
    b'[1,"add",[],1700000060000]',
    b'["","add",[],1700000060000]',
    b'["' + b"i" * 33 + b'","add",[],1700000060000]',
    b'["i","",[],1700000060000]',
    b'["i","add",7,1700000060000]',
    b'["i","add",[],"soon"]',
    b'["i","add",[],-1]',
    b'["i","add",[],1700000060000,-5]',
    b'["i","add",[],true]',
    b"\xff\xfe\x00",
)


async def test_hostile_calls_are_refused_with_one_error():
    device, part, ran = make()
    for payload in HOSTILE:
        error = receive(part, payload)
        if payload != b'["a","b",[],1':  # MicroPython's json closes what is open: stale then
            assert type(error).__name__ == "ProtocolError", (payload, error)
    await device.settle()
    assert ran == []


async def test_no_id_is_forgotten_while_it_may_be_asked_for():
    device, part, ran = make()
    for number in range(40):
        await ask(device, part, call("c%d" % number))
    # The server has 8 open at a time: these are among the last 32.
    for number in range(30, 40):
        assert await ask(device, part, call("c%d" % number)) == [("c%d" % number, "ok", 3)]
    assert len(ran) == 40


async def test_results_are_kept_in_bounded_memory():
    device, part, _ran = make()
    part.command("big")(lambda: "x" * 5000)
    for number in range(6):
        await ask(device, part, call("b%d" % number, "big", ()))
    (last,) = await ask(device, part, call("b5", "big", ()))
    (first,) = await ask(device, part, call("b0", "big", ()))
    assert last == ("b5", "ok", "x" * 5000)
    assert first[1:] == ("error", ["ResultLost", "it ran; its result was too large to be kept"])


# -- reboots -----------------------------------------------------------------------


async def begin_and_crash(folder):
    """A boot that begins a command, and loses its power in the middle; its handler's count."""
    device, part, ran = make(folder, boot=1)

    async def slow():
        ran.append("slow")
        await asyncio.Event().wait()

    part.command()(slow)
    assert await ask(device, part, call("c0")) == [("c0", "ok", 3)]
    assert await ask(device, part, call("c1", "slow", ())) == []
    assert ran == [(1, 2), "slow"]
    return device


async def test_a_command_that_a_power_cut_interrupted_is_not_run_again():
    folder = scratch()
    try:
        first = await begin_and_crash(folder)
        device, part, ran = make(folder, boot=2)
        part.command("slow")(lambda: ran.append("again"))
        expected = ("c1", "error", ["Interrupted", "the device restarted while it ran"])
        assert await ask(device, part, call("c1", "slow", (), boot=1)) == [expected]
        # What had ended is answered with its result; what never began runs now.
        assert await ask(device, part, call("c0", boot=1)) == [("c0", "ok", 3)]
        assert ran == []
        assert await ask(device, part, call("c2", boot=1)) == [("c2", "ok", 3)]
        assert ran == [(1, 2)]
        # And once more: the answer stays the same.
        device, part, ran = make(folder, boot=3)
        assert await ask(device, part, call("c1", "slow", (), boot=1)) == [expected]
        await first.stop()
    finally:
        remove(folder)


async def test_without_flash_a_call_of_an_earlier_boot_is_not_run():
    device, part, ran = make("", boot=2)
    (answer,) = await ask(device, part, call("c1", boot=1))
    assert answer[1:] == (
        "error",
        ["Interrupted", "an earlier boot got it, and nothing tells whether it ran"],
    )
    assert await ask(device, part, call("c2", boot=2)) == [("c2", "ok", 3)]
    assert await ask(device, part, call("c3", boot=0)) == [("c3", "ok", 3)]
    assert len(ran) == 2


async def test_control_without_the_journal_a_command_runs_twice():
    device, part, ran = make("", boot=2)
    part.journal = Forgetful()
    await ask(device, part, call("c1", boot=1))
    await ask(device, part, call("c1", boot=1))
    assert ran == [(1, 2), (1, 2)]


async def test_a_stop_in_the_middle_is_told():
    device, part, _ran = make()

    async def slow():
        await asyncio.Event().wait()

    part.command()(slow)
    await ask(device, part, call("c1", "slow", ()))
    await device.stop()
    assert results(device) == [("c1", "error", ["Interrupted", "the device stopped"])]


async def test_every_cut_of_the_journal_is_understood():
    folder = scratch()
    path = folder + "/commands.log"
    try:
        device, part, _ran = make(folder)
        await ask(device, part, call("c0"))
        await ask(device, part, call("c1"))
        whole = load(path)
        for size in range(len(whole) + 1):
            store(path, whole[:size])
            device, part, _ran = make(folder, boot=2)
            assert part.journal.is_complete
            known = [part.journal.find("c0"), part.journal.find("c1")]
            began = whole[:size].count(b'["c0"]\n'), whole[:size].count(b'["c1"]\n')
            assert [each is not None for each in known] == [bool(n) for n in began], size
            assert b"" not in known, size
    finally:
        remove(folder)


async def test_a_damaged_journal_is_not_trusted():
    folder = scratch()
    path = folder + "/commands.log"
    try:
        device, part, ran = make(folder)
        await ask(device, part, call("c0"))
        whole = load(path)
        store(path, whole[:12] + bytes([whole[12] ^ 1]) + whole[13:])
        device, part, ran = make(folder, boot=2)
        (answer,) = await ask(device, part, call("c9", boot=1))
        assert answer[2][0] == "Interrupted"
        assert ran == []
    finally:
        remove(folder)


async def test_the_journal_stays_small():
    folder = scratch()
    try:
        device, part, _ran = make(folder)
        part.command("text")(lambda: "x" * 600)
        largest = 0
        for number in range(120):
            await ask(device, part, call("c%d" % number, "text", ()))
            largest = max(largest, os.stat(folder + "/commands.log")[6])
        assert 4096 < largest <= 8192, largest
        device, part, _ran = make(folder, boot=2)
        assert part.journal.is_complete
        (answer,) = await ask(device, part, call("c119", "text", (), boot=1))
        assert answer == ("c119", "ok", "x" * 600)
        assert part.journal.find("c100") is not None
    finally:
        remove(folder)


async def test_flash_that_fails_is_reported_and_leaves_no_journal_with_a_hole():
    device, part, ran = make("/nowhere/at/all")
    assert await ask(device, part, call("c0")) == [("c0", "ok", 3)]
    assert len(device.reports) == 1
    assert await ask(device, part, call("c0")) == [("c0", "ok", 3)]
    assert ran == [(1, 2)]


async def test_flash_that_fails_later_leaves_no_journal_with_a_hole():
    folder = scratch()
    try:
        device, part, ran = make(folder)
        await ask(device, part, call("c0"))
        with Failing():
            assert await ask(device, part, call("c1")) == [("c1", "ok", 3)]
        assert [where for _, where in device.reports] == [
            "journal of commands: RAM only from now on; is the flash full?"
        ]
        assert await ask(device, part, call("c1")) == [("c1", "ok", 3)]
        assert await ask(device, part, call("c2")) == [("c2", "ok", 3)]
        assert len(ran) == 3
        # The next boot must not believe that c2 never began.
        device, part, ran = make(folder, boot=2)
        (answer,) = await ask(device, part, call("c2", boot=1))
        assert (answer[2][0], ran) == ("Interrupted", [])
    finally:
        remove(folder)
