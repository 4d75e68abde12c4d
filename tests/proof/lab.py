"""What the rigs share: a fleet whose server can be watched and broken, and networks for it."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from bad_network import Address
from end_to_end.device_process import until
from end_to_end.fleet import Fleet
from proof.cluster_net import Networks, _run

ROOT = Path(__file__).resolve().parents[2]
WATCHED = Path(__file__).with_name("watched_server.py")
SERVER, CLIENT, INSIDE = "10.79.0.1", "10.79.0.2", "192.168.7.2"


class LabFleet(Fleet):
    """A fleet whose server is the product's, with a window (watched_server.py).

    Args:
        broken: names of broken.py. settings: of fleetnet.toml.
        prefix: of the server's command, for a namespace. host: where devices find it.
        more: of its environment.
    """

    def __init__(
        self, folder: Path, *, broken: str = "", prefix: Sequence[str] = (),
        host: str = "127.0.0.1", more: Mapping[str, str] | None = None, **settings: object,
    ):  # fmt: skip
        super().__init__(folder)
        self._prefix, self._host = list(prefix), host
        self._stats = folder.with_suffix(".stats")
        self._more = {
            "PROOF_STATS": str(self._stats), "PROOF_BREAK": broken, "FLEETNET_BIND": host,
            **(more or {}),
        }  # fmt: skip
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
        (folder / "fleetnet.toml").write_text("".join(lines))
        self.tls, self.dtls = (host, self.tls[1]), (host, self.dtls[1])

    def environment(self) -> dict[str, str]:
        kept = super().environment()
        path = os.pathsep.join((kept["PYTHONPATH"], str(ROOT / "tests")))
        return kept | {"PYTHONPATH": path} | self._more

    def command(self, *arguments: str) -> list[str]:
        program = WATCHED if arguments[:1] == ("serve",) else None
        if program is None:
            return super().command(*arguments)
        return [*self._prefix, sys.executable, str(program), *self.arguments(*arguments)]

    def add_devices(
        self, count: int, links: Sequence[str], via: Address | None = None
    ) -> list[Path]:
        """Register cam-0000 and so on, in turn over these links."""
        from fleetnet_server.store.sqlite import SqliteStore

        with SqliteStore(self.store) as store:
            return [
                self.make_bundle(store, f"cam-{n:04d}", links[n % len(links)], via)
                for n in range(count)
            ]

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def stats(self) -> dict[str, Any]:
        """What the server held a moment ago; {} before it said anything."""
        try:
            found: dict[str, Any] = json.loads(self._stats.read_text())
        except (OSError, ValueError):
            return {}
        return found

    async def fresh_stats(self) -> dict[str, Any]:
        """What it holds now."""
        since = time.monotonic()
        await until(lambda: self.stats().get("at", 0.0) > since, "the server tells its figures")
        return self.stats()


class TwoEnds(Networks):
    """A server's namespace and a client's, by one wire: s 10.79.0.1 - c 10.79.0.2.

    Everything that the server sends to strangers goes to the client's end as well, and ends
    there.
    """

    def __init__(self) -> None:
        super().__init__(0)

    def _make(self, *names: str) -> None:
        for name in names:
            _run("ip", "netns", "add", self._prefix + name)
            self._names.append(name)
            self._in(name, "ip", "link", "set", "lo", "up")

    def _build(self) -> None:
        self._make("s", "c")
        self._pair("s", "wire", "c", "wire")
        self._in("s", "ip", "addr", "add", f"{SERVER}/24", "dev", "wire")
        self._in("c", "ip", "addr", "add", f"{CLIENT}/24", "dev", "wire")
        self._in("s", "ip", "route", "add", "default", "via", CLIENT)
        self._in("s", "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
        self._in("s", "sysctl", "-qw", "net.ipv4.conf.wire.rp_filter=0")


class BehindNat(TwoEnds):
    """The same with a router that masquerades: s 10.79.0.1 - 10.79.0.2 r - 192.168.7.2 c."""

    def _build(self) -> None:
        self._make("s", "r", "c")
        self._pair("s", "wire", "r", "wire")
        self._pair("r", "inside", "c", "wire")
        self._in("s", "ip", "addr", "add", f"{SERVER}/24", "dev", "wire")
        self._in("r", "ip", "addr", "add", f"{CLIENT}/24", "dev", "wire")
        self._in("r", "ip", "addr", "add", "192.168.7.1/24", "dev", "inside")
        self._in("c", "ip", "addr", "add", f"{INSIDE}/24", "dev", "wire")
        self._in("c", "ip", "route", "add", "default", "via", "192.168.7.1")
        self._forward("r")
        self.masquerade(20_000)

    def masquerade(self, first: int) -> None:
        """Let flows that begin from now on leave from ports of ``first`` to ``first`` + 999."""
        self.rules(
            "r", "table ip home { chain out { type nat hook postrouting priority srcnat; } }\n"
            "flush chain ip home out\n"
            'add rule ip home out oifname "wire" meta l4proto udp '
            f"masquerade to :{first}-{first + 999}",
        )  # fmt: skip

    def rebind(self, first: int) -> None:
        """The router forgets its flows, as after a restart, and takes other ports.

        Masquerading forgets the flows of an interface that goes down (nf_nat_masquerade).
        """
        self.masquerade(first)
        self._in("r", "ip", "link", "set", "wire", "down")
        self._in("r", "ip", "link", "set", "wire", "up")


def run_main(main: Callable[[list[str]], Coroutine[Any, Any, int]]) -> int:
    """Run a rig's ``main``; SIGTERM cancels it, so that its servers and namespaces go as well."""

    async def run() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main(sys.argv[1:])

    return asyncio.run(run())


def rss_of(pid: int) -> int:
    """Return the resident set of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def answer(process: asyncio.subprocess.Process, timeout_s: float = 120.0) -> dict[str, Any]:
    """Return the next line of a program, which is JSON. Raises TimeoutError, ValueError."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), timeout_s)
    found: dict[str, Any] = json.loads(line)
    return found
