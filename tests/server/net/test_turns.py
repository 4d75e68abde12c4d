"""One connection among many: whatever it sends, the others get their turn."""

import asyncio

import uvloop

from listening import device, serving, until
from pki import Pki

# Of plain text: what is taken, without the records' heads.
TURN = 32_768

SENT = 8 << 20


def pattern(start: int, length: int) -> bytes:
    """Bytes that tell where they belong."""
    first = start % 251
    return (bytes(range(251)) * ((length + first) // 251 + 1))[first : first + length]


async def largest_turn(pki: Pki) -> int:
    """A client sends as fast as it can; return the most bytes taken in one turn of the loop."""
    turns = [0]
    taken = 0
    loop = asyncio.get_running_loop()

    def tick() -> None:
        turns.append(0)
        if taken < SENT:
            loop.call_soon(tick)

    def take(data: bytes) -> None:
        nonlocal taken
        taken += len(data)
        turns[-1] += len(data)
        assert data == pattern(taken - len(data), len(data)), "nothing is lost or out of order"

    async with serving(pki, "tls") as server:
        stream = await server.open(device(pki))
        await until(lambda: server.handlers)
        server.handlers[0].receive_data = take  # type: ignore[method-assign]
        # Before the server looks: what waits in the kernel could be read at once.
        stream.write(pattern(0, SENT))
        loop.call_soon(tick)
        await until(lambda: taken == SENT, 30)
        stream.close()
        await stream.wait_closed()
    return max(turns)


def test_no_connection_holds_the_loop_of_the_server(pki: Pki) -> None:
    """On the loop that `fleetnet serve` runs on; without the turns it is all that waits, 4 MB."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        most = runner.run(largest_turn(pki))
    assert most <= TURN, most


async def test_nor_that_of_asyncio(pki: Pki) -> None:
    assert await largest_turn(pki) <= TURN


async def test_what_waits_for_its_turn_goes_with_the_connection(pki: Pki) -> None:
    """A handler that ends the link within the first turn hears nothing of the others."""
    async with serving(pki, "tls") as server:
        stream = await server.open(device(pki))
        await until(lambda: server.handlers)
        handler = server.handlers[0]
        heard: list[int] = []

        def take(data: bytes) -> None:
            heard.append(len(data))
            handler.transport.abort()

        handler.receive_data = take  # type: ignore[method-assign]
        stream.write(bytes(1 << 20))
        await until(lambda: heard)
        await until(lambda: not server.listener.connections)
        await asyncio.sleep(0)
        assert len(heard) == 1
        stream.abort()
