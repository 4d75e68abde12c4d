"""A clock that moves only when somebody sleeps; for parts that keep time. Both interpreters."""


class Enough(Exception):
    """The time that a test asked for is over."""


class VirtualPort:
    """In place of fleetnet.ports.port: ``now`` in ms, ``sleep_ms`` moves it."""

    def __init__(self, end_ms, start=0):
        self.now = start
        self._left = end_ms
        self.slept = []

    def ticks(self):
        return self.now & 0x3FFFFFFF

    def pass_ms(self, ms):
        """Something takes so long."""
        self.now += ms
        self._left -= ms

    async def sleep_ms(self, ms):
        self.slept.append(ms)
        self.pass_ms(ms)
        if self._left <= 0:
            raise Enough()


def run(coroutine):
    """Run a coroutine that only sleeps virtually, to its end; Enough is an end."""
    try:
        while True:
            coroutine.send(None)
    except (StopIteration, Enough):
        pass
