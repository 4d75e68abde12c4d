"""Cipher suites under the names that mbedTLS gives them, which are IANA's with hyphens.

Only what fleetnet offers has a name here: authenticated ciphers, with forward secrecy or with
a pre-shared key (RFC 9325 section 4.2). mbedTLS marks those of TLS 1.3 with "TLS1-3-".

Sources: IANA TLS Cipher Suites registry; mbedtls/library/ssl_ciphersuites.c; OpenSSL manual
openssl-ciphers(1).
"""

from collections.abc import Iterable

from fleetnet.errors import CredentialError

_TLS_1_3 = {
    "TLS1-3-AES-128-GCM-SHA256": "TLS_AES_128_GCM_SHA256",
    "TLS1-3-AES-256-GCM-SHA384": "TLS_AES_256_GCM_SHA384",
    "TLS1-3-CHACHA20-POLY1305-SHA256": "TLS_CHACHA20_POLY1305_SHA256",
    "TLS1-3-AES-128-CCM-SHA256": "TLS_AES_128_CCM_SHA256",
}
_TLS_1_2 = {
    "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS-ECDHE-ECDSA-WITH-AES-256-GCM-SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS-ECDHE-ECDSA-WITH-AES-128-CCM": "ECDHE-ECDSA-AES128-CCM",
    "TLS-ECDHE-ECDSA-WITH-AES-256-CCM": "ECDHE-ECDSA-AES256-CCM",
    "TLS-ECDHE-ECDSA-WITH-CHACHA20-POLY1305-SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS-ECDHE-RSA-WITH-AES-128-GCM-SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS-ECDHE-RSA-WITH-CHACHA20-POLY1305-SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS-ECDHE-PSK-WITH-CHACHA20-POLY1305-SHA256": "ECDHE-PSK-CHACHA20-POLY1305",
    "TLS-PSK-WITH-AES-128-GCM-SHA256": "PSK-AES128-GCM-SHA256",
    "TLS-PSK-WITH-AES-256-GCM-SHA384": "PSK-AES256-GCM-SHA384",
    "TLS-PSK-WITH-AES-128-CCM": "PSK-AES128-CCM",
    "TLS-PSK-WITH-AES-256-CCM": "PSK-AES256-CCM",
    "TLS-PSK-WITH-CHACHA20-POLY1305-SHA256": "PSK-CHACHA20-POLY1305",
}
_BY_OPENSSL = {name: iana for iana, name in (_TLS_1_3 | _TLS_1_2).items()}

# AES-128 first: as safe here, and less work for a microcontroller. No CHACHA20 on DTLS: boards
# have AES hardware and no CHACHA20.
DTLS = (
    "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256",
    "TLS-ECDHE-RSA-WITH-AES-128-GCM-SHA256",
    "TLS-ECDHE-ECDSA-WITH-AES-256-GCM-SHA384",
    "TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384",
)
TLS = (
    "TLS1-3-AES-128-GCM-SHA256",
    "TLS1-3-AES-256-GCM-SHA384",
    "TLS1-3-CHACHA20-POLY1305-SHA256",
    *DTLS,
    "TLS-ECDHE-ECDSA-WITH-CHACHA20-POLY1305-SHA256",
    "TLS-ECDHE-RSA-WITH-CHACHA20-POLY1305-SHA256",
)
# The first one has forward secrecy. Boards know only those behind it. A server with certificates
# has these behind the others: a client that offers both is asked for its certificate.
PSK = (
    "TLS-ECDHE-PSK-WITH-CHACHA20-POLY1305-SHA256",
    "TLS-PSK-WITH-AES-128-GCM-SHA256",
    "TLS-PSK-WITH-AES-256-GCM-SHA384",
)


def to_iana(openssl_name: str) -> str:
    """Return mbedTLS's name of a suite; one that has none here keeps OpenSSL's."""
    return _BY_OPENSSL.get(openssl_name, openssl_name)


def is_psk(iana_name: str) -> bool:
    """Whether peers of this suite know each other by a pre-shared key."""
    return "-PSK-" in iana_name


def to_openssl(iana_names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return OpenSSL's names, those up to TLS 1.2 and those of TLS 1.3, each in the given order.

    Raises:
        CredentialError: no names, or one that is not offered here.
    """
    older, newer = [], []
    for name in iana_names:
        if name in _TLS_1_3:
            newer.append(_TLS_1_3[name])
        elif name in _TLS_1_2:
            older.append(_TLS_1_2[name])
        else:
            raise CredentialError(f"cipher suite {name!r} is not offered here: see get_ciphers()")
    if not older and not newer:
        raise CredentialError("no cipher suite was given: see get_ciphers()")
    return older, newer
