"""`fleetnet serve`: the back-end in the foreground, until SIGTERM or Ctrl-C."""

import asyncio
import faulthandler
import gc
import json
import os
import resource
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
import structlog

from fleetnet_server.app import Backend
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.log_output import configure_logging
from fleetnet_server.notify import Manager

_log = structlog.get_logger("fleetnet")

# The drain by itself ends after 5 s for the last commit, 1 s for hubs, 3 s for the good-byes, 5 s
# for the writer, 3 s for the HTTP port and 4 s for the bridge to MQTT, at the latest; whatever
# hangs beyond that is ended, with its stacks in the log.
DRAIN_S = 22


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Log lines, and the ready line, as JSON.")
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
@click.pass_obj
def serve(folder: Path, as_json: bool, quiet: bool) -> None:
    """Run the back-end of the fleet in FOLDER.

    Prints one line when it accepts devices. SIGTERM or Ctrl-C ends it cleanly: everything
    received is committed and acknowledged, devices get BYE, each with a time of its own to come
    back; a second one ends it at once. SIGHUP reads settings, certificates and keys anew (a
    change of the certificates is seen without it); sessions go on.
    """
    settings = load_settings(folder)
    configure_logging(as_json, quiet)
    # A watchdog's SIGABRT, or a crash in a library, leaves the stacks of all threads in the log.
    faulthandler.enable()
    use_all_files()
    if not os.getuid():
        _log.warning("runs as root, of which it needs nothing: see deploy/systemd in the sources")
    run(_serve(folder, settings, as_json))


async def _serve(folder: Path, settings: Settings, as_json: bool) -> None:
    manager = Manager()
    stopping = _on_stop()
    async with Backend(folder, settings) as backend:
        ports = backend.ports
        status = "devices on " + ", ".join(f"{key} {number}" for key, number in ports.items())
        _on_reload(backend, manager, status)
        # What start-up made stays; messages come and go without cycles, so the collector
        # may look less often than every 700 allocations.
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        _say_ready(ports, as_json)
        manager.ready(status)
        await stopping.wait()
        manager.stopping()
        faulthandler.dump_traceback_later(DRAIN_S, exit=True)
    faulthandler.cancel_dump_traceback_later()


def _on_stop() -> asyncio.Event:
    """Return what is set by SIGTERM and SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            # The second one is the kernel's to obey: it ends a loop that hangs, too. What was
            # acknowledged is on the disk.
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return stopping


def _on_reload(backend: Backend, manager: Manager, status: str) -> None:
    """Let SIGHUP read the files anew."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        manager.reloading()
        is_done = await backend.reload()
        manager.ready(status if is_done else f"{status}; the last reload was not complete: see log")

    def start() -> None:
        task = loop.create_task(reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, start)


def _say_ready(ports: dict[str, int], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"event": "ready", **ports}))
        return
    enrol = f", claims on TCP port {ports['enrol_port']}" if "enrol_port" in ports else ""
    web = f", HTTP on TCP port {ports['web_port']}" if "web_port" in ports else ""
    devices = f"TLS on TCP port {ports['tls_port']}, DTLS on UDP port {ports['dtls_port']}"
    click.echo(f"ready: {devices}{enrol}{web}")


def use_all_files() -> None:
    """Let this process have as many files open as it may: each TLS session is one of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # a unit with limits of its own may forbid the call
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop, which takes twice as many handshakes a second as asyncio's loop."""
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(work)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
