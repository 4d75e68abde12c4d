"""What the bench raises."""

from fleetnet.errors import FleetError


class BenchError(FleetError):
    """The machine could not be measured; the message says what took too long."""
