"""Row 11: the MQTT example publishes to a real mosquitto, by mutual TLS and by TLS-PSK."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest

from end_to_end.fleet import free_port
from examples.programs import (
    HOST,
    Program,
    every_runtime,
    fail_example,
    files,
    has,
    run_example,
    running,
)
from fleetnet_server.identity.pki import to_pem
from interpreters import Interpreter
from pki import Pki, key_pem

Runtime = Interpreter | None
IDENTITY = "cam-01"
KEY = "00112233445566778899aabbccddeeff"
# Debian has it in a folder that a user's PATH lacks.
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


class Broker:
    """A mosquitto with a listener of each kind; its output is its log.

    Attributes:
        mutual, psk, plain: ports.
        folder: with ca, cert, key and otherca, DER, for clients.
    """

    def __init__(self, folder: Path, program: Program, ports: list[int]):
        self.folder = folder
        self.log = program
        self.mutual, self.psk, self.plain = ports


@contextlib.contextmanager
def mosquitto(folder: Path, pki: Pki) -> Iterator[Broker]:
    files(
        folder,
        ca_pem=to_pem(pki.ca.certificate),
        server_pem=to_pem(pki.server.certificate),
        server_key=key_pem(pki.server.key),
        psk_txt=f"{IDENTITY}:{KEY}\n".encode(),
        ca_der=pki.ca.certificate,
        otherca_der=pki.other_ca.certificate,
        cert_der=pki.device.certificate,
        key_der=pki.device.key,
        stranger_der=pki.device_of_other_ca.certificate,
        strangerkey_der=pki.device_of_other_ca.key,
    )
    ports = [free_port() for _ in range(3)]
    # Without `user` a mosquitto that root started could not read these files.
    (folder / "mosquitto.conf").write_text(
        f"""per_listener_settings true
persistence false
log_dest stderr
log_type all
user root
listener {ports[0]} {HOST}
cafile {folder}/ca.pem
certfile {folder}/server.pem
keyfile {folder}/server.key
require_certificate true
use_identity_as_username true
listener {ports[1]} {HOST}
psk_hint fleet
psk_file {folder}/psk.txt
use_identity_as_username true
listener {ports[2]} {HOST}
allow_anonymous true
"""
    )
    assert MOSQUITTO is not None
    with running([MOSQUITTO, "-c", str(folder / "mosquitto.conf")]) as program:
        program.wait_for(r"mosquitto version \S+ running")
        yield Broker(folder, program, ports)


@pytest.fixture
def broker(tmp_path: Path, pki: Pki) -> Iterator[Broker]:
    with mosquitto(tmp_path, pki) as it:
        yield it


async def publish(broker: Broker, runtime: Runtime, *arguments: object) -> str:
    """Run the example while somebody else subscribes; check what both saw."""
    async with aiomqtt.Client(HOST, broker.plain) as subscriber:
        await subscriber.subscribe("cam-01/#", qos=1)
        output = run_example("mqtt_publish.py", runtime, HOST, *arguments)
        arrived = subscriber.messages
        got = [(str(m.topic), m.payload) for m in [await anext(arrived) for _ in range(3)]]
    assert got == [("cam-01/temperature", value) for value in (b"20.5", b"20.6", b"20.7")]
    assert "3 messages acknowledged" in output
    for line in (r"\(p2, c1, k60, u'.+'\)", "PUBACK to cam-01", "PINGREQ from cam-01"):
        broker.log.wait_for(line)
    broker.log.wait_for("Received DISCONNECT from cam-01")
    return output


@every_runtime
async def test_mutual_tls(broker: Broker, runtime: Runtime) -> None:
    paths = [broker.folder / name for name in ("ca.der", "cert.der", "key.der")]
    await publish(broker, runtime, broker.mutual, "localhost", *paths)


@every_runtime
async def test_pre_shared_key(broker: Broker, runtime: Runtime) -> None:
    if has(runtime, "psk"):
        output = await publish(broker, runtime, broker.psk, IDENTITY, KEY)
        assert "-PSK-" in output
    else:
        last = fail_example("mqtt_publish.py", runtime, HOST, broker.psk, IDENTITY, KEY)
        assert "Unsupported" in last and "MicroPython 1.29" in last


@every_runtime
def test_broker_that_is_not_trusted(broker: Broker, runtime: Runtime) -> None:
    paths = [broker.folder / name for name in ("otherca.der", "cert.der", "key.der")]
    last = fail_example(
        "mqtt_publish.py", runtime, HOST, broker.mutual, "localhost", *paths
    )
    assert "WrongCA" in last
    assert "cam-01" not in broker.log.output


@every_runtime
def test_device_that_is_not_trusted(broker: Broker, runtime: Runtime) -> None:
    paths = [broker.folder / name for name in ("ca.der", "stranger.der", "strangerkey.der")]
    last = fail_example(
        "mqtt_publish.py", runtime, HOST, broker.mutual, "localhost", *paths
    )
    assert any(kind in last for kind in ("Rejected", "LinkClosed", "EOFError")), last
    assert "cam-01" not in broker.log.output
