"""`fleetnet anchor`: which certificate a camera has to trust for a server, as one DER file."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fleetnet.errors import CredentialError
from fleetnet_server.cli.cert_tools import colons
from fleetnet_server.cli.output import flat, json_option, print_json
from fleetnet_server.errors import FolderError
from fleetnet_server.identity import anchoring, formats, inspecting
from fleetnet_server.identity.anchoring import CHOICES, ROOT, TRADE_OFFS, Way
from fleetnet_server.identity.camera import BAD, Verdict
from fleetnet_server.identity.files import PUBLIC, replace_file, write_new_file
from fleetnet_server.identity.looking import Look, look_at, read_store

_TLS_PORT = 443
_FILE = click.Path(dir_okay=False, path_type=Path)


class _Found(NamedTuple):
    """What was seen and thought about a server's chain."""

    where: str
    name: str
    look: Look
    way: Way
    problems: list[Verdict]


@click.command()
@click.argument("target", metavar="[HOST[:PORT]]", required=False, default="")
@click.option("--name", metavar="NAME", help="The name that is asked for (SNI) and has to be in "
              "the certificate. Without it: HOST.")
@click.option("--choose", "choice", type=click.Choice(CHOICES), help="What the camera shall trust. "
              "Without it: asked for on a terminal, else root.")
@click.option("--out", type=_FILE, metavar="FILE.der", help="Write the anchor there; a new file.")
@click.option("--save-chain", type=_FILE, metavar="FILE.pem", help="Write what the server sends.")
@click.option("--chain", type=_FILE, metavar="FILE.pem", help="Offline: this chain, leaf first.")
@click.option("--store", "stores", multiple=True, metavar="system|certifi|FILE",
              help="Where roots are looked for; repeat it for more. Default: system.")
@click.option("--timeout", "timeout_s", default=10.0, show_default=True,
              type=click.FloatRange(min=0.1), help="Seconds for the server to answer.")
@click.option("--yes", is_flag=True, help="Ask nothing; take a root that no store knows.")
@json_option
def anchor(
    target: str, name: str | None, choice: str | None, out: Path | None, save_chain: Path | None,
    chain: Path | None, stores: tuple[str, ...], timeout_s: float, yes: bool, as_json: bool,
) -> None:  # fmt: skip
    """Look at a server's certificates and write the one that a camera has to trust.

    Nothing is verified while looking, and nothing is sent. The anchor is written only when the
    chain leads to it, today and by the host's name. Exit code 1 when a camera would fail.
    """
    found = _look(target, name, chain, stores, timeout_s)
    if save_chain is not None:
        _save_chain(save_chain, found.look.chain)
    if not as_json:
        _print_chain(found)
    is_talk = sys.stdin.isatty() and not yes and not as_json
    if choice is None:
        choice = _ask(found.way) if is_talk and out is not None else ROOT
    document = _document(found, choice)
    try:
        chosen = anchoring.choose(found.way, choice)
        document["anchor"] = _about(chosen)
        anchoring.verify(found.look.chain, chosen, found.name)
        if out is not None:
            _check_known(found, chosen, is_talk, yes)
            _write(out, chosen)
            document["file"] = str(out)
    except CredentialError as error:
        document["error"] = str(error)
    if as_json:
        print_json(document)
    else:
        _print_choice(document, choice)
    if "error" in document:
        sys.exit(1)


# -- looking -------------------------------------------------------------------------------


def _look(
    target: str, name: str | None, chain: Path | None, stores: tuple[str, ...], timeout_s: float
) -> _Found:
    host, port = split_target(target, _TLS_PORT) if target else ("", 0)
    if chain is not None:
        certificates = [one.value for one in formats.read_file(chain).of(formats.CERTIFICATE)]
        if not certificates:
            raise CredentialError(f"{chain} holds no certificate: name a saved chain, leaf first")
        look, where = Look(certificates, "", ""), str(chain)
    elif not host:
        raise click.UsageError("name a server, HOST[:PORT], or a saved chain with --chain FILE")
    else:
        look, where = look_at(host, port, name, timeout_s), f"{host}:{port}"
    known = [one for store in stores or ("system",) for one in read_store(store)]
    way = anchoring.find_way(look.chain, known)
    wanted = name or host
    return _Found(where, wanted, look, way, anchoring.problems(look.chain, way, wanted))


def split_target(target: str, default: int) -> tuple[str, int]:
    """Split HOST[:PORT]; an IPv6 address with a port stands in brackets.

    Raises:
        click.UsageError: no port number.
    """
    host, colon, number = target.rpartition(":")
    if target.startswith("[") and "]" in target:
        host, _, rest = target[1:].partition("]")
        colon, number = rest[:1], rest[1:]
    elif target.count(":") != 1:
        host, colon = target, ""
    if not colon:
        return host, default
    if not number.isdecimal() or not 0 < int(number) < 65536:
        raise click.UsageError(f"{target}: {number!r} is no port number")
    return host, int(number)


def _ask(way: Way) -> str:
    """Let the user choose among what this chain has, with what each means."""
    click.echo("What shall the camera trust?", err=True)
    there = []
    for choice in CHOICES:
        try:
            anchoring.choose(way, choice)
        except CredentialError as error:
            click.echo(f"  not {choice}: {error}", err=True)
        else:
            there.append(choice)
            click.echo(f"  {choice:<13} {TRADE_OFFS[choice]}", err=True)
    default = ROOT if ROOT in there else (there or CHOICES)[0]
    among = click.Choice(there or CHOICES)
    return str(click.prompt("Trust", type=among, default=default, err=True))


def _check_known(found: _Found, chosen: x509.Certificate, is_talk: bool, yes: bool) -> None:
    """Let somebody compare the fingerprint of what no store vouches for."""
    if found.way.is_known or yes:
        return
    what = f"no store vouches for {inspecting.text_of(chosen.subject)!r}"
    fingerprint = colons(inspecting.fingerprint(chosen))
    if is_talk:
        click.echo(f"{what}. SHA-256 {fingerprint}", err=True)
        if click.confirm("Is that the fingerprint that the server's owner names?", err=True):
            return
    raise CredentialError(f"{what}: compare SHA-256 {fingerprint} with its owner's, then --yes")


# -- writing -------------------------------------------------------------------------------


def _write(path: Path, chosen: x509.Certificate) -> None:
    der = anchoring.to_der(chosen)
    try:
        if path.exists() and path.read_bytes() == der:
            return
        write_new_file(path, der, PUBLIC)
    except OSError as error:
        raise FolderError(f"{path} cannot be written: {error.strerror}") from error


def _save_chain(path: Path, chain: list[x509.Certificate]) -> None:
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in chain)
    try:
        replace_file(path, pem, PUBLIC)
    except OSError as error:
        raise FolderError(f"{path} cannot be written: {error.strerror}") from error


# -- what is shown -------------------------------------------------------------------------


def _about(certificate: x509.Certificate) -> dict[str, Any]:
    return {
        "subject": inspecting.text_of(certificate.subject),
        "issuer": inspecting.text_of(certificate.issuer),
        "not_after": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "key": inspecting.certificate_key_name(certificate),
        "bytes": len(anchoring.to_der(certificate)),
        "sha256": inspecting.fingerprint(certificate),
    }


def _document(found: _Found, choice: str) -> dict[str, Any]:
    way, last = found.way, found.way.certificates[-1]
    return {
        "server": found.where,
        "name": found.name,
        "version": found.look.version,
        "cipher": found.look.cipher,
        "sent": [_about(one) for one in found.look.chain],
        "sent_bytes": sum(len(anchoring.to_der(one)) for one in found.look.chain),
        "root": _about(last) if way.is_complete else None,
        "root_is_known": way.is_known,
        "problems": [one._asdict() for one in found.problems],
        "choice": choice,
        "trade_off": TRADE_OFFS[choice],
        "pin": inspecting.pin_of(found.look.chain[0].public_key()),
        "anchor": None,
    }


def _print_chain(found: _Found) -> None:
    look, way = found.look, found.way
    how = f" over {look.version}" if look.version else ""
    size = sum(len(anchoring.to_der(one)) for one in look.chain)
    click.echo(f"{found.where} sends {len(look.chain)} certificates, {size} B{how}:")
    for number, one in enumerate(look.chain, 1):
        about = _about(one)
        click.echo(
            f"  {number} {flat(about['subject'])}\n"
            f"    issuer {flat(about['issuer'])}\n"
            f"    until {about['not_after'][:10]}, {about['key']}, {about['bytes']} B"
        )
    last = way.certificates[-1]
    if not way.is_complete:
        click.echo(f"  the root is not known here: {flat(inspecting.text_of(last.issuer))}")
    else:
        whence = "which the store knows" if way.is_known else "which no store here knows"
        click.echo(f"  root {flat(inspecting.text_of(last.subject))}, {whence}")
    for each in found.problems:
        remedy = f" -> {each.remedy}" if each.remedy else ""
        click.echo(f"  {'BAD ' if each.level == BAD else 'note'} {flat(each.text)}{remedy}")


def _print_choice(document: dict[str, Any], choice: str) -> None:
    if document["anchor"]:
        about = document["anchor"]
        click.echo(f"{choice}: {flat(about['subject'])}: {TRADE_OFFS[choice]}")
        click.echo(f"SHA-256 {colons(about['sha256'])}")
    if "error" in document:
        click.echo(f"Error: {flat(document['error'])}", err=True)
    elif "file" in document:
        click.echo(f"{document['file']}: {document['anchor']['bytes']} B, DER. The chain leads to "
                   "it, by name and by date.")  # fmt: skip
    else:
        click.echo("The chain leads to it, by name and by date. --out FILE.der writes it.")
