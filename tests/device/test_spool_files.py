"""The spool on a real file system, on CPython and on real MicroPython, killed while it writes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fleetnet.session import Session
from fleetnet_device.spool import Spool
from fleetnet_device.spool_files import Files
from fleetnet_device.spool_outbox import SpooledOutbox
from interpreters import ROOT, Interpreter, interpreters

COMMANDS = {"cpython": [sys.executable]} | {each.name: [each.path] for each in interpreters()}

# Writes for ever, and says what is on the flash.
WRITER = """
import sys
sys.path[:0] = [ROOT, ROOT + "/device_lib"]
import os
from fleetnet.session import Session
from fleetnet_device.spool_outbox import SpooledOutbox
from fleetnet_device.spool import Spool
outbox = SpooledOutbox(Spool(FOLDER, 60000), 4096, 64)
session = Session(os.urandom, outbox.epoch())
outbox.restore(session)
number = BEGIN
while True:
    outbox.put(session, 3, 16, b"message %d" % number, 1)
    number += 1
    if number % 5 == 0:
        while outbox.spool.write(outbox, session):
            pass
        print(number, outbox.spool.recovered_messages)
"""


def contents(folder: Path) -> list[bytes]:
    """All messages on the flash, in order."""
    log = Spool(str(folder), 60_000).log
    found = []
    while (record := log.peek()) is not None:
        found.append(record.payload)
        log.taken()
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_while_it_writes(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    begin = 0
    for _ in range(4):
        script = tmp_path / "writer.py"
        head = f"ROOT = {str(ROOT)!r}\nFOLDER = {str(folder)!r}\nBEGIN = {begin}\n"
        script.write_text(head + WRITER)
        with subprocess.Popen(
            [*COMMANDS[name], str(script)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(25)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        said = [line.split() for line in lines if line.endswith("\n")]
        promised = int(said[-1][0])
        assert int(said[0][1]) == begin, "a life begins with what the one before left"
        found = contents(folder)
        assert found == [b"message %d" % n for n in range(len(found))]
        assert len(found) >= promised
        begin = len(found)
    assert begin >= 500


def test_a_spool_moves_between_interpreters(tmp_path: Path) -> None:
    """The layout is the same everywhere: written by one, read by the others."""
    spool = Spool(str(tmp_path / "spool"))
    outbox = SpooledOutbox(spool, 4096, 64)
    session = Session(os.urandom, outbox.epoch())
    outbox.restore(session)
    for n in range(40):
        outbox.put(session, 3, 16, b"message %d" % n, 1)
    outbox.close()
    script = tmp_path / "reader.py"
    script.write_text(
        f"import sys\nsys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'device_lib')!r}]\n"
        "from fleetnet_device.spool import Spool\n"
        f"spool = Spool({str(tmp_path / 'spool')!r})\n"
        "print(len(spool), spool.recovered_readings, spool.epoch == bytes.fromhex"
        f"({session.epoch.hex()!r}))\n"
    )
    for command in COMMANDS.values():
        done = subprocess.run(
            [*command, str(script)], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert done.stdout.split() == ["40", "40", "True"], done.stdout + done.stderr


def test_files_on_a_disk(tmp_path: Path) -> None:
    files = Files(str(tmp_path / "new"))
    files.append("a", [b"one", b"two"])
    files.append("a", [b"three"])
    files.write("b", b"long")
    files.write("b", b"x")
    assert sorted(files.names()) == ["a", "b"]
    assert files.size("a") == 11 and files.size("b") == 1
    with files.open("a") as file:
        assert file.read() == b"onetwothree"
    files.remove("a")
    assert files.names() == ["b"] and files.free() > 0


def power_cuts(path: str, *arguments: str) -> tuple[int, int, str]:
    script = str(ROOT / "tests" / "device" / "spool_on_vfs.py")
    done = subprocess.run(
        [path, script, str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    words = done.stdout.split()
    assert words[:1] == ["cuts"], done.stdout + done.stderr
    return int(words[1]), int(words[3]), done.stdout


@pytest.mark.parametrize(("kind", "stride"), [("littlefs", "5"), ("fat", "2")])
@pytest.mark.parametrize("interpreter", interpreters(), ids=lambda each: each.name)
def test_power_cut_at_block_writes(interpreter: Interpreter, kind: str, stride: str) -> None:
    cuts, bad, said = power_cuts(interpreter.path, kind, stride)
    assert cuts > 40 and bad == 0, said


@pytest.mark.parametrize("interpreter", interpreters()[:1], ids=lambda each: each.name)
def test_the_power_cuts_are_seen(interpreter: Interpreter) -> None:
    cuts, bad, said = power_cuts(interpreter.path, "littlefs", "31", "careless")
    assert bad > cuts // 2, said
