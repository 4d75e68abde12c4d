"""`fleetnet bench`: what this machine bears, measured with real sockets."""
