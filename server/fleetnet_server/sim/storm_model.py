"""The reconnect storm as a discrete-event simulation: a million devices in seconds, no sockets.

    outcome = run(Case(devices=1_000_000, nodes=50, lost=50, kind="outage", away_s=600))
    outcome.took_s, outcome.attempts_per_device

What decides is the real code: a device's pauses are of fleetnet_device.backoff.Backoff, a node's
turns of core.herd.Herd, with the time of the simulation for a clock. What is modelled: a node
has ``cores`` that make one handshake after the other, each for ``handshake_s``; a balancer deals
attempts out at random among the nodes that it believes to be well; a device gives up an attempt
after ``patience_s``. What is left out: loss, the limits by address, the readings that devices
bring with them, and the one core that the rig of a real storm has for its devices.

tests/server/sim/test_storm_model.py compares it with real storms, tests/proof/storm_model.py
runs them anew.
"""

import heapq
import math
import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from fleetnet_device.backoff import Backoff
from fleetnet_device.limits import MAX_PAUSE_MS
from fleetnet_server.core.herd import Herd
from fleetnet_server.errors import ConfigError
from fleetnet_server.sim.device import Impatience
from fleetnet_server.wording import counted

# restart: nodes end by SIGTERM, and say to each device when to come back. kill: they end without
# a word. power: not they, their devices start anew, all at once. outage: for long nobody reached
# them, and the devices have tried all the while.
KINDS = ("restart", "kill", "power", "outage")

# A longer outage is looked at from so long before its end, with pauses as long as they get:
# some four attempts later each device has pauses as one that has tried for a day.
_LOOK_BACK_S = 180.0

# Attempts are sorted by pages of the calendar, one at a time. No pause is as short as one: an
# attempt that is noted never belongs to the page that is open.
_PAGE_S = 0.25

# Handshakes under way at once at a node (`max_handshakes`).
_MAX_HANDSHAKES = 1000

# A link that was up for so long has paid back every pause (fleetnet_device/backoff.py).
_LASTED_MS = 60_000

# After a link over which nothing comes back: the pings of fleetnet/session_link.py.
_STREAM_PINGS_S, _DATAGRAM_PINGS_S = 5.0, 6.0

# When every session is taken (core/gate.py).
_FULL_RETRY_MS = 60_000


@dataclass(frozen=True)
class Case:
    """What happens to a fleet.

    Attributes:
        devices: all of them, online before, spread evenly over ``nodes``.
        lost: how many nodes it strikes. kind: one of KINDS.
        away_s: until these accept devices again; math.inf: never. With
            "power" they were never gone.
        sessions_per_s, max_sessions: the settings of each node.
        cores, handshake_s: of each node: for handshakes, and CPU seconds of one.
        detect_s: until the balancer sends nobody to a node that is gone, or to one that is back.
        is_silent: nothing answers in a lost node's place: its machine is gone, not only its
            process. Else a closed port says so.
        keepalive_s, datagram_keepalive_s, message_s: what a device does on a quiet link; it
            notices a silent end at the first of them.
        datagrams: share of devices over DTLS.
        boot_s: "power": all have started within so long.
        patience_s: of a device for connecting, for the handshake and for WELCOME.
        device_s: what a device and the way take for a handshake.
        is_patient: False: a fleet that tries again each half second, whatever it is told.
        seed: of all chance.
    """

    devices: int
    nodes: int = 1
    lost: int = 1
    kind: str = "restart"
    away_s: float = 2.0
    sessions_per_s: float = 200.0
    max_sessions: int = 20_000
    cores: int = 1
    handshake_s: float = 0.0016
    detect_s: float = 3.0
    is_silent: bool = False
    keepalive_s: float = 60.0
    datagram_keepalive_s: float = 25.0
    message_s: float = 10.0
    datagrams: float = 0.5
    boot_s: float = 1.0
    patience_s: float = 10.0
    device_s: float = 0.1
    is_patient: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be."""
        if self.kind not in KINDS:
            raise ConfigError(f"no storm is called {self.kind!r}: take one of {', '.join(KINDS)}")
        if not 1 <= self.lost <= self.nodes:
            raise ConfigError(f"{self.lost} of {self.nodes} nodes cannot be lost: take 1 to all")
        left = self.nodes if math.isfinite(self.away_s) else self.nodes - self.lost
        if left * self.max_sessions < self.devices:
            raise ConfigError(
                f"{counted(left, 'node')} of {self.max_sessions} sessions each: too few for "
                f"{self.devices} devices: more nodes, or a higher max_sessions"
            )


class Outcome(NamedTuple):
    """How the devices came back that the storm had struck.

    Attributes:
        hit, back: how many. took_s: until the last was back, from the moment when the lost nodes
            accepted again, or from the storm when they never do.
        p50_s, p99_s, max_s: from the storm to the session.
        attempts_per_device: until they were back, from that moment on for an outage.
        handshakes_per_device: of these, the ones that found a node: what a storm costs servers.
        held, refused: kept waiting for their turn, and sent away, by the nodes.
        given_up: attempts that ended because a node was too busy or gone.
        most_per_s: devices in the best second. busy: share of the handshake cores in use, in
            the mean of the return.
        back_at: second after the storm -> devices back in it.
    """

    hit: int
    back: int
    took_s: float
    p50_s: float
    p99_s: float
    max_s: float
    attempts_per_device: float
    handshakes_per_device: float
    held: int
    refused: int
    given_up: int
    most_per_s: int
    busy: float
    back_at: Counter[int]


class _Node:
    """One server: its cores, its turns, its sessions."""

    __slots__ = ("_free", "cost_s", "herd", "now", "room", "up_at", "used_s")

    def __init__(self, case: Case, up_at: float, sessions: int):
        self.now = up_at if math.isfinite(up_at) else 0.0
        self.up_at = up_at
        self.cost_s = case.handshake_s
        self.room = case.max_sessions - sessions
        self.used_s = 0.0
        self._free = [self.now] * case.cores
        self.herd = Herd(case.sessions_per_s, lambda: self.now)

    def handshake(self, at: float, patience_s: float) -> float:
        """Make a handshake of somebody who comes at ``at``; return when it is done.

        0: it is not begun, the listener has too many. inf: it would be done too late.
        """
        start = max(at, self._free[0])
        if (start - at) * len(self._free) / self.cost_s >= _MAX_HANDSHAKES:
            return 0.0
        done = start + self.cost_s
        if done - at > patience_s:
            return math.inf
        heapq.heapreplace(self._free, done)
        self.used_s += self.cost_s
        return done


class Model:
    """One run of a case. ``run`` may be called once."""

    def __init__(self, case: Case):
        self._case = case
        self._dice = random.Random(case.seed)  # noqa: S311 (repeatable, no secret)
        away_s = -math.inf if case.kind == "power" else case.away_s
        up_at = [away_s] * case.lost + [-math.inf] * (case.nodes - case.lost)
        each = case.devices // case.nodes
        self._nodes = [_Node(case, up, 0 if i < case.lost else each) for i, up in enumerate(up_at)]
        self._hit = case.devices * case.lost // case.nodes
        # Whom the balancer believes in: before it looked, after that, and when they are back.
        # Where there is but one machine there is no balancer whose belief would matter.
        well = self._nodes[case.lost :]
        self._views = (
            (case.detect_s, self._nodes),
            (case.away_s + (case.detect_s if well else 0.0), well or self._nodes),
            (math.inf, self._nodes),
        )
        # One object stands for all devices' backoffs, each with the pause that it had last.
        kind = Backoff if case.is_patient else Impatience
        self._backoff = kind(self._dice.randbytes)
        self._last_ms = array("l", [self._backoff._last_ms]) * self._hit
        self._is_datagram = bytearray(
            int((i + 1) * case.datagrams) > int(i * case.datagrams) for i in range(self._hit)
        )
        self._calendar: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        self._back = array("d")
        self._attempts = 0
        self._given_up = self._unheard = 0

    def run(self) -> Outcome:
        """Let the storm come, and everybody return."""
        for at, device in self._first_attempts():
            self._note(at, device)
        attempt, page = self._attempt, 0
        while self._calendar:
            for at, device in sorted(self._calendar.pop(page, ())):
                attempt(at, device)
            page = page + 1 if page + 1 in self._calendar else min(self._calendar, default=0)
        return self._outcome()

    def _note(self, at: float, device: int) -> None:
        """Note an attempt. A heap of a million of them would be most of the work."""
        self._calendar[int(at / _PAGE_S)].append((at, device))

    # -- how it begins ---------------------------------------------------------------

    def _first_attempts(self) -> Iterator[tuple[float, int]]:
        """Yield (when, device): the first attempts that anybody may notice."""
        if self._case.kind == "restart":
            herd = Herd(self._case.sessions_per_s, lambda: 0.0)
            per_node = -(-self._hit // self._case.lost)
            for first in range(0, self._hit, per_node):
                # It shuffles by a chance of its own: here the numbers mean nothing.
                leaving = range(first, min(first + per_node, self._hit))
                for device, retry_after_ms in herd.spread(leaving):
                    yield self._pause(device, _LASTED_MS, retry_after_ms), device
        elif self._case.kind == "kill":
            for device in range(self._hit):
                noticed = self._notice_s(device)
                yield noticed + self._pause(device, _LASTED_MS), device
        elif self._case.kind == "power":
            for device in range(self._hit):
                yield self._dice.random() * self._case.boot_s, device
        else:
            if self._case.away_s > _LOOK_BACK_S:
                self._last_ms = array("l", [MAX_PAUSE_MS]) * self._hit
            for device in range(self._hit):
                yield self._tried_in_vain(device), device

    def _notice_s(self, device: int) -> float:
        """Return when a device finds that its link is dead."""
        case = self._case
        is_datagram = self._is_datagram[device]
        keepalive_s = case.datagram_keepalive_s if is_datagram else case.keepalive_s
        until_sent_s = self._dice.random() * min(keepalive_s, case.message_s)
        if case.is_silent:
            return until_sent_s + (_DATAGRAM_PINGS_S if is_datagram else _STREAM_PINGS_S)
        # A stream is reset at once; a datagram's answer is that the port is closed.
        return until_sent_s if is_datagram else 0.0

    def _tried_in_vain(self, device: int) -> float:
        """Return the first attempt after the return: what was before touched nobody."""
        case = self._case
        fails_s = case.patience_s if case.is_silent else 0.0
        before_s = case.away_s - _LOOK_BACK_S
        if before_s > 0:
            now = before_s + self._dice.random() * MAX_PAUSE_MS / 1000
        else:
            now = self._dice.random() * case.message_s + self._pause(device, _LASTED_MS)
        while now < case.away_s:
            now += fails_s + self._pause(device, 0)
        return now

    def _pause(self, device: int, lasted_ms: int, retry_after_ms: int = 0) -> float:
        """Return the seconds that the device's own backoff gives."""
        backoff = self._backoff
        backoff._last_ms = self._last_ms[device]
        pause_ms = backoff.after(lasted_ms, retry_after_ms, retry_after_ms > 0)
        self._last_ms[device] = backoff._last_ms
        return pause_ms / 1000

    # -- an attempt ----------------------------------------------------------------------

    def _attempt(self, at: float, device: int) -> None:
        """Let a device knock somewhere; it enters, or knocks again later."""
        case = self._case
        self._attempts += 1
        nodes = next(nodes for until, nodes in self._views if at < until)
        node = nodes[int(self._dice.random() * len(nodes))]
        if at < node.up_at:
            self._unheard += 1
            self._fail(at + (case.patience_s if case.is_silent else case.device_s), device)
            return
        done = node.handshake(at, case.patience_s)
        if not done or done == math.inf:
            # A full listener closes a stream; of a datagram it says nothing.
            is_told = not done and not self._is_datagram[device]
            self._fail(at + (case.device_s if is_told else case.patience_s), device)
            return
        # Clocks do not go back, whichever core was first.
        node.now = max(node.now, done + case.device_s)
        if not node.room:
            retry_after_ms = _FULL_RETRY_MS
        else:
            place = node.herd.place(device, bool(self._is_datagram[device]))
            if place.is_held or not place.wait_s:
                node.room -= 1
                self._back.append(node.now + place.wait_s)
                return
            retry_after_ms = place.retry_after_ms
        pause_s = self._pause(device, 0, retry_after_ms)
        self._note(node.now + pause_s, device)

    def _fail(self, at: float, device: int) -> None:
        self._given_up += 1
        self._note(at + self._pause(device, 0), device)

    # -- what came of it -------------------------------------------------------------

    def _outcome(self) -> Outcome:
        case = self._case
        back = sorted(self._back)
        count = len(back)
        is_back = math.isfinite(case.away_s) and case.kind != "power"
        returned_s = case.away_s if is_back else 0.0
        last_s = back[-1] if back else 0.0
        by_second = Counter(int(at) for at in back)
        herds = [node.herd for node in self._nodes]
        used_s = sum(node.used_s for node in self._nodes)
        serving = case.nodes if math.isfinite(case.away_s) else case.nodes - case.lost
        span_s = max(1.0, last_s - (back[0] if back else 0.0))
        return Outcome(
            hit=self._hit,
            back=count,
            took_s=max(0.0, last_s - returned_s),
            p50_s=_share(back, 0.50),
            p99_s=_share(back, 0.99),
            max_s=last_s,
            attempts_per_device=self._attempts / max(1, self._hit),
            handshakes_per_device=(self._attempts - self._unheard) / max(1, self._hit),
            held=sum(herd.held for herd in herds),
            refused=sum(herd.refused for herd in herds),
            given_up=self._given_up,
            most_per_s=max(by_second.values(), default=0),
            busy=used_s / (span_s * serving * case.cores),
            back_at=by_second,
        )


def run(case: Case) -> Outcome:
    """Run a case. Raises ConfigError: it cannot be."""
    return Model(case).run()


def _share(ordered: list[float], share: float) -> float:
    """Return the value below which ``share`` of them are (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
