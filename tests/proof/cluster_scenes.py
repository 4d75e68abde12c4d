"""What is done to the world of cluster.py, and what came of it."""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from proof.cluster_net import BROKER, DATABASE
from proof.cluster_rig import BACK_S, Count, Rig
from proof.cluster_world import Node, until

# A revocation is known everywhere so soon; so is that a node lost its database (store_patience_s
# and a balancer that asks twice).
REVOKED_S = 5.0

_CALLS = 100
_AT_ONCE = 4
_CALL_S = 10.0

# A broker that says nothing is missed after 15 s, with a keepalive of 10; then its bridge may be
# away for 10 s before another node's takes over; the rest is for a busy machine.
_BROKER_S = 60.0


class Blow(NamedTuple):
    """Something struck the fleet at ``at`` (unix s); ``hit``: whom it had to strike."""

    at: float
    hit: set[str]


@dataclass
class Result:
    """A scene's outcome.

    Attributes:
        sent, acknowledged, stored: readings of this scene; lost: sent and not stored; twice.
        hit: devices whose session ended, seconds until they were back: back_s (p50, p99, most).
    """

    scene: str
    seconds: float = 0.0
    sent: int = 0
    acknowledged: int = 0
    stored: int = 0
    lost: int = 0
    twice: int = 0
    hit: int = 0
    back_s: tuple[float, float, float] = (0.0, 0.0, 0.0)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Scene(NamedTuple):
    """A scene. ``suits``: it can be had with what the rig has."""

    name: str
    work: Callable[[Rig, Result], Awaitable[None]]
    suits: Callable[[Rig], bool] = lambda rig: True

    async def play(self, rig: Rig) -> Result:
        """Play it; count before and after."""
        result = Result(self.name)
        before = await rig.settle()
        began = time.time()
        rig.say("go")
        await self.work(rig, result)
        await until("all are online", rig.is_all_online, BACK_S)
        after = await rig.settle()
        result.seconds = time.time() - began
        _count(result, before, after)
        _note_returns(rig, result, began)
        return result


def _count(result: Result, before: Count, after: Count) -> None:
    result.sent = after.sent - before.sent
    result.acknowledged = after.acknowledged - before.acknowledged
    result.stored = after.stored - before.stored
    distinct = after.distinct - before.distinct
    result.lost, result.twice = result.sent - distinct, result.stored - distinct
    if result.lost or result.twice or result.sent != result.acknowledged:
        result.faults.append(
            f"{result.scene}: {result.sent} sent, {result.acknowledged} acknowledged, "
            f"{result.lost} lost, {result.twice} twice"
        )
    if not result.sent:
        result.faults.append(f"{result.scene}: nothing was sent")


def _note_returns(rig: Rig, result: Result, began: float) -> None:
    """From the end of each session to the device's next one."""
    away: dict[str, float] = {}
    times = []
    for at, name, is_up, _why in rig.events(began):
        if not is_up:
            away.setdefault(name, at)
        elif name in away:
            times.append(at - away.pop(name))
    result.hit = len(times)
    result.back_s = shares(times)


def shares(times: list[float]) -> tuple[float, float, float]:
    """Return (p50, p99, max), by nearest rank."""
    ordered = sorted(times) or [0.0]

    def share(part: float) -> float:
        return ordered[max(0, math.ceil(part * len(ordered)) - 1)]

    return share(0.5), share(0.99), ordered[-1]


# -- the scenes --------------------------------------------------------------------------


async def steady(rig: Rig, result: Result) -> None:
    """Nothing happens."""
    await asyncio.sleep(rig.seconds)
    latency = [client.sums["latency"] for client in rig.clients]
    worst = max(one["p99"] for one in latency)
    result.notes.append(f"acknowledged after p50 {latency[0]['p50']:.0f} ms, p99 {worst:.0f} ms")
    spread = ", ".join(f"{node.name} {len(rig.on_node(node))}" for node in rig.nodes)
    result.notes.append(f"devices: {spread}")


async def commands(rig: Rig, result: Result) -> None:
    """Any node is asked to call any device."""
    dice = random.Random(1)
    gate = asyncio.Semaphore(_AT_ONCE)
    times: list[float] = []
    failed: list[str] = []

    async def call(node: Node, device: str, value: int) -> None:
        async with gate:
            began = time.monotonic()
            body = {"name": "echo", "args": [value], "wait_s": _CALL_S}
            path = f"/api/v1/devices/{device}/call"
            found = await asyncio.to_thread(node.ask, path, rig.token, body, _CALL_S + 5)
            times.append(time.monotonic() - began)
            if found is None or found.get("result") != value:
                failed.append(f"{device} by {node.name}: {found}")

    await asyncio.gather(*(
        call(dice.choice(rig.nodes), f"sim-{dice.randrange(rig.devices) + 1:05d}", value)
        for value in range(_CALLS)
    ))  # fmt: skip
    p50, p99, most = (1000 * one for one in shares(times))
    result.notes.append(
        f"{_CALLS} commands through any node: p50 {p50:.0f} ms, p99 {p99:.0f}, at most {most:.0f}; "
        f"{len(failed)} failed"
    )
    if failed:
        result.faults.append(f"commands: {failed[0]}")


async def kill(rig: Rig, result: Result) -> None:
    """kill -9; where there are others the node stays away until its devices are there."""
    victim = rig.nodes[0]
    await asyncio.sleep(rig.seconds / 3)
    blow = Blow(time.time(), rig.on_node(victim))
    victim.kill()
    if len(rig.nodes) == 1:
        victim.start()
    await _back_elsewhere(rig, result, blow, victim)
    if not victim.runs:
        victim.start()
    await until("the killed node is ready again", lambda: victim.answers)


async def freeze(rig: Rig, result: Result) -> None:
    """A node stands still until its devices are elsewhere, and goes on with what it had."""
    victim = rig.nodes[1]
    await asyncio.sleep(rig.seconds / 3)
    blow = Blow(time.time(), rig.on_node(victim))
    victim.freeze(True)
    try:
        await _back_elsewhere(rig, result, blow, victim)
    finally:
        victim.freeze(False)
    await until("the frozen node is ready again", lambda: victim.answers)
    await asyncio.sleep(rig.seconds / 3)


async def cut_database(rig: Rig, result: Result) -> None:
    """A node and its database lose each other: neither hears that the other is away."""
    victim = rig.nodes[-1]
    await asyncio.sleep(rig.seconds / 3)
    blow = Blow(time.time(), rig.on_node(victim))
    rig.networks.cut(victim.name, DATABASE)
    try:
        await _back_elsewhere(rig, result, blow, victim)
        noticed = next(
            (at for at, name, is_well in rig.balancer.history
             if at > blow.at and name == victim.name and not is_well), None,
        )  # fmt: skip
        if noticed is None:
            result.faults.append("cut from the database: /readyz went on saying that all is well")
        else:
            result.notes.append(f"the balancer knew {noticed - blow.at:.1f} s after the cut")
    finally:
        rig.networks.heal(victim.name)
    healed = time.time()
    await until("the node is ready again", lambda: victim.is_well)
    result.notes.append(f"ready again {time.time() - healed:.1f} s after the way was open")


async def _back_elsewhere(rig: Rig, result: Result, blow: Blow, victim: Node) -> None:
    """Wait until everybody whom a blow hit has a new session; note when they had it."""
    back: dict[str, float] = {}

    def is_over() -> bool:
        for at, name, is_up, _why in rig.events(blow.at):
            if is_up and name in blow.hit:
                back.setdefault(name, at - blow.at)
        return blow.hit <= back.keys()

    await until(f"the devices of {victim.name} are back", is_over, BACK_S)
    p50, p99, most = shares(list(back.values()))
    result.notes.append(
        f"{len(blow.hit)} devices of {victim.name}: back p50 {p50:.1f} s, p99 {p99:.1f}, "
        f"at most {most:.1f} after the blow"
    )
    if len(rig.nodes) > 1 and rig.on_node(victim):
        result.faults.append(f"{result.scene}: devices are still said to be on {victim.name}")


async def cut_broker(rig: Rig, result: Result) -> None:
    """The node that feeds the broker loses it; another one goes on, or it does later."""
    victim = rig.bridge_leader()
    await asyncio.sleep(rig.seconds / 3)
    seen, cut = rig.broker.readings, time.time()
    rig.networks.cut(victim.name, BROKER)
    try:
        if len(rig.nodes) > 1:
            await asyncio.sleep(2.0)  # what was under way has arrived
            seen = rig.broker.readings
            await until(
                "another node feeds the broker", lambda: rig.broker.readings > seen, _BROKER_S
            )
            took_s = time.time() - cut
            result.notes.append(
                f"{victim.name} was cut off; the broker was fed again {took_s:.1f} s later"
            )
        else:
            await asyncio.sleep(rig.seconds / 2)
    finally:
        rig.networks.heal(victim.name)
    if len(rig.nodes) == 1:
        healed, seen = time.time(), rig.broker.readings
        await until("the broker is fed", lambda: rig.broker.readings > seen, _BROKER_S)
        took_s = time.time() - healed
        result.notes.append(f"the broker was fed {took_s:.1f} s after the way was open")


async def rolling(rig: Rig, result: Result) -> None:
    """Each node in its turn says good-bye to its devices, ends, and comes back."""
    for node in rig.nodes:
        took_s = await node.terminate()
        node.start()
        waited_s = await until(f"{node.name} is ready", lambda node=node: node.answers)
        await until("all are online", rig.is_all_online, BACK_S)
        result.notes.append(
            f"{node.name}: ended in {took_s:.1f} s, ready again {waited_s:.1f} s later"
        )


async def revocation(rig: Rig, result: Result) -> None:
    """One node is told; devices on all of them hear it. Nothing of theirs is under way."""
    await asyncio.sleep(rig.seconds / 3)
    chosen = {name for node in rig.nodes for name in sorted(rig.on_node(node))[:2]}
    await rig.settle()
    told: dict[str, float] = {}
    for name in sorted(chosen):
        answer = await asyncio.to_thread(
            rig.nodes[0].ask, f"/api/v1/devices/{name}/revoke", rig.token, {}, 10.0
        )
        if answer is None or "problem" in answer:
            result.faults.append(f"revoke {name}: {answer}")
        told[name] = time.time()
    ended: dict[str, float] = {}

    def is_over() -> bool:
        for at, name, is_up, why in rig.events(min(told.values())):
            if not is_up and name in told and why == "Rejected":
                ended.setdefault(name, max(0.0, at - told[name]))
        return told.keys() <= ended.keys()

    await until("all who were revoked have heard it", is_over, 30.0)
    most = max(ended.values())
    result.notes.append(
        f"{len(told)} devices heard of it at most {most:.1f} s after the answer, one node was told"
    )
    if most > REVOKED_S:
        result.faults.append(f"a revocation took {most:.1f} s")
    rig.devices -= len(told)  # and nobody is told to go on: theirs would wait for ever


def _has_many(rig: Rig) -> bool:
    return rig.database is not None


# The revocation is the last: its devices do not come back.
SCENES = {
    scene.name: scene
    for scene in (
        Scene("steady", steady),
        Scene("commands", commands),
        Scene("kill -9", kill),
        Scene("frozen, and woken", freeze, _has_many),
        Scene("cut from the database", cut_database, _has_many),
        Scene("cut from the broker", cut_broker),
        Scene("rolling restart", rolling),
        Scene("revocation", revocation),
    )
}
