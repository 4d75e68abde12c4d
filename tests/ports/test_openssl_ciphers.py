"""Names of cipher suites: ours are mbedTLS's, whatever OpenSSL calls them."""

import subprocess

import pytest
from OpenSSL import SSL

from examples.programs import openssl
from fleetnet.errors import CredentialError, FleetError
from fleetnet.ports import openssl_ciphers
from fleetnet.ports.openssl_context import Context, client_context, server_context
from fleetnet.ports.openssl_object import SslObject
from interpreters import Interpreter, interpreters
from pki import Pki
from wires import dtls_shake, shake

ALL = openssl_ciphers._TLS_1_3 | openssl_ciphers._TLS_1_2
ECDSA_256 = "TLS-ECDHE-ECDSA-WITH-AES-256-GCM-SHA384"
NEW_256 = "TLS1-3-AES-256-GCM-SHA384"


def test_the_names_are_ianas() -> None:
    """`openssl ciphers -stdname` prints IANA's name beside OpenSSL's own."""
    list_all = [openssl(), "ciphers", "-stdname", "ALL:PSK:@SECLEVEL=0"]
    lines = subprocess.run(list_all, capture_output=True, text=True, check=True).stdout
    iana = {line.split()[2]: line.split()[0].replace("_", "-") for line in lines.splitlines()}
    for ours, theirs in ALL.items():
        if ours.startswith("TLS1-3-"):
            assert theirs.replace("_", "-") == ours.replace("TLS1-3-", "TLS-")
        else:
            assert iana[theirs] == ours


@pytest.mark.parametrize("runtime", interpreters(), ids=lambda each: each.name)
def test_the_names_are_those_of_mbedtls(runtime: Interpreter) -> None:
    done = runtime.run(
        "-c", "import tls; print(*tls.SSLContext(tls.PROTOCOL_TLS_CLIENT).get_ciphers())"
    )
    known = set(done.stdout.split())
    assert len(known & set(ALL)) >= 6
    if runtime.version[:2] == (1, 25):  # Debian's build has every suite
        assert set(ALL) <= known


def meet(client: Context, server: Context) -> tuple[str, str]:
    ends = SslObject(client, "localhost"), SslObject(server)
    (dtls_shake if client.datagram else shake)(*ends)
    assert ends[0].cipher() == ends[1].cipher()
    return ends[0].cipher()


def test_what_is_offered(pki: Pki) -> None:
    ca = pki.ca.certificate
    assert client_context(ca).get_ciphers() == list(openssl_ciphers.TLS)
    assert client_context(ca, datagram=True).get_ciphers() == list(openssl_ciphers.DTLS)
    assert server_context(psk={"a": bytes(16)}).get_ciphers() == list(openssl_ciphers.PSK)
    assert client_context(ca, ciphers=[ECDSA_256]).get_ciphers() == [ECDSA_256]
    assert client_context(ca, ciphers=[NEW_256]).get_ciphers() == [NEW_256]


@pytest.mark.parametrize("name", [n for n in ALL if "-PSK-" not in n and "-RSA-" not in n])
def test_one_suite_alone(pki: Pki, name: str) -> None:
    version = "TLSv1.3" if name.startswith("TLS1-3-") else "TLSv1.2"
    server = server_context(*pki.server, ciphers=[name])
    assert meet(client_context(pki.ca.certificate, ciphers=[name]), server) == (name, version)
    if version == "TLSv1.2":
        server = server_context(*pki.server, ciphers=[name], datagram=True)
        client = client_context(pki.ca.certificate, ciphers=[name], datagram=True)
        assert meet(client, server) == (name, "DTLSv1.2")


def test_the_servers_order_counts(pki: Pki) -> None:
    client, server = client_context(pki.ca.certificate), server_context(*pki.server)
    assert meet(client, server)[0] == "TLS1-3-AES-128-GCM-SHA256"
    server.set_ciphers([ECDSA_256, NEW_256])
    assert meet(client, server) == (NEW_256, "TLSv1.3")
    client.set_ciphers(reversed(openssl_ciphers.DTLS))
    assert meet(client, server) == (ECDSA_256, "TLSv1.2")
    client.set_ciphers(openssl_ciphers.TLS)
    assert meet(client, server) == (NEW_256, "TLSv1.3")
    client.limit_version(SSL.TLS1_2_VERSION)
    assert meet(client, server) == (ECDSA_256, "TLSv1.2")


def test_suites_that_do_not_meet(pki: Pki) -> None:
    server = server_context(*pki.server, ciphers=[ECDSA_256])
    for other in (NEW_256, "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256"):
        with pytest.raises(FleetError):
            meet(client_context(pki.ca.certificate, ciphers=[other]), server)


def test_what_cannot_be_set(pki: Pki) -> None:
    context = client_context(pki.ca.certificate)
    for names in ([], ["TLS-RSA-WITH-NULL-SHA"], ["ECDHE-ECDSA-AES128-GCM-SHA256"], [""]):
        with pytest.raises(CredentialError, match="get_ciphers"):
            context.set_ciphers(names)
    with pytest.raises(CredentialError, match="of no use"):
        context.set_ciphers([ECDSA_256, "TLS-PSK-WITH-AES-128-GCM-SHA256"])
    with pytest.raises(CredentialError, match="of no use"):
        client_context(psk=("a", bytes(16)), ciphers=[ECDSA_256])
    with pytest.raises(CredentialError, match="only version"):
        client_context(pki.ca.certificate, datagram=True, ciphers=[NEW_256])
    assert context.get_ciphers() == list(openssl_ciphers.TLS)
