"""What a refused input is told by; used by the tests of decoders and of the receiver."""

from fleetnet.errors import ProtocolError


def reason(action):
    """Return the reason of the ProtocolError that ``action`` raises, None when it raises none."""
    try:
        action()
    except ProtocolError as error:
        return error.reason
    return None
