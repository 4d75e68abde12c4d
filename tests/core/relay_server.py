"""The back-end of relay_world.py: what docs/protocol.md section 15 asks of it, and a store."""

from fleetnet import events, relay
from fleetnet import frame as wire
from fleetnet.acceptor import AcceptorSession, HelloReceived, encode_welcome
from fleetnet.handshake import Ending, Welcome
from fleetnet.ports import port
from fleetnet.receiver import Gap

UNIX_MS = 1_800_000_000_000


class Greeter:
    """The back-end's end of one link, of a hub or of a sensor."""

    def __init__(self, server, who):
        self.server = server
        self.who = who
        self.session = AcceptorSession(port.random_bytes, wall_ms=server.wall_ms)
        self.wire = None
        self.origins = {}  # alias -> [name, epoch, is_good, nonce, is_here]
        self.parked = {}

    def on_event(self, event):
        server = self.server
        if isinstance(event, HelloReceived):
            self._greet(event.hello)
        elif isinstance(event, events.Received) and event.kind == wire.RELAY:
            self._relay(event)
        elif isinstance(event, events.Received):
            key = (self.who.name, self.session.peer_epoch, event.stream, event.seq)
            server.put(self, event.stream, event.seq, key, event.payload)
        elif isinstance(event, Gap):
            server.gaps.append((self.who.name, event.stream, event.first, event.last))
        elif isinstance(event, (events.Closed, events.Refused)):
            self.wire.cut()

    def _greet(self, hello):
        server = self.server
        server.flush()
        welcome = Welcome()
        welcome.session_id, welcome.capabilities = b"12345678", 0x0F
        marks = server.marks(self.who.name, hello.epoch)
        if server.hubs_of(self.who.name):
            for stream, (oldest, _) in hello.streams.items():
                marks[stream] = max(marks.get(stream, 0), oldest - 1)
        if self.who.name in server.revoked:
            self.session.refuse(8)
            return
        server.links[self.who.name] = self
        self.session.welcome(welcome, hello, marks, server.world.now)

    def _relay(self, event):
        alias, kind, stream, seq, body = relay.decode_relay(event.payload)
        if kind == wire.HELLO:
            self._announced(alias, relay.decode_announcement(body))
            for number in list(self.parked):
                waiting = self.parked.pop(number)
                for each in waiting:
                    self._relay(each)
        elif kind == wire.BYE:
            self.origins[alias][4] = False
            self.say(alias, wire.BYE_ACK, body)
        elif event.stream in self.parked or alias not in self.origins:
            if event.stream not in self.parked:
                self.server.world.at(self.server.world.now + 15_000, self._give_up, event.stream)
            self.parked.setdefault(event.stream, []).append(event)
        else:
            name, epoch, is_good = self.origins[alias][:3]
            key = (name, epoch, stream, seq) if is_good else None
            self.server.put(self, event.stream, event.seq, key, body)

    def _give_up(self, stream):
        """Nobody announced these: they are dropped."""
        waiting = self.parked.pop(stream, [])
        while waiting and relay.decode_relay(waiting[0].payload)[0] not in self.origins:
            event = waiting.pop(0)
            self.server.put(self, event.stream, event.seq, None, b"")
        for event in waiting:
            self._relay(event)

    def _announced(self, alias, told):
        server = self.server
        reason = 0
        if self.who.name not in server.hubs_of(told.name):
            reason = 6
        elif told.name in server.revoked:
            reason = 8
        self.origins[alias] = [
            told.name, told.hello.epoch, not reason, told.hello.nonce, told.age_ms is not None,
        ]  # fmt: skip
        if reason:
            body = relay.with_nonce(Ending(reason).to_payload(), told.hello.nonce)
            self.say(alias, wire.REFUSE, body)
            return
        server.flush()
        welcome = Welcome()
        welcome.epoch = welcome.peer_epoch = told.hello.epoch
        welcome.nonce, welcome.capabilities = told.hello.nonce, 3
        welcome.resume = server.marks(told.name, told.hello.epoch)
        self.say(alias, wire.WELCOME, encode_welcome(welcome))

    def cut_off(self):
        pass

    def say(self, alias, kind, body):
        payload = relay.encode_relay(alias, kind, 0, 0, body)
        self.session._link.say(wire.RELAY, payload)
        self.server.world.at(self.server.world.now, self.wire.pump, 1)

    def send(self, alias, kind, stream, body):
        payload = relay.encode_relay(alias, kind, stream, 0, body)
        self.session.send(relay.RELAYED_FIRST, wire.RELAY, payload)
        self.server.world.at(self.server.world.now, self.wire.pump, 1)


class Server:
    """The back-end: a store that survives, and links that do not."""

    def __init__(self, world):
        self.world = world
        self.is_down = False
        self.rows = {}
        self.doubles = 0
        self.gaps = []
        self.carried = {}
        self.assigned = {}  # sensor -> hubs
        self.revoked = set()
        self.links = {}
        self.pending = []

    def wall_ms(self):
        return UNIX_MS + self.world.now

    def hubs_of(self, name):
        return self.assigned.get(name, ())

    def answer(self, who):
        made = Greeter(self, who)
        return made

    def put(self, link, stream, seq, key, payload):
        if not self.pending:
            self.world.at(self.world.now + 10, self.flush)
        self.pending.append((link, stream, seq, key, payload))

    def flush(self):
        """Commit what waits, in order, and acknowledge it."""
        pending, self.pending = self.pending, []
        for link, stream, seq, key, payload in pending:
            if key is not None:
                if key in self.rows:
                    assert self.rows[key] == payload, "one number, two messages: %r" % (key,)
                    self.doubles += 1
                self.rows[key] = payload
            mark = (link.who.name, link.session.peer_epoch, stream)
            self.carried[mark] = max(seq, self.carried.get(mark, 0))
            link.session.acknowledge(stream, seq, self.world.now)
            self.world.at(self.world.now, link.wire.pump, 1)

    def marks(self, name, epoch):
        found = {}
        for key in self.rows:
            if key[:2] == (name, epoch):
                found[key[2]] = max(found.get(key[2], 0), key[3])
        for (who, mine, stream), seq in self.carried.items():
            if (who, mine) == (name, epoch):
                found[stream] = max(found.get(stream, 0), seq)
        return found

    def kill(self, down_ms):
        self.pending = []
        self.is_down = True
        for link in self.links.values():
            link.wire.cut()
        self.links = {}
        self.world.at(self.world.now + down_ms, self._up)

    def _up(self):
        self.is_down = False

    def payloads(self, sensor, stream):
        """What the store has of a sensor's stream, in order of its numbers."""
        keys = sorted([k for k in self.rows if k[0] == sensor.name and k[2] == stream])
        return [self.rows[key] for key in keys]
