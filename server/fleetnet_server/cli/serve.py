"""`fleetnet serve`: the back-end in the foreground, until SIGTERM or Ctrl-C."""

import asyncio
import faulthandler
import json
import os
import signal
from pathlib import Path

import click
import structlog

from fleetnet_server.app import Backend
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.log_output import configure_logging
from fleetnet_server.notify import Manager
from fleetnet_server.workers.process import (
    DRAIN_S,
    keep_what_is_made,
    on_stop,
    run,
    use_all_files,
)
from fleetnet_server.workers.supervisor import Supervisor

_log = structlog.get_logger("fleetnet")


@click.command()
@click.option(
    "--workers", type=click.IntRange(1, 64), metavar="N",
    help="Processes that have devices; default: the setting, 1.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Log lines, and the ready line, as JSON.")
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
@click.pass_obj
def serve(folder: Path, workers: int | None, as_json: bool, quiet: bool) -> None:
    """Run the back-end of the fleet in FOLDER.

    Prints one line when it accepts devices. SIGTERM or Ctrl-C ends it cleanly: everything
    received is committed and acknowledged, devices get BYE, each with a time of its own to come
    back; a second one ends it at once. SIGHUP reads settings, certificates and keys anew (a
    change of the certificates is seen without it); sessions go on.

    One process uses one core. With --workers, N processes share the devices, and one more has the
    store, the dashboard and the bridge; one that dies is started again.
    """
    if workers is not None:
        # For the processes that this one starts, too.
        os.environ["FLEETNET_WORKERS"] = str(workers)
    settings = load_settings(folder)
    configure_logging(as_json, quiet)
    # A watchdog's SIGABRT, or a crash in a library, leaves the stacks of all threads in the log.
    faulthandler.enable()
    use_all_files()
    if not os.getuid():
        _log.warning("runs as root, of which it needs nothing: see deploy/systemd in the sources")
    if settings.workers > 1:
        asyncio.run(_supervise(folder, settings, as_json, quiet))
    else:
        run(_serve(folder, settings, as_json))


async def _serve(folder: Path, settings: Settings, as_json: bool) -> None:
    manager = Manager()
    stopping = on_stop()
    async with Backend(folder, settings) as backend:
        ports = backend.ports
        status = "devices on " + ", ".join(f"{key} {number}" for key, number in ports.items())
        _on_reload(backend, manager, status)
        keep_what_is_made()
        _say_ready(ports, as_json)
        manager.ready(status)
        await stopping.wait()
        manager.stopping()
        faulthandler.dump_traceback_later(DRAIN_S, exit=True)
    faulthandler.cancel_dump_traceback_later()


async def _supervise(folder: Path, settings: Settings, as_json: bool, quiet: bool) -> None:
    stopping = on_stop()
    supervisor = Supervisor(folder, settings, as_json, quiet)
    await supervisor.start()
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(supervisor.reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    _say_ready(supervisor.ports, as_json, settings.workers)
    await stopping.wait()
    await supervisor.stop()


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


def _say_ready(ports: dict[str, int], as_json: bool, workers: int = 1) -> None:
    if as_json:
        click.echo(json.dumps({"event": "ready", **ports}))
        return
    enrol = f", claims on TCP port {ports['enrol_port']}" if "enrol_port" in ports else ""
    web = f", HTTP on TCP port {ports['web_port']}" if "web_port" in ports else ""
    devices = f"TLS on TCP port {ports['tls_port']}, DTLS on UDP port {ports['dtls_port']}"
    by = f" ({workers} workers)" if workers > 1 else ""
    click.echo(f"ready{by}: {devices}{enrol}{web}")
