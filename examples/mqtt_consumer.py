"""Reads what the bridge sends, each reading once: docs/mqtt.md.

    mqtt_consumer.py HOST PORT [COUNT]

The bridge sends again what a broker or a server lost the answer for. The user properties of a
message name it for good; here the newest number of each stream is kept, as messages of one
stream come in order. A program that stores readings keeps that number in the same transaction.
"""

import asyncio
import json
import sys

import aiomqtt


async def main(host, port, count=None):
    newest = {}  # (device, epoch, stream) -> seq
    repeats = readings = 0
    async with aiomqtt.Client(host, int(port), protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe("fleetnet/+/readings", qos=1)
        print("subscribed", flush=True)
        async for message in client.messages:
            name = dict(message.properties.UserProperty)
            stream, seq = (name["device"], name["epoch"], name["stream"]), int(name["seq"])
            if seq <= newest.get(stream, 0):
                repeats += 1
                continue
            newest[stream] = seq
            for one in json.loads(message.payload)["readings"]:
                print(name["device"], one["channel"], one["unix_ms"], one["value"], flush=True)
                readings += 1
            if count is not None and readings >= int(count):
                break
    print("%d readings, %d repeats" % (readings, repeats))


asyncio.run(main(*sys.argv[1:]))
