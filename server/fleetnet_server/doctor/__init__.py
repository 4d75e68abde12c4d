"""`fleetnet doctor`: what keeps a device from its server, and what helps. See docs/doctor.md."""
