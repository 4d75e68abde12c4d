"""A device loses its power and comes back: a new epoch, and one live session."""

import asyncio
from pathlib import Path

from end_to_end.device_process import until
from end_to_end.fleet import Fleet, name_of, runtimes
from end_to_end.store_check import faults_of_keys
from fleetnet_server.app import Backend
from fleetnet_server.config import Settings
from fleetnet_server.store.query import query
from interpreters import Interpreter


async def test_device_that_loses_power(tmp_path: Path) -> None:
    """With the server in this process, so that its table of sessions can be looked into."""
    fleet = Fleet(tmp_path / "fleet")
    settings = Settings(bind="127.0.0.1", tls_port=fleet.tls[1], dtls_port=fleet.dtls[1])
    try:
        async with Backend(fleet.folder, settings) as backend:
            await asyncio.gather(
                *(
                    lose_power(fleet, backend, link, runtime)
                    for runtime in runtimes()
                    for link in ("tls", "dtls")
                )
            )
            await until(
                lambda: (
                    not (
                        backend.sessions.live
                        or backend.tls.connections
                        or backend.dtls.acceptor.associations
                    )
                ),
                "neither a session nor a link is left over",
            )
    finally:
        await fleet.close()
    assert faults_of_keys(fleet.store) == []


async def lose_power(
    fleet: Fleet, backend: Backend, link: str, runtime: Interpreter | None
) -> None:
    """One device: it dies without a word on the wire, and starts again from nothing."""
    name = f"{link}-{name_of(runtime)}"
    first = await fleet.start_device(name, link, runtime)
    await first.until_acknowledged(10)
    registered = backend.store.lookup(name)
    assert registered is not None
    old = backend.sessions.live[registered.id]
    # Stopped before it is killed: else the kernel would end its connection in good order.
    first.freeze()

    second = await fleet.start_device(name, link, runtime)
    await second.until_acknowledged(1)
    new = backend.sessions.live[registered.id]
    assert new is not old, f"{name}: the session of the old link is still the live one"
    assert not old.is_open
    assert new.epoch_id != old.epoch_id
    await first.kill()
    await second.until_acknowledged(10)
    assert backend.sessions.live[registered.id] is new, f"{name}: the old link's end ended it"
    await second.finish()

    by_epoch: dict[str, list[int]] = {}
    for reading in query(fleet.store, name, "count"):
        by_epoch.setdefault(reading.epoch, []).append(reading.value)
    assert len(by_epoch) == 2, by_epoch.keys()
    before, after = by_epoch.values()
    # Each life's readings once and in order; of the first one what was acknowledged, at least.
    assert before == list(range(len(before)))
    assert 2 * len(before) >= first.counter("acknowledged") - 1
    assert after == list(range(second.counter("sent") // 2))
    assert second.counter("sent") == second.counter("acknowledged")
