"""`fleetnet serve --workers N`: several processes that are one server, see supervisor.py."""
