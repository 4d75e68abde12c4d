"""The HTTP side of the server: API, events, metrics; docs/api.md."""
