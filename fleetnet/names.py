"""What a program gets from ``import fleetnet``, by name; loaded when it asks for one of these.

A device that sends readings never does.
"""

# Strings, as a dict of them costs a board 300 B more. The other capitalized ones are errors.
_HOMES = (
    ("session", "Session"),
    ("streams", "client_context open_connection open_dtls serve_dtls server_context start_server"),
    ("wrapping", "CERT_NONE CERT_OPTIONAL CERT_REQUIRED wrap_socket"),
)


def find(name: str) -> object:
    """Return what ``fleetnet.<name>`` is. Raises AttributeError."""
    home = "errors" if name[0].isupper() else ""
    for module_name, names in _HOMES:
        if name in names.split():
            home = module_name
    if not home:
        raise AttributeError("fleetnet has no %r" % name)
    return getattr(__import__("fleetnet." + home, None, None, (name,)), name)
