"""Devices that do not keep to their group's policy, over real links."""

from pathlib import Path

from fail_closed.guest import Guest, bundle_of, make_fleet
from fleetnet.frame import READINGS
from fleetnet_server.app import Backend
from fleetnet_server.core.live import Watcher

BEGIN = 1_800_000_000_000


def readings(channel: str, value: str) -> bytes:
    return f'[{BEGIN},0,["{channel}"],[[0,0,{value}]]]'.encode()


async def hear(policy: str, bodies: list[bytes], folder: Path) -> tuple[Watcher, int]:
    """Send best-effort readings, then a readable one; return who watched and what was refused."""
    settings = make_fleet(folder, "cam-1")
    (folder / "policy.toml").write_text(policy)
    async with Backend(folder, settings) as backend:
        watcher = backend.live.watch()
        async with Guest(backend, bundle_of(folder, "cam-1")) as guest:
            await guest.until_answered()
            for body in bodies:
                assert guest.session.send_live(1, READINGS, body)
                guest.flush()
            # Behind them on the same link: when this is stored, all of them were heard.
            guest.say(1, READINGS, readings("temp", "0"))
            await guest.until(lambda: backend.router.stored == 1, "stored")
        return watcher, backend.live.refused


async def test_best_effort_is_no_way_round_the_size(tmp_path: Path) -> None:
    small, large = readings("temp", "1"), readings("temp", '"' + "x" * 200 + '"')
    policy = "[group.default]\nmax_message = 100\n"
    watcher, refused = await hear(policy, [small, large, small], tmp_path / "fleet")
    assert (len(watcher._waiting), refused) == (2, 1)


async def test_best_effort_is_no_way_round_the_rate(tmp_path: Path) -> None:
    policy = "[group.default]\nmax_rate = 5\n"
    bodies = [readings("temp", str(number)) for number in range(100)]
    watcher, refused = await hear(policy, bodies, tmp_path / "fleet")
    assert 4 <= len(watcher._waiting) <= 15
    assert len(watcher._waiting) + refused == 100
