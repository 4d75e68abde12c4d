"""What only the server's side knows of a device: its state, its certificates, its keys."""

import hmac
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fleetnet.errors import FleetError
from fleetnet_server.config import Settings
from fleetnet_server.doctor.credentials import Bundle
from fleetnet_server.doctor.findings import BAD, OK, WARN, Finding
from fleetnet_server.identity import psk as keys
from fleetnet_server.identity.registry import QUARANTINED, Device
from fleetnet_server.identity.secret import load_secret
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.ports import Store
from fleetnet_server.store.psks import PskTable
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.trouble import explained
from fleetnet_server.store_place import PostgresPlace

_NAMED = 10


@contextmanager
def opened(folder: Path, settings: Settings) -> Iterator[tuple[Store | None, Finding]]:
    """Open the store of a fleet; (None, what is wrong) when that cannot be done."""
    path = settings.store_place(folder)
    if not isinstance(path, Path):
        with _opened_database(path) as found:
            yield found
        return
    if not path.exists():
        text = f"there is no store {path}: no device is registered"
        yield None, Finding("store", BAD, text, "restore it from a backup; `fleetnet init` made it")
        return
    try:
        store = SqliteStore(path)
    except FleetError as error:
        yield None, Finding("store", BAD, *explained(error))
        return
    with store:
        yield store, _soundness(store, path)


@contextmanager
def _opened_database(place: PostgresPlace) -> Iterator[tuple[Store | None, Finding]]:
    """As ``opened``; what the finding does not say, database.examine does."""
    from fleetnet_server.doctor import database

    first = database.examine(place)[0]
    if first.level != OK:
        yield None, first
        return
    try:
        store = open_store(place)
    except FleetError as error:
        yield None, Finding("store", BAD, *explained(error))
        return
    with store:
        yield store, first


def has_no_device(folder: Path, settings: Settings) -> bool:
    """Whether it is sure that no device is registered."""
    with opened(folder, settings) as (store, _):
        return store is not None and not store.devices()


def _soundness(store: Store, path: Path) -> Finding:
    try:
        ((said,),) = store.read("PRAGMA quick_check(1)")
    except FleetError as error:
        said = str(error)
    if said != "ok":
        text = f"{path} is damaged: {said}"
        return Finding("store", BAD, text, "stop the server and restore the file from a backup")
    return Finding("store", OK, f"{path} is sound, {path.stat().st_size} B")


def overview(store: Store) -> list[Finding]:
    """Look at all devices: how many are in which state, whose certificates have ended."""
    devices = store.devices()
    counts = Counter(device.state for device in devices)
    text = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    found = [Finding("registry", OK, f"devices: {text or 'none yet'}")]
    now_ms = time.time_ns() // 1_000_000
    ended = [each.name for each in devices if each.is_enabled and _has_ended(store, each, now_ms)]
    if ended:
        more = f" and {len(ended) - _NAMED} more" if len(ended) > _NAMED else ""
        text = f"the certificate has ended of {', '.join(ended[:_NAMED])}{more}"
        remedy = "give each a new bundle: `fleetnet device add NAME --again`"
        found.append(Finding("registry", BAD, text, remedy))
    return found


def _has_ended(store: Store, device: Device, now_ms: int) -> bool:
    ends = [
        one.not_after_ms
        for one in store.registry.certificates(device.id)
        if one.revoked_ms is None
    ]
    return bool(ends) and max(ends) < now_ms


def of_device(store: Store, folder: Path, bundle: Bundle) -> list[Finding]:
    """Say whether the server would take the device of a bundle, and if not, why."""
    name = bundle.name
    device = store.lookup(name)
    if device is None:
        remedy = f"is it the right server? Then register it: `fleetnet device add {name}`"
        state = "was removed" if store.was_removed(name) else "is not registered here"
        return [Finding("registry", BAD, f"device {name!r} {state}", remedy)]
    found = []
    if not device.may_come:
        text = f"device {name!r} is {device.state}"
        found.append(Finding("registry", BAD, text, f"`fleetnet device enable {name}`"))
    elif device.state == QUARANTINED:
        text = f"device {name!r} is in quarantine: its messages go nowhere but to the store"
        found.append(Finding("registry", WARN, text, f"`fleetnet device enable {name}`"))
    if "psk" in bundle.config and not bundle.certificates:
        found += _of_psk(store, folder, device, bundle.config["psk"])
    elif bundle.certificates:
        found += _of_certificate(device, bundle)
    return found or [Finding("registry", OK, f"device {name!r} is {device.state}")]


def _of_certificate(device: Device, bundle: Bundle) -> list[Finding]:
    serial = bundle.certificates[0].serial_number
    if serial in device.revoked:
        text = f"the certificate of this bundle, serial {serial:x}, is revoked"
        remedy = f"give it a new bundle: `fleetnet device add {device.name} --again`"
        return [Finding("registry", BAD, text, remedy)]
    if serial not in device.valid:
        text = f"the certificate of this bundle, serial {serial:x}, was not made by this server"
        return [Finding("registry", WARN, text, "is it the right server, and the newest bundle?")]
    return []


def _of_psk(store: Store, folder: Path, device: Device, psk: Any) -> list[Finding]:
    """Tell an unknown identity from a wrong key: a client cannot, the server's side can."""
    try:
        identity, key = str(psk["identity"]), bytes.fromhex(psk["key"])
    except (KeyError, TypeError, ValueError):
        return []  # said of the bundle
    remedy = f"make a bundle with the key that counts: `fleetnet psk rotate {device.name} --bundle`"
    rows = {one.identity: one for one in PskTable(store).all()}
    row = rows.get(identity)
    if row is None:
        mine = [one.identity for one in rows.values() if one.device == device.name]
        text = f"the server does not know the PSK identity {identity!r}"
        if mine:
            text += f"; of {device.name!r} it knows {', '.join(mine)}"
        else:
            remedy = f"`fleetnet psk add {device.name} --bundle`"
        return [Finding("psk", BAD, text, remedy)]
    if row.device != device.name:
        text = f"PSK identity {identity!r} belongs to device {row.device!r}"
        return [Finding("psk", BAD, text, remedy)]
    try:
        right = keys.decrypt(load_secret(folder, create=False), identity, row.sealed)
    except FleetError as error:
        return [Finding("psk", BAD, str(error), "restore secret.key from a backup")]
    if not hmac.compare_digest(right, key):
        text = f"the key of PSK identity {identity!r} is wrong: the server has another"
        return [Finding("psk", BAD, text, remedy)]
    return [Finding("psk", OK, f"the server has the same key of {identity!r}")]
