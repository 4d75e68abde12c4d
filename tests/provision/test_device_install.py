"""The commands `device install` and `device package`, as a person runs them."""

import asyncio
import functools
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fleetnet
from end_to_end.fleet import Fleet, free_port
from interpreters import Interpreter
from provision.conftest import Boards
from provision.pty_board import environment


async def command(fleet: Fleet, *arguments: object) -> tuple[int, str, str]:
    done = await fleet.run(*map(str, arguments))
    return done.returncode, done.stdout, done.stderr


async def test_install_prints_a_table_and_json_and_no_secret(
    fleet: Fleet, runtime: Interpreter, boards: Boards, tmp_path: Path
) -> None:
    bundle = fleet.add_device("cam-1", "tls")
    program = tmp_path / "program.py"
    program.write_text("print('hello')\n")
    board = boards(runtime)
    install = ("device", "install", board.port, "--device", "cam-1")
    code, out, err = await command(fleet, *install, "--main", program)
    assert (code, err) == (0, ""), out + err
    rows = dict(line.split("\t") for line in out.splitlines())
    assert rows["self-test"] == "passed: the server has the reading"
    assert rows["transport"].startswith("tls, TLS")
    assert (board.folder / "main.py").read_text() == "print('hello')\n"

    code, out, err = await command(fleet, *install, "--json")
    report = json.loads(out)
    assert (code, report["sent"], report["selftest"]["ok"]) == (0, [], True)

    # Sources in the place of .mpy, a part left out, and a server that is away.
    await fleet.terminate_server()
    code, shown, err = await command(
        fleet, *install, "--source", "--parts", "core", "--no-test", "--json"
    )
    assert code == 0, err
    names = {path.rpartition("/")[2] for path in json.loads(shown)["sent"]}
    assert "session.py" in names and "streams.py" not in names
    (bundle / "cert.der").write_bytes(b"no certificate")
    code, shown, err = await command(fleet, *install, "--json")
    assert code == 1
    assert json.loads(shown)["selftest"]["error"] == "CredentialError"
    assert "--device NAME" in json.loads(shown)["remedy"]
    key = (bundle / "key.der").read_bytes()
    for secret in (repr(key)[2:30], key.hex()[:30]):
        assert secret not in out + shown + err


async def test_wrong_arguments_have_remedies(
    fleet: Fleet, runtime: Interpreter, boards: Boards
) -> None:
    port = boards(runtime).port
    for arguments, text in (
        (("--device", "nobody"), "make it with `fleetnet device add nobody`"),
        (("--parts", "nonsense"), "no part is called 'nonsense': there are"),
    ):
        code, out, err = await command(fleet, "device", "install", port, *arguments)
        assert (code, out) == (1, "")
        assert text in err


@contextmanager
def served(folder: Path, port: int) -> Iterator[None]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


MIP = "import mip\nmip.install('http://127.0.0.1:%d/', target='lib')"
IMPORT = "import fleetnet_device, fleetnet\nprint(fleetnet.__version__, fleetnet.__path__)"


async def test_mip_installs_from_a_served_index(
    fleet: Fleet, runtime: Interpreter, boards: Boards, tmp_path: Path
) -> None:
    """By the mip of the firmware itself, and by that of mpremote."""
    port = free_port()
    site = tmp_path / "site"
    code, out, err = await command(
        fleet, "device", "package", site, "--url", f"http://127.0.0.1:{port}", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["files"] > 30
    (tmp_path / "own" / "lib").mkdir(parents=True)
    board = boards(runtime)
    (board.folder / "lib").mkdir()
    with served(site, port):
        for source in (MIP % port, IMPORT):
            process = await asyncio.create_subprocess_exec(
                runtime.path,
                "-c",
                source,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=tmp_path / "own",
                env=environment(tmp_path / "own"),
            )
            out = (await process.communicate())[0].decode()
            assert process.returncode == 0, out
        assert out == f"{fleetnet.__version__} {tmp_path}/own/lib/fleetnet\n"
        remote = [sys.executable, "-m", "mpremote", "connect", board.port, "resume"]
        for arguments in (
            ("mip", "install", "--target", "lib", f"http://127.0.0.1:{port}/"),
            ("exec", IMPORT),
        ):
            process = await asyncio.create_subprocess_exec(
                *remote, *arguments, stdout=asyncio.subprocess.PIPE
            )
            out = (await process.communicate())[0].decode()
            assert process.returncode == 0, out
    assert out.startswith(fleetnet.__version__), out
