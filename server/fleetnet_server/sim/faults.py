"""Faults by name: when each strikes a device, drawn from the device's seed, and what it does.

A fault acts on the device's wire (wire.py: the network between it and the server) or on the
device itself.
"""

import random
from typing import NamedTuple, Protocol

# One datagram in twenty: a WLAN at the edge of its range.
LOSS = 0.05

# How long a cut lasts, seconds.
_CUT_S = (1.0, 4.0)

# One event a minute and device, and one at least; none so late that nothing can follow it.
_EVERY_S = 60.0
_FIRST, _LAST = 0.15, 0.8


class Strike(NamedTuple):
    """One event: seconds since the device's start, the fault's name, how long it lasts."""

    at_s: float
    fault: str
    lasts_s: float = 0.0


class Wire(Protocol):
    """What faults do to a wire; see wire.py."""

    loss: float

    def cut(self, seconds: float) -> None: ...

    def move(self) -> None: ...


class Target(Protocol):
    """A device that faults strike."""

    @property
    def wire(self) -> Wire | None: ...

    def reboot(self, clock_lost: bool = False) -> None: ...


class Fault(Protocol):
    """One kind of fault. ``needs_wire``: the device must be behind a wire of its own."""

    needs_wire: bool

    def strikes(self, dice: random.Random, seconds: float) -> list[Strike]:
        """Return when it strikes a device that runs for ``seconds``."""

    def strike(self, target: Target, strike: Strike) -> None:
        """Let it happen."""


def _moments(dice: random.Random, seconds: float) -> list[float]:
    count = 1 + int(seconds / _EVERY_S)
    return sorted(seconds * dice.uniform(_FIRST, _LAST) for _ in range(count))


class Loss:
    """From the start 5 % of the datagrams are lost; of a TCP stream 5 % of the pieces wait 0.2 s,
    which is what the loss of a segment looks like from above (RFC 6298)."""

    needs_wire = True

    def strikes(self, dice: random.Random, seconds: float) -> list[Strike]:
        return [Strike(0.0, "loss")]

    def strike(self, target: Target, strike: Strike) -> None:
        assert target.wire is not None
        target.wire.loss = LOSS


class Cut:
    """TCP is reset, and nothing passes for 1 to 4 s."""

    needs_wire = True

    def strikes(self, dice: random.Random, seconds: float) -> list[Strike]:
        return [Strike(at_s, "cut", dice.uniform(*_CUT_S)) for at_s in _moments(dice, seconds)]

    def strike(self, target: Target, strike: Strike) -> None:
        assert target.wire is not None
        target.wire.cut(strike.lasts_s)


class Reboot:
    """The device starts anew, without a good-bye: what was in its RAM is gone."""

    needs_wire = False

    def strikes(self, dice: random.Random, seconds: float) -> list[Strike]:
        return [Strike(at_s, "reboot") for at_s in _moments(dice, seconds)]

    def strike(self, target: Target, strike: Strike) -> None:
        target.reboot()


class ClockLost:
    """A reboot after which the device does not know the date: it wakes in 1970."""

    needs_wire = False

    def strikes(self, dice: random.Random, seconds: float) -> list[Strike]:
        return [Strike(at_s, "clock-lost") for at_s in _moments(dice, seconds)]

    def strike(self, target: Target, strike: Strike) -> None:
        target.reboot(clock_lost=True)


class NatMove:
    """The router forgets the device: UDP goes on from another port, TCP is refused from then
    on, and the server is not told."""

    needs_wire = True

    def strikes(self, dice: random.Random, seconds: float) -> list[Strike]:
        return [Strike(at_s, "nat-move") for at_s in _moments(dice, seconds)]

    def strike(self, target: Target, strike: Strike) -> None:
        assert target.wire is not None
        target.wire.move()


FAULTS: dict[str, Fault] = {
    "loss": Loss(),
    "cut": Cut(),
    "reboot": Reboot(),
    "clock-lost": ClockLost(),
    "nat-move": NatMove(),
}
