"""MQTT 3.1.1 over mutual TLS or a pre-shared key: publishes with QoS 1, which the broker answers.

    mqtt_publish.py HOST PORT NAME CA CERT KEY
    mqtt_publish.py HOST PORT IDENTITY HEXKEY

Source: OASIS MQTT 3.1.1, sections 2 and 3. For a broker that is there already; Device keeps and
resends what this program would lose.
"""

import asyncio
import binascii
import struct
import sys

from fleetnet import ProtocolError, client_context, open_connection

CLIENT = "cam-01"
TOPIC = "cam-01/temperature"
PAYLOADS = (b"20.5", b"20.6", b"20.7")
KEEPALIVE_S = 60
ANSWER_S = 10

CONNACK = 0x20
PUBACK = 0x40
PINGRESP = 0xD0


def text(value):
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def packet(kind, body=b""):
    """Return a packet; its size goes in 7 bits a byte, low first (section 2.2.3)."""
    size = len(body)
    head = bytearray([kind])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head) + body


class Publisher:
    """One clean session that publishes and never subscribes."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer
        self.number = 0

    async def say(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, kind, size):
        """Wait for a packet of this kind; a publisher gets none of another."""
        head = await asyncio.wait_for(self.reader.readexactly(2), ANSWER_S)
        if head[0] != kind or head[1] != size:
            raise ProtocolError("the broker sent packet 0x%02x of %d B" % (head[0], head[1]))
        return await asyncio.wait_for(self.reader.readexactly(size), ANSWER_S)

    async def connect(self, client):
        options = struct.pack(">BBH", 4, 2, KEEPALIVE_S)  # protocol level 3.1.1, clean session
        await self.say(packet(0x10, text("MQTT") + options + text(client)))
        code = (await self.answer(CONNACK, 2))[1]
        if code:
            raise ProtocolError("the broker refuses: return code %d (section 3.2.2.3)" % code)

    async def publish(self, topic, payload):
        self.number = self.number % 65535 + 1
        number = struct.pack(">H", self.number)
        await self.say(packet(0x32, text(topic) + number + payload))
        if await self.answer(PUBACK, 2) != number:
            raise ProtocolError("the broker acknowledges another message")

    async def ping(self):
        await self.say(packet(0xC0))
        await self.answer(PINGRESP, 0)

    async def disconnect(self):
        await self.say(packet(0xE0))


def credentials(*given):
    """Return (context, name to verify); without a name: a pre-shared key."""
    if len(given) == 2:
        return client_context(psk=(given[0], binascii.unhexlify(given[1]))), None
    return client_context(*given[1:]), given[0]


async def main(host, port, *given):
    context, name = credentials(*given)
    reader, writer = await open_connection(host, int(port), ssl=context, server_hostname=name)
    async with writer:
        broker = Publisher(reader, writer)
        await broker.connect(CLIENT)
        for payload in PAYLOADS:
            await broker.publish(TOPIC, payload)
        await broker.ping()
        await broker.disconnect()
        print("%d messages acknowledged, %s" % (len(PAYLOADS), writer.cipher()[0]))


asyncio.run(main(*sys.argv[1:]))
