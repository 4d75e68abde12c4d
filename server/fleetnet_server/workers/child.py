"""A process that the supervisor started, from its first line to its end."""

import asyncio
import faulthandler
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from fleetnet.errors import FleetError
from fleetnet_server.app import Backend
from fleetnet_server.log_output import configure_logging
from fleetnet_server.workers.control import Control, Setup, read_setup
from fleetnet_server.workers.process import keep_what_is_made, on_stop, run, use_all_files

Make = Callable[[Setup], Backend]


def serve_child(make: Make, drain_s: int) -> None:
    """Run a back-end as the supervisor says; the socket to it is the program's argument.

    Args:
        drain_s: after which an end that hangs is a hard one.
    """
    # Until they mean something: these two go to every process of a terminal or a service.
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))
    setup = read_setup(sock)
    process = "store" if setup.worker < 0 else f"worker-{setup.worker}"
    configure_logging(setup.as_json, setup.quiet, process=process)
    # A crash in a library, or the supervisor's SIGABRT, leaves the stacks of all threads.
    faulthandler.enable()
    use_all_files()
    run(_serve(make, setup, sock, drain_s))


async def _serve(make: Make, setup: Setup, sock: socket.socket, drain_s: int) -> None:
    said: list[dict[str, Any]] = []
    hear: list[Callable[[dict[str, Any]], None]] = [said.append]
    control = Control(sock, lambda word: hear[0](word))
    control.start()
    stopping = on_stop((signal.SIGTERM,))
    try:
        backend = make(setup)
        async with backend:
            hear[0] = lambda word: _obey(backend, word)
            for word in said:
                _obey(backend, word)
            _on_reload(backend, control)
            keep_what_is_made()
            control.say(event="ready", ports=backend.ports)
            await stopping.wait()
            faulthandler.dump_traceback_later(drain_s, exit=True)
    except FleetError as error:
        control.say(event="failed", kind=type(error).__name__, text=str(error))
        sys.exit(1)
    faulthandler.cancel_dump_traceback_later()


def _obey(backend: Backend, word: dict[str, Any]) -> None:
    """Do what the supervisor says."""
    if word.get("do") == "drain":
        backend.is_draining = True
    elif word.get("do") == "note-restarts" and backend.workers is not None:
        backend.workers.restarts = word["restarts"]


def _on_reload(backend: Backend, control: Control) -> None:
    """Let SIGHUP read the files anew, and say when that is done."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    if hasattr(backend, "reload_workers"):
        backend.reload_workers = lambda: control.say(event="reload-workers")

    async def reload() -> None:
        is_done = await Backend.reload(backend)
        control.say(event="reloaded", is_done=is_done)

    def start() -> None:
        task = loop.create_task(reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, start)
