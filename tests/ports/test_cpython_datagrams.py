"""open_datagram of the CPython port over real sockets."""

import asyncio
import contextlib

import pytest

from fleetnet.errors import LinkClosed, Rejected, Unreachable
from fleetnet.ports.cpython import Datagrams, client_context, open_datagram, server_context
from fleetnet_server.net.dtls import DtlsListener
from listening import HOST, Echo, device, echoing
from pki import Pki


async def test_datagrams_both_ways(pki: Pki) -> None:
    async with echoing(pki) as port:
        link = await open_datagram(HOST, port, device(pki, datagram=True))
        assert link.verified and link.cipher()[1] == "DTLSv1.2"
        assert link.peer_certificate() == pki.server.certificate
        assert link.recv() is None
        assert await link.receive(20) is None
        full = bytes(link.max_payload)
        assert link.send(full)
        assert await link.receive(30_000) == full
        with pytest.raises(ValueError, match="limit 1150"):
            link.send(full + b"x")
        link.close()
        link.close()
        for call in (lambda: link.send(b"x"), link.recv):
            with pytest.raises(LinkClosed):
                call()
        with pytest.raises(LinkClosed):
            await link.receive(10)


async def waiting(link: Datagrams) -> asyncio.Task[bytes | None]:
    task = asyncio.create_task(link.receive(30_000))
    await asyncio.sleep(0.02)
    return task


async def test_a_datagram_link_ends_in_every_way(pki: Pki) -> None:
    async with echoing(pki) as port:
        link = await open_datagram(HOST, port, device(pki, datagram=True))
        task = await waiting(link)
        link.close()
        with pytest.raises(LinkClosed):
            await task

        link = await open_datagram(HOST, port, device(pki, datagram=True))
        task = await waiting(link)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        link.send(b"still fine")
        assert await link.receive(30_000) == b"still fine"
        link.send(b"bye")
        with pytest.raises(LinkClosed, match="closed"):
            await link.receive(30_000)

        gone = await open_datagram(HOST, port, device(pki, datagram=True))
    with pytest.raises(LinkClosed):
        await gone.receive(30_000)


async def test_a_server_that_vanished_is_unreachable(pki: Pki) -> None:
    context = server_context(*pki.server, pki.ca.certificate, datagram=True)
    listener = DtlsListener(context, lambda t, _c: Echo(t), lambda *_: None)
    await listener.start(HOST, 0)
    link = await open_datagram(HOST, listener.port, device(pki, datagram=True))
    assert listener._sock is not None
    listener._loop.remove_reader(listener._sock.fileno())
    listener._sock.close()
    listener._sock = None
    link.send(b"x")
    with pytest.raises(Unreachable):
        await link.receive(30_000)


async def test_a_closed_link_leaves_its_number_to_others(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader is gone from the loop before the socket's number is free for reuse."""
    # Without OpenSSL's timer, which would wake a link whose reader was taken from it.
    monkeypatch.setattr(Datagrams, "timeout", lambda _link: None)
    async with echoing(pki) as port:
        for _ in range(5):
            link = await open_datagram(HOST, port, device(pki, datagram=True))
            task = await waiting(link)
            link.send(b"x")
            while link._ready is not None and not link._ready.done():
                await asyncio.sleep(0)
            link.close()
            with contextlib.suppress(LinkClosed):
                await task
            again = await open_datagram(HOST, port, device(pki, datagram=True), timeout_ms=30_000)
            again.send(b"y")
            assert await again.receive(30_000) == b"y"
            again.close()


async def test_a_refused_device_is_told_over_echoing(pki: Pki) -> None:
    async with echoing(pki) as port:
        context = client_context(pki.ca.certificate, *pki.device_of_other_ca, datagram=True)
        with pytest.raises(Rejected) as caught:
            await open_datagram(HOST, port, context)
        assert caught.value.alert == 48
