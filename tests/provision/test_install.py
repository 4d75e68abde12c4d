"""`device install` on a real MicroPython, through a pseudo-terminal and the real mpremote."""

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest

from end_to_end.fleet import Fleet
from fleetnet_server.provision.board import Board
from fleetnet_server.provision.compiling import contents, mpy_cross
from fleetnet_server.provision.errors import BoardError
from fleetnet_server.provision.installing import Installer, Progress, Report, Wanted, run_selftest
from fleetnet_server.provision.library import choose, library
from fleetnet_server.store.query import query
from interpreters import Interpreter
from provision.conftest import Boards
from provision.pty_board import PtyBoard

MODULES = choose(library(), ["selftest"])
COMPILED = contents(MODULES.values(), mpy_cross())


def generation(number: int) -> dict[str, bytes]:
    """The library as sources, each of which says which version it belongs to."""
    sources = contents(MODULES.values(), None)
    return {path: data + b"\nGENERATION = %d\n" % number for path, data in sources.items()}


def bundle_of(fleet: Fleet, name: str, transport: str = "dtls") -> dict[str, bytes]:
    folder = fleet.add_device(name, transport)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def install(board: PtyBoard, wanted: Wanted, progress: Progress | None = None) -> Report:
    with Board(board.port) as connection:
        return Installer(connection, wanted, progress).install()


# Imports everything that is there, and says which versions that was.
VERSIONS = """
import sys
sys.path.append("lib")
import fleetnet_device.selftest
print(sorted({sys.modules[name].GENERATION for name in sys.modules
              if name.startswith("fleetnet") and name not in ("fleetnet", "fleetnet_device")}))
"""


async def test_from_nothing_and_again(fleet: Fleet, runtime: Interpreter, boards: Boards) -> None:
    board = boards(runtime)
    for transport in ("dtls", "tls"):
        bundle = bundle_of(fleet, f"cam-{transport}", transport)
        wanted = Wanted(COMPILED, bundle, main=b"print('ready')\n", transport=transport)
        report = await asyncio.to_thread(install, board, wanted)
        assert report.selftest and report.selftest["ok"], report
        assert report.selftest["transport"] == transport
        assert report.selftest["cipher"][1].startswith(transport.upper())
        assert report.selftest["heap_free"] > 0
        assert report.selftest["folder"] == f"{board.folder}/lib/{report.version}/fleetnet"
        assert "no machine.RTC" in report.clock
        # Another device's credentials: the library stays, and main.py.
        expected = {"dtls": len(COMPILED) + 5, "tls": 3}[transport]
        assert len(report.sent) == expected, report.sent
    again = await asyncio.to_thread(install, board, wanted)
    assert (again.sent, again.sent_bytes, again.copied) == ([], 0, 0)
    assert again.unchanged == len(COMPILED) + 5
    assert again.selftest and again.selftest["ok"]
    tested = [reading.device for reading in query(fleet.store) if reading.channel == "selftest"]
    assert sorted(tested) == ["cam-dtls", "cam-tls", "cam-tls"]
    names = {path.name for path in board.folder.rglob("*")}
    assert not [name for name in names if name.endswith(".new")]
    assert oct((board.folder / "bundle").stat().st_mode)[-3:] == "700"


async def test_what_both_versions_have_in_common_is_copied_on_the_board(
    fleet: Fleet, runtime: Interpreter, boards: Boards
) -> None:
    board = boards(runtime)
    wanted = Wanted(COMPILED, bundle_of(fleet, "cam-1"))
    before = await asyncio.to_thread(install, board, wanted)
    newer = dict(COMPILED) | {"fleetnet_device/extra.py": b"X = 1\n"}
    after = await asyncio.to_thread(install, board, Wanted(newer, wanted.bundle))
    assert [path.rpartition("/")[2] for path in after.sent] == ["extra.py"]
    assert after.copied == len(COMPILED)
    assert after.selftest and after.selftest["ok"]
    folders = {path.name for path in (board.folder / "lib").iterdir()}
    assert folders == {"fleetnet", "fleetnet_device", after.version}, before.version


@pytest.mark.parametrize("before", ["installed", "by mip"])
async def test_cut_at_every_file(
    fleet: Fleet, runtime: Interpreter, boards: Boards, before: str
) -> None:
    """Power goes while version 2 replaces version 1: the board has one of them whole, with the
    credentials of one device."""
    bundles = [bundle_of(fleet, "cam-1"), bundle_of(fleet, "cam-2")]
    first = boards(runtime, "first")
    if before == "by mip":
        put_plain(first.folder, generation(1))
        put_bundle(first.folder, bundles[0])
    else:
        await asyncio.to_thread(install, first, Wanted(generation(1), bundles[0]))
    first.close()
    wanted = Wanted(generation(2), bundles[1], main=b"pass\n")
    # Of the library's files, which go into a new folder and are sent alike, some are enough.
    stride = 24 if runtime.version[:2] == (1, 25) and before == "installed" else 60
    told = await asyncio.to_thread(steps_of, wanted, first.folder, boards, runtime)
    alike = [at for at, text in enumerate(told, 1) if re.match(r"(sending|sent) .*/lib/", text)]
    assert len(alike) >= 2 * len(MODULES)
    left_out = set(alike) - {*alike[::stride], *alike[1::stride], *alike[-2:]}
    steps = sorted(set(range(1, len(told) + 2)) - left_out)
    if runtime.version[:2] != (1, 25):
        steps = sorted({*steps[::3], *steps[-2:]})
    seen: set[str] = set()
    for step in steps:
        shutil.copytree(first.folder, first.folder.parent / "flash")
        board = boards(runtime)
        count = [0]

        def cut(text: str, done: int, total: int, at: int = step, board: PtyBoard = board) -> None:
            count[0] += 1
            if count[0] == at:
                board.cut()

        try:
            await asyncio.to_thread(install, board, wanted, cut)
            is_whole = True
        except BoardError as error:
            assert "stopped answering" in str(error)
            is_whole = False
        board.close()
        seen.add(await asyncio.to_thread(check_after_cut, boards(runtime), step, is_whole))
        found = {path.name: path.read_bytes() for path in (board.folder / "bundle").glob("*")}
        found = {name: data for name, data in found.items() if not name.endswith(".new")}
        assert found in bundles, f"step {step}: credentials of two devices"
        shutil.rmtree(board.folder)
        if is_whole:
            break
    assert seen == {"[1]", "[2]"}
    assert step == len(told) + 1


def steps_of(wanted: Wanted, folder: Path, boards: Boards, runtime: Interpreter) -> list[str]:
    """What an installation on a copy of ``folder`` tells as it goes on, when nothing is cut."""
    told: list[str] = []
    shutil.copytree(folder, folder.parent / "whole")
    board = boards(runtime, "whole")
    install(board, wanted, lambda text, done, total: told.append(text))
    board.close()
    return told


def put_plain(folder: Path, files: dict[str, bytes]) -> None:
    """Put the library where mip puts it."""
    for path, data in files.items():
        (folder / "lib" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "lib" / path).write_bytes(data)


def put_bundle(folder: Path, bundle: dict[str, bytes]) -> None:
    (folder / "bundle").mkdir()
    for name, data in bundle.items():
        (folder / "bundle" / name).write_bytes(data)


def check_after_cut(board: PtyBoard, step: int, is_whole: bool) -> str:
    """Start the board again: whole modules of one version, and a server that it reaches."""
    with Board(board.port) as connection:
        versions = connection.run(VERSIONS).strip()
        if step % 7 == 1 or is_whole:
            result = run_selftest(connection, f"{board.folder}/lib", f"{board.folder}/bundle")
            assert result["ok"], result
    board.close()
    return versions


async def test_cut_within_files_and_the_next_run_goes_on(
    fleet: Fleet, runtime: Interpreter, boards: Boards
) -> None:
    wanted = Wanted(COMPILED, bundle_of(fleet, "cam-1"))
    kept = -1
    for _ in range(12):
        board = boards(runtime)
        board.cut_after(60_123)
        try:
            report = await asyncio.to_thread(install, board, wanted)
            break
        except BoardError:
            board.close()
            arrived = len(list(board.folder.rglob("*.mpy")))
            assert arrived >= kept, "a run began anew instead of going on"
            kept = arrived
    assert kept > 0
    assert report.selftest and report.selftest["ok"]
    assert report.unchanged > len(COMPILED) // 2


async def test_a_plain_copy_is_taken_over(
    fleet: Fleet, runtime: Interpreter, boards: Boards
) -> None:
    board = boards(runtime)
    put_plain(board.folder, COMPILED)
    report = await asyncio.to_thread(install, board, Wanted(COMPILED, bundle_of(fleet, "cam-1")))
    assert report.copied == len(COMPILED)
    assert not [path for path in report.sent if path.endswith(".mpy")]
    assert report.selftest and report.selftest["ok"]
    folders = {path.name for path in (board.folder / "lib").iterdir()}
    assert folders == {"fleetnet", "fleetnet_device", report.version}
    for folder in ("fleetnet", "fleetnet_device"):
        left = [path.name for path in (board.folder / "lib" / folder).iterdir()]
        assert left == ["__init__.py"]


async def test_a_version_that_does_not_import_is_not_kept(
    fleet: Fleet, runtime: Interpreter, boards: Boards
) -> None:
    board = boards(runtime)
    bundle = bundle_of(fleet, "cam-1")
    await asyncio.to_thread(install, board, Wanted(generation(1), bundle))
    broken = generation(2) | {"fleetnet/session.py": b"import nothing_of_that_name\n"}
    with pytest.raises(BoardError, match=r"nothing_of_that_name.*version before is in use again"):
        await asyncio.to_thread(install, board, Wanted(broken, bundle))
    board.close()
    assert await asyncio.to_thread(check_after_cut, boards(runtime), 1, True) == "[1]"


@pytest.mark.parametrize("is_library", [True, False], ids=["library", "folder"])
async def test_another_copy_that_hides_ours_is_named(
    runtime: Interpreter, boards: Boards, is_library: bool
) -> None:
    """A folder without __init__.py counts as a package, too: a bundle must not be in /fleetnet."""
    board = boards(runtime)
    if is_library:
        shutil.copytree(MODULES["fleetnet"].source.parent, board.folder / "fleetnet")
    else:
        (board.folder / "fleetnet").mkdir()
    (board.folder / "bundle").mkdir()
    (board.folder / "bundle" / "config.json").write_text("{}")
    with pytest.raises(BoardError, match="the board imports 'fleetnet' and not"):
        await asyncio.to_thread(install, board, Wanted(COMPILED))


async def test_the_board_names_what_is_wrong(
    fleet: Fleet, runtime: Interpreter, boards: Boards
) -> None:
    board = boards(runtime)
    bundle = bundle_of(fleet, "cam-1", "tls")
    config = json.loads(bundle["config.json"])

    def stranger(**change: object) -> dict[str, bytes]:
        return bundle | {"config.json": json.dumps(config | change).encode()}

    results = {}
    for case, changed in (
        ("name", stranger(server_hostname="other.example")),
        ("credentials", bundle | {"cert.der": b"no certificate"}),
        ("config", bundle | {"config.json": b"{"}),
    ):
        report = await asyncio.to_thread(
            install, board, Wanted(COMPILED, changed, transport="tls")
        )
        assert report.selftest is not None
        results[case] = (
            report.selftest["ok"],
            report.selftest["stage"],
            report.selftest["error"],
        )
    assert results == {
        "name": (False, "connect", "WrongName"),
        "credentials": (False, "credentials", "CredentialError"),
        "config": (False, "credentials", "CredentialError"),
    }
    await fleet.terminate_server()


def test_library_alone_is_not_tested(runtime: Interpreter, boards: Boards) -> None:
    report = install(boards(runtime), Wanted(COMPILED))
    assert report.selftest is None
    assert "not tested" in report.notes[0]


def test_folder_of_the_library_is_that_of_sys_path(runtime: Interpreter, boards: Boards) -> None:
    board = boards(runtime)
    report = install(board, Wanted(COMPILED, root=str(board.folder) + "/"))
    assert (board.folder / "lib" / report.version / "fleetnet" / "errors.mpy").is_file()
    assert Path(report.sent[0]).is_relative_to(board.folder / "lib")
