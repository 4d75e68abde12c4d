"""Networks for cluster.py: namespaces, two clients behind routers, and a balancer, by ip and nft.

    c1 192.168.1.2 - r1 (masquerades) 10.78.0.101 .
                                                   > front - 10.78.0.1 lb 10.77.0.1 - back - nodes
    c2 192.168.1.2 - r2 (masquerades) 10.78.0.102 '

Both clients' networks have the same addresses, as those of two homes do. The balancer is the
kernel's: packets of a new flow go to a node by the hash of their source, those of a known one
where the first went; sources stay what they were. Everything is in namespaces of its own, with a
prefix; ``close`` removes them, and with them all interfaces and rules.
"""

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PORT = 7443
ENTRANCE = "10.78.0.1"
DATABASE, BROKER = "10.77.0.21", "10.77.0.31"
CLIENTS = ("c1", "c2")

_CLONE_NEWNET = 0x40000000


def node_address(number: int) -> str:
    """The address of node ``number`` (1 and up)."""
    return f"10.77.0.{10 + number}"


class Networks:
    """All namespaces of one run.

    Args:
        nodes: how many servers there are.
    """

    def __init__(self, nodes: int):
        self._prefix = f"fnp{os.getpid()}-"
        self._names: list[str] = []
        self.nodes = [f"n{number + 1}" for number in range(nodes)]
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for name in ("sw", "lb", "db", "mq", *self.nodes, "r1", "r2", *CLIENTS):
            _run("ip", "netns", "add", self._prefix + name)
            self._names.append(name)
            self._in(name, "ip", "link", "set", "lo", "up")
        for bridge in ("front", "back"):
            self._in("sw", "ip", "link", "add", bridge, "type", "bridge")
            self._in("sw", "ip", "link", "set", bridge, "up")
        self._plug("lb", "front", f"{ENTRANCE}/24")
        self._plug("lb", "back", "10.77.0.1/24")
        self._forward("lb")
        self._plug("db", "back", f"{DATABASE}/24", "10.77.0.1")
        self._plug("mq", "back", f"{BROKER}/24", "10.77.0.1")
        for number, name in enumerate(self.nodes, 1):
            self._plug(name, "back", f"{node_address(number)}/24", "10.77.0.1")
        for router, client, outside in (("r1", "c1", 101), ("r2", "c2", 102)):
            self._plug(router, "front", f"10.78.0.{outside}/24")
            self._pair(router, "inside", client, "uplink")
            self._in(router, "ip", "addr", "add", "192.168.1.1/24", "dev", "inside")
            self._in(client, "ip", "addr", "add", "192.168.1.2/24", "dev", "uplink")
            self._in(client, "ip", "route", "add", "default", "via", "192.168.1.1")
            self._forward(router)
            self.rules(
                router, "table ip home { chain out { type nat hook postrouting priority srcnat; "
                'oifname "front" masquerade; } }',
            )  # fmt: skip

    def balance(self, well: list[str]) -> None:
        """Send new flows to these nodes; those that are known go where they went."""
        rules = []
        for kind in ("tcp", "udp") if well else ():
            targets = ", ".join(
                f"{place} : {node_address(self.nodes.index(name) + 1)}"
                for place, name in enumerate(well)
            )
            rules.append(
                f"add rule ip balance in ip daddr {ENTRANCE} {kind} dport {PORT} dnat to "
                f"jhash ip saddr . {kind} sport mod {len(well)} map {{ {targets} }}"
            )
        self.rules(
            "lb", "table ip balance { chain in { type nat hook prerouting priority dstnat; } }\n"
            + "\n".join(["flush chain ip balance in", *rules]),
        )  # fmt: skip

    def cut(self, name: str, address: str) -> None:
        """Let nothing pass between a namespace and an address, without a word to either."""
        self.rules(
            name, "table ip cut { chain out { type filter hook output priority 0; "
            f"ip daddr {address} drop; }} chain in {{ type filter hook input priority 0; "
            f"ip saddr {address} drop; }} }}",
        )  # fmt: skip

    def heal(self, name: str) -> None:
        """Let everything pass again."""
        self.rules(name, "delete table ip cut")

    def rules(self, name: str, text: str) -> None:
        """Load nftables rules in a namespace."""
        # Behind a chain nft wants the end of a line.
        text = text.replace("; }", ";\n}\n")
        subprocess.run([*self.prefix(name), "nft", "-f", "-"], input=text.encode(), check=True)

    def prefix(self, name: str) -> list[str]:
        """What makes a command run in a namespace."""
        return ["ip", "netns", "exec", self._prefix + name]

    def call(self, name: str, work: Callable[[], T]) -> T:
        """Call a function whose sockets are of a namespace; other threads stay where they are."""
        outcome: list[T] = []
        failed: list[BaseException] = []

        def enter() -> None:
            try:
                with open(f"/run/netns/{self._prefix}{name}") as file:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(file.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                outcome.append(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return outcome[0]

    def close(self) -> None:
        """Remove all of it."""
        for name in self._names:
            with contextlib.suppress(subprocess.CalledProcessError):
                _run("ip", "netns", "del", self._prefix + name)
        self._names = []

    # -- how ---------------------------------------------------------------------------

    def _in(self, name: str, *command: str) -> None:
        _run(*self.prefix(name), *command)

    def _forward(self, name: str) -> None:
        self._in(name, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def _pair(self, one: str, device: str, other: str, its_device: str) -> None:
        _run(
            "ip", "link", "add", device, "netns", self._prefix + one, "type", "veth",
            "peer", "name", its_device, "netns", self._prefix + other,
        )  # fmt: skip
        self._in(one, "ip", "link", "set", device, "up")
        self._in(other, "ip", "link", "set", its_device, "up")

    def _plug(self, name: str, bridge: str, address: str, gateway: str = "") -> None:
        """Connect a namespace to a bridge by an interface that is called like it."""
        port = f"{bridge[0]}-{name}"
        self._pair(name, bridge, "sw", port)
        self._in("sw", "ip", "link", "set", port, "master", bridge)
        self._in(name, "ip", "addr", "add", address, "dev", bridge)
        if gateway:
            self._in(name, "ip", "route", "add", "default", "via", gateway)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
