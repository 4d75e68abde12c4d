"""deploy/compose/nginx.conf: TCP and UDP to nodes, run by a real nginx."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="its packages are in the extra `test`")

from fleetnet_server.config import Settings
from rules.manifests import BALANCER, NODES, PATIENCE_S, Balancer, compose
from rules.test_deploy import program

DEFAULTS = {key: field.default for key, field in Settings.model_fields.items()}


def seconds_of(text: str, protocol: str) -> int:
    """proxy_timeout of the server that listens for a protocol."""
    server = re.search(rf"server \{{\s+listen 7443 ?{protocol};.*?\n    \}}", text, re.S)
    assert server is not None
    found = re.search(r"proxy_timeout (\d+)s;", server[0])
    assert found is not None
    return int(found[1])


def test_flows_outlive_keepalives() -> None:
    text = BALANCER.read_text()
    assert seconds_of(text, "udp") > 3 * DEFAULTS["dtls_keepalive_s"]
    assert seconds_of(text, "so_keepalive=on") >= 3 * DEFAULTS["keepalive_s"]
    upstream = re.search(r"upstream dtls \{(.*?)\}", text, re.S)
    assert upstream is not None
    assert "hash $remote_addr:$remote_port consistent;" in upstream[1]
    # More than one process needs reuseport; an answer's end is no flow's end.
    assert "worker_processes 1;" in text and "proxy_responses" not in text


def test_every_node_is_behind_it() -> None:
    addresses = {compose()["services"][name]["networks"]["fleet"]["ipv4_address"] for name in NODES}
    for upstream in re.findall(r"upstream \w+ \{(.*?)\}", BALANCER.read_text(), re.S):
        assert set(re.findall(r"server ([\d.]+):7443 ", upstream)) == addresses


class Node:
    """A node for the balancer: answers each datagram and each connection with its number."""

    def __init__(self, number: int):
        self.said = str(number).encode()
        self.tcp, self.udp = self._bound()
        self.port = self.tcp.getsockname()[1]
        for work in (self._answer_datagrams, self._answer_connections):
            threading.Thread(target=work, daemon=True).start()

    @staticmethod
    def _bound() -> tuple[socket.socket, socket.socket]:
        """Sockets of one number, which another program may have had for datagrams."""
        for _try in range(20):
            tcp = socket.create_server(("127.0.0.1", 0))
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                tcp.close()
                udp.close()
            else:
                return tcp, udp
        raise AssertionError("no number is free for both")

    def _answer_datagrams(self) -> None:
        while True:
            try:
                _data, sender = self.udp.recvfrom(2048)
            except OSError:
                return
            if sender is None:  # it was shut down
                return
            with contextlib.suppress(OSError):  # it was closed meanwhile
                self.udp.sendto(self.said, sender)

    def _answer_connections(self) -> None:
        while True:
            try:
                connection, _sender = self.tcp.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):  # nobody waits for it any more
                connection.sendall(self.said)

    def close(self) -> None:
        for each in (self.udp, self.tcp):
            # A thread that waits in a call holds the socket: this wakes it.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    made = [Node(number) for number in (1, 2, 3)]
    yield made
    for one in made:
        one.close()


def ask(client: socket.socket) -> bytes:
    """Send a datagram until it is answered, as a DTLS handshake does.

    An empty datagram, which is what nginx sends when a node is gone, is no answer.
    """
    for _ in range(int(PATIENCE_S)):
        with contextlib.suppress(TimeoutError, ConnectionRefusedError):
            client.send(b"hello")
            answer = client.recv(64)
            if answer:
                return answer
    raise AssertionError("no node answers")


@contextlib.contextmanager
def flows(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Devices with a flow each."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            client.connect(("127.0.0.1", port))
            client.settimeout(1.0)
            found.append(client)
        yield found


def connect(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as link:
        return link.recv(64)


def test_nginx_understands_it(tmp_path: Path, nodes: list[Node]) -> None:
    balancer = Balancer(program("nginx"), tmp_path, [one.port for one in nodes])
    assert balancer.faults() == ""


def test_a_flow_stays_at_its_node(tmp_path: Path, nodes: list[Node]) -> None:
    with (
        Balancer(program("nginx"), tmp_path, [one.port for one in nodes]) as balancer,
        flows(balancer.port, 24) as clients,
    ):
        first = [ask(client) for client in clients]
        assert set(first) == {b"1", b"2", b"3"}
        for _ in range(5):
            assert [ask(client) for client in clients] == first


def test_a_node_that_is_gone_is_left_out(tmp_path: Path, nodes: list[Node]) -> None:
    with (
        Balancer(program("nginx"), tmp_path, [one.port for one in nodes]) as balancer,
        flows(balancer.port, 12) as clients,
    ):
        first = [ask(client) for client in clients]
        assert {connect(balancer.port) for _ in range(12)} == {b"1", b"2", b"3"}
        nodes[0].close()
        for client, said in zip(clients, first, strict=True):
            if said != b"1":
                assert ask(client) == said
        assert {connect(balancer.port) for _ in range(6)} <= {b"2", b"3"}
        with flows(balancer.port, 6) as newcomers:
            assert {ask(client) for client in newcomers} <= {b"2", b"3"}
