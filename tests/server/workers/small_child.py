"""A process in the place of a worker or the store process: it starts in no time, and can be told
how to end. Run by test_supervisor.py as `python -m small_child`.

Writes what it hears to FOLDER/heard, a line each; FOLDER/say says what it does at its start.
"""

import json
import os
import select
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


def live() -> None:
    while True:
        time.sleep(0.05)
        if not (folder / f"mute-{name}").exists():
            say(event="alive")


ended: list[int] = []
news, told = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(told)
signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
signal.signal(signal.SIGHUP, lambda *_: say(event="reloaded", is_done=name != "worker-1"))
heard("starts")
if (folder / f"fail-{name}").exists():
    say(event="failed", kind="StoreError", text="it is not to be")
    sys.exit(1)
if (folder / f"crash-{name}").exists():
    os._exit(3)
say(event="ready", ports={"web_port": 8080} if name == "store" else {})
threading.Thread(target=live, daemon=True).start()
while True:
    ready = select.select([sock, news], [], [])[0]
    if sock in ready:  # what was said before a signal is heard before it
        if not (line := sock.recv(4096)):
            break
        heard(line.decode().strip())
    elif ended:
        heard(signal.Signals(ended[0]).name)
        os._exit(0)
    else:
        os.read(news, 100)
