"""A process in the place of a worker or the store process: it starts in no time, and can be told
how to end. Run by test_supervisor.py as `python -m small_child`.

Writes what it hears to FOLDER/heard, a line each; FOLDER/say says what it does at its start.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

sock = socket.socket(fileno=int(sys.argv[1]))
setup = json.loads(sock.makefile().readline())
folder, name = Path(setup["folder"]), sys.argv[2]


def heard(what: str) -> None:
    with (folder / "heard").open("a") as file:
        file.write(f"{name} {what}\n")


def say(**said: object) -> None:
    sock.sendall(json.dumps(said).encode() + b"\n")


def end(number: int, _frame: object) -> None:
    heard(signal.Signals(number).name)
    os._exit(0)


def live() -> None:
    while True:
        time.sleep(0.05)
        if not (folder / f"mute-{name}").exists():
            say(event="alive")


signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGHUP, lambda *_: say(event="reloaded", is_done=name != "worker-1"))
heard("starts")
if (folder / f"fail-{name}").exists():
    say(event="failed", kind="StoreError", text="it is not to be")
    sys.exit(1)
if (folder / f"crash-{name}").exists():
    os._exit(3)
say(event="ready", ports={"web_port": 8080} if name == "store" else {})
threading.Thread(target=live, daemon=True).start()
while line := sock.recv(4096):
    heard(line.decode().strip())
