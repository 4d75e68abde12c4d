"""P10's peer, run by real MicroPython: a publisher of MQTT 3.1.1, QoS 1, over TLS.

    micropython mqtt_device.py BUNDLE PORT READINGS MESSAGES PAUSE_MS

READINGS a message: 1: the value alone, its channel in the topic, without a time; 20: the body
that fleetnet sends. As umqtt.simple does it: PUBLISH, then wait for its PUBACK (OASIS MQTT 3.1.1,
section 4.3.2); one write a packet, nothing else imported. The certificates are those of a bundle.
Prints and waits like wire_device.py.
"""

import gc
import json
import socket
import sys
import time

import tls

VALUE = '"xxxxxxxxxxxxxxxxxx"'
CONNACK = 0x20
PUBACK = 0x40


def text(data):
    return len(data).to_bytes(2, "big") + data


def packet(kind, body):
    length = len(body)
    out = bytearray((kind,))
    while True:
        length, low = divmod(length, 128)
        out.append(low | 0x80 if length else low)
        if not length:
            return bytes(out) + body


class Client:
    """One connection."""

    def __init__(self, bundle, number, name):
        context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
        context.verify_mode = tls.CERT_REQUIRED
        context.load_verify_locations(read(bundle + "/ca.der"))
        context.load_cert_chain(read(bundle + "/cert.der"), read(bundle + "/key.der"))
        plain = socket.socket()
        plain.connect(socket.getaddrinfo("127.0.0.1", number)[0][-1])
        self.sock = context.wrap_socket(plain, server_hostname="localhost")
        self.identifier = 0
        # MQTT, level 4, clean session, keepalive 60 s.
        self.sock.write(packet(0x10, text(b"MQTT") + b"\x04\x02\x00\x3c" + text(name)))
        answer = self.take(4)
        if answer[0] != CONNACK or answer[3]:
            raise RuntimeError("the broker refused: " + repr(answer))

    def take(self, count):
        data = b""
        while len(data) < count:
            more = self.sock.read(count - len(data))
            if not more:
                raise OSError("the broker closed the connection")
            data += more
        return data

    def publish(self, topic, payload):
        """Return when the broker has acknowledged it."""
        self.identifier = self.identifier % 65535 + 1
        identifier = self.identifier.to_bytes(2, "big")
        self.sock.write(packet(0x32, text(topic) + identifier + payload))
        answer = self.take(4)
        if answer[0] != PUBACK or answer[2:] != identifier:
            raise RuntimeError("the broker said " + repr(answer))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def message(readings, number):
    """Return topic behind the device's name, and payload."""
    if readings == 1:
        return b"/temperature", VALUE.encode()
    base = 1_700_000_000_000 + 1000 * readings * number
    items = ",".join([f"[0,{1000 * index},{VALUE}]" for index in range(readings)])
    return b"", f'[{base},0,["temperature"],[{items}]]'.encode()


def main(bundle, number, readings, messages, pause_ms):
    name = bundle.rsplit("/", 1)[-1].encode()
    client = Client(bundle, number, name)
    channel, payload = message(readings, 0)
    client.publish(name + channel, payload)
    print(json.dumps({"at": "first"}))
    sys.stdin.readline()
    for index in range(messages):
        channel, payload = message(readings, 1 + index)
        client.publish(name + channel, payload)
        time.sleep_ms(pause_ms)
    gc.collect()
    done = {"at": "last", "readings": messages * readings, "mem_alloc": gc.mem_alloc()}
    print(json.dumps(done))
    sys.stdin.readline()


main(sys.argv[1], *[int(each) for each in sys.argv[2:6]])
