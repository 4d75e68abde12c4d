"""The one room where the runtimes differ: MicroPython's tls module, CPython's OpenSSL.

Everything else imports ``port`` from here and uses the same names on both:

    ticks()                                   ms, see fleetnet.ticks
    sleep_ms(ms), wait_for_ms(awaitable, ms)  wait_for_ms raises asyncio.TimeoutError
    random_bytes(n), unix_ms(), platform_text()
    client_context(...), server_context(...)  see fleetnet.streams
    open_stream(...), listen(...), open_datagram(...)
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import fleetnet.ports.cpython as port
elif sys.implementation.name == "micropython":
    from fleetnet.ports import micropython as port
else:
    import fleetnet.ports.cpython as port

__all__ = ["port"]
