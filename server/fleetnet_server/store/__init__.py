"""The embedded store: one SQLite file, group commit, and queries over it."""
