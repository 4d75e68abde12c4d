"""Could the server start now, and be trusted? What `fleetnet check` asks before `serve` does.

Nothing is changed, and no secret is shown.
"""

import glob
import importlib.util
import os
import re
import resource
import shutil
import socket
import stat
import time
from pathlib import Path

from fleetnet_server.bridge.settings import load_mqtt
from fleetnet_server.config import Settings, load_settings
from fleetnet_server.doctor import fleet
from fleetnet_server.doctor.findings import BAD, OK, WARN, Finding
from fleetnet_server.errors import ConfigError
from fleetnet_server.identity.policy import FILE_NAME, load_policy
from fleetnet_server.redaction import shown
from fleetnet_server.served import find_server, why_no_port
from fleetnet_server.store.lifetimes import FILE_NAME as RETENTION
from fleetnet_server.store.lifetimes import Lifetimes, load_lifetimes
from fleetnet_server.wording import counted

_ROOM_BAD, _ROOM_WARN = 64 << 20, 1 << 30  # bytes free where the store is
_SPARE_FILES = 256  # of a process: libraries, store, logs, blobs
_WEB_NEEDS = ("fastapi", "prometheus_client", "uvicorn")  # the extra `web`
# How files are called until they are whole (identity/files.py), and how long that may take.
_LEFT, _UNDER_WAY_S = re.compile(r"\..+\.[0-9a-f]{8}(\.old)?"), 600
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def examine(folder: Path) -> list[Finding]:
    """Look at settings, policy, keys, permissions, store, dates, clock, ports, room and limits."""
    try:
        settings = load_settings(folder)
    except ConfigError as error:
        return [Finding("settings", BAD, str(error), "correct the file or the variable it names")]
    findings = [_of_settings(settings), _of_policy(folder), _of_retention(folder)]
    findings += [*_of_mqtt(folder), *_of_folder(folder), *_of_leftovers(folder)]
    findings += fleet.examine_folder(folder, settings)
    findings += _of_ports(folder, settings) + _of_web(settings)
    return [*findings, _of_room(folder, settings), _of_files(folder), *_of_user()]


def document_of(settings: Settings) -> dict[str, object]:
    """Return all settings in force, secrets replaced."""
    return {key: shown(key, value) for key, value in settings.model_dump().items()}


def _of_settings(settings: Settings) -> Finding:
    changed = [
        f"{key}={shown(key, getattr(settings, key))}"
        for key, field in type(settings).model_fields.items()
        if getattr(settings, key) != field.default
    ]
    text = f"{', '.join(changed) or 'nothing'} set, the rest as by default"
    return Finding("settings", OK, text)


def _of_mqtt(folder: Path) -> list[Finding]:
    """Look at mqtt.toml, where there is one; `fleetnet mqtt check` asks the broker."""
    try:
        found = load_mqtt(folder)
    except ConfigError as error:
        return [Finding("mqtt", BAD, str(error), "correct it: the server does not start")]
    if found is None:
        return []
    if importlib.util.find_spec("aiomqtt") is None:
        remedy = "pip install 'fleetnet[mqtt]'"
        return [Finding("mqtt", BAD, "mqtt.toml needs aiomqtt, which is not installed", remedy)]
    return [Finding("mqtt", OK, f"a bridge to {found.broker.host}:{found.broker.port}")]


def _of_policy(folder: Path) -> Finding:
    try:
        policy = load_policy(folder)
    except ConfigError as error:
        return Finding("policy", BAD, str(error), f"correct {FILE_NAME}: the server does not start")
    if not (folder / FILE_NAME).exists():
        return Finding("policy", OK, f"no {FILE_NAME}: any registered device may do anything")
    groups = counted(len(policy.groups), "group")
    return Finding("policy", OK, f"{groups}, unknown devices: {policy.unknown}")


def _of_retention(folder: Path) -> Finding:
    try:
        found = load_lifetimes(folder)
    except ConfigError as error:
        remedy = f"correct {RETENTION}: until then nothing is ended"
        return Finding("retention", BAD, str(error), remedy)
    if found == Lifetimes():
        return Finding("retention", OK, f"no {RETENTION}: everything is kept for ever")
    text = f"{counted(len(found.rules), 'rule')} for readings, {len(found.blob_rules)} for blobs"
    return Finding("retention", OK, text)


def _of_folder(folder: Path) -> list[Finding]:
    """Whoever may write into the folder may put a key or a policy there."""
    found = []
    for path in (folder, *(folder / name for name in ("ca", "server", "devices", "hubs", "blobs"))):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue
        is_said = path == folder and mode & stat.S_IWOTH  # check_folder says it
        if mode & _WRITABLE_BY_OTHERS and not is_said:
            text = f"{path} can be written by others (mode {mode:o})"
            found.append(Finding("folder", BAD, text, f"`chmod go-w {path}`"))
    if not os.access(folder, os.W_OK):
        text = f"{folder} cannot be written by this user"
        found.append(Finding("folder", BAD, text, "run as its owner, or `chown -R` it"))
    return found


def _of_leftovers(folder: Path) -> list[Finding]:
    """What a command that was killed was about to rename: keys may be in it."""
    folder = folder.absolute()
    places = (folder, *(folder / name for name in ("ca", "server", "devices", "hubs")))
    paths = [path for place in places for path in place.glob(".*")]
    paths += folder.parent.glob(f".{glob.escape(folder.name)}.*")
    found = sorted(path for path in paths if _LEFT.fullmatch(path.name) and _is_old(path))
    if not found:
        return []
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    text = f"a command that was killed left {found[0]}{more}; there may be keys in it"
    return [Finding("folder", WARN, text, f"`rm -r {' '.join(map(str, found))}`")]


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _UNDER_WAY_S
    except OSError:
        return False  # it got its name


# -- ports ---------------------------------------------------------------------------------


def _of_ports(folder: Path, settings: Settings) -> list[Finding]:
    server = find_server(folder)
    if server is not None:
        who = f" ({server})" if str(server) else ""
        text = f"a server{who} runs on this folder: `fleetnet doctor` looks at it"
        return [Finding("ports", OK, text)]
    wanted = [("tls_port", socket.SOCK_STREAM), ("dtls_port", socket.SOCK_DGRAM),
              ("enrol_port", socket.SOCK_STREAM)]  # fmt: skip
    found = []
    for key, kind in wanted:
        number = getattr(settings, key)
        if number:
            found.append(_of_port(settings.bind, key, number, kind))
    web_port = getattr(settings, "web_port", 0)
    if web_port:
        bind = str(getattr(settings, "web_bind", settings.bind))
        found.append(_of_port(bind, "web_port", web_port, socket.SOCK_STREAM))
    return found


def _of_web(settings: Settings) -> list[Finding]:
    """The dashboard and the API need packages that the server alone does without."""
    if not settings.web_port:
        return []
    absent = [name for name in _WEB_NEEDS if importlib.util.find_spec(name) is None]
    if not absent:
        return [Finding("web", OK, "what the dashboard and the API need is installed")]
    text = f"web_port is set, but not installed: {', '.join(absent)}"
    remedy = "`pip install 'fleetnet[web]'` (in a checkout '.[server,web]'), or web_port = 0"
    return [Finding("web", BAD, text, remedy)]


def _of_port(bind: str, key: str, number: int, kind: socket.SocketKind) -> Finding:
    name = "TCP" if kind == socket.SOCK_STREAM else "UDP"
    where = f"{name} port {number} of {bind}"
    try:
        family, _, _, _, address = socket.getaddrinfo(bind, number, type=kind)[0]
        with socket.socket(family, kind) as sock:
            if kind == socket.SOCK_STREAM:
                # As the server itself: connections that just ended are in nobody's way.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        return Finding("ports", BAD, *why_no_port(bind, key, number, error, name))
    return Finding("ports", OK, f"{where} is free")


# -- the machine ---------------------------------------------------------------------------


def _of_room(folder: Path, settings: Settings) -> Finding:
    try:
        store = settings.store_place(folder)
        where = store.parent if isinstance(store, Path) else folder  # blobs, where it has no file
        free = shutil.disk_usage(where).free
    except OSError as error:
        return Finding("disk", BAD, f"{error}", "mount it, or correct `store` in fleetnet.toml")
    what = "the store is" if isinstance(store, Path) else "the blobs are"
    text = f"{free >> 20} MiB free where {what}"
    if free < _ROOM_BAD:
        return Finding("disk", BAD, text, "make room: without it devices keep what they have")
    if free < _ROOM_WARN:
        return Finding("disk", WARN, text, "make room, or keep less")
    return Finding("disk", OK, text)


def _of_files(folder: Path) -> Finding:
    """Each TLS session is an open file; DTLS sessions share one."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        devices = sum(1 for path in (folder / "devices").iterdir() if path.name[:1] != ".")
    except OSError:
        devices = 0
    text = f"{soft} files may be open at once, for {counted(devices, 'device')}"
    if soft != resource.RLIM_INFINITY and soft < devices + _SPARE_FILES:
        remedy = f"`ulimit -n {2 * (devices + _SPARE_FILES)}`, or LimitNOFILE= of the service"
        return Finding("limits", WARN, text, remedy)
    return Finding("limits", OK, text)


def _of_user() -> list[Finding]:
    if os.geteuid():
        return []
    remedy = "run it as a user of its own: no port below 1024 is needed"
    return [Finding("user", WARN, "this is root: the server needs no privilege", remedy)]
