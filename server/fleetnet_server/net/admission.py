"""Who may begin a handshake: decided by address, before anything is allocated for it.

Two questions at each door. Does the address come too often (``Admission``, a token bucket
for each, shared by the doors)? And is there a place (``Door``, handshakes under way at one
listener)? While the places are taken, an address with few handshakes gets one of the address
that has the most: silence from one corner does not hold the door for the others.

An address is one of IPv4, or 64 bits of one of IPv6, which one household or one attacker has
2**64 of (RFC 6177).
"""

import ipaddress
import time
from collections.abc import Callable, Hashable

from fleetnet_server.core.rates import RateTable

# An address that is turned away is named in the log and the audit once in so long a time.
_TOLD_EVERY_S = 60.0
_MAX_TOLD = 1024

# Called with the address (or IPv6 /64) that comes too often.
Limited = Callable[[str], None]


def network_of(host: str) -> str:
    """Return what is counted as one: the IPv4 address, or the /64 of an IPv6 address.

    IPv4 in IPv6 (RFC 4291 section 2.5.5.2) counts as IPv4. A host that is no address stands
    for itself.
    """
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(address) >> 64 << 64)}/64"


class Admission:
    """A token bucket of handshakes for each address, one for all listeners that share it.

    Args:
        rate, burst: handshakes of one address, a second and at once.
        limited: hears of an address that comes too often, once a minute.

    Attributes:
        table: the buckets; table.refused counts handshakes that were not begun.
    """

    def __init__(
        self,
        rate: float,
        burst: float,
        limited: Limited = lambda network: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.table = RateTable(rate, burst, clock=clock)
        self._limited = limited
        self._told = RateTable(1.0 / _TOLD_EVERY_S, 1, _MAX_TOLD, clock)

    def take(self, network: str) -> bool:
        """Count one handshake of an address; False: it has to wait."""
        if self.table.take(network):
            return True
        if self._told.take(network):
            self._limited(network)
        return False


class Door:
    """The places of one listener for handshakes under way.

    Args:
        most: places. admission: None lets every address come as often as it likes.

    Attributes:
        limited: handshakes not begun because their address comes too often.
        overloaded: because every place was taken, and the address had its share.
        displaced: ended, so that an address with fewer got the place.
    """

    def __init__(self, most: int, admission: Admission | None = None):
        self.most = most
        self.admission = admission
        self.limited = 0
        self.overloaded = 0
        self.displaced = 0
        self._network: dict[Hashable, str] = {}
        # Of each address: token -> how to end it, the oldest first.
        self._held: dict[str, dict[Hashable, Callable[[], None]]] = {}
        # How many places -> addresses that have so many: the greediest is found at once.
        self._by_count: dict[int, dict[str, None]] = {}
        self._top = 0

    def __len__(self) -> int:
        return len(self._network)

    def enter(self, token: Hashable, host: str, displace: Callable[[], None]) -> bool:
        """Take a place for a handshake, which ``leave`` gives back.

        Args:
            token: names it; one that has a place keeps it, and is only counted.
            displace: ends the handshake when its place goes to another address; it has
                been given back by then.
        """
        network = network_of(host)
        if self.admission is not None and not self.admission.take(network):
            self.limited += 1
            return False
        if token in self._network:
            return True
        if len(self._network) >= self.most and not self._make_room(network):
            self.overloaded += 1
            return False
        held = self._held.setdefault(network, {})
        held[token] = displace
        self._network[token] = network
        self._count(network, len(held) - 1, len(held))
        return True

    def leave(self, token: Hashable) -> None:
        """Give a place back; harmless when there is none."""
        network = self._network.pop(token, None)
        if network is None:
            return
        held = self._held[network]
        del held[token]
        if not held:
            del self._held[network]
        self._count(network, len(held) + 1, len(held))

    def _count(self, network: str, old: int, new: int) -> None:
        if old:
            group = self._by_count[old]
            del group[network]
            if not group:
                del self._by_count[old]
        if new:
            self._by_count.setdefault(new, {})[network] = None
            self._top = max(self._top, new)
        while self._top and self._top not in self._by_count:
            self._top -= 1

    def _make_room(self, network: str) -> bool:
        """End the oldest handshake of the greediest address, if that is not this one."""
        if len(self._held.get(network, ())) + 1 >= self._top:
            return False
        greediest = next(iter(self._by_count[self._top]))
        token, displace = next(iter(self._held[greediest].items()))
        self.leave(token)
        self.displaced += 1
        displace()
        return True
