"""The listeners with pre-shared keys: what a transport tells about its client."""

from typing import Any

import pytest

from fleetnet.errors import FleetError
from fleetnet.ports.cpython import open_datagram, open_stream
from fleetnet.ports.openssl_context import client_context, server_context
from fleetnet_server.net.dtls import DtlsListener
from fleetnet_server.net.tls import TlsListener
from listening import HOST, Handler, until

KEY = bytes(range(16))


@pytest.mark.parametrize("datagram", [False, True], ids=["tls", "dtls"])
async def test_the_identity_is_at_the_transport(datagram: bool) -> None:
    met: list[tuple[bytes | None, bytes]] = []
    refused: list[FleetError] = []

    def accept(transport: Any, certificate: bytes) -> Handler:
        met.append((transport.psk_identity, certificate))
        return Handler(transport, certificate)

    context = server_context(psk={"press-7": KEY}, datagram=datagram)
    make: Any = DtlsListener if datagram else TlsListener
    listener = make(context, accept, lambda kind, address, error: refused.append(error))
    await listener.start(HOST, 0)
    connect: Any = open_datagram if datagram else open_stream
    try:
        for identity, key in (("press-7", KEY), ("press-7", KEY[::-1]), ("press-8", KEY)):
            client = client_context(psk=(identity, key), datagram=datagram)
            try:
                link = await connect(HOST, listener.port, client, timeout_ms=5000)
            except FleetError as error:
                assert "does not hold" in str(error)
                continue
            assert identity == "press-7" and key == KEY
            await until(lambda: met)
            link.close()
        await until(lambda: len(refused) == 2)
    finally:
        listener.close()
    assert met == [(b"press-7", b"")]
    assert "wrong pre-shared key of 'press-7'" in str(refused[0])
    assert "unknown PSK identity 'press-8'" in str(refused[1])
