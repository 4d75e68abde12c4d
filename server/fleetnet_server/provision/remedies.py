"""What to do when a board's self-test fails, by the class of its error."""

_REMEDIES = {
    "Unreachable": "Does the server run, and does the board have a network? A program of the "
    "board's own must bring it up before the test. Do host and ports in config.json lead there?",
    "HandshakeTimeout": "Something swallows the packets: a firewall, a wrong port, or UDP that "
    "does not pass (\"transport\": \"tls\" or \"auto\" in config.json).",
    "LinkClosed": "The server ended it: its log names the device and the reason.",
    "WrongCA": "The bundle is of another fleet than the server: install with --device NAME and "
    "the -C of this server's fleet.",
    "WrongName": "The server's certificate lacks the name in server_hostname of config.json: "
    "`fleetnet init --host NAME` says which names it carries.",
    "WrongPin": "The server has another key than the pins of config.json say: add the device's "
    "bundle anew.",
    "CertificateExpired": "Issue the server a new certificate, or set the board's clock.",
    "CertificateNotYetValid": "The board's clock is not set: let the installer set it (without "
    "--no-clock), or give the bundle pins, which need no date.",
    "Rejected": "`fleetnet device list` shows whether the server knows the device and whether it "
    "is enabled.",
    "CredentialError": "Install the credentials again with --device NAME.",
    "Unsupported": "Update the firmware, or choose another transport in config.json.",
    "MemoryError": "Too little memory: install .mpy files instead of sources, leave parts out, or "
    "freeze the library into the firmware (manifest.py).",
    "ImportError": "A part is missing: install without --parts, or name it there.",
}


def remedy_for(error: str) -> str:
    """Return a sentence for an error class named by the device."""
    return _REMEDIES.get(error, "See docs/errors.md; the server's log may say more.")
