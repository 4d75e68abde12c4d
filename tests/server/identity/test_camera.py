"""What is said of cameras is what real MicroPythons do: each verdict is asked of one."""

import asyncio
import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bad_network import UdpProxy
from fleetnet.ports.openssl_context import server_context
from fleetnet_server.identity import camera, converting, formats
from fleetnet_server.net.dtls import DtlsListener
from interpreters import Interpreter, interpreters
from listening import Echo
from pki import Pki
from server.identity.chains import Party, authority, make_key, server
from server.identity.openssl import openssl
from server.identity.tls_peer import connects, loads, tls_peer

DAY = datetime.timedelta(days=1)


@pytest.fixture(params=interpreters(), ids=lambda each: each.name)
def runtime(request: pytest.FixtureRequest) -> Interpreter:
    return request.param  # type: ignore[no-any-return]


def is_board_like(runtime: Interpreter) -> bool:
    """Boards' configuration of mbedTLS lacks what Debian's has, TLS 1.3 among it."""
    return runtime.version >= (1, 27, 0)


def certificate(key: Any = None, **how: Any) -> bytes:
    """A self-signed CA with something odd about it."""
    key = key or make_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(key.public_key()).serial_number(how.get("serial", 7))
        .not_valid_before(now - DAY).not_valid_after(how.get("end", now + DAY))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("odd")]), critical=False)
    )  # fmt: skip
    if "extension" in how:
        builder = builder.add_extension(how["extension"], critical=how.get("critical", True))
    signed = builder.sign(key, how.get("hash", hashes.SHA256()), rsa_padding=how.get("padding"))
    return signed.public_bytes(serialization.Encoding.DER)


def key_der(key: Any) -> bytes:
    return bytes(
        key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def verdict(data: bytes) -> tuple[str, str]:
    found = camera.verdicts(formats.read(data, "file"))[0]
    return found.level, found.text


CONSTRAINTS = x509.NameConstraints([x509.DNSName("a.example")], None)
POLICY = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)])
ANY = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.5.29.32.0"), None)])

# what: (how it is made, words of the verdict; "": none is bad)
LOADED: dict[str, tuple[Any, str]] = {
    "p256": (lambda: certificate(), ""),
    "p384": (lambda: certificate(ec.generate_private_key(ec.SECP384R1())), ""),
    "p521": (lambda: certificate(ec.generate_private_key(ec.SECP521R1())), ""),
    "rsa": (lambda: certificate(rsa.generate_private_key(65537, 2048)), ""),
    "ed25519": (lambda: certificate(ed25519.Ed25519PrivateKey.generate(), hash=None), "Ed25519"),
    "beyond 2049": (lambda: certificate(end=datetime.datetime(2060, 1, 1)), ""),
    "long serial": (lambda: certificate(serial=2**158), ""),
    "sha512": (lambda: certificate(hash=hashes.SHA512()), ""),
    "constraints": (lambda: certificate(extension=CONSTRAINTS, critical=False), ""),
    "critical constraints": (lambda: certificate(extension=CONSTRAINTS), "nameConstraints"),
    "critical policy": (lambda: certificate(extension=POLICY), "certificatePolicies"),
    "critical any policy": (lambda: certificate(extension=ANY), ""),
    "pkcs7": (
        lambda: pkcs7.serialize_certificates(
            [x509.load_der_x509_certificate(certificate())], serialization.Encoding.DER
        ),
        "PKCS #7",
    ),
}


@pytest.mark.parametrize("what", LOADED)
def test_a_real_micropython_loads_what_is_said_to_load(
    what: str, runtime: Interpreter, tmp_path: Path
) -> None:
    make, words = LOADED[what]
    file = tmp_path / "file.der"
    file.write_bytes(make())
    level, text = verdict(file.read_bytes())
    assert (level == camera.BAD) == bool(words), text
    assert words in text
    assert loads(runtime, file) == ("invalid cert" if words else "ok")


BOARDS_LACK = {
    "brainpool": lambda: certificate(ec.generate_private_key(ec.BrainpoolP256R1())),
    "rsa-pss": lambda: certificate(
        rsa.generate_private_key(65537, 2048),
        padding=padding.PSS(padding.MGF1(hashes.SHA256()), 32),
    ),
}


@pytest.mark.parametrize("what", BOARDS_LACK)
def test_what_boards_lack_is_bad_though_debian_loads_it(
    what: str, runtime: Interpreter, tmp_path: Path
) -> None:
    file = tmp_path / "file.der"
    file.write_bytes(BOARDS_LACK[what]())
    level, text = verdict(file.read_bytes())
    assert level == camera.BAD
    assert "boards' firmware leaves out" in text
    assert loads(runtime, file) == ("invalid cert" if is_board_like(runtime) else "ok")


def test_a_key_for_rsa_pss_alone(runtime: Interpreter, tmp_path: Path) -> None:
    pem, der, cert = (tmp_path / name for name in ("k.pem", "k.der", "c.der"))
    options = ("-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048")
    assert openssl("genpkey", *options, "-out", pem).returncode == 0
    assert openssl("pkey", "-in", pem, "-outform", "DER", "-out", der).returncode == 0
    request = ("req", "-x509", "-new", "-key", pem, "-subj", "/CN=x", "-outform", "DER")
    assert openssl(*request, "-out", cert).returncode == 0
    assert "RSA-PSS" in verdict(der.read_bytes())[1]
    assert "RSA-PSS" in verdict(pem.read_bytes())[1]
    assert "RSA-PSS" in verdict(cert.read_bytes())[1]
    assert loads(runtime, cert) == "invalid cert"


def test_a_key_that_spells_out_its_curve(runtime: Interpreter, tmp_path: Path) -> None:
    pem, cert, good = (tmp_path / name for name in ("k.pem", "c.der", "good.der"))
    made = openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-param_enc", "explicit",
                   "-out", pem)  # fmt: skip
    assert made.returncode == 0, made.stderr
    request = ("req", "-x509", "-new", "-key", pem, "-subj", "/CN=x", "-outform", "DER")
    assert openssl(*request, "-out", cert).returncode == 0
    assert "spells out" in verdict(cert.read_bytes())[1]
    assert "spells out" in verdict(pem.read_bytes())[1]
    assert loads(runtime, cert) == "invalid cert"
    # The key itself can be helped.
    item = formats.read(pem.read_bytes(), "key").items[0]
    good.write_bytes(converting.to_camera(item, "key"))
    fitting = tmp_path / "fitting.der"
    fitting.write_bytes(certificate(item.value))
    assert loads(runtime, fitting, good) == "ok"


def test_two_in_one_der_file_load_and_only_the_first_counts(
    runtime: Interpreter, tmp_path: Path
) -> None:
    other, root = authority("Other"), authority("Root")
    leaf = server(root, ["localhost"])
    wrong, right = tmp_path / "wrong.der", tmp_path / "right.der"
    wrong.write_bytes(other.der + root.der)
    right.write_bytes(root.der + other.der)
    assert "the first counts alone" in verdict(wrong.read_bytes())[1]
    assert loads(runtime, wrong) == "ok"
    with tls_peer(leaf) as peer:
        assert connects(runtime, peer.port, "localhost", right) == "ok"
        assert "not correctly signed" in connects(runtime, peer.port, "localhost", wrong)


def test_encrypted_and_foreign_keys(runtime: Interpreter, tmp_path: Path) -> None:
    party = authority("Root")
    cert, key = tmp_path / "c.der", tmp_path / "k.der"
    cert.write_bytes(party.der)
    key.write_bytes(
        party.key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert "encrypted" in verdict(key.read_bytes())[1]
    assert loads(runtime, cert, key) == "invalid key"
    opened = formats.read_file(key, b"secret").items[0]
    key.write_bytes(converting.to_camera(opened, "key"))
    assert loads(runtime, cert, key) == "ok"
    # Somebody else's key loads without a word.
    key.write_bytes(authority("Other").key_der)
    content = formats.read_file(cert)
    found = camera.verdicts(content, formats.read_file(key))[0]
    assert found.level == camera.BAD
    assert "every handshake fails" in found.text
    assert loads(runtime, cert, key) == "ok"


@pytest.mark.parametrize("kind", ["rsa1024", "SECP256K1", "SECP224R1"])
def test_what_loads_and_fails_in_every_handshake(
    kind: str, runtime: Interpreter, tmp_path: Path
) -> None:
    root = authority("Root", kind=kind)
    file = tmp_path / "root.der"
    file.write_bytes(root.der)
    level, text = verdict(root.der)
    assert level == camera.BAD
    assert "every handshake refuses" in text
    assert loads(runtime, file) == "ok"
    with tls_peer(server(root, ["localhost"])) as peer:
        assert "unacceptable key" in connects(runtime, peer.port, "localhost", file)


def test_sha1_is_good_for_an_anchor_alone(runtime: Interpreter, tmp_path: Path) -> None:
    key = make_key()
    pem = tmp_path / "root.key"
    pem.write_bytes(key_pem(key))
    root, leaf = tmp_path / "root.der", tmp_path / "leaf.pem"
    anchor = ("req", "-x509", "-new", "-key", pem, "-sha1", "-subj", "/CN=sha1 root")
    assert openssl(*anchor, "-outform", "DER", "-out", root).returncode == 0
    loaded = x509.load_der_x509_certificate(root.read_bytes())
    level, text = verdict(root.read_bytes())
    assert "as an anchor alone" in text
    assert level == camera.WARN
    party = Party(loaded, key)
    with tls_peer(server(party, ["localhost"])) as peer:
        assert connects(runtime, peer.port, "localhost", root) == "ok"
    # A leaf over SHA-1 is refused.
    leaf_key = make_key()
    (tmp_path / "leaf.key").write_bytes(key_pem(leaf_key))
    (tmp_path / "root.pem").write_bytes(party.pem)
    (tmp_path / "names").write_text("subjectAltName=DNS:localhost")
    made = openssl("req", "-new", "-key", tmp_path / "leaf.key", "-subj", "/CN=localhost", "-out",
                   tmp_path / "request")  # fmt: skip
    assert made.returncode == 0, made.stderr
    made = openssl("x509", "-req", "-in", tmp_path / "request", "-CA", tmp_path / "root.pem",
                   "-CAkey", pem, "-sha1", "-days", "5", "-CAcreateserial", "-extfile",
                   tmp_path / "names", "-out", leaf)  # fmt: skip
    assert made.returncode == 0, made.stderr
    bad = Party(x509.load_pem_x509_certificate(leaf.read_bytes()), leaf_key)
    assert "every handshake refuses" in verdict(bad.der)[1]
    with tls_peer(bad) as peer:
        words = connects(runtime, peer.port, "localhost", root)
    assert "signed with an unacceptable hash" in words


def key_pem(key: Any) -> bytes:
    return bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


FLIGHT_CLIENT = """
import socket, sys, tls, time
context = tls.SSLContext(tls.PROTOCOL_DTLS_CLIENT)
context.verify_mode = tls.CERT_NONE
cert, key = [open(path, "rb").read() for path in sys.argv[2:]]
context.load_cert_chain(cert, key)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(socket.getaddrinfo("127.0.0.1", int(sys.argv[1]))[0][-1])
sock.setblocking(False)
secure = context.wrap_socket(sock, do_handshake_on_connect=False)
for _ in range(400):
    if secure.write(b"hello"):
        print("ok")
        break
    time.sleep_ms(10)
"""


@pytest.mark.parametrize("kind", ["p256", "SECP384R1", "rsa2048"])
async def test_the_size_of_a_devices_datagram(
    kind: str, runtime: Interpreter, tmp_path: Path, pki: Pki
) -> None:
    leaf = server(None, ["localhost"], kind=kind, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    ca = leaf._replace()
    (tmp_path / "cert.der").write_bytes(ca.der)
    (tmp_path / "key.der").write_bytes(ca.key_der)
    (tmp_path / "client.py").write_text(FLIGHT_CLIENT)
    context = server_context(*pki.server, ca.der, datagram=True)
    listener = DtlsListener(context, lambda transport, _: Echo(transport), lambda *_: None)
    await listener.start("127.0.0.1", 0)
    sizes: list[int] = []
    proxy = UdpProxy(("127.0.0.1", listener.port))
    carry = proxy.up.carry
    proxy.up.carry = lambda data, send: (sizes.append(len(data)), carry(data, send))[1]  # type: ignore[method-assign]
    await proxy.start()
    try:
        done = await asyncio.to_thread(
            runtime.run, str(tmp_path / "client.py"), str(proxy.address[1]),
            str(tmp_path / "cert.der"), str(tmp_path / "key.der"),
        )  # fmt: skip
    finally:
        await proxy.close()
        listener.close()
    assert done.stdout.strip() == "ok", done.stderr
    said = camera.flight_bytes([leaf.certificate])
    assert abs(max(sizes) - said) <= 16, (max(sizes), said)
    level = camera.verdicts(formats.read(ca.der, "leaf"))[0].level
    assert level == (camera.WARN if max(sizes) > camera.MAX_DATAGRAM else camera.OK)
