"""Moments on the command line, and the options that name readings."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from fleetnet_server.cli.completing import complete_channel, complete_device
from fleetnet_server.cli.durations import Duration


class Moment(click.ParamType[int]):
    """ISO 8601 (UTC unless it says otherwise), unix ms, or an age as 2h; converts to unix ms."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        text = str(value)
        if text.isascii() and text.isdigit():
            return int(text)
        if text[-1:] in ("s", "m", "h", "d"):
            return round(time.time() * 1000 - 1000 * Duration().convert(text, param, ctx))
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"{text!r} is no time: write 2026-01-31T12:00:00, unix ms, or an age as 2h",
                param, ctx,
            )  # fmt: skip
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)


_FORMS = "ISO 8601, unix ms, or an age as 2h"

since_option = click.option("--since", "since_ms", type=Moment(), help=f"Not before; {_FORMS}.")
until_option = click.option("--until", "until_ms", type=Moment(), help=f"Before this; {_FORMS}.")


def names_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --device and --channel to a command."""
    device = click.option(
        "--device", "devices", multiple=True, metavar="NAME|PATTERN",
        shell_complete=complete_device, help="Only these, as cam-1 or 'cam-*'; repeat it for more.",
    )  # fmt: skip
    channel = click.option(
        "--channel", "channels", multiple=True, metavar="NAME|PATTERN",
        shell_complete=complete_channel,
        help="Only these, as temp or 'motor.*'; repeat it for more.",
    )  # fmt: skip
    return device(channel(command))


def selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --device, --channel, --since and --until to a command."""
    return names_options(since_option(until_option(command)))
