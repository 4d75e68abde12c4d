"""`fleetnet` with a window: the product's server, which writes down what it holds.

    PROOF_STATS=FILE python tests/proof/watched_server.py -C FOLDER serve

Four times a second FILE gets figures() as JSON. PROOF_BREAK makes the server wrong on purpose,
see broken.py.
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from fleetnet.ports.openssl_dtls import DtlsAcceptor
from fleetnet_server.cli.main import main
from fleetnet_server.core.sessions import Sessions
from fleetnet_server.net.tls import TlsListener
from fleetnet_server.store.writer import Writer
from proof import broken  # noqa: F401 - breaks what the environment names

_LOOK_S = 0.25
_PAGE = os.sysconf("SC_PAGE_SIZE")
_made: dict[type, list[Any]] = {DtlsAcceptor: [], TlsListener: [], Sessions: [], Writer: []}


def _note_makings(kind: type) -> None:
    begin = kind.__init__  # type: ignore[misc]

    def init(self: Any, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        _made[kind].append(self)

    kind.__init__ = init  # type: ignore[misc]


def figures() -> dict[str, Any]:
    """What the server holds now."""
    acceptors, listeners = _made[DtlsAcceptor], _made[TlsListener]
    return {
        "half_open": sum(len(one.half_open) for one in acceptors),
        "associations": sum(len(one.associations) for one in acceptors),
        "tombstones": sum(len(one._tombstones) for one in acceptors),
        "junk": sum(one.junk for one in acceptors),
        "hellos": sum(one.hellos for one in acceptors),
        "tls_half_open": sum(one.half_open for one in listeners),
        "live": sum(len(one.live) for one in _made[Sessions]),
        "backlog": sum(one.backlog for one in _made[Writer]),
        "fds": len(os.listdir("/proc/self/fd")),
        "rss": int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE,
        "at": time.monotonic(),
    }


def _watch(path: Path) -> None:
    part = path.with_suffix(".part")
    while True:
        try:
            part.write_text(json.dumps(figures()))
            part.replace(path)
        except (OSError, RuntimeError):
            pass  # the folder is gone, or a table changed while it was counted
        time.sleep(_LOOK_S)


if __name__ == "__main__":
    for each in _made:
        _note_makings(each)
    threading.Thread(target=_watch, args=(Path(os.environ["PROOF_STATS"]),), daemon=True).start()
    main()
