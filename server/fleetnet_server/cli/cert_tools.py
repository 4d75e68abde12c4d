"""`fleetnet cert inspect|convert|self-signed`: what `openssl` was needed for."""

import sys
from pathlib import Path
from typing import Any

import click

from fleetnet.errors import CredentialError
from fleetnet_server.cli.output import flat, json_option, print_json, print_result
from fleetnet_server.errors import FolderError
from fleetnet_server.identity import camera, converting, formats, inspecting
from fleetnet_server.identity.files import PRIVATE, PUBLIC, write_new_file
from fleetnet_server.identity.formats import Content
from fleetnet_server.identity.key_types import KEY_TYPES, P256
from fleetnet_server.identity.pki import self_signed, to_pem

_FILE = click.Path(dir_okay=False, path_type=Path)
_DER_ENDINGS = (".der", ".cer")
_PEM_ENDINGS = (".pem", ".crt", ".key")

_password_option = click.option(
    "--password-file", type=_FILE, metavar="FILE",
    help="Its first line opens an encrypted key. Without it, it is asked for on a terminal.",
)  # fmt: skip


@click.command("inspect")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_FILE)
@click.option("--key", type=_FILE, metavar="FILE", help="Does this key belong to the first FILE?")
@_password_option
@json_option
def inspect_command(
    files: tuple[Path, ...], key: Path | None, password_file: Path | None, as_json: bool
) -> None:
    """Say what files are: certificates, keys, requests, revocation lists, DER or PEM.

    And whether a camera can load them. Exit code 1 when one is unreadable or no camera can.
    """
    password = _password_from(password_file)
    pair = _open(key, password) if key else None
    documents = [_inspect(path, pair if path == files[0] else None, password) for path in files]
    if as_json:
        print_json(documents)
    else:
        click.echo("\n\n".join(_text_of(each) for each in documents))
    if any(each["camera"][0]["level"] == camera.BAD for each in documents):
        sys.exit(1)


@click.command("convert")
@click.argument("source", metavar="IN", type=_FILE)
@click.argument("target", metavar="OUT", type=_FILE)
@click.option("--to", type=click.Choice(["der", "pem"]), help="Default: what OUT's name ends with.")
@click.option("--camera", "for_camera", is_flag=True,
              help="DER that a camera loads; keys as SEC 1 or PKCS #1. Refuses what none can use.")
@click.option("--pick", type=int, metavar="N", help="Of a file with several: the N-th alone.")
@_password_option
@json_option
def convert_command(
    source: Path, target: Path, to: str | None, for_camera: bool, pick: int | None,
    password_file: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Write IN as DER or PEM to OUT, a new file; keys lose their encryption, and get mode 0600."""
    form = "der" if for_camera else to or _form_of(target)
    if for_camera and to == "pem":
        raise CredentialError("--camera writes DER: leave --to pem out")
    content = _open(source, _password_from(password_file))
    items = content.items
    if form == "der" or pick is not None:
        items = (converting.choose(content, str(source), pick),)
    if form == "pem":
        data = converting.to_pem(items)
    elif for_camera:
        data = converting.to_camera(items[0], str(source))
    else:
        data = converting.to_der(items[0])
    has_key = any(item.kind == formats.KEY for item in items)
    _write(target, data, PRIVATE if has_key else PUBLIC)
    kinds = [item.kind for item in items]
    document = {"file": str(target), "form": form, "items": kinds, "bytes": len(data)}
    text = f"{target}: {', '.join(kinds)}, {form.upper()}, {len(data)} B."
    print_result(as_json, document, text)


@click.command("self-signed")
@click.argument("hosts", metavar="HOST...", nargs=-1)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path),
              metavar="FOLDER", help="Where the four files go; made if need be.")
@click.option("--name", default="server", show_default=True,
              help="How the files are called; without HOST also the common name.")
@click.option("--key-type", default=P256, show_default=True, metavar="|".join(KEY_TYPES))
@click.option("--days", default=365.0, show_default=True, type=click.FloatRange(min=0.01))
@json_option
def self_signed_command(
    hosts: tuple[str, ...], out: Path, name: str, key_type: str, days: float, as_json: bool
) -> None:
    """Make a pair that is its own trust anchor: for two devices that know each other.

    HOST: names and addresses that clients connect to; none for a client's pair.
    NAME.der and NAME.key.der are for cameras, NAME.crt and NAME.key (PEM) for other programs.
    """
    if not name or "/" in name:
        raise CredentialError(f"--name {name!r}: part of a file name, as in server or client")
    pair = self_signed(hosts, key_type, days, name="" if hosts else name)
    key = formats.read(pair.key, "the new key").items[0]
    files = (
        (f"{name}.der", pair.certificate, PUBLIC),
        (f"{name}.crt", to_pem(pair.certificate), PUBLIC),
        (f"{name}.key.der", pair.key, PRIVATE),
        (f"{name}.key", key.pem, PRIVATE),
    )
    taken = [path for path, _, _ in files if (out / path).exists()]
    if taken:
        raise FolderError(f"{out / taken[0]} exists and was left alone: remove it, or --name")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{out} cannot be made: {error.strerror}") from error
    for path, data, mode in files:
        _write(out / path, data, mode)
    digest = inspecting.fingerprint(formats.read(pair.certificate, name).items[0].value)
    document = {"files": [str(out / path) for path, _, _ in files], "sha256": digest}
    lines = [f"{out / path}: {len(data)} B" for path, data, _ in files]
    print_result(as_json, document, "\n".join([*lines, f"SHA-256 {colons(digest)}"]))


# -- files and passwords -------------------------------------------------------------------


def _open(path: Path, password: bytes | None) -> Content:
    """Read a file; ask for a password when a key needs one and somebody is there to ask."""
    content = formats.read_file(path, password)
    is_locked = any(item.is_encrypted and item.value is None for item in content.items)
    if is_locked and sys.stdin.isatty():
        typed = click.prompt(f"Password of {path}", hide_input=True, err=True)
        return formats.read_file(path, str(typed).encode())
    return content


def _password_from(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise CredentialError(f"{path} cannot be read: {error.strerror}") from error
    if not lines or not lines[0]:
        raise CredentialError(f"{path} is empty: its first line has to be the password")
    return lines[0]


def _form_of(target: Path) -> str:
    ending = target.suffix.lower()
    if ending in _DER_ENDINGS:
        return "der"
    if ending in _PEM_ENDINGS:
        return "pem"
    raise CredentialError(f"{target}: --to der or --to pem? Its name does not tell")


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        write_new_file(path, data, mode)
    except OSError as error:
        raise FolderError(f"{path} cannot be written: {error.strerror}") from error


# -- what is shown -------------------------------------------------------------------------


def _inspect(path: Path, key: Content | None, password: bytes | None) -> dict[str, Any]:
    try:
        content = _open(path, password)
    except CredentialError as error:
        verdict = {"level": camera.BAD, "text": str(error), "remedy": ""}
        return {"file": str(path), "bytes": 0, "items": [], "camera": [verdict]}
    chain = [item.value for item in content.of(formats.CERTIFICATE)]
    return {
        "file": str(path),
        "bytes": content.size,
        "items": [inspecting.describe(item) for item in content.items],
        "chain_bytes": camera.chain_bytes(chain),
        "camera": [one._asdict() for one in camera.verdicts(content, key)],
    }


_ROWS = (
    ("device", "device"), ("subject", "subject"), ("issuer", "issuer"), ("names", "names"),
    ("key", "key"), ("signature", "signature"), ("purposes", "for"), ("key_usage", "key usage"),
    ("permitted", "permitted"), ("excluded", "excluded"), ("critical", "critical"),
    ("revoked", "revoked"), ("next_update", "next list"), ("issuer_at", "issuer at"),
    ("serial", "serial"), ("sha256", "SHA-256"), ("pin", "pin"),
)  # fmt: skip


def _text_of(document: dict[str, Any]) -> str:
    lines = [f"{document['file']}: {document['bytes']} B"]
    for about in document["items"]:
        lines.append(f"  {about['kind']}, {about['form']}, {about['encoding']}{_more(about)}")
        lines += [_row(title, about[key]) for key, title in _ROWS if about.get(key)]
        if "not_after" in about:
            valid = f"{about['not_before'][:10]} to {about['not_after'][:10]}"
            days = about["days_left"]
            left = f"{days} days left" if about["state"] == "valid" else about["state"].upper()
            lines.append(_row("valid", f"{valid}, {left}"))
            lines.append(_row("size", _size(about)))
    for one in document["camera"]:
        remedy = f" -> {one['remedy']}" if one["remedy"] else ""
        lines.append(f"  camera: {one['level'].upper()}: {flat(one['text'])}{remedy}")
    return "\n".join(lines)


def _row(title: str, value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"    {title:<10} {colons(text) if title == 'SHA-256' else flat(text)}"


def _more(about: dict[str, Any]) -> str:
    words = []
    if about.get("ca"):
        length = about.get("path_length")
        words.append("CA" if length is None else f"CA, path length {length}")
    if about.get("self_signed"):
        words.append("self-signed")
    if about.get("encrypted"):
        words.append("encrypted")
    return "".join(f", {word}" for word in words)


def _size(about: dict[str, Any]) -> str:
    text = f"{about['bytes']} B, {about['wire_bytes']} B as TLS message"
    if not about["ca"] and "dtls_flight_bytes" in about:
        text += f", {about['dtls_flight_bytes']} B in a DTLS client's datagram"
    return text


def colons(digest: str) -> str:
    """AB:CD:..., as browsers and openssl show fingerprints."""
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2)).upper()
