"""P2's peers: what others' DTLS servers do with the same datagrams, and what no server can beat."""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fleets import bundles
from handshakes import coap_command, coap_server
from mqtt_peer import free_port, to_pem_files, wait_for_datagram_port
from processes import cores, cpu_seconds, program, running


class Peer(NamedTuple):
    """A server that is not ours.

    Attributes:
        readings: of a datagram. sessions: it has so many at a time. less: what it does less.
    """

    name: str
    what: str
    package: str
    readings: int
    sessions: int
    less: str


PEERS = (
    Peer("echo", "GnuTLS's gnutls-serv --udp --echo", "gnutls-bin", 10, 1,
         "one session, sends back what came; nothing is checked, nothing kept"),
    # Its largest message is a little smaller than ours: nine readings.
    Peer("coap", "libcoap's server, PUT, 9 a datagram", "libcoap3-bin", 9, 50,
         "keeps the newest body in memory; nothing is checked"),
)  # fmt: skip


def is_there(peer: Peer) -> bool:
    """Say whether a peer is installed."""
    return (shutil.which("gnutls-serv") if peer.name == "echo" else coap_server()) is not None


def measure(fleet: Path, peer: Peer, seconds: float) -> float:
    """Return readings a second of the peer's CPU.

    Raises:
        RuntimeError: a tenth of the datagrams was not answered.
    """
    is_echo = peer.name == "echo"
    with tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name:
        to_pem_files(fleet, Path(name))
        number = free_port(socket.SOCK_DGRAM)
        command = gnutls_command(name, number) if is_echo else coap_command(name, number)
        # libcoap listens for DTLS one above.
        secure = number if is_echo else number + 1
        with running(command, cores()[0], errors=subprocess.DEVNULL, output=False) as server:
            wait_for_datagram_port(secure)
            return _load(server.pid, peer, secure, seconds, bundles(fleet, peer.sessions))


def gnutls_command(folder: str, number: int) -> list[str]:
    """Return the command of an echo server that wants a client certificate."""
    return [
        "gnutls-serv", "--udp", "--echo", "--quiet", "--mtu", "1400", "--port", str(number),
        "--require-client-cert", "--verify-client-cert", "--x509cafile", f"{folder}/ca.pem",
        "--x509certfile", f"{folder}/cert.pem", "--x509keyfile", f"{folder}/key.pem",
    ]  # fmt: skip


def _load(pid: int, peer: Peer, number: int, seconds: float, used: Sequence[str]) -> float:
    arguments = (peer.name, str(number), str(peer.readings), str(seconds), *used)
    with running(program("dtls_load.py", *arguments), cores()[1]) as load:
        load.answer(30)
        before = cpu_seconds(pid)
        load.say("go")
        sums = load.answer(seconds + 30)
        cpu_s = cpu_seconds(pid) - before
    if sums["lost"] * 10 > sums["sent"]:
        raise RuntimeError(f"{peer.what}: {sums['lost']} of {sums['sent']} had no answer")
    answered: int = sums["answered"]
    return answered * peer.readings / cpu_s
