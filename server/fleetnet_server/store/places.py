"""Where a store is: a file of SQLite, or a database of PostgreSQL (store_place.py)."""

from fleetnet_server.store_place import PostgresPlace, StorePlace

__all__ = ["PostgresPlace", "StorePlace"]
