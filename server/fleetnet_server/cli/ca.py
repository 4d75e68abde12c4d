"""`fleetnet ca`: the certificate authority of a fleet, and its rollover."""

import datetime
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fleetnet.errors import CredentialError
from fleetnet_server.cli.actor import actor
from fleetnet_server.cli.output import flat, json_option, print_json, print_result
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.errors import FolderError
from fleetnet_server.fleet_folder import create_credentials, create_pair, refuse_registered
from fleetnet_server.identity import crl, imported, rollover
from fleetnet_server.identity.authority import DEFAULT_NAME, Authority
from fleetnet_server.identity.constraints import permitted
from fleetnet_server.identity.crl import keep_crl
from fleetnet_server.identity.generations import Generation, has_authority
from fleetnet_server.identity.server_keys import parts_there, refuse_existing
from fleetnet_server.store.audit_rows import add_audit
from fleetnet_server.store.expiry import devices_with_marks
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.ports import Store
from fleetnet_server.wording import counted

# How many devices a refusal names before it counts the rest.
_NAMED = 20

_name_option = click.option(
    "--name", default=DEFAULT_NAME, show_default=True, help="Begin of the CA's common name."
)
_permit_option = click.option(
    "--permit", multiple=True, metavar="HOST|NETWORK",
    help="Host, and names below it, that the server may get certificates for, beside the fleet's "
    "own; a network as 10.0.0.0/8; '*': no constraint. Repeat it for more.",
)  # fmt: skip
_offline_option = click.option(
    "--offline-root", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write the root's key there, and not into the fleet's folder.",
)  # fmt: skip
_key_type_option = click.option(
    "--key-type", metavar="TYPE", help="p256, p384 or rsa2048. Default: p256, or as now."
)


def _file_option(
    name: str, text: str, required: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    kind = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.option(name, type=kind, metavar="FILE", help=text, required=required)


@click.group()
def ca() -> None:
    """Make, show, import and change the fleet's certificate authority."""


@ca.command("init")
@_key_type_option
@_name_option
@_permit_option
@_offline_option
@click.option("--flat", is_flag=True, help="One CA, no issuing CA below it: for hubs.")
@click.option("--force", is_flag=True, help="Even if devices are registered: see below.")
@json_option
@click.pass_obj
def init_command(
    folder: Path,
    key_type: str | None,
    name: str,
    permit: tuple[str, ...],
    offline_root: Path | None,
    flat: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make the CA of a fleet that has none (`fleetnet init --no-ca`), and the server's pair.

    Refused while devices are registered: they trust another root, and each would need a new
    bundle. --force goes on, for devices that have pre-shared keys only.
    """
    settings = load_settings(folder)
    is_cut_short = has_authority(folder) and not parts_there(folder)
    if not is_cut_short:
        _refuse_second(folder)
    if not force:
        refuse_registered(folder, settings)
    if is_cut_short:
        _complete(folder, settings, as_json)
        return
    if flat and offline_root:
        raise click.UsageError("--flat has one key, which signs devices: it cannot be offline")
    create_credentials(
        folder, (settings.host,), name=name, key_type=key_type or "p256", permit=permit,
        root_key_file=offline_root, is_flat=flat, lifetime=_server_lifetime(settings),
    )  # fmt: skip
    text = f"CA made in {folder / 'ca'}. Next: fleetnet -C {folder} device add NAME"
    if offline_root:
        text += f"\nThe root's key is in {offline_root} alone: take it away, and keep a copy."
    _print_done(folder, as_json, text)


@ca.command()
@json_option
@click.pass_obj
def show(folder: Path, as_json: bool) -> None:
    """Show the CAs that count, and what a rollover waits for."""
    settings = load_settings(folder)
    authority = Authority.load(folder)
    with open_store(settings.store_place(folder)) as store:
        waiting = rollover.lagging(folder, devices_with_marks(store), authority)
        total = len([one for one in store.devices() if one.state in ("enabled", "quarantined")])
    document = {
        "phase": rollover.phase(authority),
        "issuing": authority.generation,
        "server": authority.ledger.server,
        "marks": authority.marks,
        "devices": total,
        "devices_not_yet": waiting if len(authority.trusted) > 1 else [],
        "generations": [_facts(authority, one) for one in _all(authority)],
    }
    if as_json:
        print_json(document)
    else:
        _print(document)


@ca.command()
@_name_option
@_key_type_option
@_permit_option
@_offline_option
@click.option("--issuing", is_flag=True, help="Only a new issuing CA, under the same root.")
@_file_option("--root-key", "The root's key, for --issuing, where it is kept offline.")
@click.option("--switch-server", is_flag=True, help="Second step: the server shows the new CA.")
@click.option("--finish", is_flag=True, help="Last step: the old CA counts no more.")
@click.option("--force", is_flag=True, help="Even if it cuts devices off.")
@json_option
@click.pass_obj
def rotate(
    folder: Path, name: str, key_type: str | None, permit: tuple[str, ...],
    offline_root: Path | None, issuing: bool, root_key: Path | None,
    switch_server: bool, finish: bool, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Change the CA in three steps: begin, --switch-server, --finish.

    Between the steps the running server gives the devices their new anchors and certificates;
    a step that would cut devices off names them and is refused.
    """
    if switch_server + finish + issuing > 1:
        raise click.UsageError("one step at a time: --issuing, --switch-server or --finish")
    settings = load_settings(folder)
    lifetime = _server_lifetime(settings)
    with open_store(settings.store_place(folder)) as store:
        if (switch_server or finish) and not force:
            _refuse_lagging(folder, store)
        if switch_server:
            rollover.switch_server(folder, lifetime)
            step = "the server presents the new CA"
        elif finish:
            rollover.finish(folder)
            step = "the old CA is dropped"
        elif issuing:
            rollover.begin_issuing(
                folder, name=name, permit=permit, root_key_file=root_key, lifetime=lifetime
            )
            step = "a new issuing CA signs; the root is the same"
        else:
            rollover.begin(
                folder, name=name, key_type=key_type, permit=permit, root_key_file=offline_root
            )
            step = "a new CA signs devices; the server still presents the old one"
        authority = Authority.load(folder)
        _note(store, "ca-rotate", authority, step=step)
        authority.write_crls(folder, revoked_in(store))
    text = f"Done: {step}.\nNext: {_next_step(Authority.load(folder))}"
    _print_done(folder, as_json, text)


@ca.command("import")
@_file_option("--cert", "The CA that signs, DER or PEM.", required=True)
@_file_option("--key", "Its private key. Without it its devices are let in, nothing is signed.")
@_file_option("--root", "Who signed it: what devices trust. Not needed when it is a root.")
@_file_option("--crl", "A revocation list of it, DER or PEM.")
@json_option
@click.pass_obj
def import_command(
    folder: Path, cert: Path, key: Path | None, root: Path | None, crl: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Use a CA that exists: RSA or EC, DER or PEM.

    With its key it becomes the fleet's CA, at once or as the next one of a rollover. Without,
    the devices that it has signed may come in, if they are registered here.
    """
    settings = load_settings(folder)
    root_pair, pair = imported.imported_pairs(cert.read_bytes(), _content(key), _content(root))
    listed = _checked_crl(crl, (pair.certificate, root_pair.certificate)) if crl else None
    known = rollover.known_as(folder, root_pair, pair)
    if key is not None and has_authority(folder) and not parts_there(folder):
        raise FolderError(
            f"{folder} has a CA, and no key of the server's: `fleetnet ca init` goes on from there"
        )
    if known is not None:
        number, said = known, f"CA {known} is this one: nothing to do but for its list."
        if listed is not None:
            keep_crl(folder, number, listed)
    elif key is None:
        number = rollover.accept(folder, root_pair, pair, listed).ledger.accepted[-1]
        said = f"CA {number} is accepted: its devices come in once they are registered."
    elif not has_authority(folder):
        refuse_existing(folder)
        authority = rollover.begin_imported(folder, root_pair, pair, listed)
        create_pair(folder, authority, settings)
        number = authority.generation
        said = f"CA {number} signs this fleet."
    else:
        authority = rollover.begin_with(folder, root_pair, pair, crl=listed)
        number = authority.generation
        said = f"CA {number} signs devices from now on. Next: {_next_step(authority)}"
    with open_store(settings.store_place(folder)) as store:
        authority = Authority.load(folder)
        name = x509.load_der_x509_certificate(pair.certificate).subject.rfc4514_string()
        _note(store, "ca-import", authority, number=number, name=name, signs=key is not None)
        authority.write_crls(folder, revoked_in(store))
    _print_done(folder, as_json, said)


@ca.command()
@click.argument("number", type=int)
@json_option
@click.pass_obj
def forget(folder: Path, number: int, as_json: bool) -> None:
    """Let the devices of the imported CA NUMBER in no longer (see `ca show`)."""
    settings = load_settings(folder)
    kept = crl.kept_crl(folder, number)
    authority = Authority.load(folder)
    if number in authority.ledger.accepted or not kept.exists():
        authority = rollover.forget(folder, number)
    # A list of a CA that does not count would keep the server from starting: it goes as well
    # where an earlier `ca forget` was cut short before it.
    kept.unlink(missing_ok=True)
    with open_store(settings.store_place(folder)) as store:
        _note(store, "ca-forget", authority, number=number)
    _print_done(folder, as_json, f"CA {number} is not accepted any more.")


def revoked_in(store: Store) -> list[crl.Revoked]:
    """Return every revoked certificate of the store, for Authority.write_crls."""
    rows = store.read(
        "SELECT serial, revoked_ms, reason, generation FROM certificates "
        "WHERE revoked_ms IS NOT NULL"
    )
    return [crl.Revoked(int(serial, 16), at, why or "", of) for serial, at, why, of in rows]


def _print_done(folder: Path, as_json: bool, text: str) -> None:
    """Say which CAs count now, in the words of `ca show --json`."""
    authority = Authority.load(folder)
    document = {
        "phase": rollover.phase(authority),
        "issuing": authority.generation,
        "server": authority.ledger.server,
        "trusted": list(authority.trusted),
        "accepted": list(authority.ledger.accepted),
    }
    print_result(as_json, document, text)


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _complete(folder: Path, settings: Settings, as_json: bool) -> None:
    """Go on after a `ca init` or `ca import` that ended before the server's pair was made."""
    authority = Authority.load(folder)
    with open_store(settings.store_place(folder)) as store:
        authority.write_crls(folder, revoked_in(store))
    create_pair(folder, authority, settings)
    text = f"{folder / 'ca'} was there already, the server's pair is made now. "
    _print_done(folder, as_json, text + f"Next: fleetnet -C {folder} device add NAME")


def _refuse_second(folder: Path) -> None:
    if has_authority(folder):
        raise FolderError(
            f"{folder} has a CA already, which was left alone: `fleetnet ca rotate` replaces it"
        )


def _refuse_lagging(folder: Path, store: Store) -> None:
    waiting = rollover.lagging(folder, devices_with_marks(store), Authority.load(folder))
    if not waiting:
        return
    names = ", ".join(waiting[:_NAMED])
    more = f" and {len(waiting) - _NAMED} more" if len(waiting) > _NAMED else ""
    raise CredentialError(
        f"this would cut off {counted(len(waiting), 'device')} without the new CA: {names}{more}. "
        "Leave the server running until they have been online, or disable them; --force goes on"
    )


def _next_step(authority: Authority) -> str:
    return {
        rollover.SETTLED: "nothing; no rollover is under way",
        rollover.BEGUN: "`fleetnet ca rotate --switch-server` when `ca show` has 0 devices left",
        rollover.SWITCHED: "`fleetnet ca rotate --finish` when `ca show` has 0 devices left",
    }[rollover.phase(authority)]


def _server_lifetime(settings: Settings) -> timedelta:
    return timedelta(seconds=settings.server_lifetime_s)


def _checked_crl(path: Path, authorities: tuple[bytes, ...]) -> bytes:
    found = crl.read_crl(path)
    crl.check_signed_by(found, map(x509.load_der_x509_certificate, authorities), str(path))
    return path.read_bytes()


def _note(store: Store, action: str, authority: Authority, **detail: Any) -> None:
    """Who counts is as much a decision on devices as any: it belongs into the audit log."""
    ledger = authority.ledger
    counting = {"issuing": ledger.issuing, "trusted": ledger.trusted, "accepted": ledger.accepted}
    store.transact(
        lambda connection: add_audit(connection, actor(), action, None, {**detail, **counting})
    )


def _all(authority: Authority) -> list[Generation]:
    return [authority.generations[n] for n in (*authority.trusted, *authority.ledger.accepted)]


def _facts(authority: Authority, one: Generation) -> dict[str, Any]:
    place = authority.folder / "ca" / str(one.number)
    return {
        "number": one.number,
        "role": "accepted" if one.number in authority.ledger.accepted else "trusted",
        "flat": one.is_flat,
        "signs": bool(one.issuing.key),
        "root_key": "here" if (place / "root-key.der").exists() else "offline",
        "permitted": permitted(one.issuing.certificate),
        "root": _certificate_facts(one.root),
        "issuing": _certificate_facts(one.issuing.certificate),
    }


def _certificate_facts(der: bytes) -> dict[str, Any]:
    certificate = x509.load_der_x509_certificate(der)
    return {
        "name": certificate.subject.rfc4514_string(),
        "key_type": rollover.key_type_of(der),
        "not_after": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "days_left": (certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).days,
        "bytes": len(der),
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
    }


def _print(document: dict[str, Any]) -> None:
    steps = {
        rollover.SETTLED: "no rollover under way",
        rollover.BEGUN: "rollover begun: the server still presents the old CA",
        rollover.SWITCHED: "rollover: the server presents the new CA, the old one still counts",
    }
    click.echo(f"Phase: {steps[document['phase']]}.")
    if document["phase"] != rollover.SETTLED:
        waiting = document["devices_not_yet"]
        names = ": " + ", ".join(waiting[:_NAMED]) if waiting else ""
        every = counted(document["devices"], "device")
        click.echo(f"Not yet on the new CA: {len(waiting)} of {every}{names}")
    for one in document["generations"]:
        does = []
        if one["number"] == document["issuing"]:
            does.append("signs devices")
        if one["number"] == document["server"]:
            does.append("signs the server")
        what = ", ".join(does) or "its devices are let in"
        click.echo(f"\nCA {one['number']} ({one['role']}): {what}")
        for kind in ("root",) if one["flat"] else ("root", "issuing"):
            facts = one[kind]
            click.echo(
                f"  {kind}: {flat(facts['name'])}, {facts['key_type']}, until {facts['not_after']} "
                f"({facts['days_left']} days), {facts['bytes']} B"
            )
            click.echo(f"    SHA-256 {facts['sha256']}")
        if not one["flat"]:
            click.echo(f"  root's key: {one['root_key']}")
        permit = one["permitted"]
        hosts = "any host" if permit is None else flat(", ".join(permit))
        click.echo(f"  may sign for: {hosts}")
