"""The command line for tests: a process, a pseudo terminal, a store with readings in it."""

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import forked
from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.store.sqlite import SqliteStore

NOW = 1_800_000_000_000
COMMAND = [sys.executable, "-m", "fleetnet_server.cli.main"]


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLEETNET_")}
    kept.pop("NO_COLOR", None)
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}


def tried(*arguments: object, text: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command, whatever comes of it; ``text`` is its standard input."""
    return forked.run(arguments, environment(**more), text)


def fleetnet(
    *arguments: object, code: int = 0, text: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command that ends with ``code``."""
    done = tried(*arguments, text=text, **more)
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    return done


def on_a_terminal(*arguments: object, code: int = 0, **more: str) -> str:
    """Run a command whose three streams are a terminal of 100 columns; return what it shows."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    shown = b""
    try:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=inner, stdout=inner, stderr=inner,
            env=environment(**{"TERM": "xterm-256color", **more}),
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            is_over = process.poll() is not None
            if select.select([outer], [], [], 0.05)[0]:
                shown += os.read(outer, 65536)
            elif is_over:
                break
            assert time.monotonic() < deadline, shown
        assert process.returncode == code, shown
        return shown.decode()
    finally:
        os.close(inner)
        os.close(outer)


def put(folder: Path, device: str, *readings: tuple[str, int, Any], size: int = 100) -> None:
    """Store (channel, ms after NOW, value) of a device, ``size`` in a message."""
    with SqliteStore(folder / "fleet.db") as store:
        found = store.lookup(device) or store.add_device(device)
        epoch = store.epoch_id(found.id, b"epoch-01")
        ((last,),) = store.read("SELECT coalesce(max(seq), 0) FROM messages")
        messages = []
        for number, at in enumerate(range(0, len(readings), size), last + 1):
            some = readings[at : at + size]
            names = list(dict.fromkeys(name for name, _ms, _value in some))
            items = [[names.index(name), ms, value] for name, ms, value in some]
            body = json.dumps([NOW, 0, names, items]).encode()
            t0, t1, problem, kept = inspect_body(READINGS, body, lambda boot: None, NOW)
            assert problem is None, problem
            messages.append(
                Message(found.id, epoch, 1, number, READINGS, t0, t1, NOW, kept, problem)
            )
        store.commit(messages)
