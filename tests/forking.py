"""A process that has `fleetnet` imported, and forks for each command; see forked.py.

Run with the number of a socket on which a request is one message: JSON, and beside it the
descriptors of standard input, output and error and of a socket for the answer, which is
``PID`` and, when the command has ended, its wait status, a line each. It ends with the socket.
"""

import array
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys

import uvloop  # noqa: F401 - imported when a server runs

from fleetnet_server.cli import main as cli

MOST = 1 << 17
# Commands import when they are used; these are what nearly every one of them needs.
OFTEN = ("app", "cli.device", "cli.init", "cli.output", "cli.serve")


def receive(requests: socket.socket) -> tuple[dict[str, object], list[int]] | None:
    descriptors = array.array("i")
    data, beside, _flags, _address = requests.recvmsg(MOST, socket.CMSG_LEN(4 * 4))
    for _level, _kind, numbers in beside:
        descriptors.frombytes(numbers[: len(numbers) - len(numbers) % 4])
    return (json.loads(data), list(descriptors)) if data else None


def become(request: dict, streams: list[int]) -> None:
    """Take over what a new process would have been given."""
    if request["session"]:
        os.setsid()
    os.chdir(request["folder"])
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 256)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["fleetnet", *request["arguments"]]
    sys.stdin = open(0)
    # As those of a process whose output is no terminal: errors at once, the rest by the buffer.
    sys.stdout = open(1, "w")
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")
    signal.signal(signal.SIGINT, signal.default_int_handler)


def tell(answer: int, number: int) -> None:
    try:
        os.write(answer, b"%d\n" % number)
    except OSError:
        pass  # nobody waits for it any more


def end(child: int, process: int, answer: int) -> None:
    """Tell how a command has ended."""
    tell(answer, os.waitpid(child, 0)[1])
    os.close(process)
    os.close(answer)


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    for name in OFTEN:
        importlib.import_module(f"fleetnet_server.{name}")
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the commands
    running: dict[int, tuple[int, int]] = {}  # child and answer by the descriptor of the process
    while True:
        ready = select.select([requests, *running], [], [])[0]
        for process in running.keys() & ready:
            child, answer = running.pop(process)
            end(child, process, answer)
        if requests not in ready:
            continue
        received = receive(requests)
        if received is None:
            return
        request, (*streams, answer) = received
        for name in request["modules"]:
            importlib.import_module(name)
        child = os.fork()
        if child == 0:
            requests.close()
            become(request, streams)
            sys.exit(cli.main(prog_name="fleetnet"))
        for stream in streams:
            os.close(stream)
        running[os.pidfd_open(child)] = child, answer
        tell(answer, child)


if __name__ == "__main__":
    main()
