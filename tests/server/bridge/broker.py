"""A real mosquitto for tests: killed and started again on its ports, with each kind of door."""

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import aiomqtt
import pytest
from cryptography.hazmat.primitives import serialization
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from end_to_end.fleet import free_port
from fleetnet_server.identity.pki import to_pem
from pki import Pki, key_pem

HOST = "127.0.0.1"
PATIENCE_S = 30.0
USER, PASSWORD = "bridge", "correct horse"
IDENTITY, KEY = "fleet-1", "00112233445566778899aabbccddeeff"
# Debian has it in a folder that a user's PATH lacks.
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


class Mosquitto:
    """One broker; ``extra`` lines of its configuration are for the plain listener as well.

    Attributes:
        plain, password, mutual, psk: ports. folder: with ca.pem, cert.pem and key.pem.
    """

    def __init__(self, folder: Path, pki: Pki | None = None, extra: str = "", is_kept: bool = True):
        self.folder = folder
        self.plain, self.password, self.mutual, self.psk = (free_port() for _ in range(4))
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        doors = "" if pki is None else self._doors(pki)
        self._ports = [self.plain]
        if pki is not None:
            self._ports += [self.password, self.mutual, self.psk]
        # Without `user` a mosquitto that root started could not read these files.
        (folder / "mosquitto.conf").write_text(
            f"""per_listener_settings true
log_dest file {folder}/mosquitto.log
log_type all
user root
max_queued_messages 0
autosave_interval 1
autosave_on_changes true
{f"persistence true{chr(10)}persistence_location {folder}/" if is_kept else "persistence false"}
listener {self.plain} {HOST}
allow_anonymous true
{extra}
{doors}"""
        )

    def _doors(self, pki: Pki) -> str:
        folder = self.folder
        for name, data in {
            "ca.pem": to_pem(pki.ca.certificate), "otherca.pem": to_pem(pki.other_ca.certificate),
            "server.pem": to_pem(pki.server.certificate), "server.key": key_pem(pki.server.key),
            "cert.pem": to_pem(pki.device.certificate), "key.pem": pem_key(pki.device.key),
            "stranger.pem": to_pem(pki.device_of_other_ca.certificate),
            "strangerkey.pem": pem_key(pki.device_of_other_ca.key),
            "psk.txt": f"{IDENTITY}:{KEY}\n".encode(), "psk.key": f"{KEY}\n".encode(),
            "password": f"{PASSWORD}\n".encode(), "wrong": b"wrong\n",
        }.items():  # fmt: skip
            (folder / name).write_bytes(data)
            (folder / name).chmod(0o600)
        passwords = folder / "passwords"
        subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, USER, PASSWORD], check=True)
        tls = f"cafile {folder}/ca.pem\ncertfile {folder}/server.pem\nkeyfile {folder}/server.key"
        return f"""listener {self.password} {HOST}
password_file {passwords}
{tls}
listener {self.mutual} {HOST}
require_certificate true
use_identity_as_username true
{tls}
listener {self.psk} {HOST}
psk_hint fleet
psk_file {folder}/psk.txt
use_identity_as_username true
"""

    @property
    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    def start(self) -> None:
        """Start it and wait until it listens at every port."""
        assert MOSQUITTO is not None
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        closed = list(self._ports)
        while closed:
            with contextlib.suppress(OSError), socket.create_connection((HOST, closed[0]), 1):
                closed.pop(0)
                continue
            assert self._process.poll() is None, "mosquitto ended: see mosquitto.log"
            assert time.monotonic() < deadline, "mosquitto does not listen"
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(PATIENCE_S)

    def stop(self) -> None:
        """End it cleanly: it writes what it retains."""
        self._signal(signal.SIGTERM)
        assert self._process is not None
        self._process.wait(PATIENCE_S)

    def pause(self) -> None:
        """It hangs: connections stay, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE_S)


def pem_key(der: bytes) -> bytes:
    """A key as programs that are not ours read it."""
    key = serialization.load_der_private_key(der, None)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )  # fmt: skip


class Listener:
    """A subscriber that keeps what comes; it connects again when its broker was away.

    Its session outlives that (MQTT 5.0 section 3.1.2.11.2), so it misses nothing that the broker
    took.
    """

    def __init__(self, port: int, topic: str = "#", name: str = "listener"):
        self._port, self._topic, self._name = port, topic, name
        self.messages: list[aiomqtt.Message] = []
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 600
        while True:
            try:
                async with aiomqtt.Client(
                    HOST, self._port, identifier=self._name, clean_start=False,
                    protocol=aiomqtt.ProtocolVersion.V5, properties=properties,
                ) as client:  # fmt: skip
                    await client.subscribe(self._topic, qos=1)
                    self._ready.set()
                    async for message in client.messages:
                        self.messages.append(message)
            except aiomqtt.MqttError:
                await asyncio.sleep(0.05)

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._run())
        await asyncio.wait_for(self._ready.wait(), PATIENCE_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def of(self, topic_filter: str) -> list[aiomqtt.Message]:
        """What came so far on topics that match."""
        return [one for one in self.messages if one.topic.matches(topic_filter)]

    async def until(self, topic_filter: str, count: int = 1) -> list[aiomqtt.Message]:
        """Wait for so many messages."""
        deadline = time.monotonic() + PATIENCE_S
        while len(found := self.of(topic_filter)) < count:
            assert time.monotonic() < deadline, (topic_filter, len(found), count)
            await asyncio.sleep(0.01)
        return found


def user_of(message: aiomqtt.Message) -> dict[str, str]:
    """The user properties."""
    return dict(vars(message.properties).get("UserProperty", ()))


def payload_of(message: aiomqtt.Message) -> Any:
    """The payload as JSON."""
    assert isinstance(message.payload, bytes | bytearray)
    return json.loads(message.payload)
