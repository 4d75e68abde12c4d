"""What bytes are, by their outer structure: DER (X.690), and the files taken for it by mistake."""

_PKCS12_VERSION = b"\x03"

_OTHER_PEM = {
    "OPENSSH PRIVATE KEY": "is a key of OpenSSH: make one with `fleetnet cert self-signed`, or "
    "`ssh-keygen -p -m PKCS8 -f KEY` turns it into PKCS #8",
    "PGP PUBLIC KEY BLOCK": "is a key of PGP, not one for TLS",
    "PGP PRIVATE KEY BLOCK": "is a key of PGP, not one for TLS",
    "DH PARAMETERS": "holds Diffie-Hellman parameters, which TLS needs no more",
}


def split_der(data: bytes) -> tuple[list[bytes], int]:
    """Split DER sequences that lie back to back; return them and the count of bytes behind."""
    parts: list[bytes] = []
    at = 0
    while at < len(data) and data[at] == 0x30:
        found = _value(data, at)
        if found is None:
            break
        end = found[1]
        parts.append(data[at:end])
        at = end
    return parts, len(data) - at


def children(data: bytes) -> list[tuple[int, bytes]]:
    """Return (tag, whole value) of what a DER sequence holds; [] when that cannot be told."""
    outer = _value(data, 0)
    if outer is None or outer[1] != len(data):
        return []
    found: list[tuple[int, bytes]] = []
    at, end = outer
    while at < end:
        inner = _value(data, at)
        if inner is None or inner[1] > end:
            return []
        found.append((data[at], data[at : inner[1]]))
        at = inner[1]
    return found


def key_form(data: bytes) -> str:
    """Return "SEC 1", "PKCS #1", "PKCS #8" or "encrypted" of a private key, "" of others."""
    found = children(data)
    tags = [tag for tag, _ in found]
    if tags[:2] == [0x02, 0x04]:
        return "SEC 1"
    if tags[:3] == [0x02, 0x30, 0x04]:
        return "PKCS #8"
    if len(tags) >= 9 and set(tags[:9]) == {0x02}:
        return "PKCS #1"
    if tags == [0x30, 0x04]:
        return "encrypted"
    return ""


def why_unreadable(data: bytes, label: str = "") -> str:
    """Say what bytes are that hold no certificate, and what to do; ``label``: of a PEM block."""
    if label:
        return _OTHER_PEM.get(label, f"holds {label}, which is no certificate and no key")
    if not data.strip(b"\0 \r\n\t"):
        return "is empty: copy it again"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "is text in UTF-16, as PowerShell's > writes it: save it as ASCII or UTF-8"
    head = data[:200].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not a certificate: the download needs a login or another address"
    tags = children(data)
    if [tag for tag, _ in tags][:2] == [0x02, 0x30] and tags[0][1][2:] == _PKCS12_VERSION:
        return "is PKCS #12 (.p12, .pfx): `openssl pkcs12 -in IN -nodes -out OUT.pem` unpacks it"
    if data[:1] == b"\x30":
        outer = _value(data, 0)
        if outer is None:
            return f"begins as DER and is cut off at {len(data)} B: copy it again, in binary mode"
        return "is DER, but no certificate, key, request or revocation list"
    if b"ssh-" in data[:20] or b"ecdsa-sha2-" in data[:20]:
        return "is a public key of SSH, which TLS does not use"
    if len(head) > 60 and not head.strip(b"abcdefghijklmnopqrstuvwxyz0123456789+/=\r\n"):
        return "is Base64 without its BEGIN and END lines: add them, or decode it to DER"
    return "is neither DER nor PEM: is it the right file?"


def _value(data: bytes, at: int) -> tuple[int, int] | None:
    """Return (start, end) of the value's content; None: cut off, or no definite length."""
    if at + 2 > len(data):
        return None
    size, start = data[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        if not 0 < count <= 4 or start + count > len(data):
            return None
        size = int.from_bytes(data[start : start + count])
        start += count
    return (start, start + size) if start + size <= len(data) else None
