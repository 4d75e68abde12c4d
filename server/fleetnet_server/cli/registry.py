"""`fleetnet device list`, `show`, `set`, `enable`, `disable`, `revoke` and `remove`.

They write the store; a running server acts on it within a quarter of a second.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import click

from fleetnet.errors import FleetError
from fleetnet_server.cli.actor import actor
from fleetnet_server.cli.completing import complete_device
from fleetnet_server.cli.output import (
    PARTLY,
    flat,
    format_time,
    json_option,
    print_json,
    print_result,
    print_table,
)
from fleetnet_server.cli.whereabouts import Whereabouts
from fleetnet_server.config import load_settings
from fleetnet_server.errors import ConfigError, unknown_device
from fleetnet_server.identity.names import check_device_name
from fleetnet_server.identity.policy import load_policy
from fleetnet_server.identity.registry import (
    DEFAULT_GROUP,
    DISABLED,
    ENABLED,
    QUARANTINED,
    Device,
)
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.ports import Store
from fleetnet_server.store.registry import REASONS, Certificate
from fleetnet_server.store.standing import NONE, WITHOUT, remedy


class Pair(click.ParamType[tuple[str, str]]):
    """KEY=VALUE."""

    name = "key=value"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        key, is_there, text = str(value).partition("=")
        if not is_there or not key:
            self.fail(f"{value!r}: write KEY=VALUE", param, ctx)
        return key, text


@click.command("list")
@click.option("--group", help="Only those of this group.")
@click.option("--label", "labels", type=Pair(), multiple=True, help="Only those with this label.")
@click.option("--state", type=click.Choice([ENABLED, DISABLED, QUARANTINED]), help="Only these.")
@json_option
@click.pass_obj
def list_devices(
    folder: Path, group: str | None, labels: tuple[tuple[str, str], ...], state: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """List the registered devices by name: state, group, labels, expiry, newest message.

    A store file does not know who is online: the running server does (dashboard, GET /devices).
    A database that several servers have knows, and where.
    """
    with open_store(load_settings(folder).store_place(folder)) as store:
        where = Whereabouts(store)
        found = [
            _describe(store, device) | where.describe(device.id)
            for device in store.devices()
            if group in (None, device.group)
            and state in (None, device.state)
            and all(device.labels.get(key) == value for key, value in labels)
        ]
    if as_json:
        print_json(found)
        return
    print_table(
        ("NAME", "STATE", "GROUP", "LABELS", "EXPIRES", "LAST MESSAGE", *where.headings),
        [
            (
                one["name"], _state_text(one), one["group"], _label_text(one["labels"]),
                _time_or_dash(one["expires_ms"]), _time_or_dash(one["last_message_ms"]),
                *where.cells(one),
            )
            for one in found
        ],
    )  # fmt: skip


@click.command()
@click.argument("name", shell_complete=complete_device)
@json_option
@click.pass_obj
def show(folder: Path, name: str, as_json: bool) -> None:
    """Show device NAME and its certificates.

    Whether it is online, over what and from where: the dashboard, or GET /devices/NAME.
    """
    with open_store(load_settings(folder).store_place(folder)) as store:
        device = store.lookup(name)
        if device is None:
            raise unknown_device(name)
        found = _describe(store, device)
        certificates = store.registry.certificates(device.id)
    if as_json:
        print_json(found | {"certificates": [_certificate(one) for one in certificates]})
        return
    for key, value in (
        ("name", name), ("state", _state_text(found)), ("group", device.group),
        ("labels", _label_text(device.labels) or "-"),
        ("last message", _time_or_dash(found["last_message_ms"])),
    ):  # fmt: skip
        click.echo(f"{key + ':':14}{flat(value)}")
    for one in certificates:
        state = f"good until {format_time(one.not_after_ms)}"
        if one.revoked_ms is not None:
            why = f" ({one.reason})" if one.reason else ""
            state = f"revoked {format_time(one.revoked_ms)}{why}"
        elif one.not_after_ms <= _now_ms():
            state = f"expired {format_time(one.not_after_ms)}"
        click.echo(f"{'certificate:':14}{one.serial:x}, {state}, key made by the {one.key_made}")


@click.command("set")
@click.argument("name", shell_complete=complete_device)
@click.option("--group", help="Whose policy it follows (policy.toml).")
@click.option("--label", "labels", type=Pair(), multiple=True, help="Write this label on it.")
@click.option("--unlabel", "without", multiple=True, metavar="KEY", help="Take a label away.")
@json_option
@click.pass_obj
def set_device(
    folder: Path, name: str, group: str | None, labels: tuple[tuple[str, str], ...],
    without: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Change group and labels of device NAME."""
    if group is None and not labels and not without:
        raise click.UsageError("pass --group, --label or --unlabel")
    if group is not None:
        _check_known(folder, group)
    with open_store(load_settings(folder).store_place(folder)) as store:
        device = store.registry.change(name, actor(), group, dict(labels), without)
    if as_json:
        print_json({"name": name, "group": device.group, "labels": dict(device.labels)})
        return
    labels_text = _label_text(device.labels) or "none"
    click.echo(f"Device {name}: group {device.group}, labels: {flat(labels_text)}.")


@click.command()
@click.argument("name", shell_complete=complete_device)
@json_option
@click.pass_obj
def enable(folder: Path, name: str, as_json: bool) -> None:
    """Accept device NAME, again or out of quarantine."""
    with open_store(load_settings(folder).store_place(folder)) as store:
        store.registry.set_enabled(name, True, actor())
        device = store.lookup(name)
        has = NONE if device is None else store.registry.credential(device.id)
    text = f"Device {name} enabled."
    if has in WITHOUT:
        text = f"Device {name} enabled, but it cannot come in, its certificate is {has}: "
        text += f"{remedy(name)}."
    print_result(as_json, {"name": name, "state": ENABLED, "credential": has}, text)


@click.command()
@click.argument("name", shell_complete=complete_device)
@json_option
@click.pass_obj
def disable(folder: Path, name: str, as_json: bool) -> None:
    """Refuse device NAME until it is enabled; its session ends."""
    with open_store(load_settings(folder).store_place(folder)) as store:
        store.registry.set_enabled(name, False, actor())
    print_result(as_json, {"name": name, "state": DISABLED}, f"Device {name} disabled.")


@click.command()
@click.argument("name", shell_complete=complete_device)
@click.option(
    "--reason",
    type=click.Choice(REASONS),
    default="unspecified",
    show_default=True,
    help="For the revocation list (RFC 5280).",
)
@json_option
@click.pass_obj
def revoke(folder: Path, name: str, reason: str, as_json: bool) -> None:
    """Refuse all certificates and keys of device NAME for ever; its session ends.

    The device stays registered: `fleetnet device add --again NAME` makes it a new bundle. Exit
    code 3: it is refused from now on, but the revocation list could not be written.
    """
    with open_store(load_settings(folder).store_place(folder)) as store:
        revoked = store.registry.revoke(name, reason, actor())
        problem = write_crls(folder, store)
    if as_json:
        print_json({"name": name, "revoked": revoked, "crl_problem": problem or None})
    elif revoked:
        click.echo(f"Device {name}: {len(revoked)} revoked: {', '.join(revoked)}.")
        click.echo(f"To let it in again: {remedy(name)}.")
    else:
        click.echo(f"Device {name} has nothing left to revoke.")
    _exit_partly(problem)


@click.command()
@click.argument("name", shell_complete=complete_device)
@json_option
@click.pass_obj
def remove(folder: Path, name: str, as_json: bool) -> None:
    """Forget device NAME: certificates and keys are revoked, its bundle is deleted.

    Its readings stay, under its name. `fleetnet device add NAME` uses the name again. Exit code
    3: it is forgotten, but its bundle could not be deleted, or the revocation list not written.
    """
    check_device_name(name)
    bundle = folder / "devices" / name
    with open_store(load_settings(folder).store_place(folder)) as store:
        # One without a device was left by a `device remove` that was cut short: go on with that.
        if store.lookup(name) is not None or not bundle.exists():
            store.registry.remove(name, actor())
        problem = write_crls(folder, store)
    # Nothing in it is of any use, and a private key should not lie about.
    shutil.rmtree(bundle, ignore_errors=True)
    if bundle.exists():
        problem += f"{bundle} could not be deleted: delete it by hand. "
    if as_json:
        print_json({"name": name, "removed": True, "problem": problem or None})
    else:
        click.echo(f"Device {name} removed; its readings stay.")
    _exit_partly(problem)


def _exit_partly(problem: str) -> None:
    """Say what was not done beside the rest, which was."""
    if problem:
        click.echo(flat(problem.strip()), err=True)
        raise SystemExit(PARTLY)


def write_crls(folder: Path, store: Store) -> str:
    """Write FOLDER/ca/crl*; return what is in the way, "" when nothing is.

    Other programs go by these lists; the server goes by its registry, which is done already.
    """
    from fleetnet_server.identity.authority import Authority

    try:
        Authority.load(folder).write_crls(folder, store.registry.revoked())
    except (FleetError, OSError, ValueError) as error:
        again = "the next `fleetnet device revoke` of any device writes it"
        return f"The server refuses it; the revocation list was not written: {error}; {again}. "
    return ""


def _check_known(folder: Path, group: str) -> None:
    """A misspelt group would follow other rules than whoever typed it believes."""
    groups = load_policy(folder).groups
    if groups and group != DEFAULT_GROUP and group not in groups:
        raise ConfigError(f"policy.toml has no [group.{group}]: it has {', '.join(sorted(groups))}")


def _describe(store: Store, device: Device) -> dict[str, Any]:
    ends = [
        one.not_after_ms for one in store.registry.certificates(device.id) if one.revoked_ms is None
    ]
    return {
        "id": device.id,
        "name": device.name,
        "state": device.state,
        "group": device.group,
        "labels": dict(device.labels),
        "expires_ms": max(ends, default=None),
        "last_message_ms": store.registry.last_message_ms(device.id),
        "credential": store.registry.credential(device.id),
    }


def _state_text(described: dict[str, Any]) -> str:
    """Who is enabled and has nothing valid does not come in: both are said."""
    lacks = described["credential"] in WITHOUT
    return f"{described['state']}, {described['credential']}" if lacks else described["state"]


def _certificate(one: Certificate) -> dict[str, Any]:
    return one._asdict() | {"serial": f"{one.serial:x}"}


def _label_text(labels: Any) -> str:
    return " ".join(f"{key}={labels[key]}" for key in sorted(labels))


def _time_or_dash(unix_ms: int | None) -> str:
    return "-" if unix_ms is None else format_time(unix_ms)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
