"""Who is let in by a real mosquitto: password, certificate, pre-shared key, and the wrong ones."""

import sys
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest

from fleetnet.errors import CredentialError, FleetError, Unsupported
from fleetnet_server.bridge.connection import Connection
from fleetnet_server.bridge.security import make_context, read_secret
from fleetnet_server.bridge.settings import Broker, Tls
from fleetnet_server.errors import ConfigError
from pki import Pki
from server.bridge.broker import HOST, IDENTITY, USER, Mosquitto, needs_mosquitto

pytestmark = [
    needs_mosquitto,
    # paho leaves the socket of a handshake that failed to the garbage collector, which closes it.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

HAS_PSK = sys.version_info >= (3, 13)


@pytest.fixture
def broker(tmp_path: Path, pki: Pki) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", pki) as it:
        yield it


async def connect(broker: Broker) -> str:
    """Connect and publish once; return how the connection is protected."""
    connection = await Connection.make(broker, None)
    async with connection:
        from fleetnet_server.bridge.properties import pack

        assert await connection.publish_whole("a", b"1", 1, False, pack()) in (0, 0x10)
        return connection.tls_text


def files(broker: Mosquitto, *names: str) -> list[Path]:
    return [broker.folder / name for name in names]


async def test_password(broker: Mosquitto) -> None:
    ca, password, wrong = files(broker, "ca.pem", "password", "wrong")
    settings = Broker(HOST, broker.password, "b", USER, password, Tls(ca))
    assert (await connect(settings)).startswith("TLSv1.3")
    with pytest.raises(aiomqtt.MqttError, match=r"[Nn]ot authorized|user name"):
        await connect(settings._replace(password_file=wrong))
    with pytest.raises(aiomqtt.MqttError, match=r"[Nn]ot authorized|user name"):
        await connect(settings._replace(user=None, password_file=None))


async def test_certificate_of_our_own(broker: Mosquitto) -> None:
    ca, cert, key = files(broker, "ca.pem", "cert.pem", "key.pem")
    settings = Broker(HOST, broker.mutual, "b", tls=Tls(ca, cert, key))
    assert (await connect(settings)).startswith("TLSv1.3")
    assert "u'" in broker.log  # the certificate's name is the user
    with pytest.raises(aiomqtt.MqttError):
        await connect(settings._replace(tls=Tls(ca)))
    strangers = files(broker, "stranger.pem", "strangerkey.pem")
    with pytest.raises(aiomqtt.MqttError):
        await connect(settings._replace(tls=Tls(ca, *strangers)))


@pytest.mark.parametrize("case", ["other CA", "other name", "the system's authorities"])
async def test_a_broker_that_is_not_the_one(broker: Mosquitto, case: str) -> None:
    ca, other = files(broker, "ca.pem", "otherca.pem")
    tls = {"other CA": Tls(other), "other name": Tls(ca)}.get(case, Tls())
    host = "127.0.0.2" if case == "other name" else HOST
    settings = Broker(host, broker.password, "b", USER, broker.folder / "password", tls)
    if case == "other name":
        with pytest.raises(aiomqtt.MqttError):  # nobody listens on 127.0.0.2
            await connect(settings)
        settings = settings._replace(host="127.0.0.1.")
    with pytest.raises(aiomqtt.MqttError, match=r"certificate verify failed|not known|mismatch"):
        await connect(settings)


async def test_pre_shared_key(broker: Mosquitto) -> None:
    key = broker.folder / "psk.key"
    settings = Broker(HOST, broker.psk, "b", tls=Tls(psk=(IDENTITY, key)))
    if not HAS_PSK:
        with pytest.raises(Unsupported, match=r"needs Python 3\.13"):
            await connect(settings)
        return
    assert (await connect(settings)).startswith("TLSv1.")
    assert IDENTITY in broker.log  # it was the key that let us in
    key.write_text("ff" * 16)
    with pytest.raises(aiomqtt.MqttError):
        await connect(settings)
    with pytest.raises(aiomqtt.MqttError):
        await connect(settings._replace(tls=Tls(psk=("nobody", key))))


def test_a_key_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "psk.key"
    for text in ("0011", "no hex at all, nor long enough", "00" * 65):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(CredentialError, match="32 to 128 hexadecimal digits"):
            make_context(Tls(psk=("x", path)))


def test_secrets_are_their_owners_alone(tmp_path: Path, pki: Pki) -> None:
    path = tmp_path / "password"
    path.write_text("secret\r\nmore\n")
    path.chmod(0o604)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(path)
    path.chmod(0o600)
    assert read_secret(path) == "secret"
    path.write_text("\n")
    with pytest.raises(ConfigError, match="first line"):
        read_secret(path)


@pytest.mark.parametrize("case", ["missing", "no PEM", "another's key"])
def test_files_that_cannot_be_used(tmp_path: Path, pki: Pki, case: str) -> None:
    from fleetnet_server.identity.pki import to_pem
    from server.bridge.broker import pem_key

    ca, cert, key = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))
    ca.write_bytes(to_pem(pki.ca.certificate))
    cert.write_bytes(to_pem(pki.device.certificate))
    key.write_bytes(pem_key((pki.server if case == "another's key" else pki.device).key))
    key.chmod(0o600)
    if case == "missing":
        cert.unlink()
    if case == "no PEM":
        ca.write_text("nothing")
    with pytest.raises(FleetError, match=r"broker\.tls|no such file"):
        make_context(Tls(ca, cert, key))


async def test_what_the_broker_takes_is_known(tmp_path: Path) -> None:
    extra = "max_inflight_messages 7\nmax_packet_size 2000\n"
    folder = tmp_path / "small"
    with Mosquitto(folder) as small:
        # Both are options of the whole broker, and stand before its listeners.
        conf = folder / "mosquitto.conf"
        conf.write_text(extra + conf.read_text())
        small.stop()
        small.start()
        connection = await Connection.make(Broker(HOST, small.plain, "b"), None)
        async with connection:
            assert connection.receive_maximum == connection.in_flight == 7
            assert connection.maximum_packet == 2000
            assert connection.tls_text == "without TLS"
