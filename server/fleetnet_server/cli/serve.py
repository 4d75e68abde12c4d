"""`fleetnet serve`: the back-end in the foreground, until SIGTERM or Ctrl-C."""

import asyncio
import gc
import json
import logging
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
import structlog

from fleetnet_server.app import Backend
from fleetnet_server.config import Settings, load_settings


class OneLine(logging.Formatter):
    """A record is one line, whatever a device put into its texts; tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Escape what a terminal would obey."""
        text = super().formatMessage(record)
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Log lines, and the ready line, as JSON.")
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
@click.pass_obj
def serve(folder: Path, as_json: bool, quiet: bool) -> None:
    """Run the back-end of the fleet in FOLDER.

    Prints one line when it accepts devices. SIGTERM or Ctrl-C ends it cleanly: everything
    received is committed and acknowledged, devices get BYE. SIGHUP reads certificates and keys
    anew (so does a change of the files, within a second); sessions go on.
    """
    settings = load_settings(folder)
    configure_logging(as_json, quiet)
    run(_serve(folder, settings, as_json))


async def _serve(folder: Path, settings: Settings, as_json: bool) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with Backend(folder, settings) as backend:
        tasks: set[asyncio.Task[bool]] = set()

        def reload() -> None:
            task = loop.create_task(backend.reload())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)
        # What start-up made stays; messages come and go without cycles, so the collector
        # may look less often than every 700 allocations.
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        ready = {"tls_port": backend.tls_port, "dtls_port": backend.dtls_port}
        if settings.enrol_port:
            ready["enrol_port"] = settings.enrol_port
        if as_json:
            click.echo(json.dumps({"event": "ready", **ready}))
        else:
            enrol = f", claims on TCP port {settings.enrol_port}" if settings.enrol_port else ""
            click.echo(
                f"ready: TLS on TCP port {backend.tls_port}, "
                f"DTLS on UDP port {backend.dtls_port}{enrol}"
            )
        await stopping.wait()


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop, which takes twice as many handshakes a second as asyncio's loop."""
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(work)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)


def configure_logging(as_json: bool, quiet: bool) -> None:
    """Send structlog and the standard library's log records to standard error."""
    level = logging.WARNING if quiet else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
