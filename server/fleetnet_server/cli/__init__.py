"""The command `fleetnet`. Importing this package imports nothing else."""
