"""Fleets made for the occasion: real device programs, as processes of this machine.

The one room of the server that may run the device library.
"""
