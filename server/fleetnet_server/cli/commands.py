"""`fleetnet call` and `fleetnet commands`: commands to devices, through the store.

They work beside a running server and without one: the server looks for new rows.
"""

import json
import time
from pathlib import Path
from typing import Any

import click

from fleetnet.commands import ERROR, EXPIRED, OK, UNKNOWN
from fleetnet_server.cli.actor import actor
from fleetnet_server.cli.completing import complete_device
from fleetnet_server.cli.durations import Duration
from fleetnet_server.cli.output import (
    flat,
    format_time,
    format_value,
    json_lines_option,
    json_option,
    print_json,
    print_json_lines,
    print_table,
)
from fleetnet_server.config import load_settings
from fleetnet_server.core.command_ports import Command, value_of
from fleetnet_server.errors import CommandError, CommandTimeout, NotAllowed
from fleetnet_server.identity.policy import load_policy
from fleetnet_server.identity.registry import Device
from fleetnet_server.served import is_surely_idle
from fleetnet_server.store.audit_rows import add_audit
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.ports import Store

_POLL_S = 0.05

# How much longer than its deadline an answer may take to get here.
_GRACE_S = 1.0


@click.command()
@click.argument("device", shell_complete=complete_device)
@click.argument("name")
@click.argument("args", required=False, metavar="[ARGS_JSON]")
@click.option(
    "--expires", "expires_s", type=Duration(),
    help="Keep it so long for a device that is away (1h). Default: as long as --wait.",
)
@click.option(
    "--wait", "wait_s", type=Duration(),
    help="Wait so long for the result (10s). Default: 10s; with --expires: not at all.",
)
@json_option
@click.pass_obj
def call(
    folder: Path, device: str, name: str, args: str | None,
    expires_s: float | None, wait_s: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Run command NAME on DEVICE and print what it returned.

    ARGS_JSON is an object (arguments by name) or a list (by position). The device does not
    begin the command after --expires. Exit code 0: it returned; with --expires alone: it is kept.
    1: it did not return.
    """
    arguments = _arguments(args)
    if wait_s is None and expires_s is None:
        wait_s = 10.0
    with open_store(load_settings(folder).store_place(folder)) as store:
        table = CommandTable(store)
        found = table.device(device)
        _check_policy(folder, store, found, name)
        command = _give(folder, table, found, name, arguments, expires_s, wait_s)
    if as_json:
        print_json(_as_dict(command))
        if command.ended_ms is None and wait_s is None:
            return
        raise SystemExit(0 if command.state == OK else 1)
    if command.state == EXPIRED and wait_s is not None:
        raise _no_answer(command, wait_s)
    if command.ended_ms is not None:
        click.echo(_value_text(command))
    elif wait_s is None:
        click.echo(f"Command {command.id} waits: `fleetnet commands {device}` shows how it ended.")
    else:
        raise _no_answer(command, wait_s)


@click.command()
@click.argument("device", required=False, shell_complete=complete_device)
@click.option("--id", "command_id", help="Only this one.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@json_lines_option("a command")
@click.pass_obj
def commands(
    folder: Path, device: str | None, command_id: str | None, limit: int, as_json: bool
) -> None:
    """List the newest commands, of DEVICE or of all, oldest first."""
    with open_store(load_settings(folder).store_place(folder)) as store:
        table = CommandTable(store)
        if command_id is not None:
            one = table.get(command_id)
            if one is None:
                raise CommandError(f"no command has the id {command_id!r}: list them without --id")
            found = [one]
        else:
            found = table.recent(None if device is None else table.device(device).id, limit)
    if as_json:
        print_json_lines(_as_dict(command) for command in found)
        return
    print_table(("ID", "GIVEN", "DEVICE", "COMMAND", "STATE", "RESULT"), map(_row, found))


def _check_policy(folder: Path, store: Store, device: Device, name: str) -> None:
    """Say at once what the server would say. Raises NotAllowed."""
    rules = load_policy(folder).rules(device.group)
    why = "" if rules is None else rules.objection(name, actor())
    if why:
        detail = {"name": name, "why": why}
        store.transact(
            lambda connection: add_audit(
                connection, actor(), "command-denied", device.name, detail
            )
        )
        raise NotAllowed(f"command {name!r} of device {device.name!r} is not allowed: {why}")


def _arguments(text: str | None) -> Any:
    if text is None:
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"no JSON: {error}", param_hint="ARGS_JSON") from error
    if not isinstance(found, dict | list):
        raise click.BadParameter(
            'write an object, {"times": 3}, or a list, [3]', param_hint="ARGS_JSON"
        )
    return found


def _give(
    folder: Path, table: CommandTable, device: Device, name: str, arguments: Any,
    expires_s: float | None, wait_s: float | None,
) -> Command:  # fmt: skip
    """Keep the command and wait for its end. Ctrl-C at any point says what becomes of it."""
    expires_ms = time.time_ns() // 1_000_000 + round(1000 * (expires_s or wait_s or 0.0))
    grace_s = _GRACE_S if wait_s and expires_s is None else 0.0
    command_id = None
    try:
        try:
            command_id = table.add(device.id, name, arguments, expires_ms, issuer=actor())
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="NAME ARGS_JSON") from error
        if is_surely_idle(folder):
            click.echo(
                f"No server runs on {folder}: the command waits for `fleetnet serve`.", err=True
            )
        return _wait(table, command_id, (wait_s or 0.0) + grace_s)
    except KeyboardInterrupt:
        # Without an id it came while the store wrote: the command is kept, or it is not.
        which = device.name if command_id is None else f"--id {command_id}"
        raise CommandTimeout(
            "interrupted: the device may get the command all the same; "
            f"`fleetnet commands {which}` shows what becomes of it"
        ) from None


def _wait(table: CommandTable, command_id: str, wait_s: float) -> Command:
    """Return the command when it has ended, or as it is after ``wait_s``."""
    deadline = time.monotonic() + wait_s
    while True:
        command = table.get(command_id)
        assert command is not None
        if command.ended_ms is not None or time.monotonic() >= deadline:
            return command
        time.sleep(_POLL_S)


def _value_text(command: Command) -> str:
    try:
        return flat(format_value(value_of(command)))
    except CommandError as error:
        raise CommandError(flat(str(error))) from error


def _no_answer(command: Command, wait_s: float) -> CommandError:
    if command.state == "sent":
        return CommandTimeout(
            f"{command.device} was sent {command.name!r} and did not answer in {wait_s:g} s: "
            f"`fleetnet commands --id {command.id}` shows it when it does"
        )
    return CommandTimeout(
        f"{command.name!r} did not reach {command.device} in {wait_s:g} s: is `fleetnet serve` "
        "running, the device connected? --expires 1h lets a command wait for it"
    )


def _as_dict(command: Command) -> dict[str, Any]:
    """One command as JSON shows it: a result is a value, an error {type, message}."""
    found = command._asdict()
    for hidden in ("number", "device_id", "sent_boot"):
        del found[hidden]
    if command.state == ERROR:
        kind, text = command.result
        found["result"] = None
        found["error"] = {"type": kind, "message": text}
    else:
        found["error"] = None
    return found


def _row(command: Command) -> tuple[str, ...]:
    result = ""
    if command.state == OK:
        result = format_value(command.result)
    elif command.state == ERROR:
        result = ": ".join(map(str, command.result))
    elif command.state in (UNKNOWN, EXPIRED):
        result = "-"
    given = format_time(command.created_ms)
    return command.id, given, command.device, command.name, command.state, result
