"""`fleetnet mqtt`: the bridge to an MQTT broker."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiomqtt
import click

from fleetnet_server.bridge import discovery
from fleetnet_server.bridge.connection import Connection
from fleetnet_server.bridge.settings import (
    FILE_NAME,
    Broker,
    Inbound,
    Mqtt,
    Output,
    load_mqtt,
)
from fleetnet_server.cli.output import FAILURE, format_time, json_option, print_json, print_table
from fleetnet_server.config import load_settings
from fleetnet_server.errors import ConfigError, StoreError, unknown_device
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.outbox import forget, open_outbox, places


@click.group()
def mqtt() -> None:
    """The bridge to an MQTT broker: check, show, discovery, forget."""


@mqtt.command()
@json_option
@click.pass_obj
def check(folder: Path, as_json: bool) -> None:
    """Read mqtt.toml, connect to its broker, and say what this allows. Publishes nothing."""
    settings = _settings(folder)
    # A name of its own: a broker ends the older of two connections of one name.
    broker = settings.broker._replace(name=f"{settings.broker.name}-check")
    try:
        found = asyncio.run(_try(broker))
    except (aiomqtt.MqttError, OSError) as error:
        # aiomqtt's messages begin with "[code:N]"; what is between the brackets helps nobody.
        text = str(error) or type(error).__name__
        place = f"{broker.host}:{broker.port}"
        if as_json:
            print_json({"broker": place, "ok": False, "error": text})
            raise SystemExit(FAILURE) from None
        remedy = _UNREACHED if "[Errno " in text else ""
        raise click.ClickException(f"{place}: {text}{remedy}") from None
    if as_json:
        print_json({"broker": f"{broker.host}:{broker.port}", "ok": True, **found})
        return
    click.echo(f"{broker.host}:{broker.port} accepts {settings.broker.name!r}, {found['tls']}")
    click.echo(
        f"{found['receive_maximum']} messages without an answer, "
        f"{found['maximum_packet']} B in one, "
        f"{'keeps' if found['retain'] else 'does not keep'} retained messages"
    )
    for name, topic in _topics(settings):
        click.echo(f"{name}: {topic}")


_UNREACHED = ": is the broker running, are host and port of mqtt.toml right?"


@mqtt.command()
@json_option
@click.pass_obj
def show(folder: Path, as_json: bool) -> None:
    """Show what each broker has of the stored messages, and what it lacks."""
    with open_store(load_settings(folder).store_place(folder)) as store:
        found = places(store)
    if as_json:
        print_json([place._asdict() | {"behind": behind} for place, behind in found])
        return
    print_table(
        ("NAME", "MESSAGE", "BEHIND", "MOVED", "SENT", "DROPPED"),
        [
            (
                place.name, str(place.message), str(behind), format_time(place.moved_ms),
                str(place.sent), str(place.dropped),
            )
            for place, behind in found
        ],
    )  # fmt: skip


@mqtt.command("discovery")
@click.argument("device", required=False)
@json_option
@click.pass_obj
def show_discovery(folder: Path, device: str | None, as_json: bool) -> None:
    """Print what Home Assistant is told of DEVICE, or of all, as mqtt.toml has it now.

    Of channels that were seen: in compacted readings, or in the newest ones.
    """
    settings = _settings(folder)
    with open_store(load_settings(folder).store_place(folder)) as store:
        names = [one.name for one in store.devices() if device in (None, one.name)]
        if device is not None and not names:
            raise unknown_device(device)
        outbox = open_outbox(store, settings.broker.name)
        known = outbox.channels()
        outbox.close()
    found = {
        topic: json.loads(payload)
        for name in names
        for topic, payload in discovery.messages(settings, name, known.get(name, ())).items()
    }
    wrong = [
        f"{topic}: {text}"
        for topic, payload in found.items()
        for text in discovery.check(topic, json.dumps(payload).encode(), settings.discovery.prefix)
    ]
    if wrong:
        raise click.ClickException("\n".join(wrong))
    if as_json:
        print_json(found)
    else:
        for topic, payload in found.items():
            click.echo(f"{topic}\n{json.dumps(payload, indent=2)}")


@mqtt.command("forget")
@click.argument("name")
@json_option
@click.pass_obj
def forget_place(folder: Path, name: str, as_json: bool) -> None:
    """Forget the place of bridge NAME: what it lacks is kept for it no longer."""
    with open_store(load_settings(folder).store_place(folder)) as store:
        if not forget(store, name):
            raise StoreError(f"no bridge {name!r}: see `fleetnet mqtt show`")
    if as_json:
        print_json({"name": name, "forgotten": True})
    else:
        click.echo(f"The place of {name} is forgotten.")


def _settings(folder: Path) -> Mqtt:
    load_settings(folder)  # where there is no fleet, that is what has to be said
    found = load_mqtt(folder)
    if found is None:
        raise ConfigError(
            f"no {folder / FILE_NAME}: write one with [broker] and host = \"...\", see docs/mqtt.md"
        )
    return found


async def _try(broker: Broker) -> dict[str, Any]:
    connection = await Connection.make(broker, None)
    async with connection:
        found = {
            "receive_maximum": connection.receive_maximum,
            "maximum_packet": connection.maximum_packet,
            "retain": connection.has_retain,
            "tls": connection.tls_text,
        }
    return found


def _topics(settings: Mqtt) -> list[tuple[str, str]]:
    """Return what goes out and comes in, by its section."""
    rows: list[tuple[str, Output | Inbound]] = [
        ("readings", settings.readings.out), ("events", settings.events),
        ("presence", settings.presence), ("state", settings.state.out),
        ("frames", settings.frames.out), ("commands", settings.commands),
        ("config", settings.config),
    ]  # fmt: skip
    return [(name, one.topic.text) for name, one in rows if one.is_on]
