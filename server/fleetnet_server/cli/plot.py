"""`fleetnet plot`: a channel of a device as a curve, in the terminal or in a file."""

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from fleetnet_server.cli.braille import draw
from fleetnet_server.cli.completing import complete_channel, complete_device
from fleetnet_server.cli.curve import Curve
from fleetnet_server.cli.output import flat, json_option, no_color, print_json
from fleetnet_server.cli.times import since_option, until_option
from fleetnet_server.cli.whole_file import whole_file
from fleetnet_server.config import load_settings
from fleetnet_server.errors import StoreError
from fleetnet_server.store.selection import Selection, is_pattern
from fleetnet_server.store.summaries import stored
from fleetnet_server.wording import counted

_ENDINGS = (".png", ".svg", ".pdf")


@click.command()
@click.argument("device", shell_complete=complete_device)
@click.argument("channel", shell_complete=complete_channel)
@since_option
@until_option
@click.option("--png", "picture", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Draw into this file (PNG, or by its name SVG or PDF); the extra `plot`.")
@click.option("--width", type=click.IntRange(20, 1000), help="Characters; default: the terminal's.")
@click.option("--height", type=click.IntRange(4, 200), default=16, show_default=True,
              help="Lines.")
@json_option
@click.pass_obj
def plot(
    folder: Path, device: str, channel: str, since_ms: int | None, until_ms: int | None,
    picture: Path | None, width: int | None, height: int, as_json: bool,
) -> None:  # fmt: skip
    """Draw the numbers of CHANNEL of DEVICE over time.

    However many there are, least, mean and greatest of at most 2,048 spans of time are kept. The
    minutes and hours that retention.toml keeps are drawn as well.
    """
    if picture is not None and picture.suffix.lower() not in _ENDINGS:
        raise click.BadParameter(f"{picture}: its name has to end with .png", param_hint="--png")
    path = load_settings(folder).store_place(folder)
    if is_pattern(device):
        raise StoreError(f"device {device!r} is not registered: one device's curve, no pattern")
    wanted = Selection((device,), (channel,), since_ms, until_ms)
    # A name may be what a pattern looks like.
    curve = Curve().add_all(one for one in stored(path, wanted) if one.channel == channel)
    if not curve.count:
        without = counted(curve.skipped, "reading")
        why = f", but {without} without number or date" if curve.skipped else ""
        raise StoreError(f"no numbers of {channel!r} from {device!r} there{why}: see `query`")
    if picture is not None:
        _draw_file(picture, curve, f"{device} {flat(channel)}")
    if as_json:
        print_json(_document(device, channel, curve, picture))
    elif picture is not None:
        click.echo(f"{picture}: {counted(curve.count, 'reading')}.")
    else:
        _print(device, channel, curve, width, height)


def _document(device: str, channel: str, curve: Curve, picture: Path | None) -> dict[str, Any]:
    return {
        "device": device,
        "channel": channel,
        "readings": curve.count,
        "skipped": curve.skipped,
        "file": None if picture is None else str(picture),
        "points": [
            {"unix_ms": one.unix_ms, "min": one.low, "mean": one.mean, "max": one.high,
             "count": one.number}
            for one in curve.buckets
        ],
    }  # fmt: skip


def _print(device: str, channel: str, curve: Curve, width: int | None, height: int) -> None:
    skipped = f", {curve.skipped} skipped" if curve.skipped else ""
    click.echo(f"{device} {flat(channel)}: {counted(curve.count, 'reading')}{skipped}")
    columns = width or shutil.get_terminal_size().columns
    # click.style's colours are taken away by click where the output is no terminal.
    colour = None if no_color() else "cyan"
    for line in draw(curve.buckets, columns, height, _can_braille()):
        edge, mark, dots = line.partition("\u2524")
        click.echo(edge + mark + click.style(dots, fg=colour) if dots and colour else line)


def _can_braille() -> bool:
    try:
        "\u28ff\u2524".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _draw_file(path: Path, curve: Curve, title: str) -> None:
    # No pyplot: it would look for a display, and keep every figure.
    from matplotlib import dates
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    times: list[Any] = [datetime.fromtimestamp(one.unix_ms / 1000, UTC) for one in curve.buckets]
    marker = "." if len(times) < 100 else None
    axes.fill_between(
        times, [one.low for one in curve.buckets], [one.high for one in curve.buckets],
        alpha=0.25, linewidth=0,
    )  # fmt: skip
    axes.plot(times, [one.mean for one in curve.buckets], linewidth=1, marker=marker)
    axes.set_title(title, parse_math=False)
    axes.set_xlabel("UTC")
    untyped: Any = dates
    locator = untyped.AutoDateLocator(tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(untyped.ConciseDateFormatter(locator, tz=UTC))
    axes.grid(alpha=0.3)
    with whole_file(path, overwrite=True) as temporary:
        figure.savefig(temporary, dpi=120, format=path.suffix[1:].lower())
