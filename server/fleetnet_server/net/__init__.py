"""Listeners: they end TLS and DTLS, and know nothing of sessions or devices."""
