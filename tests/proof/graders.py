"""sslscan, sslyze and testssl.sh against one TLS port: what each accepted, and what it found.

Each returns a Report; a tool that saw no protocol is blind: it has found nothing, whatever it
says. Used by tls_grade.py.
"""

import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from proof.verdict import ROOT

GOOD_PROTOCOLS = {"TLSv1.2", "TLSv1.3"}
# AEAD with forward secrecy (RFC 9325 section 4.2), by the names of OpenSSL and of IANA.
_TLS13 = re.compile(r"TLS_(AES_(128|256)_GCM_SHA\d+|CHACHA20_POLY1305_SHA256)$")
_GOOD = re.compile(r"(TLS_)?ECDHE[-_](ECDSA|RSA)[-_].*(GCM|POLY1305)")
PATIENCE_S = 900

# What testssl.sh calls a finding and is none here, with the reason.
EXPECTED = {
    "service": "no HTTP: it cannot tell what speaks behind TLS",
    "cert_chain_of_trust": "the fleet has a CA of its own; its devices have no other",
    "cert_trust": "see cert_chain_of_trust",
    "cert_revocation": "devices learn of it from their bundle and by rotation, not by CRL or OCSP",
    "cert_validityPeriod": "825 days, and the day before it was made, for clocks that are slow",
    "cert_expirationStatus": "see cert_validityPeriod",
    "DNS_CAArecord": "no public CA issues for it",
    "OCSP_stapling": "see cert_revocation",
}
_SEVERE = {"LOW", "MEDIUM", "HIGH", "CRITICAL"}


class Identity(NamedTuple):
    """PEM files of a client; None: the server wants none."""

    certificate: Path
    key: Path


class Report(NamedTuple):
    """What a tool saw.

    Attributes:
        protocols: what was spoken with it. suites: as "PROTOCOL SUITE"; testssl.sh tells none.
        findings: what is wrong with what it saw.
    """

    tool: str
    protocols: list[str]
    suites: list[str]
    findings: list[str]

    def unseen(self) -> list[str]:
        """What it should have seen of a server that speaks GOOD_PROTOCOLS."""
        return [f"saw no {one}" for one in sorted(GOOD_PROTOCOLS - set(self.protocols))]


def place_of(tool: str) -> str | None:
    """Return where a tool is: an own environment of tools/proof_tools.sh, or on the PATH."""
    own = ROOT / ".tools" / tool / "bin" / tool
    return str(own) if own.exists() else shutil.which(tool)


def _judged(suite: str) -> bool:
    return bool(_TLS13.match(suite) or _GOOD.match(suite))


def _report(
    tool: str, protocols: list[str], suites: list[tuple[str, str]], findings: list[str]
) -> Report:
    seen = sorted({*protocols, *(protocol for protocol, _ in suites)})
    findings += [f"{one} is offered" for one in seen if one not in GOOD_PROTOCOLS]
    for protocol, suite in suites:
        if not _judged(suite):
            findings.append(f"{protocol} {suite}: not AEAD with forward secrecy")
    return Report(tool, seen, [" ".join(pair) for pair in suites], list(dict.fromkeys(findings)))


def _run(command: list[str]) -> None:
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )


def sslscan(tool: str, port: int, identity: Identity | None, folder: Path) -> Report:
    out = folder / "sslscan.xml"
    shown = []
    if identity is not None:
        shown = [f"--certs={identity.certificate}", f"--pk={identity.key}"]
    _run([tool, "--no-colour", *shown, f"--xml={out}", f"127.0.0.1:{port}"])
    # A file of the tool that was run here, not of a stranger.
    root = ElementTree.parse(out).getroot()  # noqa: S314
    findings = []
    protocols = [
        f"{one.get('type', '').upper()}v{one.get('version')}" for one in root.iter("protocol")
        if one.get("enabled") == "1"
    ]  # fmt: skip
    for tag, attribute, bad in (
        ("heartbleed", "vulnerable", "1"), ("compression", "supported", "1"),
        ("fallback", "supported", "0"),
    ):  # fmt: skip
        findings += [tag for one in root.iter(tag) if one.get(attribute) == bad]
    for one in root.iter("renegotiation"):
        if one.get("supported") == "1" and one.get("secure") == "0":
            findings.append("insecure renegotiation")
    for one in root.iter("pk"):
        least = {"RSA": 2048, "EC": 128}.get(one.get("type", ""), 0)
        if int(one.get("bits") or 0) < least:
            findings.append(f"{one.get('type')} key of {one.get('bits')} bits")
    suites = [(one.get("sslversion", ""), one.get("cipher", "")) for one in root.iter("cipher")]
    return _report("sslscan", protocols, suites, findings)


_BAD_ANSWERS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "heartbleed": lambda found: found["is_vulnerable_to_heartbleed"],
    "openssl_ccs_injection": lambda found: found["is_vulnerable_to_ccs_injection"],
    "tls_compression": lambda found: found["supports_compression"],
    "tls_fallback_scsv": lambda found: not found["supports_fallback_scsv"],
    "robot": lambda found: not found["robot_result"].startswith("NOT_VULNERABLE"),
    "session_renegotiation": lambda found: (
        found["is_vulnerable_to_client_renegotiation_dos"]
        or not found["supports_secure_renegotiation"]
    ),
    "tls_extended_master_secret": lambda found: not found["supports_ems_extension"],
}
_SSLYZE_NAMES = {
    "ssl_2_0": "SSLv2", "ssl_3_0": "SSLv3", "tls_1_0": "TLSv1.0", "tls_1_1": "TLSv1.1",
    "tls_1_2": "TLSv1.2", "tls_1_3": "TLSv1.3",
}  # fmt: skip


def sslyze(tool: str, port: int, identity: Identity | None, folder: Path) -> Report:
    out = folder / "sslyze.json"
    shown = []
    if identity is not None:
        shown = ["--cert", str(identity.certificate), "--key", str(identity.key)]
    _run([tool, *shown, f"--json_out={out}", f"127.0.0.1:{port}"])
    [server] = json.loads(out.read_text())["server_scan_results"]
    results = server["scan_result"] or {}
    suites, findings = [], []
    for key, protocol in _SSLYZE_NAMES.items():
        found = (results.get(f"{key}_cipher_suites") or {}).get("result") or {}
        accepted = found.get("accepted_cipher_suites", ())
        suites += [(protocol, one["cipher_suite"]["name"]) for one in accepted]
    for name, is_bad in _BAD_ANSWERS.items():
        found = (results.get(name) or {}).get("result")
        if found is None:
            findings.append(f"{name} could not be looked at")
        elif is_bad(found):
            findings.append(name)
    return _report("sslyze", [], suites, findings)


# Protocols, kinds of ciphers, forward secrecy, what the server shows, and its faults by name. Not
# the simulation of browsers, which are no devices, nor the test of each of 370 ciphers.
_LOOKS = ("-p", "-s", "-f", "-S", "-H", "-I", "-T", "-B", "-R", "-C", "-Z", "-W", "-A", "-L", "-F",
          "-J", "-D", "-4")  # fmt: skip
_TESTSSL_PROTOCOLS = {
    "SSLv2": "SSLv2", "SSLv3": "SSLv3", "TLS1": "TLSv1.0", "TLS1_1": "TLSv1.1",
    "TLS1_2": "TLSv1.2", "TLS1_3": "TLSv1.3",
}  # fmt: skip


def testssl(tool: str, port: int, identity: Identity | None, folder: Path) -> Report:
    """It shows no certificate; what it looks at comes before a server asks for one.

    It judges kinds of suites, by a severity, and names none.
    """
    out = folder / "testssl.json"
    _run([tool, "--jsonfile", str(out), "--quiet", "--color", "0", "--warnings", "off", *_LOOKS,
          f"127.0.0.1:{port}"])  # fmt: skip
    found = json.loads(out.read_text())
    protocols = [
        _TESTSSL_PROTOCOLS[one["id"]] for one in found
        if one["id"] in _TESTSSL_PROTOCOLS and one["finding"].startswith("offered")
    ]  # fmt: skip
    findings = [
        f"{one['id']}: {one['finding']} ({one['severity']})"
        for one in found
        if (one["severity"] in _SEVERE and one["id"].partition(" ")[0] not in EXPECTED)
        or (one["id"] == "scanTime" and one["severity"] == "WARN")
    ]
    return _report("testssl", protocols, [], findings)


Grader = Callable[[str, int, Identity | None, Path], Report]
GRADERS: dict[str, Grader] = {"sslscan": sslscan, "sslyze": sslyze, "testssl": testssl}
