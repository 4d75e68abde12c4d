"""Who gives a command line: the name under which the audit log keeps it."""

import getpass


def actor() -> str:
    """Return "cli:USER"; "cli" for a user without a name, as in containers."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"
