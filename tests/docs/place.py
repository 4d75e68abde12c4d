"""A folder in which the command lines of a page run: a fleet, files, a server, a device."""

import atexit
import contextlib
import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from end_to_end.fleet import free_port
from fleetnet.frame import LOG, READINGS
from fleetnet_server.config import load_settings
from fleetnet_server.core.blob_ports import BlobRow
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.device_bundles import add_device
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.identity import pki
from fleetnet_server.identity.crl import Revoked, make_crl
from fleetnet_server.sim.interpreters import device_environment
from fleetnet_server.store.blobs import _insert, content_path
from fleetnet_server.store.sqlite import SqliteStore

NOW = 1_800_000_000_000
DEVICES = ("cam-1", "cam-2", "cam-01")
PATIENCE_S = 60.0
_DEVICE = Path(__file__).with_name("docs_device.py")


class Place:
    """A folder with what the pages name; its processes end with ``close``."""

    def __init__(self, folder: Path, has_fleet: bool, without: frozenset[str]):
        self.folder = folder
        self.is_served = False
        self._processes: list[tuple[subprocess.Popen[bytes], signal.Signals]] = []
        if has_fleet:
            shutil.copytree(_template(without), folder / "fleet")
            _supply_certificates(folder)
        for name in ("cam-1.json", "rate.json", "camera.json"):
            (folder / name).write_text('{"rate": 5}')
        (folder / "stick").mkdir()
        _supply_authorities(folder)
        _make_shim(folder)

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("FLEETNET_")}
        return kept | {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{kept['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "FLEETNET_BIND": "127.0.0.1",
            "FLEETNET_TLS_PORT": str(_port()),
            "FLEETNET_DTLS_PORT": str(_port()),
            "FLEETNET_ENROL_PORT": str(_enrol_port()),
        }

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", text], cwd=self.folder, env=self.environment, capture_output=True,
            text=True, errors="replace", timeout=PATIENCE_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def serve(self, text: str = "fleetnet serve") -> None:
        """Run a server until ``close``, and wait until it is ready."""
        server = self._start(f"{text} --quiet", signal.SIGTERM)
        assert server.stdout is not None
        assert b"ready" in server.stdout.readline(), text
        self.is_served = True

    def run_device(self, name: str) -> None:
        """Run a device until ``close``, and wait until it is connected."""
        bundle = self.folder / "fleet" / "devices" / name
        config = json.loads((bundle / "config.json").read_text())
        config.update(host="127.0.0.1", tls_port=_port(), dtls_port=_port(), transport="tls")
        (bundle / "config.json").write_text(json.dumps(config))
        device = self._start(
            f"{shlex.quote(sys.executable)} {shlex.quote(str(_DEVICE))} {bundle}", signal.SIGKILL,
            device_environment(),
        )  # fmt: skip
        assert device.stdout is not None
        assert b"online" in device.stdout.readline(), name

    def interrupt(self, text: str) -> tuple[int, str]:
        """Run what has no end until it has the store open, then press Ctrl-C."""
        process = self._start(text, signal.SIGINT)
        deadline = time.monotonic() + PATIENCE_S
        while not _has_open(process.pid, "fleet.db"):
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.02)
        self._processes.pop()
        process.send_signal(signal.SIGINT)
        _out, errors = process.communicate(timeout=PATIENCE_S)
        return process.returncode, errors.decode()

    def close(self) -> None:
        """End every process. What was not interrupted has to end well."""
        said = []
        for process, ending in reversed(self._processes):
            process.send_signal(ending)
            try:
                _out, errors = process.communicate(timeout=PATIENCE_S)
            finally:
                process.kill()
            if ending == signal.SIGTERM and process.returncode:
                said.append(errors.decode())
        assert not said

    def _start(
        self, text: str, ending: signal.Signals, more: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {text}"], cwd=self.folder, env=self.environment | (more or {}),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self._processes.append((process, ending))
        return process


def _has_open(pid: int, name: str) -> bool:
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(one).endswith(name):
                return True
    return False


@functools.cache
def _port() -> int:
    return free_port()


@functools.cache
def _enrol_port() -> int:
    return free_port()


@functools.cache
def _template(without: frozenset[str]) -> Path:
    """A fleet to be copied: making one takes longer."""
    place = tempfile.mkdtemp(prefix="fleetnet-docs-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    folder = Path(place) / "fleet"
    create_fleet(folder, ("localhost",))
    (folder / "fleetnet.toml").write_text(
        f'host = "localhost"\nbind = "127.0.0.1"\ntls_port = {_port()}\ndtls_port = {_port()}\n'
        f"enrol_port = {_enrol_port()}\n"
    )
    settings = load_settings(folder)
    with SqliteStore(folder / "fleet.db") as store:
        for name in DEVICES:
            if name not in without:
                add_device(folder, settings, store, name)
        if not without:
            _fill(folder, store)
    return folder


def _fill(folder: Path, store: SqliteStore) -> None:
    """Readings, a log line, two blobs, all of cam-1."""
    _put(store, 1, READINGS, b'[%d,0,["temp"],[[0,0,20.5],[0,1000,21]]]' % NOW)
    _put(store, 2, LOG, b'[%d,0,[[0,"info","started"]]]' % NOW)
    row = BlobRow(1, 1, "frame", 22, 4, bytes(32), NOW, NOW)
    store.transact(lambda db: _insert(db, [row, row._replace(number=2, name="notes")]))
    path = folder / "blobs" / content_path(bytes(32))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xd8\xff\xd9")


def _put(store: SqliteStore, seq: int, kind: int, body: bytes) -> None:
    epoch = store.epoch_id(1, b"epoch-01")
    t0, t1, problem, kept = inspect_body(kind, body, lambda boot: None, NOW)
    assert problem is None
    store.commit([Message(1, epoch, 1, seq, kind, t0, t1, NOW, kept, problem)])


def _make_shim(folder: Path) -> None:
    """A `fleetnet` in PATH that is this checkout's."""
    (folder / "bin").mkdir()
    shim = folder / "bin" / "fleetnet"
    shim.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m fleetnet_server.cli.main "$@"\n'
    )
    shim.chmod(0o755)


def _supply_certificates(folder: Path) -> None:
    """The files that the block on `cert` names."""
    server = folder / "fleet" / "server"
    der, key_der = ((server / name).read_bytes() for name in ("cert.der", "key.der"))
    key = serialization.load_der_private_key(key_der, None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"open sesame"),
    )  # fmt: skip
    leaf = pki.to_pem(der)
    anchor = pki.to_pem((folder / "fleet" / "ca" / "ca.der").read_bytes())
    for name, data in (
        ("cert.der", der), ("key.der", key_der), ("server.crt", leaf),
        ("chain.pem", leaf + anchor), ("locked.key", locked), ("password", b"open sesame\n"),
    ):  # fmt: skip
        (folder / name).write_bytes(data)


def _supply_authorities(folder: Path) -> None:
    """The files that the block on `ca import` names."""
    root = pki.create_root("root")
    issuing = pki.create_issuing(root, "issuing")
    theirs = pki.create_ca("theirs")
    assert issuing.key is not None
    for name, data in (
        ("ca.pem", pki.to_pem(issuing.certificate)), ("ca.key", issuing.key),
        ("root.pem", pki.to_pem(root.certificate)), ("theirs.pem", pki.to_pem(theirs.certificate)),
        ("theirs.crl", make_crl(theirs, [Revoked(5, NOW)], None)),
    ):  # fmt: skip
        (folder / name).write_bytes(data)
