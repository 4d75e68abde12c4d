"""One connection through fleetnet.streams; run by MicroPython (1.25 and newer) and CPython.

    stream_client.py TASK FILE

FILE holds JSON: {"port", "ca", "cert", "key", "name", "insecure"}; all but ``port`` may be
left out. A file, because an argument above 255 B ends MicroPython before it runs anything.
Prints one JSON line: {"result": ...} or {"error": class, "alert": number or null, "text"}.
The name of a task is that of its function.
"""

import asyncio
import binascii
import hashlib
import json
import socket
import sys

from fleetnet.ports import port
from fleetnet.streams import client_context, open_connection

TIMEOUT_MS = 20_000
# Above what Linux keeps for one connection (tcp_wmem, 4 MB): the writer must wait.
BULK_BYTES = 8_000_000
# Above a TLS record (16 KiB), so that a full pipe cuts pieces, too.
BULK_PIECE = bytes(range(250)) * 160


def context_of(options):
    if options.get("plain"):
        return None
    return client_context(
        options.get("ca"),
        options.get("cert"),
        options.get("key"),
        insecure=bool(options.get("insecure")),
    )


async def connect(options):
    stream, _ = await open_connection(
        "127.0.0.1",
        options["port"],
        context_of(options),
        options.get("name") or "localhost",
        TIMEOUT_MS,
    )
    return stream


async def load(options):
    """Only make the context."""
    context_of(options)
    return "loaded"


async def greet(options):
    """Say a line, hear a line."""
    async with await connect(options) as stream:
        stream.write(b"hello\n")
        await stream.drain()
        line = await stream.readline()
        cipher = stream.cipher()
        return [line.decode(), stream.verified, cipher[1] if cipher else None]


async def listen_first(options):
    """Hear a line before anything was written."""
    async with await connect(options) as stream:
        return (await stream.readline()).decode()


async def give_up_reading(options):
    """Give up on four bytes when two are there; the rest is asked for then."""
    async with await connect(options) as stream:
        stream.write(b"start\n")
        await stream.drain()
        timeouts = 0
        for _ in range(3):
            try:
                await port.wait_for_ms(stream.readexactly(4), 100)
            except asyncio.TimeoutError:  # noqa: UP041 (MicroPython has no other)
                timeouts += 1
        stream.write(b"more\n")
        await stream.drain()
        return [timeouts, (await stream.readexactly(4)).decode()]


async def give_up_writing(options):
    """Give up on drain() again and again while the peer does not read."""
    async with await connect(options) as stream:
        stream.write(b"start\n")
        await stream.drain()
        for _ in range(BULK_BYTES // len(BULK_PIECE)):
            stream.write(BULK_PIECE)
        timeouts = 0
        while True:
            try:
                await port.wait_for_ms(stream.drain(), 30)
                break
            except asyncio.TimeoutError:  # noqa: UP041 (MicroPython has no other)
                timeouts += 1
        return [timeouts > 0, (await stream.readline()).decode()]


async def wait_longer_than_the_handshake(options):
    """The peer says nothing for longer than the handshake may take."""
    stream, _ = await open_connection(
        "127.0.0.1", options["port"], context_of(options), "localhost", options["handshake_ms"]
    )
    async with stream:
        return (await stream.readline()).decode()


async def close_under_a_reader(options):
    """One task closes while another waits for bytes; reading goes on to be the end of file."""
    stream = await connect(options)
    stream.write(b"start\n")
    await stream.drain()
    reader = asyncio.create_task(stream.read(10))
    await port.sleep_ms(100)
    stream.close()
    return [(await reader).decode(), (await stream.read(10)).decode()]


async def give_up_reading_beside_a_writer(options):
    """Reads time out again and again while another task waits for room."""
    async with await connect(options) as stream:
        stream.write(b"start\n")
        await stream.drain()
        writer = asyncio.create_task(send_bulk(stream))
        timeouts = 0
        for _ in range(4):
            try:
                await port.wait_for_ms(stream.read(1), 100)
            except asyncio.TimeoutError:  # noqa: UP041 (MicroPython has no other)
                timeouts += 1
        await port.wait_for_ms(writer, TIMEOUT_MS)
        return [timeouts, (await stream.readline()).decode()]


async def give_up_writing_beside_a_reader(options):
    """drain() times out while another task waits for bytes."""
    stream = await connect(options)
    stream.write(b"start\n")
    await stream.drain()
    reader = asyncio.create_task(stream.readline())
    await port.sleep_ms(10)
    try:
        await port.wait_for_ms(send_bulk(stream), 100)
    except asyncio.TimeoutError:  # noqa: UP041 (MicroPython has no other)
        pass
    line = await port.wait_for_ms(reader, TIMEOUT_MS)
    stream.close()
    return line.decode()


async def close_and_open_another(options):
    """Close under a reader; another socket has the same number before the loop looks."""
    stream = await connect(options)
    stream.write(b"start\n")
    await stream.drain()
    reader = asyncio.create_task(stream.read(10))
    await port.sleep_ms(100)
    stream.close()
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    data = await port.wait_for_ms(reader, TIMEOUT_MS)
    silent.close()
    return data.decode()


async def end_early(options):
    """Ask for more than the peer sends before it closes."""
    async with await connect(options) as stream:
        stream.write(b"start\n")
        await stream.drain()
        try:
            await stream.readexactly(99)
        except EOFError:
            return [(await stream.read()).decode(), (await stream.read(1)).decode()]


async def write_behind_the_end(options):
    """The peer says that it has no more to say, and listens on; the end stays the end."""
    async with await connect(options) as stream:
        stream.write(b"start\n")
        await stream.drain()
        heard = [(await stream.readline()).decode(), (await stream.read()).decode()]
        heard.append((await port.wait_for_ms(stream.read(1), TIMEOUT_MS)).decode())
        await port.sleep_ms(100)  # the peer has left its TLS layer by then
        stream.write(b"still here\n")
        await stream.drain()
        return heard


async def bulk(options):
    """Send and receive at once; several writes for each drain."""
    async with await connect(options) as stream:
        sent = asyncio.create_task(send_bulk(stream))
        digest = hashlib.sha256()
        count = 0
        while count < BULK_BYTES:
            data = await stream.read(min(4096, BULK_BYTES - count))
            if not data:
                break
            digest.update(data)
            count += len(data)
        await sent
        # The peer's last word: it has everything.
        told = await stream.readline()
        return [count, binascii.hexlify(digest.digest()).decode(), told.decode()]


async def send_bulk(stream):
    for index in range(BULK_BYTES // len(BULK_PIECE)):
        stream.write(BULK_PIECE)
        if index % 4 == 3:
            await stream.drain()
    await stream.drain()


async def main(task, options):
    try:
        answer = {"result": await globals()[task](options)}
    except Exception as error:
        alert = getattr(error, "alert", None)
        answer = {"error": type(error).__name__, "alert": alert, "text": str(error)}
    print(json.dumps(answer))


with open(sys.argv[2]) as file:
    given = json.load(file)
asyncio.run(main(sys.argv[1], given))
