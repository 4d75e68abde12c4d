"""The rigs of the scoreboard: which program shows which rows, what it needs, and how long it takes.

A rig is a program of this folder with ``--json FILE`` and ``--quick`` (verdict.py). ``arguments``
are added to a whole run, ``quick`` to a quick one.
"""

import glob
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent


class Rig(NamedTuple):
    """One program.

    Attributes:
        program: its name without ``.py``. rows: what it shows, {row: the fault}.
        minutes: what a whole run takes on two cores; quick_s: a quick one. The limit is four
            times that and ten minutes: a machine with other work is slow, a rig that hangs is not.
        needs: names of NEEDS without which it cannot run.
        has_rows: it understands ``--rows``. in_quick: it can be scaled down. is_alone: it measures
            time, so nothing else may run beside it.
    """

    program: str
    rows: dict[str, str]
    minutes: float = 1.0
    quick_s: float = 20.0
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    has_rows: bool = False
    in_quick: bool = True
    is_alone: bool = False

    @property
    def path(self) -> Path:
        return HERE / f"{self.program}.py"


RIGS = (
    Rig("bad_datagrams", {
        "1": "DTLS, 30 % of the datagrams lost",
        "2": "20 % doubled, 30 % out of order, jitter",
        "3": "a bit turned over in 10 % of the datagrams",
    }, 4, 75, has_rows=True),
    Rig("by_tests", {
        "4": "kill -9 of the server under load",
        "13": "CA rotation A, A+B, B",
        "14": "server certificate changed",
        "18": "device clock 1970 and 2000, certificates past and future",
        "24": "MQTT broker down",
        "25": "PostgreSQL killed, all its processes",
    }, 12, 60, has_rows=True),
    Rig("power", {
        "4b": "power cut under load: writes that were not synced are lost, reordered, torn",
        "5": "store or log torn, cut short, a bit turned over",
    }, 3, 30, has_rows=True),
    Rig("resend", {"6": "acknowledgements lost, everything sent again 10 times"}, 2, 10),
    Rig("storm", {"7": "server restarts under its devices"}, 6, 60,
        quick=("--devices", "300"), in_quick=False),
    Rig("storm_model", {"7m": "the model of the restart against real ones"}, 4, in_quick=False),
    Rig("fuzzing", {"8": "a million damaged frames, and atheris"}, 66, 20),
    Rig("hello_flood", {
        "9": "100,000 ClientHellos without cookie, sources forged",
        "11": "datagrams of 0 to 24 B, and random ones",
    }, 2, 30, needs=("root", "ip"), has_rows=True, is_alone=True),
    Rig("abandoned", {"10": "DTLS handshakes left half done"}, 3, 20),
    Rig("identities", {
        "12": "a certificate revoked, with live sessions",
        "29": "two devices with one key",
    }, 1, 30, has_rows=True),
    Rig("rotation", {"13r": "certificates that live 20 s, under load"}, 7, in_quick=False),
    Rig("refusals", {"15": "wrong CA, none, wrong use, expired, a CA's own"}, 5, 150),
    Rig("disk", {"16": "disk full, and write errors"}, 1, 20, needs=("root",), has_rows=True),
    Rig("spool_power", {"17": "power cut at every byte of the spool"}, 3, 25),
    Rig("netns_faults", {
        "19": "TCP connections that die without a word",
        "21": "a NAT gives a live DTLS session another port",
    }, 3, 60, needs=("root", "ip", "nft"), has_rows=True),
    Rig("slow_clients", {
        "20": "1,000 connections that never finish what they began",
        "22": "frames that are too long, or say that they are 4 GiB",
    }, 3, 30, has_rows=True),
    Rig("slow_store", {"23": "a commit takes 500 ms"}, 3, 40),
    Rig("idle_sessions", {"26": "9,000 idle sessions over mutual TLS"}, 3, 25),
    Rig("soak", {"27": "devices come and go for an hour"}, 62, 30),
    Rig("fairness", {"28": "one device at a hundred times the others' rate"}, 1.5, 40,
        quick=("--seconds", "5"), is_alone=True),
    Rig("tls_grade", {"30": "what the ports offer, and answer to a hostile handshake"}, 8, 30),
    Rig("mutation", {"31": "the source itself made wrong, line by line"}, 25, in_quick=False),
    Rig("machines", {"machines": "session, outbox, rotation in any order"}, 5, in_quick=False),
    Rig("own_coverage", {"coverage": "lines that no test of the module runs"}, 10, in_quick=False),
    Rig("static_rules", {"static": "rules of our own over the source"}, 1, 20),
    Rig("day", {"day": "a day of 1,000 devices through every command"}, 6, in_quick=False),
    Rig("store_copy", {"copy": "`fleetnet store copy` killed on its way"}, 8,
        needs=("postgresql",), in_quick=False),
    Rig("cluster", {"cluster": "nodes killed, stopped and cut off"}, 6,
        needs=("root", "ip", "nft", "postgresql", "mosquitto"), in_quick=False),
)  # fmt: skip

# What is not shown here, whatever is installed: never a green row.
NOT_HERE = {
    "7": "10,000 devices: 5,000 and their server are what two cores and 20,000 open files bear",
    "9": "a machine of its own for the flood: sender and server share the cores",
    "24": "an outage of an hour by the clock: shown are the 3,600 readings of one, in seconds",
    "5": "an end of the log that is cut off, a body that is altered inside of a page: SQLite has no"
         " checksums for these; a file system or a PostgreSQL that has some, notices",
    "dm-flakey": "a disk that loses writes below the file system: this kernel has no such target,"
                 " rows 4b and 5 lose them between SQLite and the file",
    "netem": "delay and loss in the kernel's queue: this kernel has none, rows 1 to 3 have a"
             " proxy with seeded dice, rows 9, 19 and 21 nftables",
}  # fmt: skip


def _can_make_namespaces() -> bool:
    """Root in a container may still not be allowed to."""
    if os.geteuid() or not shutil.which("unshare"):
        return False
    command = ["unshare", "--net", "--mount", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "root": (_can_make_namespaces, "wants root, which may make network namespaces"),
    "ip": (lambda: bool(shutil.which("ip")), "wants ip (iproute2)"),
    "nft": (lambda: bool(shutil.which("nft")), "wants nft (nftables)"),
    "mosquitto": (lambda: bool(_found("mosquitto")), "wants mosquitto"),
    "postgresql": (lambda: bool(glob.glob("/usr/lib/postgresql/*/bin/postgres")),
                   "wants PostgreSQL"),
}  # fmt: skip


def _found(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def lacking(rig: Rig) -> str:
    """Return why a rig cannot run here, "" when it can."""
    if not rig.path.is_file():
        return f"no {rig.path.name}"
    return "; ".join(NEEDS[name][1] for name in rig.needs if not NEEDS[name][0]())
